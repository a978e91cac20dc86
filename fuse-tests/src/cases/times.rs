//! Times: before 1970, nanoseconds, and which call moves which.

use std::fs::FileTimes;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustix::fs::{AtFlags, CWD, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use crate::case::{Fs, skip};
use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

cases!("times":
    before_1970, nanoseconds, omit_and_now, write_moves_mtime, create_moves_parent, read_only_changes_nothing,
    futimens, far_future, birth,
    birth_through_copy_up.kernel_deviates("a copied-up file is born anew"),
);

fn before_1970(cx: &mut Ctx) -> Result<()> {
    // The worker of fuse-overlayfs 2.0 dies of this, and the mount with it.
    cx.lower()?.file("f", "x")?.dir("d")?.symlink("x", "l")?;
    for n in ["f", "d", "l"] {
        cx.dir.times(&format!("lower0/{n}"), -86_401, 999_999_999)?;
    }
    let m = cx.mount()?;
    for n in ["f", "d", "l"] {
        same!((n, m.stat(n)?.mtime(), m.stat(n)?.mtime_nsec()), (n, -86_401, 999_999_999));
        m.times(n, -1, 1)?;
    }
    m.file("new", "")?.times("new", -2_000_000_000, 5)?;
    let m = cx.remount()?;
    for n in ["f", "d", "l"] {
        same!((n, m.stat(n)?.mtime(), m.stat(n)?.mtime_nsec()), (n, -1, 1));
    }
    same!((m.stat("new")?.mtime(), m.stat("new")?.mtime_nsec()), (-2_000_000_000, 5));
    Ok(())
}

fn nanoseconds(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.times("f", 1_600_000_000, 123_456_789)?;
    let m = cx.mount()?;
    same!(m.stat("f")?.mtime_nsec(), 123_456_789);
    // Copy-up keeps it to the last digit.
    m.mode("f", 0o600)?;
    same!(m.stat("f")?.mtime_nsec(), 123_456_789);
    m.times("f", 5, 987_654_321)?;
    same!((m.stat("f")?.mtime(), m.stat("f")?.mtime_nsec(), m.stat("f")?.atime_nsec()), (5, 987_654_321, 987_654_321));
    Ok(())
}

fn omit_and_now(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.times("f", 1000, 1)?;
    let m = cx.mount()?;
    let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let set = |a, b| {
        let times = Timestamps { last_access: a, last_modification: b };
        utimensat(CWD, m.p("f"), &times, AtFlags::empty())
    };
    set(at(1500, 1), at(1000, 1))?;
    set(at(0, UTIME_OMIT), at(2000, 2))?;
    same!((m.stat("f")?.atime(), m.stat("f")?.mtime()), (1500, 2000));
    set(at(3000, 3), at(0, UTIME_OMIT))?;
    same!((m.stat("f")?.atime(), m.stat("f")?.mtime(), m.stat("f")?.mtime_nsec()), (3000, 2000, 2));
    set(at(0, UTIME_OMIT), at(0, UTIME_NOW))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().cast_signed();
    holds!((now - m.stat("f")?.mtime()).abs() < 10);
    same!(m.stat("f")?.atime(), 3000);
    Ok(())
}

fn write_moves_mtime(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.times("f", 1000, 0)?;
    let m = cx.mount()?;
    m.append("f", "y")?;
    holds!(m.stat("f")?.mtime() > 1000);
    m.times("f", 1000, 0)?;
    m.append("f", "z")?;
    let now = m.stat("f")?.mtime();
    holds!(now > 1000);
    // A time set after a write through the same descriptor stays.
    let f = m.rw("f")?;
    std::os::unix::fs::FileExt::write_at(&f, b"a", 0)?;
    f.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(77)))?;
    drop(f);
    same!(m.stat("f")?.mtime(), 77);
    Ok(())
}

fn create_moves_parent(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.file("f", "")?;
    let m = cx.mount()?;
    let calls: [(&str, fn(&crate::tree::Tree) -> Result<()>); 5] = [
        ("create", |m| m.file("d/a", "").map(drop)),
        ("mkdir", |m| Ok(std::fs::create_dir(m.p("d/b"))?)),
        ("symlink", |m| m.symlink("x", "d/c").map(drop)),
        ("link", |m| m.hard("f", "d/e").map(drop)),
        ("rename", |m| m.mv("d/a", "d/g").map(drop)),
    ];
    for (name, call) in calls {
        m.times("d", 1000, 0)?;
        call(&m)?;
        holds!(m.stat("d")?.mtime() > 1000, "{name} leaves the directory's mtime");
    }
    Ok(())
}

