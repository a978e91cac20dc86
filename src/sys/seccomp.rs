//! seccomp(2) filters.

use rustix::io::Errno;
use seccompiler::BpfProgramRef;

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct Program {
    len: libc::c_ushort,
    filter: *const seccompiler::sock_filter,
}

/// seccomp(2) with `SECCOMP_SET_MODE_FILTER`: from here on every system call of this thread and its children passes
/// `program`, too. Not seccompiler's own: that sets no_new_privs, which is the caller's to decide.
/// <https://man7.org/linux/man-pages/man2/seccomp.2.html>
///
/// # Errors
/// `EACCES` without no_new_privs or `CAP_SYS_ADMIN` over the user namespace, `EINVAL` for a program that is none or too
/// long, `ENOSYS` where the kernel has no filters.
pub fn install(program: BpfProgramRef<'_>) -> Result<(), Errno> {
    set_filter(program, 0).map(drop)
}

fn set_filter(program: BpfProgramRef<'_>, flags: libc::c_ulong) -> Result<libc::c_long, Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { len, filter: program.as_ptr() };
    // SAFETY: `program` and the instructions it points to are live for the call; the kernel copies and checks them.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if r >= 0 { Ok(r) } else { Err(super::last_errno()) }
}
