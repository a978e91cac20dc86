//! Who starts containers: how it is set up, and called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::json;

use super::place::{IMAGE, Place};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `onlay run IMAGE`
    Ours,
    OursRootfs,
    PodmanRunc,
    PodmanCrun,
    CrunMounted,
    RuncMounted,
    Crun,
    Runc,
    Bwrap,
}

pub(super) struct Contender(Role);

/// Those that are refused here want to be called in another way; the first that works is taken.
type Ways = &'static [&'static [&'static str]];
/// Limits that an ordinary user, or a root without `CAP_SYS_RESOURCE`, may set.
const PODMANS: Ways = &[
    &[],
    &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"],
    &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--pids-limit=0"],
    &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--cgroups=disabled"],
];
const CRUNS: Ways = &[&[], &["--cgroup-manager=disabled"]];
const NO_WAYS: Ways = &[&[]];

pub(super) fn all() -> Vec<Contender> {
    use Role::{Bwrap, Crun, CrunMounted, Ours, OursRootfs, PodmanCrun, PodmanRunc, Runc, RuncMounted};
    let order = [Ours, OursRootfs, PodmanRunc, PodmanCrun, CrunMounted, RuncMounted, Crun, Runc, Bwrap];
    order.map(Contender).into()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Contender {
    pub(super) fn role(&self) -> Role {
        self.0
    }

    pub(super) fn label(&self) -> &'static str {
        match (self.0, is_root()) {
            (Role::Ours, _) => "onlay run --rm IMAGE",
            (Role::OursRootfs, _) => "onlay run --rootfs",
            (Role::PodmanRunc, true) => "podman run --rm, runc, kernel overlayfs",
            (Role::PodmanRunc, false) => "podman run --rm, runc, fuse-overlayfs",
            (Role::PodmanCrun, true) => "podman run --rm, crun, kernel overlayfs",
            (Role::PodmanCrun, false) => "podman run --rm, crun, fuse-overlayfs",
            (Role::CrunMounted, _) => "fuse-overlayfs, crun run, unmount",
            (Role::RuncMounted, _) => "fuse-overlayfs, runc run, unmount",
            (Role::Crun, _) => "crun run, no union",
            (Role::Runc, _) => "runc run, no union",
            (Role::Bwrap, _) => "bwrap, no union",
        }
    }

    /// Puts the image into its store, or writes its bundle.
    pub(super) fn prepare(&self, place: &Place<'_>) -> Result<()> {
        match self.0 {
            Role::Ours => {
                let mut cmd = place.command(place.onlay);
                cmd.args(["import", "--quiet", "--root"]).arg(place.site.join("store"));
                place.time(cmd.arg(place.archive()).arg(IMAGE)).map(drop)
            }
            Role::PodmanRunc | Role::PodmanCrun => prepare_podman(place),
            Role::OursRootfs | Role::CrunMounted | Role::RuncMounted | Role::Crun | Role::Runc | Role::Bwrap => Ok(()),
        }
    }

    /// How it works here, by trying; the caches are warm then, too.
    pub(super) fn find_way(&self, place: &Place<'_>) -> Result<&'static [&'static str]> {
        let ways = match self.0 {
            Role::PodmanRunc | Role::PodmanCrun => PODMANS,
            Role::CrunMounted | Role::Crun => CRUNS,
            _ => NO_WAYS,
        };
        let mut why = Vec::new();
        for (n, way) in ways.iter().enumerate() {
            match self.once(place, way, usize::MAX - n) {
                Ok(_) => return Ok(way),
                Err(e) => why.push(format!("{e:#}")),
            }
        }
        why.dedup();
        bail!("{}", why.join("; "));
    }

    /// One run of /bin/true, and how long it took.
    pub(super) fn once(&self, place: &Place<'_>, way: &[&str], round: usize) -> Result<Duration> {
        let mut round = self.round(place, way, &format!("{round}"), &["/bin/true"])?;
        let start = Instant::now();
        round.mount(place)?;
        let ran = place.time(&mut round.run);
        let took = match round.mounted {
            true => round.unmount().map(|()| start.elapsed()),
            false => Ok(start.elapsed()),
        };
        ran.and(took)
    }

    /// Makes what one run needs.
    pub(super) fn round(&self, place: &Place<'_>, way: &[&str], name: &str, inside: &[&str]) -> Result<Round> {
        let name = format!("{:?}-{name}", self.0);
        let mut dir = None;
        let mut run = match self.0 {
            Role::Ours => {
                let mut cmd = place.command(place.onlay);
                cmd.args(["run", "--rm", "--root"]).arg(place.site.join("store")).arg(IMAGE);
                cmd
            }
            Role::OursRootfs => {
                let mut cmd = place.command(place.onlay);
                cmd.args(["run", "--rootfs"]).arg(place.root()).arg("--");
                cmd
            }
            Role::PodmanRunc | Role::PodmanCrun => {
                let mut cmd = podman(place);
                cmd.args(["--runtime", if self.0 == Role::PodmanRunc { "runc" } else { "crun" }]);
                cmd.args(["run", "--rm", "--network=none"]).args(way).arg(IMAGE);
                cmd
            }
            Role::CrunMounted | Role::RuncMounted | Role::Crun | Role::Runc => {
                let mounted = matches!(self.0, Role::CrunMounted | Role::RuncMounted);
                let program = if matches!(self.0, Role::CrunMounted | Role::Crun) { "crun" } else { "runc" };
                let bundle = place.site.join("rounds").join(&name);
                fs::create_dir(&bundle)?;
                let root = if mounted { bundle.join("merged") } else { place.root() };
                write_bundle(place, program, &bundle, &root, inside)?;
                if mounted {
                    for d in ["upper", "work", "merged"] {
                        fs::create_dir(bundle.join(d))?;
                    }
                    dir = Some(bundle.clone());
                }
                let mut cmd = place.command(program);
                cmd.args(way).arg("--root").arg(place.site.join("xdg").join(program));
                cmd.args(["run", "--bundle"]).arg(bundle).arg(format!("onlay-bench-{}-{name}", std::process::id()));
                return Ok(Round { run: cmd, dir, mounted: false });
            }
            Role::Bwrap => {
                let mut cmd = place.command("bwrap");
                cmd.args(["--unshare-all", "--die-with-parent", "--bind"]).arg(place.root()).arg("/");
                cmd.args(["--proc", "/proc", "--dev", "/dev"]);
                cmd
            }
        };
        run.args(inside);
        Ok(Round { run, dir, mounted: false })
    }
}

/// One run.
pub(super) struct Round {
    pub(super) run: Command,
    /// Where a union is mounted for it.
    dir: Option<PathBuf>,
    mounted: bool,
}

impl Round {
    pub(super) fn mount(&mut self, place: &Place<'_>) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let [upper, work] = ["upper", "work"].map(|d| dir.join(d).display().to_string());
        let mut cmd = place.command("fuse-overlayfs");
        cmd.arg("-o").arg(format!("lowerdir={},upperdir={upper},workdir={work}", place.root().display()));
        place.time(cmd.arg(dir.join("merged")))?;
        self.mounted = true;
        Ok(())
    }

    pub(super) fn unmount(&mut self) -> Result<()> {
        let Some(dir) = self.dir.as_ref().filter(|_| self.mounted) else { return Ok(()) };
        let at = dir.join("merged");
        self.mounted = false;
        if is_root() {
            return unmount(&at, UnmountFlags::DETACH).context("unmount");
        }
        crate::tools::run(Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at))
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if let Err(e) = self.unmount() {
            eprintln!("{e:#}");
        }
    }
}

/// podman with a store of its own, and no need of systemd or a journal.
pub(super) fn podman(place: &Place<'_>) -> Command {
    let mut cmd = place.command("podman");
    cmd.arg("--tmpdir").arg(place.site.join("podman/tmp"));
    cmd.args(["--cgroup-manager=cgroupfs", "--events-backend=none", "--log-level=error"]);
    cmd
}

fn prepare_podman(place: &Place<'_>) -> Result<()> {
    let conf = place.site.join("storage.conf");
    if conf.exists() {
        return Ok(());
    }
    let dir = place.site.join("podman");
    fs::create_dir(&dir)?;
    let option = match is_root() {
        true => String::new(),
        false => {
            let program = crate::competitor::everywhere("fuse-overlayfs").into_iter().next();
            let program = program.context("fuse-overlayfs is not there: package fuse-overlayfs")?;
            format!("[storage.options.overlay]\nmount_program=\"{}\"\n", program.display())
        }
    };
    let d = dir.display();
    let text = format!("[storage]\ndriver=\"overlay\"\nrunroot=\"{d}/run\"\ngraphroot=\"{d}/root\"\n{option}");
    fs::write(conf, text)?;
    place.time(podman(place).arg("import").arg(place.archive()).arg(IMAGE)).map(drop)
}

/// A bundle as the runtime itself proposes it, with another command and root.
fn write_bundle(place: &Place<'_>, program: &str, bundle: &Path, root: &Path, inside: &[&str]) -> Result<()> {
    let mut spec = place.command(program);
    spec.args(["spec", "--bundle"]).arg(bundle);
    if !is_root() {
        spec.arg("--rootless");
    }
    place.time(&mut spec)?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(inside);
    if let Some(process) = config["process"].as_object_mut() {
        // Not everyone may raise them.
        process.remove("rlimits");
    }
    config["root"] = json!({ "path": root, "readonly": false });
    Ok(fs::write(path, config.to_string())?)
}
