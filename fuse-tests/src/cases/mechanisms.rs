//! What saves requests: switched on and off, and counted.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::Result;
use rustix::io::Errno;

use crate::case::{User, skip};
use crate::ctx::Ctx;
use crate::requests::{Counter, Requests};
use crate::sys::Map;
use crate::tree::{Tree, cases, fails, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("mechanisms":
    are_told.onlay(), nonsense_is_refused.onlay(), hot_open_asks_nothing.onlay().by(ROOT),
    absent_names_are_kept.onlay().by(ROOT), a_listing_is_kept.onlay().by(ROOT), writes_ask_once.onlay().by(ROOT),
    readahead.onlay().by(ROOT), passthrough_of_the_upper.onlay().by(ROOT), passthrough_of_a_view.onlay().by(ROOT),
    passthrough_after_copy_up.onlay().by(ROOT), passthrough_of_a_map.onlay().by(ROOT),
    passthrough_is_for_root.onlay().by(&[User::Ordinary, User::Userns]), writeback_merges.onlay().by(ROOT),
    writeback_keeps_times.onlay(), absent_xattrs.onlay(), present_xattrs.onlay(),
    attributes_come_with_names.onlay().by(ROOT),
    writeback_tells_no_holes.onlay(), writeback_and_passthrough.onlay().by(ROOT),
    birth_is_asked_once.onlay().by(ROOT),
);

/// Mounts with options; what `-v` says.
fn mount(cx: &mut Ctx, options: &str) -> Result<String> {
    let mut args = cx.mount_args()?;
    args.extend(["-v", "-o", options].map(str::to_owned));
    let said = cx.onlay(&args)?.ok()?.stderr;
    if said.contains("passthrough: off (the kernel or the transport does not offer it)") && cx.user == User::Root {
        umount(cx)?;
        return Err(skip("no passthrough by this transport or kernel"));
    }
    Ok(said)
}

fn umount(cx: &Ctx) -> Result<()> {
    cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    cx.wait_for_daemons()
}

/// The requests of `f` on a mount with these options.
fn counted(cx: &mut Ctx, options: &str, f: impl FnOnce(&Tree) -> Result<()>) -> Result<Requests> {
    let dir = tempfile::tempdir()?;
    let counter = Counter::new(dir.path()).map_err(|e| skip(format!("requests can't be counted: {e:#}")))?;
    mount(cx, options)?;
    let requests = counter.count(&cx.m.0, || f(&cx.m));
    umount(cx)?;
    requests?
}

fn of(requests: &Requests, name: &str) -> u64 {
    requests.get(name).copied().unwrap_or_default()
}

fn are_told(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let names = ["negative_entries", "no_open", "dir_cache", "killpriv"];
    let said = mount(cx, "")?;
    for name in names {
        holds!(said.contains(&format!("{name}: on (")), "{name} in {said}");
    }
    for name in ["passthrough", "writeback", "btime"] {
        holds!(said.contains(&format!("{name}: off (")), "{name} in {said}");
    }
    holds!(said.contains("readahead: "), "{said}");
    umount(cx)?;
    let all_off: Vec<_> = names.iter().map(|name| format!("{name}=off")).collect();
    let said = mount(cx, &all_off.join(","))?;
    for name in names {
        holds!(said.contains(&format!("{name}: off (as asked)")), "{name} in {said}");
    }
    // It works all the same.
    same!(cx.m.read("f")?, "x");
    cx.m.append("f", "y")?.file("new", "z")?.rm("new")?;
    fails!(std::fs::read(cx.m.p("new")), ENOENT);
    same!((cx.m.ls("")?, cx.m.read("f")?), ("f".to_owned(), "xy".to_owned()));
    umount(cx)
}

fn nonsense_is_refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?;
    for options in ["no_open=perhaps", "readahead=far", "killpriv=2"] {
        let mut args = cx.mount_args()?;
        args.extend(["-o".to_owned(), options.to_owned()]);
        let out = cx.onlay(&args)?;
        holds!(out.code == 1 && out.stderr.contains(options) && out.stderr.contains("hint:"), "{out:?}");
    }
    Ok(())
}

fn hot_open_asks_nothing(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    for (options, opens) in [("no_open=on", 0), ("no_open=off", 20)] {
        let requests = counted(cx, options, |m| {
            // The first one is answered in any case.
            File::open(m.p("f"))?;
            (0..20).try_for_each(|_| File::open(m.p("f")).map(drop)).map_err(Into::into)
        })?;
        holds!((opens..=opens + 1).contains(&of(&requests, "OPEN")), "{options}: {requests:?}");
    }
    Ok(())
}

