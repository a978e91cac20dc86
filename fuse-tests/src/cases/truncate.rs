//! truncate(2) and ftruncate(2).

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("truncate": shorter, longer, to_zero, of_an_open_file, not_a_file, moves_mtime, by_path);

fn shorter(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    m.rw("f")?.set_len(4)?;
    same!(m.read("f")?, "0123");
    m.rw("f")?.set_len(6)?;
    // What was cut off must not come back.
    same!(m.read("f")?, "0123\0\0");
    let m = cx.remount()?;
    same!(m.read("f")?, "0123\0\0");
    Ok(())
}

fn longer(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "abc")?;
    let m = cx.mount()?;
    m.rw("f")?.set_len(1 << 33)?;
    same!(m.stat("f")?.size(), 1 << 33);
    holds!(m.stat("f")?.blocks() < 100, "a hole takes no space");
    m.rw("f")?.set_len(5)?;
    same!(m.read("f")?, "abc\0\0");
    Ok(())
}

fn to_zero(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![1; 100_000])?.mode("f", 0o640)?.setx("f", "user.a", "1")?;
    let m = cx.mount()?;
    m.rw("f")?.set_len(0)?;
    same!(m.stat("f")?.size(), 0);
    same!(m.bits("f")?, 0o640);
    same!(m.getx("f", "user.a")?, Some(b"1".to_vec()));
    Ok(())
}

fn of_an_open_file(cx: &mut Ctx) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    let (reader, writer) = (m.rw("f")?, m.rw("f")?);
    writer.set_len(3)?;
    let mut buf = [0; 10];
    same!(reader.read_at(&mut buf, 0)?, 3);
    same!(reader.metadata()?.len(), 3);
    Ok(())
}

fn not_a_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.file("ro", "x")?.mode("ro", 0o444)?;
    let m = cx.mount()?;
    fails!(nix::unistd::truncate(&m.p("d"), 0), EISDIR);
    fails!(nix::unistd::truncate(&m.p("none"), 0), ENOENT);
    if !cx.privileged() {
        fails!(nix::unistd::truncate(&m.p("ro"), 0), EACCES);
    }
    Ok(())
}

fn moves_mtime(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?.times("f", 1000, 0)?;
    let m = cx.mount()?;
    m.rw("f")?.set_len(4)?;
    holds!(m.stat("f")?.mtime() > 1000);
    holds!(m.stat("f")?.ctime() > 1000);
    Ok(())
}

fn by_path(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?.symlink("f", "l")?;
    let m = cx.mount()?;
    nix::unistd::truncate(&m.p("l"), 2)?;
    same!(m.read("f")?, "01");
    Ok(())
}
