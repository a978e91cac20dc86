//! Sequences that once failed, as small as they could be made.

use onlay::vocab::dialect::Prefix;
use onlay::vocab::{Errno, Kind};

use super::check::{Harness, Where};
use super::layers::{Layer, Put};
use super::model::New;
use super::ops::{Data, Op, Target, at};

fn below(entries: &[(&str, Put)]) -> Vec<Layer> {
    vec![entries.iter().map(|(path, put)| (at(path), put.clone())).collect()]
}

fn file(n: usize) -> Put {
    Put::File { data: Data('a', n), mode: 0o755, uid: 0, xattr: false }
}

const DIR: Put = Put::Dir { mode: 0o755, uid: 0, opaque: false };

fn make(path: &str, kind: Kind) -> Op {
    Op::Make(at(path), New { kind, mode: 0o755, rdev: 0, uid: 0, gid: 0, umask: 0, target: Vec::new() })
}

fn path(path: &str) -> Target {
    Target::Path(at(path))
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename(at(from), at(to), 0)
}

/// Runs the operations, and all again with the last one hit by a fault on its n-th change, for every n.
fn run(layers: &[Layer], prefix: Prefix, ops: &[Op]) {
    for place in [Where::Apart, Where::Together, Where::Disk] {
        let mut h = Harness::new(layers, place, prefix);
        ops.iter().for_each(|op| h.run(op));
        h.check();
    }
    for n in 1..20 {
        let mut h = Harness::new(layers, Where::Apart, prefix);
        h.faulty = true;
        for (i, op) in ops.iter().enumerate() {
            h.fault = (i + 1 == ops.len()).then_some((n, Errno::NOSPC));
            h.run(op);
        }
        h.fault = None;
        h.check();
    }
}

/// The listing told the upper's own number of a symlink that can't carry the one it had.
#[test]
fn a_listing_tells_the_number_of_what_cannot_be_marked() {
    run(&below(&[("a", Put::Symlink)]), Prefix::User, &[Op::Link(path("a"), at("a"))]);
}

/// The cache of listings subtracted more than it had added.
#[test]
fn a_listing_that_grew_can_be_dropped() {
    let mut ops = vec![make("a", Kind::Dir), Op::Readdir(path("a"), 4, false)];
    ops.extend(["a/a", "a/b", "a/c", "a/d"].map(|p| make(p, Kind::File)));
    ops.push(Op::Forget);
    run(&below(&[("b", DIR)]), Prefix::Trusted, &ops);
}

/// fstat(2) told the lower's count.
#[test]
fn an_unlinked_lower_file_has_no_links() {
    run(&below(&[("a", file(3))]), Prefix::Trusted, &[Op::Keep(at("a"), 0), Op::Unlink(at("a"))]);
    let linked = below(&[("a", file(3)), ("b", Put::Link(at("a")))]);
    run(&linked, Prefix::Trusted, &[Op::Keep(at("a"), 0), Op::Unlink(at("a")), Op::Unlink(at("b"))]);
}

/// As for files.
#[test]
fn a_removed_directory_has_no_links() {
    run(&below(&[("c/b", DIR)]), Prefix::Trusted, &[Op::Keep(at("c/b"), 0), Op::Rmdir(at("c/b"))]);
}

/// A copy-up that was published but whose parent's times could not be put back was not known to be there.
#[test]
fn a_published_copy_counts() {
    run(&below(&[("c/a/a", file(0))]), Prefix::Trusted, &[Op::SetXattr(path("c"), 0, 1, 0)]);
}

/// link(2) to a name that is taken left another link in the work directory when that could not be removed.
#[test]
fn a_refused_link_leaves_nothing() {
    let layers = below(&[("a", Put::Fifo), ("b/a", file(0))]);
    run(&layers, Prefix::User, &[Op::Link(path("a"), at("b/a")), Op::Lookup(at("a"))]);
}

/// mkdir(2) failed for the whiteout that came out of its place, though the directory was there.
#[test]
fn a_directory_in_a_whiteouts_place_is_made_or_not() {
    run(&below(&[("b/a", file(0))]), Prefix::Trusted, &[rename("b", "c"), make("b", Kind::Dir)]);
}

/// The mark that its parent is impure was not read in a directory that is all the upper's own.
#[test]
fn what_moved_into_a_new_directory_keeps_its_content() {
    let ops = [make("d", Kind::Dir), make("d/c", Kind::Dir), rename("b", "d/c/a"), Op::Remount];
    run(&below(&[("b/a", file(3))]), Prefix::Trusted, &ops);
}

/// The link count of an indexed file was written after its name had gone.
#[test]
fn a_name_that_goes_is_counted_first() {
    let layers = below(&[("b/a", file(3)), ("a/d", Put::Link(at("b/a"))), ("c/c", Put::Link(at("b/a")))]);
    run(&layers, Prefix::Trusted, &[Op::Write(path("a/d"), 0, Data('b', 1)), Op::Unlink(at("c/c"))]);
    run(&layers, Prefix::Trusted, &[Op::Write(path("a/d"), 0, Data('b', 1)), rename("a/d", "c/d")]);
    run(
        &layers,
        Prefix::Trusted,
        &[Op::Write(path("a/d"), 0, Data('b', 1)), make("c/d", Kind::File), rename("c/d", "c/c")],
    );
}

/// A metacopy that could not be cut had the new size with the old data.
#[test]
fn a_file_that_is_not_cut_keeps_its_size() {
    let moved = rename("a", "b");
    run(&below(&[("a", file(2))]), Prefix::Trusted, &[moved.clone(), Op::Truncate(path("b"), 0)]);
    run(&below(&[("a", file(20))]), Prefix::Trusted, &[moved, Op::Truncate(path("b"), 7)]);
}

/// A directory whose whiteouts were taken out before it was replaced was opaque when it was not replaced after all.
#[test]
fn a_directory_that_is_not_replaced_stays_merged() {
    let layers = below(&[("d/d", file(3)), ("d/e", file(3))]);
    let ops = [make("c", Kind::Dir), Op::Unlink(at("d/d")), Op::Unlink(at("d/e")), rename("c", "d")];
    run(&layers, Prefix::Trusted, &ops);
}

/// A socket is not packed: what it covers showed through the layer.
#[test]
fn what_a_socket_covers_is_gone() {
    let mut h = Harness::new(&below(&[("a/a", file(1)), ("b/a", file(1))]), Where::Apart, Prefix::User);
    let ops =
        [make("c", Kind::Socket), Op::Rename(at("c"), at("a"), 2), Op::Unlink(at("b/a")), make("b/a", Kind::Socket)];
    ops.iter().for_each(|op| h.run(op));
    h.check_packed(false);
}

/// Who had lost its last name was refused before the new one was looked at.
#[test]
fn a_taken_name_goes_before_a_lost_one() {
    let layers = below(&[("d", file(1)), ("c", DIR)]);
    run(&layers, Prefix::Trusted, &[Op::Keep(at("d"), 1), Op::Unlink(at("d")), Op::Link(Target::Kept(1), at("c"))]);
}

/// A file with one more name, which something covers, may have a new one though it lost all that can be seen.
#[test]
fn what_is_counted_under_a_covered_name_can_be_linked() {
    let layers = [below(&[("d/a", file(0))]), below(&[("d", file(1)), ("a/d", Put::Link(at("d")))])].concat();
    run(&layers, Prefix::Trusted, &[Op::Keep(at("a/d"), 0), Op::Unlink(at("a/d")), Op::Link(Target::Kept(0), at("b"))]);
}
