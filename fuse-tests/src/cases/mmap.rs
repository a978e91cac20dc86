//! Shared mappings.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::sys::Map;
use crate::tree::{cases, holds, same};

cases!("mmap":
    write_reaches_file, read_map_sees_writer.kernel_deviates("a mapping from before copy-up stays the lower file's"),
    two_maps, moves_mtime, runs_programs, sqlite_style_wal,
);

fn write_reaches_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'.'; 10_000])?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    let map = Map::shared(&f, 10_000, true)?;
    map.write(5000, b"hello")?;
    let mut five = [0; 5];
    m.ro("f")?.read_exact_at(&mut five, 5000)?;
    same!(&five, b"hello");
    drop((map, f));
    let m = cx.remount()?;
    same!(&m.read("f")?[4999..5006], ".hello.");
    Ok(())
}

fn read_map_sees_writer(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "before")?;
    let m = cx.mount()?;
    let map = Map::shared(&m.ro("f")?, 6, false)?;
    same!(map.bytes(), b"before");
    m.rw("f")?.write_all_at(b"AFTER!", 0)?;
    same!(map.bytes(), b"AFTER!");
    Ok(())
}

fn two_maps(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![0; 8192])?;
    let m = cx.mount()?;
    let (a, b) = (Map::shared(&m.rw("f")?, 8192, true)?, Map::shared(&m.rw("f")?, 8192, true)?);
    a.write(10, b"a")?;
    b.write(5000, b"b")?;
    same!((b.bytes()[10], a.bytes()[5000]), (b'a', b'b'));
    Ok(())
}

fn moves_mtime(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![0; 4096])?.times("f", 1000, 0)?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    let map = Map::shared(&f, 4096, true)?;
    map.write(0, b"x")?;
    map.sync()?;
    drop((map, f));
    holds!(m.stat("f")?.mtime() > 1000);
    Ok(())
}

fn runs_programs(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    std::fs::copy("/bin/true", low.p("t"))?;
    std::fs::copy("/bin/false", low.p("f"))?;
    let m = cx.mount()?;
    same!(std::process::Command::new(m.p("t")).status()?.code(), Some(0));
    m.mode("f", 0o700)?;
    same!(std::process::Command::new(m.p("f")).status()?.code(), Some(1));
    // A new one by the same name, as an update installs it.
    std::fs::copy(m.p("f"), m.p("new"))?;
    m.mv("new", "t")?;
    same!(std::process::Command::new(m.p("t")).status()?.code(), Some(1));
    Ok(())
}

fn sqlite_style_wal(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    // What SQLite does with its -shm file: grown by ftruncate, mapped by two processes.
    m.file("shm", "")?;
    let f = m.rw("shm")?;
    f.set_len(32_768)?;
    let map = Map::shared(&f, 32_768, true)?;
    let code = crate::sys::in_child(|| {
        let other = Map::shared(&m.rw("shm")?, 32_768, true)?;
        other.write(100, b"from the child")
    })?;
    same!(code, 0);
    same!(&map.bytes()[100..114], b"from the child");
    Ok(())
}
