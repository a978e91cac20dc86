use std::path::Path;

use super::make::{Make, gzip, header, record, zstd};
use super::*;
use crate::layer::disk;
use crate::store::unpack::{Limits, Reason};

/// The error's words; nothing else may come of it.
fn refused(blob: &[u8], options: &Options) -> Error {
    into_memory(blob, options).0.expect_err("refused")
}

/// Asserts that `make` is refused, in memory and on disk, by an error that names `entry` and says `words`, and that
/// nothing beside the layer was touched.
fn is_refused(what: &str, tar: &[u8], entry: Option<&str>, words: &str) {
    for options in [Options::default(), stored()] {
        let e = refused(tar, &options);
        let text = e.to_string();
        assert_eq!(e.entry(), entry.map(str::as_bytes), "{what}: {text}");
        assert!(text.contains(words), "{what}: {text}");
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let outside = place.path().join("outside");
    std::fs::create_dir(&outside).expect("made");
    std::fs::write(outside.join("kept"), b"kept").expect("written");
    let layer = place.path().join("layer");
    std::fs::create_dir(&layer).expect("made");
    let before = snapshot(place.path(), &layer);
    let root = Handle::Disk(disk::Object::open(&layer, true).expect("opened"));
    let on_disk = unpack(tar, &root, &stored(), &|_| {}).expect_err(what);
    assert!(on_disk.to_string().contains(words), "{what}: {on_disk}");
    assert_eq!(snapshot(place.path(), &layer), before, "{what}");
}

/// Everything in `at` but `without`: names, times of change, content.
pub(super) fn snapshot(at: &Path, without: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    let mut todo = vec![at.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).expect("read") {
            let path = entry.expect("an entry").path();
            if path == without {
                continue;
            }
            let m = path.symlink_metadata().expect("its metadata");
            let content = if m.is_file() { std::fs::read(&path).expect("its data") } else { Vec::new() };
            let times = (m.ctime(), m.ctime_nsec(), m.mtime(), m.mtime_nsec());
            all.push(format!("{path:?} {:o} {} {times:?} {content:?}", m.mode(), m.nlink()));
            if m.is_dir() {
                todo.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn names_that_lead_out() {
    let m = Make::default;
    for (what, tar, entry, words) in [
        ("climbing", m().file("../outside/kept", b"x"), "../outside/kept", "climbs"),
        ("climbing later", m().dir("a/").file("a/../../outside/kept", b"x"), "a/../../outside/kept", "climbs"),
        ("ending in ..", m().dir("a/.."), "a/..", "climbs"),
        ("absolute", m().file("/etc/passwd", b"x"), "/etc/passwd", "absolute"),
        ("absolute by PAX", m().pax(&[("path", b"/etc/passwd")]).file("x", b"x"), "/etc/passwd", "absolute"),
        ("a NUL", m().pax(&[("path", b"a\0b")]).file("x", b"x"), "a\0b", "NUL"),
        ("no name", m().file("", b"x"), "", "no name"),
        ("root as a file", m().file("./", b"").file(".", b""), ".", "root"),
        ("root as a link", m().symlink(".", "/"), ".", "root"),
        ("whiteout of ..", m().file("a/.wh...", b""), "a/.wh...", "whiteout of no name"),
        ("whiteout of .", m().file(".wh..", b""), ".wh..", "whiteout of no name"),
        ("whiteout of nothing", m().file(".wh.", b""), ".wh.", "whiteout of no name"),
        ("whiteout that climbs", m().file("../.wh.outside", b""), "../.wh.outside", "climbs"),
        ("opaque that climbs", m().file("../outside/.wh..wh..opq", b""), "../outside/.wh..wh..opq", "climbs"),
        ("below a whiteout", m().file(".wh.a/b", b""), ".wh.a/b", "whiteout"),
    ] {
        is_refused(what, &tar.end(), Some(entry), words);
    }
    // Tools read a file with a slash at its end as a directory: the data is then not its own.
    is_refused("a directory with data", &m().file("a/", b"x").end(), Some("a/"), "only a file can have");
}

#[test]
fn links_that_lead_out() {
    let m = Make::default;
    for (what, tar, entry, words) in [
        ("through a link to itself", m().symlink("a", "a").file("a/b", b"x"), "a/b", "in a circle"),
        ("through a circle", m().symlink("a", "d/b").symlink("d/b", "/a/c").file("a/x/y", b""), "a/x/y", "in a circle"),
        ("a long way", m().symlink("a", &"./".repeat(50)).file(&"a/".repeat(49), b""), &"a/".repeat(49), "too far"),
        ("through a link to a file", m().file("f", b"").symlink("a", "f").file("a/b", b"x"), "a/b", "no directory"),
        ("to a whiteout's name", m().symlink("a", ".wh.x").file("a/b", b"x"), "a/b", "name of a whiteout"),
        ("to a whiteout's name, further on", m().symlink("a", "b/.wh.x/c").dir("a/d/"), "a/d/", "name of a whiteout"),
        ("through a link to a NUL", m().pax(&[("linkpath", b"b\0c")]).symlink("a", "x").file("a/b", b""), "a", "NUL"),
        ("below a file", m().file("a", b"").file("a/b", b""), "a/b", "no directory"),
        ("hard link out", m().hard_link("a", "../outside/kept"), "a", "climbs"),
        ("hard link absolute", m().hard_link("a", "/etc/passwd"), "a", "absolute"),
        ("hard link through a link", m().symlink("d", "../outside").hard_link("a", "d/kept"), "a", "not in this layer"),
        (
            "hard link through a link to itself",
            m().symlink("d", "e/d/").hard_link("a", "d/b/c"),
            "a",
            "not in this layer",
        ),
        ("hard link to nothing", m().hard_link("a", "b"), "a", "not in this layer"),
        ("hard link to itself", m().hard_link("a", "a"), "a", "itself"),
        ("hard link to a directory", m().dir("d/").hard_link("a", "d"), "a", "a directory"),
        ("hard link to the root", m().hard_link("a", "."), "a", "root"),
        ("hard link to a whiteout", m().file(".wh.w", b"").hard_link("a", "w"), "a", "not in this layer"),
        ("hard link by a whiteout's name", m().file(".wh.w", b"").hard_link("a", ".wh.w"), "a", "whiteout"),
        ("hard link in place of its own", m().file("a/b", b"").hard_link("a", "a/b"), "a", "would replace"),
        ("a link to nothing", m().symlink("a", ""), "a", "to nothing"),
        ("a NUL in a link", m().pax(&[("linkpath", b"a\0b")]).symlink("a", "x"), "a", "NUL"),
    ] {
        is_refused(what, &tar.end(), Some(entry), words);
    }
    // A hard link to a symbolic link is one to the link, not to what it leads to; then it is as good as any.
    let tar = m().symlink("l", "../outside/kept").hard_link("m", "l").end();
    let (_, root) = whole(&tar, &Options::default());
    assert_eq!(root.readlink(b"m").expect("a link"), b"../outside/kept");
}

#[test]
fn links_on_the_way_lead_nowhere_but_into_the_layer() {
    let m = Make::default;
    let sub = || m().dir("b/").file("b/old", b"old");
    // What is made, and by which path it is there afterwards.
    for (what, tar, there) in [
        ("plain", sub().symlink("a", "b").file("a/x", b"new"), "b/x"),
        ("to what is missing", m().symlink("lib", "usr/lib").file("lib/x", b"new"), "usr/lib/x"),
        ("to the outside", m().symlink("a", "../outside").file("a/x", b"new"), "outside/x"),
        ("far up", m().symlink("d/a", "../../../../outside").file("d/a/x", b"new"), "outside/x"),
        ("absolute", m().symlink("d/a", "/tmp/b").file("d/a/x", b"new"), "tmp/b/x"),
        ("to the root", m().symlink("d/a", "/").file("d/a/x", b"new"), "x"),
        ("to the root, as a directory", m().symlink("a", "..").dir("a/d/").file("d/x", b"new"), "d/x"),
        ("two", m().symlink("a", "c/b").symlink("c", "e/f").file("a/g/x", b"new"), "e/f/b/g/x"),
        // Not `y`: the parent of where a link leads is not that of the link.
        ("up from a link", m().dir("t/u/").symlink("l", "t/u").symlink("a", "l/../y").file("a/x", b"new"), "t/y/x"),
        ("in the middle", m().symlink("p/a", "../q").file("p/a/./r/x", b"new"), "q/r/x"),
        ("a hard link's target", sub().symlink("a", "b").file("b/x", b"new").hard_link("h", "a/x"), "h"),
        ("a hard link's name", sub().symlink("a", "b").file("f", b"new").hard_link("a/x", "f"), "b/x"),
        ("in place of what is there", sub().symlink("a", "b").file("a/old", b"new"), "b/old"),
        ("over a whiteout", m().file(".wh.b", b"").symlink("a", "b").file("a/x", b"new"), "b/x"),
        ("no more, once it is a directory", m().symlink("a", "b").dir("a/").file("a/x", b"new"), "a/x"),
        ("no more, once it leads elsewhere", m().symlink("a", "b").symlink("a", "c").file("a/x", b"new"), "c/x"),
    ] {
        let tar = tar.end();
        let place = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(place.path().join("outside")).expect("made");
        let layer = place.path().join("layer");
        std::fs::create_dir(&layer).expect("made");
        let before = snapshot(place.path(), &layer);
        let on_disk = Handle::Disk(disk::Object::open(&layer, true).expect("opened"));
        unpack(&tar[..], &on_disk, &stored(), &|_| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(snapshot(place.path(), &layer), before, "{what}");
        let (dir, name) = there.rsplit_once('/').unwrap_or(("", there));
        for root in [whole(&tar, &Options::default()).1, whole(&tar, &stored()).1, on_disk] {
            assert_eq!(content(&at(&root, dir), name), b"new", "{what}");
        }
    }
}

#[test]
fn whiteouts_and_others_links_by_a_link() {
    let m = Make::default;
    let tar = m().symlink("a", "/b").file("a/.wh.gone", b"").file("a/o/.wh..wh..opq", b"").file("a/.wh..wh..opq", b"");
    let (_, root) = whole(&tar.end(), &Options::default());
    assert!(at(&root, "b").stat(b"gone").expect("there").is_whiteout());
    for dir in ["b", "b/o"] {
        assert_eq!(attr(&at(&root, dir), "", "user.overlay.opaque").as_deref(), Some(&b"y"[..]), "{dir}");
    }
    // Where owners are stored, a link that is not root's is a file; it leads on all the same.
    let mut link = header(b'2', b"a", 0);
    link.set_uid(7);
    link.as_old_mut().linkname[..1].copy_from_slice(b"b");
    let tar = m().raw(link, b"").file("a/x", b"new").end();
    for options in [stored(), Options::default()] {
        assert_eq!(content(&at(&whole(&tar, &options).1, "b"), "x"), b"new");
    }
    // A file with the same bytes does not.
    is_refused("a file", &m().file("a", b"b").file("a/x", b"").end(), Some("a/x"), "no directory");
}

#[test]
fn sizes_that_lie() {
    let m = Make::default;
    let big = |kind, size| header(kind, b"big", size);
    for (what, tar, entry, words) in [
        ("PAX against header", m().pax(&[("size", b"512")]).file("a", b"four"), Some("a"), "by its extended header"),
        ("PAX that is negative", m().pax(&[("size", b"-1")]).file("a", b""), Some("PaxHeaders/x"), "size"),
        (
            "PAX that is huge",
            m().pax(&[("size", b"99999999999999999999")]).file("a", b""),
            Some("PaxHeaders/x"),
            "size",
        ),
        ("more than there is", m().raw(big(b'0', 1 << 20), b"little"), Some("big"), "ends"),
        ("a link with data", m().raw(big(b'2', 512), &[0; 512]), Some("big"), "only a file"),
        ("a hard link with data", m().raw(big(b'1', 512), &[0; 512]), Some("big"), "only a file"),
        ("a whole tebibyte", m().raw(big(b'0', 1 << 40), b"little"), Some("big"), "are allowed"),
        ("a long name that is too long", m().raw(big(b'L', 2 << 20), &[b'a'; 2 << 20]), Some("big"), "are allowed"),
        ("PAX records that are too long", m().raw(big(b'x', 1 << 40), b""), Some("big"), "are allowed"),
        ("an unknown type", m().raw(big(b'M', 0), b""), Some("big"), "type 'M'"),
        (
            "an attribute that is too big",
            m().pax(&[("SCHILY.xattr.user.a", &[0; 65_537])]).file("a", b""),
            Some("a"),
            "65537 bytes",
        ),
        (
            "a name that is too long",
            m().pax(&[("path", "a/".repeat(2048).as_bytes())]).file("a", b""),
            Some(&*"a/".repeat(2048)),
            "4096 bytes",
        ),
        ("an id that is none", m().pax(&[("uid", b"4294967295")]).file("a", b""), Some("a"), "no id"),
        (
            "sparse, more than is stored",
            m().pax(&[("GNU.sparse.size", b"99"), ("GNU.sparse.map", b"0,99")]).file("a", b"x"),
            Some("a"),
            "99 bytes, and 1",
        ),
        (
            "sparse, beyond its end",
            m().pax(&[("GNU.sparse.size", b"2"), ("GNU.sparse.map", b"5,1")]).file("a", b"x"),
            Some("a"),
            "contradicts",
        ),
        (
            "sparse, beyond all ends",
            m().pax(&[("GNU.sparse.size", b"2"), ("GNU.sparse.map", b"18446744073709551615,1")]).file("a", b"x"),
            Some("a"),
            "contradicts",
        ),
        (
            "sparse, eight exbibytes",
            m().pax(&[("GNU.sparse.size", b"9223372036854775807"), ("GNU.sparse.map", b"0,1")]).file("a", b"x"),
            Some("a"),
            "are allowed",
        ),
        (
            "sparse, a map without end",
            m().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
                .file("a", &b"1\n".repeat(512)[..512].iter().map(|_| b'1').collect::<Vec<_>>()),
            Some("a"),
            "no end",
        ),
    ] {
        is_refused(what, &tar.end(), entry, words);
    }
}

#[test]
fn archives_that_are_none() {
    let m = Make::default;
    let mut wrong_sum = m().file("a", b"x").end();
    wrong_sum[0] = b'b';
    let mut after = m().file("a", b"").end();
    after.truncate(1024);
    let after = [after, m().file("b", b"").end()].concat();
    for (what, tar, entry, words) in [
        ("noise", b"noise ".repeat(200), None, "no header of a tar archive"),
        ("a wrong checksum", wrong_sum, None, "checksum"),
        ("cut in the last block", m().file("a", b"x").end()[..700].to_vec(), Some("a"), "within its last block"),
        ("cut in the second header", m().file("a", b"").file("b", b"").0[..700].to_vec(), Some("a"), "within a header"),
        ("cut in data", m().file("a", &[1; 2000]).end()[..1000].to_vec(), Some("a"), "before its data does"),
        ("an extended header for nothing", m().pax(&[("uid", b"1")]).end(), Some("PaxHeaders/x"), "without the entry"),
        ("something after one blank block", after, Some("a"), "after its end"),
        (
            "a size that is no number",
            m().raw(
                {
                    let mut h = header(b'0', b"a", 0);
                    h.as_old_mut().size = *b"12345x789ab ";
                    h
                },
                b"",
            )
            .end(),
            Some("a"),
            "no number",
        ),
        ("damaged records", m().raw(header(b'x', b"p", 9), b"99 uid=1\n").file("a", b"").end(), Some("p"), "damaged"),
    ] {
        is_refused(what, &tar, entry, words);
    }
    let whole = m().file("a", &(0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).end();
    for (blob, name) in [(gzip(&whole), "gzip"), (zstd(&whole), "zstd")] {
        let e = refused(&blob[..blob.len() / 2], &Options::default());
        assert!(matches!(e.reason(), Reason::Stream(n, _) if *n == name), "{e}");
        // A zstd frame need have no checksum: then the digest alone tells.
        if name == "gzip" {
            let mut damaged = blob.clone();
            damaged[blob.len() / 2] ^= 0x55;
            refused(&damaged, &Options::default());
        }
    }
    assert!(refused(&[0x1f, 0x8b], &Options::default()).to_string().contains("gzip"));
    assert!(refused(&[], &Options::default()).to_string().contains("empty"));
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the line is cut"))
        }
    }
    let root = Handle::Mem(Tree::new(1).root(true));
    let e = unpack(Broken, &root, &Options::default(), &|_| {}).expect_err("refused");
    assert_eq!(e.to_string(), "read the blob: the line is cut");
}

/// 10 GiB of zeros, never whole anywhere.
fn zeros() -> impl std::io::Read {
    use std::io::Read;
    let start = Make::default().raw(header(b'0', b"zeros", 0), b"").0;
    let mut big = header(b'0', b"zeros", 0);
    big.as_old_mut().size = *b"120000000000";
    let start = Make(start).raw(big, b"").0;
    std::io::Cursor::new(start).chain(std::io::repeat(0).take(10 << 30))
}

#[test]
fn ten_gibibytes_of_zeros() {
    use std::io::Read;
    // As far as it is read at all: the frames are cut where the limit has long been passed.
    let little = zstd::encode_all(zeros().take(300 << 20), 1).expect("memory");
    assert!(little.len() < 64 << 10, "{}", little.len());
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = Handle::Disk(disk::Object::open(place.path(), true).expect("opened"));
    let e = unpack(&little[..], &root, &stored(), &|_| {}).expect_err("refused");
    assert_eq!(e.entry(), Some(&b"zeros"[..]), "{e}");
    assert!(e.to_string().contains("times as much as went in"), "{e}");
}

#[test]
fn limits_hold_and_the_honest_pass() {
    let tight = |limits: Limits| Options { limits, ..Options::default() };
    let tar = Make::default().dir("a/").file("a/b", &[0; 1000]).file("a/c", &[0; 1000]).end();
    let size = tar.len() as u64;
    for (limits, entry) in [
        (Limits { bytes: size - 1, ..Limits::default() }, None),
        (Limits { bytes: 1999, ..Limits::default() }, None),
        (Limits { entries: 2, ..Limits::default() }, Some("a/c")),
        (Limits { path: 2, ..Limits::default() }, Some("a/b")),
        (Limits { dir_names: 0, ..Limits::default() }, Some("a/")),
    ] {
        let e = refused(&tar, &tight(limits.clone()));
        assert!(matches!(e.reason(), Reason::Limit { .. }), "{limits:?}: {e}");
        if entry.is_some() {
            assert_eq!(e.entry(), entry.map(str::as_bytes), "{e}");
        }
    }
    let exact = Limits { bytes: size, entries: 3, path: 3, dir_names: 1, ..Limits::default() };
    whole(&tar, &tight(exact));
}

#[test]
fn a_million_entries() {
    // One entry over and over, as a blob that never ends.
    struct Again(Vec<u8>, usize);
    impl std::io::Read for Again {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let from = &self.0[self.1 % self.0.len()..];
            let n = from.len().min(buf.len());
            buf[..n].copy_from_slice(&from[..n]);
            self.1 += n;
            Ok(n)
        }
    }
    let usual = Limits::default();
    assert!(usual.entries < 1_000_000);
    // A fiftieth of them, because time is short.
    let options = Options { limits: Limits { entries: 20_000, ..usual }, ..Options::default() };
    let many = Make::default().file("a", b"").0.repeat(256);
    let root = Handle::Mem(Tree::new(1).root(true));
    let e = unpack(Again(many, 0), &root, &options, &|_| {}).expect_err("refused");
    assert_eq!(e.entry(), Some(&b"a"[..]));
    assert!(e.to_string().contains("20000 entries are allowed"), "{e}");
}

#[test]
fn what_a_full_disk_leads_to() {
    let tree = Tree::new(1);
    let root = Handle::Mem(tree.root(true));
    let tar = Make::default().file("a", b"x").end();
    for n in 1.. {
        tree.fail_after(n, crate::vocab::Errno::NOSPC);
        let before = tree.changes();
        let r = unpack(&tar[..], &root, &Options::default(), &|_| {});
        if tree.is_faulty() {
            assert!(n > 4, "{} changes", tree.changes() - before);
            break;
        }
        let e = r.expect_err("refused");
        // The first is for the root, which is nobody's entry.
        assert!(n < 4 || e.entry() == Some(&b"a"[..]), "{e}");
        assert!(e.to_string().contains("No space left"), "{e}");
        root.clear().expect("cleared");
    }
}

#[test]
fn records_are_made_as_they_should_be() {
    for (value, start) in [(93, "99 a="), (94, "101 a="), (0, "5 a=")] {
        let made = record(b"a", &vec![b'x'; value]);
        assert!(made.starts_with(start.as_bytes()), "{}", made.escape_ascii());
        assert!(start.starts_with(&made.len().to_string()));
    }
}
