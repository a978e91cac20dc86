//! One tree, on disk or in memory, behind one narrow door.
//!
//! A [`Handle`] names an object; an operation takes a handle and a name beneath it. The **empty name means the handle's
//! own object** (as `AT_EMPTY_PATH` does), so that an object that was unlinked can still be worked on. Names are single
//! components, never `.` or `..`; nothing here follows a symbolic link.
//!
//! [`disk`] is the real thing, on file descriptors. [`index`] is the merged tree of some of those, prepared in one file.
//! [`mem`] is a tree in memory with the same answers, in which the union is tested without touching a disk.

pub mod disk;
pub mod index;
pub mod mem;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::vocab::handle::FileHandle;
use crate::vocab::{Access, Errno, Kind, Result, SetTime, Space, Stat, Timestamp};

/// How [`Handle::rename`] treats the target (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// Replace it.
    Replace,
    /// Fail with `EEXIST` if it exists.
    NoReplace,
    /// Swap the two.
    Exchange,
    /// Replace it and leave a whiteout (a character device 0:0) behind.
    Whiteout,
}

/// One entry that [`Handle::list`] found; `.` and `..` are not listed.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its inode number as getdents(2) tells it.
    pub ino: u64,
    /// Its kind, where the file system tells it without a stat.
    pub kind: Option<Kind>,
    /// Its device number, where it need not be its directory's.
    pub dev: Option<u64>,
}

/// An object of a tree: most often a directory, or whatever [`Handle::pin`] caught.
#[derive(Clone, Debug)]
pub enum Handle {
    /// On disk.
    Disk(disk::Object),
    /// In memory.
    Mem(mem::Object),
    /// In an image index: never writable.
    Index(index::Object),
}

/// A regular file opened for its data.
#[derive(Debug)]
pub enum File {
    /// On disk.
    Disk(disk::Data),
    /// In memory.
    Mem(mem::Data),
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|n| !n.is_empty())
}

/// Calls the same method on whichever tree it is.
macro_rules! on {
    ($enum:ident, $self:expr, $o:ident => $e:expr) => {
        match $self {
            $enum::Disk($o) => $e,
            $enum::Mem($o) => $e,
        }
    };
}

/// The same for a look at an object, which an image index answers, too.
macro_rules! look {
    ($self:expr, $o:ident => $e:expr) => {
        match $self {
            Handle::Disk($o) => $e,
            Handle::Mem($o) => $e,
            Handle::Index($o) => $e,
        }
    };
}

/// The same for a change of an object.
macro_rules! change {
    ($self:expr, $o:ident => $e:expr) => {
        match $self {
            Handle::Disk($o) => $e,
            Handle::Mem($o) => $e,
            Handle::Index(_) => Err(crate::vocab::Errno::ROFS),
        }
    };
}

/// Calls a method that takes a second object of the same tree; `EXDEV` across trees.
macro_rules! on_both {
    ($enum:ident, $a:expr, $b:expr, $x:ident, $y:ident => $e:expr) => {
        match ($a, $b) {
            ($enum::Disk($x), $enum::Disk($y)) => $e,
            ($enum::Mem($x), $enum::Mem($y)) => $e,
            _ => Err(Errno::XDEV),
        }
    };
}

impl Handle {
    /// Opens the directory `name` for use as a handle: openat(2) with `O_PATH|O_DIRECTORY|O_NOFOLLOW`.
    /// `ENOTDIR` for anything else (also for a symbolic link).
    pub fn open_dir(&self, name: &[u8]) -> Result<Self> {
        Ok(match self {
            Self::Disk(o) => Self::Disk(o.open_dir(name)?),
            Self::Mem(o) => Self::Mem(o.open_dir(name)?),
            Self::Index(o) => Self::Index(o.open_dir(name)?),
        })
    }

