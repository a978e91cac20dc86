//! The contents of big files.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{Cx, Timed};
use crate::fixture::{FILE, fill, text};
use crate::map::Map;
use crate::random::Random;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits().cast_signed();
/// What cp(1) and cat(1) use.
const BLOCK: usize = 128 << 10;

fn read_once(path: &PathBuf) -> Result<u64> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK];
    let mut all = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok(all),
            n => all += n as u64,
        }
    }
}

fn reader(cx: &Cx) -> impl Fn() -> Result<()> {
    let (path, size) = (cx.merged.join(FILE), cx.scale.data * MIB);
    move || {
        let got = read_once(&path)?;
        ensure!(got == size, "{got} bytes of {size}");
        Ok(())
    }
}

pub(super) fn read(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(reader(cx)))
}

pub(super) fn read_again(cx: &Cx) -> Result<Timed<'_>> {
    let read = reader(cx);
    read()?;
    Ok(Box::new(read))
}

pub(super) fn read_map(cx: &Cx) -> Result<Timed<'_>> {
    let path = cx.merged.join(FILE);
    let len = usize::try_from(cx.scale.data * MIB)?;
    Ok(Box::new(move || {
        let map = Map::shared(&File::open(&path)?, len, false)?;
        (0..map.pages()).for_each(|page| {
            black_box(map.read(page));
        });
        Ok(())
    }))
}

pub(super) fn read_random(cx: &Cx) -> Result<Timed<'_>> {
    reader(cx)()?;
    let file = File::open(cx.merged.join(FILE))?;
    Ok(Box::new(move || {
        let mut page = [0; PAGE as usize];
        for n in pages(cx) {
            file.read_exact_at(&mut page, n * PAGE)?;
        }
        Ok(())
    }))
}

pub(super) fn read_map_random(cx: &Cx) -> Result<Timed<'_>> {
    reader(cx)()?;
    let map = Map::shared(&File::open(cx.merged.join(FILE))?, usize::try_from(cx.scale.data * MIB)?, false)?;
    Ok(Box::new(move || {
        pages(cx).for_each(|n| {
            black_box(map.read(n as usize));
        });
        Ok(())
    }))
}

/// Into the page cache, as cp(1) does: no fsync.
pub(super) fn write(cx: &Cx) -> Result<Timed<'_>> {
    let path = cx.merged.join("new");
    let block = text(&mut Random::new(5), BLOCK as u64);
    let times = cx.scale.data * MIB / BLOCK as u64;
    Ok(Box::new(move || {
        let mut file = File::create_new(&path)?;
        (0..times).try_for_each(|_| file.write_all(&block))?;
        Ok(())
    }))
}

/// Past the page cache (`O_DIRECT`), in blocks of 1 MiB, as virtual machines and databases do.
pub(super) fn read_direct(cx: &Cx) -> Result<Timed<'_>> {
    let (path, size) = (cx.merged.join(FILE), cx.scale.data * MIB);
    Ok(Box::new(move || {
        let mut file = File::options().read(true).custom_flags(O_DIRECT).open(&path)?;
        let mut space = vec![0; MIB as usize + PAGE as usize];
        let mut all = 0;
        loop {
            match file.read(aligned(&mut space))? {
                0 => break,
                n => all += n as u64,
            }
        }
        ensure!(all == size, "{all} bytes of {size}");
        Ok(())
    }))
}

/// The same, written.
pub(super) fn write_direct(cx: &Cx) -> Result<Timed<'_>> {
    let path = cx.merged.join("new");
    let mut space = vec![b'x'; MIB as usize + PAGE as usize];
    Ok(Box::new(move || {
        let mut file = File::options().write(true).create_new(true).custom_flags(O_DIRECT).open(&path)?;
        (0..cx.scale.data).try_for_each(|_| file.write_all(aligned(&mut space)))?;
        Ok(())
    }))
}

/// One MiB of a slightly bigger space, at an address as direct I/O wants it.
fn aligned(space: &mut [u8]) -> &mut [u8] {
    let start = space.as_ptr().align_offset(PAGE as usize);
    &mut space[start..start + MIB as usize]
}

pub(super) fn write_random(cx: &Cx) -> Result<Timed<'_>> {
    let file = upper_file(cx)?;
    Ok(Box::new(move || {
        let page = [b'x'; PAGE as usize];
        for n in pages(cx) {
            file.write_all_at(&page, n * PAGE)?;
        }
        Ok(())
    }))
}

pub(super) fn write_map(cx: &Cx) -> Result<Timed<'_>> {
    let (file, len) = (upper_file(cx)?, usize::try_from(cx.scale.data * MIB)?);
    Ok(Box::new(move || {
        let map = Map::shared(&file, len, true)?;
        (0..map.pages()).for_each(|page| map.write(page, 1));
        drop(map);
        drop(file);
        Ok(())
    }))
}

pub(super) fn write_map_random(cx: &Cx) -> Result<Timed<'_>> {
    let (file, len) = (upper_file(cx)?, usize::try_from(cx.scale.data * MIB)?);
    Ok(Box::new(move || {
        let map = Map::shared(&file, len, true)?;
        pages(cx).for_each(|page| map.write(page as usize, 1));
        drop(map);
        drop(file);
        Ok(())
    }))
}

pub(super) fn append(cx: &Cx) -> Result<Timed<'_>> {
    let path = cx.merged.join(FILE);
    Ok(Box::new(move || Ok(File::options().append(true).open(&path)?.write_all(b"x")?)))
}

/// Pages of the file, hit and miss.
fn pages(cx: &Cx) -> impl Iterator<Item = u64> {
    let all = cx.scale.data * MIB / PAGE;
    let mut random = Random::new(4);
    (0..cx.scale.calls).map(move |_| random.below(all))
}

/// A file in the upper layer, open for writing, with its pages on disk.
fn upper_file(cx: &Cx) -> Result<File> {
    let path = cx.merged.join("new");
    fill(&path, cx.scale.data, &cx.watch)?;
    File::options().read(true).write(true).open(&path).context("open")
}
