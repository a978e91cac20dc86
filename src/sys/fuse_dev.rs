//! ioctls of `/dev/fuse` (fuse(4), linux/fuse.h).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

/// `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500;

/// `_IOW(229, 1, struct fuse_backing_map)`.
const FUSE_DEV_IOC_BACKING_OPEN: libc::Ioctl = 0x4010_e501;
/// `_IOW(229, 2, uint32_t)`.
const FUSE_DEV_IOC_BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Gives the kernel a file to read and write by itself; the number it has for it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in the first user namespace, `ELOOP` for a file on a stacked file system.
pub fn open_backing(session: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<u32, Errno> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the argument is a pointer to a struct that lives until the call returns.
    let r = unsafe { libc::ioctl(session.as_raw_fd(), FUSE_DEV_IOC_BACKING_OPEN, &raw const map) };
    u32::try_from(r).map_err(|_| super::last_errno())
}

/// Takes it back; the kernel keeps it as long as it is open there.
///
/// # Errors
/// `ENOENT` for a number that is none.
pub fn close_backing(session: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
    // SAFETY: the argument is a pointer to a u32 that lives until the call returns.
    let r = unsafe { libc::ioctl(session.as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, &raw const id) };
    if r == 0 { Ok(()) } else { Err(super::last_errno()) }
}

/// Makes `fresh`, an unused descriptor of `/dev/fuse`, one more of the connection that `session` is of: what is read
/// from it is answered through it.
///
/// # Errors
/// `EINVAL` if it is in use already; what the kernel answers where it has no such thing.
pub fn clone_into(session: BorrowedFd<'_>, fresh: &OwnedFd) -> Result<(), Errno> {
    let from = session.as_raw_fd() as u32;
    // SAFETY: the argument is a pointer to a u32 that lives until the call returns.
    let r = unsafe { libc::ioctl(fresh.as_fd().as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const from) };
    if r == 0 { Ok(()) } else { Err(super::last_errno()) }
}
