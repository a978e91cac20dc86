//! open(2) with `O_CREAT` and the other flags.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags, linkat, openat};

use crate::case::{User, skip};
use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, raw_entries, same, together};

cases!("create":
    new_file, exclusive, over_whiteout, in_lower_directory, trunc_flag, append_flag, directory_flags, read_only_fd,
    write_without_read_permission, mode_of_new_file, o_tmpfile, o_tmpfile_exclusive,
    o_tmpfile_of_whom.privileged(), o_tmpfile_where_it_can_not_be,
    o_path.kernel_deviates_rootless("EXDEV for a directory of a lower: no redirect with userxattr"),
    owner_of_new_file.privileged(), storm, reopen_through_proc,
);

fn new_file(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("a", "hello")?.file("d/e/f", "deep")?;
    same!(m.read("a")?, "hello");
    same!(m.stat("a")?.size(), 5);
    same!(m.stat("a")?.nlink(), 1);
    let m = cx.remount()?;
    same!(m.read("a")? + &m.read("d/e/f")?, "hellodeep");
    Ok(())
}

fn exclusive(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("low", "x")?.symlink("nowhere", "dangling")?;
    let m = cx.mount()?;
    m.file("up", "y")?;
    for name in ["low", "up", "dangling"] {
        fails!(File::create_new(m.p(name)), EEXIST);
    }
    m.rm("low")?;
    File::create_new(m.p("low"))?.write_all(b"new")?;
    same!(m.read("low")?, "new");
    Ok(())
}

fn over_whiteout(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "old content")?.mode("f", 0o600)?.setx("f", "user.old", "1")?;
    let m = cx.mount()?;
    m.rm("f")?.file("f", "new")?;
    let m = cx.remount()?;
    same!(m.read("f")?, "new");
    same!(m.bits("f")?, 0o644);
    same!(m.listx("f")?, Vec::<String>::new());
    Ok(())
}

fn in_lower_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a/b/c/low", "")?.mode("a/b", 0o750)?.times("a", 1000, 1)?;
    let m = cx.mount()?;
    m.file("a/b/c/new", "x")?;
    same!(m.ls("a/b/c")?, "low new");
    // Only the directory that got the name has changed.
    same!(m.bits("a/b")?, 0o750);
    same!((m.stat("a")?.mtime(), m.stat("a")?.mtime_nsec()), (1000, 1));
    holds!(m.stat("a/b/c")?.mtime() > 1000);
    Ok(())
}

fn trunc_flag(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "a long content")?;
    let m = cx.mount()?;
    drop(OpenOptions::new().write(true).truncate(true).open(m.p("f"))?);
    same!(m.stat("f")?.size(), 0);
    let m = cx.remount()?;
    same!(m.read("f")?, "");
    Ok(())
}

fn append_flag(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "abc")?;
    let m = cx.mount()?;
    let mut one = OpenOptions::new().append(true).open(m.p("f"))?;
    let mut two = OpenOptions::new().append(true).open(m.p("f"))?;
    one.write_all(b"1")?;
    two.write_all(b"2")?;
    one.write_all(b"3")?;
    same!(m.read("f")?, "abc123");
    Ok(())
}

fn directory_flags(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?.dir("d")?.symlink("f", "l")?;
    let m = cx.mount()?;
    let open = |name: &str, flags| openat(CWD, m.p(name), flags, Mode::empty());
    fails!(open("f", OFlags::DIRECTORY), ENOTDIR);
    fails!(open("d", OFlags::WRONLY), EISDIR);
    fails!(open("l", OFlags::NOFOLLOW), ELOOP);
    fails!(open("d", OFlags::CREATE | OFlags::RDWR), EISDIR);
    holds!(open("d", OFlags::DIRECTORY).is_ok());
    Ok(())
}

fn read_only_fd(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    fails!(m.ro("f")?.write(b"y"), EBADF);
    fails!(m.ro("f")?.set_len(0), EINVAL | EBADF);
    let mut write_only = OpenOptions::new().write(true).open(m.p("f"))?;
    fails!(write_only.read(&mut [0; 1]), EBADF);
    write_only.write_all(b"z")?;
    same!(m.read("f")?, "z");
    Ok(())
}