    /// Opens the object `name`, whatever it is, so that it can be used after its last name went: `O_PATH|O_NOFOLLOW`.
    pub fn pin(&self, name: &[u8]) -> Result<Self> {
        Ok(match self {
            Self::Disk(o) => Self::Disk(o.pin(name)?),
            Self::Mem(o) => Self::Mem(o.pin(name)?),
            Self::Index(o) => Self::Index(o.pin(name)?),
        })
    }

    /// Opens the regular file `name` for its data. With the empty name, opens the pinned file itself.
    pub fn open_file(&self, name: &[u8], access: Access) -> Result<File> {
        Ok(match self {
            Self::Disk(o) => File::Disk(o.open_file(name, access)?),
            Self::Mem(o) => File::Mem(o.open_file(name, access)?),
            Self::Index(o) => o.open_file(name, access)?,
        })
    }

    /// Opens the directory at `path`, which lies beneath this one; no link is followed. For paths that were looked at
    /// once; names are followed one by one otherwise.
    pub fn beneath(&self, path: &[u8]) -> Result<Self> {
        match self {
            Self::Disk(o) => o.open_beneath(path).map(Self::Disk),
            _ => names(path).try_fold(self.clone(), |dir, name| dir.open_dir(name)),
        }
    }

    /// Opens the regular file at `path` to read, as [`beneath`](Self::beneath) finds directories.
    pub fn open_beneath(&self, path: &[u8]) -> Result<File> {
        match self {
            Self::Disk(o) => o.open_file_beneath(path).map(File::Disk),
            _ => {
                let mut at = self.clone();
                let mut names = names(path).peekable();
                while let Some(name) = names.next() {
                    if names.peek().is_none() {
                        return at.open_file(name, Access::Read);
                    }
                    at = at.open_dir(name)?;
                }
                Err(crate::vocab::Errno::ISDIR)
            }
        }
    }

    /// Makes a new regular file with the permission bits of `mode` (no umask applies) and opens it to read and write.
    /// `EEXIST` if the name is taken. A default ACL of the directory is inherited.
    pub fn create(&self, name: &[u8], mode: u32) -> Result<File> {
        Ok(match self {
            Self::Disk(o) => File::Disk(o.create(name, mode)?),
            Self::Mem(o) => File::Mem(o.create(name, mode)?),
            Self::Index(_) => return Err(crate::vocab::Errno::ROFS),
        })
    }

    /// Makes a regular file in this directory that has no name (`O_TMPFILE`): a handle to it, which takes the empty name,
    /// and its data to read and write. [`link`](Self::link) gives it its first name; without one it goes with the last of
    /// both. `None` where the file system has no such thing.
    pub fn create_unnamed(&self, mode: u32) -> Result<Option<(Self, File)>> {
        Ok(match self {
            Self::Disk(o) => o.create_unnamed(mode)?.map(|(o, f)| (Self::Disk(o), File::Disk(f))),
            Self::Mem(o) => o.create_unnamed(mode)?.map(|(o, f)| (Self::Mem(o), File::Mem(f))),
            Self::Index(_) => return Err(Errno::ROFS),
        })
    }

    /// statx(2), no link followed.
    pub fn stat(&self, name: &[u8]) -> Result<Stat> {
        look!(self, o => o.stat(name))
    }

    /// When the object was made; `None` where the file system does not know.
    pub fn birth(&self, name: &[u8]) -> Result<Option<Timestamp>> {
        look!(self, o => o.birth(name))
    }

    /// Calls `each` for every entry of the handle's directory, in no order that means anything.
    pub fn list(&self, each: &mut dyn FnMut(Listed<'_>)) -> Result<()> {
        look!(self, o => o.list(each))
    }

    /// readlinkat(2): the target's bytes.
    pub fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        look!(self, o => o.readlink(name))
    }

    /// mkdirat(2) with the permission bits of `mode` (no umask applies).
    pub fn mkdir(&self, name: &[u8], mode: u32) -> Result<()> {
        change!(self, o => o.mkdir(name, mode))
    }

