//! A view of the lower layers alone beside one that has them under an upper, as engines mount both to find what a step of
//! a build changed: on one device, where the same number means the same object, unchanged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::ctx::{Ctx, Out};
use crate::tree::{Tree, cases, fails, holds, raw_entries, same, xattrs};

cases!("beside":
    same_numbers_for_what_is_the_same.onlay().privileged(), hard_links_below.onlay().privileged(), lives_as_long_as_it_is_used.onlay().privileged(),
    only_for_what_is_alike.onlay().privileged(), of_builds_only.onlay().privileged(),
    attributes_until_there_are_none.onlay().privileged(),
);

/// `PLACE/ID/merged`, as engines have it.
fn place(cx: &Ctx, id: &str) -> Result<Tree> {
    cx.dir.dir(&format!("place/{id}/merged"))?;
    Ok(Tree(cx.dir.p(format!("place/{id}/merged"))))
}

fn call(cx: &Ctx, id: &str, layers: &[&str], upper: bool, more: &str) -> Result<Tree> {
    let at = place(cx, id)?;
    let lowers = layers.iter().map(|l| cx.dir.p(l).display().to_string()).collect::<Vec<_>>().join(":");
    let mut options = format!("lowerdir={lowers}{more}");
    if upper {
        options += &format!(",upperdir={},workdir={},volatile", cx.upper.0.display(), cx.work.0.display());
    }
    Out::of(Command::new(cx.binary()).args(["fuse-overlayfs", "-o", &options]).arg(&at.0))?.ok()?;
    Ok(at)
}

fn umount(at: &Tree) -> Result<()> {
    umount2(&at.0, MntFlags::MNT_DETACH).with_context(|| format!("umount {}", at.0.display()))
}

fn device(at: &Tree) -> Result<u64> {
    Ok(at.0.symlink_metadata()?.dev())
}

/// All that a tool that compares can see of an object, but for times of access and change, and link counts.
type Seen = (u32, u32, u32, u64, u64, i64, Vec<u8>, Vec<(std::ffi::OsString, Vec<u8>)>);

/// Every object by its path, with the number that its directory tells.
fn walk(root: &Tree, at: &str, into: &mut BTreeMap<String, (u64, Seen)>) -> Result<()> {
    for entry in raw_entries(&fs::File::open(root.p(at))?)? {
        let name = entry.name.to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        let full = root.p(&path);
        let st = full.symlink_metadata()?;
        same!((&path, st.ino()), (&path, entry.ino));
        let (size, content) = match entry.kind {
            FileType::Directory => (0, Vec::new()),
            FileType::Symlink => (0, fs::read_link(&full)?.into_os_string().into_encoded_bytes()),
            FileType::RegularFile => (st.size(), fs::read(&full)?),
            _ => (0, Vec::new()),
        };
        let seen = (st.mode(), st.uid(), st.gid(), st.rdev(), size, st.mtime(), content, xattrs(&full)?);
        into.insert(path.clone(), (st.ino(), seen));
        if entry.kind == FileType::Directory {
            walk(root, &path, into)?;
        }
    }
    Ok(())
}

/// Paths that a tool looks at which passes over, with all that is below, what has the same number in both. Fails where it
/// passed over a difference.
fn looked_at(main: &Tree, below: &Tree) -> Result<Vec<String>> {
    same!(device(main)?, device(below)?);
    let (mut new, mut old) = (BTreeMap::new(), BTreeMap::new());
    walk(main, "", &mut new)?;
    walk(below, "", &mut old)?;
    let passed = |path: &str| {
        let number = |all: &BTreeMap<String, (u64, Seen)>, at: &str| all.get(at).map(|(ino, _)| *ino);
        let mut ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
        ends.any(|end| number(&new, &path[..end]).is_some_and(|n| number(&old, &path[..end]) == Some(n)))
    };
    let mut all: Vec<&String> = new.keys().chain(old.keys()).collect();
    all.sort();
    all.dedup();
    let mut looked = Vec::new();
    for path in all {
        let seen = |all: &BTreeMap<String, (u64, Seen)>| all.get(path).map(|(_, seen)| seen.clone());
        if passed(path) {
            same!((path, seen(&new)), (path, seen(&old)));
        } else {
            looked.push(path.clone());
        }
    }
    Ok(looked)
}

fn layers(cx: &Ctx) -> Result<()> {
    for (layer, mark) in [("base", "b"), ("top", "t")] {
        let l = Tree(cx.dir.p(layer));
        for d in ["quiet/deep/er", "busy/deep/er", "shut", "moved/in", "gone", "merged"] {
            l.file(&format!("{d}/{mark}"), mark)?.file(&format!("{d}/both"), mark)?;
        }
        l.symlink("to", &format!("busy/link{mark}"))?;
        l.setx("quiet", "user.there", "yes")?;
    }
    cx.dir.dir("empty")?;
    for name in ["write", "chmod", "replace", "swap", "rename", "remove", "utimes", "xattr", "touch"] {
        cx.dir.file(&format!("base/busy/{name}"), name)?;
    }
    cx.dir.whiteout("top/merged/b")?;
    Ok(())
}

