//! What the runners work on: a root, an image of it, bundles.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::tools::run;
use crate::watch::Watch;

/// The image's name in every store.
pub(super) const IMAGE: &str = "localhost/base:1";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Everything is below one directory, whose name tells what is ours among all processes.
pub(super) struct Place<'a> {
    pub(super) site: &'a Path,
    pub(super) onlay: &'a Path,
    pub(super) watch: &'a Watch,
}

impl<'a> Place<'a> {
    pub(super) fn new(site: &'a Path, onlay: &'a Path, base: Option<&Path>, watch: &'a Watch) -> Result<Self> {
        let place = Self { site, onlay, watch };
        let root = place.root();
        for dir in ["root", "xdg", "home", "tmp", "rounds"] {
            fs::create_dir(site.join(dir))?;
        }
        fs::set_permissions(site.join("xdg"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        match base {
            Some(tar) => {
                run(Command::new("tar").arg("-C").arg(&root).args(["--exclude=./dev/*", "-xf"]).arg(tar))?;
            }
            None => of_the_machine(&root)?,
        }
        for dir in ["proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(root.join(dir))?;
        }
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(place.archive()).arg("."))?;
        Ok(place)
    }

    /// A plain directory.
    pub(super) fn root(&self) -> PathBuf {
        self.site.join("root")
    }

    /// The same, as a tar.
    pub(super) fn archive(&self) -> PathBuf {
        self.site.join("base.tar")
    }

    /// A program, with nothing of the user's own around it.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut cmd = Command::new(program);
        cmd.env("HOME", self.site.join("home")).env("XDG_RUNTIME_DIR", self.site.join("xdg"));
        cmd.env("TMPDIR", self.site.join("tmp")).env("CONTAINERS_STORAGE_CONF", self.site.join("storage.conf"));
        cmd.current_dir(self.site);
        cmd
    }

    /// Runs a program to its end; how long it took. Its last words are the error.
    pub(super) fn time(&self, cmd: &mut Command) -> Result<Duration> {
        let name = cmd.get_program().display().to_string();
        // A file: who goes on in the background may keep it open.
        let log = self.site.join("said");
        let start = Instant::now();
        let mut child = cmd
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| name.clone())?;
        self.watch.arm(child.id());
        let pid = Pid::from_raw(child.id().cast_signed()).context("pid")?;
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let took = start.elapsed();
        self.watch.disarm();
        let status = child.wait()?;
        if !status.success() {
            let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
            bail!("{name}: {status}: {last}");
        }
        Ok(took)
    }
}

/// A root of the machine's own /bin/true and /bin/sleep, and the libraries they want.
fn of_the_machine(root: &Path) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for program in ["/bin/true", "/bin/sleep"] {
        wanted.insert(program.to_owned());
        let said = Command::new("ldd").arg(program).output().context("ldd")?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        wanted.extend(said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    for path in wanted {
        let copy = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("parent")?)?;
        fs::copy(&path, copy).with_context(|| path.clone())?;
    }
    Ok(())
}

/// crun refuses to work with cgroups of both versions: in this mount namespace, which must be ours, version 2 is shown
/// alone. Whether that was needed.
pub(crate) fn show_cgroup2() -> Result<bool> {
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return Ok(false);
    }
    ensure!(rustix::process::geteuid().is_root(), "only root can");
    mount("cgroup2", CGROUPS, "cgroup2", MountFlags::empty(), None).with_context(|| CGROUPS.to_owned())?;
    Ok(true)
}

/// Ends podman's helper and removes everything, files of subordinate ids, too.
pub(crate) fn clean_up(site: &Path) {
    if let Ok(pid) = fs::read_to_string(site.join("podman/tmp/pause.pid"))
        && let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw)
        && let Err(e) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
    {
        eprintln!("podman's pause process: {e}");
    }
    if !rustix::process::geteuid().is_root() {
        let mut rm = Command::new("unshare");
        rm.args(["--user", "--map-root-user", "--map-auto", "rm", "-rf", "--one-file-system", "--"]).arg(site);
        if let Err(e) = run(&mut rm) {
            eprintln!("{e:#}");
        }
    }
    crate::run::remove(site);
}
