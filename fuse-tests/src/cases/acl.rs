//! POSIX ACLs.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::Result;

use crate::ctx::{Ctx, Out};
use crate::sys::as_ids;
use crate::tree::{Tree, cases, fails, same};

cases!("acl": grants.privileged(), default_is_inherited, default_beats_umask, default_of_o_tmpfile, survives_copy_up, chmod_sets_mask,
    none_can_be_removed.kernel_deviates("an ACL that is not there: ENODATA"));

fn none_can_be_removed(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?.dir("d")?;
    let m = cx.mount()?;
    m.file("new", "")?;
    for name in ["f", "d", "new"] {
        rustix::fs::removexattr(m.p(name), "system.posix_acl_access")?;
    }
    rustix::fs::removexattr(m.p("d"), "system.posix_acl_default")?;
    Ok(())
}

fn setfacl(m: &Tree, spec: &[&str], name: &str) -> Result<()> {
    Out::of(Command::new("setfacl").args(spec).arg(m.p(name)))?.ok().map(drop)
}

fn getfacl(m: &Tree, name: &str) -> Result<String> {
    let out = Out::of(Command::new("getfacl").args(["-cnpE"]).arg(m.p(name)))?.ok()?;
    Ok(out.stdout.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn grants(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "x")?.mode("f", 0o600)?;
    setfacl(&low, &["-m", "u:1234:r"], "f")?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    let check = |m: &Tree| {
        as_ids(1234, 1, &[], || {
            same!(m.read("f")?, "x");
            fails!(std::fs::OpenOptions::new().write(true).open(m.p("f")), EACCES);
            Ok(())
        })?;
        as_ids(1235, 1, &[], || {
            fails!(std::fs::read(m.p("f")), EACCES);
            Ok(())
        })
    };
    check(&m)?;
    setfacl(&m, &["-m", "u:1235:rw"], "f")?;
    as_ids(1235, 1, &[], || m.append("f", "y").map(drop))?;
    same!(getfacl(&m, "f")?, "user::rw- user:1234:r-- user:1235:rw- group::--- mask::rw- other::---");
    Ok(())
}

fn default_is_inherited(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.dir("d")?;
    setfacl(&low, &["-d", "-m", "u::rwx,g::rx,o::-,u:7:rwx"], "d")?;
    let m = cx.mount()?;
    m.file("d/f", "")?.dir("d/e")?.file("d/e/g", "")?;
    let want = "user::rw- user:7:rwx group::r-x mask::rw- other::---";
    same!(getfacl(&m, "d/f")?.replace("#effective:rw-", "").replace("  ", " "), want);
    same!(getfacl(&m, "d/e/g")?, getfacl(&m, "d/f")?);
    same!(m.getx("d/e", "system.posix_acl_default")?, m.getx("d", "system.posix_acl_default")?);
    let m = cx.remount()?;
    same!(getfacl(&m, "d/e/g")?, want);
    Ok(())
}

fn default_beats_umask(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.dir("d")?.dir("plain")?;
    setfacl(&low, &["-d", "-m", "u::rwx,g::rwx,o::rwx"], "d")?;
    let m = cx.mount()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    m.file("d/f", "")?.file("plain/f", "")?.dir("d/e")?.dir("plain/e")?;
    same!((m.bits("d/f")?, m.bits("plain/f")?, m.bits("d/e")?, m.bits("plain/e")?), (0o666, 0o600, 0o777, 0o700));
    Ok(())
}

fn default_of_o_tmpfile(cx: &mut Ctx) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let low = cx.lower()?;
    low.dir("d")?;
    setfacl(&low, &["-d", "-m", "u::rwx,g::rx,o::-,u:7:rwx"], "d")?;
    let m = cx.mount()?;
    if cx.carried_by_fuser() {
        return Err(crate::case::skip("fuser 0.18 has no FUSE_TMPFILE"));
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let f = openat(CWD, m.p("d"), OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o666))?;
    m.file("d/f", "")?;
    let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&f));
    rustix::fs::linkat(CWD, proc, CWD, m.p("d/g"), rustix::fs::AtFlags::SYMLINK_FOLLOW)?;
    same!((m.bits("d/g")?, getfacl(&m, "d/g")?), (m.bits("d/f")?, getfacl(&m, "d/f")?));
    Ok(())
}

fn survives_copy_up(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "x")?.dir("d")?;
    setfacl(&low, &["-m", "u:7:rw,g:8:r"], "f")?;
    setfacl(&low, &["-d", "-m", "u:7:rwx"], "d")?;
    let m = cx.mount()?;
    let before = (getfacl(&m, "f")?, getfacl(&m, "d")?);
    m.append("f", "y")?.file("d/new", "")?;
    let m = cx.remount()?;
    same!((getfacl(&m, "f")?, getfacl(&m, "d")?), before);
    Ok(())
}

fn chmod_sets_mask(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "x")?;
    setfacl(&low, &["-m", "u:7:rwx"], "f")?;
    let m = cx.mount()?;
    m.mode("f", 0o640)?;
    same!(m.stat("f")?.mode() & 0o777, 0o640);
    same!(getfacl(&m, "f")?, "user::rw- user:7:rwx group::r-- mask::r-- other::---");
    setfacl(&m, &["-b"], "f")?;
    same!(m.listx("f")?, Vec::<String>::new());
    Ok(())
}
