//! What goes up, when, and how exactly.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::Result;

use crate::case::Fs;
use crate::ctx::Ctx;
use crate::manifest::{Manifest, What};
use crate::tree::{cases, holds, same};

cases!("copy_up":
    everything_is_kept.privileged(),
    open_without_write_copies_nothing.union().kernel_deviates("open for writing copies up"), unwritable_parents,
    holes_are_kept, special_files, parents_keep_times, at_the_same_time, of_unreadable_file.privileged(),
    leaves_no_trace.union(),
);

fn everything_is_kept(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("d/f", "content")?.setx("d/f", "user.a", "1")?.owner("d/f", 11, 22)?.mode("d/f", 0o4751)?;
    low.setx("d", "user.d", "2")?.owner("d", 33, 44)?.mode("d", 0o2775)?.times("d/f", 111, 222)?.times("d", 333, 444)?;
    let m = cx.mount()?;
    let before = Manifest::of(&m.0, What::VIEW)?;
    // Up and back: every object was copied, nothing may differ.
    m.setx("d/f", "user.t", "")?.setx("d", "user.t", "")?;
    rustix::fs::lremovexattr(m.p("d/f"), "user.t")?;
    rustix::fs::lremovexattr(m.p("d"), "user.t")?;
    m.rw("d/f")?.write_all_at(b"c", 0)?;
    m.owner("d/f", 11, 22)?.mode("d/f", 0o4751)?.times("d/f", 111, 222)?;
    before.check(&Manifest::of(&m.0, What::VIEW)?, "before and after")?;
    let m = cx.remount()?;
    before.check(&Manifest::of(&m.0, What::VIEW)?, "before and after a remount")
}

fn open_without_write_copies_nothing(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    drop(m.rw("f")?);
    drop(std::fs::OpenOptions::new().append(true).open(m.p("f"))?);
    same!(cx.upper.ls("")?, "");
    m.append("f", "y")?;
    same!(cx.upper.read("f")?, "xy");
    Ok(())
}

fn unwritable_parents(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/e/f", "x")?.mode("d/e", 0o555)?.mode("d", 0o555)?;
    let m = cx.mount()?;
    // The file is writable, its directories are not: the copy goes up all the same.
    m.append("d/e/f", "y")?;
    same!(m.read("d/e/f")?, "xy");
    let m = cx.remount()?;
    same!((m.read("d/e/f")?, m.bits("d")?, m.bits("d/e")?), ("xy".to_owned(), 0o555, 0o555));
    if !cx.privileged() {
        crate::tree::fails!(std::fs::write(m.p("d/e/new"), ""), EACCES);
    }
    Ok(())
}

fn holes_are_kept(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "")?;
    let f = low.rw("f")?;
    f.set_len(64 << 20)?;
    f.write_all_at(b"begin", 0)?;
    f.write_all_at(b"middle", 32 << 20)?;
    drop(f);
    let m = cx.mount()?;
    m.append("f", "end")?;
    let st = m.stat("f")?;
    same!(st.size(), (64 << 20) + 3);
    // The kernel copies whole megabytes.
    holds!(st.blocks() < 5000, "{} blocks", st.blocks());
    if cx.fs != Fs::Plain {
        let up = cx.upper.stat("f")?;
        same!(up.size(), (64 << 20) + 3);
        holds!(up.blocks() < 5000, "{} blocks in the upper", up.blocks());
    }
    let mut six = [0; 6];
    m.ro("f")?.read_exact_at(&mut six, 32 << 20)?;
    same!(&six, b"middle");
    Ok(())
}

fn special_files(cx: &mut Ctx) -> Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let low = cx.lower()?;
    low.node("p", rustix::fs::FileType::Fifo, 0o640, 0)?.symlink("to", "l")?.times("p", 5, 6)?;
    let m = cx.mount()?;
    m.mode("p", 0o600)?.times("l", 7, 8)?;
    let m = cx.remount()?;
    holds!(m.stat("p")?.file_type().is_fifo());
    same!((m.stat("p")?.mtime(), m.stat("l")?.mtime()), (5, 7));
    Ok(())
}

fn parents_keep_times(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("a/b/f", "x")?.times("a/b", 1, 2)?.times("a", 3, 4)?.times("", 5, 6)?;
    let m = cx.mount()?;
    m.append("a/b/f", "y")?;
    for m in [m, cx.remount()?] {
        for (n, sec) in [("a/b", 1), ("a", 3)] {
            same!((n, m.stat(n)?.mtime()), (n, sec));
        }
    }
    Ok(())
}

fn at_the_same_time(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 4 << 20])?.file("other", "o")?;
    let m = cx.mount()?;
    std::thread::scope(|scope| -> Result<()> {
        let calls: [fn(&crate::tree::Tree) -> Result<()>; 4] = [
            |m| m.append("f", "y").map(drop),
            |m| m.mode("f", 0o600).map(drop),
            |m| m.hard("f", "g").map(drop),
            |m| m.setx("f", "user.a", "1").map(drop),
        ];
        let threads: Vec<_> = calls
            .into_iter()
            .map(|call| {
                let m = &m;
                scope.spawn(move || call(m))
            })
            .collect();
        same!(m.read("other")?, "o");
        for t in threads {
            t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    for m in [m, cx.remount()?] {
        let st = m.stat("g")?;
        same!((st.size(), st.mode() & 0o777, st.nlink()), ((4 << 20) + 1, 0o600, 2));
        same!(m.getx("f", "user.a")?, Some(b"1".to_vec()));
    }
    Ok(())
}

fn of_unreadable_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "secret")?.mode("f", 0o000)?.file("g", "x")?.mode("g", 0o000)?;
    let m = cx.mount()?;
    m.mv("f", "f2")?.times("f2", 5, 6)?.mode("f2", 0o600)?.rm("g")?;
    let m = cx.remount()?;
    same!((m.read("f2")?, m.ls("")?), ("secret".to_owned(), "f2".to_owned()));
    Ok(())
}

fn leaves_no_trace(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?.symlink("f", "d/l")?;
    let m = cx.mount()?;
    // Looking is free.
    m.read("d/f")?;
    m.ls("d")?;
    m.listx("d/f")?;
    std::fs::read_link(m.p("d/l"))?;
    crate::tree::fails!(std::fs::remove_dir(m.p("d")), ENOTEMPTY);
    crate::tree::fails!(std::fs::create_dir(m.p("d")), EEXIST);
    same!(cx.upper.ls("")?, "");
    Ok(())
}
