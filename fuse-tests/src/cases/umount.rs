//! `onlay umount`.

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::case::User;
use crate::ctx::{Ctx, Out, daemons, mounts_below};
use crate::tree::{cases, holds, same};

cases!("umount":
    in_use.onlay(), writes_everything.onlay(), waits_for_the_daemon.onlay(), not_a_mount.onlay(), lazy.onlay(),
    after_a_crash.onlay(), of_something_else.onlay().by(&[User::Root, User::Userns]), by_umount_itself.onlay(),
    mapped_write_reaches_upper.onlay(),
);

fn in_use(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    let held = m.ro("f")?;
    let out = cx.onlay(&["umount", &m.0.display().to_string()])?;
    super::bad_input::is_clear(&out, &m.0.display().to_string())?;
    holds!(out.stderr.contains("busy") || out.stderr.contains("in use"), "{}", out.stderr);
    // Nothing happened.
    same!((m.read("f")?, mounts_below(&cx.dir.0)?.len()), ("x".to_owned(), 1));
    drop(held);
    cx.umount()
}

fn writes_everything(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    let data = vec![b'y'; 3_000_000];
    m.file("new", &data)?.append("f", "+")?;
    cx.umount()?;
    holds!(std::fs::read(cx.upper.p("new"))? == data);
    same!(cx.upper.read("f")?, "x+");
    Ok(())
}

fn mapped_write_reaches_upper(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'.'; 4096])?;
    let m = cx.mount()?;
    let map = crate::sys::Map::shared(&m.rw("f")?, 4096, true)?;
    map.write(0, b"mapped")?;
    drop(map);
    cx.umount()?;
    same!(&cx.upper.read("f")?[..7], "mapped.");
    Ok(())
}

fn waits_for_the_daemon(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    for _ in 0..10 {
        cx.mount()?.file("n", "x")?;
        cx.umount()?;
        same!(daemons(&cx.dir.0)?, vec![]);
    }
    Ok(())
}

fn not_a_mount(cx: &mut Ctx) -> Result<()> {
    for name in ["upper", "none"] {
        let path = cx.dir.p(name).display().to_string();
        super::bad_input::is_clear(&cx.onlay(&["umount", &path])?, &path)?;
    }
    Ok(())
}

fn lazy(cx: &mut Ctx) -> Result<()> {
    use std::io::Read as _;
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    let mut held = m.ro("f")?;
    cx.onlay(&["umount", "--lazy", &m.0.display().to_string()])?.ok()?;
    cx.forget_mount();
    same!(m.ls("")?, "");
    let mut text = String::new();
    held.read_to_string(&mut text)?;
    same!(text, "x");
    drop(held);
    cx.wait_for_daemons()
}

fn after_a_crash(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    m.file("kept", "k")?.append("f", "+")?;
    m.ro("kept")?.sync_all()?;
    let pid = daemons(&cx.dir.0)?.first().map(|d| d.0).unwrap_or_default();
    holds!(pid > 1);
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    cx.wait_for_daemons()?;
    // ECANCELED: what the kernel says while it takes rings of io_uring down.
    crate::tree::fails!(std::fs::read(m.p("f")), ENOTCONN | ECONNABORTED | ECANCELED);
    // The dead mount goes, and the layers can be mounted anew.
    cx.umount()?;
    let m = cx.mount()?;
    same!((m.read("kept")?, m.read("f")?), ("k".to_owned(), "x+".to_owned()));
    Ok(())
}

fn of_something_else(cx: &mut Ctx) -> Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    mount(Some("tmpfs"), &cx.m.0, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let out = cx.onlay(&["umount", &cx.m.0.display().to_string()])?;
    let left = mounts_below(&cx.dir.0)?.len();
    if left > 0 {
        umount2(&cx.m.0, MntFlags::empty())?;
    }
    same!(left, 1);
    super::bad_input::is_clear(&out, &cx.m.0.display().to_string())
}

fn by_umount_itself(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    m.append("f", "+")?;
    let mut cmd = if cx.privileged() {
        std::process::Command::new("umount")
    } else {
        let mut c = std::process::Command::new("fusermount3");
        c.arg("-u");
        c
    };
    Out::of(cmd.arg(&m.0))?.ok()?;
    cx.forget_mount();
    cx.wait_for_daemons()?;
    same!(cx.upper.read("f")?, "x+");
    Ok(())
}
