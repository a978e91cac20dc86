//! This process as root of a new user namespace, so that files of subordinate ids can be read and made: what podman does
//! by executing itself again.

use std::io::{Read, Write};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setresgid, setresuid};

use super::{Error, Mapping};
use crate::sys::process::{Fork, end_with, fork};

/// Makes a user namespace with this map and goes on in it, as its root. The process keeps its mount namespace: what it may
/// not mount, it still may not, and set-user-id helpers do nothing any more.
///
/// # Errors
/// User namespaces are refused; the maps can't be written. The process must have one thread.
pub fn enter_user_namespace(mapping: &Mapping) -> Result<(), Error> {
    let pipe = || std::io::pipe().map_err(|e| Error::new("pipe", e));
    let (mut ready, mut tell_ready) = pipe()?;
    let (mut answer, mut tell_answer) = pipe()?;
    let this = Pid::this();
    // The maps are written from outside: by a child that stays there.
    let writer = match fork().map_err(|e| Error::new("fork", e))? {
        Fork::Child => {
            drop((tell_ready, answer));
            end_with(|| {
                // End of file: the other one gave up.
                if !matches!(ready.read(&mut [0]), Ok(1)) {
                    return 0;
                }
                let Err(e) = mapping.write(this) else { return 0 };
                let text = format!("{}\0{}", e, e.hint().unwrap_or_default());
                // Whoever does not read it sees the exit code.
                i32::from(tell_answer.write_all(text.as_bytes()).is_err()) + 1
            })
        }
        Fork::Parent(child) => child,
    };
    drop((ready, tell_answer));
    let entered = unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| refused("user namespace", e));
    if entered.is_ok() {
        tell_ready.write_all(b"r").map_err(|e| Error::new("pipe", e))?;
    }
    drop(tell_ready);
    let mut text = String::new();
    answer.read_to_string(&mut text).map_err(|e| Error::new("pipe", e))?;
    let status = loop {
        match waitpid(writer, None) {
            Err(Errno::EINTR) => {}
            done => break done.map_err(|e| Error::new("waitpid", e))?,
        }
    };
    entered?;
    if let Some((words, hint)) = text.split_once('\0') {
        let error = Error::of_text(words);
        return Err(if hint.is_empty() { error } else { error.hinted(hint) });
    }
    if status != WaitStatus::Exited(writer, 0) {
        return Err(Error::new("id maps", "not written"));
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(|e| Error::new("setresgid 0", e))?;
    setresuid(uid, uid, uid).map_err(|e| Error::new("setresuid 0", e))
}

/// What unshare(2) and clone(2) say of new namespaces, with what may help.
pub(super) fn refused(what: &str, e: impl Into<std::io::Error>) -> Error {
    let e: std::io::Error = e.into();
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::call(format_args!("new {what}"), e).hinted(
            "namespaces are refused here: sysctl kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns, or a seccomp filter of a container around us",
        ),
        // "No space left on device" would send people to their disks.
        Some(libc::ENOSPC | libc::EUSERS) => Error::new(format_args!("new {what}"), "too many of them already")
            .hinted("the limits are in /proc/sys/user: sysctl user.max_user_namespaces and the like"),
        Some(libc::EINVAL | libc::ENOSYS) => Error::call(format_args!("new {what}"), e)
            .hinted("this kernel was built without one of them, or a container around us hides them"),
        _ => Error::call(format_args!("new {what}"), e),
    }
}