    /// mknodat(2): a fifo, socket, device or empty regular file.
    pub fn mknod(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> Result<()> {
        change!(self, o => o.mknod(name, kind, mode, rdev))
    }

    /// symlinkat(2).
    pub fn symlink(&self, target: &[u8], name: &[u8]) -> Result<()> {
        change!(self, o => o.symlink(target, name))
    }

    /// linkat(2): another name for `name`; with the empty name, for the pinned object itself.
    pub fn link(&self, name: &[u8], to: &Self, new_name: &[u8]) -> Result<()> {
        on_both!(Self, self, to, a, b => a.link(name, b, new_name))
    }

    /// renameat2(2).
    pub fn rename(&self, name: &[u8], to: &Self, new_name: &[u8], how: Rename) -> Result<()> {
        on_both!(Self, self, to, a, b => a.rename(name, b, new_name, how))
    }

    /// unlinkat(2) of a non-directory.
    pub fn unlink(&self, name: &[u8]) -> Result<()> {
        change!(self, o => o.unlink(name))
    }

    /// unlinkat(2) of an empty directory.
    pub fn rmdir(&self, name: &[u8]) -> Result<()> {
        change!(self, o => o.rmdir(name))
    }

    /// Removes everything in the handle's directory.
    pub fn clear(&self) -> Result<()> {
        // A stack of our own: what is in it may be deep.
        let mut open = vec![(self.clone(), Vec::new())];
        while let Some((at, _)) = open.last() {
            let at = at.clone();
            let mut names = Vec::new();
            at.list(&mut |e| names.push(e.name.to_vec()))?;
            let mut deeper = None;
            for name in names {
                match at.unlink(&name) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => match at.rmdir(&name) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(Errno::NOTEMPTY) => {
                            deeper = Some((at.open_dir(&name)?, name));
                            break;
                        }
                        Err(e) => return Err(e),
                    },
                    Err(e) => return Err(e),
                }
            }
            if let Some(next) = deeper {
                open.push(next);
            } else if let Some((_, name)) = open.pop()
                && let Some((parent, _)) = open.last()
            {
                parent.rmdir(&name)?;
            }
        }
        Ok(())
    }

    /// fchownat(2); `None` leaves an id as it is.
    pub fn chown(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        change!(self, o => o.chown(name, uid, gid))
    }

    /// fchmodat2(2) with `AT_SYMLINK_NOFOLLOW`: the bits 07777.
    pub fn chmod(&self, name: &[u8], mode: u32) -> Result<()> {
        change!(self, o => o.chmod(name, mode))
    }

    /// utimensat(2).
    pub fn utimens(&self, name: &[u8], atime: SetTime, mtime: SetTime) -> Result<()> {
        change!(self, o => o.utimens(name, atime, mtime))
    }

    /// lgetxattr(2): the value, or `None` if there is no such attribute (or the file system has none at all).
    pub fn getxattr(&self, name: &[u8], attr: &[u8]) -> Result<Option<Vec<u8>>> {
        look!(self, o => o.getxattr(name, attr))
    }

    /// llistxattr(2): the names; none if the file system has no attributes.
    pub fn listxattr(&self, name: &[u8]) -> Result<Vec<Vec<u8>>> {
        look!(self, o => o.listxattr(name))
    }

    /// lsetxattr(2); `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
    pub fn setxattr(&self, name: &[u8], attr: &[u8], value: &[u8], flags: i32) -> Result<()> {
        change!(self, o => o.setxattr(name, attr, value, flags))
    }

    /// lremovexattr(2); `ENODATA` if there is no such attribute.
    pub fn removexattr(&self, name: &[u8], attr: &[u8]) -> Result<()> {
        change!(self, o => o.removexattr(name, attr))
    }

    /// name_to_handle_at(2): what names this inode for ever; `None` where the file system has no such thing.
    pub fn file_handle(&self, name: &[u8]) -> Result<Option<FileHandle>> {
        look!(self, o => o.file_handle(name))
    }

    /// statfs(2) of the file system the handle is on.
    pub fn space(&self) -> Result<Space> {
        look!(self, o => o.space())
    }

    /// The path of the handle, for messages: as the kernel tells it now. `None` for what is not on disk.
    pub fn whereabouts(&self) -> Option<PathBuf> {
        match self {
            Self::Disk(o) => o.whereabouts(),
            Self::Mem(_) | Self::Index(_) => None,
        }
    }

    /// Whether the handle is on a file system that shows the kernel rather than files (proc, sysfs, cgroup, ..).
    pub fn is_pseudo(&self) -> Result<bool> {
        match self {
            Self::Disk(o) => o.is_pseudo(),
            Self::Mem(_) | Self::Index(_) => Ok(false),
        }
    }

    /// Whether the handle is on a file system that another machine or another process answers for (NFS, FUSE, ..).
    pub fn is_remote(&self) -> Result<bool> {
        match self {
            Self::Disk(o) => o.is_remote(),
            Self::Mem(_) | Self::Index(_) => Ok(false),
        }
    }

    /// fsync(2) of the handle's directory.
    pub fn sync(&self) -> Result<()> {
        change!(self, o => o.sync())
    }

    /// syncfs(2) of the file system the handle is on.
    pub fn sync_all(&self) -> Result<()> {
        change!(self, o => o.sync_all())
    }
}

