//! An object of a tree in memory, by handle and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::Data;
use super::dir::{NAME_MAX, dir, is_within};
use super::tree::{Body, Inode, Ledger, MAX_LINKS, Meta, time};
use crate::layer::{Listed, Rename};
use crate::vocab::handle::FileHandle;
use crate::vocab::{Access, Errno, Kind, Result, SetTime, Space, Stat, Timestamp};

const PATH_MAX: usize = 4096;

/// An object in memory, held so that it outlives its names.
#[derive(Clone, Debug)]
pub struct Object {
    inode: Arc<Inode>,
    writable: bool,
}

impl Object {
    pub(super) fn new(inode: Arc<Inode>, writable: bool) -> Self {
        Self { inode, writable }
    }

    fn child(&self, inode: Arc<Inode>) -> Self {
        Self { inode, writable: self.writable }
    }

    fn may_change(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    fn still(&self) -> MutexGuard<'_, Ledger> {
        self.inode.shared.lock()
    }

    /// The object `name`; the caller holds the tree still.
    fn find(&self, name: &[u8]) -> Result<Arc<Inode>> {
        if name.is_empty() {
            return Ok(self.inode.clone());
        }
        dir(&self.inode)?.get(name)?.ok_or(Errno::NOENT)
    }

    /// Puts a new object under a free name.
    fn make(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64, body: Body) -> Result<Arc<Inode>> {
        self.may_change()?;
        let mut ledger = self.still();
        let mut at = dir(&self.inode)?;
        if at.get_new(name)?.is_some() {
            return Err(Errno::EXIST);
        }
        ledger.change()?;
        let inode = self.inode.shared.make(kind, mode, rdev, body);
        at.owns(&inode);
        at.put(name, inode.clone());
        at.meta.modified();
        Ok(inode)
    }

    /// Changes the metadata of `name`.
    fn alter<T>(&self, name: &[u8], f: impl FnOnce(&Inode, &mut Meta, &mut Ledger) -> Result<T>) -> Result<T> {
        self.may_change()?;
        let mut ledger = self.still();
        let inode = self.find(name)?;
        let mut meta = inode.meta.lock();
        let r = f(&inode, &mut meta, &mut ledger)?;
        meta.changed();
        Ok(r)
    }

    pub(in crate::layer) fn open_dir(&self, name: &[u8]) -> Result<Self> {
        let _still = self.still();
        let found = self.find(name)?;
        if found.is_dir() { Ok(self.child(found)) } else { Err(Errno::NOTDIR) }
    }

    pub(in crate::layer) fn pin(&self, name: &[u8]) -> Result<Self> {
        let _still = self.still();
        Ok(self.child(self.find(name)?))
    }

