//! The names of a directory in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::tree::{Body, Inode, Meta, now};
use crate::vocab::{Errno, Result};

/// Longest name.
pub(super) const NAME_MAX: usize = 255;

/// A directory's names, and the directory.
pub(super) struct Dir<'a> {
    inode: &'a Arc<Inode>,
    pub(super) meta: MutexGuard<'a, Meta>,
}

/// The names of a directory; the caller holds the tree still.
pub(super) fn dir(inode: &Arc<Inode>) -> Result<Dir<'_>> {
    if inode.is_dir() { Ok(Dir { inode, meta: inode.meta.lock() }) } else { Err(Errno::NOTDIR) }
}

impl Dir<'_> {
    pub(super) fn entries(&self) -> &BTreeMap<Vec<u8>, Arc<Inode>> {
        static NONE: BTreeMap<Vec<u8>, Arc<Inode>> = BTreeMap::new();
        match &self.meta.body {
            Body::Dir { entries, .. } => entries,
            _ => &NONE,
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        match name {
            b"" => Err(Errno::NOENT),
            _ if name.contains(&0) || name.contains(&b'/') || name == b"." || name == b".." => Err(Errno::INVAL),
            _ if name.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
            _ => Ok(self.entries().get(name).cloned()),
        }
    }

    /// As `get`, for a name that is to be made: a removed directory takes none.
    pub(super) fn get_new(&self, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let found = self.get(name)?;
        if self.meta.nlink == 0 { Err(Errno::NOENT) } else { Ok(found) }
    }

    /// Hands down its group to a new object, where it is marked so.
    pub(super) fn owns(&self, new: &Inode) {
        if self.meta.mode & 0o2000 != 0 {
            let mut meta = new.meta.lock();
            meta.gid = self.meta.gid;
            if new.is_dir() {
                meta.mode |= 0o2000;
            }
        }
    }

    pub(super) fn put(&mut self, name: &[u8], child: Arc<Inode>) {
        if child.is_dir() {
            self.meta.nlink += 1;
            if let Body::Dir { parent, .. } = &mut child.meta.lock().body {
                *parent = Arc::downgrade(self.inode);
            }
        }
        if let Body::Dir { entries, .. } = &mut self.meta.body {
            entries.insert(name.to_vec(), child);
        }
    }

    pub(super) fn take(&mut self, name: &[u8]) -> Option<Arc<Inode>> {
        let Body::Dir { entries, .. } = &mut self.meta.body else { return None };
        let child = entries.remove(name)?;
        if child.is_dir() {
            self.meta.nlink -= 1;
        }
        Some(child)
    }
}

impl Inode {
    pub(super) fn lost_name(&self) {
        let mut meta = self.meta.lock();
        meta.nlink = if self.is_dir() { 0 } else { meta.nlink.saturating_sub(1) };
        meta.ctime = now();
    }
}

/// Whether `inode` is the directory `top` or somewhere inside of it.
pub(super) fn is_within(inode: &Arc<Inode>, top: &Arc<Inode>) -> bool {
    let mut at = Some(inode.clone());
    while let Some(i) = at {
        if Arc::ptr_eq(&i, top) {
            return true;
        }
        at = match &i.meta.lock().body {
            Body::Dir { parent, .. } => parent.upgrade(),
            _ => None,
        };
    }
    false
}
