//! Files that have no name yet: nobody sees one before it is whole, and it is gone with the last who holds it.

use std::sync::Arc;

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, XattrFlags};

use super::{Data, Object, os};
use crate::vocab::{Errno, Result};

impl Object {
    pub(in crate::layer) fn create_unnamed(&self, mode: u32) -> Result<Option<(Self, Data)>> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match self.changing(|| rfs::openat(&*self.fd, ".", flags, Mode::from_raw_mode(mode & 0o7777))) {
            Ok(fd) => {
                let fd = Arc::new(fd);
                let object = Self { fd: fd.clone(), writable: self.writable, open: true };
                Ok(Some((object, Data { fd })))
            }
            // Not every file system has them.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Gives what was made without a name its first one. `None` where it takes the way through /proc.
    pub(super) fn link_open(&self, to: &Self, new_name: &[u8]) -> Option<Result<()>> {
        if !self.open {
            return None;
        }
        match to.changing(|| rfs::linkat(&*self.fd, "", &*to.fd, os(new_name), AtFlags::EMPTY_PATH)) {
            // Older kernels want CAP_DAC_READ_SEARCH for it.
            Err(Errno::NOENT | Errno::PERM) => None,
            r => Some(r),
        }
    }

    /// Sets an attribute of the object itself; `None` where it takes the way through /proc.
    pub(super) fn setxattr_open(&self, name: &[u8], attr: &[u8], value: &[u8], flags: i32) -> Option<Result<()>> {
        let flags = XattrFlags::from_bits_retain(flags as u32);
        (self.open && name.is_empty()).then(|| rfs::fsetxattr(&*self.fd, os(attr), value, flags))
    }
}
