//! Process 1 of the new pid namespace: it makes the inside as the plan says, starts the command, and reaps.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_dumpable, set_no_new_privs, set_pdeathsig};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, execve, setgroups, sethostname};
use rustix::fs::{Mode, OFlags};
use rustix::process::WaitOptions;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::channel::{Channel, Message};
use super::error::{NOT_EXECUTABLE, NOT_FOUND, RUNNER_FAILED};
use super::inside::{Failure, Roots, resolve};
use super::parent::{Origin, USUAL_UMASK};
use super::plan::{KEPT_CAPABILITIES, Step};
use super::signals::Signals;
use super::terminal::Terminal;
use super::{Error, Plan, Spec};
use crate::sys::net::loopback_up;
use crate::sys::process::{Fork, close_all_but, close_on_exec_from, end_with, fork};
use crate::sys::signal::set_default;

/// Its life, in the forked child; returns its exit code, which is the command's.
pub(super) fn live(spec: &Spec, plan: &Plan, view: &Path, channel: &Channel, origin: &Origin) -> i32 {
    match make_inside(plan, view, channel).and_then(|()| attend(spec, channel, origin)) {
        Ok(code) => i32::from(code),
        Err(e) => {
            let code = e.code;
            channel.send(&Message::Failed(e));
            i32::from(code)
        }
    }
}

fn make_inside(plan: &Plan, view: &Path, channel: &Channel) -> Result<(), Error> {
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
    set_dumpable(false).map_err(|e| Error::new("prctl PR_SET_DUMPABLE", e))
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
        (Step::ChangeDir(path), Place::Inside(root)) => change_dir(root, path)?,
        (Step::DropGroups, Place::Inside(_)) => setgroups(&[]).map_err(errno)?,
        (Step::LimitCapabilities, Place::Inside(_)) => limit_capabilities()?,
        (Step::NoNewPrivs, Place::Inside(_)) => set_no_new_privs().map_err(errno)?,
        (step, Place::Outside(roots)) => roots.carry_out(step)?,
        // A plan in an order that makes no sense.
        _ => return Err(rustix::io::Errno::INVAL.into()),
    }
    Ok(place)
}

fn errno(e: Errno) -> Failure {
    rustix::io::Errno::from_raw_os_error(e as i32).into()
}

fn change_dir(root: &OwnedFd, path: &Path) -> Result<(), Failure> {
    let hint = Some("--workdir names a directory inside");
    let dir = resolve(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
    rustix::process::fchdir(dir.map_err(|errno| Failure { errno, hint })?)?;
    // Outside of its root the kernel says "(unreachable)…" (getcwd(3)).
    match rustix::process::getcwd(Vec::new())?.to_bytes() {
        [b'/', ..] => Ok(()),
        _ => Err(rustix::io::Errno::XDEV.into()),
    }
}

fn limit_capabilities() -> Result<(), Failure> {
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT_CAPABILITIES.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            done => done?,
        }
    }
    let had = rustix::thread::capabilities(None)?;
    let kept = had.permitted & KEPT_CAPABILITIES;
    rustix::thread::clear_ambient_capability_set()?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Starts the command; reaps and sends signals on until it has ended. The rest of the namespace dies with us.
