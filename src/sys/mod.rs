//! The only `unsafe` of the house: system calls that neither rustix nor nix carries, one wrapper each.

pub mod alloc;
pub mod buffer;
pub mod fd;
pub mod fuse_dev;
pub mod handle_at;
pub mod landlock;
pub mod map;
pub mod mode;
pub mod mount;
pub mod net;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod title;
pub mod uring;
pub mod xattr_at;

/// The calling thread's errno, right after a call that failed.
fn last_errno() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}