fn absent_names_are_kept(cx: &mut Ctx) -> Result<()> {
    cx.lower()?;
    for (options, asked) in [("negative_entries=on", 1), ("negative_entries=off", 20)] {
        let requests = counted(cx, options, |m| {
            for _ in 0..20 {
                fails!(std::fs::metadata(m.p("none")), ENOENT);
            }
            Ok(())
        })?;
        same!((options, of(&requests, "LOOKUP")), (options, asked));
    }
    Ok(())
}

fn a_listing_is_kept(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?;
    for (options, again) in [("dir_cache=on", false), ("dir_cache=off", true)] {
        let requests = counted(cx, options, |m| {
            for _ in 0..20 {
                same!(m.ls("d")?, "f");
            }
            Ok(())
        })?;
        let asked = of(&requests, "READDIR") + of(&requests, "READDIRPLUS");
        holds!((asked >= 20) == again, "{options}: {requests:?}");
    }
    Ok(())
}

fn writes_ask_once(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    for (options, asked) in [("killpriv=on", 1), ("killpriv=off", 20)] {
        let requests = counted(cx, options, |m| {
            let f = m.rw("f")?;
            (0..20).try_for_each(|i| f.write_all_at(b"y", i)).map_err(Into::into)
        })?;
        same!((options, of(&requests, "WRITE"), of(&requests, "GETXATTR")), (options, 20, asked));
    }
    Ok(())
}

/// A list is read to its end before anything in it is looked at, as Go does.
fn attributes_come_with_names(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    (0..500).try_for_each(|i| low.file(&format!("d/{i}"), "x").map(drop))?;
    let requests = counted(cx, "", |m| {
        let names = std::fs::read_dir(m.p("d"))?.collect::<std::io::Result<Vec<_>>>()?;
        same!(names.len(), 500);
        for name in &names {
            holds!(name.metadata()?.len() == 1);
        }
        Ok(())
    })?;
    // That of the directory itself.
    same!(of(&requests, "LOOKUP"), 1);
    Ok(())
}

