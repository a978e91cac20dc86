//! Process 1 of the new pid namespace: it makes the inside as the plan says, starts the command, and reaps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, sethostname};
use rustix::process::WaitOptions;

use super::channel::{Channel, Message};
use super::inside::{Failure, Roots};
use super::parent::{Origin, USUAL_UMASK};
use super::plan::Step;
use super::process::{self, Start, become_command};
use super::signals::Signals;
use super::terminal::{Own, Terminal};
use super::{Error, Plan, Spec};
use crate::sys::net::loopback_up;
use crate::sys::process::{Fork, close_all_but, end_with, fork};

/// Its life, in the forked child; returns its exit code, which is the command's.
pub(super) fn live(spec: &Spec, plan: &Plan, view: &Path, channel: &Channel, origin: &Origin) -> i32 {
    match make_inside(plan, view, channel).and_then(|root| attend(spec, plan, &root, channel, origin)) {
        Ok(code) => i32::from(code),
        Err(e) => {
            let code = e.code;
            channel.send(&Message::Failed(e));
            i32::from(code)
        }
    }
}

fn make_inside(plan: &Plan, view: &Path, channel: &Channel) -> Result<OwnedFd, Error> {
    set_pdeathsig(Signal::SIGKILL).map_err(|e| Error::new("prctl PR_SET_PDEATHSIG", e))?;
    // Above all the FUSE device: were it open here too, the death of who serves the view would not end the view, and
    // we would wait for its answers for ever.
    close_all_but(channel.as_raw_fd()).map_err(|e| Error::new("close_range", e))?;
    rustix::process::umask(USUAL_UMASK);
    let roots = Roots::open(view).map_err(|e| Error::new("open the view", e))?;
    let mut place = Place::Outside(roots);
    for step in plan.steps() {
        place = carry_out(step, place, channel).map_err(|failure| {
            let error = Error::new(step, failure.errno);
            match failure.hint {
                Some(hint) => error.hinted(hint),
                None => error,
            }
        })?;
    }
    // Nothing inside may trace us or look through /proc/1 at what is ours; exec makes the command dumpable again.
    set_dumpable(false).map_err(|e| Error::new("prctl PR_SET_DUMPABLE", e))?;
    match place {
        Place::Inside(root) => Ok(root),
        Place::Outside(_) => Err(Error::new("plan", "never switches to the new root")),
    }
}

/// Which side of the switch to the new root init is on.
enum Place {
    Outside(Roots),
    Inside(OwnedFd),
}

fn carry_out(step: &Step, place: Place, channel: &Channel) -> Result<Place, Failure> {
    match (step, &place) {
        (Step::SetHostname(name), _) => sethostname(name).map_err(errno)?,
        (Step::LoopbackUp, _) => loopback_up()?,
        (Step::PivotRoot, Place::Outside(_)) => {
            if let Place::Outside(roots) = place {
                return Ok(Place::Inside(roots.switch()?));
            }
        }
        (Step::CopyOf { path, .. }, Place::Outside(roots)) => {
            if let Err(Failure { errno, hint }) = roots.carry_out(step) {
                let why = hint.map_or(String::new(), |h| format!(" ({h})"));
                channel.send(&Message::Warning(format!("{path}: {errno}{why}")));
            }
        }
        (Step::LimitBounding(set), Place::Inside(_)) => process::limit_bounding(*set)?,
        (Step::LimitCapabilities(set), Place::Inside(_)) => process::limit_capabilities(*set)?,
        (step, Place::Outside(roots)) => roots.carry_out(step)?,
        // A plan in an order that makes no sense.
        _ => return Err(rustix::io::Errno::INVAL.into()),
    }
    Ok(place)
}

fn errno(e: Errno) -> Failure {
    rustix::io::Errno::from_raw_os_error(e as i32).into()
}

/// Starts the command; reaps and sends signals on until it has ended. The rest of the namespace dies with us.
fn attend(spec: &Spec, plan: &Plan, root: &OwnedFd, channel: &Channel, origin: &Origin) -> Result<u8, Error> {
    let mut terminal = None;
    if spec.process.terminal {
        let (master, own) = Own::new(root).map_err(|e| Error::new("new terminal", e))?;
        channel.send_with(&Message::Terminal, master.as_fd());
        terminal = Some(own);
    }
    let signals = Signals::block().map_err(|e| Error::new("signalfd", e))?;
    let command = match fork().map_err(|e| Error::new("fork", e))? {
        Fork::Child => end_with(|| {
            let start = Start { process: &spec.process, entry: plan.entry(), root, origin, terminal: terminal.take() };
            let error = become_command(start, channel);
            let code = error.code;
            channel.send(&Message::Failed(error));
            i32::from(code)
        }),
        Fork::Parent(command) => command,
    };
    // Held open here, its end would never be seen.
    drop(terminal);
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            done => drop(done.map_err(|e| Error::new("poll", e))?),
        }
        while let Some(signal) = signals.next().map_err(|e| Error::new("signalfd", e))? {
            if signal != Signal::SIGCHLD {
                pass_on(signal, command, origin.terminal).map_err(|e| Error::new("signal to the command", e))?;
            } else if let Some(code) = reap(command, channel).map_err(|e| Error::new("waitpid", e))? {
                return Ok(code);
            }
        }
    }
}

/// As a terminal would: what a key sends goes to the group, the rest to the command.
fn pass_on(signal: Signal, command: Pid, terminal: Terminal) -> Result<(), Errno> {
    let sent = match signal {
        // A group without a parent in its session is not stopped by SIGTSTP.
        Signal::SIGTSTP if !matches!(terminal, Terminal::Shared { .. }) => killpg(command, Signal::SIGSTOP),
        Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP | Signal::SIGCONT => killpg(command, signal),
        _ => kill(command, signal),
    };
    match sent {
        // Not yet the leader of its group.
        Err(Errno::ESRCH) => kill(command, signal),
        sent => sent,
    }
}

/// Reaps whatever has ended; the exit code if it was the command.
fn reap(command: Pid, channel: &Channel) -> Result<Option<u8>, rustix::io::Errno> {
    let mut code = None;
    loop {
        // Not nix's: it has no name for a real-time signal, and a process can be ended by one.
        match rustix::process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Ok(Some((pid, status))) if pid.as_raw_pid() == command.as_raw() => {
                if status.stopped() {
                    channel.send(&Message::Stopped);
                } else {
                    code = status.exit_status().or(status.terminating_signal().map(|n| 128 + n)).map(|c| c as u8);
                }
            }
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}
