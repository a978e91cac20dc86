//! buildah with a store of its own, run to its end with all that it leaves behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::proc;
use crate::watch::Watch;

/// How long daemons may take to end after buildah has.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lines, and when they came.
pub(crate) type Words = Vec<(Duration, String)>;

/// A store, and the driver it is for.
#[derive(Debug)]
pub(crate) struct Engine<'a> {
    home: PathBuf,
    watch: &'a Watch,
}

/// What one call of buildah came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) stdout: String,
    /// All that it said.
    pub(crate) lines: Words,
    /// Until the last daemon was gone.
    pub(crate) took: Duration,
    /// Seconds of CPU of the daemons.
    pub(crate) daemon_cpu: f64,
}

impl<'a> Engine<'a> {
    /// A store that has the driver `driver`; through `program` if there is one.
    pub(crate) fn new(home: &Path, driver: &str, program: Option<&Path>, watch: &'a Watch) -> Result<Self> {
        for dir in ["bin", "run", "root", "xdg", "tmp"] {
            fs::create_dir_all(home.join(dir))?;
        }
        let h = home.display();
        let mut conf = format!("[storage]\ndriver=\"{driver}\"\nrunroot=\"{h}/run\"\ngraphroot=\"{h}/root\"\n");
        if let Some(program) = program {
            let link = home.join("bin/fuse-overlayfs");
            std::os::unix::fs::symlink(program, &link)?;
            conf += &format!("[storage.options.overlay]\nmount_program=\"{}\"\n", link.display());
        }
        fs::write(home.join("storage.conf"), conf)?;
        fs::write(home.join("policy.json"), "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}")?;
        // Orphans come to us: daemons are, as soon as they serve.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("subreaper")?;
        Ok(Self { home: home.to_owned(), watch })
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Runs buildah until it and all that it started have ended.
    pub(crate) fn call(&self, dir: &Path, args: &[&str]) -> Result<Done> {
        let mut cmd = Command::new("buildah");
        let verb = args.iter().position(|a| ["bud", "from", "pull", "commit"].contains(a));
        let (before, after) = args.split_at(verb.map_or(args.len(), |at| at + 1));
        cmd.args(before);
        cmd.args(verb.map(|_| format!("--signature-policy={}", self.home.join("policy.json").display())));
        cmd.args(after).current_dir(dir);
        cmd.env("HOME", &self.home).env("XDG_RUNTIME_DIR", self.home.join("xdg")).env("TMPDIR", self.home.join("tmp"));
        cmd.env("CONTAINERS_STORAGE_CONF", self.home.join("storage.conf"));
        cmd.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let start = Instant::now();
        let mut child = cmd.spawn().context("buildah: from the package of that name")?;
        self.watch.arm(child.id());
        let stdout = child.stdout.take().map(|pipe| listen(pipe, start));
        let stderr = child.stderr.take().map(|pipe| listen(pipe, start));
        // Not reaped before it is disarmed: its number must not be given to another.
        let pid = Pid::from_raw(child.id().cast_signed()).context("pid")?;
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        self.watch.disarm();
        let status = child.wait()?;
        if !status.success() {
            clean(&self.home);
        }
        let ended = reap(if status.success() { PATIENCE } else { Duration::ZERO });
        let took = start.elapsed();
        let heard = |words: Option<JoinHandle<Words>>| words.and_then(|w| w.join().ok()).unwrap_or_default();
        let mut lines = heard(stdout);
        let stdout = lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n");
        lines.extend(heard(stderr));
        lines.sort_by_key(|(at, _)| *at);
        self.watch.go_on()?;
        if !status.success() {
            let why = if self.watch.late() { "took too long".to_owned() } else { status.to_string() };
            let dead = ended.map_or_else(|e| format!("; {e:#}"), |_| String::new());
            let what = verb.and_then(|at| args.get(at)).or(args.first()).copied().unwrap_or_default();
            bail!("buildah {what}: {why}: {}{dead}", last_words(&lines));
        }
        Ok(Done { stdout, lines, took, daemon_cpu: ended? })
    }
}

fn listen(pipe: impl Read + Send + 'static, start: Instant) -> JoinHandle<Words> {
    std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(std::io::Result::ok);
        lines.map(|line| (start.elapsed(), line)).collect()
    })
}

/// Takes away every mount below a directory of ours.
pub(crate) fn clean(dir: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let below = |line: &str| line.split(' ').nth(4).map(PathBuf::from).filter(|at| at.starts_with(dir) && at != dir);
    for at in mounts.lines().rev().filter_map(below) {
        if let Err(e) = unmount(&at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            eprintln!("unmount {}: {e}", at.display());
        }
    }
}

/// Waits for orphans, and ends those that outlive `patience`. The CPU time of those named as mount programs are, or how
/// they died.
fn reap(patience: Duration) -> Result<f64> {
    let end = Instant::now() + patience;
    let (mut cpu, mut died) = (0.0, Vec::new());
    loop {
        let kids = proc::kids()?;
        if kids.is_empty() {
            break;
        }
        for kid in &kids {
            let pid = Pid::from_raw(kid.pid.cast_signed()).context("pid")?;
            if !kid.ended {
                if Instant::now() > end {
                    kill_process(pid, Signal::KILL).context("kill")?;
                    died.push(format!("{} did not end and was killed", kid.name));
                    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
                }
                continue;
            }
            let status = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)?;
            if kid.name != "fuse-overlayfs" {
                continue;
            }
            cpu += kid.cpu;
            if let Some(signal) = status.as_ref().and_then(|s| s.terminating_signal()) {
                died.push(format!("its daemon died of signal {signal}"));
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    died.dedup();
    ensure!(died.is_empty(), "{}", died.join("; "));
    Ok(cpu)
}

/// The end of what it said, in one line, but for what is only for who looks for bugs.
fn last_words(lines: &[(Duration, String)]) -> String {
    let last: Vec<&str> = lines
        .iter()
        .rev()
        .map(|(_, l)| l.trim())
        .filter(|l| !l.is_empty() && !l.contains("level=debug"))
        .take(3)
        .collect();
    last.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
