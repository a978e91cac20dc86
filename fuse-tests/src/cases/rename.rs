//! renameat2(2).

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::case::Fs;
use crate::ctx::Ctx;
use crate::tree::{Tree, cases, fails, holds, same, together};

const NO_REDIRECT: &str = "EXDEV for a directory of a lower: no redirect with userxattr";

cases!("rename":
    lower_file, over_lower_file, over_open_file, lower_directory.kernel_deviates_rootless(NO_REDIRECT),
    merged_directory.kernel_deviates_rootless(NO_REDIRECT), directory_twice.kernel_deviates_rootless(NO_REDIRECT),
    nested_directories.kernel_deviates_rootless(NO_REDIRECT), over_empty_directory,
    old_place_is_free.kernel_deviates_rootless(NO_REDIRECT), refused,
    same_inode.kernel_deviates_rootless("hard links break at copy-up: no index"), noreplace, exchange,
    exchange_directories.kernel_deviates_rootless(NO_REDIRECT), whiteout_flag, of_symlinks_and_nodes,
    sticky.privileged(), inode_number_stays, storm, big_directory_at_once.kernel_deviates_rootless(NO_REDIRECT),
    open_directory_moves.kernel_deviates_rootless(NO_REDIRECT),
);

fn with(m: &Tree, a: &str, b: &str, flags: RenameFlags) -> rustix::io::Result<()> {
    renameat_with(CWD, m.p(a), CWD, m.p(b), flags)
}

fn lower_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/a", "x")?.mode("d/a", 0o640)?.times("d/a", 1000, 7)?.dir("e")?;
    let m = cx.mount()?;
    m.mv("d/a", "e/b")?;
    let m = cx.remount()?;
    same!((m.ls("d")?, m.ls("e")?), (String::new(), "b".to_owned()));
    same!(m.read("e/b")?, "x");
    same!(m.bits("e/b")?, 0o640);
    same!((m.stat("e/b")?.mtime(), m.stat("e/b")?.mtime_nsec()), (1000, 7));
    fails!(std::fs::rename(m.p("d/a"), m.p("x")), ENOENT);
    Ok(())
}

fn over_lower_file(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "a")?.file("b", "b")?;
    let m = cx.mount()?;
    m.file("new", "new")?.mv("new", "a")?.mv("b", "a")?;
    let m = cx.remount()?;
    same!(m.ls("")?, "a");
    same!(m.read("a")?, "b");
    Ok(())
}

fn over_open_file(cx: &mut Ctx) -> Result<()> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    cx.lower()?.file("low", "old low")?;
    let m = cx.mount()?;
    m.file("up", "old up")?;
    for name in ["low", "up"] {
        let mut f = m.rw(name)?;
        m.file("new", "new")?.mv("new", name)?;
        same!(m.read(name)?, "new");
        let mut text = String::new();
        f.read_to_string(&mut text)?;
        same!(text, format!("old {name}"));
        same!(f.metadata()?.nlink(), 0);
        f.set_len(3)?;
        f.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        same!((f.metadata()?.len(), f.metadata()?.mode() & 0o777), (3, 0o600));
        same!(m.bits(name)?, 0o644);
    }
    Ok(())
}

fn lower_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/sub/f", "deep")?.file("d/g", "g")?.symlink("g", "d/l")?;
    let m = cx.mount()?;
    m.mv("d", "e")?;
    for m in [m, cx.remount()?] {
        same!(m.ls("")?, "e");
        same!(m.ls("e")?, "g l sub");
        same!(m.read("e/sub/f")? + &m.read("e/l")?, "deepg");
    }
    let m = cx.m.clone();
    m.append("e/sub/f", "+")?.rm("e/g")?.file("e/new", "n")?;
    let m = cx.remount()?;
    same!(m.read("e/sub/f")?, "deep+");
    same!(m.ls("e")?, "l new sub");
    Ok(())
}

fn merged_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/one", "1")?.file("d/both", "top")?;
    cx.lower()?.file("d/two", "2")?.file("d/both", "bottom")?.file("d/gone", "")?;
    let m = cx.mount()?;
    m.file("d/three", "3")?.rm("d/gone")?;
    m.dir("p/q")?.mv("d", "p/q/moved")?;
    for m in [m, cx.remount()?] {
        same!(m.ls("")?, "p");
        same!(m.ls("p/q/moved")?, "both one three two");
        same!(m.read("p/q/moved/both")? + &m.read("p/q/moved/two")?, "top2");
    }
    Ok(())
}