    pub(in crate::layer) fn open_file(&self, name: &[u8], access: Access) -> Result<Data> {
        let write = access == Access::ReadWrite;
        if write {
            self.may_change()?;
        }
        let _still = self.still();
        let found = self.find(name)?;
        match found.kind {
            Kind::File => Ok(Data::new(found, write)),
            Kind::Dir => Err(Errno::ISDIR),
            Kind::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    pub(in crate::layer) fn create(&self, name: &[u8], mode: u32) -> Result<Data> {
        let inode = self.make(name, Kind::File, mode, 0, Body::Bytes(Vec::new()))?;
        Ok(Data::new(inode, true))
    }

    pub(in crate::layer) fn create_unnamed(&self, mode: u32) -> Result<Option<(Self, Data)>> {
        self.may_change()?;
        let mut ledger = self.still();
        if !self.inode.shared.has_unnamed() {
            return Ok(None);
        }
        if dir(&self.inode)?.meta.nlink == 0 {
            return Err(Errno::NOENT);
        }
        ledger.change()?;
        let inode = self.inode.shared.make(Kind::File, mode, 0, Body::Bytes(Vec::new()));
        // Whatever a directory passes on.
        dir(&self.inode)?.owns(&inode);
        {
            let mut meta = inode.meta.lock();
            meta.nlink = 0;
            meta.linkable = true;
        }
        Ok(Some((self.child(inode.clone()), Data::new(inode, true))))
    }

    pub(in crate::layer) fn stat(&self, name: &[u8]) -> Result<Stat> {
        let _still = self.still();
        Ok(self.find(name)?.stat())
    }

    pub(in crate::layer) fn birth(&self, name: &[u8]) -> Result<Option<Timestamp>> {
        let _still = self.still();
        Ok(Some(self.find(name)?.born))
    }

    pub(in crate::layer) fn list(&self, each: &mut dyn FnMut(Listed<'_>)) -> Result<()> {
        // Collected first: `each` may come back here.
        let all: Vec<_> = {
            let _still = self.still();
            let at = dir(&self.inode)?;
            if at.meta.nlink == 0 {
                return Err(Errno::NOENT);
            }
            at.entries().iter().map(|(name, child)| (name.clone(), child.ino, child.kind)).collect()
        };
        for (name, ino, kind) in &all {
            each(Listed { name, ino: *ino, kind: Some(*kind), dev: None });
        }
        Ok(())
    }

    pub(in crate::layer) fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        let _still = self.still();
        let found = self.find(name)?;
        match &found.meta.lock().body {
            Body::Bytes(target) if found.kind == Kind::Symlink => Ok(target.clone()),
            _ if name.is_empty() => Err(Errno::NOENT),
            _ => Err(Errno::INVAL),
        }
    }

    pub(in crate::layer) fn mkdir(&self, name: &[u8], mode: u32) -> Result<()> {
        let body = Body::Dir { entries: BTreeMap::new(), parent: Arc::downgrade(&self.inode) };
        self.make(name, Kind::Dir, mode, 0, body).map(drop)
    }

    pub(in crate::layer) fn mknod(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> Result<()> {
        let (rdev, body) = match kind {
            Kind::Dir => return Err(Errno::PERM),
            Kind::Symlink => return Err(Errno::INVAL),
            Kind::File => (0, Body::Bytes(Vec::new())),
            Kind::Char | Kind::Block => (rdev, Body::Nothing),
            Kind::Fifo | Kind::Socket => (0, Body::Nothing),
        };
        self.make(name, kind, mode, rdev, body).map(drop)
    }

    pub(in crate::layer) fn symlink(&self, target: &[u8], name: &[u8]) -> Result<()> {
        match target.len() {
            0 => Err(Errno::NOENT),
            PATH_MAX.. => Err(Errno::NAMETOOLONG),
            _ => self.make(name, Kind::Symlink, 0o777, 0, Body::Bytes(target.to_vec())).map(drop),
        }
    }

    pub(in crate::layer) fn link(&self, name: &[u8], to: &Self, new_name: &[u8]) -> Result<()> {
        to.may_change()?;
        let mut ledger = self.still();
        let inode = self.find(name)?;
        if !Arc::ptr_eq(&self.inode.shared, &to.inode.shared) {
            return Err(Errno::XDEV);
        }
        let mut at = dir(&to.inode)?;
        if at.get_new(new_name)?.is_some() {
            return Err(Errno::EXIST);
        }
        if inode.is_dir() {
            return Err(Errno::PERM);
        }
        let mut meta = inode.meta.lock();
        match meta.nlink {
            0 if !meta.linkable => return Err(Errno::NOENT),
            MAX_LINKS.. => return Err(Errno::MLINK),
            _ => {}
        }
        ledger.change()?;
        meta.nlink += 1;
        meta.linkable = false;
        meta.changed();
        drop(meta);
        at.put(new_name, inode);
        at.meta.modified();
        Ok(())
    }

    pub(in crate::layer) fn rename(&self, name: &[u8], to: &Self, new_name: &[u8], how: Rename) -> Result<()> {
        self.may_change()?;
        to.may_change()?;
        if !Arc::ptr_eq(&self.inode.shared, &to.inode.shared) {
            return Err(Errno::XDEV);
        }
        let mut ledger = self.still();
        let src = dir(&self.inode)?.get(name)?.ok_or(Errno::NOENT)?;
        let dst = dir(&to.inode)?.get_new(new_name)?;
        match &dst {
            Some(_) if how == Rename::NoReplace => return Err(Errno::EXIST),
            None if how == Rename::Exchange => return Err(Errno::NOENT),
            _ => {}
        }
        let exchange = how == Rename::Exchange;
        if is_within(&to.inode, &src) {
            return Err(Errno::INVAL);
        }
        if let Some(dst) = &dst {
            if is_within(&self.inode, dst) {
                return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
            }
            if Arc::ptr_eq(&src, dst) {
                return Ok(());
            }
            match (src.is_dir(), dst.is_dir()) {
                (true, false) if !exchange => return Err(Errno::NOTDIR),
                (false, true) if !exchange => return Err(Errno::ISDIR),
                (true, true) if !exchange && !dir(dst)?.entries().is_empty() => return Err(Errno::NOTEMPTY),
                _ => {}
            }
        }
        ledger.change()?;
        dir(&self.inode)?.take(name);
        let dst = dir(&to.inode)?.take(new_name);
        dir(&to.inode)?.put(new_name, src.clone());
        match (dst, how) {
            (Some(dst), Rename::Exchange) => {
                dir(&self.inode)?.put(name, dst.clone());
                dst.meta.lock().changed();
            }
            (Some(dst), _) => dst.lost_name(),
            (None, _) => {}
        }
        if how == Rename::Whiteout {
            let whiteout = self.inode.shared.make(Kind::Char, 0, 0, Body::Nothing);
            let mut at = dir(&self.inode)?;
            at.owns(&whiteout);
            at.put(name, whiteout);
        }
        dir(&self.inode)?.meta.modified();
        dir(&to.inode)?.meta.modified();
        src.meta.lock().changed();
        Ok(())
    }

    pub(in crate::layer) fn unlink(&self, name: &[u8]) -> Result<()> {
        self.remove(name, |found| if found.is_dir() { Err(Errno::ISDIR) } else { Ok(()) })
    }

    pub(in crate::layer) fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.remove(name, |found| if dir(found)?.entries().is_empty() { Ok(()) } else { Err(Errno::NOTEMPTY) })
    }

    fn remove(&self, name: &[u8], allowed: impl FnOnce(&Arc<Inode>) -> Result<()>) -> Result<()> {
        self.may_change()?;
        let mut ledger = self.still();
        let mut at = dir(&self.inode)?;
        let found = at.get(name)?.ok_or(Errno::NOENT)?;
        allowed(&found)?;
        ledger.change()?;
        at.take(name);
        at.meta.modified();
        found.lost_name();
        Ok(())
    }

    pub(in crate::layer) fn chown(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.alter(name, |inode, meta, ledger| {
            ledger.change()?;
            meta.uid = uid.unwrap_or(meta.uid);
            meta.gid = gid.unwrap_or(meta.gid);
            if !inode.is_dir() {
                meta.mode &= if meta.mode & 0o010 != 0 { 0o1777 } else { 0o3777 };
                meta.xattrs.remove(&b"security.capability"[..]);
            }
            Ok(())
        })
    }

    pub(in crate::layer) fn chmod(&self, name: &[u8], mode: u32) -> Result<()> {
        self.alter(name, |inode, meta, ledger| {
            if inode.kind == Kind::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            ledger.change()?;
            meta.mode = mode & 0o7777;
            Ok(())
        })
    }

    pub(in crate::layer) fn utimens(&self, name: &[u8], atime: SetTime, mtime: SetTime) -> Result<()> {
        self.may_change()?;
        if (atime, mtime) == (SetTime::Keep, SetTime::Keep) {
            return Ok(());
        }
        self.alter(name, |_, meta, ledger| {
            ledger.change()?;
            meta.atime = time(atime, meta.atime);
            meta.mtime = time(mtime, meta.mtime);
            Ok(())
        })
    }

    pub(in crate::layer) fn getxattr(&self, name: &[u8], attr: &[u8]) -> Result<Option<Vec<u8>>> {
        let _still = self.still();
        let found = self.find(name)?;
        let value = found.meta.lock().xattrs.get(attr).cloned();
        Ok(value)
    }

    pub(in crate::layer) fn listxattr(&self, name: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _still = self.still();
        let found = self.find(name)?;
        let names = found.meta.lock().xattrs.keys().cloned().collect();
        Ok(names)
    }

    pub(in crate::layer) fn setxattr(&self, name: &[u8], attr: &[u8], value: &[u8], flags: i32) -> Result<()> {
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
            return Err(Errno::INVAL);
        }
        check_attr(attr)?;
        if value.len() > 1 << 16 {
            return Err(Errno::TOOBIG);
        }
        self.alter(name, |inode, meta, ledger| {
            takes(inode, attr)?;
            let known = meta.xattrs.contains_key(attr);
            if known && flags & libc::XATTR_CREATE != 0 {
                return Err(Errno::EXIST);
            }
            if !known && flags & libc::XATTR_REPLACE != 0 {
                return Err(Errno::NODATA);
            }
            ledger.change()?;
            meta.xattrs.insert(attr.to_vec(), value.to_vec());
            Ok(())
        })
    }

    pub(in crate::layer) fn removexattr(&self, name: &[u8], attr: &[u8]) -> Result<()> {
        check_attr(attr)?;
        self.alter(name, |inode, meta, ledger| {
            takes(inode, attr)?;
            if !meta.xattrs.contains_key(attr) {
                return Err(Errno::NODATA);
            }
            ledger.change()?;
            meta.xattrs.remove(attr);
            Ok(())
        })
    }

    pub(in crate::layer) fn file_handle(&self, name: &[u8]) -> Result<Option<FileHandle>> {
        let _still = self.still();
        let found = self.find(name)?;
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&found.shared.dev.to_le_bytes());
        let bytes = [found.ino.to_le_bytes(), found.generation.to_le_bytes()].concat();
        Ok(FileHandle::new(uuid, 1, &bytes))
    }

