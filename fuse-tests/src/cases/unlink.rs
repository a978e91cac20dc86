//! unlink(2) and rmdir(2).

use anyhow::Result;

use crate::case::Fs;
use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("unlink":
    lower_and_upper, no_copy.union(), refused, rmdir_lower, rmdir_not_empty, rmdir_of_whiteouts, whole_tree,
    again_and_again, removed_working_directory, permission.privileged(), parent_times,
);

fn lower_and_upper(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", "")?.file("both", "")?.file("d/f", "")?;
    cx.lower()?.file("both", "below")?;
    let m = cx.mount()?;
    m.file("up", "")?.append("both", "x")?;
    for n in ["low", "up", "both", "d/f"] {
        m.rm(n)?;
        fails!(std::fs::symlink_metadata(m.p(n)), ENOENT);
        fails!(std::fs::remove_file(m.p(n)), ENOENT);
    }
    let m = cx.remount()?;
    same!((m.ls("")?, m.ls("d")?), ("d".to_owned(), String::new()));
    Ok(())
}

fn no_copy(cx: &mut Ctx) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    cx.lower()?.file("big", vec![1; 1 << 20])?;
    let m = cx.mount()?;
    m.rm("big")?;
    // Only the mark is in the upper.
    let st = cx.upper.stat("big")?;
    holds!(st.file_type().is_char_device() && st.rdev() == 0, "{st:?}");
    Ok(())
}

fn refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.file("f", "")?;
    let m = cx.mount()?;
    fails!(std::fs::remove_file(m.p("d")), EISDIR | EPERM);
    fails!(std::fs::remove_dir(m.p("f")), ENOTDIR);
    fails!(std::fs::remove_file(m.p("f/x")), ENOTDIR);
    fails!(std::fs::remove_dir(m.p("none")), ENOENT);
    fails!(std::fs::remove_dir(m.p("d/.")), EINVAL);
    same!(m.ls("")?, "d f");
    Ok(())
}

fn rmdir_lower(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?;
    cx.lower()?.dir("d")?;
    let m = cx.mount()?;
    std::fs::remove_dir(m.p("d"))?;
    fails!(std::fs::read_dir(m.p("d")), ENOENT);
    let m = cx.remount()?;
    same!(m.ls("")?, "");
    Ok(())
}

fn rmdir_not_empty(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("top/f", "")?.dir("merged")?;
    cx.lower()?.file("merged/below", "")?;
    let m = cx.mount()?;
    m.file("up/f", "")?;
    for d in ["top", "merged", "up"] {
        fails!(std::fs::remove_dir(m.p(d)), ENOTEMPTY | EEXIST);
    }
    m.rm("merged/below")?;
    std::fs::remove_dir(m.p("merged"))?;
    same!(m.ls("")?, "top up");
    Ok(())
}

fn rmdir_of_whiteouts(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/a", "")?.file("d/b", "")?.file("d/e/c", "")?;
    let m = cx.mount()?;
    m.file("d/new", "")?.rm("d/new")?.rm("d/a")?.rm("d/b")?.rm("d/e/c")?;
    std::fs::remove_dir(m.p("d/e"))?;
    same!(m.ls("d")?, "");
    std::fs::remove_dir(m.p("d"))?;
    let m = cx.remount()?;
    same!(m.ls("")?, "");
    Ok(())
}

fn whole_tree(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..200 {
        low.file(&format!("t/a{}/b{}/f{i}", i % 5, i % 3), "x")?;
    }
    let m = cx.mount()?;
    m.file("t/a1/new", "")?.append("t/a0/b0/f0", "y")?;
    std::fs::remove_dir_all(m.p("t"))?;
    holds!(!m.has("t")?);
    if cx.fs != Fs::Plain {
        // One whiteout is all that is left of it.
        same!(cx.upper.ls("")?, "t");
        holds!(!cx.upper.stat("t")?.is_dir());
    }
    let m = cx.remount()?;
    same!(m.ls("")?, "");
    Ok(())
}

fn again_and_again(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "low")?.file("d/g", "low")?;
    let m = cx.mount()?;
    for i in 0..5 {
        m.rm("f")?.file("f", i.to_string())?;
        std::fs::remove_dir_all(m.p("d"))?;
        m.dir("d")?;
        same!(m.ls("d")?, "");
        m.file("d/h", "")?;
    }
    let m = cx.remount()?;
    same!(m.read("f")?, "4");
    same!(m.ls("d")?, "h");
    Ok(())
}

fn removed_working_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?;
    let m = cx.mount()?;
    std::env::set_current_dir(m.p("d"))?;
    std::fs::remove_dir(m.p("d"))?;
    let made = std::fs::write("x", "");
    let listed = std::fs::read_dir(".").and_then(|d| d.collect::<std::io::Result<Vec<_>>>());
    std::env::set_current_dir("/")?;
    fails!(made, ENOENT);
    // Some file systems list nothing, some refuse; both are fine, names are not.
    holds!(listed.is_ok_and(|l| l.is_empty()) || cx.fs != Fs::Plain);
    Ok(())
}

fn permission(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "")?.mode("d", 0o755)?.dir("e")?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    crate::sys::as_ids(1234, 1234, &[], || {
        fails!(std::fs::remove_file(m.p("d/f")), EACCES);
        fails!(std::fs::remove_dir(m.p("e")), EACCES);
        fails!(std::fs::rename(m.p("d/f"), m.p("d/g")), EACCES);
        fails!(std::fs::create_dir(m.p("d/new")), EACCES);
        Ok(())
    })
}

fn parent_times(cx: &mut Ctx) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    cx.lower()?.file("d/f", "")?.dir("d/e")?.times("d", 1000, 0)?;
    let m = cx.mount()?;
    m.rm("d/f")?;
    holds!(m.stat("d")?.mtime() > 1000);
    m.times("d", 1000, 0)?;
    std::fs::remove_dir(m.p("d/e"))?;
    holds!(m.stat("d")?.mtime() > 1000);
    let (now, later) = (m.stat("d")?.mtime(), cx.remount()?.stat("d")?.mtime());
    same!(now, later);
    Ok(())
}
