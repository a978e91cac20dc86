//! read(2) and write(2), also at random against a plain file.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::sys::Map;
use crate::tree::{cases, fails, holds, same, together};

cases!("read_write":
    beyond_the_end, big_file, random_against_plain, random_on_lower_file, two_writers,
    reader_sees_writer.kernel_deviates("a file opened for reading before copy-up stays the lower one"),
    fsync_and_fdatasync, setuid_goes_on_write.privileged(), zero_bytes, positioned, o_direct, splice_out,
);

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn beyond_the_end(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "abc")?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    same!(f.read_at(&mut [0; 8], 3)?, 0);
    same!(f.read_at(&mut [0; 8], 100)?, 0);
    f.write_all_at(b"z", 6)?;
    same!(m.read("f")?, "abc\0\0\0z");
    Ok(())
}

fn big_file(cx: &mut Ctx) -> Result<()> {
    let data: Vec<u8> = (0..9_000_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    cx.lower()?.file("f", &data)?;
    let m = cx.mount()?;
    holds!(std::fs::read(m.p("f"))? == data, "read differs");
    m.append("f", "end")?;
    let now = std::fs::read(m.p("f"))?;
    holds!(now[..data.len()] == data[..] && &now[data.len()..] == b"end", "copied up wrongly");
    let m = cx.remount()?;
    holds!(std::fs::read(m.p("f"))? == now, "remount differs");
    Ok(())
}

fn random_against_plain(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    for seed in 1..=4 {
        exercise(cx, &m.rw("f").or_else(|_| m.file("f", "").and_then(|m| m.rw("f")))?, "", seed)?;
        m.rm("f")?;
    }
    Ok(())
}

fn random_on_lower_file(cx: &mut Ctx) -> Result<()> {
    let data = "0123456789".repeat(20_000);
    cx.lower()?.file("f1", &data)?.file("f2", &data)?;
    let m = cx.mount()?;
    for (name, seed) in [("f1", 77), ("f2", 78)] {
        exercise(cx, &m.rw(name)?, &data, seed)?;
    }
    Ok(())
}

/// What fsx does: random operations on `f` and on a plain file, which must stay the same.
fn exercise(cx: &Ctx, f: &File, before: &str, seed: u64) -> Result<()> {
    let model_path = cx.dir.p(format!("model{seed}"));
    std::fs::write(&model_path, before)?;
    let model = File::options().read(true).write(true).open(&model_path)?;
    let mut random = Random(seed);
    let max = 256 * 1024;
    for step in 0..400 {
        let at = random.below(max);
        let len = random.below(20_000) as usize;
        match random.below(10) {
            0..=3 => {
                let data: Vec<u8> = (0..len).map(|i| (i as u64 + seed + step) as u8).collect();
                f.write_all_at(&data, at)?;
                model.write_all_at(&data, at)?;
            }
            4..=6 => {
                let (mut a, mut b) = (vec![0; len], vec![0; len]);
                let (n, k) = (full_read(f, &mut a, at)?, full_read(&model, &mut b, at)?);
                holds!(n == k && a == b, "seed {seed} step {step}: read of {len} at {at} differs ({n} and {k} bytes)");
            }
            7 => {
                f.set_len(at)?;
                model.set_len(at)?;
            }
            8 => {
                let size = model.metadata()?.len() as usize;
                if size > 0 {
                    let bytes = Map::shared(f, size, false)?.bytes();
                    let mut want = vec![0; size];
                    model.read_exact_at(&mut want, 0)?;
                    holds!(bytes == want, "seed {seed} step {step}: mapping differs");
                }
            }
            _ => {
                let size = model.metadata()?.len() as usize;
                if size > 100 {
                    let (map, other) = (Map::shared(f, size, true)?, Map::shared(&model, size, true)?);
                    let at = random.below(size as u64 - 50) as usize;
                    map.write(at, &[step as u8; 50])?;
                    other.write(at, &[step as u8; 50])?;
                    map.sync()?;
                }
            }
        }
        same!(f.metadata()?.len(), model.metadata()?.len());
    }
    Ok(())
}

fn full_read(f: &File, buf: &mut [u8], at: u64) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match f.read_at(&mut buf[done..], at + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn two_writers(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'.'; 40_000])?;
    let m = cx.mount()?;
                // All open it while it is still below: one copy-up, no lost write.
    together(0..4, |t| {
                    let f = m.rw("f")?;
                    for i in 0..100 {
                        f.write_all_at(&[b'0' + t; 100], (i * 4 + u64::from(t)) * 100)?;
                    }
                    Ok(())
    })?;
    let want: String = (0..400).map(|i| (i % 4).to_string().repeat(100)).collect();
    holds!(m.read("f")? == want, "a write was lost");
    let m = cx.remount()?;
    holds!(m.read("f")? == want, "a write was lost at remount");
    Ok(())
}

