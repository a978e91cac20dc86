//! fork(2), clone(2) into new namespaces, _exit(2), close_range(2).

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::unistd::{ForkResult, Pid};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

/// Which of the two processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The one that called.
    Parent(Pid),
    /// The new one.
    Child,
}

/// fork(2) of a process with one thread. <https://man7.org/linux/man-pages/man2/fork.2.html>
///
/// # Errors
/// `EDEADLK` if the process has more than one thread: the child could wait for ever for a lock that a thread which
/// is not there holds. `EAGAIN`, `ENOMEM` as fork(2).
pub fn fork() -> Result<Fork, Errno> {
    alone()?;
    // SAFETY: there is one thread, so that no lock is held by another, and the child may go on as any process.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Fork::Parent(child)),
        Ok(ForkResult::Child) => Ok(Fork::Child),
        Err(e) => Err(Errno::from_raw_os_error(e as i32)),
    }
}

/// clone(2) as fork(2) does it, the child in new namespaces. Not unshare(2) and fork(2): after unshare(`CLONE_NEWPID`)
/// the caller could start no threads. <https://man7.org/linux/man-pages/man2/clone.2.html>
///
/// # Errors
/// `EDEADLK` as [`fork`]; `EPERM`, `ENOSPC` (too many namespaces), `EINVAL` as clone(2).
pub fn fork_into(namespaces: UnshareFlags) -> Result<Fork, Errno> {
    alone()?;
    let only_namespaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWUSER;
    if !only_namespaces.contains(namespaces) {
        return Err(Errno::INVAL);
    }
    let flags = libc::c_long::from(namespaces.bits()) | libc::c_long::from(libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with no stack given the child gets a copy of everything, as from fork(2). There is
    // one thread, so that the atfork handlers left out (they take malloc's locks) have nothing to protect. glibc's
    // note of the thread's id is stale in the child; only pthread calls by other threads would look at it.
    let r = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match r {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(Pid::from_raw(pid as libc::pid_t))),
        _ => Err(super::last_errno()),
    }
}

pub(super) fn alone() -> Result<(), Errno> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    if tasks.count() == 1 { Ok(()) } else { Err(Errno::DEADLK) }
}

/// _exit(2). <https://man7.org/linux/man-pages/man2/_exit.2.html>
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; no destructor or exit handler of the process it was forked from runs.
    unsafe { libc::_exit(code) }
}

/// The life of a forked child: runs `life` and ends the process with its code, or with 125 if it panics, so that
/// nothing of the caller's stack ever runs twice.
pub fn end_with(life: impl FnOnce() -> i32) -> ! {
    exit_now(catch_unwind(AssertUnwindSafe(life)).unwrap_or(125))
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`: exec will close everything from `first` up.
/// <https://man7.org/linux/man-pages/man2/close_range.2.html>
///
/// # Errors
/// `ENOSYS` before Linux 5.11.
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// close_range(2): closes everything above standard error, but what is in `keep`. Only for a forked child that never returns to
/// its caller's code: the owners of the descriptors closed here must not touch them again.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, RawFd::MAX, 0)
}

/// close_range(2): closes everything from `first` up. Only for the start of a program, before anything in it owns a
/// descriptor.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_inherited(first: RawFd) -> Result<(), Errno> {
    close_range(first, RawFd::MAX, 0)
}

fn close_range(first: RawFd, last: RawFd, flags: u32) -> Result<(), Errno> {
    // SAFETY: takes plain numbers; that no owner uses a closed descriptor is the callers' contract above.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if r == 0 { Ok(()) } else { Err(super::last_errno()) }
}
