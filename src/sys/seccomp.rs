//! seccomp(2) filters, and seccomp_unotify(2).

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater};
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

/// The same, with a listener (seccomp_unotify(2)): what `program` answers with `SECCOMP_RET_USER_NOTIF` waits for an
/// [`answer`].
///
/// # Errors
/// As of [`install`]; `EBUSY` if a filter here has a listener already.
pub fn install_listened(program: BpfProgramRef<'_>) -> Result<OwnedFd, Errno> {
    let listened = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Linux 5.19: signals that do not kill wait, too. Without, they begin the call anew.
    let fd = match set_filter(program, listened | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => set_filter(program, listened)?,
        fd => fd?,
    };
    // SAFETY: with this flag the kernel returns a new descriptor, which nothing owns yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `struct seccomp_notif` of linux/seccomp.h: a system call that waits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// Of this call, while it waits.
    pub id: u64,
    /// The thread, in the listener's pid namespace; 0 if it is not seen from there.
    pub thread: u32,
    flags: u32,
    /// The call's number.
    pub number: i32,
    architecture: u32,
    instruction: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// What becomes of a call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It returns 0.
    Done,
    /// It fails.
    Failed(Errno),
    /// The kernel carries it out as if nobody had asked.
    GoOn,
}

const RECEIVE: Opcode = rustix::ioctl::opcode::read_write::<Call>(b'!', 0);
const SEND: Opcode = rustix::ioctl::opcode::read_write::<Response>(b'!', 1);
const IS_VALID: Opcode = rustix::ioctl::opcode::write::<u64>(b'!', 2);

/// The next call that waits; blocks until there is one.
///
/// # Errors
/// `ENOENT` if it gave up meanwhile, `EINTR`.
pub fn receive(listener: BorrowedFd<'_>) -> Result<Call, Errno> {
    let mut call = Call::default();
    // SAFETY: the kernel wants a zeroed `struct seccomp_notif` and fills it; `Call` is one, and any bits are a valid one.
    unsafe { rustix::ioctl::ioctl(listener, Updater::<RECEIVE, Call>::new(&mut call))? };
    Ok(call)
}

/// Whether the call still waits: then its thread is the one that made it, and not another with the same number.
pub fn still_waits(listener: BorrowedFd<'_>, call: &Call) -> bool {
    let mut id = call.id;
    // SAFETY: the kernel reads the `u64`.
    unsafe { rustix::ioctl::ioctl(listener, Updater::<IS_VALID, u64>::new(&mut id)) }.is_ok()
}

/// Lets the call go on.
///
/// # Errors
/// `ENOENT` if it does not wait any more.
pub fn answer(listener: BorrowedFd<'_>, call: &Call, answer: Answer) -> Result<(), Errno> {
    let (error, flags) = match answer {
        Answer::Done => (0, 0),
        Answer::Failed(e) => (-e.raw_os_error(), 0),
        Answer::GoOn => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let mut response = Response { id: call.id, value: 0, error, flags };
    // SAFETY: `Response` is a `struct seccomp_notif_resp`, which the kernel reads.
    unsafe { rustix::ioctl::ioctl(listener, Updater::<SEND, Response>::new(&mut response)) }
}