fn attend(spec: &Spec, channel: &Channel, origin: &Origin) -> Result<u8, Error> {
    let signals = Signals::block().map_err(|e| Error::new("signalfd", e))?;
    let command = match fork().map_err(|e| Error::new("fork", e))? {
        Fork::Child => end_with(|| {
            let error = become_command(spec, channel, origin);
            let code = error.code;
            channel.send(&Message::Failed(error));
            i32::from(code)
        }),
        Fork::Parent(command) => command,
    };
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
        Signal::SIGTSTP if terminal == Terminal::Apart => killpg(command, Signal::SIGSTOP),
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

/// In the command's process: the last steps, and execve(2). Returns only to say why not.
fn become_command(spec: &Spec, channel: &Channel, origin: &Origin) -> Error {
    match try_become(spec, channel, origin) {
        Ok(never) => match never {},
        Err(e) => e,
    }
}

fn try_become(spec: &Spec, channel: &Channel, origin: &Origin) -> Result<std::convert::Infallible, Error> {
    origin.terminal.enter().map_err(|e| Error::new("terminal", e))?;
    channel.send(&Message::Starting);
    let words = spec.command.iter().map(|w| c_string(w.clone())).collect::<Result<Vec<_>, _>>()?;
    let env = environment(&spec.env)?;
    // Rust programs ignore it, which would be inherited.
    set_default(Signal::SIGPIPE).map_err(|e| Error::new("sigaction SIGPIPE", e))?;
    // Descriptors below 3 are the caller's gift; the channel is open until the exec has succeeded.
    close_on_exec_from(3).map_err(|e| Error::new("close_range", e))?;
    let candidates = candidates(&spec.command[0], &spec.env)?;
    rustix::process::umask(origin.umask);
    origin.mask.thread_set_mask().map_err(|e| Error::new("sigprocmask", e))?;
    let mut why = Errno::ENOENT;
    for path in &candidates {
        let Err(e) = execve(path, &words, &env);
        match e {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // Of a directory of PATH that may not be searched, nobody knows what is in it.
            Errno::EACCES if rustix::fs::access(path.as_c_str(), rustix::fs::Access::EXISTS).is_err() => {}
            Errno::EACCES => why = e,
            e => {
                why = e;
                break;
            }
        }
    }
    Err(not_executed(&spec.command[0], why))
}

fn not_executed(command: &OsStr, why: Errno) -> Error {
    let what = format!("exec: {command:?}");
    match why {
        Errno::ENOENT | Errno::ENOTDIR if command.as_bytes().contains(&b'/') => {
            Error::new(what, "no such file or directory inside").coded(NOT_FOUND).hinted(
                "names are looked up in the view, not on this machine; a script needs its #! program there, too",
            )
        }
        Errno::ENOENT | Errno::ENOTDIR => Error::new(what, "executable file not found in $PATH")
            .coded(NOT_FOUND)
            .hinted("it is looked up in the view; --env PATH=DIR:DIR says where"),
        Errno::ENOEXEC => Error::new(what, "exec format error")
            .coded(NOT_EXECUTABLE)
            .hinted("not a program of this architecture, or a script without a #! line"),
        Errno::EACCES => Error::new(what, "permission denied")
            .coded(NOT_EXECUTABLE)
            .hinted("it is no program, or lacks the permission bit to be run: chmod +x"),
        e => Error::new(what, e.desc()).coded(if e == Errno::ENOMEM { RUNNER_FAILED } else { NOT_EXECUTABLE }),
    }
}

/// The paths to try, as execvp(3) does.
fn candidates(command: &OsStr, env: &[(OsString, OsString)]) -> Result<Vec<CString>, Error> {
    if command.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(command.to_owned())?]);
    }
    if command.is_empty() {
        return Ok(Vec::new());
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map_or(OsStr::new("/usr/bin:/bin"), |(_, path)| path);
    std::env::split_paths(path)
        .map(|dir| if dir.as_os_str().is_empty() { Path::new(".").join(command) } else { dir.join(command) })
        .map(|path| c_string(path.into_os_string()))
        .collect()
}

fn environment(env: &[(OsString, OsString)]) -> Result<Vec<CString>, Error> {
    let mut words = Vec::new();
    for (i, (name, value)) in env.iter().enumerate() {
        if env[i + 1..].iter().any(|(later, _)| later == name) {
            continue;
        }
        let mut word = name.clone();
        word.push("=");
        word.push(value);
        words.push(c_string(word)?);
    }
    Ok(words)
}

fn c_string(word: OsString) -> Result<CString, Error> {
    CString::new(word.into_vec()).map_err(|e| Error::new("a word of the command or its environment", e))
}