fn read_only_changes_nothing(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.times("f", 1000, 1)?.dir("d")?.times("d", 1000, 1)?;
    let m = cx.mount()?;
    m.read("f")?;
    m.ls("d")?;
    drop(m.rw("f")?);
    for n in ["f", "d"] {
        same!((n, m.stat(n)?.mtime(), m.stat(n)?.mtime_nsec()), (n, 1000, 1));
    }
    if cx.fs != Fs::Plain {
        holds!(!cx.upper.has("d")?, "listing copied a directory up");
    }
    Ok(())
}

fn futimens(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    let f = m.ro("f")?;
    f.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::new(9, 8)))?;
    same!((m.stat("f")?.mtime(), m.stat("f")?.mtime_nsec()), (9, 8));
    Ok(())
}

fn far_future(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    // Past 2038, as far as ext4 goes.
    m.file("f", "")?.times("f", 6_000_000_000, 9)?;
    same!((m.stat("f")?.mtime(), m.stat("f")?.mtime_nsec()), (6_000_000_000, 9));
    Ok(())
}

/// statx(2)'s time of birth in nanoseconds.
fn born(m: &crate::tree::Tree, name: &str) -> Result<Option<i128>> {
    let stx = rustix::fs::statx(CWD, m.p(name), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::ALL)?;
    // The rest is as ever.
    let st = m.stat(name)?;
    same!((stx.stx_ino, stx.stx_size, stx.stx_mtime.tv_sec), (st.ino(), st.size(), st.mtime()));
    same!((stx.stx_uid, stx.stx_nlink, u32::from(stx.stx_mode)), (st.uid(), st.nlink() as u32, st.mode()));
    let known = StatxFlags::from_bits_retain(stx.stx_mask).contains(StatxFlags::BTIME);
    let at = i128::from(stx.stx_btime.tv_sec) * 1_000_000_000 + i128::from(stx.stx_btime.tv_nsec);
    // Who knows none must not claim one.
    holds!(!known || at > 0, "{name}: born at {at}");
    Ok(known.then_some(at))
}

fn birth(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "x")?.dir("d")?.symlink("x", "l")?.times("f", 1000, 1)?;
    // Where the file system below knows none, nobody can.
    if born(&low, "f")?.is_none() {
        return Err(skip("the file system of the layers knows no time of birth"));
    }
    cx.ask_for("btime");
    let m = cx.mount()?;
    m.file("new", "")?.times("new", 1000, 1)?;
    if cx.carried_by_fuser() {
        same!(born(&m, "f")?, None);
        return Err(skip("fuser 0.18 has no FUSE_STATX"));
    }
    if cx.fs == Fs::Onlay {
        for name in ["f", "d", "l"] {
            same!((name, born(&m, name)?), (name, born(&low, name)?));
        }
        same!(born(&m, "new")?, born(&cx.upper, "new")?);
    }
    let new = born(&m, "new")?;
    holds!(new.is_some());
    // It is not of the data, nor of the name.
    m.append("new", "more")?.mv("new", "newer")?;
    same!(born(&m, "newer")?, new);
    let m = cx.remount()?;
    same!(born(&m, "newer")?, new);
    Ok(())
}

/// Not by a change of the file either, whichever layer has it then.
fn birth_through_copy_up(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.file("g", "x")?.dir("d")?;
    cx.ask_for("btime");
    let m = cx.mount()?;
    let before = (born(&m, "f")?, born(&m, "g")?, born(&m, "d")?);
    if before.0.is_none() {
        return Err(skip("no time of birth is told here"));
    }
    m.append("f", "y")?.mode("g", 0o600)?.mode("d", 0o700)?;
    same!((born(&m, "f")?, born(&m, "g")?, born(&m, "d")?), before);
    let m = cx.remount()?;
    same!((born(&m, "f")?, born(&m, "g")?, born(&m, "d")?), before);
    Ok(())
}
