//! A union over an image index is the union over its layers: the same names, numbers, metadata, attributes and data, and
//! the same after any changes, mounted with the index or without.

use std::collections::BTreeMap;
use std::path::PathBuf;

use onlay::layer::{Handle, mem};
use onlay::overlay::{Config, Layers, Lower, Overlay, ROOT, Upper, build_index};
use onlay::vocab::dialect::Prefix;
use onlay::vocab::ids::{IdMap, IdMaps};
use onlay::vocab::{Kind, Stat, Timestamp};
use proptest::prelude::*;

use super::check::{Harness, Where, same};
use super::{failed, layers, memory, ops, prefix, runner};

/// All that a program can find out about an object, but for the time of its last access.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    stat: Stat,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    data: Vec<u8>,
    /// By name: number and kind, as the listing tells.
    entries: BTreeMap<Vec<u8>, (u64, Kind)>,
}

fn seen(view: &Overlay) -> BTreeMap<Vec<u8>, Seen> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(Vec::new(), ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let mut stat = view.getattr(ino).expect("getattr").stat;
        stat.atime = Timestamp::default();
        let mut data = vec![0; stat.size as usize + 1];
        match stat.kind {
            Kind::File => {
                let n = view.read(ino, 0, &mut data).expect("read");
                data.truncate(n);
            }
            Kind::Symlink => data = view.readlink(ino).expect("readlink"),
            _ => data.clear(),
        }
        let names = view.listxattr(ino).expect("listxattr").into_iter();
        let xattrs = names.map(|a| (a.clone(), view.getxattr(ino, &a).expect("getxattr"))).collect();
        let mut entries = BTreeMap::new();
        if stat.kind == Kind::Dir {
            view.readdir(ino, 2, &mut |e| {
                entries.insert(e.name.to_vec(), (e.ino, e.kind));
                false
            })
            .expect("readdir");
        }
        for name in entries.keys() {
            let attr = view.lookup(ino, name).expect("listed");
            assert_eq!(entries[name], (attr.ino, attr.stat.kind), "readdir and lookup");
            todo.push(([&path, &b"/"[..], name].concat(), attr.ino));
        }
        all.insert(path, Seen { stat, xattrs, data, entries });
    }
    all
}

fn all_places() -> impl Strategy<Value = Where> {
    prop_oneof![3 => memory(), 1 => Just(Where::Disk)]
}

#[test]
fn the_same_is_seen() {
    runner(300, 4)
        .run(&(layers(), all_places(), prefix()), |(layers, place, prefix)| {
            let mut h = Harness::new(&layers, place, prefix);
            if layers.is_empty() {
                return Ok(());
            }
            h.index(true);
            let (by_index, by_dirs) = (seen(&h.lowers_alone(true)), seen(&h.lowers_alone(false)));
            for (path, want) in &by_dirs {
                same(&by_index.get(path), &Some(want), &String::from_utf8_lossy(path));
            }
            same(&by_index.len(), &by_dirs.len(), "objects");
            h.check_read_only();
            Ok(())
        })
        .unwrap_or_else(failed);
}

#[test]
fn the_same_happens() {
    let input = (layers(), all_places(), prefix(), any::<bool>(), prop::collection::vec(ops::op(), 0..40));
    runner(400, 4)
        .run(&input, |(layers, place, prefix, first, ops)| {
            let mut h = Harness::new(&layers, place, prefix);
            h.index(first);
            let (before, after) = ops.split_at(ops.len() / 2);
            before.iter().for_each(|op| h.run(op));
            // Numbers and content outlast a mount of the other kind.
            h.index(!first);
            after.iter().for_each(|op| h.run(op));
            h.check();
            Ok(())
        })
        .unwrap_or_else(failed);
}

#[test]
fn with_stored_owners() {
    let input = (layers(), memory(), prop::collection::vec(ops::op(), 0..30));
    runner(150, 10)
        .run(&input, |(layers, place, ops)| {
            let mut h = Harness::new(&layers, place, Prefix::User);
            h.store_owners();
            h.index(true);
            ops.iter().for_each(|op| h.run(op));
            h.check();
            Ok(())
        })
        .unwrap_or_else(failed);
}