    pub(in crate::layer) fn space(&self) -> Result<Space> {
        let blocks = 1 << 20;
        Ok(Space {
            blocks,
            bfree: blocks / 2,
            bavail: blocks / 2,
            files: 1 << 16,
            ffree: 1 << 15,
            bsize: 4096,
            namelen: NAME_MAX as u32,
            frsize: 4096,
        })
    }

    pub(in crate::layer) fn sync(&self) -> Result<()> {
        Ok(())
    }

    pub(in crate::layer) fn sync_all(&self) -> Result<()> {
        Ok(())
    }
}

fn check_attr(attr: &[u8]) -> Result<()> {
    match attr.len() {
        0 | 256.. => Err(Errno::RANGE),
        _ => Ok(()),
    }
}

/// Whether an object may have this attribute: `user.*` is for files and directories only.
fn takes(inode: &Inode, attr: &[u8]) -> Result<()> {
    let known: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    match known.iter().find(|k| attr.starts_with(k)) {
        None => Err(Errno::OPNOTSUPP),
        Some(k) if attr.len() == k.len() => Err(Errno::INVAL),
        Some(k) if *k == b"user." && !matches!(inode.kind, Kind::File | Kind::Dir) => Err(Errno::PERM),
        Some(_) => Ok(()),
    }
}