fn write_without_read_permission(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "abcdef")?;
    let m = cx.mount()?;
    // As a log that its writer may not read: copy-up must read it nevertheless.
    m.mode("f", 0o200)?;
    m.append("f", "g")?;
    m.mode("f", 0o600)?;
    same!(m.read("f")?, "abcdefg");
    // A new file's mode binds later opens only.
    let mut f = OpenOptions::new().write(true).create_new(true).mode(0o400).open(m.p("new"))?;
    f.write_all(b"x")?;
    same!(m.bits("new")?, 0o400);
    Ok(())
}

fn mode_of_new_file(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    for mode in [0o644, 0o600, 0o777, 0o4755, 0o2711, 0o1666, 0o000] {
        let name = format!("f{mode:o}");
        OpenOptions::new().write(true).create_new(true).mode(mode).open(m.p(&name))?;
        same!(m.bits(&name)?, mode);
    }
    Ok(())
}

/// open(2) with `O_TMPFILE`; skipped where fuser carries the requests, which does not know it.
fn tmpfile(cx: &Ctx, dir: &str, more: OFlags, mode: u32) -> Result<File> {
    let got = openat(CWD, cx.m.p(dir), OFlags::TMPFILE | OFlags::RDWR | more, Mode::from_raw_mode(mode));
    if cx.carried_by_fuser() {
        // Programs are told so in the way they expect.
        fails!(got, EOPNOTSUPP);
        return Err(skip("fuser 0.18 has no FUSE_TMPFILE"));
    }
    Ok(File::from(got?))
}

/// linkat(2) of an open file, as open(2) shows it.
fn link_open(f: &File, to: &Path) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    linkat(CWD, format!("/proc/self/fd/{}", f.as_raw_fd()), CWD, to, AtFlags::SYMLINK_FOLLOW)
}

fn o_tmpfile(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/low", "low")?.file("d/gone", "x")?;
    let m = cx.mount()?;
    m.rm("d/gone")?;
    let mut f = tmpfile(cx, "d", OFlags::empty(), 0o666)?;
    same!((f.metadata()?.nlink(), f.metadata()?.mode() & 0o7777, f.metadata()?.len()), (0, 0o644, 0));
    same!(m.ls("d")?, "low");
    f.write_all(b"hidden")?;
    f.set_permissions(PermissionsExt::from_mode(0o600))?;
    rustix::fs::fsetxattr(&f, "user.x", b"1", XattrFlags::empty())?;
    f.set_len(3)?;
    // The name of a lower file, whose whiteout goes.
    link_open(&f, &m.p("d/gone"))?;
    fails!(link_open(&f, &m.p("d/low")), EEXIST);
    link_open(&f, &m.p("again"))?;
    same!((m.read("d/gone")?, m.read("again")?), ("hid".to_owned(), "hid".to_owned()));
    f.write_all(b"!")?;
    let (ino, st) = (f.metadata()?.ino(), m.stat("again")?);
    same!((st.ino(), st.nlink(), st.mode() & 0o7777), (ino, 2, 0o600));
    let listed = raw_entries(&File::open(m.p(""))?)?.into_iter().find(|e| e.name == "again").map(|e| e.ino);
    same!(listed, Some(ino));
    // Open or not, what gets no name leaves nothing.
    let open = tmpfile(cx, "", OFlags::empty(), 0o600)?;
    let mut gone = tmpfile(cx, "", OFlags::empty(), 0o600)?;
    gone.write_all(&[7; 100_000])?;
    drop((gone, open, f));
    let m = cx.remount()?;
    same!((m.ls("")?, m.ls("d")?), ("again d".to_owned(), "gone low".to_owned()));
    same!((m.read("d/gone")?.len(), m.getx("again", "user.x")?), (7, Some(b"1".to_vec())));
    same!(m.stat("d/gone")?.ino(), ino);
    Ok(())
}

fn o_tmpfile_exclusive(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    let f = tmpfile(cx, "", OFlags::EXCL, 0o600)?;
    fails!(link_open(&f, &m.p("never")), ENOENT);
    // What was unlinked can't come back either.
    m.file("f", "x")?;
    let open = m.ro("f")?;
    m.rm("f")?;
    fails!(link_open(&open, &m.p("f")), ENOENT);
    same!(m.ls("")?, "");
    // By descriptor alone, who may.
    let f = tmpfile(cx, "", OFlags::empty(), 0o600)?;
    match linkat(&f, "", CWD, m.p("by fd"), AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 only for CAP_DAC_READ_SEARCH.
        Err(rustix::io::Errno::NOENT) if cx.user != User::Root => {}
        done => {
            done?;
            same!(m.ls("")?, "by fd");
        }
    }
    Ok(())
}

