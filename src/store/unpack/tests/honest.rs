use super::make::{Make, gzip, header, zstd};
use super::*;
use crate::store::unpack::Compression;
use crate::vocab::digest;
use crate::vocab::{Kind, Timestamp};

#[test]
fn digests_of_blob_and_archive() {
    let tar = Make::default().dir("a/").file("a/b", &[7; 700_000]).end();
    for (blob, compression) in [
        (tar.clone(), Compression::None),
        (gzip(&tar), Compression::Gzip),
        (zstd(&tar), Compression::Zstd),
        ([gzip(&tar[..1000]), gzip(&tar[1000..])].concat(), Compression::Gzip),
        ([zstd(&tar[..1000]), zstd(&tar[1000..])].concat(), Compression::Zstd),
    ] {
        let read = std::sync::atomic::AtomicU64::new(0);
        let root = Handle::Mem(Tree::new(1).root(true));
        let progress = |n| {
            read.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        };
        let unpacked = unpack(&blob[..], &root, &Options::default(), &progress).expect("unpacked");
        assert_eq!(unpacked.compression, compression);
        assert_eq!((unpacked.diff_id, unpacked.tar_size), (digest::of(&tar), tar.len() as u64));
        assert_eq!((unpacked.blob, unpacked.blob_size), (digest::of(&blob), blob.len() as u64));
        assert_eq!(read.into_inner(), blob.len() as u64);
        assert_eq!((unpacked.entries, unpacked.bytes), (2, 700_000));
        assert_eq!(content(&at(&root, "a"), "b"), [7; 700_000]);
    }
}

#[test]
fn a_blob_that_comes_byte_by_byte() {
    struct Slow<'a>(&'a [u8]);
    impl std::io::Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.len().min(buf.len()).min(1);
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }
    let tar = Make::default().file("a", b"data").end();
    let root = Handle::Mem(Tree::new(1).root(true));
    let unpacked = unpack(Slow(&gzip(&tar)), &root, &Options::default(), &|_| {}).expect("unpacked");
    assert_eq!((unpacked.compression, unpacked.diff_id), (Compression::Gzip, digest::of(&tar)));
}

#[test]
fn a_last_block_without_its_padding() {
    // As umoci insert writes it.
    let tar = &Make::default().file("a", b"x").0[..513];
    let root = Handle::Mem(Tree::new(1).root(true));
    let unpacked = unpack(tar, &root, &Options::default(), &|_| {}).expect("unpacked");
    assert_eq!((unpacked.entries, unpacked.diff_id), (1, digest::of(tar)));
    assert_eq!(content(&root, "a"), b"x");
}

#[test]
fn kinds_owners_modes_times() {
    let mut suid = header(b'0', b"d/suid", 1);
    suid.set_mode(0o104_755);
    suid.set_uid(1000);
    suid.set_gid(2000);
    let mut big = header(b'0', b"d/big-id", 0);
    big.as_old_mut().uid = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe];
    big.as_old_mut().mtime = [0xff; 12];
    let tar = Make::default()
        .dir("./")
        .dir("./d/")
        .raw(suid, b"x")
        .raw(big, b"")
        .pax(&[("mtime", b"-1.5"), ("atime", b"1234567890.123456789")])
        .symlink("d/link", "../../../etc")
        .device(b'6', "d/pipe", 0, 0)
        .device(b'3', "d/null", 1, 3)
        .device(b'4', "d/sda", 8, 0)
        .hard_link("other", "d/suid")
        .end();
    let (unpacked, root) = whole(&tar, &Options::default());
    assert_eq!(unpacked.skipped, [] as [String; 0]);
    let d = at(&root, "d");
    let stat = |name: &str| d.stat(name.as_bytes()).expect("there");
    let s = stat("suid");
    assert_eq!((s.kind, s.mode, s.uid, s.gid, s.nlink), (Kind::File, 0o4755, 1000, 2000, 2));
    assert_eq!(s.ino, root.stat(b"other").expect("there").ino);
    assert_eq!((stat("big-id").uid, stat("big-id").mtime), (0xffff_fffe, Timestamp { sec: -1, nsec: 0 }));
    assert_eq!(d.readlink(b"link").expect("a link"), b"../../../etc");
    assert_eq!(stat("link").mtime, Timestamp { sec: -2, nsec: 500_000_000 });
    assert_eq!(stat("link").atime, Timestamp { sec: 1_234_567_890, nsec: 123_456_789 });
    assert_eq!(stat("pipe").kind, Kind::Fifo);
    assert_eq!((stat("null").kind, stat("null").rdev), (Kind::Char, libc::makedev(1, 3)));
    assert_eq!((stat("sda").kind, stat("sda").rdev), (Kind::Block, libc::makedev(8, 0)));
    for dir in [&d, &root] {
        assert_eq!(dir.stat(b"").expect("itself").mtime, Timestamp { sec: 1_000_000_000, nsec: 0 }, "set last");
    }
}