fn same_numbers_for_what_is_the_same(cx: &mut Ctx) -> Result<()> {
    layers(cx)?;
    let main = call(cx, "step", &["top", "base"], true, ",beside=on")?;
    let below = call(cx, "parent", &["top", "base", "empty"], false, ",beside=on")?;
    same!(looked_at(&main, &below)?, Vec::<String>::new());
    fails!(fs::write(below.p("new"), ""), EROFS);
    umount(&below)?;

    // One change of each kind.
    main.append("busy/write", "more")?.mode("busy/chmod", 0o600)?.rm("busy/replace")?.file("busy/replace", "replace")?;
    main.file("busy/.new", "x")?.mv("busy/.new", "busy/swap")?.mv("busy/rename", "busy/renamed")?.rm("busy/remove")?;
    main.times("busy/utimes", 1, 0)?.setx("busy/xattr", "user.new", "x")?.file("busy/deep/new", "new")?;
    fs::set_permissions(main.p("shut"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    main.mv("moved/in", "moved/away")?.mv("moved", "elsewhere")?;
    fs::remove_dir_all(main.p("gone"))?;
    main.file("gone/b", "b")?;
    let below = call(cx, "parent", &["top", "base", "empty"], false, ",beside=on")?;
    let looked = looked_at(&main, &below)?;
    let busy = ["write", "chmod", "replace", "swap", "rename", "renamed", "remove", "utimes", "xattr", "deep", "deep/new"];
    let busy = ["busy".to_owned()].into_iter().chain(busy.map(|name| format!("busy/{name}")));
    let whole = |dir: &str| looked.iter().filter(|p| p.split('/').next() == Some(dir)).cloned().collect::<Vec<_>>();
    let mut expected: Vec<String> = busy.collect();
    for dir in ["elsewhere", "gone", "moved"] {
        let all = whole(dir);
        holds!(all.len() >= 2, "{dir}: {all:?}");
        expected.extend(all);
    }
    expected.push("shut".to_owned());
    expected.sort();
    same!(looked, expected);

    // And what is changed while both are there.
    main.append("quiet/deep/er/both", "!")?;
    let again = call(cx, "again", &["top", "base"], false, ",beside=on")?;
    let looked = looked_at(&main, &again)?;
    holds!(looked.contains(&"quiet/deep/er/both".to_owned()), "{looked:?}");
    holds!(!looked.contains(&"quiet/deep/er/b".to_owned()), "{looked:?}");
    // Data goes from one to the other.
    fs::copy(again.p("quiet/deep/er/t"), main.p("copied"))?;
    same!(main.read("copied")?, "t");
    [&again, &below, &main].into_iter().try_for_each(umount)
}

/// Changed under one name, an object is changed under all, in whatever directory.
fn hard_links_below(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("base/a/one", "old")?.dir("base/b")?.hard("base/a/one", "base/b/two")?.file("base/c/f", "f")?;
    let main = call(cx, "step", &["base"], true, ",beside=on")?;
    main.append("a/one", "er")?;
    same!(main.read("b/two")?, "older");
    let below = call(cx, "parent", &["base"], false, ",beside=on")?;
    let looked = looked_at(&main, &below)?;
    holds!(["a/one", "b/two"].iter().all(|name| looked.contains(&(*name).to_owned())), "{looked:?}");
    holds!(!looked.contains(&"c/f".to_owned()), "{looked:?}");
    [&below, &main].into_iter().try_for_each(umount)
}

fn lives_as_long_as_it_is_used(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("base/f", "x")?;
    // More than there can be: the others have daemons of their own.
    let main = call(cx, "step", &["base"], true, ",beside=on")?;
    let device_of_main = device(&main)?;
    let mut shared = 0;
    for i in 0..12 {
        let below = call(cx, &format!("parent{i}"), &["base"], false, ",beside=on")?;
        shared += u32::from(device(&below)? == device_of_main);
        main.append("f", "!")?;
        same!(below.read("f")?, "x");
        umount(&below)?;
    }
    holds!((2..12).contains(&shared), "{shared} of 12");
    umount(&main)?;
    cx.wait_for_daemons()?;

    // Whichever goes first.
    let main = call(cx, "step", &["base"], true, ",beside=on")?;
    let below = call(cx, "parent", &["base"], false, ",beside=on")?;
    umount(&main)?;
    same!((below.read("f")?, below.ls("")?), ("x".to_owned(), "f".to_owned()));
    umount(&below)?;
    cx.wait_for_daemons()?;
    let main = call(cx, "step", &["base"], true, "")?;
    same!(main.read("f")?, "x!!!!!!!!!!!!");
    umount(&main)
}

fn only_for_what_is_alike(cx: &mut Ctx) -> Result<()> {
    layers(cx)?;
    let main = call(cx, "step", &["top", "base"], true, ",beside=on")?;
    for (layers, more) in [
        (&["base", "top"][..], ",beside=on"),
        (&["top"], ",beside=on"),
        (&["top", "base"], ",beside=on,squash_to_root"),
        (&["top", "base"], ",beside=on,timeout=1"),
        (&["top", "base"], ",beside=off"),
        (&["top", "base"], ""),
    ] {
        let other = call(cx, "other", layers, false, more)?;
        holds!(device(&other)? != device(&main)?, "{layers:?} {more}");
        holds!(other.has("quiet/deep/er/both")?);
        umount(&other)?;
    }
    // Nor for one in another place.
    let far = cx.dir.p("far");
    fs::create_dir(&far)?;
    let lowers = format!("lowerdir={}:{},beside=on", cx.dir.p("top").display(), cx.dir.p("base").display());
    Out::of(Command::new(cx.binary()).args(["fuse-overlayfs", "-o", &lowers]).arg(&far))?.ok()?;
    holds!(device(&Tree(far.clone()))? != device(&main)?);
    umount(&Tree(far))?;
    umount(&main)
}

/// Who calls us says whether it is worth it, and safe: the command line of an engine that builds.
fn of_builds_only(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("base/f", "x")?;
    let [main, below] = ["step", "parent"].map(|id| place(cx, id));
    let (main, below) = (main?, below?);
    let script = "
        \"$ONLAY\" fuse-overlayfs -o lowerdir=base,upperdir=\"$U\",workdir=\"$W\" place/step/merged || exit 1
        \"$ONLAY\" fuse-overlayfs -o lowerdir=base place/parent/merged || exit 1
        exit 0";
    for (word, expected) in [("build", true), ("run", false)] {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "engine", word]).current_dir(&cx.dir.0);
        shell.env("ONLAY", cx.binary()).env("U", &cx.upper.0).env("W", &cx.work.0);
        Out::of(&mut shell)?.ok()?;
        same!((word, device(&below)? == device(&main)?), (word, expected));
        [&below, &main].into_iter().try_for_each(umount)?;
        cx.wait_for_daemons()?;
    }
    Ok(())
}

