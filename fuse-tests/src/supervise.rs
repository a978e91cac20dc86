//! Runs every case in a process of its own, as the user it is for, and cleans up after it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, User as Account, geteuid};

use crate::case::{Case, Fs, User};
use crate::ctx::{daemons, detach_below};
use crate::tools::{self, Told};

/// Exit code of a case's process that means: skipped.
pub(crate) const SKIPPED: u8 = 77;

/// Container runtimes refuse control groups of both versions side by side; engines wait for orphans, which a first
/// process has to reap at once (the shell does); and podman's locks are in a shared memory per user, not per store:
/// cases at once, or a podman of somebody else's, are kept out of it.
const ENGINE_NAMESPACE: [&str; 11] = [
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    "if [ -e /sys/fs/cgroup/unified/cgroup.controllers ]; then umount /sys/fs/cgroup/unified; fi; \
     mount -t tmpfs -o mode=1777 tmpfs /dev/shm; \"$0\" \"$@\"",
];

/// How many of each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A case on a file system by a user.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) case: &'static Case,
    pub(crate) fs: Fs,
    pub(crate) user: User,
}

/// Where the cases are run, and with what.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    exe: PathBuf,
    onlay: Option<PathBuf>,
    ordinary: String,
    norange: String,
    /// What cases are told about programs of others.
    tools: Option<Told>,
    /// What onlay is mounted with.
    options: Option<String>,
    /// Why the kernel's union can't be an oracle here.
    no_overlayfs: Option<String>,
}

impl Site {
    /// A directory on a real file system that every user may enter, with copies of the binaries.
    pub(crate) fn new(parent: &Path, ordinary: &str, norange: &str) -> Result<Self> {
        if geteuid().is_root() {
            Self::own_namespace()?;
        }
        let dir = tempfile::Builder::new().prefix("onlay-tests-").tempdir_in(parent)?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let me = std::env::current_exe()?;
        let exe = dir.path().join("fuse-tests");
        fs::copy(&me, &exe).context("copy of this binary")?;
        let source = match std::env::var_os("ONLAY") {
            Some(path) => Some(PathBuf::from(path)),
            None => Some(me.with_file_name("onlay")).filter(|p| p.exists()),
        };
        let onlay = dir.path().join("onlay");
        if let Some(source) = &source {
            fs::copy(source, &onlay).with_context(|| source.display().to_string())?;
        }
        let mut site = Self {
            exe,
            onlay: source.map(|_| onlay),
            ordinary: ordinary.to_owned(),
            norange: norange.to_owned(),
            tools: None,
            options: None,
            no_overlayfs: None,
            dir,
        };
        site.no_overlayfs = site.probe_overlayfs().err().map(|e| format!("no overlayfs here: {e:#}"));
        Ok(site)
    }

    /// The same, where onlay is mounted with these options.
    pub(crate) fn with_options(self, options: Option<String>) -> Self {
        Self { options, ..self }
    }

