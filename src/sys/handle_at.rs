//! File handles: name_to_handle_at(2), and the UUID of a file system (`FS_IOC_GETFSUUID`, Linux 6.9).

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

const MAX_HANDLE: usize = 128;
/// `_IOR(0x15, 0, struct fsuuid2)` of linux/fs.h.
const FS_IOC_GETFSUUID: libc::c_ulong = 0x8011_1500;

#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; MAX_HANDLE],
}

#[repr(C)]
struct RawUuid {
    len: u8,
    uuid: [u8; 16],
}

/// name_to_handle_at(2) <https://man7.org/linux/man-pages/man2/name_to_handle_at.2.html>: handle type, bytes, and
/// the number of the mount. The empty name means `dir` itself; no link is followed.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no handles, `EOVERFLOW` where they are longer than 128 bytes.
pub fn name_to_handle_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(i32, Vec<u8>, i32), Errno> {
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let mut handle = RawHandle { bytes: MAX_HANDLE as u32, kind: 0, data: [0; MAX_HANDLE] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the pointers are to live locals of the sizes the call expects; `bytes` states the room behind it.
    let r = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            flags,
        )
    };
    if r != 0 {
        return Err(last_errno());
    }
    let len = (handle.bytes as usize).min(MAX_HANDLE);
    Ok((handle.kind, handle.data[..len].to_vec(), mount_id))
}

/// `FS_IOC_GETFSUUID`: the UUID of the file system that `fd` (not opened with `O_PATH`) is on.
///
/// # Errors
/// `ENOTTY` where the kernel or the file system does not tell.
pub fn fs_uuid(fd: BorrowedFd<'_>) -> Result<[u8; 16], Errno> {
    let mut out = RawUuid { len: 0, uuid: [0; 16] };
    // SAFETY: the ioctl writes 17 bytes into a live local of that size.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID, &raw mut out) };
    if r != 0 {
        return Err(last_errno());
    }
    if out.len == 16 { Ok(out.uuid) } else { Err(Errno::NOTTY) }
}

fn last_errno() -> Errno {
    super::last_errno()
}