impl File {
    /// The descriptor, of a file on disk.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Disk(f) => Some(f.fd()),
            Self::Mem(_) => None,
        }
    }

    /// pread(2): bytes read, fewer than asked only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        on!(Self, self, f => f.read_at(buf, offset))
    }

    /// pwrite(2) of all of `data`; the bytes written when an error came after some (`ENOSPC`).
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<usize> {
        on!(Self, self, f => f.write_at(data, offset))
    }

    /// ftruncate(2).
    pub fn truncate(&self, size: u64) -> Result<()> {
        on!(Self, self, f => f.truncate(size))
    }

    /// fallocate(2) with its mode bits.
    pub fn fallocate(&self, mode: i32, offset: u64, len: u64) -> Result<()> {
        on!(Self, self, f => f.fallocate(mode, offset, len))
    }

    /// lseek(2) for `SEEK_DATA` (3) and `SEEK_HOLE` (4) from `offset`.
    pub fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        on!(Self, self, f => f.seek(offset, whence))
    }

    /// fsync(2), or fdatasync(2) with `data_only`.
    pub fn sync(&self, data_only: bool) -> Result<()> {
        on!(Self, self, f => f.sync(data_only))
    }

    /// fstat(2).
    pub fn stat(&self) -> Result<Stat> {
        on!(Self, self, f => f.stat())
    }

    /// copy_file_range(2): bytes copied, 0 at the end of the source. Falls back to reading and writing where the kernel
    /// can't, also across trees.
    pub fn copy_range(&self, offset: u64, to: &Self, to_offset: u64, len: u64) -> Result<u64> {
        if let (Self::Disk(a), Self::Disk(b)) = (self, to)
            && let Some(n) = a.copy_range(offset, b, to_offset, len)?
        {
            return Ok(n);
        }
        let mut buf = vec![0; len.min(1 << 18) as usize];
        let n = self.read_at(&mut buf, offset)?;
        to.write_at(&buf[..n], to_offset).map(|n| n as u64)
    }

    /// Makes `to` share all of this file's blocks (`FICLONE`). `false` where the file system can't.
    pub fn clone_into(&self, to: &Self) -> Result<bool> {
        match (self, to) {
            (Self::Disk(a), Self::Disk(b)) => a.clone_into(b),
            _ => Ok(false),
        }
    }

    /// Generic file attribute flags (`FS_IOC_GETFLAGS`, ioctl_iflags(2)); `ENOTTY` where there are none.
    pub fn flags(&self) -> Result<u32> {
        on!(Self, self, f => f.flags())
    }
}

#[cfg(test)]
mod tests;
