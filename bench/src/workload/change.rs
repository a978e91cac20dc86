//! Making, removing, changing and moving files and trees.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, statat};

use super::{Cx, Timed, at_once};
use crate::fixture::{copy_layers, text};
use crate::random::Random;
use crate::walk::walk;

/// What files are chowned to; there in every user namespace with a range.
const OTHER: u32 = 1;

pub(super) fn create(cx: &Cx) -> Result<Timed<'_>> {
    let dir = cx.merged.join("new");
    fs::create_dir(&dir)?;
    let names: Vec<PathBuf> = (0..cx.scale.create).map(|i| dir.join(format!("file{i}"))).collect();
    Ok(Box::new(move || {
        for name in &names {
            File::create_new(name)?.write_all(b"a line of text\n")?;
        }
        Ok(())
    }))
}

/// Threads of the rows that say so.
const THREADS: usize = 4;

/// Each in a directory of its own.
pub(super) fn create_4(cx: &Cx) -> Result<Timed<'_>> {
    let dirs = new_dirs(cx)?;
    Ok(Box::new(move || {
        at_once(THREADS, |i| {
            (0..cx.scale.create / THREADS).try_for_each(|n| {
                Ok(File::create_new(dirs[i].join(format!("file{n}")))?.write_all(b"a line of text\n")?)
            })
        })
    }))
}

pub(super) fn untar_4(cx: &Cx) -> Result<Timed<'_>> {
    let (archive, dirs) = (archive(cx.scale.untar / THREADS)?, new_dirs(cx)?);
    Ok(Box::new(move || at_once(THREADS, |i| unpack(&archive, &dirs[i]))))
}

pub(super) fn remove_new_4(cx: &Cx) -> Result<Timed<'_>> {
    let (archive, dirs) = (archive(cx.scale.untar / THREADS)?, new_dirs(cx)?);
    at_once(THREADS, |i| unpack(&archive, &dirs[i]))?;
    Ok(Box::new(move || at_once(THREADS, |i| Ok(fs::remove_dir_all(&dirs[i])?))))
}

fn new_dirs(cx: &Cx) -> Result<Vec<PathBuf>> {
    let dirs: Vec<PathBuf> = (0..THREADS).map(|i| cx.merged.join(format!("new{i}"))).collect();
    dirs.iter().try_for_each(fs::create_dir)?;
    Ok(dirs)
}

pub(super) fn untar(cx: &Cx) -> Result<Timed<'_>> {
    let archive = archive(cx.scale.untar)?;
    let to = new_dir(cx)?;
    Ok(Box::new(move || unpack(&archive, &to)))
}

pub(super) fn remove_new(cx: &Cx) -> Result<Timed<'_>> {
    let to = new_dir(cx)?;
    unpack(&archive(cx.scale.untar)?, &to)?;
    Ok(Box::new(move || Ok(fs::remove_dir_all(&to)?)))
}

pub(super) fn remove_lower(cx: &Cx) -> Result<Timed<'_>> {
    let dirs = root_dirs(cx)?;
    Ok(Box::new(move || Ok(dirs.iter().try_for_each(fs::remove_dir_all)?)))
}

pub(super) fn chmod(cx: &Cx) -> Result<Timed<'_>> {
    Ok(Box::new(|| {
        walk(&cx.merged, &mut |at, name, kind| {
            let mode = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
            if kind != FileType::Symlink {
                chmodat(at, name, Mode::from_raw_mode(mode ^ 0o010), AtFlags::empty())?;
            }
            Ok(())
        })
    }))
}

pub(super) fn chown(cx: &Cx) -> Result<Timed<'_>> {
    let (uid, gid) = (Some(Uid::from_raw(OTHER)), Some(Gid::from_raw(OTHER)));
    Ok(Box::new(move || {
        walk(&cx.merged, &mut |at, name, _| {
            statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(chownat(at, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
        })
    }))
}

/// As mv(1) does: rename, or copy and remove where that is refused.
pub(super) fn rename(cx: &Cx) -> Result<Timed<'_>> {
    let dirs = root_dirs(cx)?;
    Ok(Box::new(move || {
        for from in &dirs {
            let to = from.with_extension("moved");
            match fs::rename(from, &to) {
                Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                    fs::create_dir(&to)?;
                    copy_layers(std::slice::from_ref(from), &to)?;
                    fs::remove_dir_all(from)?;
                }
                done => done.with_context(|| from.display().to_string())?,
            }
        }
        Ok(())
    }))
}

fn new_dir(cx: &Cx) -> Result<PathBuf> {
    let dir = cx.merged.join("new");
    fs::create_dir(&dir)?;
    Ok(dir)
}

fn root_dirs(cx: &Cx) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(&cx.merged)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        }
    }
    dirs.sort();
    Ok(dirs)
}

/// Files of up to 8 KiB, thirty to a directory.
fn archive(files: usize) -> Result<Vec<u8>> {
    let mut random = Random::new(2);
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, size, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        header
    };
    for i in 0..files {
        let dir = format!("d{}", i / 30);
        if i % 30 == 0 {
            tar.append_data(&mut header(tar::EntryType::Directory, 0, 0o755), &dir, &[][..])?;
        }
        let size = random.below(8 << 10);
        let data = text(&mut random, size);
        tar.append_data(&mut header(tar::EntryType::Regular, size, 0o644), format!("{dir}/f{i}"), &*data)?;
    }
    Ok(tar.into_inner()?)
}

fn unpack(archive: &[u8], to: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    Ok(archive.unpack(to)?)
}
