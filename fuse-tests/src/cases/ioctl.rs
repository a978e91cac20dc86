//! ioctl(2): an answer or `ENOTTY`, never `ENOSYS`.

use anyhow::Result;
use rustix::fs::{ioctl_getflags, ioctl_setflags};

use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("ioctl": getflags, setflags, unknown, isatty);

fn getflags(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", "x")?.dir("d")?;
    let m = cx.mount()?;
    m.file("up", "x")?;
    for n in ["low", "up", "d"] {
        if let Err(e) = ioctl_getflags(m.ro(n)?) {
            same!((n, e), (n, rustix::io::Errno::NOTTY));
        }
    }
    Ok(())
}

fn setflags(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "x")?;
    let f = m.ro("f")?;
    let Ok(flags) = ioctl_getflags(&f) else { return Ok(()) };
    if let Err(e) = ioctl_setflags(&f, flags) {
        holds!(matches!(e, rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP), "{e:?}");
    }
    same!(m.read("f")?, "x");
    Ok(())
}

fn unknown(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    // A terminal's ioctl: isatty(3) wants ENOTTY.
    fails!(rustix::fs::ioctl_blksszget(m.ro("f")?), ENOTTY);
    Ok(())
}

fn isatty(cx: &mut Ctx) -> Result<()> {
    use std::io::IsTerminal as _;
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    holds!(!m.ro("f")?.is_terminal());
    same!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOTTY));
    Ok(())
}
