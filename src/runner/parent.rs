//! The process the user called: it makes the supervisor, writes its id maps, sends signals on, and waits.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::Mode;
use rustix::process::umask;

use super::attach::Attachments;
use super::channel::{self, Channel, Message, Received};
use super::error::RUNNER_FAILED;
use super::network::{self, Connection};
use super::owners::Giver;
use super::relay::Relay;
use super::signals::Signals;
use super::terminal::{Loan, Terminal};
use super::{Cgroup, Control, Error, Names, Root, Spec, plan, supervisor};
use crate::sys::process::{Fork, end_with, exit_now, fork};
use crate::sys::signal::set_default;

/// What of the caller's the command gets back, whatever the processes in between do to theirs.
pub(super) struct Origin {
    pub(super) mask: SigSet,
    pub(super) umask: Mode,
    pub(super) terminal: Terminal,
    pub(super) own: Option<Own>,
}

/// A program that is a function of ours: words in, exit code out. It is called in a process of its own inside, confined as
/// any command, which has one thread.
pub type Own = fn(&[OsString], &Giver<'_>) -> i32;

/// The umask of a root that is not the machine's.
pub(super) const USUAL_UMASK: Mode = Mode::from_raw_mode(0o022);

fn umask_for(spec: &Spec) -> Mode {
    // There is no way to only look.
    let callers = umask(USUAL_UMASK);
    umask(callers);
    if spec.host { callers } else { USUAL_UMASK }
}

/// Who looks after a run from outside.
#[derive(Default)]
pub struct Attended<'a> {
    /// Where requests come in: signals, more processes.
    pub control: Option<Control>,
    /// The group that its limits hold for.
    pub cgroup: Option<Cgroup>,
    /// It has no terminal of the caller's, who is gone: its input is whoever comes back to it.
    pub apart: bool,
    /// Called in the end with how many processes the limit of memory has ended, if it has.
    pub out_of_memory: Option<Box<dyn FnOnce(u64) + 'a>>,
    /// What processes that are our own do.
    pub own: Option<Own>,
    /// Called when the caller has left it to itself, in the process that goes on with it, which is not the supervisor's
    /// parent.
    pub left: Option<Box<dyn FnOnce(Pid) + 'a>>,
    /// Called once the command is executed.
    pub running: Option<Box<dyn FnOnce() + 'a>>,
}

/// Runs the command of `spec` with `root` as its root, and returns its exit code (128+n if signal n ended it) once
/// everything is gone again. The process must have one thread: it forks.
///
/// # Errors
/// What hindered; [`Error::exit_code`] is 125, or 126 and 127 for a command that is not executable or not there.
pub fn run(spec: &Spec, root: &mut dyn Root) -> Result<i32, Error> {
    run_attended(spec, root, Attended::default())
}

/// The same, with someone who looks after it.
///
/// # Errors
/// As there.
pub fn run_attended(spec: &Spec, root: &mut dyn Root, mut attended: Attended<'_>) -> Result<i32, Error> {
    let ended = run_once(spec, root, &mut attended);
    if let Some(killed @ 1..) = attended.cgroup.take().map(Cgroup::remove) {
        log::warn!("the limit of memory was reached: the kernel has killed {killed} of the processes inside");
        if let Some(tell) = attended.out_of_memory.take() {
            tell(killed);
        }
    }
    ended
}

fn run_once(spec: &Spec, root: &mut dyn Root, attended: &mut Attended<'_>) -> Result<i32, Error> {
    check(spec)?;
    network::check(spec.network)?;
    let settled;
    let spec = if spec.names.names_machine() {
        let machine = Some(network::machine_from(spec.network)?);
        settled = Spec { names: Names { machine, ..spec.names.clone() }, ..spec.clone() };
        &settled
    } else {
        spec
    };
    let plan = plan(spec);
    // What is buffered must not be written once by each process.
    std::io::stdout().flush().map_err(|e| Error::new("standard output", e))?;
    set_default(Signal::SIGCHLD).map_err(|e| Error::new("sigaction SIGCHLD", e))?;
    let mut attached =
        Attachments::new(spec, attended.apart).map_err(|e| Error::call("standard input and attachments", e))?;
    let terminal = if spec.process.terminal { Terminal::Own } else { Terminal::of_caller() };
    let (ours, theirs) = channel::pair().map_err(|e| Error::call("socketpair", e))?;
    let signals = Signals::block().map_err(|e| Error::call("signalfd", e))?;
    let forked = fork().map_err(|e| {
        let error = Error::call("fork", e);
        if e == rustix::io::Errno::DEADLK { error.hinted("run() wants to be called before any thread") } else { error }
    });
    let result = match forked {
        Ok(Fork::Child) => {
            drop((ours, attached));
            let origin = Origin { mask: signals.before(), umask: umask_for(spec), terminal, own: attended.own };
            end_with(|| supervisor::live(spec, &plan, root, &theirs, &origin))
        }
        Ok(Fork::Parent(supervisor)) => {
            drop(theirs);
            let mut loan = Loan::new(terminal);
            let ended = watch(spec, supervisor, &ours, &signals, &mut loan, attended, &mut attached);
            attached.end(&ended);
            loan.end().map_err(|e| Error::new("tcsetpgrp", e)).and(ended)
        }
        Err(e) => Err(e),
    };
    signals.restore().map_err(|e| Error::new("sigprocmask", e))?;
    result
}

