//! Signals are blocked and read from a signalfd(2): no code ever runs in a handler.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What is sent on to the command. `SIGTTIN` and `SIGTTOU` stay with whom they meet.
const FORWARDED: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// The blocked signals of one process.
pub(super) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks what is forwarded, `SIGCHLD`, and `SIGTTOU` (it would stop whoever hands the terminal over).
    pub(super) fn block() -> Result<Self, Errno> {
        let mut read: SigSet = FORWARDED.into_iter().collect();
        read.add(Signal::SIGCHLD);
        let mut blocked = read;
        blocked.add(Signal::SIGTTOU);
        let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&read, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, before })
    }

    /// The mask before [`Signals::block`].
    pub(super) fn before(&self) -> SigSet {
        self.before
    }

    /// Puts that mask back.
    pub(super) fn restore(self) -> Result<(), Errno> {
        // A signal read too late for the command is dropped here rather than sent to the caller.
        while self.next()?.is_some() {}
        self.before.thread_set_mask()
    }

    /// The next signal that has come, if any.
    pub(super) fn next(&self) -> Result<Option<Signal>, Errno> {
        loop {
            match self.fd.read_signal() {
                Ok(Some(info)) => return Signal::try_from(info.ssi_signo as i32).map(Some),
                Ok(None) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
