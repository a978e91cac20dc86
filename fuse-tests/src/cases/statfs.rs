//! statfs(2).

use anyhow::Result;

use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

cases!("statfs": of_the_upper, names_and_blocks);

fn of_the_upper(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?;
    let m = cx.mount()?;
    let (view, disk) = (rustix::fs::statvfs(m.p("d"))?, rustix::fs::statvfs(&cx.upper.0)?);
    // Free space and what it is counted in: df(1) shows the product.
    same!(view.f_blocks * view.f_frsize, disk.f_blocks * disk.f_frsize);
    let (a, b) = (view.f_bavail * view.f_frsize, disk.f_bavail * disk.f_frsize);
    holds!(a.abs_diff(b) < 1 << 30, "{a} and {b} bytes free");
    same!(view.f_files, disk.f_files);
    Ok(())
}

fn names_and_blocks(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    let view = rustix::fs::statvfs(&m.0)?;
    same!(view.f_namemax, 255);
    holds!(view.f_bsize >= 512 && view.f_frsize >= 512);
    Ok(())
}
