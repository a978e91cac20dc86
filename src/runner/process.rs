//! From a fork of init's to the command: the steps of [`Plan::entry`](super::Plan::entry), and execve(2).

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, execve, setgroups, setresgid, setresuid};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::channel::{Channel, Message};
use super::error::{NOT_EXECUTABLE, NOT_FOUND, RUNNER_FAILED};
use super::inside::{Failure, resolve};
use super::owners::Giver;
use super::parent::Origin;
use super::plan::Step;
use super::terminal::Own;
use super::{Error, Limit, Process, users};
use crate::sys::process::{close_all_but, close_on_exec_from, end_with};
use crate::sys::seccomp::install;
use crate::sys::signal::set_default;

/// What a command's process starts from.
pub(super) struct Start<'a> {
    pub(super) process: &'a Process,
    /// What it does first.
    pub(super) entry: &'a [Step],
    /// The root of the view.
    pub(super) root: &'a OwnedFd,
    pub(super) origin: &'a Origin,
    /// For a process that is our own.
    pub(super) supervisor: &'a Channel,
    /// Its own terminal, if it gets one.
    pub(super) terminal: Option<Own>,
    /// Its standard input, output and error, where they are not init's.
    pub(super) stdio: Option<Vec<OwnedFd>>,
}

/// Carries out one step; `home` is set to the user's.
fn carry_out(step: &Step, start: &Start<'_>, home: &mut Option<String>) -> Result<(), Error> {
    let failed = |failure: Failure| failure.of(step);
    match step {
        Step::Limit(limit) => set_limit(*limit).map_err(failed),
        Step::ChangeDir(path) => change_dir(start.root, path).map_err(failed),
        Step::LimitBounding(set) => limit_bounding(*set).map_err(failed),
        Step::DropGroups => setgroups(&[]).map_err(|e| Error::call(step, e)),
        Step::SetUser(user) => {
            *home = set_user(start.root, user, start.process.terminal)?;
            Ok(())
        }
        Step::LimitCapabilities(set) => limit_capabilities(*set).map_err(failed),
        Step::NoNewPrivs => set_no_new_privs().map_err(|e| Error::call(step, e)),
        Step::Seccomp => {
            let programs = start.process.seccomp.programs(start.process.capabilities);
            for program in programs.map_err(|e| Error::new(step, e))? {
                install(&program).map_err(|e| Error::call(step, e))?;
            }
            Ok(())
        }
        _ => Err(Error::new(step, Errno::EINVAL)),
    }
}

fn set_limit(Limit { name, soft, hard }: Limit) -> Result<(), Failure> {
    let hint = "the hard limit of whoever calls can't be raised without the machine's root";
    setrlimit(name.resource(), Rlimit { current: soft, maximum: hard }).map_err(|e| Failure::from(e).hinted(hint))
}

/// Of linux/magic.h.
const PIPEFS_MAGIC: u32 = 0x5049_5045;

/// Who opens `/dev/stdout` opens the pipe or terminal again, and so must own it. What else the caller has given stays whose
/// it is.
fn hand_over_stdio(uid: u32, own_terminal: bool) {
    let uid = rustix::process::Uid::from_raw(uid);
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let kind = rustix::fs::fstat(fd).map(|st| rustix::fs::FileType::from_raw_mode(st.st_mode));
        let ours = match kind {
            // One with a name on a disk is somebody's.
            Ok(rustix::fs::FileType::Fifo) => rustix::fs::fstatfs(fd).is_ok_and(|on| on.f_type as u32 == PIPEFS_MAGIC),
            Ok(rustix::fs::FileType::CharacterDevice) => own_terminal,
            _ => false,
        };
        if ours {
            // Where it can't be, what it has open works all the same.
            rustix::fs::fchown(fd, Some(uid), None).ok();
        }
    }
}

