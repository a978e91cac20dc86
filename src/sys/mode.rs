//! umask(2), and chmod without following a link.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// umask(2) to zero: modes come from the requests, which have their callers' umask applied already.
pub fn clear_umask() {
    rustix::process::umask(rustix::fs::Mode::empty());
}

/// fchmodat2(2) with `AT_SYMLINK_NOFOLLOW|AT_EMPTY_PATH` (Linux 6.6); older kernels: through `/proc/self/fd`.
/// <https://man7.org/linux/man-pages/man2/chmod.2.html>
///
/// # Errors
/// `EOPNOTSUPP` for a symbolic link; the rest as chmod(2).
pub fn fchmodat2(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    let c_name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: the string is NUL-terminated and live; the rest are plain numbers.
    let r = unsafe { libc::syscall(libc::SYS_fchmodat2, dir.as_raw_fd(), c_name.as_ptr(), mode, flags) };
    if r == 0 {
        return Ok(());
    }
    match super::last_errno() {
        Errno::NOSYS => chmod_through_proc(dir, name, mode),
        e => Err(e),
    }
}

fn chmod_through_proc(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    use rustix::fs::{Mode, OFlags};
    let pinned;
    let fd = if name.is_empty() {
        dir
    } else {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        pinned = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        std::os::fd::AsFd::as_fd(&pinned)
    };
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode))
}
