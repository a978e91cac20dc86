//! fallocate(2).

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::Result;
use rustix::fs::{FallocateFlags, fallocate};

use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("fallocate": allocate, keep_size, punch_hole, zero_range, on_lower, refused, collapse_and_insert);

fn allocate(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "abc")?;
    fallocate(m.rw("f")?, FallocateFlags::empty(), 0, 1 << 20)?;
    let st = m.stat("f")?;
    same!(st.size(), 1 << 20);
    holds!(st.blocks() >= 2048, "{} blocks", st.blocks());
    Ok(())
}

fn keep_size(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "abc")?;
    fallocate(m.rw("f")?, FallocateFlags::KEEP_SIZE, 0, 1 << 20)?;
    same!(m.stat("f")?.size(), 3);
    same!(m.read("f")?, "abc");
    Ok(())
}

fn punch_hole(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 1 << 20])?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&f, flags, 4096, (1 << 20) - 8192)?;
    let mut around = [9; 4];
    f.read_exact_at(&mut around, 4094)?;
    same!(&around, b"xx\0\0");
    f.read_exact_at(&mut around, (1 << 20) - 4098)?;
    same!(&around, b"\0\0xx");
    holds!(f.metadata()?.blocks() < 100, "{} blocks", f.metadata()?.blocks());
    Ok(())
}

fn zero_range(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", vec![b'x'; 20_000])?;
    fallocate(m.rw("f")?, FallocateFlags::ZERO_RANGE, 100, 10_000)?;
    let text = std::fs::read(m.p("f"))?;
    holds!(text[..100].iter().chain(&text[10_100..]).all(|b| *b == b'x'), "too much");
    holds!(text[100..10_100].iter().all(|b| *b == 0), "too little");
    Ok(())
}

fn on_lower(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "abc")?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    fallocate(&f, FallocateFlags::empty(), 0, 10)?;
    drop(f);
    let m = cx.remount()?;
    same!(m.read("f")?, "abc\0\0\0\0\0\0\0");
    Ok(())
}

fn refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "abc")?;
    let m = cx.mount()?;
    fails!(fallocate(m.ro("f")?, FallocateFlags::empty(), 0, 10), EBADF);
    fails!(fallocate(m.rw("f")?, FallocateFlags::empty(), 0, 0), EINVAL);
    fails!(fallocate(m.rw("f")?, FallocateFlags::PUNCH_HOLE, 0, 10), EOPNOTSUPP | EINVAL);
    same!(m.read("f")?, "abc");
    Ok(())
}

fn collapse_and_insert(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    let text = [vec![b'a'; 4096], vec![b'b'; 4096], vec![b'c'; 4096]].concat();
    m.file("f", &text)?;
    let f = m.rw("f")?;
    // The kernel's FUSE client itself passes on only some modes: the right result or an honest refusal.
    for (flags, at, want) in
        [(FallocateFlags::COLLAPSE_RANGE, 4096, 8192), (FallocateFlags::INSERT_RANGE, 4096, 12_288)]
    {
        match fallocate(&f, flags, at, 4096) {
            Ok(()) => same!(f.metadata()?.size(), want),
            Err(e) => {
                same!(e, rustix::io::Errno::OPNOTSUPP);
                holds!(std::fs::read(m.p("f"))? == text || want == 12_288, "refused, yet changed");
            }
        }
    }
    Ok(())
}
