//! The runner, without FUSE: the view is a bind mount. Every run is a process of its own (`run()` forks), this binary
//! called again with `run`. As root, the cases are repeated as ordinary users: `onlay-tester` (or `$ONLAY_USER`) with
//! subordinate ids and `onlay-norange` (or `$ONLAY_NORANGE`) without.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sys::signal::Signal;
use onlay::runner::{
    Limit, LimitName, Mapping, Network, Process, Root, RootError, Seccomp, Source, Spec, Volume, plan, run,
};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::CapabilitySet;

#[path = "runner/cases.rs"]
mod cases;
#[path = "runner/served.rs"]
mod served;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|a| a.to_str()) {
        Some("run") => run_once(&args[1..]),
        // Inside, as the runner's own program: tries to write to itself.
        Some("attack") => {
            println!("executed");
            if std::fs::File::options().append(true).open("/proc/self/exe").is_ok() {
                println!("WRITTEN");
            }
            ExitCode::SUCCESS
        }
        // What cargo test passes on, and filters.
        _ => {
            // A shell can't trap what was ignored before it, as it is below a shell that was put in the background.
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                onlay::sys::signal::set_default(signal).unwrap();
            }
            cases::all(&args)
        }
    }
}

/// The view: a bind mount of `source`.
struct Bind {
    source: PathBuf,
    read_only: bool,
    /// Written by `finish`, to prove that it was called.
    note: PathBuf,
    fail: Option<String>,
}

impl Root for Bind {
    fn mount(&mut self) -> Result<(), RootError> {
        // As one that serves files has to; the command must not inherit it.
        rustix::process::umask(rustix::fs::Mode::empty());
        if self.fail.as_deref() == Some("mount") {
            return Err(std::io::Error::other("no such luck").into());
        }
        if self.fail.as_deref() == Some("die") {
            // Init waits for the view by then.
            std::thread::sleep(std::time::Duration::from_millis(50));
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
        }
        Ok(())
    }

    fn serve(&mut self) -> Result<OwnedFd, RootError> {
        // As a session does: threads, after init was started.
        std::thread::spawn(std::thread::park);
        if self.fail.as_deref() == Some("serve") {
            return Err(std::io::Error::other("no such luck").into());
        }
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, self.source == Path::new("/"));
        let tree = open_tree(rustix::fs::CWD, &self.source, flags)?;
        if self.read_only {
            onlay::sys::mount::make_read_only(tree.as_fd(), false)?;
        }
        Ok(tree)
    }

    fn finish(&mut self) -> Result<(), RootError> {
        std::fs::write(&self.note, "finished")?;
        if self.fail.as_deref() == Some("finish") { Err(std::io::Error::other("no such luck").into()) } else { Ok(()) }
    }
}

/// `run BASE SOURCE [--option[=value]]... -- COMMAND ARG...`
fn run_once(args: &[OsString]) -> ExitCode {
    let split = args.iter().position(|a| a == "--").unwrap();
    let (options, command) = (&args[2..split], &args[split + 1..]);
    let get = |name: &str| {
        options.iter().filter_map(|o| o.to_str().unwrap().strip_prefix("--")).find_map(|o| {
            let (n, value) = o.split_once('=').unwrap_or((o, ""));
            (n == name).then(|| value.to_owned())
        })
    };
    let path = get("path").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let mut process = Process {
        env: vec![("PATH".into(), path.into()), ("HOME".into(), "/root".into())],
        workdir: get("workdir").map(Into::into),
        user: get("user"),
        no_new_privs: get("new-privs").is_none(),
        terminal: get("tty").is_some(),
        stdin: get("no-stdin").is_none(),
        ..Process::new(command.to_vec())
    };
    for name in options.iter().filter_map(|o| o.to_str().unwrap().strip_prefix("--cap-add=")) {
        process.capabilities |= CapabilitySet::from_name(name).unwrap();
    }
    if get("no-caps").is_some() {
        process.capabilities = CapabilitySet::empty();
    }
    if get("no-seccomp").is_some() {
        process.seccomp = Seccomp::Unconfined;
    }
    let volume = |pair: String| {
        let (source, target) = pair.split_once(':').unwrap();
        let source = Source::Machine(source.into());
        Volume { source, target: target.into(), read_only: false, no_exec: false, no_suid: false, no_dev: true }
    };
    if let Some(open) = get("nofile") {
        let limit = Some(open.parse().unwrap());
        process.limits = vec![Limit { name: LimitName::Nofile, soft: limit, hard: limit }];
    }
    let tmpfs = |target: String| Volume {
        source: Source::Tmpfs(Vec::new()),
        target: target.into(),
        read_only: false,
        no_exec: false,
        no_suid: true,
        no_dev: true,
    };
    let base = PathBuf::from(&args[0]);
    let on = base.join("on");
    std::fs::create_dir_all(&on).unwrap();
    let spec = Spec {
        hostname: get("hostname"),
        network: if get("net").as_deref() == Some("none") { Network::None } else { Network::Host },
        host: get("host").is_some(),
        hide: get("hide").map(Into::into).into_iter().collect(),
        volumes: get("volume").map(volume).into_iter().chain(get("tmpfs").map(tmpfs)).collect(),
        read_only: get("read-only").is_some(),
        ..Spec::new(process, Mapping::of_caller().unwrap(), on)
    };
    if get("dry-run").is_some() {
        println!("{}", plan(&spec));
        return ExitCode::SUCCESS;
    }
    let mut bind = Bind {
        source: args[1].clone().into(),
        read_only: get("ro").is_some(),
        note: base.join("note"),
        fail: get("fail"),
    };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    let mut served = served::Served::new();
    let root: &mut dyn Root = if get("fuse").is_some() { &mut served } else { &mut bind };
    match run(&spec, root) {
        Ok(code) => ExitCode::from(code as u8),
        Err(e) => {
            eprintln!("onlay: {e}");
            if let Some(hint) = e.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// This program (or a copy of it), to be run again as someone.
fn again(me: &Path, user: Option<&str>) -> Command {
    match user {
        None => Command::new(me),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(me);
            command
        }
    }
}