fn set_user(root: &OwnedFd, wanted: &str, own_terminal: bool) -> Result<Option<String>, Error> {
    let ids = users::find(root, wanted)?;
    hand_over_stdio(ids.uid, own_terminal);
    let hint = "not every id is there inside: without a range in /etc/subuid only root is";
    let failed = |call: &str, e: Errno| {
        let error = Error::call(format_args!("become user {wanted}: {call}"), e);
        if e == Errno::EINVAL || e == Errno::EPERM { error.hinted(hint) } else { error }
    };
    let groups: Vec<_> = ids.groups.iter().copied().map(Gid::from_raw).collect();
    match setgroups(&groups) {
        // Where setgroups(2) is denied there are none to be had.
        Err(Errno::EPERM) if groups.iter().all(|g| *g == Gid::from_raw(ids.gid)) => {}
        done => done.map_err(|e| failed("setgroups", e))?,
    }
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    setresgid(gid, gid, gid).map_err(|e| failed("setresgid", e))?;
    // Privilege change: of anyone but root the kernel takes every capability.
    setresuid(uid, uid, uid).map_err(|e| failed("setresuid", e))?;
    Ok(ids.home)
}

pub(super) fn limit_bounding(kept: CapabilitySet) -> Result<(), Failure> {
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

pub(super) fn limit_capabilities(kept: CapabilitySet) -> Result<(), Failure> {
    let had = rustix::thread::capabilities(None)?;
    let kept = had.permitted & kept;
    rustix::thread::clear_ambient_capability_set()?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
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

/// In the command's process: the last steps, and execve(2). Returns only to say why not.
pub(super) fn become_command(start: Start<'_>, channel: &Channel) -> Error {
    match try_become(start, channel) {
        Ok(never) => match never {},
        Err(e) => e,
    }
}

fn try_become(mut start: Start<'_>, channel: &Channel) -> Result<std::convert::Infallible, Error> {
    let process = start.process;
    match start.terminal.take() {
        Some(own) => own.enter().map_err(|e| Error::call("new terminal", e))?,
        None => start.origin.terminal.enter().map_err(|e| Error::call("terminal", e))?,
    }
    if let Some(given) = start.stdio.take().filter(|_| !process.terminal) {
        set_stdio(&given).map_err(|e| Error::call("standard input and outputs", e))?;
    }
    channel.send(&Message::Starting);
    if !process.stdin && !process.terminal {
        let null = resolve(start.root, Path::new("/dev/null"), OFlags::RDWR, Mode::empty());
        null.and_then(rustix::stdio::dup2_stdin).map_err(|e| Error::call("standard input: /dev/null", e))?;
    }
    let mut home = None;
    // Nothing is written any more by a name: what follows is the user's.
    for step in start.entry {
        carry_out(step, &start, &mut home)?;
    }
    if process.own {
        return become_own(&start);
    }
    let words = process.command.iter().map(|w| c_string(w.clone())).collect::<Result<Vec<_>, _>>()?;
    let mut env = process.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), home.unwrap_or_else(|| "/".to_owned()).into()));
    }
    let strings = environment(&env)?;
    // Rust programs ignore it, which would be inherited.
    set_default(Signal::SIGPIPE).map_err(|e| Error::call("sigaction SIGPIPE", e))?;
    // Descriptors below 3 are the caller's gift; the channel is open until the exec has succeeded.
    close_on_exec_from(3).map_err(|e| Error::call("close_range", e))?;
    let candidates = candidates(&process.command[0], &env)?;
    rustix::process::umask(start.origin.umask);
    start.origin.mask.thread_set_mask().map_err(|e| Error::call("sigprocmask", e))?;
    let mut why = Errno::ENOENT;
    for path in &candidates {
        let Err(e) = execve(path, &words, &strings);
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
    Err(not_executed(&process.command[0], why))
}

/// Not execve(2) but a call: the image of init goes on as the command.
fn become_own(start: &Start<'_>) -> Result<std::convert::Infallible, Error> {
    let own = start.origin.own.ok_or_else(|| Error::new("a program of ours", "there is none"))?;
    set_default(Signal::SIGPIPE).map_err(|e| Error::call("sigaction SIGPIPE", e))?;
    // As an exec would; whoever waits for one sees it.
    close_all_but(&[start.supervisor.as_raw_fd()]).map_err(|e| Error::call("close_range", e))?;
    start.origin.mask.thread_set_mask().map_err(|e| Error::call("sigprocmask", e))?;
    end_with(|| own(&start.process.command, &Giver::new(start.supervisor)))
}

fn set_stdio(given: &[OwnedFd]) -> Result<(), rustix::io::Errno> {
    let [stdin, stdout, stderr] = given else { return Err(rustix::io::Errno::BADF) };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)
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
