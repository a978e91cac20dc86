//! Nonsense on disk: an error or none, a line in the log that names the file, never a panic or a made-up answer.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::case::User;
use crate::ctx::{Ctx, mounts_below};
use crate::tree::{Tree, cases, fails, holds, same};

const BOTH: &[User] = &[User::Root, User::Userns];

cases!("malformed":
    marks_are_ignored.onlay().by(BOTH), redirect_in_upper.onlay().by(BOTH), redirect_in_lower.onlay().by(BOTH),
    redirect_loops.onlay().by(BOTH), redirect_to_another_kind.onlay().by(BOTH), metacopy_without_data.onlay().by(BOTH),
    stored_stat.onlay(), whiteout_at_the_bottom.onlay().by(&[User::Root]), index_entries.onlay().by(&[User::Root]),
    work_leftovers.onlay(), redirects_that_multiply.onlay().by(BOTH),
);

/// Mounts in the foreground, looks, unmounts; what the daemon said.
fn served(cx: &mut Ctx, look: impl Fn(&Tree) -> Result<()>) -> Result<String> {
    let log = cx.dir.p("log");
    let file = std::fs::File::create(&log)?;
    let mut cmd = Command::new(cx.binary());
    cmd.args(cx.mount_args()?).arg("--foreground").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let mut daemon = cmd.current_dir("/").spawn()?;
    let end = Instant::now() + Duration::from_secs(10);
    while mounts_below(&cx.dir.0)?.is_empty() {
        let gone = daemon.try_wait()?;
        holds!(gone.is_none() && Instant::now() < end, "not mounted: {}", std::fs::read_to_string(&log)?);
        std::thread::sleep(Duration::from_millis(5));
    }
    let looked = look(&cx.m);
    let unmounted = cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok();
    let status = daemon.wait()?;
    let said = std::fs::read_to_string(&log)?;
    looked.map_err(|e| e.context(said.clone()))?;
    unmounted?;
    holds!(status.success() && !said.contains("panicked"), "{status}: {said}");
    Ok(said)
}

/// Each of these names is in a line of the log.
fn names(log: &str, files: &[&str]) -> Result<()> {
    for f in files {
        holds!(log.lines().any(|l| l.contains(f)), "nothing about {f} in the log:\n{log}");
    }
    Ok(())
}

fn marks_are_ignored(cx: &mut Ctx) -> Result<()> {
    let p = cx.prefix();
    let attr = |n: &str| format!("{p}{n}");
    let garbage: [(&str, &[u8]); 10] = [
        ("opaque", b"garbage"),
        ("opaque", b""),
        ("origin", b"\xff\x00garbage"),
        ("origin", &[0; 300]),
        ("impure", b"\x00\x01"),
        ("onlay.ino", b"short"),
        ("onlay.ino", b"longer than eight bytes"),
        ("onlay.device", b"8:1"),
        ("nlink", b"U+99999999999999999999"),
        ("nlink", b"\xff"),
    ];
    let (top, bottom) = (cx.lower()?, cx.lower()?);
    for (i, (name, value)) in garbage.iter().enumerate() {
        let (d, f) = (format!("d{i}"), format!("d{i}/f"));
        bottom.file(&f, "below")?.file(&format!("{d}/bottom"), "x")?;
        top.file(&f, "top")?.setx(&f, &attr(name), value)?.setx(&d, &attr(name), value)?;
        cx.upper.file(&f, "upper")?.setx(&f, &attr(name), value)?.setx(&d, &attr(name), value)?;
        top.file(&format!("{d}/g"), "g")?.setx(&format!("{d}/g"), &attr(name), value)?;
    }
    let log = served(cx, |m| {
        for i in 0..garbage.len() {
            let d = format!("d{i}");
            same!((i, m.ls(&d)?), (i, "bottom f g".to_owned()));
            same!((m.read(&format!("{d}/f"))?, m.read(&format!("{d}/bottom"))?), ("upper".into(), "x".into()));
            m.append(&format!("{d}/f"), "+")?.append(&format!("{d}/g"), "+")?.mv(&d, &format!("moved{i}"))?;
            same!(m.read(&format!("moved{i}/g"))?, "g+");
            same!(m.stat(format!("moved{i}/f"))?.nlink(), 1);
        }
        Ok(())
    })?;
    // Each by the place where it is on disk.
    for (i, (name, _)) in garbage.iter().enumerate() {
        let told = |at: &Tree, path: &str| names(&log, &[&format!("{}: {p}{name} is not used", at.p(path).display())]);
        told(&top, &format!("d{i}"))?;
        told(&cx.upper, &format!("d{i}"))?;
    }
    Ok(())
}

