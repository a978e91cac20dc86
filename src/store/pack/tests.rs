//! What goes into a layer, and how it comes out again.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::{Options, Packed, pack_dir, pack_layer};
use crate::layer::{Handle, disk, mem};
use crate::store::unpack::{self, Compression, Owners, unpack};
use crate::vocab::dialect::{self, Prefix};
use crate::vocab::{Kind, digest};

fn open(path: &Path) -> Handle {
    Handle::Disk(disk::Object::open(path, true).expect("opened"))
}

fn packed(dir: &Handle, compression: Compression) -> (Vec<u8>, Packed) {
    let mut blob = Vec::new();
    let options = Options { compression, ..Options::default() };
    let packed = pack_dir(dir, options, &mut blob).expect("packed");
    (blob, packed)
}

/// The names in an archive, as the tar crate reads them.
fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("entries");
    entries.map(|e| String::from_utf8_lossy(&e.expect("an entry").path_bytes()).into_owned()).collect()
}

fn memory() -> Handle {
    Handle::Mem(mem::Tree::new(1).root(true))
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let place = tempfile::tempdir().expect("a directory");
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    let long = from.join("d".repeat(150)).join("f".repeat(150));
    fs::create_dir_all(long.parent().expect("above")).expect("made");
    fs::create_dir(&to).expect("made");
    fs::write(&long, "long").expect("written");
    fs::hard_link(&long, from.join("z")).expect("linked");
    fs::write(from.join("a"), "content").expect("written");
    fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    std::os::unix::fs::symlink("../".repeat(60), from.join("link")).expect("linked");
    let root = open(&from);
    root.mknod(b"pipe", Kind::Fifo, 0o620, 0).expect("made");
    root.mknod(b"socket", Kind::Socket, 0o620, 0).expect("made");
    root.setxattr(b"a", b"user.x=y", b"1\n2=3\0", 0).expect("set");
    root.setxattr(b"a", b"user.overlay.overlay.opaque", b"y", 0).expect("set");
    root.setxattr(b"a", b"user.overlay.opaque", b"y", 0).expect("set");
    let time = crate::vocab::Timestamp { sec: -7, nsec: 5 };
    let set = crate::vocab::SetTime::To(time);
    root.utimens(b"a", set, set).expect("set");

    let mut blobs = Vec::new();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let (blob, told) = packed(&root, compression);
        assert_eq!((digest::of(&blob), blob.len() as u64), (told.blob.clone(), told.blob_size));
        assert_eq!(packed(&root, compression), (blob.clone(), told.clone()), "the same again");
        blobs.push((blob, told));
    }
    assert!(blobs.iter().all(|(_, told)| told.diff_id == blobs[0].1.diff_id));
    let d = "d".repeat(150);
    let expected = ["./", "a", &format!("{d}/"), &format!("{d}/{}", "f".repeat(150)), "link", "pipe", "z"];
    assert_eq!(names(&blobs[0].0), expected);

    let mine = rustix::process::geteuid().is_root();
    let options = unpack::Options { owners: if mine { Owners::Real } else { Owners::Stored }, ..Default::default() };
    let into = open(&to);
    let back = unpack(&blobs[1].0[..], &into, &options, &|_| {}).expect("unpacked");
    assert_eq!((&back.diff_id, back.entries), (&blobs[1].1.diff_id, 7));
    if !mine {
        return;
    }
    let (old, new) = (fs::metadata(from.join("a")).expect("there"), fs::metadata(to.join("a")).expect("there"));
    assert_eq!((new.mode(), new.uid(), new.mtime(), new.mtime_nsec()), (old.mode(), old.uid(), -7, 5));
    assert_eq!(into.getxattr(b"a", b"user.x=y"), Ok(Some(b"1\n2=3\0".to_vec())));
    assert_eq!(into.getxattr(b"a", b"user.overlay.overlay.opaque"), Ok(Some(b"y".to_vec())));
    assert_eq!(into.getxattr(b"a", b"user.overlay.opaque"), Ok(None), "the union's own");
    assert_eq!(into.stat(b"z").expect("there").nlink, 2);
    assert_eq!(into.readlink(b"link"), Ok("../".repeat(60).into_bytes()));
    assert_eq!(into.stat(b"pipe").expect("there").mode, 0o620);
    let (old, new) = (from.metadata().expect("there"), to.metadata().expect("there"));
    assert_eq!((old.mtime(), old.mtime_nsec()), (new.mtime(), new.mtime_nsec()));
}

