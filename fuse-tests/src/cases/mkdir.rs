//! mkdir(2).

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

use anyhow::Result;

use crate::case::Fs;
use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("mkdir":
    nested, over_whiteout_is_opaque, refused, modes, nlink,
    in_moved_directory.kernel_deviates_rootless("EXDEV for a directory of a lower: no redirect with userxattr"),
    over_removed_file.union(),
);

fn nested(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("low")?;
    let m = cx.mount()?;
    m.dir("a/b/c")?.dir("low/d/e")?.file("low/d/e/f", "x")?;
    let m = cx.remount()?;
    same!((m.ls("")?, m.ls("a/b")?, m.ls("low/d/e")?), ("a low".to_owned(), "c".to_owned(), "f".to_owned()));
    Ok(())
}

fn over_whiteout_is_opaque(cx: &mut Ctx) -> Result<()> {
    // fuse-overlayfs 2.0 writes no mark here: the lower files are back after a remount.
    cx.lower()?.file("d/f", "old")?.file("d/e/g", "old")?.mode("d", 0o700)?;
    let m = cx.mount()?;
    std::fs::remove_dir_all(m.p("d"))?;
    std::fs::create_dir(m.p("d"))?;
    for m in [m, cx.remount()?] {
        same!(m.ls("d")?, "");
        fails!(std::fs::metadata(m.p("d/f")), ENOENT);
        fails!(std::fs::metadata(m.p("d/e/g")), ENOENT);
        same!(m.bits("d")?, 0o755);
    }
    cx.m.dir("d/e")?;
    same!(cx.remount()?.ls("d/e")?, "");
    if cx.fs != Fs::Plain {
        same!(cx.upper.getx("d", &format!("{}opaque", cx.prefix()))?, Some(b"y".to_vec()));
    }
    Ok(())
}

fn refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?.file("f", "")?.symlink("nowhere", "l")?;
    let m = cx.mount()?;
    for (name, errno) in [("d", libc::EEXIST), ("f", libc::EEXIST), ("l", libc::EEXIST), ("none/x", libc::ENOENT)] {
        same!((name, std::fs::create_dir(m.p(name)).err().and_then(|e| e.raw_os_error())), (name, Some(errno)));
    }
    fails!(std::fs::create_dir(m.p("f/x")), ENOTDIR);
    Ok(())
}

fn modes(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    for mode in [0o755, 0o700, 0o1777, 0o000] {
        let name = format!("d{mode:o}");
        std::fs::DirBuilder::new().mode(mode).create(m.p(&name))?;
        same!(m.bits(&name)?, mode);
    }
    Ok(())
}

fn nlink(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d/a")?.dir("d/b")?.file("d/f", "")?;
    let m = cx.mount()?;
    // find(1) takes a count of 1 for "unknown" and 2 plus subdirectories for the truth; anything else misleads it.
    let right = |d: &str, subdirs: u64| -> Result<()> {
        let n = m.stat(d)?.nlink();
        holds!(n == 1 || n == 2 + subdirs, "{d}: nlink {n} with {subdirs} subdirectories");
        Ok(())
    };
    right("d", 2)?;
    right("d/a", 0)?;
    m.dir("d/c")?;
    right("d", 3)?;
    std::fs::remove_dir(m.p("d/a"))?;
    right("d", 2)
}

fn in_moved_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/sub/f", "x")?;
    let m = cx.mount()?;
    m.mv("d", "e")?.dir("e/new")?.dir("e/sub/new")?;
    std::fs::remove_dir_all(m.p("e/sub"))?;
    m.dir("e/sub")?;
    let m = cx.remount()?;
    same!((m.ls("e")?, m.ls("e/sub")?), ("new sub".to_owned(), String::new()));
    Ok(())
}

fn over_removed_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("x", "file")?;
    cx.lower()?.file("x/below", "")?;
    let m = cx.mount()?;
    m.rm("x")?;
    m.dir("x")?;
    let m = cx.remount()?;
    same!(m.ls("x")?, "");
    Ok(())
}