fn directory_twice(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a/f", "f")?.file("x/y/z/f", "z")?;
    let m = cx.mount()?;
    m.mv("a", "b")?.mv("b", "x/c")?.mv("x/c", "a")?.mv("x/y", "moved")?.mv("moved/z", "x/z")?.mv("x", "w")?;
    for m in [m, cx.remount()?] {
        same!(m.ls("")?, "a moved w");
        same!(m.read("a/f")? + &m.read("w/z/f")?, "fz");
        same!((m.ls("moved")?, m.ls("w")?), (String::new(), "z".to_owned()));
    }
    Ok(())
}

fn nested_directories(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a/b/c/f", "1")?;
    let m = cx.mount()?;
    // The inner one first, then its old parent, then back into it.
    m.mv("a/b", "b")?.mv("a", "a2")?.mv("b", "a2/b2")?.mv("a2/b2/c", "a2/c")?;
    for m in [m, cx.remount()?] {
        same!(m.ls("a2")?, "b2 c");
        same!(m.ls("a2/b2")?, "");
        same!(m.read("a2/c/f")?, "1");
    }
    Ok(())
}

fn over_empty_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("empty")?.file("full/f", "")?.file("emptied/f", "")?;
    let m = cx.mount()?;
    m.file("d/inside", "x")?;
    fails!(std::fs::rename(m.p("d"), m.p("full")), ENOTEMPTY | EEXIST);
    m.mv("d", "empty")?;
    same!(m.read("empty/inside")?, "x");
    m.rm("emptied/f")?.mv("empty", "emptied")?;
    let m = cx.remount()?;
    // What is below in the directory that was replaced must not show through.
    same!(m.ls("")?, "emptied full");
    same!(m.ls("emptied")?, "inside");
    Ok(())
}

fn old_place_is_free(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "low")?;
    let m = cx.mount()?;
    m.mv("d", "e")?.dir("d")?;
    same!(m.ls("d")?, "");
    m.file("d/f", "new")?;
    let m = cx.remount()?;
    same!(m.read("d/f")? + &m.read("e/f")?, "newlow");
    std::fs::remove_dir_all(m.p("d"))?;
    m.mv("e", "d")?;
    let m = cx.remount()?;
    same!(m.ls("")?, "d");
    same!(m.read("d/f")?, "low");
    Ok(())
}

fn refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/e/f", "")?.file("f", "")?.dir("empty")?;
    let m = cx.mount()?;
    let mv = |a: &str, b: &str| std::fs::rename(m.p(a), m.p(b));
    fails!(mv("d", "d/e/x"), EINVAL);
    fails!(mv("d", "d/x"), EINVAL);
    fails!(mv("d/e", "d"), ENOTEMPTY | EEXIST);
    fails!(mv("f", "empty"), EISDIR);
    fails!(mv("empty", "f"), ENOTDIR);
    fails!(mv("none", "x"), ENOENT);
    fails!(mv("f", "none/x"), ENOENT);
    fails!(mv("f", "f/x"), ENOTDIR);
    same!(m.ls("")?, "d empty f");
    Ok(())
}

fn same_inode(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "x")?.hard("a", "b")?;
    let m = cx.mount()?;
    // Two names of one file: nothing happens, as POSIX says.
    m.mv("a", "b")?.mv("a", "a")?;
    same!(m.ls("")?, "a b");
    same!(m.stat("a")?.nlink(), 2);
    Ok(())
}

fn noreplace(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "a")?.file("b", "b")?;
    let m = cx.mount()?;
    fails!(with(&m, "a", "b", RenameFlags::NOREPLACE), EEXIST);
    m.rm("b")?;
    with(&m, "a", "b", RenameFlags::NOREPLACE)?;
    let m = cx.remount()?;
    same!(m.ls("")?, "b");
    same!(m.read("b")?, "a");
    Ok(())
}

fn exchange(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", "low")?.file("low2", "low2")?;
    let m = cx.mount()?;
    m.file("up", "up")?.dir("dir")?.file("dir/f", "inside")?;
    with(&m, "low", "up", RenameFlags::EXCHANGE)?;
    with(&m, "low2", "dir", RenameFlags::EXCHANGE)?;
    fails!(with(&m, "low", "none", RenameFlags::EXCHANGE), ENOENT);
    fails!(with(&m, "low", "up", RenameFlags::EXCHANGE | RenameFlags::NOREPLACE), EINVAL);
    let m = cx.remount()?;
    same!(m.read("low")? + &m.read("up")? + &m.read("dir")? + &m.read("low2/f")?, "uplowlow2inside");
    Ok(())
}

fn exchange_directories(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a/f", "a")?.file("b/g", "b")?;
    let m = cx.mount()?;
    m.file("a/new", "")?;
    with(&m, "a", "b", RenameFlags::EXCHANGE)?;
    for m in [m, cx.remount()?] {
        same!((m.ls("a")?, m.ls("b")?), ("g".to_owned(), "f new".to_owned()));
        same!(m.read("a/g")? + &m.read("b/f")?, "ba");
    }
    Ok(())
}

