//! Process 1 of the new pid namespace: it makes the inside as the plan says, starts the command, and reaps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, pipe2, sethostname};
use rustix::process::WaitOptions;

use super::channel::{Channel, Message, Received};
use super::enter::refused;
use super::error::RUNNER_FAILED;
use super::inside::{Failure, Roots};
use super::parent::{Origin, USUAL_UMASK};
use super::plan::{self, Step};
use super::process::{self, Start, become_command};
use super::seccomp;
use super::signals::Signals;
use super::terminal::{Own, Terminal};
use super::{Error, Plan, Process, Spec};
use crate::sys::landlock::execute_only_below;
use crate::sys::net::loopback_up;
use crate::sys::process::{Fork, close_all_but, end_with, exit_now, fork};
use crate::sys::seccomp::install_listened;
use crate::sys::title::set_title;

/// Init's ends of two channels.
pub(super) struct Ends<'a> {
    /// To the parent: the supervisor's, only to send.
    pub(super) up: &'a Channel,
    /// To the supervisor alone.
    pub(super) link: &'a Channel,
}

/// Its life, in the forked child; returns its exit code, which is the command's.
pub(super) fn live(spec: &Spec, plan: &Plan, ends: &Ends<'_>, origin: &Origin) -> i32 {
    let channel = ends.up;
    match make_inside(spec, plan, ends).and_then(|root| attend(spec, plan, &root, ends, origin)) {
        Ok(code) => i32::from(code),
        Err(e) => {
            let code = e.code;
            channel.send(&Message::Failed(e));
            i32::from(code)
        }
    }
}

/// Which namespaces are made for it, beside that of its mounts.
pub(super) const NAMESPACES: &str = "pid, ipc, uts, cgroup or network namespace";

fn make_inside(spec: &Spec, plan: &Plan, ends: &Ends<'_>) -> Result<OwnedFd, Error> {
    // What the caller typed is nobody's business inside.
    set_title(c"init").map_err(|e| Error::call("title of process 1", e))?;
    set_pdeathsig(Signal::SIGKILL).map_err(|e| Error::call("prctl PR_SET_PDEATHSIG", e))?;
    // What the caller had open is not for the inside.
    let channel = ends.up;
    close_all_but(&[channel.as_raw_fd(), ends.link.as_raw_fd()]).map_err(|e| Error::call("close_range", e))?;
    rustix::process::umask(USUAL_UMASK);
    let mut namespaces = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
    namespaces.set(CloneFlags::CLONE_NEWNET, spec.network.is_new());
    unshare(namespaces).map_err(|e| refused(NAMESPACES, e))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| refused("mount namespace", e))?;
    let view = match ends.link.receive().map_err(|e| Error::call("receive", e))? {
        Some(Received { message: Message::Mounted, fds, .. }) => fds.into_iter().next(),
        Some(_) => None,
        // The supervisor is dead; of what, the parent tells.
        None => exit_now(RUNNER_FAILED.into()),
    };
    let view = view.ok_or_else(|| Error::new("the view", "is not mounted"))?;
    let roots = Roots::open(view, &spec.base).map_err(|e| Error::call("mount the view", e))?;
    let mut place = Place::Outside(roots);
    for step in plan.steps() {
        place = carry_out(step, place, ends).map_err(|failure| failure.of(step))?;
    }
    // Nothing inside may trace us or look through /proc/1 at what is ours; exec makes the command dumpable again.
    set_dumpable(false).map_err(|e| Error::call("prctl PR_SET_DUMPABLE", e))?;
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

