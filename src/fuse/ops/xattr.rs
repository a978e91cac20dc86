//! Extended attributes as the kernel asks for them, and those of the root that are not on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Ops;
use crate::fuse::beside::BESIDE_ATTR;
use crate::fuse::{OWNER_ATTR, PID_ATTR, SYNC_ATTR};
use crate::overlay::ROOT;
use crate::vocab::{Errno, Result};

/// An attribute's value, or its size for who asked for that (getxattr(2) with size 0).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::fuse) enum Sized {
    Size(u32),
    Value(Vec<u8>),
}

impl Ops {
    fn allowed(&self, name: &[u8]) -> Result<()> {
        if self.attrs.allow(name) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
    }

    /// A view of the lower layers alone, asked for by user `uid` through this attribute of the root: the name by which it
    /// is found.
    pub(in crate::fuse) fn offer(&self, uid: u32, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(token) = name.strip_prefix(BESIDE_ATTR.as_bytes()) else { return Ok(None) };
        if uid != rustix::process::geteuid().as_raw() {
            return Ok(None);
        }
        let found = self.beside.enter(token, &self.overlay, |overlay, tuning| Self {
            agreed: AtomicU64::new(self.agreed.load(Ordering::Relaxed)),
            main: Some(self.overlay.clone()),
            // What the kernel is told of one of them it takes for all.
            bare: self.bare.clone(),
            ..Self::new(Arc::new(overlay), tuning)
        })?;
        if found.is_some() && self.wishes.absent_xattrs.or(false) {
            self.bare.want();
        }
        Ok(found)
    }

    fn asked_in_vain(&self) {
        self.bare.in_vain(self.main.as_ref().unwrap_or(&self.overlay));
    }

    pub(in crate::fuse) fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        self.allowed(name)?;
        if name == OWNER_ATTR.as_bytes() && self.overlay.remembered_owner(ino)?.is_some() {
            return Err(Errno::PERM);
        }
        self.bare.setting(|| self.overlay.setxattr(ino, name, value, flags))
    }

    pub(in crate::fuse) fn getxattr(&self, ino: u64, name: &[u8], size: u32) -> Result<Sized> {
        if ino == ROOT && name == PID_ATTR.as_bytes() {
            return sized(std::process::id().to_string().into_bytes(), size);
        }
        // The kernel sends SYNCFS to virtiofs and fuseblk only.
        if ino == ROOT && name == SYNC_ATTR.as_bytes() {
            self.overlay.sync_all()?;
            return sized(b"done".to_vec(), size);
        }
        if name == OWNER_ATTR.as_bytes()
            && let Some((uid, gid)) = self.overlay.remembered_owner(ino)?
        {
            return sized(format!("{uid}:{gid}").into_bytes(), size);
        }
        self.allowed(name)?;
        if self.bare.is_proven() {
            return Err(Errno::NOSYS);
        }
        match self.overlay.getxattr(ino, name) {
            Ok(value) => {
                self.bare.give_up();
                sized(value, size)
            }
            Err(e) => {
                if e == Errno::NODATA {
                    self.asked_in_vain();
                }
                Err(e)
            }
        }
    }

    /// The names, each with a 0 byte at its end (listxattr(2)).
    pub(in crate::fuse) fn listxattr(&self, ino: u64, size: u32) -> Result<Sized> {
        if self.bare.is_proven() {
            return Err(Errno::NOSYS);
        }
        let mut list = Vec::new();
        for name in self.overlay.listxattr(ino)?.iter().filter(|name| self.attrs.allow(name)) {
            list.extend_from_slice(name);
            list.push(0);
        }
        if list.is_empty() {
            self.asked_in_vain();
        } else {
            self.bare.give_up();
        }
        sized(list, size)
    }

    pub(in crate::fuse) fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.allowed(name)?;
        self.overlay.removexattr(ino, name)
    }
}

fn sized(value: Vec<u8>, size: u32) -> Result<Sized> {
    match u32::try_from(value.len()) {
        Err(_) => Err(Errno::TOOBIG),
        Ok(n) if size == 0 => Ok(Sized::Size(n)),
        Ok(n) if n > size => Err(Errno::RANGE),
        Ok(_) => Ok(Sized::Value(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_sized_before_it_is_given() {
        assert_eq!(sized(b"abc".to_vec(), 0), Ok(Sized::Size(3)));
        assert_eq!(sized(b"abc".to_vec(), 2), Err(Errno::RANGE));
        assert_eq!(sized(b"abc".to_vec(), 3), Ok(Sized::Value(b"abc".to_vec())));
    }
}
