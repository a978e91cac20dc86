//! The tree itself: its objects, its clock, its count of changes and its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};

use super::Object;
use crate::vocab::{Errno, Kind, Result, SetTime, Stat, Timestamp};

/// As many names as ext4 allows.
pub(super) const MAX_LINKS: u32 = 65_000;
/// No file is bigger: memory is all there is.
pub(super) const MAX_SIZE: u64 = 1 << 28;

/// A tree in memory.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Inode>,
}

/// What all objects of a tree share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dev: u64,
    lock: Mutex<Ledger>,
    numbers: Mutex<Numbers>,
}

/// Guarded by the lock of the tree.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    changes: u64,
    fault: Option<(u64, Errno)>,
}

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    free: BTreeSet<u64>,
    generation: u64,
}

/// An object, alive while it has a name or a handle.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) shared: Arc<Shared>,
    pub(super) ino: u64,
    pub(super) generation: u64,
    pub(super) kind: Kind,
    pub(super) rdev: u64,
    pub(super) born: Timestamp,
    pub(super) meta: Mutex<Meta>,
}

/// What changes in an object.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    /// It was made without a name, and may get one.
    pub(super) linkable: bool,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) body: Body,
}

/// What an object holds.
#[derive(Debug)]
pub(super) enum Body {
    Bytes(Vec<u8>),
    Dir { entries: BTreeMap<Vec<u8>, Arc<Inode>>, parent: Weak<Inode> },
    Nothing,
}

impl Tree {
    /// An empty tree on a file system with this device number. With an even one it has no files without names: both kinds
    /// are about.
    pub fn new(dev: u64) -> Self {
        let numbers = Mutex::new(Numbers { next: 2, ..Numbers::default() });
        let shared = Arc::new(Shared { dev, lock: Mutex::default(), numbers });
        Self { root: shared.make(Kind::Dir, 0o755, 0, Body::Dir { entries: BTreeMap::new(), parent: Weak::new() }) }
    }

    /// Whether a file can be made in it without a name.
    pub fn has_unnamed(&self) -> bool {
        self.root.shared.has_unnamed()
    }

    /// Its root. Through a handle that is not writable, and all that come from it, nothing can be changed.
    pub fn root(&self, writable: bool) -> Object {
        Object::new(self.root.clone(), writable)
    }

    /// Lets the `n`-th changing call from now fail with `errno`, once; `0` takes that back.
    pub fn fail_after(&self, n: u64, errno: Errno) {
        self.root.shared.lock.lock().fault = if n == 0 { None } else { Some((n, errno)) };
    }

    /// Whether a fault is still to come.
    pub fn is_faulty(&self) -> bool {
        self.root.shared.lock.lock().fault.is_some()
    }

    /// How many changes were tried on this tree.
    pub fn changes(&self) -> u64 {
        self.root.shared.lock.lock().changes
    }

    /// Every object by its path, with all that is known of it.
    pub fn dump(&self) -> BTreeMap<String, String> {
        let _still = self.root.shared.lock();
        let mut all = BTreeMap::new();
        let mut todo = vec![(String::from("/"), self.root.clone())];
        while let Some((path, inode)) = todo.pop() {
            let meta = inode.meta.lock();
            if let Body::Dir { entries, .. } = &meta.body {
                for (name, child) in entries {
                    let name = String::from_utf8_lossy(name);
                    todo.push((format!("{}/{name}", path.trim_end_matches('/')), child.clone()));
                }
            }
            let described = inode.describe(&meta);
            drop(meta);
            all.insert(path, described);
        }
        all
    }
}

impl Shared {
    /// Holds the tree still.
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.lock.lock()
    }

    /// Whether a file can be made without a name.
    pub(super) fn has_unnamed(&self) -> bool {
        self.dev % 2 == 1
    }

    /// A new object without a name; a directory counts the name it is about to get and its own.
    pub(super) fn make(self: &Arc<Self>, kind: Kind, mode: u32, rdev: u64, body: Body) -> Arc<Inode> {
        let (ino, generation) = {
            let mut numbers = self.numbers.lock();
            numbers.generation += 1;
            let ino = numbers.free.pop_first().unwrap_or_else(|| {
                numbers.next += 1;
                numbers.next - 1
            });
            (ino, numbers.generation)
        };
        let now = now();
        let meta = Meta {
            mode: mode & 0o7777,
            uid: 0,
            gid: 0,
            nlink: if kind == Kind::Dir { 2 } else { 1 },
            linkable: false,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            body,
        };
        Arc::new(Inode { shared: self.clone(), ino, generation, kind, rdev, born: now, meta: Mutex::new(meta) })
    }
}

impl Ledger {
    /// A change is about to be made; or it is to fail.
    pub(super) fn change(&mut self) -> Result<()> {
        self.changes += 1;
        match &mut self.fault {
            Some((1, errno)) => {
                let errno = *errno;
                self.fault = None;
                Err(errno)
            }
            Some((n, _)) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Inode {
    pub(super) fn stat(&self) -> Stat {
        let meta = self.meta.lock();
        let size = match &meta.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Dir { .. } => 4096,
            Body::Nothing => 0,
        };
        Stat {
            dev: self.shared.dev,
            ino: self.ino,
            kind: self.kind,
            mode: meta.mode,
            nlink: meta.nlink,
            uid: meta.uid,
            gid: meta.gid,
            rdev: self.rdev,
            size,
            blocks: size.div_ceil(512),
            blksize: 4096,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            mount_root: false,
        }
    }

    fn describe(&self, meta: &Meta) -> String {
        let Meta { mode, uid, gid, nlink, linkable: _, atime, mtime, ctime, xattrs, body } = meta;
        let mut s = format!("#{}.{} {:?} {mode:o} {uid}:{gid} x{nlink}", self.ino, self.generation, self.kind);
        // Writing to a string does not fail.
        let _ok = write!(s, " rdev {:x} times {atime:?} {mtime:?} {ctime:?}", self.rdev);
        if let Body::Bytes(bytes) = body {
            let _ok = write!(s, " data {:?}", String::from_utf8_lossy(bytes));
        }
        for (name, value) in xattrs {
            let _ok = write!(s, " {}={:?}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        }
        s
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.shared.numbers.lock().free.insert(self.ino);
    }
}

impl Meta {
    /// The content was changed.
    pub(super) fn modified(&mut self) {
        self.mtime = now();
        self.ctime = self.mtime;
    }

    /// Something else was changed.
    pub(super) fn changed(&mut self) {
        self.ctime = now();
    }
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nsec: since.subsec_nanos() }
}

/// The time that `set` wants where there was `old`.
pub(super) fn time(set: SetTime, old: Timestamp) -> Timestamp {
    match set {
        SetTime::Keep => old,
        SetTime::Now => now(),
        SetTime::To(t) => t,
    }
}