fn check(spec: &Spec) -> Result<(), Error> {
    if spec.process.command.is_empty() {
        return Err(Error::new("command", "there is none"));
    }
    if !spec.base.is_absolute() || !spec.base.is_dir() {
        return Err(Error::new(spec.base.display(), "not an absolute path of a directory"));
    }
    let targets = spec.volumes.iter().map(|v| &v.target);
    let named = spec.process.workdir.iter().chain(&spec.hide).chain(&spec.mask).chain(targets);
    let relative = named.into_iter().find(|p| !p.is_absolute());
    if let Some(path) = relative {
        return Err(Error::new(format_args!("directory {}", path.display()), "not an absolute path"));
    }
    Ok(())
}

fn watch(
    spec: &Spec,
    supervisor: Pid,
    channel: &Channel,
    signals: &Signals,
    loan: &mut Loan,
    attended: &mut Attended<'_>,
    attached: &mut Attachments,
) -> Result<i32, Error> {
    let mut outcome = None;
    let mut failure = None;
    // We stop if the command does, when it is a job of the caller's shell or the shell asked for it.
    let mut asked_to_stop = false;
    let mut relay: Option<Relay> = None;
    let mut connection = None;
    // By the process whose child the supervisor is.
    let mut left = false;
    // Until then who asks waits: an order that comes between those of the start would be taken for one.
    let mut started = false;
    loop {
        let Ready { message, relayed, input, asked } = poll_all(
            signals,
            Some(channel),
            relay.as_ref(),
            attended.control.as_ref().filter(|_| started),
            PollTimeout::NONE,
        )
        .map_err(|e| Error::new("poll", e))?;
        while let Some(signal) = signals.next().map_err(|e| Error::new("signalfd", e))? {
            if let (Signal::SIGWINCH, Some(relay)) = (signal, &relay) {
                relay.resize().map_err(|e| Error::new("window size", e))?;
            } else if signal != Signal::SIGCHLD {
                asked_to_stop |= signal == Signal::SIGTSTP;
                // Should nobody hear it, the closed channel is seen next.
                channel.send(&Message::Signal(signal as i32));
            }
        }
        if let Some(relay) = relay.as_mut().filter(|_| relayed || input) {
            relay.pass(input).map_err(|e| Error::new("terminal", e))?;
        }
        if let Some(relay) = relay.as_mut().filter(|r| r.is_left()) {
            if connection.is_some() {
                log::warn!("it can't be left to itself: its network ends with this process");
                relay.stay();
            } else if relay.leave().map_err(|e| Error::new("detach", e))? {
                // The other one has all of what we have, and goes on.
                exit_now(0);
            } else {
                left = true;
                if let Some(tell) = attended.left.take() {
                    tell(supervisor);
                }
            }
        }
        if let Some(control) = attended.control.as_ref().filter(|_| asked)
            && let Some(request) = control.accept().map_err(|e| Error::new("accept", e))?
        {
            match request.message {
                Message::Signal(_) | Message::Exec(_) => {
                    let fds: Vec<_> = request.fds.iter().map(AsFd::as_fd).collect();
                    channel.send_with(&request.message, &fds);
                }
                Message::Attach => {
                    attached.add(request.fds, relay.as_mut()).map_err(|e| Error::call("attach", e))?;
                }
                _ => {}
            }
        }
        if !message {
            continue;
        }
        let Some(Received { message, sender, fds }) = channel.receive().map_err(|e| Error::new("receive", e))? else {
            break;
        };
        match message {
            Message::Terminal => {
                let master = fds.into_iter().next().ok_or_else(|| Error::new("new terminal", "did not come along"))?;
                let input = spec.process.stdin && !attended.apart;
                let made = Relay::new(master, input, &spec.process.detach_keys);
                relay = Some(made.map_err(|e| Error::new("terminal", e))?);
            }
            Message::NeedMaps => match spec.mapping.write(supervisor) {
                Ok(()) => drop(channel.send(&Message::MapsWritten)),
                Err(e) => {
                    // It waits for us and has made nothing yet.
                    kill(supervisor, Signal::SIGKILL).map_err(|e| Error::new("kill", e))?;
                    failure = Some(e);
                }
            },
            Message::NeedNetwork => {
                let init = sender.ok_or_else(|| Error::new("network", "for whom is not known"))?;
                match Connection::new(spec.network, &spec.ports, spec.names.machine, init, &spec.base) {
                    Ok(made) => {
                        connection = Some(made);
                        channel.send(&Message::Connected);
                    }
                    Err(e) => {
                        failure = Some(e);
                        channel.send(&Message::Signal(Signal::SIGKILL as i32));
                    }
                }
            }
            Message::NeedLimits => {
                if let (Some(cgroup), Some(init)) = (&attended.cgroup, sender)
                    && let Err(why) = cgroup.add(init)
                {
                    log::warn!("no limits on what runs inside: {why}");
                }
                channel.send(&Message::Limited);
            }
            Message::Starting => {
                started = true;
                loan.started(sender);
            }
            Message::Stopped if loan.is_shared() || asked_to_stop => {
                asked_to_stop = false;
                loan.stopped();
                raise(Signal::SIGSTOP).map_err(|e| Error::new("raise SIGSTOP", e))?;
                loan.continued().map_err(|e| Error::new("tcsetpgrp", e))?;
                channel.send(&Message::Signal(Signal::SIGCONT as i32));
            }
            Message::Warning(text) => log::warn!("{text}"),
            Message::Failed(e) => failure = failure.or(Some(e)),
            Message::Ended(code) => outcome = Some(code),
            Message::Running => {
                if let Some(running) = attended.running.take() {
                    running();
                }
            }
            Message::Stopped
            | Message::MapsWritten
            | Message::Give(..)
            | Message::Given
            | Message::Mounted
            | Message::Signal(_)
            | Message::Exec(_)
            | Message::Attach
            | Message::Attached
            | Message::Connected
            | Message::Limited
            | Message::Chown => {}
        }
    }
    if let Some(relay) = relay {
        relay.end().map_err(|e| Error::new("terminal", e))?;
    }
    drop(connection);
    let status = match reap(supervisor) {
        Err(Errno::ECHILD) if left => WaitStatus::StillAlive,
        status => status.map_err(|e| Error::new("waitpid", e))?,
    };
    match (failure, outcome) {
        (Some(e), _) => Err(e),
        (None, Some(code)) => Ok(i32::from(code)),
        (None, None) => Err(Error::new("supervisor", describe(status)).coded(RUNNER_FAILED).hinted(
            "the process that serves the files is gone (did memory run out? dmesg tells); what was written is kept where an \
             upper is: onlay start",
        )),
    }
}

