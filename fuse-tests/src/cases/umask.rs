//! The caller's umask.

use anyhow::Result;
use nix::sys::stat::{Mode, umask};
use rustix::fs::FileType;

use crate::ctx::Ctx;
use crate::tree::{cases, same};

cases!("umask": is_obeyed, of_each_process);

fn is_obeyed(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("was", "")?;
    let m = cx.mount()?;
    m.rm("was")?;
    for (mask, file, dir) in [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755), (0o000, 0o666, 0o777), (0o027, 0o640, 0o750)] {
        umask(Mode::from_bits_truncate(mask));
        let (f, d, p) = (format!("f{mask:o}"), format!("d{mask:o}"), format!("p{mask:o}"));
        m.file(&f, "")?.dir(&d)?.node(&p, FileType::Fifo, 0o666, 0)?.file("was", "")?;
        same!((m.bits(&f)?, m.bits(&d)?, m.bits(&p)?, m.bits("was")?), (file, dir, file, file));
        m.rm("was")?;
    }
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

fn of_each_process(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    umask(Mode::from_bits_truncate(0o077));
    let code = crate::sys::in_child(|| {
        umask(Mode::from_bits_truncate(0o002));
        m.file("theirs", "").map(drop)
    })?;
    m.file("ours", "")?;
    same!((code, m.bits("theirs")?, m.bits("ours")?), (0, 0o664, 0o600));
    Ok(())
}
