//! Looking around: walks, stat, open, names that are not there, reading small files.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::{Errno, read};

use super::{Cx, Timed, at_once};
use crate::walk::{walk, walk_with};

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// Different names in the hot workloads.
const NAMES: usize = 2_000;

fn stat_tree(root: &Path) -> Result<()> {
    walk(root, &mut |at, name, _| {
        statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    })
}

fn name_tree(root: &Path) -> Result<()> {
    walk(root, &mut |_, _, _| Ok(()))
}

pub(super) fn walk_stat(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| stat_tree(&cx.merged)))
}

pub(super) fn walk_stat_again(cx: &Cx) -> Result<Timed<'_>> {
    stat_tree(&cx.merged)?;
    walk_stat(cx)
}

pub(super) fn walk_stat_2(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| walk_with(&cx.merged, 2)))
}

pub(super) fn walk_stat_8(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| walk_with(&cx.merged, 8)))
}

pub(super) fn walk_names(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| name_tree(&cx.merged)))
}

pub(super) fn walk_names_again(cx: &Cx) -> Result<Timed<'_>> {
    name_tree(&cx.merged)?;
    walk_names(cx)
}

pub(super) fn hot_stat(cx: &Cx) -> Result<Timed<'_>> {
    let names = some_files(&cx.merged)?;
    for name in &names {
        statat(CWD, name, AtFlags::empty())?;
    }
    Ok(Box::new(move || {
        for name in names.iter().cycle().take(cx.scale.calls) {
            statat(CWD, name, AtFlags::empty())?;
        }
        Ok(())
    }))
}

pub(super) fn hot_open(cx: &Cx) -> Result<Timed<'_>> {
    let name = some_files(&cx.merged)?.into_iter().next().context("no file")?;
    let once = move || openat(CWD, &name, OPEN, Mode::empty());
    once()?;
    Ok(Box::new(move || {
        for _ in 0..cx.scale.calls {
            once()?;
        }
        Ok(())
    }))
}

pub(super) fn absent(cx: &Cx) -> Result<Timed<'_>> {
    let mut names = some_files(&cx.merged)?;
    for name in &mut names {
        let mut bytes = std::mem::take(name).into_bytes();
        bytes.extend(b".gone");
        *name = CString::new(bytes)?;
    }
    let calls = cx.scale.calls;
    let miss = move |n: usize| {
        for name in names.iter().cycle().take(n) {
            match statat(CWD, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => bail!("{}: should not be there", name.to_string_lossy()),
            }
        }
        Ok(())
    };
    miss(NAMES)?;
    Ok(Box::new(move || miss(calls)))
}

pub(super) fn read_all(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| read_tree(&cx.merged)))
}

pub(super) fn read_all_again(cx: &Cx) -> Result<Timed<'_>> {
    read_tree(&cx.merged)?;
    read_all(cx)
}

/// Each thread the same number of the directories at the top.
pub(super) fn read_all_8(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| {
        let dirs = std::fs::read_dir(&cx.merged)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
        at_once(8, |i| dirs.iter().skip(i).step_by(8).filter(|d| d.is_dir()).try_for_each(|dir| read_tree(dir)))
    }))
}

/// As tar does: stat, open, fstat, read to the end, close.
fn read_tree(root: &Path) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    walk(root, &mut |at: BorrowedFd<'_>, name, kind| {
        statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::RegularFile {
            return Ok(());
        }
        let file: OwnedFd = openat(at, name, OPEN, Mode::empty())?;
        let size = u64::try_from(fstat(&file)?.st_size)?;
        let mut got = 0;
        loop {
            match read(&file, &mut buffer)? {
                0 => break,
                n => got += n as u64,
            }
        }
        ensure!(got == size, "{}: {got} bytes of {size}", name.to_string_lossy());
        Ok(())
    })
}

/// The first files of the tree.
fn some_files(root: &Path) -> Result<Vec<CString>> {
    let mut files = Vec::new();
    gather(root, &mut files)?;
    ensure!(!files.is_empty(), "no file in the layers");
    Ok(files)
}

fn gather(dir: &Path, files: &mut Vec<CString>) -> Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    // The same ones for every competitor, whatever its order.
    entries.sort();
    for path in entries {
        if files.len() == NAMES {
            break;
        }
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            gather(&path, files)?;
        } else if kind.is_file() {
            files.push(CString::new(path.as_os_str().as_bytes())?);
        }
    }
    Ok(())
}