fn o_tmpfile_of_whom(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("set")?.owner("set", 0, 2222)?.mode("set", 0o2777)?.dir("open")?.mode("open", 0o777)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    let of = |f: File| -> Result<_> { Ok((f.metadata()?.uid(), f.metadata()?.gid(), f.metadata()?.mode() & 0o7777)) };
    // Skips before there is a child that can't.
    drop(tmpfile(cx, "", OFlags::empty(), 0o600)?);
    crate::sys::as_ids(1234, 2345, &[77], || {
        same!(of(tmpfile(cx, "open", OFlags::empty(), 0o640)?)?, (1234, 2345, 0o640));
        same!(of(tmpfile(cx, "set", OFlags::empty(), 0o640)?)?, (1234, 2222, 0o640));
        fails!(openat(CWD, m.p(""), OFlags::TMPFILE | OFlags::RDWR, Mode::empty()), EACCES);
        Ok(())
    })
}

fn o_tmpfile_where_it_can_not_be(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    drop(tmpfile(cx, "", OFlags::empty(), 0o600)?);
    let at = |name: &str, flags| openat(CWD, m.p(name), OFlags::TMPFILE | flags, Mode::from_raw_mode(0o600));
    fails!(at("", OFlags::RDONLY), EINVAL);
    fails!(at("f", OFlags::RDWR), ENOTDIR);
    m.dir("d")?;
    let d = openat(CWD, m.p("d"), OFlags::RDONLY, Mode::empty())?;
    std::fs::remove_dir(m.p("d"))?;
    // ext4 says the latter.
    fails!(openat(&d, ".", OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600)), ENOENT | EPERM);
    Ok(())
}

fn o_path(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?;
    let m = cx.mount()?;
    let dir = openat(CWD, m.p("d"), OFlags::PATH, Mode::empty())?;
    m.mv("d", "e")?;
    let f = openat(&dir, "f", OFlags::RDONLY, Mode::empty())?;
    let mut text = String::new();
    File::from(f).read_to_string(&mut text)?;
    same!(text, "x");
    let new = openat(&dir, "new", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644))?;
    drop(new);
    same!(m.ls("e")?, "f new");
    Ok(())
}

fn owner_of_new_file(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.dir("open")?.mode("open", 0o777)?.mode("", 0o755)?;
    crate::sys::as_ids(1234, 2345, &[77], || {
        m.file("open/f", "x")?.dir("open/d")?.symlink("f", "open/l")?;
        m.append("open/f", "y")?;
        Ok(())
    })?;
    for n in ["f", "d", "l"] {
        let st = m.stat(format!("open/{n}"))?;
        same!((n, st.uid(), st.gid()), (n, 1234, 2345));
    }
    Ok(())
}

fn storm(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..50 {
        low.file(&format!("d/f{i}"), format!("low{i}"))?;
    }
    let m = cx.mount()?;
    // Four threads, each with names of its own in one directory: the end is known.
    together(0..4, |t| {
                    for round in 0..60 {
                        let name = format!("d/t{t}-{}", round % 7);
                        m.file(&name, format!("{t} {round}"))?;
                        m.mv(&name, &format!("d/moved{t}"))?;
                        if round % 3 == 0 {
                            m.rm(&format!("d/moved{t}"))?;
                        }
                        let shared = m.p(format!("d/f{}", round % 50));
                        match std::fs::remove_file(&shared) {
                            Ok(()) => {}
                            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                            Err(e) => return Err(e.into()),
                        }
                    }
                    Ok(())
    })?;
    let want = "moved0 moved1 moved2 moved3";
    same!(m.ls("d")?, want);
    let m = cx.remount()?;
    same!(m.ls("d")?, want);
    same!(m.read("d/moved2")?, "2 59");
    Ok(())
}

fn reopen_through_proc(cx: &mut Ctx) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    cx.lower()?.file("f", "abc")?;
    let m = cx.mount()?;
    let f = m.ro("f")?;
    let mut again = OpenOptions::new().append(true).open(format!("/proc/self/fd/{}", f.as_raw_fd()))?;
    again.write_all(b"d")?;
    same!(m.read("f")?, "abcd");
    same!(std::fs::read_link(format!("/proc/self/fd/{}", f.as_raw_fd()))?, m.p("f"));
    Ok(())
}