#[test]
fn holes_stay_holes() {
    let place = tempfile::tempdir().expect("a directory");
    let file = fs::File::create(place.path().join("holey")).expect("made");
    let (size, at) = (4 << 30, 3 << 30);
    file.set_len(size).expect("cut");
    file.write_all_at(b"here", at).expect("written");
    if file.metadata().expect("there").blocks() > 1 << 20 {
        eprintln!("skipped: no holes on this file system");
        return;
    }
    fs::File::create(place.path().join("all-hole")).expect("made").set_len(1 << 20).expect("cut");
    fs::File::create(place.path().join("little-hole")).expect("made").set_len(1000).expect("cut");
    let (blob, told) = packed(&open(place.path()), Compression::None);
    assert!(told.tar_size < 64 << 10, "{} bytes", told.tar_size);
    let to = tempfile::tempdir().expect("a directory");
    let options = unpack::Options { owners: Owners::Stored, ..Default::default() };
    let back = unpack(&blob[..], &open(to.path()), &options, &|_| {}).expect("unpacked");
    assert!(back.bytes < 64 << 10);
    let copy = fs::File::open(to.path().join("holey")).expect("there");
    let m = copy.metadata().expect("there");
    assert_eq!(m.len(), size);
    assert!(m.blocks() < 1 << 10, "{} blocks", m.blocks());
    let mut read = [0; 6];
    copy.read_exact_at(&mut read, at - 1).expect("read");
    assert_eq!(&read, b"\0here\0");
    assert_eq!(to.path().join("all-hole").metadata().expect("there").len(), 1 << 20);
    assert_eq!(fs::read(to.path().join("little-hole")).expect("there"), [0; 1000]);
}

#[test]
fn what_is_gone_and_what_is_opaque() {
    let (lower, upper) = (memory(), Handle::Mem(mem::Tree::new(2).root(true)));
    for dir in [&lower, &upper] {
        for name in [&b"opaque"[..], b"dir", b"moved"] {
            dir.mkdir(name, 0o755).expect("made");
        }
    }
    lower.create(b"gone", 0o644).expect("made");
    lower.open_dir(b"opaque").and_then(|d| d.create(b"below", 0o644)).expect("made");
    lower.open_dir(b"moved").and_then(|d| d.create(b"below", 0o644)).expect("made");
    lower.mkdir(b"old", 0o755).expect("made");
    lower.open_dir(b"old").and_then(|d| d.create(b"content", 0o644)).expect("made");
    let attr = |name: &str| Prefix::User.attr(name);
    upper.setxattr(b"opaque", &attr(dialect::OPAQUE), b"y", 0).expect("set");
    upper.setxattr(b"moved", &attr(dialect::REDIRECT), b"/old", 0).expect("set");
    for name in [&b"gone"[..], b"old", b"never-was"] {
        upper.mknod(name, Kind::Char, 0, 0).expect("made");
    }
    let mut tar = Vec::new();
    let options = Options { compression: Compression::None, ..Options::default() };
    pack_layer(&upper, &[lower], options, &mut tar).expect("packed");
    let expected = [
        "./",
        "dir/",
        ".wh.gone",
        "moved/",
        "moved/.wh..wh..opq",
        "moved/content",
        ".wh.old",
        "opaque/",
        "opaque/.wh..wh..opq",
    ];
    assert_eq!(names(&tar), expected);
    for entry in tar::Archive::new(&tar[..]).entries().expect("entries") {
        let entry = entry.expect("an entry");
        if entry.path_bytes().split(|b| *b == b'/').any(|n| n.starts_with(b".wh.")) {
            let header = entry.header();
            assert_eq!((header.mtime().ok(), header.size().ok(), header.uid().ok()), (Some(0), Some(0), Some(0)));
        }
    }
}

#[test]
fn a_name_that_would_mean_something_else() {
    let root = memory();
    root.mkdir(b"d", 0o755).expect("made");
    root.open_dir(b"d").and_then(|d| d.create(b".wh.x", 0o644)).expect("made");
    let e = pack_dir(&root, Options::default(), &mut Vec::new()).expect_err("refused");
    assert!(e.to_string().starts_with("/d/.wh.x: "), "{e}");
    assert!(e.hint().is_some());
}

#[test]
fn where_it_is_written_is_full() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(rustix::io::Errno::NOSPC.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let e = pack_dir(&memory(), Options { compression, ..Options::default() }, Full).expect_err("refused");
        assert!(e.to_string().contains("No space left"), "{e}");
    }
}
