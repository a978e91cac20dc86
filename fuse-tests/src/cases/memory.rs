//! What the daemon holds for what the kernel remembers, and that it gives it back; that it sleeps when nobody asks.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount_remount};

use crate::case::User;
use crate::ctx::Ctx;
use crate::tree::{cases, holds};

const ROOT: &[User] = &[User::Root];

cases!("memory":
    of_directories.onlay().by(ROOT), of_an_index.onlay().by(ROOT),
);

/// Three layers, 4,000 directories with 25 files each.
const DIRS: usize = 4_000;
const FILES: usize = 25;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// In memory: nothing here is about the disk.
const SITE: &str = "/dev/shm";

fn layers(site: &Path) -> Result<String> {
    let all: Vec<String> = (0..3).map(|i| site.join(i.to_string()).display().to_string()).collect();
    for layer in &all {
        fs::create_dir(layer)?;
    }
    for dir in 0..DIRS {
        let path = format!("t{}/d{dir}", dir % 40);
        for (i, layer) in all.iter().enumerate() {
            if i == 0 || (dir + i) % 3 == 0 {
                fs::create_dir_all(format!("{layer}/{path}"))?;
            }
        }
        for file in 0..FILES {
            File::create_new(format!("{}/{path}/file-{file}.c", all[0]))?;
        }
    }
    Ok(all.join(":"))
}

/// A line of `/proc/PID/status`, in bytes.
fn status(pid: i32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).context("no such line")?;
    Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>()? * KIB)
}

/// How often its threads had a CPU so far.
fn turns(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("status"))?;
        let lines = text.lines().filter_map(|l| l.split_once("ctxt_switches:"));
        sum += lines.map(|(_, n)| n.trim().parse::<u64>()).sum::<Result<u64, _>>()?;
    }
    Ok(sum)
}

fn walk(dir: &Path) -> Result<u64> {
    let mut seen = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        seen += 1;
        if entry.metadata()?.is_dir() {
            seen += walk(&entry.path())?;
        }
    }
    Ok(seen)
}

/// Walks a view and lets the kernel forget it again; private memory must stay below `private`, all of it below `whole`.
fn measure(cx: &mut Ctx, options: &str, private: u64, whole: u64) -> Result<()> {
    let at = cx.m.0.clone();
    cx.onlay(&["mount", "-o", options, &at.display().to_string()])?.ok()?;
    let pid: i32 = String::from_utf8(cx.m.getx("", "user.onlay.pid")?.unwrap_or_default())?.parse()?;
    let before = status(pid, "RssAnon:")?;
    let seen = walk(&at)?;
    holds!(seen > (DIRS * FILES) as u64, "{seen} seen");
    let (anon, peak) = (status(pid, "RssAnon:")?, status(pid, "VmHWM:")?);
    holds!((anon - before) / seen <= 200, "{} bytes for each of {seen} inodes", (anon - before) / seen);
    holds!(anon < private && peak < whole, "{anon} bytes of private memory, {peak} at most");
    // The kernel lets go of all that nobody uses, and says so in requests that nobody waits for.
    mount_remount(&at, MountFlags::empty(), c"")?;
    let mut left = anon;
    for _ in 0..200 {
        let asleep = turns(pid)?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        left = status(pid, "RssAnon:")?;
        if turns(pid)? == asleep && left < before + (anon - before) / 2 {
            cx.onlay(&["umount", &at.display().to_string()])?.ok()?;
            return cx.wait_for_daemons();
        }
    }
    anyhow::bail!("of {anon} bytes {left} are left, or it does not sleep")
}

fn of_directories(cx: &mut Ctx) -> Result<()> {
    let site = tempfile::tempdir_in(SITE)?;
    let lowers = layers(site.path())?;
    let (upper, work) = (site.path().join("upper"), site.path().join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let options = format!("lowerdir={lowers},upperdir={},workdir={}", upper.display(), work.display());
    measure(cx, &options, 48 * MIB, 48 * MIB)
}

fn of_an_index(cx: &mut Ctx) -> Result<()> {
    let site = tempfile::tempdir_in(SITE)?;
    let lowers = layers(site.path())?;
    let options = format!("lowerdir={lowers},image_index={}", site.path().join("index").display());
    // Building it takes more, once.
    cx.onlay(&["mount", "-o", &options, &cx.m.0.display().to_string()])?.ok()?;
    cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    cx.wait_for_daemons()?;
    measure(cx, &options, 24 * MIB, 64 * MIB)
}