const BAD: [(&str, &str); 8] = [
    ("climbs", "../../etc"), ("climbs-later", "/a/../../../etc"), ("dot", "/a/./b"), ("up", ".."), ("root", "/"),
    ("empty", ""), ("many", "a/b"), ("zero", "a\0b"),
];

fn redirect_in_upper(cx: &mut Ctx) -> Result<()> {
    let attr = format!("{}redirect", cx.prefix());
    cx.lower()?.file("a/b/f", "inside")?.file("etc/passwd", "not this")?;
    for (name, path) in BAD {
        cx.upper.file(&format!("{name}/own"), "mine")?.setx(name, &attr, path)?;
    }
    cx.upper.file("missing/own", "mine")?.setx("missing", &attr, "/no/such/place")?;
    cx.upper.file("long/own", "mine")?.setx("long", &attr, "/x".repeat(1500))?;
    let log = served(cx, |m| {
        for (name, path) in BAD.iter().filter(|(n, _)| *n != "many") {
            fails!(std::fs::metadata(m.p(name)), EIO);
            fails!(std::fs::read(m.p(format!("{name}/own"))), EIO);
            holds!(!path.is_empty() || *name == "empty");
        }
        // Nowhere is no place to merge with: the upper's own is all there is.
        same!((m.ls("missing")?, m.ls("long")?, m.ls("a/b")?), ("own".into(), "own".into(), "f".into()));
        Ok(())
    })?;
    names(&log, &["/climbs:", "/climbs-later:", "/dot:", "/up:", "/root:"])
}

fn redirect_in_lower(cx: &mut Ctx) -> Result<()> {
    let attr = format!("{}redirect", cx.prefix());
    let top = cx.lower()?;
    cx.lower()?.file("a/b/f", "inside")?.file("etc/passwd", "not this")?;
    for (name, path) in BAD {
        top.file(&format!("in/{name}/own"), "mine")?.setx(&format!("in/{name}"), &attr, path)?;
    }
    top.file("missing/own", "mine")?.setx("missing", &attr, "/no/such/place")?;
    let log = served(cx, |m| {
        for (name, _) in BAD {
            fails!(std::fs::metadata(m.p(format!("in/{name}"))), EIO);
        }
        same!((m.ls("missing")?, m.read("a/b/f")?), ("own".into(), "inside".into()));
        Ok(())
    })?;
    names(&log, &["/in/climbs:", "/in/climbs-later:", "/in/dot:", "/in/up:", "/in/root:", "/in/many:"])
}

fn redirect_loops(cx: &mut Ctx) -> Result<()> {
    let attr = format!("{}redirect", cx.prefix());
    let (top, bottom) = (cx.lower()?, cx.lower()?);
    for tree in [&cx.upper, &top, &bottom] {
        tree.dir("a")?.setx("a", &attr, "/b")?.dir("b")?.setx("b", &attr, "/a")?;
        tree.dir("c/d")?.setx("c", &attr, "/c/d")?.setx("c/d", &attr, "/c/d/d")?;
        tree.dir("self")?.setx("self", &attr, "self")?;
    }
    served(cx, |m| {
        for n in ["a", "b", "c", "c/d", "self"] {
            m.ls(n)?;
        }
        // Moving one below the other makes no loop either.
        m.mv("a", "b/a")?.ls("b/a").map(drop)
    })
    .map(drop)
}