fn whiteout_flag(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "a")?;
    let m = cx.mount()?;
    let got = with(&m, "a", "b", RenameFlags::WHITEOUT);
    if cx.fs == Fs::Plain {
        // The oracle has it, for unions that use it as an upper; it leaves a device 0:0.
        if got.is_ok() {
            same!(m.read("b")?, "a");
        }
    } else {
        // As the kernel's union: nothing inside can make a whiteout.
        fails!(got, EINVAL);
        same!(m.ls("")?, "a");
    }
    Ok(())
}

fn of_symlinks_and_nodes(cx: &mut Ctx) -> Result<()> {
    use rustix::fs::FileType;
    cx.lower()?.symlink("target", "l")?.node("p", FileType::Fifo, 0o640, 0)?;
    let m = cx.mount()?;
    m.mv("l", "l2")?.mv("p", "p2")?;
    let m = cx.remount()?;
    same!(m.ls("")?, "l2 p2");
    same!(std::fs::read_link(m.p("l2"))?.display().to_string(), "target");
    same!(m.bits("p2")?, 0o640);
    Ok(())
}

fn sticky(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("t/theirs", "x")?.owner("t/theirs", 1111, 1111)?.mode("t", 0o1777)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    crate::sys::as_ids(1234, 1234, &[], || {
        fails!(std::fs::rename(m.p("t/theirs"), m.p("t/mine")), EPERM | EACCES);
        fails!(std::fs::remove_file(m.p("t/theirs")), EPERM | EACCES);
        m.file("t/own", "")?.mv("t/own", "t/own2")?.rm("t/own2")?;
        Ok(())
    })
}

fn inode_number_stays(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?.symlink("x", "l")?;
    let m = cx.mount()?;
    m.file("up", "y")?.dir("updir")?;
    for (a, b) in [("d/f", "g"), ("up", "up2"), ("l", "l2"), ("updir", "updir2")] {
        let ino = m.stat(a)?.ino();
        m.mv(a, b)?;
        same!((b, m.stat(b)?.ino()), (b, ino));
    }
    Ok(())
}

fn storm(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..20 {
        low.file(&format!("a/f{i}"), i.to_string())?;
    }
    low.dir("b")?;
    let m = cx.mount()?;
    // Everybody moves the same files to and fro; each file is in exactly one place in the end.
    together(0..4, |t| {
                    for i in 0..150 {
                        let name = format!("f{}", (i * 7 + t) % 20);
                        let (from, to) = if (i + t) % 2 == 0 { ("a", "b") } else { ("b", "a") };
                        match std::fs::rename(m.p(format!("{from}/{name}")), m.p(format!("{to}/{name}"))) {
                            Ok(()) => {}
                            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                            Err(e) => return Err(e.into()),
                        }
                    }
                    Ok(())
    })?;
    let place = |m: &Tree| -> Result<Vec<bool>> {
        let mut out = Vec::new();
        for i in 0..20 {
            let (a, b) = (m.has(format!("a/f{i}"))?, m.has(format!("b/f{i}"))?);
            holds!(a != b, "f{i}: in a {a}, in b {b}");
            same!(m.read(&format!("{}/f{i}", if a { "a" } else { "b" }))?, i.to_string());
            out.push(a);
        }
        Ok(out)
    };
    let before = place(&m)?;
    let m = cx.remount()?;
    same!(place(&m)?, before);
    Ok(())
}

fn big_directory_at_once(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..3000 {
        low.file(&format!("d/s{}/f{i}", i % 10), "x")?;
    }
    let m = cx.mount()?;
    m.mv("d", "e")?;
    same!(m.ls("e/s3")?.split(' ').count(), 300);
    if cx.fs != Fs::Plain {
        // O(1): nothing of it was copied up.
        same!(std::fs::read_dir(cx.upper.p("e"))?.count(), 0);
    }
    Ok(())
}

fn open_directory_moves(cx: &mut Ctx) -> Result<()> {
    use rustix::fs::{Mode, OFlags, openat};
    cx.lower()?.file("d/sub/f", "x")?;
    let m = cx.mount()?;
    let fd = openat(CWD, m.p("d/sub"), OFlags::DIRECTORY, Mode::empty())?;
    let file = m.ro("d/sub/f")?;
    m.mv("d", "e")?;
    drop(openat(&fd, "new", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600))?);
    same!(m.ls("e/sub")?, "f new");
    same!(file.metadata()?.ino(), m.stat("e/sub/f")?.ino());
    let up = openat(&fd, "..", OFlags::PATH, Mode::empty())?;
    same!(rustix::fs::fstat(&up)?.st_ino, m.stat("e")?.ino());
    Ok(())
}
