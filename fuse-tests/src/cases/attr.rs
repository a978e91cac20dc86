//! chmod(2), chown(2), access(2) and inode numbers.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use anyhow::Result;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::ctx::Ctx;
use crate::sys::as_ids;
use crate::tree::{cases, fails, holds, same};

cases!("attr":
    chmod, chmod_open_file, chown.privileged(), chown_clears_setuid.privileged(), chown_refused,
    chmod_refused.privileged(), chmod_drops_setgid.privileged(), access, access_as_others.privileged(), root_directory,
    number_survives_copy_up,
    number_survives_remount.kernel_deviates_rootless("origins are not decoded in a user namespace"),
    dac_bits.privileged(), groups.privileged(), blocks,
);

fn chmod(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.dir("d")?.times("f", 1000, 5)?;
    let m = cx.mount()?;
    for mode in [0o600, 0o4711, 0o0, 0o1777, 0o644] {
        m.mode("f", mode)?.mode("d", mode)?;
        same!((m.bits("f")?, m.bits("d")?), (mode, mode));
    }
    same!((m.stat("f")?.mtime(), m.stat("f")?.mtime_nsec()), (1000, 5));
    holds!(m.stat("f")?.ctime() > 1000);
    let m = cx.remount()?;
    same!((m.bits("f")?, m.bits("d")?, m.read("f")?), (0o644, 0o644, "x".to_owned()));
    Ok(())
}

fn chmod_open_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    let f = m.ro("f")?;
    f.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    same!((m.bits("f")?, f.metadata()?.mode() & 0o777), (0o600, 0o600));
    Ok(())
}

fn chown(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.dir("d")?.owner("f", 10, 20)?;
    let m = cx.mount()?;
    same!((m.stat("f")?.uid(), m.stat("f")?.gid()), (10, 20));
    m.owner("f", 1111, 2222)?.owner("d", 3333, 4444)?;
    std::os::unix::fs::chown(m.p("f"), None, Some(30))?;
    let m = cx.remount()?;
    same!((m.stat("f")?.uid(), m.stat("f")?.gid(), m.stat("d")?.uid(), m.stat("d")?.gid()), (1111, 30, 3333, 4444));
    Ok(())
}

fn chown_clears_setuid(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.mode("f", 0o6755)?.dir("d")?.mode("d", 0o2755)?;
    let m = cx.mount()?;
    m.owner("f", 5, 5)?.owner("d", 5, 5)?;
    same!((m.bits("f")?, m.bits("d")?), (0o755, 0o2755));
    Ok(())
}

fn chown_refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    let chown_away = |m: &crate::tree::Tree| std::os::unix::fs::chown(m.p("f"), Some(0), None);
    if cx.privileged() {
        m.mode("", 0o755)?;
        return as_ids(1234, 1234, &[], || {
            fails!(chown_away(&m), EPERM);
            Ok(())
        });
    }
    fails!(chown_away(&m), EPERM);
    // To oneself is allowed.
    let (uid, gid) = (m.stat("f")?.uid(), m.stat("f")?.gid());
    m.owner("f", uid, gid)?;
    Ok(())
}

fn chmod_refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    as_ids(1234, 1234, &[], || {
        fails!(std::fs::set_permissions(m.p("f"), std::fs::Permissions::from_mode(0o777)), EPERM);
        let then = nix::sys::time::TimeVal::new(1, 0);
        fails!(nix::sys::stat::utimes(&m.p("f"), &then, &then), EPERM);
        Ok(())
    })
}

fn chmod_drops_setgid(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.owner("f", 1234, 77)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    // The owner is not in the file's group: the bit is not his to set.
    as_ids(1234, 1234, &[], || m.mode("f", 0o2755).map(drop))?;
    same!(m.bits("f")?, 0o755);
    as_ids(1234, 1234, &[77], || m.mode("f", 0o2755).map(drop))?;
    same!(m.bits("f")?, 0o2755);
    Ok(())
}

