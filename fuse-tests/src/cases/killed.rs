//! The store when its commands are killed at random moments, hundreds of times: it opens, what was finished is all there
//! and whole, `gc` leaves nothing that nobody needs, and what was killed can be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::images::{onlay, says};
use super::registry::{images_of, noise, theirs, tool};
use crate::case::User;
use crate::ctx::Ctx;
use crate::docker_registry::Registry;
use crate::on_disk::OnDisk;
use crate::tree::{Tree, cases, holds, same};

const BOTH: &[User] = &[User::Root, User::Ordinary];

cases!("killed":
    import_commit_load_rmi_gc.onlay().by(BOTH).slow(900), pull_and_rmi.onlay().by(BOTH).slow(900),
    a_store_being_made.onlay().by(BOTH),
);

/// A random number generator (xorshift) whose seed is told.
struct Dice(u64);

impl Dice {
    /// `ONLAY_TEST_SEED`, or the time.
    fn new() -> Result<Self> {
        let seed = match std::env::var("ONLAY_TEST_SEED") {
            Ok(seed) => seed.parse().context("ONLAY_TEST_SEED")?,
            Err(_) => std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64 | 1,
        };
        println!("ONLAY_TEST_SEED={seed}");
        Ok(Self(seed))
    }

    /// From 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a command does to the list of images.
#[derive(Clone, Copy)]
enum Does<'a> {
    Makes(&'a str),
    Removes(&'a str),
    Nothing,
}

struct Killer<'a> {
    cx: &'a Ctx,
    disk: OnDisk,
    dice: Dice,
    /// Images that a command has said to be there, by their whole names.
    finished: BTreeSet<String>,
    /// By verb: how long it took last time, and how often it was killed before it ended.
    took: BTreeMap<String, Duration>,
    kills: BTreeMap<String, u32>,
}

fn whole(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("docker.io/library/{name}:latest") }
}

impl<'a> Killer<'a> {
    fn new(cx: &'a Ctx) -> Result<Self> {
        let disk = OnDisk::new(Tree(cx.dir.p("store")));
        let (took, kills) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { cx, disk, dice: Dice::new()?, finished: BTreeSet::new(), took, kills })
    }

    /// Runs a command, which works.
    fn done(&mut self, args: &[&str], does: Does<'_>) -> Result<()> {
        let start = Instant::now();
        says(self.cx, args)?;
        self.took.insert(args[0].to_owned(), start.elapsed());
        self.finish(does);
        Ok(())
    }

    fn finish(&mut self, does: Does<'_>) {
        match does {
            Does::Makes(name) => drop(self.finished.insert(whole(name))),
            Does::Removes(name) => drop(self.finished.remove(&whole(name))),
            Does::Nothing => {}
        }
    }

    /// What was finished is there, whole; beyond that at most what `does` may have done.
    fn check(&mut self, does: Does<'_>) -> Result<()> {
        let mut there = self.disk.images()?;
        let mut expected = self.finished.clone();
        if let Does::Makes(name) | Does::Removes(name) = does {
            there.remove(&whole(name));
            expected.remove(&whole(name));
        }
        same!(there, expected);
        Ok(())
    }

    /// Runs a command, kills it at some moment of its life, looks at what is left, and does it again.
    fn killed(&mut self, args: &[&str], does: Does<'_>) -> Result<()> {
        let verb = args[0];
        let took = self.took.get(verb).copied().unwrap_or(Duration::from_millis(20));
        let at = took.mul_f64(self.dice.roll() * 1.1);
        self.kill_at(args, does, at).with_context(|| format!("{} killed after {} us", args.join(" "), at.as_micros()))
    }

    fn kill_at(&mut self, args: &[&str], does: Does<'_>, at: Duration) -> Result<()> {
        let mut command = Command::new(self.cx.binary());
        command.arg("--root").arg(self.cx.dir.p("store")).args(args).current_dir("/");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        std::thread::sleep(at);
        child.kill()?;
        let out = child.wait_with_output()?;
        let mut possible = does;
        if out.status.success() {
            self.finish(does);
            possible = Does::Nothing;
        } else if out.status.signal().is_some() {
            *self.kills.entry(args[0].to_owned()).or_default() += 1;
        } else {
            bail!("it failed by itself: {}", String::from_utf8_lossy(&out.stderr));
        }
        self.check(possible).context("before gc")?;
        says(self.cx, &["gc", "--untagged"])?;
        self.check(possible).context("after gc")?;
        self.disk.nothing_else().context("after gc")?;
        let gone = matches!(does, Does::Removes(name) if !self.disk.images()?.contains(&whole(name)));
        if gone {
            self.finish(does);
        } else {
            self.done(args, does).context("done again")?;
        }
        self.check(Does::Nothing).context("done again")
    }

    /// Whether each of these verbs was killed so often.
    fn enough(&self, verbs: &[&str], times: u32) -> bool {
        verbs.iter().all(|verb| self.kills.get(*verb).is_some_and(|n| *n >= times))
    }

    /// Nothing is left but what is said to be there.
    fn end(&mut self) -> Result<()> {
        println!("killed: {:?}", self.kills);
        self.done(&["gc", "--untagged"], Does::Nothing)?;
        self.check(Does::Nothing)?;
        self.disk.nothing_else()
    }
}

