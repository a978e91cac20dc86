//! A regular file in memory, opened for its data.

use std::sync::Arc;

use super::tree::{Body, Inode, MAX_SIZE, Meta};
use crate::vocab::{Errno, Result, Stat};

/// A regular file in memory, opened for its data.
#[derive(Debug)]
pub struct Data {
    inode: Arc<Inode>,
    writable: bool,
}

impl Data {
    pub(super) fn new(inode: Arc<Inode>, writable: bool) -> Self {
        Self { inode, writable }
    }

    fn reading<T>(&self, f: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let _still = self.inode.shared.lock();
        match &self.inode.meta.lock().body {
            Body::Bytes(bytes) => f(bytes),
            _ => Err(Errno::INVAL),
        }
    }

    fn writing<T>(&self, bad: Errno, f: impl FnOnce(&mut Vec<u8>) -> Result<T>) -> Result<T> {
        if !self.writable {
            return Err(bad);
        }
        let mut ledger = self.inode.shared.lock();
        let mut meta = self.inode.meta.lock();
        let Meta { body: Body::Bytes(bytes), .. } = &mut *meta else { return Err(Errno::INVAL) };
        ledger.change()?;
        let r = f(bytes)?;
        meta.modified();
        // Linux does the same: whoever may write must not pass on what a file may do.
        meta.xattrs.remove(&b"security.capability"[..]);
        Ok(r)
    }

    pub(in crate::layer) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.reading(|bytes| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let n = buf.len().min(bytes.len() - from);
            buf[..n].copy_from_slice(&bytes[from..from + n]);
            Ok(n)
        })
    }

    pub(in crate::layer) fn write_at(&self, data: &[u8], offset: u64) -> Result<usize> {
        if data.is_empty() {
            return if self.writable { Ok(0) } else { Err(Errno::BADF) };
        }
        self.writing(Errno::BADF, |bytes| {
            let (from, to) = range(offset, data.len() as u64)?;
            if bytes.len() < to {
                bytes.resize(to, 0);
            }
            bytes[from..to].copy_from_slice(data);
            Ok(data.len())
        })
    }

    pub(in crate::layer) fn truncate(&self, size: u64) -> Result<()> {
        // ftruncate(2) tells of a file that is only read in a way of its own.
        self.writing(Errno::INVAL, |bytes| {
            bytes.resize(range(size, 0)?.0, 0);
            Ok(())
        })
    }

    pub(in crate::layer) fn fallocate(&self, mode: i32, offset: u64, len: u64) -> Result<()> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        if ![0, KEEP, PUNCH, ZERO, ZERO | KEEP].contains(&mode) {
            return Err(Errno::OPNOTSUPP);
        }
        self.writing(Errno::BADF, |bytes| {
            let (from, to) = range(offset, len)?;
            if mode & KEEP == 0 && bytes.len() < to {
                bytes.resize(to, 0);
            }
            if mode == PUNCH || mode & ZERO != 0 {
                let size = bytes.len();
                bytes[from.min(size)..to.min(size)].fill(0);
            }
            Ok(())
        })
    }

    /// All of a file is data; its end is the only hole.
    pub(in crate::layer) fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        self.reading(|bytes| {
            let size = bytes.len() as u64;
            match whence {
                libc::SEEK_DATA | libc::SEEK_HOLE if offset >= size => Err(Errno::NXIO),
                libc::SEEK_DATA => Ok(offset),
                libc::SEEK_HOLE => Ok(size),
                _ => Err(Errno::INVAL),
            }
        })
    }

    pub(in crate::layer) fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    pub(in crate::layer) fn stat(&self) -> Result<Stat> {
        let _still = self.inode.shared.lock();
        Ok(self.inode.stat())
    }

    pub(in crate::layer) fn flags(&self) -> Result<u32> {
        Err(Errno::NOTTY)
    }
}

fn range(offset: u64, len: u64) -> Result<(usize, usize)> {
    let to = offset.checked_add(len).filter(|to| *to <= MAX_SIZE).ok_or(Errno::FBIG)?;
    Ok((offset as usize, to as usize))
}