fn carry_out(step: &Step, place: Place, ends: &Ends<'_>) -> Result<Place, Failure> {
    match (step, &place) {
        (Step::Limits(_), _) => {
            ends.up.send(&Message::NeedLimits);
            match ends.link.receive().map_err(errno)? {
                Some(Received { message: Message::Limited, .. }) => {}
                _ => return Err(rustix::io::Errno::CANCELED.into()),
            }
            // Nothing inside sees which group of the machine's this is.
            unshare(CloneFlags::CLONE_NEWCGROUP).map_err(errno)?;
        }
        (Step::SetHostname(name), _) => sethostname(name).map_err(errno)?,
        (Step::LoopbackUp, _) => loopback_up()?,
        (Step::Connect, _) => {
            ends.up.send(&Message::NeedNetwork);
            // Why not, the parent knows, and ends us.
            match ends.link.receive().map_err(errno)? {
                Some(Received { message: Message::Connected, .. }) => {}
                _ => return Err(rustix::io::Errno::NETDOWN.into()),
            }
        }
        (Step::PivotRoot, Place::Outside(_)) => {
            if let Place::Outside(roots) = place {
                return Ok(Place::Inside(roots.switch()?));
            }
        }
        (Step::CopyOf { .. } | Step::Resolver(..), Place::Outside(roots)) => {
            if let Err(Failure { errno, hint }) = roots.carry_out(step) {
                let why = hint.map_or(String::new(), |h| format!(" ({h})"));
                ends.up.send(&Message::Warning(format!("{step}: {errno}{why}")));
            }
        }
        (Step::HandOverChown, Place::Inside(_)) => {
            let listening = seccomp::chown_program().map_err(|e| e.to_string());
            match listening.and_then(|p| install_listened(&p).map_err(|e| crate::vocab::why(&e))) {
                Ok(listener) => drop(ends.link.send_with(&Message::Chown, &[listener.as_fd()])),
                // In a container that listens itself, say.
                Err(e) => {
                    let text = format!("chown inside to other ids than root's will fail: {e}");
                    ends.up.send(&Message::Warning(text));
                }
            }
        }
        (Step::ExecuteInside, Place::Inside(root)) => match execute_only_below(root.as_fd()) {
            // Older kernels, and those built without: nobody writes to a program that runs there.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            done => done?,
        },
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

/// A process started later.
struct Extra {
    pid: Pid,
    /// To who asked for it.
    reply: Channel,
    /// Closed by its exec.
    starting: Option<OwnedFd>,
}

/// Starts the command; reaps, sends signals on, and starts what else is asked for, until the command has ended. The rest
/// of the namespace dies with us.
fn attend(spec: &Spec, plan: &Plan, root: &OwnedFd, ends: &Ends<'_>, origin: &Origin) -> Result<u8, Error> {
    let channel = ends.up;
    let signals = Signals::block().map_err(|e| Error::call("signalfd", e))?;
    let start = Start {
        process: &spec.process,
        entry: plan.entry(),
        root,
        origin,
        supervisor: ends.link,
        terminal: None,
        stdio: None,
    };
    let (command, mut starting) = spawn(start, channel)?;
    let mut extras: Vec<Extra> = Vec::new();
    let mut linked = true;
    loop {
        let ready = PollFlags::POLLIN;
        let mut fds = vec![PollFd::new(signals.as_fd(), ready)];
        let pipes = std::iter::once(&starting).chain(extras.iter().map(|e| &e.starting)).flatten();
        fds.extend(pipes.map(|fd| PollFd::new(fd.as_fd(), ready)));
        if linked {
            fds.push(PollFd::new(ends.link.as_fd(), ready));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            done => drop(done.map_err(|e| Error::call("poll", e))?),
        }
        let asked = linked && fds.last().and_then(PollFd::any).unwrap_or(false);
        announce(&mut starting, channel);
        extras.iter_mut().for_each(|e| announce(&mut e.starting, &e.reply));
        while let Some(signal) = signals.next().map_err(|e| Error::call("signalfd", e))? {
            if signal != Signal::SIGCHLD {
                pass_on(signal, command, origin.terminal).map_err(|e| Error::call("signal to the command", e))?;
            } else if let Some(code) = reap(command, &mut extras, channel).map_err(|e| Error::call("waitpid", e))? {
                announce(&mut starting, channel);
                return Ok(code);
            }
        }
        if asked {
            match ends.link.receive().map_err(|e| Error::call("receive", e))? {
                Some(Received { message: Message::Exec(json), fds, .. }) => {
                    extras.extend(start_extra(spec, &json, fds, root, origin, ends.link));
                }
                Some(_) => {}
                None => linked = false,
            }
        }
    }
}

/// Forks a process that becomes a command; its end of the pipe that is returned closes with the exec.
fn spawn(mut start: Start<'_>, channel: &Channel) -> Result<(Pid, Option<OwnedFd>), Error> {
    if start.process.terminal {
        let (master, own) = Own::new(start.root).map_err(|e| Error::call("new terminal", e))?;
        channel.send_with(&Message::Terminal, &[master.as_fd()]);
        start.terminal = Some(own);
    }
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|e| Error::call("pipe", e))?;
    match fork().map_err(|e| Error::call("fork", e))? {
        Fork::Child => end_with(|| {
            drop(read);
            let error = become_command(start, channel);
            let code = error.code;
            channel.send(&Message::Failed(error));
            // So that the pipe does not look as after an exec. Nobody there: nobody to mistake it.
            nix::unistd::write(&write, b"f").ok();
            i32::from(code)
        }),
        Fork::Parent(pid) => Ok((pid, Some(read))),
    }
}

/// Tells that a process was executed, once it was.
fn announce(starting: &mut Option<OwnedFd>, channel: &Channel) {
    let Some(pipe) = starting else { return };
    match nix::unistd::read(pipe, &mut [0]) {
        Err(Errno::EAGAIN | Errno::EINTR) => {}
        Ok(0) => {
            channel.send(&Message::Running);
            *starting = None;
        }
        _ => *starting = None,
    }
}

/// Starts what was asked for; who asked is told if it can't be.
fn start_extra(
    spec: &Spec,
    json: &str,
    fds: Vec<OwnedFd>,
    root: &OwnedFd,
    origin: &Origin,
    supervisor: &Channel,
) -> Option<Extra> {
    let mut fds = fds.into_iter();
    let reply = Channel::of(fds.next()?);
    let started = serde_json::from_str(json).map_err(|e| Error::new("exec", e)).and_then(|process: Process| {
        let entry = plan::entry(&process, spec);
        let origin = Origin { terminal: Terminal::Apart, ..*origin };
        let stdio = fds.collect();
        let start = Start {
            process: &process,
            entry: &entry,
            root,
            origin: &origin,
            supervisor,
            terminal: None,
            stdio: Some(stdio),
        };
        spawn(start, &reply)
    });
    match started {
        Ok((pid, starting)) => Some(Extra { pid, reply, starting }),
        Err(e) => {
            reply.send(&Message::Failed(e));
            None
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
fn reap(command: Pid, extras: &mut Vec<Extra>, channel: &Channel) -> Result<Option<u8>, rustix::io::Errno> {
    let mut code = None;
    loop {
        // Not nix's: it has no name for a real-time signal, and a process can be ended by one.
        match rustix::process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Ok(Some((pid, status))) if pid.as_raw_pid() == command.as_raw() => {
                if status.stopped() {
                    channel.send(&Message::Stopped);
                } else {
                    code = Some(exit_code(status));
                }
            }
            Ok(Some((pid, status))) => {
                if !status.stopped()
                    && let Some(at) = extras.iter().position(|e| e.pid.as_raw() == pid.as_raw_pid())
                {
                    let mut extra = extras.swap_remove(at);
                    announce(&mut extra.starting, &extra.reply);
                    extra.reply.send(&Message::Ended(exit_code(status)));
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// As a shell's: 128 + n for a signal.
fn exit_code(status: rustix::process::WaitStatus) -> u8 {
    status.exit_status().or(status.terminating_signal().map(|n| 128 + n)).map_or(RUNNER_FAILED, |c| c as u8)
}
