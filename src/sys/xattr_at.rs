//! Extended attributes of (directory, name) without following a link: getxattrat(2) and its kin (Linux 6.13), and the
//! same through `/proc/self/fd` where the kernel is older. The empty name means the handle's own object.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

static NO_XATTRAT: AtomicBool = AtomicBool::new(false);

/// `struct xattr_args` of linux/xattr.h.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// How one call reaches its object.
enum Way {
    /// By the *at call.
    At(CString),
    /// By a path below /proc/self/fd; the flag tells whether the last component is a magic link to follow.
    Proc(CString, bool),
}

fn way(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Way, Errno> {
    let c = |v: Vec<u8>| CString::new(v).map_err(|_| Errno::INVAL);
    // The *at calls take no O_PATH descriptor with an empty name (they look it up with fdget()).
    if name.is_empty() {
        return Ok(Way::Proc(c(format!("/proc/self/fd/{}", dir.as_raw_fd()).into_bytes())?, true));
    }
    if NO_XATTRAT.load(Ordering::Relaxed) {
        let mut p = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        p.extend_from_slice(name);
        return Ok(Way::Proc(c(p)?, false));
    }
    Ok(Way::At(c(name.to_vec())?))
}

/// Runs `call`, once more by the other way when the kernel has no *at calls.
fn with_way(dir: BorrowedFd<'_>, name: &[u8], call: impl Fn(&Way) -> libc::c_long) -> Result<usize, Errno> {
    loop {
        let w = way(dir, name)?;
        let r = call(&w);
        if r >= 0 {
            return Ok(r as usize);
        }
        let e = super::last_errno();
        if e == Errno::NOSYS && matches!(w, Way::At(_)) {
            NO_XATTRAT.store(true, Ordering::Relaxed);
            continue;
        }
        return Err(e);
    }
}

/// getxattrat(2): the value's size; with an empty `buf` only that. <https://man7.org/linux/man-pages/man2/getxattr.2.html>
///
/// # Errors
/// `ENODATA` if there is none, `ERANGE` if `buf` is too small.
pub fn get(dir: BorrowedFd<'_>, name: &[u8], attr: &[u8], buf: &mut [u8]) -> Result<usize, Errno> {
    let attr = CString::new(attr).map_err(|_| Errno::INVAL)?;
    let (ptr, len) = (buf.as_mut_ptr(), buf.len());
    with_way(dir, name, |w| match w {
        Way::At(p) => {
            let args = XattrArgs { value: ptr as u64, size: len as u32, flags: 0 };
            // SAFETY: `args` describes the live buffer `buf`; strings are NUL-terminated and live.
            unsafe {
                libc::syscall(
                    SYS_GETXATTRAT,
                    dir.as_raw_fd(),
                    p.as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                    attr.as_ptr(),
                    &raw const args,
                    size_of::<XattrArgs>(),
                )
            }
        }
        // SAFETY: the buffer and its length go together; strings are NUL-terminated and live.
        Way::Proc(p, true) => unsafe { libc::getxattr(p.as_ptr(), attr.as_ptr(), ptr.cast(), len) as libc::c_long },
        // SAFETY: as above.
        Way::Proc(p, false) => unsafe { libc::lgetxattr(p.as_ptr(), attr.as_ptr(), ptr.cast(), len) as libc::c_long },
    })
}

/// listxattrat(2): the size of the NUL-separated list; with an empty `buf` only that.
///
/// # Errors
/// `ERANGE` if `buf` is too small, `EOPNOTSUPP` where the file system has none.
pub fn list(dir: BorrowedFd<'_>, name: &[u8], buf: &mut [u8]) -> Result<usize, Errno> {
    let (ptr, len) = (buf.as_mut_ptr(), buf.len());
    with_way(dir, name, |w| match w {
        // SAFETY: the buffer and its length go together; the string is NUL-terminated and live.
        Way::At(p) => unsafe {
            libc::syscall(SYS_LISTXATTRAT, dir.as_raw_fd(), p.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, ptr, len)
        },
        // SAFETY: as above.
        Way::Proc(p, true) => unsafe { libc::listxattr(p.as_ptr(), ptr.cast(), len) as libc::c_long },
        // SAFETY: as above.
        Way::Proc(p, false) => unsafe { libc::llistxattr(p.as_ptr(), ptr.cast(), len) as libc::c_long },
    })
}

/// setxattrat(2); `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
///
/// # Errors
/// `EEXIST`, `ENODATA` by the flags; `EOPNOTSUPP`, `ENOSPC`, `EPERM` as the file system says.
pub fn set(dir: BorrowedFd<'_>, name: &[u8], attr: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
    let attr = CString::new(attr).map_err(|_| Errno::INVAL)?;
    with_way(dir, name, |w| match w {
        Way::At(p) => {
            let args = XattrArgs { value: value.as_ptr() as u64, size: value.len() as u32, flags: flags as u32 };
            // SAFETY: `args` describes the live slice `value`; strings are NUL-terminated and live.
            unsafe {
                libc::syscall(
                    SYS_SETXATTRAT,
                    dir.as_raw_fd(),
                    p.as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                    attr.as_ptr(),
                    &raw const args,
                    size_of::<XattrArgs>(),
                )
            }
        }
        // SAFETY: value and length go together; strings are NUL-terminated and live.
        Way::Proc(p, true) => libc::c_long::from(unsafe {
            libc::setxattr(p.as_ptr(), attr.as_ptr(), value.as_ptr().cast(), value.len(), flags)
        }),
        // SAFETY: as above.
        Way::Proc(p, false) => libc::c_long::from(unsafe {
            libc::lsetxattr(p.as_ptr(), attr.as_ptr(), value.as_ptr().cast(), value.len(), flags)
        }),
    })
    .map(drop)
}

/// removexattrat(2).
///
/// # Errors
/// `ENODATA` if there is no such attribute.
pub fn remove(dir: BorrowedFd<'_>, name: &[u8], attr: &[u8]) -> Result<(), Errno> {
    let attr = CString::new(attr).map_err(|_| Errno::INVAL)?;
    with_way(dir, name, |w| match w {
        // SAFETY: strings are NUL-terminated and live.
        Way::At(p) => unsafe {
            libc::syscall(SYS_REMOVEXATTRAT, dir.as_raw_fd(), p.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, attr.as_ptr())
        },
        // SAFETY: as above.
        Way::Proc(p, true) => libc::c_long::from(unsafe { libc::removexattr(p.as_ptr(), attr.as_ptr()) }),
        // SAFETY: as above.
        Way::Proc(p, false) => libc::c_long::from(unsafe { libc::lremovexattr(p.as_ptr(), attr.as_ptr()) }),
    })
    .map(drop)
}
