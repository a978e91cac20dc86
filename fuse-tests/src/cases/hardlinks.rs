//! Hard links of the lower layers.

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

const BROKEN: &str = "hard links break at copy-up: no index";

cases!("hardlinks":
    are_one_inode, write_through_one.kernel_deviates_rootless(BROKEN), unlink_one.kernel_deviates_rootless(BROKEN),
    chmod_one.kernel_deviates_rootless(BROKEN), across_directories.kernel_deviates_rootless(BROKEN),
    rename_one.kernel_deviates_rootless(BROKEN), all_gone.kernel_deviates_rootless(BROKEN),
    new_link_beside.kernel_deviates_rootless(BROKEN),
    open_through_both.kernel_deviates("a file opened for reading before copy-up stays the lower one"),
);

fn are_one_inode(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "d/b")?.hard("a", "c")?;
    let m = cx.mount()?;
    let ino = m.stat("a")?.ino();
    for n in ["a", "d/b", "c"] {
        same!((n, m.stat(n)?.ino(), m.stat(n)?.nlink()), (n, ino, 3));
    }
    Ok(())
}

fn write_through_one(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "b")?;
    let m = cx.mount()?;
    m.append("a", "y")?;
    for m in [m, cx.remount()?] {
        same!((m.read("a")?, m.read("b")?), ("xy".to_owned(), "xy".to_owned()));
        same!((m.stat("a")?.nlink(), m.stat("a")?.ino()), (2, m.stat("b")?.ino()));
    }
    cx.m.append("b", "z")?;
    same!(cx.remount()?.read("a")?, "xyz");
    Ok(())
}

fn unlink_one(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "b")?.hard("a", "c")?;
    let m = cx.mount()?;
    m.rm("a")?;
    same!(m.stat("b")?.nlink(), 2);
    m.append("b", "y")?;
    same!((m.read("c")?, m.stat("c")?.nlink()), ("xy".to_owned(), 2));
    m.rm("b")?;
    let m = cx.remount()?;
    same!((m.ls("")?, m.read("c")?, m.stat("c")?.nlink()), ("c".to_owned(), "xy".to_owned(), 1));
    Ok(())
}

fn chmod_one(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "b")?;
    let m = cx.mount()?;
    m.mode("a", 0o600)?.setx("b", "user.a", "1")?;
    for m in [m, cx.remount()?] {
        same!((m.bits("b")?, m.getx("a", "user.a")?), (0o600, Some(b"1".to_vec())));
        same!(m.read("b")?, "x");
    }
    Ok(())
}

fn across_directories(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/a", "x")?.hard("d/a", "e/b")?;
    let m = cx.mount()?;
    m.append("d/a", "y")?.mv("d", "f")?;
    for m in [m, cx.remount()?] {
        same!((m.read("e/b")?, m.read("f/a")?), ("xy".to_owned(), "xy".to_owned()));
        same!((m.stat("e/b")?.nlink(), m.stat("e/b")?.ino()), (2, m.stat("f/a")?.ino()));
    }
    Ok(())
}

fn rename_one(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "b")?;
    let m = cx.mount()?;
    m.mv("a", "z")?;
    for m in [m, cx.remount()?] {
        same!(m.ls("")?, "b z");
        same!((m.stat("z")?.nlink(), m.stat("z")?.ino()), (2, m.stat("b")?.ino()));
    }
    Ok(())
}

fn all_gone(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "b")?;
    let m = cx.mount()?;
    let f = m.ro("a")?;
    m.rm("a")?.rm("b")?;
    same!(f.metadata()?.nlink(), 0);
    drop(f);
    same!(cx.remount()?.ls("")?, "");
    Ok(())
}

fn new_link_beside(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "b")?;
    let m = cx.mount()?;
    m.hard("b", "c")?;
    for m in [m, cx.remount()?] {
        for n in ["a", "b", "c"] {
            same!((n, m.stat(n)?.nlink()), (n, 3));
        }
    }
    cx.m.rm("a")?.rm("b")?;
    same!(cx.remount()?.stat("c")?.nlink(), 1);
    Ok(())
}

fn open_through_both(cx: &mut Ctx) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    cx.lower()?.file("a", "x")?.hard("a", "b")?;
    let m = cx.mount()?;
    let (a, b) = (m.ro("a")?, m.rw("b")?);
    b.write_all_at(b"y", 0)?;
    let mut one = [0];
    a.read_exact_at(&mut one, 0)?;
    same!(&one, b"y");
    holds!(a.metadata()?.ino() == b.metadata()?.ino());
    Ok(())
}
