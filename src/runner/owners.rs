//! chown(2) to ids that are not there. A user without a subordinate range has one id inside, and the kernel refuses every
//! other before the file system is asked. So a seccomp filter (seccomp_unotify(2)) hands those calls over to the supervisor,
//! which finds the file as the caller would and has the view remember the owner.
//!
//! The caller's threads can change anything they own while we look, and gain nothing: words are read once, the file is
//! found once, from the caller's own root and without magic links, and what is done is done to that very file, if the view
//! serves it. Anything else is left to the kernel, which refuses it as before.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::channel::{self, Channel, Message, Received};
use super::{Error, Owners};
use crate::sys::seccomp::{Answer, Call, answer, receive, still_waits};

/// The longest path the kernel takes, its end included.
const PATH_MAX: usize = 4096;

/// Who answers.
struct Desk {
    listener: OwnedFd,
    /// `None`: the view can't.
    owners: Option<Arc<dyn Owners>>,
    /// The device number of the view.
    device: u64,
    /// The machine's, whatever is mounted on /proc where we look.
    proc: OwnedFd,
    root: OwnedFd,
}

/// What a waiting call asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    file: Which,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// Which file.
#[derive(Debug, PartialEq, Eq)]
enum Which {
    /// That of a descriptor.
    Open(i32),
    /// The one the path at this address leads to.
    Path { from: i32, address: u64, follow: bool, maybe_empty: bool },
}

/// The way of a process of ours inside to have an owner remembered. It is not let into what a call of its own names, as
/// other commands are: nobody inside may look into it, nor may the supervisor.
#[derive(Debug)]
pub struct Giver<'a>(&'a Channel);

impl<'a> Giver<'a> {
    pub(super) fn new(supervisor: &'a Channel) -> Self {
        Self(supervisor)
    }

    /// From now on this user and group own the file, or directory, of a descriptor, whatever is shown; it is root's.
    ///
    /// # Errors
    /// `EINVAL` where owners are not remembered, or not of this file; what the view answers.
    pub fn give(&self, file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
        let (ours, theirs) = channel::pair().map_err(errno)?;
        if !self.0.send_with(&Message::Give(uid, gid), &[file, theirs.as_fd()]) {
            return Err(Errno::PIPE);
        }
        drop(theirs);
        match ours.receive().map_err(errno)? {
            Some(Received { message: Message::Given, .. }) => Ok(()),
            _ => Err(Errno::INVAL),
        }
    }
}

/// What a [`Giver`] asks for: the file and where to answer have come along. Nobody is told why not but that it is not so.
pub(super) fn give(owners: Option<&Arc<dyn Owners>>, device: u64, uid: u32, gid: u32, fds: Vec<OwnedFd>) {
    let mut fds = fds.into_iter();
    let (Some(file), Some(reply), Some(owners)) = (fds.next(), fds.next(), owners) else { return };
    let given = rustix::fs::fstat(&file).map_err(std::io::Error::from).and_then(|stat| {
        if stat.st_dev != device {
            return Err(Errno::XDEV.into());
        }
        owners.give(stat.st_ino, Some(uid), Some(gid))
    });
    match given {
        Ok(()) => drop(Channel::of(reply).send(&Message::Given)),
        Err(e) => log::debug!("owner {uid}:{gid}: {e}"),
    }
}

/// Answers in a thread until the last process inside has ended; `device` is the number of the view's.
pub(super) fn attend(listener: OwnedFd, owners: Option<Arc<dyn Owners>>, device: u64) -> Result<(), Error> {
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open =
        |path| rustix::fs::open(path, dir, Mode::empty()).map_err(|e| Error::new(format_args!("open {path}"), e));
    let desk = Desk { listener, owners, device, proc: open("/proc")?, root: open("/")? };
    let serve = move || match desk.serve() {
        Ok(()) => {}
        // Those who wait get ENOSYS.
        Err(e) => log::warn!("chown inside is not remembered any more: {e}"),
    };
    std::thread::Builder::new().name("owners".into()).spawn(serve).map_err(|e| Error::new("thread", e)).map(drop)
}