fn reader_sees_writer(cx: &mut Ctx) -> Result<()> {
    // fuse-overlayfs 2.0 wrote the lower file here; the look around afterwards would tell.
    cx.lower()?.file("f", "ZZAA")?;
    let m = cx.mount()?;
    let mut reader = m.ro("f")?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    same!(text, "ZZAA");
    let mut writer = m.rw("f")?;
    writer.write_all(b"AA")?;
    text.clear();
    reader.seek(SeekFrom::Start(0))?;
    reader.read_to_string(&mut text)?;
    same!(text, "AAAA");
    same!(reader.metadata()?.ino(), writer.metadata()?.ino());
    drop((reader, writer));
    let m = cx.remount()?;
    same!(m.read("f")?, "AAAA");
    Ok(())
}

fn fsync_and_fdatasync(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", "x")?.dir("d")?;
    let m = cx.mount()?;
    let mut f = m.rw("low")?;
    // A file that is still below has nothing to write, and that is no error.
    f.sync_all()?;
    f.write_all(b"y")?;
    f.sync_data()?;
    f.sync_all()?;
    File::open(m.p("d"))?.sync_all()?;
    rustix::fs::syncfs(&f)?;
    same!(m.read("low")?, "y");
    Ok(())
}

fn setuid_goes_on_write(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", "x")?.owner("low", 1234, 1234)?.mode("low", 0o6777)?;
    let m = cx.mount()?;
    m.file("up", "x")?.owner("up", 1234, 1234)?.mode("up", 0o6777)?.mode("", 0o755)?;
    crate::sys::as_ids(1235, 1235, &[], || {
        m.append("low", "y")?.append("up", "y")?;
        Ok(())
    })?;
    same!((m.bits("low")?, m.bits("up")?), (0o777, 0o777));
    Ok(())
}

fn zero_bytes(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "abc")?.file("empty", "")?;
    let m = cx.mount()?;
    same!(m.rw("f")?.write(b"")?, 0);
    same!(m.read("f")? + &m.read("empty")?, "abc");
    m.append("empty", "x")?;
    same!(m.read("empty")?, "x");
    Ok(())
}

fn positioned(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "0123456789")?;
    let mut f = m.rw("f")?;
    f.write_all_at(b"ab", 4)?;
    let mut two = [0; 2];
    f.read_exact(&mut two)?;
    same!(&two, b"01");
    fails!(f.seek(SeekFrom::Current(-5)), EINVAL);
    same!(f.seek(SeekFrom::End(-1))?, 9);
    same!(m.read("f")?, "0123ab6789");
    Ok(())
}

fn o_direct(cx: &mut Ctx) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    cx.lower()?.file("f", vec![b'x'; 8192])?;
    let m = cx.mount()?;
    // Databases ask for it; an honest EINVAL would do, wrong data would not.
    match openat(CWD, m.p("f"), OFlags::RDWR | OFlags::DIRECT, Mode::empty()) {
        Err(e) => same!(e, rustix::io::Errno::INVAL),
        Ok(fd) => {
            let f = File::from(fd);
            let mut space = vec![0_u8; 8192];
            let skip = space.as_ptr().align_offset(4096);
            let block = &mut space[skip..skip + 4096];
            block.fill(b'y');
            f.write_all_at(block, 4096)?;
            f.read_exact_at(block, 0)?;
            holds!(block.iter().all(|b| *b == b'x'), "O_DIRECT read");
        }
    }
    same!(m.stat("f")?.size(), 8192);
    Ok(())
}

fn splice_out(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "spliced")?;
    let m = cx.mount()?;
    let mut src = m.ro("f")?;
    let mut dst = File::create(m.p("g"))?;
    // std uses copy_file_range, sendfile or splice, whichever works.
    same!(std::io::copy(&mut src, &mut dst)?, 7);
    same!(m.read("g")?, "spliced");
    Ok(())
}
