//! Data of regular files, and links' targets. No state per open: an inode's data is where its data is.

use std::sync::Arc;

use super::copy_up::Want;
use super::{Attr, Overlay};
use crate::layer::{File, Handle};
use crate::vocab::{Access, Errno, Kind, Result};

/// The target of a link in a layer, also of one that is kept as a file, with its type in an attribute.
pub(super) fn link_target(dir: &Handle, name: &[u8]) -> Result<Vec<u8>> {
    match dir.readlink(name) {
        Err(Errno::INVAL) => {
            let mut target = vec![0; 4096];
            let n = dir.open_file(name, Access::Read)?.read_at(&mut target, 0)?;
            target.truncate(n);
            Ok(target)
        }
        r => r,
    }
}

/// Of linux/fs.h.
const FS_IMMUTABLE_FL: u32 = 0x10;
const FS_APPEND_FL: u32 = 0x20;

impl Overlay {
    /// readlink(2).
    ///
    /// # Errors
    /// `EINVAL` for anything but a symbolic link.
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        if node.kind != Kind::Symlink {
            return Err(Errno::INVAL);
        }
        self.with_top(&node, link_target)
    }

    /// pread(2): bytes read; fewer than asked only at the end.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL` for what has no data.
    pub fn read(&self, ino: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let node = self.node(ino)?;
        self.data(&node, Access::Read)?.read_at(buf, offset)
    }

    /// pwrite(2): bytes written. The first write to a lower file copies it up.
    ///
    /// # Errors
    /// `EROFS` without an upper; `ENOSPC`, `EFBIG`, ..
    pub fn write(&self, ino: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let node = self.node(ino)?;
        self.copy_up(&node, Want::ALL_DATA)?;
        self.data(&node, Access::ReadWrite)?.write_at(data, offset)
    }

    /// A file on disk that can be read and written in the place of this inode's data for as long as it is open; `None`
    /// where there is none. Data of a lower layer counts only if it can't be copied up while somebody reads it: in a view
    /// without an upper.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL` for what has no data.
    pub fn straight(&self, ino: u64) -> Result<Option<Arc<File>>> {
        let node = self.node(ino)?;
        match &self.upper {
            None => self.data(&node, Access::Read).map(Some),
            Some(_) if self.has_upper_data(&node) => self.data(&node, Access::ReadWrite).map(Some),
            Some(_) => Ok(None),
        }
    }

    /// fallocate(2) with its mode bits.
    ///
    /// # Errors
    /// As fallocate(2); `EROFS` without an upper.
    pub fn fallocate(&self, ino: u64, mode: i32, offset: u64, len: u64) -> Result<()> {
        let node = self.node(ino)?;
        self.copy_up(&node, Want::ALL_DATA)?;
        self.data(&node, Access::ReadWrite)?.fallocate(mode, offset, len)
    }

    /// lseek(2) for `SEEK_DATA` (3) and `SEEK_HOLE` (4).
    ///
    /// # Errors
    /// `ENXIO` past the end.
    pub fn seek(&self, ino: u64, offset: u64, whence: i32) -> Result<u64> {
        let node = self.node(ino)?;
        self.data(&node, Access::Read)?.seek(offset, whence)
    }

    /// copy_file_range(2): bytes copied.
    ///
    /// # Errors
    /// `EROFS` without an upper; as copy_file_range(2).
    pub fn copy_range(&self, from: u64, from_offset: u64, to: u64, to_offset: u64, len: u64) -> Result<u64> {
        let (from, to) = (self.node(from)?, self.node(to)?);
        self.copy_up(&to, Want::ALL_DATA)?;
        let source = self.data(&from, Access::Read)?;
        source.copy_range(from_offset, &*self.data(&to, Access::ReadWrite)?, to_offset, len)
    }

    /// fsync(2), or fdatasync(2) with `data_only`. What was not copied up has nothing to sync.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, ..
    pub fn fsync(&self, ino: u64, data_only: bool) -> Result<()> {
        let node = self.node(ino)?;
        if self.config.volatile {
            return Ok(());
        }
        let copied = node.state.lock().upper.as_ref().map(|u| u.metacopy);
        match copied {
            Some(false) if node.kind == Kind::File => self.data(&node, Access::ReadWrite)?.sync(data_only),
            // A metacopy's metadata.
            Some(true) => self.with_upper(&node, |dir, name| dir.open_file(name, Access::Read))?.sync(data_only),
            _ => Ok(()),
        }
    }

    /// fsync(2) of a directory.
    ///
    /// # Errors
    /// `EIO`, ..
    pub fn fsyncdir(&self, ino: u64) -> Result<()> {
        let node = self.dir_node(ino)?;
        if node.has_upper() && !self.config.volatile { self.upper_dir(&node)?.sync() } else { Ok(()) }
    }

    /// syncfs(2) of the upper.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, ..
    pub fn sync_all(&self) -> Result<()> {
        match &self.upper {
            Some(upper) if !self.config.volatile => upper.root.sync_all(),
            _ => Ok(()),
        }
    }

    /// `FS_IOC_GETFLAGS`: the inode flags of a regular file as the layer that has it tells them; but of a lower layer's not
    /// that it can't be changed, for here it can.
    ///
    /// # Errors
    /// `ENOTTY` where there are none.
    pub fn flags(&self, ino: u64) -> Result<u32> {
        let node = self.node(ino)?;
        if node.kind != Kind::File {
            return Err(Errno::NOTTY);
        }
        let flags = self.data(&node, Access::Read)?.flags()?;
        Ok(if node.has_upper() { flags } else { flags & !(FS_IMMUTABLE_FL | FS_APPEND_FL) })
    }

    /// The metadata of an inode after something was made under a name, with one more reference for the caller.
    pub(super) fn claimed(&self, node: &Arc<super::node::Node>) -> Result<Attr> {
        let attr = self.node_attr(node)?;
        self.inodes.claim(node);
        Ok(attr)
    }
}
