//! symlink(2) and readlink(2).

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("symlink": read_lower, make, long_target, through_directories, own_attributes.privileged(), loops, escapes);

fn read_lower(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.symlink("target/x", "l")?.file("target/x", "here")?;
    let m = cx.mount()?;
    same!(std::fs::read_link(m.p("l"))?.display().to_string(), "target/x");
    same!(m.read("l")?, "here");
    same!(m.stat("l")?.size(), 8);
    fails!(std::fs::read_link(m.p("target/x")), EINVAL);
    Ok(())
}

fn make(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?;
    let m = cx.mount()?;
    m.symlink("nowhere", "l")?;
    fails!(std::os::unix::fs::symlink("x", m.p("l")), EEXIST);
    fails!(std::os::unix::fs::symlink("x", m.p("f")), EEXIST);
    m.rm("f")?.symlink("l", "f")?;
    let m = cx.remount()?;
    same!(std::fs::read_link(m.p("f"))?.display().to_string(), "l");
    same!(m.stat("f")?.mode() & 0o777, 0o777);
    Ok(())
}

fn long_target(cx: &mut Ctx) -> Result<()> {
    let target = "t".repeat(4000);
    cx.lower()?.symlink(&target, "l")?;
    let m = cx.mount()?;
    m.symlink(&target, "l2")?.mv("l", "l3")?;
    for n in ["l2", "l3"] {
        same!(std::fs::read_link(m.p(n))?.display().to_string(), target);
    }
    fails!(std::os::unix::fs::symlink("t".repeat(4096), m.p("l4")), ENAMETOOLONG);
    Ok(())
}

fn through_directories(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("real/f", "x")?.symlink("real", "d")?;
    let m = cx.mount()?;
    m.append("d/f", "y")?.file("d/new", "n")?;
    let m = cx.remount()?;
    same!((m.read("real/f")?, m.ls("real")?), ("xy".to_owned(), "f new".to_owned()));
    holds!(m.stat("d")?.is_symlink());
    Ok(())
}

fn own_attributes(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.symlink("nowhere", "l")?.owner("l", 5, 6)?.times("l", -7, 8)?;
    let m = cx.mount()?;
    same!((m.stat("l")?.uid(), m.stat("l")?.mtime(), m.stat("l")?.mtime_nsec()), (5, -7, 8));
    m.owner("l", 9, 10)?.times("l", 11, 12)?;
    let m = cx.remount()?;
    let st = m.stat("l")?;
    same!((st.uid(), st.gid(), st.mtime(), st.mtime_nsec()), (9, 10, 11, 12));
    same!(std::fs::read_link(m.p("l"))?.display().to_string(), "nowhere");
    Ok(())
}

fn loops(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.symlink("b", "a")?.symlink("a", "b")?;
    let m = cx.mount()?;
    fails!(std::fs::read(m.p("a")), ELOOP);
    fails!(std::fs::metadata(m.p("a/x")), ELOOP);
    m.rm("a")?.file("a", "x")?;
    same!(m.read("b")?, "x");
    Ok(())
}

fn escapes(cx: &mut Ctx) -> Result<()> {
    // The daemon must never follow a link that a layer holds: only the kernel does, for the caller.
    cx.dir.file("outside", "secret")?;
    let low = cx.lower()?;
    low.symlink("../outside", "l")?.symlink("..", "up")?;
    let m = cx.mount()?;
    m.mv("l", "l2")?.mv("up", "up2")?;
    same!(cx.dir.read("outside")?, "secret");
    same!(m.read("l2")?, "secret");
    m.append("l2", "!")?;
    same!(cx.dir.read("outside")?, "secret!");
    holds!(m.stat("l2")?.is_symlink() && m.stat("up2")?.is_symlink());
    Ok(())
}
