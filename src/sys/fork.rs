//! fork(2) and close_range(2).

use rustix::io::Errno;
use rustix::process::Pid;

/// Which of the two one is after [`fork`].
#[derive(Debug)]
pub enum Fork {
    /// The caller, with the new process's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html), for a process that has one thread.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`; `EDEADLK` if there is another thread, whose locks the child would inherit for ever.
pub fn fork() -> Result<Fork, Errno> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(Errno::DEADLK);
    }
    // SAFETY: there is no other thread, so the child may do whatever the caller may.
    match unsafe { libc::fork() } {
        -1 => Err(super::last_errno()),
        0 => Ok(Fork::Child),
        pid => Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
    }
}

/// Closes every descriptor from `first` on: [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html).
/// Only for the start of a program, before anything in it owns a descriptor.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_inherited(first: u32) -> Result<(), Errno> {
    // SAFETY: by contract nothing in this process owns one of them.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}
