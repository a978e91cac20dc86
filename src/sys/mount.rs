//! mount_setattr(2), which rustix does not carry.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

/// `struct mount_attr` of linux/mount.h, version 0.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2): sets `attributes` of the mount `fd` stands for and, if `recursive`, of all below it. None is cleared.
/// <https://man7.org/linux/man-pages/man2/mount_setattr.2.html>
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over the mount namespace, `EINVAL` if `fd` is no mount's root.
pub fn set_attributes(fd: BorrowedFd<'_>, attributes: MountAttrFlags, recursive: bool) -> Result<(), Errno> {
    change(fd, &MountAttr { set: u64::from(attributes.bits()), clear: 0, propagation: 0, userns_fd: 0 }, recursive)
}

fn change(fd: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty string and `attr` are live for the call, and the size passed is that of `attr`.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    };
    if r == 0 { Ok(()) } else { Err(super::last_errno()) }
}

/// [`set_attributes`] with `MOUNT_ATTR_RDONLY`.
///
/// # Errors
/// As there.
pub fn make_read_only(fd: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    set_attributes(fd, MountAttrFlags::MOUNT_ATTR_RDONLY, recursive)
}

/// [`make_read_only`], and what is mounted in one place does not come up in others (`MS_PRIVATE`).
///
/// # Errors
/// As there.
pub fn make_private_read_only(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let set = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    change(fd, &MountAttr { set, clear: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 }, false)
}