impl Desk {
    fn serve(&self) -> Result<(), Errno> {
        // Root and working directory of this thread are its own from here on.
        unshare(CloneFlags::CLONE_FS).map_err(errno)?;
        loop {
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                done => done.map_err(errno)?,
            };
            if !fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN)) {
                // Nobody is left who could call.
                return Ok(());
            }
            let call = match receive(self.listener.as_fd()) {
                // It gave up.
                Err(Errno::NOENT | Errno::INTR) => continue,
                call => call?,
            };
            let said = self.carry_out(&call).unwrap_or_else(Answer::Failed);
            match answer(self.listener.as_fd(), &call, said) {
                Err(Errno::NOENT) => {}
                done => done?,
            }
        }
    }

    fn carry_out(&self, call: &Call) -> Result<Answer, Errno> {
        let (Some(wish), Some(owners)) = (Wish::of(call), &self.owners) else { return Ok(Answer::GoOn) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let caller = rustix::fs::openat(&self.proc, call.thread.to_string(), flags, Mode::empty())?;
        // Not before: this directory is that thread's for ever.
        if !still_waits(self.listener.as_fd(), call) {
            return Err(Errno::SRCH);
        }
        match same_user_namespace(&caller, &self.proc) {
            Ok(true) => {}
            // Not to be looked into: init, or a fork of it that copies files.
            Ok(false) | Err(Errno::ACCESS | Errno::PERM) => return Ok(Answer::GoOn),
            Err(e) => return Err(e),
        }
        let file = match self.find(&caller, &wish.file) {
            // A magic link, maybe out of the view.
            Err(Errno::LOOP | Errno::XDEV) => return Ok(Answer::GoOn),
            found => found?,
        };
        let stat = rustix::fs::statat(&file, "", AtFlags::EMPTY_PATH)?;
        if stat.st_dev != self.device {
            return Ok(Answer::GoOn);
        }
        if !may_chown(&caller)? {
            return Err(Errno::PERM);
        }
        // By the kernel, which checks all it ever does, takes set-id bits away and learns the new times ..
        let root = |id: Option<u32>| id.map(|_| 0);
        let (uid, gid) = (root(wish.uid).map(Uid::from_raw), root(wish.gid).map(Gid::from_raw));
        rustix::fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?;
        // .. and whom it does not know.
        owners.give(stat.st_ino, wish.uid, wish.gid).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok(Answer::Done)
    }

    fn find(&self, caller: &OwnedFd, which: &Which) -> Result<OwnedFd, Errno> {
        match *which {
            Which::Open(fd) => descriptor(caller, fd),
            Which::Path { from, address, follow, maybe_empty } => {
                let path = read_path(caller, address)?;
                let start = match from {
                    _ if path.as_bytes().first() == Some(&b'/') => link(caller, "root")?,
                    libc::AT_FDCWD => link(caller, "cwd")?,
                    fd => descriptor(caller, fd)?,
                };
                if path.is_empty() {
                    return if maybe_empty { Ok(start) } else { Err(Errno::NOENT) };
                }
                self.walk(caller, &start, &path, follow)
            }
        }
    }

    /// Opens a path with the caller's root as ours, so that links and `..` lead where they lead the caller.
    fn walk(&self, caller: &OwnedFd, start: &OwnedFd, path: &CString, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !follow);
        let found = enter(&link(caller, "root")?).and_then(|()| {
            loop {
                match rustix::fs::openat2(start, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
                    Err(Errno::AGAIN) => {}
                    found => return found,
                }
            }
        });
        // Nothing of the view is held while nobody asks.
        enter(&self.root)?;
        found
    }
}

/// Makes a directory this thread's root and working directory.
fn enter(dir: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(dir)?;
    rustix::process::chroot(".")
}

impl Wish {
    fn of(call: &Call) -> Option<Self> {
        let [a, b, c, d, e, _] = call.args;
        let (file, uid, gid) = match i64::from(call.number) {
            libc::SYS_fchown => (Which::Open(a as i32), b, c),
            libc::SYS_fchownat => {
                let flags = e as i32;
                if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
                    return None;
                }
                let (follow, maybe_empty) = (flags & libc::AT_SYMLINK_NOFOLLOW == 0, flags & libc::AT_EMPTY_PATH != 0);
                (Which::Path { from: a as i32, address: b, follow, maybe_empty }, c, d)
            }
            number => (by_name(number, a)?, b, c),
        };
        // All ones: as it is.
        let id = |value: u64| Some(value as u32).filter(|id| *id != u32::MAX);
        Some(Self { file, uid: id(uid), gid: id(gid) })
    }
}

#[cfg(target_arch = "x86_64")]
fn by_name(number: i64, address: u64) -> Option<Which> {
    let follow = match number {
        libc::SYS_chown => true,
        libc::SYS_lchown => false,
        _ => return None,
    };
    Some(Which::Path { from: libc::AT_FDCWD, address, follow, maybe_empty: false })
}

#[cfg(not(target_arch = "x86_64"))]
fn by_name(_: i64, _: u64) -> Option<Which> {
    None
}

/// Reads a path from the caller's memory, once.
fn read_path(caller: &OwnedFd, address: u64) -> Result<CString, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let memory = File::from(rustix::fs::openat(caller, "mem", flags, Mode::empty())?);
    let mut path = Vec::new();
    let mut page = [0; PATH_MAX];
    while path.len() < PATH_MAX {
        let at = address.checked_add(path.len() as u64).ok_or(Errno::FAULT)?;
        // Not beyond a page: the next may not be there, and need not.
        let room = (PATH_MAX - (at as usize % PATH_MAX)).min(PATH_MAX - path.len());
        match memory.read_at(&mut page[..room], at) {
            Ok(n) if n > 0 => match page[..n].iter().position(|b| *b == 0) {
                Some(end) => {
                    path.extend_from_slice(&page[..end]);
                    return CString::new(path).map_err(|_| Errno::INVAL);
                }
                None => path.extend_from_slice(&page[..n]),
            },
            _ => return Err(Errno::FAULT),
        }
    }
    Err(Errno::NAMETOOLONG)
}

/// What a link of the thread's in /proc stands for.
fn link(caller: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(caller, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn descriptor(caller: &OwnedFd, fd: i32) -> Result<OwnedFd, Errno> {
    link(caller, &format!("fd/{fd}")).map_err(|e| if e == Errno::NOENT { Errno::BADF } else { e })
}

/// Whether the caller is in our user namespace: in one below, other ids are there and other rights.
fn same_user_namespace(caller: &OwnedFd, proc: &OwnedFd) -> Result<bool, Errno> {
    let theirs = rustix::fs::statat(caller, "ns/user", AtFlags::empty())?;
    let ours = rustix::fs::statat(proc, "self/ns/user", AtFlags::empty())?;
    Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
}

/// Whether the thread has `CAP_CHOWN`.
fn may_chown(caller: &OwnedFd) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut status = String::new();
    let mut file = File::from(rustix::fs::openat(caller, "status", flags, Mode::empty())?);
    file.read_to_string(&mut status).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    Ok(CapabilitySet::from_bits_retain(effective.unwrap_or_default()).contains(CapabilitySet::CHOWN))
}

fn errno(e: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(e as i32)
}