fn redirect_to_another_kind(cx: &mut Ctx) -> Result<()> {
    let (redirect, metacopy) = (format!("{}redirect", cx.prefix()), format!("{}metacopy", cx.prefix()));
    let top = cx.lower()?;
    cx.lower()?.file("file", "data")?.file("dir/f", "")?.symlink("/etc/passwd", "link")?.file("real/f", "x")?;
    for tree in [&top, &cx.upper] {
        for (to, name) in [("/file", "d1"), ("/link", "d2"), ("/link/x", "d3"), ("/file/x", "d4")] {
            tree.file(&format!("{name}/own"), "mine")?.setx(name, &redirect, to)?;
        }
        for (to, name) in [("/dir", "m1"), ("/link", "m2"), ("/none", "m3")] {
            tree.file(name, "")?.setx(name, &metacopy, "")?.setx(name, &redirect, to)?.rw(name)?.set_len(5)?;
        }
    }
    let log = served(cx, |m| {
        for n in ["d1", "d2", "d3", "d4"] {
            same!((n, m.ls(n)?), (n, "own".to_owned()));
        }
        for n in ["m1", "m2", "m3"] {
            fails!(std::fs::read(m.p(n)), EIO);
        }
        Ok(())
    })?;
    names(&log, &["/m1:", "/m2:", "/m3:"])
}

fn metacopy_without_data(cx: &mut Ctx) -> Result<()> {
    let attr = format!("{}metacopy", cx.prefix());
    let (top, bottom) = (cx.lower()?, cx.lower()?);
    for (tree, name) in [(&cx.upper, "upper"), (&top, "top"), (&bottom, "bottom")] {
        tree.file(name, "")?.setx(name, &attr, "")?.rw(name)?.set_len(100_000)?;
    }
    // Of a later version than the kernel's 0; of a length of its own; with a digest, as fs-verity's.
    let digest = [&[0, 36, 0, 1][..], &[7; 32]].concat();
    for (name, value) in [("newer", &[1, 4, 0, 0][..]), ("garbage", b"garbage"), ("verity", &digest)] {
        for (tree, name) in [(&top, name.to_owned()), (&cx.upper, format!("{name}-up"))] {
            tree.file(&name, "")?.setx(&name, &attr, value)?.rw(&name)?.set_len(4)?;
            bottom.file(&name, "data")?;
        }
    }
    let log = served(cx, |m| {
        for n in ["upper", "top", "bottom", "newer", "garbage", "newer-up", "garbage-up"] {
            fails!(std::fs::read(m.p(n)), EIO);
            fails!(std::fs::OpenOptions::new().append(true).open(m.p(n)), EIO);
        }
        same!(m.ls("")?, "bottom garbage garbage-up newer newer-up top upper verity verity-up");
        same!((m.read("verity")?, m.read("verity-up")?), ("data".to_owned(), "data".to_owned()));
        Ok(())
    })?;
    names(&log, &["/upper:", "/top:", "/bottom:", "/newer:", "/garbage:", "/newer-up:", "/garbage-up:"])
}

