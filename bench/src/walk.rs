//! Walking a tree as find(1) does: by descriptors, one directory after the other or by several threads.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Told of every entry, before what is below it: its directory, name and type.
pub(crate) type See<'a> = dyn FnMut(BorrowedFd<'_>, &CStr, FileType) -> Result<()> + 'a;

/// Everything below `root`.
pub(crate) fn walk(root: &Path, see: &mut See<'_>) -> Result<()> {
    let fd = openat(CWD, root, OPEN_DIR, Mode::empty()).with_context(|| root.display().to_string())?;
    below(fd, see)
}

fn below(fd: OwnedFd, see: &mut See<'_>) -> Result<()> {
    let mut dirs = Vec::new();
    let mut dir = Dir::new(fd)?;
    list(&mut dir, &mut |at, name, kind| {
        see(at, name, kind)?;
        if kind == FileType::Directory {
            dirs.push(name.to_owned());
        }
        Ok(())
    })?;
    for name in dirs {
        below(openat(dir.fd()?, &name, OPEN_DIR, Mode::empty())?, see)?;
    }
    Ok(())
}

fn list(dir: &mut Dir, see: &mut See<'_>) -> Result<()> {
    while let Some(entry) = dir.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let at = dir.fd()?;
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            kind => kind,
        };
        see(at, name, kind)?;
    }
    Ok(())
}

/// Directories that wait for a thread, and those being listed.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<PathBuf>,
    busy: usize,
}

/// Everything below `root` with stat, by several threads that share the directories.
pub(crate) fn walk_with(root: &Path, threads: usize) -> Result<()> {
    let queue = Mutex::new(Queue { waiting: vec![root.to_owned()], busy: 0 });
    let more = Condvar::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| serve(&queue, &more))).collect();
        all.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
    })
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(queue: &Mutex<Queue>, more: &Condvar) -> Result<()> {
    let mut q = lock(queue);
    loop {
        let Some(dir) = q.waiting.pop() else {
            if q.busy == 0 {
                more.notify_all();
                return Ok(());
            }
            q = more.wait(q).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        q.busy += 1;
        drop(q);
        let mut found = Vec::new();
        let done = stat_all(&dir, &mut found);
        q = lock(queue);
        q.busy -= 1;
        q.waiting.append(&mut found);
        more.notify_all();
        done?;
    }
}

fn stat_all(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let mut open = Dir::new(openat(CWD, dir, OPEN_DIR, Mode::empty())?)?;
    list(&mut open, &mut |at, name, kind| {
        statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind == FileType::Directory {
            found.push(dir.join(name.to_string_lossy().as_ref()));
        }
        Ok(())
    })
}
