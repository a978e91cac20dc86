//! dockerd with `--storage-driver=fuse-overlayfs`, us being that.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::engines::{BUILT, Engine, LOOK, changes_of_a_container, check_layers, files_of};
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out, daemons, mounts_below};
use crate::docker_registry::{self, Registry};
use crate::tree::{cases, holds, same};

cases!("docker": classic.onlay().by(&[User::Root]).engine().slow(600));

/// Debian's client; one of another origin may come first in PATH.
const CLIENT: &str = "/usr/bin/docker";

struct Dockerd {
    child: Child,
    log: String,
}

impl Dockerd {
    /// Starts one on directories of the case, without a network.
    fn start(e: &mut Engine) -> Result<Self> {
        let (socket, log) = (format!("unix://{}", e.path("d.sock")), e.path("dockerd.log"));
        let config = e.path("d.json");
        fs::write(&config, "{}")?;
        let bin = e.home.p("bin").display().to_string();
        let mut cmd = e.command("dockerd");
        cmd.env("PATH", format!("{bin}:/usr/sbin:/usr/bin:/sbin:/bin"));
        cmd.args(["--config-file", &config, "--data-root", &e.path("d"), "--exec-root", &e.path("x")]);
        cmd.args(["--pidfile", &e.path("d.pid"), "--host", &socket, "--storage-driver=fuse-overlayfs"]);
        cmd.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        cmd.args(["--default-ulimit", "nofile=20000:20000"]);
        let file = File::create(&log)?;
        cmd.stdout(file.try_clone()?).stderr(file);
        let mut dockerd = Self { child: cmd.spawn().context("dockerd")?, log };
        e.program = CLIENT;
        e.global = vec!["-H".to_owned(), socket];
        e.run_flags = &["--network", "none"];
        let end = Instant::now() + Duration::from_secs(60);
        while e.call(&["info"]).is_err() {
            if dockerd.child.try_wait()?.is_some() || Instant::now() > end {
                let said = dockerd.said();
                dockerd.stop()?;
                return Err(skip(format!("dockerd does not start here: {said}")));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(dockerd)
    }

    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" ")
    }

    fn stop(mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        }
        self.child.wait()?;
        Ok(())
    }
}

/// The files of each layer of an image, as `docker save` writes them.
fn saved_layers(e: &Engine, image: &str, to: &str) -> Result<Vec<Vec<String>>> {
    let at = e.path(to);
    fs::create_dir(&at)?;
    e.call(&["save", "-o", &format!("{at}.tar"), image])?;
    Out::of(Command::new("tar").args(["-xf", &format!("{at}.tar"), "-C", &at]))?.ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(format!("{at}/manifest.json"))?)?;
    let layers = manifest[0]["Layers"].as_array().context("no layers")?;
    layers.iter().map(|l| files_of(&format!("{at}/{}", l.as_str().context("no name")?))).collect()
}

/// Pushes an image, forgets it, pulls it: it is the same one.
fn through_a_registry(e: &Engine, image: &str, registry: &Registry) -> Result<()> {
    let remote = format!("{}/x/{image}", registry.host);
    let layers = |name: &str| e.call(&["inspect", "--format", "{{.RootFS.Layers}}", name]);
    let before = layers(image)?;
    e.call(&["tag", image, &remote])?;
    e.call(&["push", "-q", &remote])?;
    e.call(&["rmi", "-f", &remote, image])?;
    e.call(&["pull", "-q", &remote])?;
    same!(layers(&remote)?, before);
    same!(e.sh(&remote, LOOK)?.replace("600 0:0 3", "600 0:0 2") + "\n", BUILT);
    e.call(&["tag", &remote, image])?;
    e.call(&["rmi", &remote]).map(drop)
}

/// Classic builds and BuildKit's, run, diff, commit, save and load, push and pull.
fn classic(cx: &mut Ctx) -> Result<()> {
    if !Path::new("/usr/sbin/dockerd").exists() || !Path::new(CLIENT).exists() {
        return Err(skip("there is no dockerd (package docker.io)"));
    }
    let mut e = Engine::new(cx, &[])?;
    let dockerd = Dockerd::start(&mut e)?;
    let tested = session(&e);
    let said = dockerd.said();
    dockerd.stop()?;
    tested.context(said)?;
    let end = Instant::now() + Duration::from_secs(10);
    while !daemons(&cx.dir.0)?.is_empty() {
        ensure!(Instant::now() < end, "daemons are left: {:?}", daemons(&cx.dir.0)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    let left: Vec<_> = mounts_below(&cx.dir.0)?.into_iter().filter(|m| m.ends_with("merged")).collect();
    holds!(left.is_empty(), "mounts are left: {left:?}");
    crate::ctx::detach_below(&cx.dir.0)
}

fn session(e: &Engine) -> Result<()> {
    let info = e.call(&["info", "--format", "{{.Driver}}"])?;
    same!(info, "fuse-overlayfs");
    e.call(&["import", &e.path("base.tar"), "localhost/base:1"])?;
    same!(e.sh("localhost/base:1", "test /hl/a -ef /hl/b && stat -c %h /hl/a")?, "2");
    e.call(&["build", "-q", "--network", "none", "--no-cache", "-f", "Containerfile", "-t", "built:1", "."])?;
    same!(e.sh("built:1", LOOK)? + "\n", BUILT);
    check_layers(&saved_layers(e, "built:1", "saved")?)?;
    changes_of_a_container(e)?;
    // BuildKit has snapshots of its own, on the same driver; it is in dockerd, and what it builds is the same.
    let buildkit = |tag: &str| {
        let build = ["build", "-q", "--network", "none", "--no-cache", "-f", "Containerfile", "-t", tag, "."];
        e.run_with("DOCKER_BUILDKIT", "1", &build)
    };
    buildkit("kit:1")?;
    // It does not unpack what it built: an upper is a layer as it is, and has the names of its inode index on disk.
    same!(e.sh("kit:1", LOOK)?.replace("600 0:0 3", "600 0:0 2") + "\n", BUILT);
    check_layers(&saved_layers(e, "kit:1", "kit")?)?;
    if Path::new(docker_registry::PROGRAM).exists() {
        let registry = Registry::start(&e.dir, "registry", false)?;
        through_a_registry(e, "built:1", &registry)?;
        through_a_registry(e, "kit:1", &registry)?;
    } else {
        println!("there is no docker-registry: nothing is pushed");
    }
    let tar = format!("{}.tar", e.path("saved"));
    e.call(&["rmi", "-f", "changed:1", "built:1"])?;
    e.call(&["load", "-q", "-i", &tar])?;
    same!(e.sh("built:1", LOOK)? + "\n", BUILT);
    Ok(())
}
