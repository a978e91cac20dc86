//! The process that owns the new user and mount namespaces: it mounts the view, serves it, and clears up after init.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setpgid, setresgid, setresuid};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use rustix::thread::UnshareFlags;

use super::channel::{self, Channel, Message, Received};
use super::enter::refused;
use super::error::RUNNER_FAILED;
use super::init::Ends;
use super::parent::Origin;
use super::{Error, Plan, Root, Spec, init, owners};
use crate::sys::process::{Fork, end_with, fork_into};

/// Its life, in the forked child; returns its exit code.
pub(super) fn live(spec: &Spec, plan: &Plan, root: &mut dyn Root, channel: &Channel, origin: &Origin) -> i32 {
    // If the parent does not hear it, it is dead, and nobody asks for our code.
    // The service of the files comes along: whoever is alone on a processor is answered there.
    let bound = spec.resources.processors.map_or(Ok(()), |these| these.bind());
    match bound.and_then(|()| new_namespaces(channel)).and_then(|()| lifetime(spec, plan, root, channel, origin)) {
        Ok(code) => channel.send(&Message::Ended(code)),
        Err(e) => channel.send(&Message::Failed(e)),
    };
    0
}

fn new_namespaces(channel: &Channel) -> Result<(), Error> {
    // Out of the caller's process group: what the terminal sends there reaches the parent only.
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(|e| Error::call("setpgid", e))?;
    // Privilege change: from here on we have every capability over what we make, and none over the machine.
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| refused("user namespace", e))?;
    channel.send(&Message::NeedMaps);
    match channel.receive().map_err(|e| Error::call("receive", e))? {
        Some(Received { message: Message::MapsWritten, .. }) => {}
        _ => return Err(Error::new("id maps", "not written")),
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(|e| Error::call("setresgid 0", e))?;
    setresuid(uid, uid, uid).map_err(|e| Error::call("setresuid 0", e))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| refused("mount namespace", e))?;
    // Nothing we mount shows up outside, nothing mounted outside shows up here.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Error::call("make mounts private", e))
}

fn lifetime(spec: &Spec, plan: &Plan, root: &mut dyn Root, channel: &Channel, origin: &Origin) -> Result<u8, Error> {
    let ended = around_init(spec, plan, root, channel, origin);
    let finished = root.finish().map_err(Error::of_root);
    ended.and_then(|code| finished.map(|()| code))
}

/// Init comes first: while it makes its namespaces, which takes the kernel a while, the view is put together here.
fn around_init(spec: &Spec, plan: &Plan, root: &mut dyn Root, channel: &Channel, origin: &Origin) -> Result<u8, Error> {
    let (link, inits) = channel::pair().map_err(|e| Error::call("socketpair", e))?;
    let init = match fork_into(UnshareFlags::NEWPID) {
        Ok(Fork::Child) => end_with(|| init::live(spec, plan, &Ends { up: channel, link: &inits }, origin)),
        Ok(Fork::Parent(init)) => init,
        Err(e) => return Err(refused(init::NAMESPACES, e)),
    };
    drop(inits);
    let guarded = pidfd(init).and_then(|fd| {
        root.mount().map_err(Error::of_root)?;
        let view = root.serve().map_err(Error::of_root)?;
        // The first one to ask for the root: until then the kernel takes it for root's.
        let device = rustix::fs::fstat(&view).map_err(|e| Error::call("stat the view", e))?.st_dev;
        link.send_with(&Message::Mounted, &[view.as_fd()]);
        drop(view);
        let hand_over = |listener| owners::attend(listener, root.owners(), device);
        let give = |uid, gid, fds| owners::give(root.owners().as_ref(), device, uid, gid, fds);
        attend(init, &fd, channel, &link, hand_over, give)
    });
    if guarded.is_err() {
        // It may still wait for the view: the first thing to be heard is what went wrong here.
        kill(init, Signal::SIGKILL).map_err(|e| Error::call("kill init", e))?;
    }
    let status = loop {
        match waitpid(init, None) {
            Err(Errno::EINTR) => {}
            done => break done.map_err(|e| Error::call("waitpid", e))?,
        }
    };
    guarded?;
    Ok(match status {
        WaitStatus::Exited(_, code) => code as u8,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as u8,
        _ => RUNNER_FAILED,
    })
}

fn pidfd(pid: Pid) -> Result<OwnedFd, Error> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or_else(|| Error::new("pidfd_open", Errno::ESRCH))?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::call("pidfd_open", e))
}

/// Waits for init's end, which is under way.
fn wait_for(pidfd: &OwnedFd) -> Result<(), Error> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            done => return done.map(drop).map_err(|e| Error::call("poll", e)),
        }
    }
}

/// Sends signals on until init has ended; ends it if the parent has.
fn attend(
    init: Pid,
    pidfd: &OwnedFd,
    channel: &Channel,
    link: &Channel,
    hand_over: impl Fn(OwnedFd) -> Result<(), Error>,
    give: impl Fn(u32, u32, Vec<OwnedFd>),
) -> Result<(), Error> {
    loop {
        let heard = PollFlags::POLLIN;
        let mut fds =
            [PollFd::new(pidfd.as_fd(), heard), PollFd::new(channel.as_fd(), heard), PollFd::new(link.as_fd(), heard)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            done => done.map_err(|e| Error::call("poll", e))?,
        };
        let [ended, spoken, told] = fds.map(|fd| fd.any().unwrap_or(true));
        if ended {
            return Ok(());
        }
        if told {
            match link.receive().map_err(|e| Error::call("receive", e))? {
                Some(Received { message: Message::Chown, fds, .. }) => {
                    fds.into_iter().next().map_or(Ok(()), &hand_over)?;
                }
                Some(Received { message: Message::Give(uid, gid), fds, .. }) => give(uid, gid, fds),
                Some(_) => {}
                // Init is about to end.
                None => return wait_for(pidfd),
            }
        }
        if !spoken {
            continue;
        }
        match channel.receive().map_err(|e| Error::call("receive", e))? {
            Some(Received { message: Message::Signal(number), .. }) => {
                let signal = Signal::try_from(number).map_err(|e| Error::call(format_args!("signal {number}"), e))?;
                kill(init, signal).map_err(|e| Error::call(format_args!("send {signal} to init"), e))?;
            }
            Some(Received {
                message: message @ (Message::Exec(_) | Message::Connected | Message::Limited),
                fds,
                ..
            }) => {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                // If init is about to end, so is whoever waits for an answer.
                link.send_with(&message, &fds);
            }
            Some(_) => {}
            None => {
                return pidfd_send_signal(pidfd, rustix::process::Signal::KILL)
                    .map_err(|e| Error::call("kill init", e));
            }
        }
    }
}
