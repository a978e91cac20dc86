//! copy_file_range(2).

use std::fs::File;

use anyhow::Result;
use rustix::fs::copy_file_range;

use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

cases!("copy_range": lower_to_new, within_one_file, onto_lower, beyond_the_end, big);

fn all(src: &File, mut from: u64, dst: &File, mut to: u64, mut len: usize) -> Result<usize> {
    let mut done = 0;
    while len > 0 {
        let n = copy_file_range(src, Some(&mut from), dst, Some(&mut to), len)?;
        if n == 0 {
            break;
        }
        done += n;
        len -= n;
    }
    Ok(done)
}

fn lower_to_new(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    let dst = File::create(m.p("g"))?;
    same!(all(&m.ro("f")?, 2, &dst, 0, 5)?, 5);
    same!(m.read("g")?, "23456");
    Ok(())
}

fn within_one_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    same!(all(&f, 0, &f, 5, 3)?, 3);
    drop(f);
    for m in [m, cx.remount()?] {
        same!(m.read("f")?, "0123401289");
    }
    Ok(())
}

fn onto_lower(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?.file("g", "abcdefghij")?;
    let m = cx.mount()?;
    same!(all(&m.ro("f")?, 0, &m.rw("g")?, 8, 10)?, 10);
    let m = cx.remount()?;
    same!((m.read("g")?, m.read("f")?), ("abcdefgh0123456789".to_owned(), "0123456789".to_owned()));
    Ok(())
}

fn beyond_the_end(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    let dst = File::create(m.p("g"))?;
    same!(all(&m.ro("f")?, 8, &dst, 4, 100)?, 2);
    same!(m.read("g")?, "\0\0\0\089");
    same!(all(&m.ro("f")?, 20, &dst, 0, 10)?, 0);
    Ok(())
}

fn big(cx: &mut Ctx) -> Result<()> {
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i / 1000) as u8).collect();
    cx.lower()?.file("f", &data)?;
    let m = cx.mount()?;
    let dst = File::create(m.p("g"))?;
    same!(all(&m.ro("f")?, 0, &dst, 0, data.len())?, data.len());
    holds!(std::fs::read(m.p("g"))? == data, "the copy differs");
    Ok(())
}
