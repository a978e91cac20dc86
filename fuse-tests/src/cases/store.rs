//! The store when its users are killed, many, or out of space.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::images::{base, nothing_left, onlay, says};
use super::killed::small_archive;
use super::registry::{images_of, noise, theirs, tool};
use super::run::ALL;
use crate::case::User;
use crate::ctx::{Ctx, Out};
use crate::docker_registry::Registry;
use crate::on_disk::OnDisk;
use crate::tree::{Tree, cases, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("store":
    a_full_disk.onlay().by(ROOT).slow(300), a_killed_run_is_over.onlay().by(ALL).slow(300),
);

/// Starts a verb, in a process group of its own.
fn start(cx: &Ctx, args: &[&str]) -> Result<std::process::Child> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(cx.binary());
    command.arg("--root").arg(cx.dir.p("store")).args(args).process_group(0);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// A store on a file system of its own, which can be filled.
struct Disk<'a> {
    cx: &'a Ctx,
    at: Tree,
    disk: OnDisk,
}

impl Disk<'_> {
    fn onlay(&self, args: &[&str]) -> Result<Out> {
        let store = self.at.p("store").display().to_string();
        let mut all = vec!["--root", &store];
        all.extend(args);
        self.cx.onlay(&all)
    }

    /// Fills the disk, but for so many bytes.
    fn fill_but(&self, free: u64) -> Result<()> {
        let mut filler = std::fs::File::create(self.at.p("filler"))?;
        let mut piece = vec![1; 64 << 10];
        while !piece.is_empty() {
            match filler.write(&piece) {
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
                Err(e) => return Err(e.into()),
            }
        }
        filler.set_len(filler.metadata()?.len().saturating_sub(free))?;
        Ok(filler.sync_all()?)
    }

    /// Does it with more and more room: until there is enough, it is refused in clear words and leaves nothing, and `gc`
    /// works. Then it is done.
    fn with_more_and_more_room(&mut self, args: &[&str], makes: &str) -> Result<()> {
        let before = self.disk.images()?;
        let mut refused = 0;
        for free in (0..).map(|n| n * n * 8192) {
            self.fill_but(free)?;
            let out = self.onlay(args)?;
            if out.code == 0 {
                break;
            }
            refused += 1;
            let what = format!("{free} bytes free: {out:?}");
            holds!(out.code == 1 && out.stderr.contains("No space left on device"), "{what}");
            let hint = out.stderr.lines().any(|l| l.starts_with("hint: ") && (l.contains("space") || l.contains("room")));
            // Besides warnings, as of an index that there is no room for.
            let error = |l: &&str| l.starts_with("onlay: ") && !l.starts_with("onlay: warning: ");
            holds!(hint && out.stderr.lines().filter(error).count() == 1, "{what}");
            same!((free, self.disk.leftovers()?), (free, Vec::new()));
            same!((free, self.disk.images()?), (free, before.clone()));
            self.onlay(&["gc"])?.ok().with_context(|| what)?;
            self.disk.nothing_else()?;
        }
        holds!(refused > 3, "{args:?} was refused only {refused} times");
        std::fs::remove_file(self.at.p("filler"))?;
        holds!(self.disk.images()?.iter().any(|name| name.ends_with(makes)), "{args:?}: no {makes}");
        // And once more after what was refused.
        self.onlay(&["rmi", makes.trim_start_matches('/')])?.ok()?;
        self.onlay(args)?.ok()?;
        self.onlay(&["rmi", makes.trim_start_matches('/')])?.ok()?;
        self.disk.nothing_else()
    }
}

/// Import, commit, load and pull on a disk that is full, at any moment of theirs.
fn on_a_full_disk(cx: &Ctx, tar: &str, registry: &Registry, at: Tree) -> Result<()> {
    let saved = cx.dir.p("saved.tar").display().to_string();
    let disk = OnDisk::new(Tree(at.p("store")));
    let mut disk = Disk { cx, at, disk };
    let import = |name| ["import", "-q", "-c", "CMD [\"sh\"]", tar, name];
    disk.onlay(&["images"])?.ok()?;
    disk.with_more_and_more_room(&import("imported"), "/imported:latest")?;
    disk.onlay(&import("base"))?.ok()?;
    let id = disk.onlay(&["create", "--name", "one", "base"])?.ok()?.stdout;
    let upper = Tree(disk.at.p(format!("store/containers/{}/upper", id.trim())));
    upper.file("new/noise", noise(200_000))?;
    disk.with_more_and_more_room(&["commit", "-q", "one", "committed"], "/committed:latest")?;
    disk.onlay(&["commit", "-q", "one", "loaded"])?.ok()?;
    disk.onlay(&["save", "-q", "-o", &saved, "loaded"])?.ok()?;
    disk.onlay(&["rmi", "loaded"])?.ok()?;
    disk.onlay(&["rm", "one"])?.ok()?;
    disk.onlay(&["rmi", "base"])?.ok()?;
    disk.with_more_and_more_room(&["load", "-q", "-i", &saved], "/loaded:latest")?;
    let name = format!("{}/app:child", registry.host);
    disk.with_more_and_more_room(&["pull", "-q", &name], &name)
}

fn a_full_disk(cx: &mut Ctx) -> Result<()> {
    use nix::mount::{MsFlags, mount, umount};
    let registry = Registry::start(&cx.dir, "r", false)?;
    images_of(cx, 200_000)?;
    theirs(cx, &registry, "child", "app:child", "")?;
    let tar = small_archive(cx)?;
    let at = cx.dir.p("full");
    cx.dir.dir("full")?;
    mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=4m"))?;
    let tried = on_a_full_disk(cx, &tar, &registry, Tree(at.clone())).context("tmpfs");
    umount(&at)?;
    tried?;
    // One that finds out late, and whose directories need room, too.
    std::fs::File::create(cx.dir.p("ext4"))?.set_len(24 << 20)?;
    tool(cx, "mkfs.ext4 -q -m 0 -N 2048 -J size=4 ext4")?;
    tool(cx, "mount -o loop ext4 full")?;
    let tried = on_a_full_disk(cx, &tar, &registry, Tree(at.clone())).context("ext4");
    umount(&at)?;
    tried
}

fn a_killed_run_is_over(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    for rm in [true, false] {
        let mut args = vec!["run", "--name", "long"];
        if rm {
            args.push("--rm");
        }
        args.extend(["base", "sleep", "100"]);
        let mut child = start(cx, &args)?;
        let running = || -> Result<bool> { Ok(!says(cx, &["ps", "-q"])?.is_empty()) };
        for _ in 0..500 {
            if running()? && cx.dir.p("store/containers").read_dir()?.flatten().any(|c| c.path().join("state.json").exists()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let busy = onlay(cx, &["rm", "long"])?;
        holds!(busy.code == 1 && busy.stderr.contains("running"), "{busy:?}");
        child.kill()?;
        child.wait()?;
        for _ in 0..500 {
            if !running()? {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        same!(running()?, false);
        says(cx, &["gc"])?;
        same!(says(cx, &["ps", "-aq"])?.is_empty(), rm);
        if !rm {
            says(cx, &["rm", "long"])?;
        }
    }
    says(cx, &["rmi", "base"])?;
    nothing_left(cx)
}