/// What [`poll_all`] has found.
pub(super) struct Ready {
    /// A message, or the end of them.
    pub(super) message: bool,
    /// The command's terminal or who looks at it has something, or takes something.
    pub(super) relayed: bool,
    /// Standard input has something.
    pub(super) input: bool,
    /// Somebody asks for something.
    pub(super) asked: bool,
}

/// Waits until there is something to do, or so long at most; signals are simply asked for.
pub(super) fn poll_all(
    signals: &Signals,
    channel: Option<&Channel>,
    relay: Option<&Relay>,
    control: Option<&Control>,
    patience: PollTimeout,
) -> Result<Ready, Errno> {
    let stdin = std::io::stdin();
    let relayed = relay.map_or(Vec::new(), Relay::wants);
    let sources = [
        Some((signals.as_fd(), PollFlags::POLLIN)),
        channel.map(|c| (c.as_fd(), PollFlags::POLLIN)),
        relay.filter(|r| r.wants_input()).map(|_| (stdin.as_fd(), PollFlags::POLLIN)),
        control.map(|c| (c.as_fd(), PollFlags::POLLIN)),
    ];
    let all = sources.iter().flatten().chain(&relayed);
    let mut fds: Vec<_> = all.map(|(fd, events)| PollFd::new(*fd, *events)).collect();
    while let Err(e) = poll(&mut fds, patience) {
        if e != Errno::EINTR {
            return Err(e);
        }
    }
    let mut answers = fds.iter().map(|fd| fd.any().unwrap_or(true));
    let [_, message, input, asked] = sources.map(|source| source.is_some() && answers.next().unwrap_or(false));
    Ok(Ready { message, relayed: answers.any(|a| a), input, asked })
}

fn reap(pid: Pid) -> Result<WaitStatus, Errno> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        WaitStatus::Exited(_, code) => format!("ended unexpectedly, exit code {code}"),
        WaitStatus::StillAlive => "ended unexpectedly".to_owned(),
        other => format!("{other:?}"),
    }
}