    /// A mount namespace of our own, from which mounts *and unmounts* reach the copies that cases make of it: a copy of
    /// a mount that stays behind keeps its daemon alive.
    fn own_namespace() -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
        let flags = MsFlags::MS_REC | MsFlags::MS_SHARED;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("mount --make-rshared /")
    }

    fn probe_overlayfs(&self) -> Result<()> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let dir = self.dir.path().join("probe");
        fs::create_dir(&dir)?;
        let mut cx = crate::ctx::Ctx::new(Fs::Overlayfs, User::Root, &dir, PathBuf::new())?;
        cx.mount()?;
        cx.umount()
    }

    /// Runs the jobs, `parallel` at a time, and says how each went.
    pub(crate) fn run(mut self, jobs: Vec<Job>, parallel: usize) -> Result<Tally> {
        if jobs.iter().any(|j| j.case.name.starts_with("public::")) {
            self.tools = Some(tools::install()?);
        }
        Ok(self.run_all(jobs, parallel))
    }

    fn run_all(&self, jobs: Vec<Job>, parallel: usize) -> Tally {
        let queue = Mutex::new(jobs.into_iter().enumerate().collect::<VecDeque<_>>());
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..parallel.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some((number, job)) = next else { break };
                        let start = Instant::now();
                        let outcome = self.one(number, job).unwrap_or_else(|e| Outcome::Failed(format!("{e:#}")));
                        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                        tally.count(job, &outcome, start.elapsed());
                    }
                });
            }
        });
        tally.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, number: usize, job: Job) -> Result<Outcome> {
        if let Some(why) = job.case.deviation(job.fs, job.user) {
            return Ok(Outcome::Skipped(why.to_owned()));
        }
        if let Some(why) = self.no_overlayfs.as_ref().filter(|_| job.fs == Fs::Overlayfs) {
            return Ok(Outcome::Skipped(why.clone()));
        }
        if job.fs == Fs::Onlay && self.onlay.is_none() {
            bail!("there is no onlay binary: build it, or name it in ONLAY");
        }
        let mut cmd = match self.command(job)? {
            Ok(cmd) => cmd,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        let dir = self.dir.path().join(format!("case{number}"));
        fs::create_dir(&dir)?;
        if let Some(account) = self.account(job.user)? {
            nix::unistd::chown(&dir, Some(account.uid), Some(account.gid))?;
        }
        let log = self.dir.path().join(format!("case{number}.log"));
        let file = File::create(&log)?;
        cmd.args(["one", job.case.name, "--fs", &job.fs.to_string(), "--user", &job.user.to_string(), "--dir"]);
        cmd.arg(&dir).arg("--onlay").arg(self.dir.path().join("onlay"));
        cmd.args(self.options.iter().flat_map(|o| ["--options", o]));
        cmd.envs(self.tools.as_ref().map(|(name, value)| (name, value)));
        cmd.current_dir("/").stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let mut child = cmd.spawn().with_context(|| format!("{cmd:?}"))?;
        let status = wait(&mut child, Duration::from_secs(job.case.limit))?;
        if status.is_none() {
            killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL)?;
        }
        let cleaned = self.clean(&dir);
        if status.is_none() {
            child.wait()?;
        }
        let said = fs::read(&log)?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Ok(match status {
            None => Outcome::Failed(format!("not done after {} s\n{said}", job.case.limit)),
            Some(s) if s.success() => match cleaned {
                Ok(()) => Outcome::Passed,
                Err(e) => Outcome::Failed(format!("left behind: {e:#}\n{said}")),
            },
            Some(s) if s.code() == Some(SKIPPED.into()) => Outcome::Skipped(said),
            Some(s) => Outcome::Failed(if s.code() == Some(1) { said } else { format!("{s}\n{said}") }),
        })
    }

    /// Takes away mounts, processes and files of a case, whatever became of it.
    fn clean(&self, dir: &Path) -> Result<()> {
        detach_below(dir)?;
        for (pid, _) in daemons(dir)? {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        let mut rm = if geteuid().is_root() {
            Command::new("rm")
        } else {
            // Files of the range's other ids are only ours in a user namespace.
            let mut cmd = Command::new("unshare");
            cmd.args(["--user", "--map-root-user", "--map-auto", "--", "rm"]);
            cmd
        };
        let status = rm.arg("-rf").arg("--one-file-system").arg(dir).status()?;
        if !status.success() {
            bail!("rm {}: {status}", dir.display());
        }
        Ok(())
    }

    fn account(&self, user: User) -> Result<Option<Account>> {
        let name = match user {
            _ if !geteuid().is_root() => return Ok(None),
            User::Root => return Ok(None),
            User::Ordinary | User::Userns => &self.ordinary,
            User::Norange => &self.norange,
        };
        Ok(Some(Account::from_name(name)?.with_context(|| format!("no user {name}"))?))
    }

    /// This binary, to be run as the job's user; or why that is not possible.
    fn command(&self, Job { user, case, .. }: Job) -> Result<Result<Command, String>> {
        let mut words: Vec<String> = Vec::new();
        if case.engine && geteuid().is_root() {
            words.extend(ENGINE_NAMESPACE.map(str::to_owned));
        }
        match (user, geteuid().is_root()) {
            (User::Root, true) => {}
            (User::Root, false) => return Ok(Err("needs root".to_owned())),
            (User::Norange, false) => return Ok(Err("needs root, to become another user".to_owned())),
            (_, false) => {}
            (_, true) => {
                let Ok(Some(account)) = self.account(user) else {
                    return Ok(Err(format!("there is no user for {user}: see fuse-tests/run-all")));
                };
                let (uid, gid) = (account.uid.to_string(), account.gid.to_string());
                words.extend(["setpriv", "--reuid", &uid, "--regid", &gid, "--init-groups", "env"].map(str::to_owned));
                words.push(format!("HOME={}", account.dir.display()));
                words.push(format!("USER={}", account.name));
                words.push("XDG_RUNTIME_DIR=".to_owned());
            }
        }
        if user == User::Userns {
            let unshare = "unshare --user --map-root-user --map-auto --mount --propagation slave --";
            words.extend(unshare.split(' ').map(str::to_owned));
        }
        words.push(self.exe.display().to_string());
        let mut cmd = Command::new(&words[0]);
        // Nobody else's directories: one that may not be searched changes what "not found" is called.
        cmd.args(&words[1..]).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(Ok(cmd))
    }
}

impl Tally {
    fn count(&mut self, job: Job, outcome: &Outcome, took: Duration) {
        let Job { case, fs, user } = job;
        let head = format!("{} ({fs}, {user})", case.name);
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                let took = if took.as_secs() > 4 { format!(": {} s", took.as_secs()) } else { String::new() };
                println!("ok {head}{took}");
            }
            Outcome::Failed(why) => {
                self.failed += 1;
                println!("FAILED {head}: {}", why.replace('\n', "\n    "));
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                println!("skipped {head}: {}", why.replace('\n', " "));
            }
        }
    }
}

fn wait(child: &mut std::process::Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(None)
}
