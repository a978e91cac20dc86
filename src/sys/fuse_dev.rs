//! ioctls of `/dev/fuse` (fuse(4), linux/fuse.h).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

/// `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500;

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