/// What the random layers do not have.
#[test]
fn layers_of_container_tools() {
    let trees = [mem::Tree::new(5), mem::Tree::new(6), mem::Tree::new(7)];
    let [top, middle, bottom] = trees.each_ref().map(|t| Handle::Mem(t.root(true)));
    let file = |dir: &Handle, name: &[u8], data: &[u8]| {
        dir.create(name, 0o640).and_then(|f| f.write_at(data, 0)).expect("a file");
    };
    let mark = |dir: &Handle, name: &[u8], attr: &str, value: &[u8]| {
        dir.setxattr(name, attr.as_bytes(), value, 0).expect("an attribute");
    };
    for dir in [&top, &middle, &bottom] {
        dir.mkdir(b"etc", 0o755).expect("mkdir");
        let etc = dir.open_dir(b"etc").expect("etc");
        for i in 0..300 {
            file(&etc, format!("file {i} {}", "x".repeat(i % 200)).as_bytes(), b"content");
        }
    }
    let [top_etc, middle_etc, bottom_etc] = [&top, &middle, &bottom].map(|d| d.open_dir(b"etc").expect("etc"));
    // Metadata on top of data two layers below, under another name.
    file(&bottom_etc, b"data", &[b'd'; 5000]);
    for (dir, redirect) in [(&top_etc, None), (&middle_etc, Some(b"/etc/data"))] {
        dir.create(b"hollow", 0o600).and_then(|f| f.truncate(5000)).expect("a file");
        mark(dir, b"hollow", "user.overlay.metacopy", b"");
        if let Some(to) = redirect {
            mark(dir, b"hollow", "user.overlay.redirect", to);
        }
    }
    // A directory that was renamed below: all in it is somewhere else on disk.
    bottom.mkdir(b"old", 0o700).expect("mkdir");
    bottom.open_dir(b"old").and_then(|d| d.mkdir(b"deep", 0o700)).expect("mkdir");
    file(&bottom.open_dir(b"old").and_then(|d| d.open_dir(b"deep")).expect("deep"), b"file", b"moved");
    middle.mknod(b"old", Kind::Char, 0, 0).expect("whiteout");
    middle.mkdir(b"new", 0o711).expect("mkdir");
    mark(&middle, b"new", "user.overlay.redirect", b"/old");
    // Owners in an attribute, in the middle layer only; what stands for a device and for a link.
    mark(&middle, b"", "user.containers.override_stat", b"0:0:0755:dir");
    mark(&middle_etc, b"file 1 x", "user.containers.override_stat", b"33:44:04711:file");
    mark(&top_etc, b"file 2 xx", "user.containers.override_stat", b"55:66:0600:file");
    for (name, stored) in [(&b"null"[..], &b"0:0:0666:char-1-3"[..]), (b"ln", b"7:7:0777:symlink")] {
        file(&middle, name, b"etc/data");
        mark(&middle, name, "user.containers.override_stat", stored);
    }
    file(&middle, b"zero", b"");
    mark(&middle, b"zero", "user.overlay.onlay.device", b"0:0");
    mark(&middle, b"", "user.overlay.onlay.devices", b"y");
    // Hidden in AUFS's words and fuse-overlayfs's; a union inside of the union.
    file(&top, b".wh.gone", b"");
    file(&bottom, b"gone", b"");
    for name in [&b"opaque"[..], b"fuse-opaque"] {
        for (dir, inside) in [(&top, &b"above"[..]), (&bottom, b"below")] {
            dir.mkdir(name, 0o755).expect("mkdir");
            file(&dir.open_dir(name).expect("open_dir"), inside, b"");
        }
    }
    file(&top.open_dir(b"opaque").expect("open_dir"), b".wh..wh..opq", b"");
    mark(&top, b"fuse-opaque", "user.fuseoverlayfs.opaque", b"y");
    mark(&top, b"fuse-opaque", "user.overlay.overlay.opaque", b"y");
    mark(&top, b"fuse-opaque", "trusted.overlay.opaque", b"of another spelling");
    bottom.link(b"gone", &bottom, b"another name").expect("link");

    let lowers = || trees.iter().map(|t| Lower { dir: Handle::Mem(t.root(false)) }).collect::<Vec<_>>();
    let dir = tempfile::tempdir().expect("a directory");
    let index = dir.path().join("index");
    let ids = IdMap::parse("0:1000:60").expect("a map");
    for aufs in [true, false] {
        build_index(lowers(), Prefix::User, aufs, &index).expect("built");
        for config in [
            Config::default(),
            Config { stored_owners: true, foreign_as_root: true, ..Config::default() },
            Config { ids: IdMaps { uid: ids.clone(), gid: ids.clone() }, ..Config::default() },
        ] {
            let config = Config { prefix: Some(Prefix::User), aufs, ..config };
            let view = |index: Option<PathBuf>| {
                let wanted = index.is_some();
                let layers = Layers { upper: None, lowers: lowers() };
                let view = Overlay::new(layers, Config { index, ..config.clone() }).expect("a union");
                assert_eq!(view.uses_index(), wanted);
                seen(&view)
            };
            let (by_index, by_dirs) = (view(Some(index.clone())), view(None));
            assert_eq!(by_dirs.get(&b"/etc/hollow"[..]).map(|s| s.data.len()), Some(5000));
            assert_eq!(by_dirs.get(&b"/new/deep/file"[..]).map(|s| &s.data[..]), Some(&b"moved"[..]));
            assert_eq!(by_dirs.get(&b"/ln"[..]).map(|s| s.stat.kind), Some(Kind::Symlink));
            assert_eq!(by_dirs.contains_key(&b"/gone"[..]), !aufs);
            for (path, want) in &by_dirs {
                same(&by_index.get(path), &Some(want), &String::from_utf8_lossy(path));
            }
            same(&by_index.len(), &by_dirs.len(), "objects");
        }
    }
}