/// The archive of a small root file system.
pub(super) fn small_archive(cx: &Ctx) -> Result<String> {
    let data = noise(120_000);
    for (n, piece) in data.chunks(4000).enumerate() {
        cx.dir.file(&format!("root/{}/{n}", n % 5), piece)?;
    }
    cx.dir.symlink("0", "root/link")?.hard("root/0/0", "root/hard")?;
    tool(cx, "tar -C root --sort=name --owner=0 --group=0 -cf small.tar .")?;
    Ok(cx.dir.p("small.tar").display().to_string())
}

fn import_commit_load_rmi_gc(cx: &mut Ctx) -> Result<()> {
    let (tar, saved) = (small_archive(cx)?, cx.dir.p("saved.tar").display().to_string());
    let mut killer = Killer::new(cx)?;
    let import = |name| ["import", "-q", "-c", "CMD [\"sh\"]", &tar, name];
    killer.done(&import("base"), Does::Makes("base"))?;
    let id = says(cx, &["create", "--name", "one", "base"])?;
    let upper = Tree(cx.dir.p(format!("store/containers/{id}/upper")));
    for (n, piece) in noise(60_000).chunks(6000).enumerate() {
        upper.file(&format!("new/{n}"), piece)?;
    }
    killer.done(&["commit", "-q", "one", "loaded"], Does::Makes("loaded"))?;
    says(cx, &["save", "-q", "-o", &saved, "loaded"])?;
    killer.done(&["rmi", "loaded"], Does::Removes("loaded"))?;
    let verbs = ["import", "commit", "load", "rmi", "gc"];
    for round in 0.. {
        holds!(round < 200, "so few were killed: {:?}", killer.kills);
        if killer.enough(&verbs, 25) {
            break;
        }
        killer.killed(&import("imported"), Does::Makes("imported"))?;
        killer.killed(&["commit", "-q", "one", "committed"], Does::Makes("committed"))?;
        killer.killed(&["load", "-q", "-i", &saved], Does::Makes("loaded"))?;
        // Something to sweep: while somebody adds, nobody else does it.
        let adding = File::open(cx.dir.p("store/lock"))?;
        adding.lock_shared()?;
        killer.done(&["rmi", "imported"], Does::Removes("imported"))?;
        drop(adding);
        killer.killed(&["gc"], Does::Nothing)?;
        killer.killed(&["rmi", "committed"], Does::Removes("committed"))?;
        killer.killed(&["rmi", "loaded"], Does::Removes("loaded"))?;
    }
    says(cx, &["rm", "one"])?;
    killer.end()
}

fn pull_and_rmi(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images_of(cx, 200_000)?;
    let tar = small_archive(cx)?;
    let names = ["base", "child"].map(|tag| format!("{}/app:{tag}", registry.host));
    for (image, name) in ["base", "child"].iter().zip(["app:base", "app:child"]) {
        theirs(cx, &registry, image, name, "")?;
    }
    let mut killer = Killer::new(cx)?;
    killer.done(&["import", "-q", &tar, "other"], Does::Makes("other"))?;
    for round in 0.. {
        holds!(round < 200, "so few were killed: {:?}", killer.kills);
        if killer.enough(&["pull", "rmi"], 40) {
            break;
        }
        // The child's lower layer is the base's: there already, or not.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for n in order {
            killer.killed(&["pull", "-q", &names[n]], Does::Makes(&names[n]))?;
        }
        for n in order {
            killer.killed(&["rmi", &names[n]], Does::Removes(&names[n]))?;
        }
    }
    killer.end()
}

/// Killed while it makes the store: the next one makes it.
fn a_store_being_made(cx: &mut Ctx) -> Result<()> {
    let mut killer = Killer::new(cx)?;
    killer.done(&["images"], Does::Nothing)?;
    for round in 0.. {
        holds!(round < 400, "so few were killed: {:?}", killer.kills);
        if killer.enough(&["images"], 40) {
            return Ok(());
        }
        std::fs::remove_dir_all(cx.dir.p("store"))?;
        killer.killed_while_made().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

impl Killer<'_> {
    fn killed_while_made(&mut self) -> Result<()> {
        let at = self.took["images"].mul_f64(self.dice.roll() * 1.1);
        let mut child = Command::new(self.cx.binary());
        child.arg("--root").arg(self.cx.dir.p("store")).arg("images").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn()?;
        std::thread::sleep(at);
        child.kill()?;
        if child.wait()?.signal().is_some() {
            *self.kills.entry("images".to_owned()).or_default() += 1;
        }
        let start = Instant::now();
        let out = onlay(self.cx, &["images", "-q"])?;
        self.took.insert("images".to_owned(), start.elapsed());
        same!((out.code, out.stdout.as_str(), out.stderr.as_str()), (0, "", ""));
        says(self.cx, &["gc"])?;
        self.disk.nothing_else()
    }
}
