//! Locks between processes: flock(2), which the kernel takes away when the last holder of the descriptor dies, however.

use std::fs::File;
use std::path::Path;

use super::{Error, Result, Store};

/// A lock, until it is dropped. It is let go of there even if a forked child has inherited the descriptor.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(e) = self.0.unlock() {
            log::warn!("unlock: {e}");
        }
    }
}

impl Lock {
    pub(super) fn exclusive(path: &Path) -> Result<Self> {
        let file = open(path)?;
        file.lock().map_err(Error::at("lock", path))?;
        Ok(Self(file))
    }

    /// `None`: somebody has it.
    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        Ok(try_lock(&file, path)?.then_some(Self(file)))
    }
}

/// Opens a file to lock, which is made if it is not there, or a directory.
pub(super) fn open(path: &Path) -> Result<File> {
    if path.is_dir() {
        return File::open(path).map_err(Error::at("open", path));
    }
    File::options().create(true).append(true).open(path).map_err(Error::at("open", path))
}

/// Locks exclusively, now or not at all.
pub(super) fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::at("lock", path)(e)),
    }
}

impl Store {
    /// Keeps [`sweep`](Self::sweep) away while something is in `tmp`, or added that nothing refers to yet. Any number of
    /// processes may hold it, and one process several times.
    ///
    /// # Errors
    /// The lock file can't be opened.
    pub fn adding(&self) -> Result<Lock> {
        let path = self.path("lock");
        let file = open(&path)?;
        file.lock_shared().map_err(Error::at("lock", &path))?;
        Ok(Lock(file))
    }

    /// Keeps everybody away who adds; `None` if somebody does and `wait` is false.
    pub(super) fn sweeping(&self, wait: bool) -> Result<Option<Lock>> {
        let path = self.path("lock");
        match Lock::try_exclusive(&path)? {
            None if wait => Lock::exclusive(&path).map(Some),
            got => Ok(got),
        }
    }

    /// Held while names are read, changed and written back. Innermost: nothing else is waited for with it.
    pub(super) fn naming(&self) -> Result<Lock> {
        Lock::exclusive(&self.path("names.lock"))
    }
}
