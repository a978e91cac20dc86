//! `SEEK_DATA` and `SEEK_HOLE`.

use std::os::unix::fs::FileExt as _;

use anyhow::Result;
use rustix::fs::{SeekFrom, seek};

use crate::ctx::Ctx;
use crate::tree::{Tree, cases, fails, same};

cases!("seek": lower, upper, after_copy_up.kernel_deviates("copies whole megabytes of a sparse file"), cp_keeps_holes);

fn sparse(t: &Tree, name: &str) -> Result<()> {
    t.file(name, "")?;
    let f = t.rw(name)?;
    f.set_len(16 << 20)?;
    f.write_all_at(&[1; 65_536], 4 << 20)?;
    f.sync_all()?;
    Ok(())
}

fn check(m: &Tree, name: &str) -> Result<()> {
    let f = m.ro(name)?;
    same!(seek(&f, SeekFrom::Data(0))?, 4 << 20);
    same!(seek(&f, SeekFrom::Hole(4 << 20))?, (4 << 20) + 65_536);
    same!(seek(&f, SeekFrom::Hole(0))?, 0);
    fails!(seek(&f, SeekFrom::Data(8 << 20)), ENXIO);
    fails!(seek(&f, SeekFrom::Data(17 << 20)), ENXIO);
    Ok(())
}

fn lower(cx: &mut Ctx) -> Result<()> {
    sparse(&cx.lower()?, "f")?;
    check(&cx.mount()?, "f")
}

fn upper(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    sparse(&m, "f")?;
    check(&m, "f")
}

fn after_copy_up(cx: &mut Ctx) -> Result<()> {
    sparse(&cx.lower()?, "f")?;
    let m = cx.mount()?;
    m.mode("f", 0o600)?;
    check(&m, "f")?;
    m.rw("f")?.write_all_at(&[1; 10], 4 << 20)?;
    m.rw("f")?.sync_all()?;
    check(&m, "f")
}

fn cp_keeps_holes(cx: &mut Ctx) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    sparse(&cx.lower()?, "f")?;
    let m = cx.mount()?;
    crate::ctx::Out::of(std::process::Command::new("cp").args(["--sparse=auto"]).args([m.p("f"), m.p("g")]))?.ok()?;
    crate::tree::holds!(m.stat("g")?.blocks() < 1000, "{} blocks", m.stat("g")?.blocks());
    crate::tree::holds!(std::fs::read(m.p("f"))? == std::fs::read(m.p("g"))?, "the copy differs");
    Ok(())
}