#[test]
fn long_names_of_both_kinds() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let longlink = |kind: u8, s: &str| (header(kind, b"././@LongLink", s.len() as u64 + 1), format!("{s}\0"));
    let (h1, n1) = longlink(b'L', &format!("{long}-gnu"));
    let (h2, n2) = longlink(b'K', &long);
    let (h3, n3) = longlink(b'L', "gnu-link");
    let tar = Make::default()
        .pax(&[("path", long.as_bytes())])
        .file("short", b"pax")
        .raw(h1, n1.as_bytes())
        .file("short", b"gnu")
        .raw(h2, n2.as_bytes())
        .raw(h3, n3.as_bytes())
        .hard_link("short", "short")
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("pax-link", "short")
        .end();
    let (_, root) = whole(&tar, &Options::default());
    let d = at(&root, &"d".repeat(200));
    assert_eq!(content(&d, &"f".repeat(200)), b"pax");
    assert_eq!(content(&d, &format!("{}-gnu", "f".repeat(200))), b"gnu");
    assert_eq!(content(&root, "gnu-link"), b"pax");
    assert_eq!(root.readlink(b"pax-link").expect("a link"), long.as_bytes());
}

#[test]
fn whiteouts_hide_only_what_is_below() {
    let tar = Make::default()
        .file(".wh.gone", b"")
        .file("d/.wh.sub", b"")
        .file("o/.wh..wh..opq", b"")
        .file("o/new", b"n")
        // This layer's own, before and after.
        .file("first", b"1")
        .file(".wh.first", b"")
        .file(".wh.then", b"")
        .file("then", b"2")
        .file("dir1/x", b"3")
        .file(".wh.dir1", b"")
        .file(".wh.dir2", b"")
        .dir("dir2/")
        .file("dir2/y", b"4")
        .file(".wh.dir3", b"")
        .file("dir3/z", b"5")
        .file(".wh..wh.plnk/1.2", b"")
        .end();
    let (unpacked, root) = whole(&tar, &Options::default());
    assert_eq!(unpacked.entries, 16);
    assert!(root.stat(b"gone").expect("there").is_whiteout());
    assert!(at(&root, "d").stat(b"sub").expect("there").is_whiteout());
    let opaque = |path: &str| attr(&at(&root, path), "", "user.overlay.opaque");
    assert_eq!((opaque("o"), opaque("d")), (Some(b"y".to_vec()), None));
    assert_eq!((content(&root, "first"), content(&root, "then")), (b"1".to_vec(), b"2".to_vec()));
    for dir in ["dir1", "dir2", "dir3"] {
        assert_eq!(opaque(dir), Some(b"y".to_vec()), "{dir} replaces what is below");
    }
    let mut names = Vec::new();
    root.list(&mut |e| names.push(String::from_utf8_lossy(e.name).into_owned())).expect("a listing");
    assert!(!names.iter().any(|n| n.starts_with(".wh.")), "{names:?}");
}