/// A directory that an archive had no entry for is as it is below; where nobody has more of it, as it is.
#[test]
fn implied_directories_are_as_they_are_below() {
    let tree = mem::Tree::new(5);
    let root = Handle::Mem(tree.root(true));
    let layers = [("top", 0o700, true), ("middle", 0o701, true), ("bottom", 0o1777, false)];
    for (layer, mode, implied) in layers {
        root.mkdir(layer.as_bytes(), mode).expect("mkdir");
        let at = root.open_dir(layer.as_bytes()).expect("open_dir");
        at.mkdir(b"d", mode).and_then(|()| at.mkdir(format!("only in {layer}").as_bytes(), mode)).expect("mkdir");
        at.setxattr(b"d", b"user.of", layer.as_bytes(), 0).expect("an attribute");
        at.open_dir(b"d").and_then(|d| d.create(layer.as_bytes(), 0o644)).expect("a file");
        for name in [&b""[..], b"d", format!("only in {layer}").as_bytes()] {
            if implied {
                at.setxattr(name, b"user.overlay.onlay.implied", b"y", 0).expect("a mark");
            }
        }
    }
    let lowers = || {
        let open =
            |(name, ..): &(&str, u32, bool)| Handle::Mem(tree.root(false)).open_dir(name.as_bytes()).expect("open_dir");
        layers.iter().map(|layer| Lower { dir: open(layer) }).collect::<Vec<_>>()
    };
    let dir = tempfile::tempdir().expect("a directory");
    let index = dir.path().join("index");
    build_index(lowers(), Prefix::User, false, &index).expect("built");
    let view = |index: Option<PathBuf>, upper: Option<Upper>| {
        let config = Config { prefix: Some(Prefix::User), aufs: false, index, ..Config::default() };
        Overlay::new(Layers { upper, lowers: lowers() }, config).expect("a union")
    };
    let (by_index, by_dirs) = (seen(&view(Some(index.clone()), None)), seen(&view(None, None)));
    same(&by_index, &by_dirs, "with and without an index");
    for path in ["", "/d", "/only in bottom"] {
        assert_eq!(by_dirs[path.as_bytes()].stat.mode, 0o1777, "{path}");
    }
    assert_eq!((by_dirs[&b"/only in top"[..]].stat.mode, by_dirs[&b"/only in middle"[..]].stat.mode), (0o700, 0o701));
    let d = &by_dirs[&b"/d"[..]];
    let attrs: Vec<_> = d.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    assert_eq!((attrs, d.entries.len()), (vec![(&b"user.of"[..], &b"bottom"[..])], 3));
    // Copied up, too.
    for (n, index) in [None, Some(index)].into_iter().enumerate() {
        let part = |what: &str| {
            let name = format!("{what}{n}").into_bytes();
            root.mkdir(&name, 0o755).and_then(|()| root.open_dir(&name)).expect("mkdir")
        };
        let view = view(index, Some(Upper { dir: part("upper"), work: part("work") }));
        let ino = view.lookup(ROOT, b"d").expect("there").ino;
        view.setxattr(ino, b"user.new", b"", 0).expect("set");
        let attr = view.lookup(ROOT, b"d").expect("there");
        assert_eq!((attr.ino, attr.stat.mode), (ino, 0o1777));
        assert_eq!(view.getxattr(ino, b"user.of"), Ok(b"bottom".to_vec()));
    }
}

/// An index that is not theirs, or can't be read, is not used; the view is the same without.
#[test]
fn a_wrong_index_does_no_harm() {
    let (one, other) = (mem::Tree::new(5), mem::Tree::new(6));
    for tree in [&one, &other] {
        Handle::Mem(tree.root(true)).mkdir(format!("of {tree:p}").as_bytes(), 0o755).expect("mkdir");
    }
    let lowers = || vec![Lower { dir: Handle::Mem(one.root(false)) }];
    let dir = tempfile::tempdir().expect("a directory");
    let index = dir.path().join("index");
    let view = || {
        let config = Config { prefix: Some(Prefix::User), index: Some(index.clone()), ..Config::default() };
        Overlay::new(Layers { upper: None, lowers: lowers() }, config).expect("a union")
    };
    let want = seen(&view());
    let absent = view();
    std::fs::write(&index, b"not an index").expect("write");
    let nonsense = view();
    std::fs::remove_file(&index).expect("remove");
    build_index(vec![Lower { dir: Handle::Mem(other.root(false)) }], Prefix::User, false, &index).expect("built");
    let of_others = view();
    build_index(lowers(), Prefix::User, true, &index).expect("built");
    let read_otherwise = view();
    for view in [absent, nonsense, of_others, read_otherwise] {
        assert!(!view.uses_index());
        same(&seen(&view), &want, "without an index");
    }
    build_index(lowers(), Prefix::User, false, &index).expect("built");
    assert!(view().uses_index());
    let at = tempfile::tempdir().expect("a directory");
    let fails = build_index(lowers(), Prefix::User, false, &at.path().join("none/index")).expect_err("no directory");
    assert!(fails.to_string().contains("none/index"), "{fails}");
    assert_eq!(std::fs::read_dir(at.path()).expect("list").count(), 0);
}
