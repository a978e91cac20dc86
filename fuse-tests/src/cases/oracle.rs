//! The same operations on a plain directory, on the kernel's union and on ours, at the same time.

mod ops;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::case::User;
use crate::ctx::{Ctx, Out};
use crate::manifest::{Manifest, What};
use crate::tree::{Tree, cases};
use ops::{Op, Random, World};

cases!("oracle": sequences.onlay().by(&[User::Root]).slow(900));

const SEQUENCES: u64 = 60;
const LENGTH: u32 = 250;

/// Where the kernel's union is not like a local file system, on purpose of ours: the operation, and why.
type Deviation = (fn(&Op) -> bool, &'static str);
const KERNEL_DEVIATES: [Deviation; 2] = [
    (|op| matches!(op, Op::FdRead(_) | Op::FdStat(_)), "a descriptor from before the copy-up stays the lower file's"),
    (|op| matches!(op, Op::DirEnd(_)), "an open directory's listing is made once: what changes is not in it"),
];

fn sequences(cx: &mut Ctx) -> Result<()> {
    // `ONLAY_SEEDS=7-90` asks for others.
    let asked = std::env::var("ONLAY_SEEDS").ok();
    let asked = asked.as_deref().and_then(|s| s.split_once('-')).map(|(a, b)| Ok::<_, Error>((a.parse()?, b.parse()?)));
    let (first, last) = asked.transpose()?.unwrap_or((1, SEQUENCES));
    for seed in first..=last {
        cx.dir.dir("s")?;
        let site = Site(Tree(cx.dir.p("s")));
        let done = site.sequence(cx, seed);
        if done.is_err() {
            crate::ctx::detach_below(&site.0.0)?;
        }
        done.with_context(|| format!("seed {seed}"))?;
        std::fs::remove_dir_all(cx.dir.p("s"))?;
    }
    Ok(())
}

/// One sequence's directories.
struct Site(Tree);

impl Site {
    fn p(&self, name: &str) -> String {
        self.0.p(name).display().to_string()
    }

    fn lowers(&self) -> Result<Vec<Manifest>> {
        LOWERS.iter().map(|l| Manifest::of(&self.0.p(l), What::DISK)).collect()
    }

    fn mount_kernel(&self, at: &str, lowers: &[&str], upper: &str, more: &str) -> Result<()> {
        let below = lowers.iter().map(|l| self.p(l)).collect::<Vec<_>>().join(":");
        let (upper, work) = (self.p(upper), self.p(&format!("{upper}-work")));
        let data = format!("lowerdir={below},upperdir={upper},workdir={work},metacopy=on,redirect_dir=on,{more}");
        mount(Some("overlay"), &self.0.p(at), Some("overlay"), MsFlags::empty(), Some(data.as_str())).context(data)
    }

    fn mount_ours(&self, cx: &Ctx, upper: &str, at: &str) -> Result<()> {
        let mut args = vec!["mount".to_owned()];
        args.extend(LOWERS.iter().flat_map(|l| ["--lower".to_owned(), self.p(l)]));
        args.extend(["--upper".to_owned(), self.p(upper), "--work".to_owned(), self.p(&format!("{upper}-work"))]);
        args.push(self.p(at));
        cx.onlay(&args)?.ok().map(drop)
    }

    fn umount_ours(&self, cx: &Ctx, at: &str) -> Result<()> {
        cx.onlay(&["umount", &self.p(at)])?.ok()?;
        let end = Instant::now() + Duration::from_secs(5);
        while !crate::ctx::daemons(&self.0.0)?.is_empty() {
            anyhow::ensure!(Instant::now() < end, "the daemon stays");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn umount_kernel(&self, at: &str) -> Result<()> {
        umount2(&self.0.p(at), MntFlags::empty()).context("umount of the kernel's")
    }

    /// The layers: a plain one at the bottom; one with marks of all kinds, which the kernel makes; one with hard links.
    fn layers(&self, random: &mut Random) -> Result<()> {
        let dirs = ["top", "middle", "middle-work", "bottom", "k", "k-work", "o", "o-work", "kernel", "ours", "plain"];
        for d in dirs {
            self.0.dir(d)?;
        }
        fill(random, &self.0.p("bottom"))?;
        self.mount_kernel("kernel", &["bottom"], "middle", "index=off")?;
        let made = World::new(&self.0.p("kernel")).map(|mut world| {
            (0..60).for_each(|_| drop(world.run(&random.op(false))));
        });
        self.umount_kernel("kernel")?;
        made?;
        self.0.file("top/h/a", "linked")?.hard("top/h/a", "top/h/l1")?.hard("top/h/a", "top/h/l2")?;
        // The kernel's view of them is what is done to.
        let lowers = LOWERS.iter().map(|l| self.p(l)).collect::<Vec<_>>().join(":");
        let data = format!("lowerdir={lowers},metacopy=on,redirect_dir=follow");
        mount(Some("overlay"), &self.0.p("kernel"), Some("overlay"), MsFlags::empty(), Some(data.as_str()))?;
        let copied = copy(&self.0.p("kernel"), &self.0.p("plain"));
        self.umount_kernel("kernel")?;
        copied
    }

    fn sequence(&self, cx: &Ctx, seed: u64) -> Result<()> {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        self.layers(&mut random)?;
        let before = self.lowers()?;
        self.mount_kernel("kernel", &LOWERS, "k", "index=on")?;
        self.mount_ours(cx, "o", "ours")?;
        let history = self.together(&mut random)?;
        let want = shape(&self.0.p("plain"))?;
        let compare = |at: &str, title: &str| {
            want.check(&shape(&self.0.p(at))?, title).with_context(|| format!("after\n  {}", history.join("\n  ")))
        };
        compare("ours", "plain and ours")?;
        compare("kernel", "plain and the kernel's")?;
        self.umount_kernel("kernel")?;
        self.umount_ours(cx, "ours")?;
        self.mount_kernel("kernel", &LOWERS, "k", "index=on")?;
        self.mount_ours(cx, "o", "ours")?;
        compare("ours", "plain and ours, mounted again")?;
        compare("kernel", "plain and the kernel's, mounted again")?;
        self.umount_kernel("kernel")?;
        self.umount_ours(cx, "ours")?;
        // And the other way round.
        self.mount_kernel("kernel", &LOWERS, "o", "index=on")?;
        self.mount_ours(cx, "k", "ours")?;
        compare("ours", "ours from the kernel's upper")?;
        compare("kernel", "the kernel's from our upper")?;
        self.umount_kernel("kernel")?;
        self.umount_ours(cx, "ours")?;
        for ((b, a), name) in before.iter().zip(self.lowers()?).zip(LOWERS) {
            b.check(&a, &format!("{name} was changed"))?;
        }
        Ok(())
    }

    fn together(&self, random: &mut Random) -> Result<Vec<String>> {
        let mut plain = World::new(&self.0.p("plain"))?;
        let mut kernel = World::new(&self.0.p("kernel"))?;
        let mut ours = World::new(&self.0.p("ours"))?;
        let mut history = Vec::new();
        for step in 0..LENGTH {
            let op = random.op(true);
            let (want, got, theirs) = (plain.run(&op), ours.run(&op), kernel.run(&op));
            history.push(format!("{op:?}: {want}"));
            let last = || history.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n  ");
            if got != want {
                bail!("step {step}: {op:?}: ours says {got}, plain {want}, the kernel's {theirs}\n  {}", last());
            }
            if theirs != want && !KERNEL_DEVIATES.iter().any(|(applies, _)| applies(&op)) {
                bail!("step {step}: {op:?}: the kernel's says {theirs}, plain and ours {want}\n  {}", last());
            }
        }
        Ok(history)
    }
}

const LOWERS: [&str; 3] = ["top", "middle", "bottom"];

/// A plain tree over the small alphabet.
fn fill(random: &mut Random, at: &Path) -> Result<()> {
    let tree = Tree(at.to_path_buf());
    for a in ["a", "b", "c", "h"] {
        match random.below(4) {
            0 => drop(tree.file(a, a.repeat(random.below(9000) as usize))?),
            1 => drop(tree.symlink("target", a)?),
            _ => {
                for b in ["a", "b", "c", "h"] {
                    let path = format!("{a}/{b}");
                    match random.below(5) {
                        0 => drop(tree.dir(&format!("{path}/c"))?),
                        1 => drop(tree.file(&format!("{path}/a"), b.repeat(3000))?),
                        2 => drop(tree.file(&path, "x")?.mode(&path, 0o640)?.setx(&path, "user.attr", "low")?),
                        _ => drop(tree.file(&path, b.repeat(random.below(9000) as usize))?),
                    }
                }
            }
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut from = from.as_os_str().to_owned();
    from.push("/.");
    Out::of(Command::new("cp").arg("-a").arg(from).arg(to))?.ok().map(drop)
}

fn shape(at: &Path) -> Result<Manifest> {
    Manifest::of(at, What::SHAPE)
}