/// As umoci writes a directory that became a file.
#[test]
fn what_is_below_a_file_needs_no_hiding() {
    let m = Make::default;
    for tar in [
        m().file("d/a", b"file").file("d/a/.wh.b", b"").file("d/a/x/.wh.c", b"").file("d/a/.wh..wh..opq", b""),
        m().file("d/a/.wh.b", b"").file("d/a/.wh..wh..opq", b"").file("d/a", b"file"),
    ] {
        let tar = tar.file("d/z", b"").end();
        for options in [Options::default(), stored()] {
            let (_, root) = whole(&tar, &options);
            assert_eq!(content(&at(&root, "d"), "a"), b"file");
            assert_eq!(at(&root, "d").stat(b"z").map(|s| s.kind), Ok(Kind::File));
        }
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let tar = Make::default()
        .file("a", b"file")
        .dir("a/")
        .file("a/deep/er", b"x")
        .symlink("a", "target")
        .file("a", b"file again")
        .hard_link("b", "a")
        .file("a", b"alone")
        .dir("c/")
        .file("c/kept", b"k")
        .dir("c/")
        .hard_link("c", "a")
        .hard_link("c", "a")
        .end();
    let (_, root) = whole(&tar, &Options::default());
    assert_eq!(content(&root, "a"), b"alone");
    assert_eq!(content(&root, "b"), b"file again");
    assert_eq!(content(&root, "c"), b"alone");
    assert_eq!(root.stat(b"a").expect("there").nlink, 2);
}

#[test]
fn attributes_are_kept_escaped_or_left_out() {
    let tar = Make::default()
        .pax(&[
            ("SCHILY.xattr.user.a", b"1\n2\0"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.containers.override_stat", b"0:0:04755:file"),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.security.capability", b"caps"),
            ("SCHILY.xattr.system.nfs4_acl", b"acl"),
        ])
        .dir("d/")
        .pax(&[("SCHILY.xattr.user.on-a-link", b"1")])
        .symlink("l", "d")
        .end();
    let (unpacked, root) = whole(&tar, &Options::default());
    let mut names: Vec<_> = root.listxattr(b"d").expect("attributes");
    names.sort();
    let names: Vec<_> = names.iter().map(|n| String::from_utf8_lossy(n)).collect();
    assert_eq!(names, ["security.capability", "user.a", "user.overlay.overlay.opaque"]);
    assert_eq!(attr(&root, "d", "user.a"), Some(b"1\n2\0".to_vec()));
    let skipped = [
        "security.selinux",
        "system.nfs4_acl",
        "trusted.overlay.opaque",
        "user.containers.override_stat",
        "user.on-a-link",
    ];
    assert_eq!(unpacked.skipped, skipped);
}

#[test]
fn a_device_0_0_is_no_whiteout() {
    let tar = Make::default().device(b'3', "d/odd", 0, 0).hard_link("e/odd", "d/odd").end();
    let (_, root) = whole(&tar, &Options::default());
    for dir in ["d", "e"] {
        let dir = at(&root, dir);
        assert_eq!(dir.stat(b"odd").expect("there").kind, Kind::File);
        assert_eq!(attr(&dir, "odd", "user.overlay.onlay.device"), Some(b"0:0".to_vec()));
        assert_eq!(attr(&dir, "", "user.overlay.onlay.devices"), Some(b"y".to_vec()));
    }
}

#[test]
fn owners_are_stored_where_there_is_one_id() {
    let mut shadow = header(b'0', b"shadow", 1);
    shadow.set_mode(0o4000);
    shadow.set_gid(42);
    let mut link = header(b'2', b"link", 0);
    link.set_uid(7);
    link.as_old_mut().linkname[..4].copy_from_slice(b"away");
    let tar = Make::default()
        .dir("./")
        .raw(shadow, b"x")
        .raw(link, b"")
        .symlink("roots", "away")
        .device(b'3', "odd", 0, 0)
        .device(b'4', "sda", 8, 1)
        .device(b'6', "pipe", 0, 0)
        .file("implied/x", b"")
        .end();
    let (unpacked, root) = whole(&tar, &stored());
    let of = |name: &str| {
        attr(&root, name, "user.containers.override_stat").map(|v| String::from_utf8_lossy(&v).into_owned())
    };
    for (name, kind, mode, want) in [
        ("", Kind::Dir, 0o755, Some("0:0:0755:dir")),
        ("shadow", Kind::File, 0o600, Some("0:42:04000:file")),
        ("link", Kind::File, 0o600, Some("7:0:0777:symlink")),
        ("roots", Kind::Symlink, 0o777, None),
        ("odd", Kind::File, 0o644, Some("0:0:0644:char-0-0")),
        ("sda", Kind::File, 0o644, Some("0:0:0644:block-8-1")),
        ("pipe", Kind::File, 0o644, Some("0:0:0644:pipe")),
        ("implied", Kind::Dir, 0o755, Some("0:0:0755:dir")),
    ] {
        let s = root.stat(name.as_bytes()).expect("there");
        assert_eq!((s.kind, s.mode, of(name).as_deref()), (kind, mode, want), "{name}");
    }
    assert_eq!(content(&root, "link"), b"away");
    assert_eq!(unpacked.skipped, [] as [String; 0]);
}

#[test]
fn directories_without_an_entry_are_marked() {
    let m = Make::default;
    for options in [Options::default(), stored()] {
        let tar = m().file("a/b/x", b"").file("c/.wh.y", b"").dir("d/").file("d/x", b"").dir("a/").dir("./").end();
        let (_, root) = whole(&tar, &options);
        let marked = |name| attr(&root, name, "user.overlay.onlay.implied");
        assert_eq!(["a", "d", ""].map(marked), [None, None, None]);
        assert_eq!(
            (marked("c"), attr(&at(&root, "a"), "b", "user.overlay.onlay.implied")),
            (Some(b"y".into()), Some(b"y".into()))
        );
        let (_, root) = whole(&m().file("x", b"").end(), &options);
        assert_eq!(attr(&root, "", "user.overlay.onlay.implied"), Some(b"y".into()));
    }
}

/// A file system may have no attributes.
#[test]
fn what_can_not_be_marked_is_unpacked() {
    let tar = Make::default().file("a/b", b"").dir("a/").dir("./").end();
    let tree = Tree::new(1);
    let root = Handle::Mem(tree.root(true));
    let passes = |n: u64| {
        tree.fail_after(n, crate::vocab::Errno::OPNOTSUPP);
        let passes = unpack(&tar[..], &root, &Options::default(), &|_| {}).is_ok() && !tree.is_faulty();
        tree.fail_after(0, crate::vocab::Errno::OPNOTSUPP);
        root.clear().expect("cleared");
        passes
    };
    // Both marks, and both again when they go.
    assert_eq!((1..30).filter(|n| passes(*n)).count(), 4);
}

#[test]
fn a_root_without_an_entry() {
    for options in [Options::default(), stored()] {
        let root = Handle::Mem(Tree::new(1).root(true));
        root.chmod(b"", 0o700).expect("chmod");
        unpack(&Make::default().file("a", b"").end()[..], &root, &options, &|_| {}).expect("unpacked");
        assert_eq!(root.stat(b"").expect("itself").mode, 0o755);
        let told = attr(&root, "", "user.containers.override_stat");
        assert_eq!(told.as_deref(), (options.owners == Owners::Stored).then_some(&b"0:0:0755:dir"[..]));
    }
}
