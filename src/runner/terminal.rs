//! The caller's terminal, lent to the command: tcsetpgrp(3), credentials(7).
//!
//! With standard input and output on the controlling terminal the command gets a process group of its own, and the
//! foreground if we have it, so that job control and ^C work inside; it keeps the session, which has the terminal.
//! Otherwise (a pipe, a file, no terminal) it gets a session of its own: no terminal, and no way to signal the
//! process group of the caller's pipeline.

//!
//! With `--tty` it gets a terminal of its own, of the view's devpts: [`Own`] here, [`Relay`](super::relay::Relay) there.

use std::io::{stdin, stdout};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Pid, getpgrp, setpgid, setsid, tcgetpgrp, tcsetpgrp};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::inside::resolve;

/// How the command stands to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    /// A session of its own.
    Apart,
    /// The same, with a new terminal.
    Own,
    /// A process group of its own in the caller's session; `foreground` tells whether it gets the terminal at once.
    Shared { foreground: bool },
}

impl Terminal {
    /// As the caller stands.
    pub(super) fn of_caller() -> Self {
        match (tcgetpgrp(stdin()), tcgetpgrp(stdout())) {
            (Ok(a), Ok(b)) if a == b => Self::Shared { foreground: a == getpgrp() },
            _ => Self::Apart,
        }
    }

    /// In the command, before it is executed.
    pub(super) fn enter(self) -> Result<(), Errno> {
        match self {
            Self::Apart | Self::Own => setsid().map(drop),
            Self::Shared { foreground } => {
                setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                if foreground { tcsetpgrp(stdin(), getpgrp()) } else { Ok(()) }
            }
        }
    }
}

/// The parent's note of who is to have the terminal.
#[derive(Debug)]
pub(super) struct Loan {
    shared: bool,
    lent: bool,
    group: Option<Pid>,
}

impl Loan {
    pub(super) fn new(terminal: Terminal) -> Self {
        let shared = matches!(terminal, Terminal::Shared { .. });
        Self { shared, lent: terminal == Terminal::Shared { foreground: true }, group: None }
    }

    /// Whether the command is one of the caller's jobs.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// The command has started, with this process id.
    pub(super) fn started(&mut self, command: Option<Pid>) {
        self.group = command;
    }

    /// The command has stopped: whoever of its groups has the terminal is to have it again.
    pub(super) fn stopped(&mut self) {
        if self.lent
            && let Ok(now) = tcgetpgrp(stdin())
            && now != getpgrp()
            && now.as_raw() > 0
        {
            self.group = Some(now);
        }
        self.lent = false;
    }

    /// We go on: if the caller's shell has put us into the foreground, the command gets it.
    pub(super) fn continued(&mut self) -> Result<(), Errno> {
        if self.shared
            && tcgetpgrp(stdin()) == Ok(getpgrp())
            && let Some(group) = self.group
        {
            tcsetpgrp(stdin(), group)?;
            self.lent = true;
        }
        Ok(())
    }

    /// Everything is over: takes the terminal back.
    pub(super) fn end(&mut self) -> Result<(), Errno> {
        if !std::mem::take(&mut self.lent) {
            return Ok(());
        }
        match tcsetpgrp(stdin(), getpgrp()) {
            // The terminal hung up meanwhile: there is nothing to take back.
            Err(Errno::EIO | Errno::ENOTTY) => Ok(()),
            done => done,
        }
    }
}

/// The command's end of a new terminal, pty(7).
#[derive(Debug)]
pub(super) struct Own(OwnedFd);

impl Own {
    /// A new terminal of the devpts of `root`: the master, and the command's end.
    pub(super) fn new(root: &OwnedFd) -> Result<(OwnedFd, Self), rustix::io::Errno> {
        let master = resolve(root, Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        unlockpt(&master)?;
        // By the master and not by a name: whatever is at the name, this is its other end.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        Ok((master, Self(slave)))
    }

    /// In the command, before it is executed: a session of its own with this terminal as standard input and outputs.
    pub(super) fn enter(self) -> Result<(), rustix::io::Errno> {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(&self.0)?;
        rustix::stdio::dup2_stdin(&self.0)?;
        rustix::stdio::dup2_stdout(&self.0)?;
        rustix::stdio::dup2_stderr(&self.0)
    }
}