fn stored_stat(cx: &mut Ctx) -> Result<()> {
    let attr = "user.containers.override_stat";
    let low = cx.lower()?;
    low.setx("", attr, "0:0:0755:dir")?;
    let garbage = ["", "garbage", "1:2", "-1:0:0644:file", "0:0:0999:file", "0:0:0644:door", "0:0:0644:char-1", "\u{1f980}"];
    for (i, value) in garbage.iter().enumerate() {
        low.file(&format!("f{i}"), "x")?.mode(&format!("f{i}"), 0o640)?.setx(&format!("f{i}"), attr, value)?;
    }
    // It says that a directory is a file, and the reverse.
    low.dir("d")?.setx("d", attr, "0:0:0755:file")?.file("f", "x")?.setx("f", attr, "0:0:0755:dir")?;
    // These two are root's now.
    let privileged = cx.privileged();
    let log = served(cx, |m| {
        for i in 0..garbage.len() {
            let n = format!("f{i}");
            same!((i, m.read(&n)?, m.bits(&n)?), (i, "x".to_owned(), 0o640));
            m.append(&n, "+")?;
        }
        holds!(m.stat("d")?.is_dir() && m.stat("f")?.is_file(), "a type that can't be");
        if privileged {
            m.file("d/new", "")?.append("f", "+")?;
        }
        Ok(())
    })?;
    (0..garbage.len()).try_for_each(|i| names(&log, &[&format!("/f{i}: {attr} is not used")]))
}

fn whiteout_at_the_bottom(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "")?;
    cx.lower()?.whiteout("w")?.whiteout("d/w")?.whiteout("d/f")?;
    served(cx, |m| {
        same!((m.ls("")?, m.ls("d")?), ("d".to_owned(), "f".to_owned()));
        fails!(std::fs::metadata(m.p("w")), ENOENT);
        m.file("w", "new")?.rm("d/f")?;
        same!((m.ls("d")?, m.read("w")?), (String::new(), "new".to_owned()));
        Ok(())
    })
    .map(drop)
}

fn index_entries(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "data")?.hard("a", "b")?.hard("a", "c")?;
    let m = cx.mount()?;
    m.append("a", "+")?;
    cx.umount()?;
    cx.wait_for_daemons()?;
    let entries = cx.work.ls("index")?;
    same!(entries.split(' ').count(), 1);
    // Names that are no handles, a stale one, directories, whiteouts; and the real one says nonsense.
    cx.work.file("index/garbage", "")?.file("index/00fb", "")?.dir("index/00fb1d00")?.whiteout("index/00fb1d")?;
    cx.work.file("index/00fb1d0001000000000000000000000000000000000a40220023327a04", "stale")?;
    cx.work.setx(&format!("index/{entries}"), "trusted.overlay.nlink", "garbage")?;
    let check = |m: &Tree| -> Result<()> {
        for n in ["a", "b", "c"] {
            same!((n, m.read(n)?), (n, "data+".to_owned()));
        }
        same!(m.stat("a")?.ino(), m.stat("c")?.ino());
        m.append("c", "-")?;
        same!(m.read("b")?, "data+-");
        m.rm("b")?.rm("c")?;
        same!((m.ls("")?, m.read("a")?), ("a".to_owned(), "data+-".to_owned()));
        Ok(())
    };
    served(cx, check).map(drop)
}

fn work_leftovers(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    cx.work.file("work/#0", "half")?.file("work/#1/deep/er", "")?.dir("work/whiteout#2")?.symlink("/etc", "work/#3")?;
    cx.work.mode("work/#1/deep", 0o000)?.file("mine", "not ours to remove")?;
    served(cx, |m| {
        same!(m.ls("")?, "f");
        m.append("f", "+")?.rm("f").map(drop)
    })?;
    same!(cx.work.read("mine")?, "not ours to remove");
    Ok(())
}

fn redirects_that_multiply(cx: &mut Ctx) -> Result<()> {
    // Each step of a path asks for two more in the layer below.
    let attr = format!("{}redirect", cx.prefix());
    for _ in 0..40 {
        cx.lower()?.dir("x/x")?.setx("x", &attr, "/x/x")?.setx("x/x", &attr, "/x/x")?;
    }
    let start = Instant::now();
    let log = served(cx, |m| {
        fails!(std::fs::metadata(m.p("x")), EIO);
        same!(m.ls("")?, "x");
        Ok(())
    })?;
    holds!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    names(&log, &["too many redirects"])
}
