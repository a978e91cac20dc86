//! landlock(7): a process gives up rights to files, for itself and all its children.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// `LANDLOCK_ACCESS_FS_EXECUTE` and `LANDLOCK_ACCESS_FS_REFER` of linux/landlock.h.
const EXECUTE: u64 = 1 << 0;
const REFER: u64 = 1 << 13;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const ASK_VERSION: u32 = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: u32 = 1;

/// The first one whose rules do not forbid every rename between directories.
const LEAST: i64 = 2;

/// `struct landlock_ruleset_attr`, as far as it is needed.
#[repr(C)]
struct Ruleset {
    handled: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: RawFd,
}

/// Whether the kernel has a Landlock that is any use: Linux 5.19, built with it and not told to do without.
pub fn is_there() -> bool {
    // SAFETY: a question with no pointer.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, ASK_VERSION) };
    version >= LEAST
}

/// From here on this thread and its children execute nothing but what is below `root`, whatever leads to it. They can't
/// mount either.
///
/// # Errors
/// `EOPNOTSUPP` where it [is not there](is_there); `EPERM` without no_new_privs or `CAP_SYS_ADMIN` over the user
/// namespace.
pub fn execute_only_below(root: BorrowedFd<'_>) -> Result<(), Errno> {
    if !is_there() {
        return Err(Errno::OPNOTSUPP);
    }
    let ruleset = Ruleset { handled: EXECUTE | REFER };
    // SAFETY: `ruleset` is live for the call and of the size passed.
    let fd =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<Ruleset>(), 0u32) };
    if fd < 0 {
        return Err(super::last_errno());
    }
    // SAFETY: the kernel has just made it, and nothing owns it yet.
    let rules = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let beneath = Beneath { allowed: EXECUTE | REFER, parent: root.as_raw_fd() };
    // SAFETY: `beneath` is the `struct landlock_path_beneath_attr` that the kernel reads for this kind of rule.
    let added = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &raw const beneath, 0u32)
    };
    if added < 0 {
        return Err(super::last_errno());
    }
    // SAFETY: takes plain numbers.
    let r = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) };
    if r == 0 { Ok(()) } else { Err(super::last_errno()) }
}