/// Asks for attributes of all files, as engines do, until the kernel says by itself that there are none at all.
fn none_at_all(at: &Tree, rounds: usize) -> Result<bool> {
    for _ in 0..rounds {
        for i in 0..200 {
            let path = at.p(format!("d/{i}"));
            let list = rustix::fs::llistxattr(&path, &mut [0; 64]);
            match rustix::fs::lgetxattr(&path, "security.capability", &mut [0; 64]) {
                Err(Errno::OPNOTSUPP) => return Ok(true),
                asked => same!((asked, list), (Err(Errno::NODATA), Ok(0))),
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(false)
}

/// Once it is compared, a view with an upper is done with: it is looked through as one that nobody can change.
fn attributes_until_there_are_none(cx: &mut Ctx) -> Result<()> {
    for i in 0..200 {
        cx.dir.file(&format!("base/d/{i}"), "x")?;
    }
    let beside = ",beside=on";
    let main = call(cx, "step", &["base"], true, beside)?;
    // Marks of the union's own are none, and what is gone by then neither.
    main.mode("d/1", 0o600)?.rm("d/2")?.file("d/2", "x")?.setx("d/3", "user.new", "x")?;
    rustix::fs::removexattr(main.p("d/3"), "user.new")?;
    same!(none_at_all(&main, 5)?, false);
    let below = call(cx, "parent", &["base"], false, beside)?;
    same!((none_at_all(&below, 1000)?, none_at_all(&main, 1)?), (true, true));
    fails!(rustix::fs::setxattr(main.p("d/5"), "user.late", b"x", rustix::fs::XattrFlags::empty()), EOPNOTSUPP);
    main.append("d/5", "more")?.mode("d/5", 0o640)?;
    [&below, &main].into_iter().try_for_each(umount)?;
    cx.wait_for_daemons()?;

    // One in the upper, or one that comes while they are compared, and all are asked for.
    let main = call(cx, "step", &["base"], true, beside)?;
    main.setx("d/4", "user.early", "x")?;
    let below = call(cx, "parent", &["base"], false, beside)?;
    same!((none_at_all(&below, 5)?, main.getx("d/4", "user.early")?), (false, Some(b"x".to_vec())));
    [&below, &main].into_iter().try_for_each(umount)?;
    cx.wait_for_daemons()?;
    let main = call(cx, "step", &["base"], true, beside)?;
    rustix::fs::removexattr(main.p("d/4"), "user.early")?;
    let below = call(cx, "parent", &["base"], false, beside)?;
    main.setx("d/6", "user.now", "x")?;
    same!((none_at_all(&below, 5)?, main.getx("d/6", "user.now")?), (false, Some(b"x".to_vec())));
    [&below, &main].into_iter().try_for_each(umount)?;
    cx.wait_for_daemons()?;

    // Not where it is taken back.
    let off = ",beside=on,absent_xattrs=off";
    let main = call(cx, "step", &["base"], true, off)?;
    rustix::fs::removexattr(main.p("d/6"), "user.now")?;
    let below = call(cx, "parent", &["base"], false, off)?;
    same!((none_at_all(&below, 5)?, device(&below)? == device(&main)?), (false, true));
    [&below, &main].into_iter().try_for_each(umount)
}