/// Asks each file for attributes, as engines do that compare and pack trees, until the answer is that there are none at all.
fn ask_for_xattrs(m: &Tree, rounds: usize) -> Result<bool> {
    for _ in 0..rounds {
        for name in (0..200).map(|i| format!("d/{i}")) {
            let list = rustix::fs::llistxattr(m.p(&name), &mut [0; 64]);
            match rustix::fs::lgetxattr(m.p(&name), "user.none", &mut [0; 64]) {
                Err(Errno::OPNOTSUPP) => return Ok(true),
                other => same!((other, list), (Err(Errno::NODATA), Ok(0))),
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(false)
}

fn absent_xattrs(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    (0..200).try_for_each(|i| low.file(&format!("d/{i}"), "x").map(drop))?;
    let (lower, at) = (low.0.display().to_string(), cx.m.0.display().to_string());
    let like_engines = format!("lowerdir={lower}");
    for (args, rounds, none_at_all) in [
        (["mount", "-o", &format!("lowerdir={lower},absent_xattrs=on"), &at], 1000, true),
        (["fuse-overlayfs", "-o", &like_engines, &at], 1000, true),
        (["fuse-overlayfs", "-o", &format!("{like_engines},absent_xattrs=off"), &at], 5, false),
        (["fuse-overlayfs", "-o", &format!("{like_engines},timeout=1"), &at], 5, false),
        (["mount", "-o", &like_engines, &at], 5, false),
    ] {
        cx.onlay(&args)?.ok()?;
        same!((args[2], ask_for_xattrs(&cx.m, rounds)?), (args[2], none_at_all));
        same!(cx.m.read("d/7")?, "x");
        umount(cx)?;
    }
    // What can be written to may get some at any time.
    mount(cx, "absent_xattrs=on")?;
    same!(ask_for_xattrs(&cx.m, 5)?, false);
    cx.m.setx("d/7", "user.none", "there")?;
    same!(cx.m.getx("d/7", "user.none")?, Some(b"there".to_vec()));
    umount(cx)
}

/// One file among many has one: wherever it is, it is found.
fn present_xattrs(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    (0..200).try_for_each(|i| low.file(&format!("d/{i}"), "x").map(drop))?;
    low.file("e/deep/f", "x")?.setx("e/deep/f", "user.there", "yes")?;
    cx.record_lowers()?;
    let (lower, at) = (low.0.display().to_string(), cx.m.0.display().to_string());
    cx.onlay(&["mount", "-o", &format!("lowerdir={lower},absent_xattrs=on"), &at])?.ok()?;
    same!(ask_for_xattrs(&cx.m, 30)?, false);
    same!(cx.m.getx("e/deep/f", "user.there")?, Some(b"yes".to_vec()));
    umount(cx)
}

fn readahead(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![7; 4 << 20])?;
    let mut reads = Vec::new();
    for (options, says) in [("readahead=off", "128 KiB"), ("readahead=512", "512 KiB"), ("readahead=auto", "384 KiB")] {
        let said = mount(cx, options)?;
        holds!(said.contains(&format!("readahead: {says}")), "{options}: {said}");
        umount(cx)?;
        let requests = counted(cx, options, |m| {
            holds!(std::fs::read(m.p("f"))? == vec![7; 4 << 20]);
            Ok(())
        })?;
        reads.push(of(&requests, "READ"));
    }
    holds!(reads[0] >= 32 && reads[2] < reads[0] / 2, "READs: {reads:?}");
    Ok(())
}

const STRAIGHT: &str = "passthrough";
/// By whoever carries requests.
const EACH: [&str; 3] = ["passthrough,transport=fuser", "passthrough,transport=device", "passthrough,transport=uring"];

fn passthrough_of_the_upper(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", "x")?;
    for options in EACH {
        let requests = counted(cx, options, |m| {
            m.file("new", vec![1; 1 << 20])?;
            same!(std::fs::read(m.p("new"))?.len(), 1 << 20);
            m.append("new", "end")?;
            same!(m.stat("new")?.len(), (1 << 20) + 3);
            // Somebody may write to it while it is read, so it is read through us.
            same!(m.read("low")?, "x");
            Ok(())
        })?;
        same!((options, of(&requests, "READ"), of(&requests, "WRITE")), (options, 1, 0));
        same!(cx.upper.stat("new")?.len(), (1 << 20) + 3);
        cx.upper.rm("new")?;
    }
    Ok(())
}

fn passthrough_of_a_view(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", vec![1; 1 << 20])?;
    let dir = tempfile::tempdir()?;
    let counter = Counter::new(dir.path()).map_err(|e| skip(format!("requests can't be counted: {e:#}")))?;
    let (lower, at) = (low.0.display().to_string(), cx.m.0.display().to_string());
    mount(cx, STRAIGHT)?;
    umount(cx)?;
    cx.onlay(&["mount", "-o", STRAIGHT, "--lower", &lower, &at])?.ok()?;
    let requests = counter.count(&cx.m.0, || {
        holds!(std::fs::read(cx.m.p("f"))? == vec![1; 1 << 20]);
        Ok(())
    });
    umount(cx)?;
    same!(of(&requests??, "READ"), 0);
    Ok(())
}

/// The lower's file must serve no reader once there may be a writer; and while one opened it through us, all do.
fn passthrough_after_copy_up(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "lower")?;
    for options in EACH {
        copied_up_while_open(cx, options)?;
        for name in ["f", "g"] {
            cx.upper.rm(name)?;
        }
    }
    Ok(())
}

fn copied_up_while_open(cx: &mut Ctx, options: &str) -> Result<()> {
    mount(cx, options)?;
    let m = cx.m.clone();
    let (reader, writer) = (m.ro("f")?, m.rw("f")?);
    let read = |f: &File| -> Result<String> {
        let mut buf = [0; 64];
        let n = f.read_at(&mut buf, 0)?;
        Ok(String::from_utf8_lossy(&buf[..n]).into_owned())
    };
    same!(read(&reader)?, "lower");
    writer.write_all_at(b"upper", 0)?;
    let late = m.rw("f")?;
    same!((read(&reader)?, read(&late)?), ("upper".to_owned(), "upper".to_owned()));
    late.write_all_at(b"later", 0)?;
    same!((read(&reader)?, read(&writer)?), ("later".to_owned(), "later".to_owned()));
    drop((reader, writer, late));
    // Now straight, for all again.
    let (one, other) = (m.rw("f")?, m.ro("f")?);
    one.write_all_at(b"STRAIGHT", 0)?;
    m.hard("f", "g")?.rm("f")?;
    same!((read(&other)?, m.read("g")?, m.stat("g")?.len()), ("STRAIGHT".to_owned(), "STRAIGHT".to_owned(), 8));
    drop((one, other));
    umount(cx)?;
    same!((cx.upper.read("g")?, cx.upper.ls("")?), ("STRAIGHT".to_owned(), "f g".to_owned()));
    Ok(())
}

/// What is written through a map of a file that was closed is seen, and moves its time.
fn passthrough_of_a_map(cx: &mut Ctx) -> Result<()> {
    cx.lower()?;
    EACH.into_iter().try_for_each(|options| mapped(cx, options))
}

fn mapped(cx: &mut Ctx, options: &str) -> Result<()> {
    mount(cx, options)?;
    let m = cx.m.clone();
    m.file("f", vec![b'a'; 8192])?.times("f", 5, 5)?;
    same!(m.stat("f")?.mtime(), 5);
    let map = Map::shared(&m.rw("f")?, 8192, true)?;
    map.write(4096, b"b")?;
    holds!(m.stat("f")?.mtime() > 5, "the time stays {}", m.stat("f")?.mtime());
    same!(&m.read("f")?[4096..4097], "b");
    // After it was told once more, too; once it is written, the next write is noticed again.
    m.ro("f")?;
    map.sync()?;
    m.times("f", 5, 5)?;
    same!(m.stat("f")?.mtime(), 5);
    map.write(0, b"c")?;
    holds!(m.stat("f")?.mtime() > 5, "the time stays {}", m.stat("f")?.mtime());
    same!(&m.read("f")?[..1], "c");
    drop(map);
    umount(cx)
}

fn passthrough_is_for_root(cx: &mut Ctx) -> Result<()> {
    cx.lower()?;
    let said = mount(cx, STRAIGHT)?;
    holds!(said.contains("passthrough: off (it takes CAP_SYS_ADMIN") && said.contains("no_open: on"), "{said}");
    cx.m.file("f", "x")?;
    same!(cx.m.read("f")?, "x");
    umount(cx)
}

fn writeback_merges(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "lower")?;
    let requests = counted(cx, "writeback", |m| {
        let f = m.rw("f")?;
        for i in 0..200 {
            f.write_all_at(b"0123456789", i * 10)?;
        }
        same!((m.stat("f")?.len(), m.read("f")?.len()), (2000, 2000));
        drop(f);
        m.append("f", "end").map(drop)
    })?;
    holds!(of(&requests, "WRITE") <= 4, "{requests:?}");
    same!(cx.upper.read("f")?, "0123456789".repeat(200) + "end");
    Ok(())
}

