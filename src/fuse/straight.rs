//! Files that the kernel reads and writes on disk without us (`FUSE_PASSTHROUGH`), for our own transports: what it is told
//! when it opens one, and that it may let go.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::abi::Out;
use super::device::send;
use super::opens::Opens;
use super::ops::Ops;
use crate::sys::fuse_dev;
use crate::vocab::{Errno, Result};

/// `FUSE_NOTIFY_INVAL_INODE`: in the place of the errno of what is no reply.
const INVAL_INODE: i32 = 2;
/// The two bits of open(2)'s flags that say what for, and both.
const ACCMODE: u32 = 3;
const RDWR: u32 = 2;

/// The files that are open in one connection.
#[derive(Debug)]
pub(super) struct Straight {
    device: Arc<OwnedFd>,
    opens: Opens<Backing>,
}

/// A file on disk that the kernel holds for us by a number.
#[derive(Debug)]
struct Backing {
    device: Arc<OwnedFd>,
    id: u32,
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Err(e) = fuse_dev::close_backing(self.device.as_fd(), self.id) {
            log::debug!("the kernel keeps file {}: {e}", self.id);
        }
    }
}

impl Straight {
    pub(super) fn new(device: Arc<OwnedFd>) -> Self {
        Self { device, opens: Opens::new() }
    }

    /// Opens an inode; the number of the file on disk if it is open straight.
    ///
    /// # Errors
    /// What opening it answers, and then it is not open.
    pub(super) fn open(&self, ops: &Ops, ino: u64, flags: u32) -> Result<Option<u32>> {
        let opened = self.opens.open(ino, || {
            let Some(file) = ops.straight(ino)? else { return Ok(None) };
            let Some(fd) = file.fd() else { return Ok(None) };
            self.hand_over(fd)
        })?;
        let writes_maps = flags & ACCMODE == RDWR;
        if opened.is_some() && writes_maps && ops.may_be_mapped(ino) {
            // What the kernel was told of it before, for ever.
            if let Err(e) = self.attributes_changed(ino) {
                log::debug!("inode {ino}: attributes stay: {e}");
            }
        }
        Ok(opened.map(|backing| backing.id))
    }

    fn hand_over(&self, file: BorrowedFd<'_>) -> Result<Option<Backing>> {
        match fuse_dev::open_backing(self.device.as_fd(), file) {
            Ok(id) => Ok(Some(Backing { device: self.device.clone(), id })),
            // A layer that is itself stacked; it always is.
            Err(Errno::LOOP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn release(&self, ino: u64) {
        self.opens.release(ino);
    }

    fn attributes_changed(&self, ino: u64) -> Result<()> {
        let mut bytes = [0; 40];
        let mut out = Out::new(&mut bytes);
        out.u32(40)?;
        out.u32(INVAL_INODE as u32)?;
        out.u64(0)?;
        out.u64(ino)?;
        // From here on in its data: before it, so none of that.
        out.u64(-1_i64 as u64)?;
        out.u64(0)?;
        send(self.device.as_fd(), &bytes)
    }
}