fn access(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("x", "")?.mode("x", 0o700)?.file("r", "")?.mode("r", 0o400)?;
    let m = cx.mount()?;
    let can = |name: &str, what| accessat(CWD, m.p(name), what, AtFlags::empty());
    holds!(can("x", Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok());
    fails!(can("r", Access::EXEC_OK), EACCES);
    fails!(can("none", Access::EXISTS), ENOENT);
    if !cx.privileged() {
        fails!(can("r", Access::WRITE_OK), EACCES);
    }
    Ok(())
}

fn access_as_others(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.mode("f", 0o640)?.owner("f", 10, 20)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    as_ids(10, 1, &[], || m.append("f", "y").map(drop))?;
    as_ids(11, 1, &[20], || {
        same!(m.read("f")?, "xy");
        fails!(std::fs::OpenOptions::new().write(true).open(m.p("f")), EACCES);
        Ok(())
    })?;
    as_ids(11, 1, &[], || {
        fails!(std::fs::read(m.p("f")), EACCES);
        Ok(())
    })
}

fn root_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.mode("", 0o750)?.file("f", "")?;
    let m = cx.mount()?;
    m.mode("", 0o700)?.setx("", "user.x", "1")?.times("", 77, 88)?;
    let m = cx.remount()?;
    same!((m.bits("")?, m.getx("", "user.x")?), (0o700, Some(b"1".to_vec())));
    same!((m.stat("")?.mtime(), m.stat("")?.mtime_nsec()), (77, 88));
    fails!(std::fs::remove_dir(&m.0), EBUSY | ENOTEMPTY);
    Ok(())
}

fn number_survives_copy_up(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.dir("d")?.file("g", "x")?.symlink("x", "l")?;
    let m = cx.mount()?;
    let numbers = |m: &crate::tree::Tree| -> Result<Vec<u64>> {
        ["f", "d", "g", "l"].iter().map(|n| Ok(m.stat(*n)?.ino())).collect()
    };
    let before = numbers(&m)?;
    m.append("f", "y")?.mode("d", 0o700)?.mode("g", 0o600)?.times("l", 1, 1)?.file("d/new", "")?;
    same!(numbers(&m)?, before);
    m.append("g", "y")?;
    same!(numbers(&m)?, before);
    Ok(())
}

fn number_survives_remount(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?.file("still", "")?.dir("d/e")?;
    let m = cx.mount()?;
    m.append("f", "y")?.file("new", "")?.mode("d", 0o700)?.file("old", "")?.mv("old", "moved")?;
    let names = ["f", "still", "d", "d/e", "new", "moved"];
    let numbers = |m: &crate::tree::Tree| -> Result<Vec<u64>> { names.iter().map(|n| Ok(m.stat(*n)?.ino())).collect() };
    let before = numbers(&m)?;
    let m = cx.remount()?;
    // In another order, so that numbers handed out by the first lookup would differ.
    for n in names.iter().rev() {
        m.stat(*n)?;
    }
    same!(numbers(&m)?, before);
    Ok(())
}

fn dac_bits(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("script", "#!/bin/sh\nexit 3\n")?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    fails!(std::process::Command::new(m.p("script")).status(), EACCES);
    m.mode("script", 0o755)?;
    same!(std::process::Command::new(m.p("script")).status()?.code(), Some(3));
    Ok(())
}

fn groups(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.owner("d", 0, 55)?.mode("d", 0o770)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    as_ids(1234, 1, &[2, 55], || m.file("d/f", "x").map(drop))?;
    same!(m.stat("d/f")?.gid(), 1);
    as_ids(1234, 1, &[], || {
        fails!(std::fs::read_dir(m.p("d")), EACCES);
        Ok(())
    })
}

fn blocks(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![1; 100_000])?;
    let m = cx.mount()?;
    let low = m.stat("f")?;
    holds!(low.blocks() >= 195, "du(1) would say {} blocks", low.blocks());
    holds!(low.blksize() >= 512);
    // A copy of the metadata alone still has the size of all.
    m.mode("f", 0o600)?;
    same!((m.stat("f")?.size(), m.stat("f")?.blocks() >= 195), (100_000, true));
    Ok(())
}
