//! The calls that need `unsafe`: fork, seccomp and mmap. Nothing else here does.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};

/// Runs `f` in a child process and returns its exit status; an error is told on stderr and counts as 99.
pub(crate) fn in_child(f: impl FnOnce() -> Result<()>) -> Result<i32> {
    // SAFETY: a case runs in a process of its own, with no other thread at this point.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Child => {
            let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
                Ok(Ok(())) => 0,
                Ok(Err(e)) => {
                    eprintln!("in child: {e:#}");
                    99
                }
                Err(_) => 98,
            };
            // No destructors: they belong to the parent.
            // SAFETY: no preconditions.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => Ok(code),
            other => anyhow::bail!("child: {other:?}"),
        },
    }
}

/// Runs `f` in a child with other ids; fails if `f` does.
pub(crate) fn as_ids(uid: u32, gid: u32, groups: &[u32], f: impl FnOnce() -> Result<()>) -> Result<()> {
    let code = in_child(|| {
        let groups: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
        setgroups(&groups).context("setgroups")?;
        let (u, g) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setresgid(g, g, g).context("setresgid")?;
        setresuid(u, u, u).context("setresuid")?;
        f()
    })?;
    ensure!(code == 0, "as uid {uid} gid {gid}: failed (see above)");
    Ok(())
}

/// Refuses one system call to a command, and to all that it starts, with an error; without root also what set-user-id
/// programs gain.
pub(crate) fn refuse(command: &mut Command, call: libc::c_long, errno: i32) {
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let number = u32::try_from(call).unwrap_or(u32::MAX);
    let refuse = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
    let filter = [
        // The number comes first in what a filter is shown.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number) },
        op(libc::BPF_RET | libc::BPF_K, refuse),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
        // SAFETY: no memory but the program's, which is live and copied by the kernel.
        let done = unsafe {
            if libc::geteuid() != 0 {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            }
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
        };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: it calls the kernel and allocates nothing.
    unsafe { command.pre_exec(install) };
}

/// A shared mapping of the beginning of a file.
#[derive(Debug)]
pub(crate) struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    /// mmap(2), `MAP_SHARED`.
    pub(crate) fn shared(file: &File, len: usize, write: bool) -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let prot = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file.as_fd(), 0) }.context("mmap")?;
        Ok(Self { at: at.cast(), len })
    }

    /// What the file holds now, through the mapping.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // SAFETY: inside the mapping; volatile, as others may write at any time.
        (0..self.len).map(|i| unsafe { self.at.add(i).read_volatile() }).collect()
    }

    /// Writes through the mapping.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> Result<()> {
        ensure!(offset + data.len() <= self.len, "beyond the mapping");
        for (i, b) in data.iter().enumerate() {
            // SAFETY: inside the mapping, which was made writable or faults.
            unsafe { self.at.add(offset + i).write_volatile(*b) }
        }
        Ok(())
    }

    /// msync(2), `MS_SYNC`.
    pub(crate) fn sync(&self) -> Result<()> {
        // SAFETY: the mapping is ours.
        unsafe { rustix::mm::msync(self.at.cast(), self.len, rustix::mm::MsyncFlags::SYNC) }.context("msync")
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping.
        if let Err(e) = unsafe { rustix::mm::munmap(self.at.cast(), self.len) } {
            eprintln!("munmap: {e}");
        }
    }
}