fn writeback_keeps_times(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "lower")?;
    mount(cx, "writeback")?;
    let m = cx.m.clone();
    m.append("f", "+")?.times("f", 77, 5)?.file("new", "x")?;
    let written = m.rw("new")?;
    written.write_all_at(b"yz", 1)?;
    let before = m.stat("new")?;
    drop(written);
    same!(m.stat("new")?.mtime_nsec(), before.mtime_nsec());
    umount(cx)?;
    mount(cx, "writeback=off")?;
    same!((m.stat("f")?.mtime(), m.stat("f")?.mtime_nsec(), m.read("f")?), (77, 5, "lower+".to_owned()));
    same!((m.stat("new")?.mtime(), m.stat("new")?.len()), (before.mtime(), 3));
    umount(cx)
}

/// What the kernel keeps looks like a hole to the daemon, and it is not passed on before `SEEK_DATA`: so all is data.
fn writeback_tells_no_holes(cx: &mut Ctx) -> Result<()> {
    use rustix::fs::{SeekFrom, seek};
    cx.lower()?;
    mount(cx, "writeback")?;
    let f = cx.m.file("f", "")?.rw("f")?;
    f.set_len(1 << 20)?;
    f.write_all_at(&[1; 4096], 512 << 10)?;
    for at in [0, 512 << 10, (1 << 20) - 1] {
        same!((seek(&f, SeekFrom::Data(at))?, seek(&f, SeekFrom::Hole(at))?), (at, 1 << 20));
    }
    fails!(seek(&f, SeekFrom::Data(1 << 20)), ENXIO);
    drop(f);
    umount(cx)
}

fn writeback_and_passthrough(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    // fuse_init_reply (process_init_reply in fs/fuse/inode.c) takes passthrough only without FUSE_WRITEBACK_CACHE.
    let said = mount(cx, "passthrough,writeback")?;
    holds!(said.contains("passthrough: on (as asked)"), "{said}");
    holds!(said.contains("writeback: off (the kernel has not both this and passthrough)"), "{said}");
    same!(cx.m.append("f", "y")?.read("f")?, "xy");
    umount(cx)
}

fn birth_is_asked_once(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.file("g", "x")?;
    if cx.carried_by_fuser() {
        return Err(skip("fuser 0.18 has no FUSE_STATX"));
    }
    // Who is told "no" once, as by the counter's own look at the root, does not ask again.
    for (options, asked) in [("btime=on", 2), ("btime=auto", 0)] {
        let requests = counted(cx, options, |m| {
            // std asks for it each time.
            (0..20).try_for_each(|_| ["f", "g"].iter().try_for_each(|n| m.stat(n).map(drop)))
        })?;
        same!((options, of(&requests, "STATX")), (options, asked));
    }
    Ok(())
}
