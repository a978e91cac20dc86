//! link(2).

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use rustix::fs::{AtFlags, CWD, linkat};

use crate::case::{User, skip};
use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("link":
    new_file, lower_file.kernel_deviates_rootless("hard links break at copy-up: no index"), refused, of_a_symlink,
    over_whiteout, of_an_open_file, moves_ctime, as_many_as_there_can_be.by(&[User::Root]),
);

fn new_file(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("a", "x")?.hard("a", "d/b")?;
    same!((m.stat("a")?.nlink(), m.stat("a")?.ino()), (2, m.stat("d/b")?.ino()));
    m.append("d/b", "y")?;
    same!(m.read("a")?, "xy");
    m.rm("a")?;
    same!(m.stat("d/b")?.nlink(), 1);
    Ok(())
}

fn lower_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?;
    let m = cx.mount()?;
    let ino = m.stat("a")?.ino();
    m.hard("a", "b")?;
    same!((m.stat("a")?.nlink(), m.stat("a")?.ino(), m.stat("b")?.ino()), (2, ino, ino));
    m.append("a", "y")?;
    let m = cx.remount()?;
    same!(m.read("b")?, "xy");
    same!((m.stat("b")?.nlink(), m.stat("a")?.ino()), (2, m.stat("b")?.ino()));
    Ok(())
}

fn refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "")?.file("b", "")?.dir("d")?;
    let m = cx.mount()?;
    let link = |a: &str, b: &str| std::fs::hard_link(m.p(a), m.p(b));
    fails!(link("a", "b"), EEXIST);
    fails!(link("none", "x"), ENOENT);
    fails!(link("d", "x"), EPERM);
    fails!(link("a", "none/x"), ENOENT);
    fails!(link("a", "b/x"), ENOTDIR);
    Ok(())
}

fn of_a_symlink(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.symlink("nowhere", "l")?;
    let m = cx.mount()?;
    linkat(CWD, m.p("l"), CWD, m.p("l2"), AtFlags::empty())?;
    same!(std::fs::read_link(m.p("l2"))?.display().to_string(), "nowhere");
    same!(m.stat("l")?.nlink(), 2);
    Ok(())
}

fn over_whiteout(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "a")?.file("b", "b")?;
    let m = cx.mount()?;
    m.rm("b")?.hard("a", "b")?;
    let m = cx.remount()?;
    same!(m.read("b")?, "a");
    m.rm("a")?.rm("b")?;
    let m = cx.remount()?;
    same!(m.ls("")?, "");
    Ok(())
}

fn of_an_open_file(cx: &mut Ctx) -> Result<()> {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    cx.lower()?.file("a", "x")?;
    let m = cx.mount()?;
    let mut f = std::fs::OpenOptions::new().append(true).open(m.p("a"))?;
    let proc = format!("/proc/self/fd/{}", f.as_raw_fd());
    linkat(CWD, proc, CWD, m.p("b"), AtFlags::SYMLINK_FOLLOW)?;
    f.write_all(b"y")?;
    same!(m.read("b")?, "xy");
    Ok(())
}

fn moves_ctime(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("a", "x")?;
    let before = m.stat("a")?;
    std::thread::sleep(std::time::Duration::from_millis(20));
    m.hard("a", "b")?;
    let after = m.stat("a")?;
    holds!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    same!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    Ok(())
}

/// As many names as the file system below allows (ext4: 65,000), then `EMLINK`, and one that goes makes room.
fn as_many_as_there_can_be(cx: &mut Ctx) -> Result<()> {
    const MOST: u64 = 65_000;
    cx.lower()?;
    let m = cx.mount()?;
    m.file("f", "x")?.dir("d")?;
    for n in 1..=MOST {
        match std::fs::hard_link(m.p("f"), m.p(format!("d/{n}"))) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EMLINK) => {
                same!(m.stat("f")?.nlink(), n);
                m.rm("d/1")?.hard("f", "d/again")?;
                fails!(std::fs::hard_link(m.p("f"), m.p("one-more")), EMLINK);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
    }
    Err(skip(format!("the file system below takes more than {MOST} names")))
}
