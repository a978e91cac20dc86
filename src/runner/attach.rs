//! Somebody comes back to a command that runs: with a terminal of its own they get its master, to type into and to tell it the
//! size of their window, and a copy of what it prints by a pipe; else only the writing end of its standard input, since what it
//! prints is kept elsewhere.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::poll::PollFlags;
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::{Errno, write};
use rustix::pipe::{PipeFlags, pipe_with};

use super::channel::{self, Channel, Message};
use super::control::{Talk, ask, talk};
use super::relay::Relay;
use super::{Error, Spec};

/// So much may wait for one who does not read; then the command has to, as at any terminal that is held up.
const PATIENCE: usize = 256 * 1024;

/// One who is shown what a command prints.
#[derive(Debug)]
pub(super) struct Watcher {
    pipe: OwnedFd,
    pending: VecDeque<u8>,
}

impl Watcher {
    /// Who reads from the other end of `pipe`.
    pub(super) fn new(pipe: OwnedFd) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe, pending: VecDeque::new() })
    }

    /// What to wait for, if anything.
    pub(super) fn wants(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        (!self.pending.is_empty()).then_some((self.pipe.as_fd(), PollFlags::POLLOUT))
    }

    /// No more before this is read.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PATIENCE
    }

    /// Shows `bytes`, now or as soon as there is room; false if nobody looks any more.
    pub(super) fn show(&mut self, bytes: &[u8]) -> bool {
        self.pending.extend(bytes);
        while !self.pending.is_empty() {
            match write(&self.pipe, self.pending.as_slices().0) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        true
    }

    /// There is no more: who does not read the rest within a second misses it.
    pub(super) fn end(mut self) {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        while self.show(&[]) && !self.pending.is_empty() {
            let mut fds = [PollFd::new(&self.pipe, rustix::event::PollFlags::OUT)];
            if !matches!(poll(&mut fds, Some(&second)), Ok(1..) | Err(Errno::INTR)) {
                return;
            }
        }
    }
}

/// Those who have come back to the command of this run.
#[derive(Debug)]
pub(super) struct Attachments {
    /// The other end of its standard input.
    input: Option<OwnedFd>,
    /// What it prints can be seen: it is recorded, or goes to a terminal of its own.
    seen: bool,
    /// Who waits for its end.
    waiting: Vec<Channel>,
}

impl Attachments {
    /// For a run about to start, `apart` from every terminal of the caller's: its standard input is then open for whoever comes.
    pub(super) fn new(spec: &Spec, apart: bool) -> Result<Self, Errno> {
        let input = if apart && spec.process.stdin && !spec.process.terminal {
            let (read, input) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::stdio::dup2_stdin(&read)?;
            Some(input)
        } else {
            None
        };
        Ok(Self { input, seen: apart || spec.process.terminal, waiting: Vec::new() })
    }

    /// Somebody asks: their end of a channel comes first, then of a pipe.
    pub(super) fn add(&mut self, fds: Vec<OwnedFd>, relay: Option<&mut Relay>) -> Result<(), Errno> {
        let mut fds = fds.into_iter();
        let (Some(reply), pipe) = (fds.next(), fds.next()) else { return Ok(()) };
        let reply = Channel::of(reply);
        if !self.seen {
            let error = Error::new("attach", "the container runs in the foreground of somebody's terminal")
                .hinted("start it with --detach or --tty to come back to it; exec comes in as well");
            reply.send(&Message::Failed(error));
            return Ok(());
        }
        let given = match (relay, pipe) {
            (Some(relay), Some(pipe)) => {
                reply.send_with(&Message::Attached, &[relay.master()]);
                relay.show_to(Watcher::new(pipe)?);
                true
            }
            _ => match &self.input {
                Some(input) => reply.send_with(&Message::Attached, &[input.as_fd()]),
                None => reply.send(&Message::Attached),
            },
        };
        // Who has gone by now waits for nothing.
        self.waiting.extend(given.then_some(reply));
        Ok(())
    }

    /// Tells everybody how it went.
    pub(super) fn end(self, ended: &Result<i32, Error>) {
        let message = match ended {
            Ok(code) => Message::Ended(u8::try_from(*code).unwrap_or(super::error::RUNNER_FAILED)),
            Err(e) => Message::Failed(e.clone()),
        };
        for reply in &self.waiting {
            reply.send(&message);
        }
    }
}

/// How to come back to a command.
#[derive(Debug, Clone, Copy)]
pub struct Attach<'a> {
    /// It has a terminal of its own.
    pub terminal: bool,
    /// What is typed here is its.
    pub stdin: bool,
    /// Keys on the caller's terminal that leave it again; empty: none do.
    pub detach_keys: &'a [u8],
    /// Signals that would end the caller are sent on to it.
    pub signals: bool,
}

/// Comes back to the command of the container in `dir`, until it has ended (its exit code) or is left by keys (0). `follow` is
/// called from time to time, and at the end, to print what one without a terminal has printed.
///
/// # Errors
/// Nobody listens there, or the container has failed.
pub fn attach(dir: &Path, how: Attach<'_>, follow: &mut dyn FnMut() -> std::io::Result<()>) -> Result<i32, Error> {
    let (ours, theirs) = channel::pair().map_err(|e| Error::call("socketpair", e))?;
    let (prints, shown) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::call("pipe", e))?;
    ask(dir, &Message::Attach, &[theirs.as_fd(), shown.as_fd()])?;
    drop((theirs, shown));
    let talked = Talk {
        stdin: how.stdin,
        detach_keys: how.detach_keys,
        wait: true,
        prints: how.terminal.then_some(prints),
        attached: Some(dir).filter(|_| how.signals),
        follow: (!how.terminal).then_some(follow),
    };
    talk(&ours, talked)
}
