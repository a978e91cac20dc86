//! Locks between processes: flock(2), which the kernel takes away when the last holder of the descriptor dies, however.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Error, Result, Store};

/// A lock, until it is dropped. It is let go of there even if a forked child has inherited the descriptor.
#[derive(Debug)]
pub(super) struct Lock(File);

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

    fn shared(path: &Path) -> Result<Self> {
        let file = open(path)?;
        file.lock_shared().map_err(Error::at("lock", path))?;
        Ok(Self(file))
    }
}

/// Opens a file to lock, which is made if it is not there, or a directory.
pub(super) fn open(path: &Path) -> Result<File> {
    let opened = match File::options().create(true).append(true).open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => File::open(path),
        opened => opened,
    };
    opened.map_err(Error::at("open", path))
}

/// Locks exclusively, now or not at all.
pub(super) fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::at("lock", path)(e)),
    }
}

/// Nothing is swept until the last copy of it is dropped.
#[derive(Clone, Debug)]
pub struct Adding(#[expect(dead_code, reason = "held, never read")] Arc<Lock>);

/// The store's `lock` as this process holds it.
pub(super) type Held = Arc<Mutex<Weak<Lock>>>;

/// For how long the gate is closed at first, and at most: so long may whoever begins be kept waiting.
const CLOSED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often a sweep looks whether its turn has come.
const LOOK: Duration = Duration::from_millis(5);

impl Store {
    /// Keeps [`sweep`](Self::sweep) away while something is in `tmp`, or added that nothing refers to yet. Any number of
    /// processes may hold it, and one process several times: who has it never waits for it.
    ///
    /// # Errors
    /// The lock file can't be opened.
    pub fn adding(&self) -> Result<Adding> {
        let mut held = self.held.lock();
        if let Some(lock) = held.upgrade() {
            return Ok(Adding(lock));
        }
        // Through the gate, which is open again behind us.
        drop(Lock::shared(&self.path("gate.lock"))?);
        let lock = Arc::new(Lock::shared(&self.path("lock"))?);
        *held = Arc::downgrade(&lock);
        Ok(Adding(lock))
    }

    /// Keeps everybody away who adds; `None` if somebody does and `wait` is false.
    ///
    /// The kernel lets in who shares a lock whoever waits for it alone: where somebody always adds, a sweep would never
    /// have its turn. So it closes the gate that newcomers go through, until those who are in have left; but not for long
    /// at a time, for one of them may be fetching for hours. Each time is twice as long as the one before, and between two
    /// of them the gate is open for as long as it was closed.
    pub(super) fn sweeping(&self, wait: bool) -> Result<Option<Lock>> {
        let path = self.path("lock");
        let file = open(&path)?;
        let mut turn = CLOSED.0;
        let mut gate = None;
        loop {
            let end = Instant::now() + turn;
            loop {
                if try_lock(&file, &path)? {
                    return Ok(Some(Lock(file)));
                }
                if !wait {
                    return Ok(None);
                }
                if Instant::now() >= end {
                    break;
                }
                std::thread::sleep(LOOK);
            }
            gate = match gate {
                None => Some(Lock::exclusive(&self.path("gate.lock"))?),
                Some(closed) => {
                    drop(closed);
                    turn = CLOSED.1.min(turn * 2);
                    None
                }
            };
        }
    }

    /// Held while names are read, changed and written back. Innermost: nothing else is waited for with it.
    pub(super) fn naming(&self) -> Result<Lock> {
        Lock::exclusive(&self.path("names.lock"))
    }
}
