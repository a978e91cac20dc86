//! Files that are open and have no name any more.

use std::fs::FileTimes;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

cases!("open_unlinked":
    lower, upper, copied_up, one_of_two_names, name_taken_again, changed_without_name, through_proc, mapped,
);

fn go(cx: &mut Ctx, name: &str, mut f: std::fs::File) -> Result<()> {
    let m = cx.m.clone();
    let ino = f.metadata()?.ino();
    m.rm(name)?;
    holds!(!m.has(name)?);
    same!((f.metadata()?.nlink(), f.metadata()?.ino(), f.metadata()?.size()), (0, ino, 7));
    let mut text = String::new();
    f.read_to_string(&mut text)?;
    same!(text, "content");
    f.write_all(b" more")?;
    f.set_len(9)?;
    f.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    f.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5)))?;
    f.sync_all()?;
    rustix::fs::fsetxattr(&f, "user.a", b"1", rustix::fs::XattrFlags::empty())?;
    let mut one = [0; 8];
    same!(rustix::fs::fgetxattr(&f, "user.a", &mut one[..])?, 1);
    let st = f.metadata()?;
    same!((st.nlink(), st.size(), st.mode() & 0o7777, st.mtime()), (0, 9, 0o600, 5));
    text.clear();
    f.rewind()?;
    f.read_to_string(&mut text)?;
    same!(text, "content m");
    drop(f);
    same!(cx.remount()?.ls("")?, "");
    Ok(())
}

fn lower(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "content")?;
    let m = cx.mount()?;
    go(cx, "f", m.rw("f")?)
}

fn upper(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "content")?;
    go(cx, "f", m.rw("f")?)
}

fn copied_up(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "conten")?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    m.append("f", "t")?;
    go(cx, "f", f)
}

fn one_of_two_names(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("a", "x")?.hard("a", "b")?;
    let mut f = m.rw("a")?;
    m.rm("a")?;
    same!(f.metadata()?.nlink(), 1);
    f.write_all(b"y")?;
    same!(m.read("b")?, "y");
    m.rm("b")?;
    same!(f.metadata()?.nlink(), 0);
    Ok(())
}

fn name_taken_again(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "old")?;
    let m = cx.mount()?;
    let mut old = m.rw("f")?;
    m.rm("f")?.file("f", "new")?;
    let mut text = String::new();
    old.read_to_string(&mut text)?;
    old.write_all(b"er")?;
    same!((text, m.read("f")?), ("old".to_owned(), "new".to_owned()));
    holds!(old.metadata()?.ino() != m.stat("f")?.ino(), "two files, one number");
    Ok(())
}

fn changed_without_name(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    // Opened for reading, still below, then without a name; now another descriptor of it writes.
    let reader = m.ro("f")?;
    let mut writer = m.rw("f")?;
    m.rm("f")?;
    writer.write_all(b"ab")?;
    let mut two = [0; 2];
    std::os::unix::fs::FileExt::read_exact_at(&reader, &mut two, 0)?;
    same!((&two, reader.metadata()?.nlink()), (b"ab", 0));
    Ok(())
}

fn through_proc(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "content")?;
    let m = cx.mount()?;
    let f = m.rw("f")?;
    m.rm("f")?;
    same!(std::fs::read_to_string(format!("/proc/self/fd/{}", f.as_raw_fd()))?, "content");
    Ok(())
}

fn mapped(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 10_000])?;
    let m = cx.mount()?;
    let map = crate::sys::Map::shared(&m.rw("f")?, 10_000, true)?;
    m.rm("f")?;
    map.write(5000, b"abc")?;
    map.sync()?;
    same!(&map.bytes()[4999..5004], b"xabcx");
    Ok(())
}
