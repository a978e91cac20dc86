//! Limits on all that runs in a container: held where control groups of version 2 are ours, told where they are not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::lifecycle::{Shelf, until};
use super::run::{ALL, small_root};
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::tree::{cases, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("limits":
    a_memory_hog_is_killed.onlay().by(ALL), a_fork_bomb_stays_bounded.onlay().by(ALL), a_share_of_a_processor.onlay().by(ALL),
    what_is_not_there_is_told.onlay().by(ROOT), it_runs_anyhow.onlay().by(ALL), nothing_stays_behind.onlay().by(ROOT), groups_of_the_dead_go.onlay().by(ROOT),
    nonsense_is_refused.onlay().by(ALL), on_one_processor.onlay().by(ALL),
);

/// Skips where these limits can't be applied, for the reason that onlay gives.
fn applied(cx: &Ctx, flags: &[&str]) -> Result<()> {
    let root = small_root(cx, "probe")?;
    let args = [&["run", "--rootfs", &root], flags, &["--", "id", "-u"]].concat();
    let out = cx.onlay(&args)?.ok()?;
    match out.stderr.lines().find(|l| l.contains("no limit")) {
        Some(line) => Err(skip(line.trim_start_matches("onlay: warning: ").to_owned())),
        None => Ok(()),
    }
}

fn inspect(b: &Shelf<'_>, name: &str) -> Result<Value> {
    Ok(serde_json::from_str::<Value>(&b.says(&["inspect", name])?)?[0].take())
}

fn a_memory_hog_is_killed(cx: &mut Ctx) -> Result<()> {
    applied(cx, &["--memory", "32m", "--memory-swap", "32m"])?;
    let b = Shelf::new(cx)?;
    let hog = ["busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1"];
    let args = ["run", "--name", "job", "-m", "32m", "--memory-swap", "32m", "base:1"];
    let out = b.call(&[&args[..], &hog].concat())?;
    same!(out.code, 137);
    // A scope of systemd's is gone with its counts before anybody can look.
    if cx.user == User::Root {
        holds!(out.stderr.contains("limit of memory"), "{out:?}");
        same!(inspect(&b, "job")?["state"]["oomKilled"].as_bool(), Some(true));
    }
    // One that stays below.
    let out = b.call(&["run", "--rm", "-m", "32m", "base:1", "sh", "-c", "ls /bin > /tmp/x"])?.ok()?;
    same!(out.stderr, "");
    // Whoever comes in later is limited, too, and only the hog is hit.
    b.says(&["run", "-d", "--name", "web", "-m", "32m", "--memory-swap", "32m", "base:1", "sleep", "100"])?;
    same!(b.call(&[&["exec", "web"][..], &hog].concat())?.code, 137);
    same!(b.call(&["exec", "web", "true"])?.code, 0);
    holds!(b.says(&["stats", "web"])?.contains(" / 33.6MB"), "{}", b.says(&["stats", "web"])?);
    b.says(&["stop", "-t", "0", "web"])?;
    groups_left()
}

fn a_fork_bomb_stays_bounded(cx: &mut Ctx) -> Result<()> {
    applied(cx, &["--pids-limit", "30"])?;
    let b = Shelf::new(cx)?;
    // A shell that can't fork ends: the bomb is not the command, and what it has made stays.
    let bomb = "(for i in $(seq 200); do sleep 1000 & done) & exec sleep 1000";
    b.says(&["run", "-d", "--name", "web", "--pids-limit", "30", "base:1", "sh", "-c", bomb])?;
    let processes = || -> Result<u64> {
        let stats: Value = serde_json::from_str(&b.says(&["stats", "--format", "json", "web"])?)?;
        same!(stats[0]["processes_limit"].as_u64(), Some(30));
        stats[0]["processes"].as_u64().context("processes")
    };
    until("full", || Ok(processes()? >= 25))?;
    for _ in 0..10 {
        let now = processes()?;
        holds!(now <= 30, "{now} processes");
    }
    b.says(&["stop", "-t", "1", "web"])?;
    same!(b.status()?, "exited");
    groups_left()?;
    // As it was made.
    b.says(&["start", "web"])?;
    until("full", || Ok(processes()? >= 25))?;
    b.says(&["rm", "-f", "web"])?;
    groups_left()
}

fn a_share_of_a_processor(cx: &mut Ctx) -> Result<()> {
    applied(cx, &["--cpus", "0.1"])?;
    let b = Shelf::new(cx)?;
    b.says(&["run", "-d", "--name", "web", "--cpus", "0.1", "base:1", "sh", "-c", "while :; do :; done"])?;
    let stats: Value = serde_json::from_str(&b.says(&["stats", "--format", "json", "web"])?)?;
    let cpu = stats[0]["cpu"].as_f64().context("cpu")?;
    // Periods are a tenth of a second, and a third of a second was watched.
    holds!((cpu as u64) < 60, "{cpu} %");
    b.says(&["kill", "web"])?;
    Ok(())
}

/// Where there are no groups at all, which every machine can be made to look like.
fn what_is_not_there_is_told(cx: &mut Ctx) -> Result<()> {
    let root = small_root(cx, "root")?;
    let script = format!(
        "umount -R -l /sys/fs/cgroup || exit 99; exec {} run --rootfs {root} -m 64m --cpus 1 --pids-limit 9 -- id -u",
        cx.binary().display()
    );
    let out = Out::of(Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]))?;
    if out.code == 99 {
        return Err(skip("/sys/fs/cgroup can't be unmounted"));
    }
    same!((out.code, out.stdout.as_str()), (0, "0\n"));
    let want = "onlay: warning: no limit by --memory, --cpus, --pids-limit: control groups of version 2 are not mounted here\n";
    same!(out.stderr, want);
    Ok(())
}

/// Whatever there is here: it runs, and is limited or says why not, on the terminal of who started it.
fn it_runs_anyhow(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let flags = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "50"];
    let limited = |out: &Out| -> Result<bool> {
        let told = out.stderr.lines().filter(|l| l.contains("no limit by --")).count();
        holds!(told <= 1, "{out:?}");
        Ok(told == 0)
    };
    let here = b.call(&[&["run", "--rm"], &flags[..], &["base:1", "cat", "/proc/self/cgroup"]].concat())?.ok()?;
    // Where the machine has it is not told inside.
    holds!(here.stdout.lines().any(|l| l == "0::/"), "{here:?}");
    let detached = [&["run", "-d", "--name", "web"], &flags[..], &["base:1", "sleep", "100"]].concat();
    let detached = b.call(&detached)?.ok()?;
    same!(limited(&detached)?, limited(&here)?);
    same!(b.call(&["logs", "web"])?.ok()?.stderr, "");
    let plan = b.says(&["run", "--dry-run", "-m", "64m", "base:1", "true"])?;
    holds!(plan.contains("limit all processes together: memory.max=67108864"), "{plan}");
    Ok(())
}

/// The groups of runs, wherever they are.
fn groups() -> Result<Vec<PathBuf>> {
    let out = Out::of(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "onlay-*-*"]))?;
    Ok(out.stdout.lines().map(PathBuf::from).collect())
}

/// None is empty: others' may be in use.
fn groups_left() -> Result<()> {
    until("the group is removed", || {
        Ok(groups()?.iter().all(|g| std::fs::read_to_string(g.join("cgroup.procs")).is_ok_and(|p| !p.is_empty())))
    })
}

/// Whatever comes next clears up.
fn nothing_stays_behind(cx: &mut Ctx) -> Result<()> {
    applied(cx, &["--pids-limit", "30"])?;
    let b = Shelf::new(cx)?;
    for verb in [&["run", "--rm", "--pids-limit", "30", "base:1", "true"][..], &["stop", "web"], &["wait", "web"], &["gc"]] {
        left_behind(&b, || b.call(verb).map(drop))?;
        b.says(&["rm", "web"])?;
    }
    left_behind(&b, || b.call(&["rm", "-f", "web"]).map(drop))
}

/// The same with groups made by hand, which takes no controllers.
fn groups_of_the_dead_go(cx: &mut Ctx) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let unified = mounts.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4));
    let Some(top) = unified.map(Path::new).filter(|top| top.join("cgroup.procs").exists()) else {
        return Err(skip("no control groups of version 2"));
    };
    let b = Shelf::new(cx)?;
    let this = std::process::id();
    let (dead, held) = (top.join(format!("onlay-dead-{this}")), top.join(format!("onlay-held-{this}")));
    b.says(&["create", "--name", "web", "base:1", "id"])?;
    std::fs::create_dir(&held)?;
    let lock = std::fs::File::open(&held)?;
    lock.lock()?;
    for verb in [&["stop", "web"][..], &["wait", "web"], &["gc"], &["rm", "web"], &["rm", "-f", "none"]] {
        std::fs::create_dir(&dead)?;
        b.call(verb)?;
        same!((verb, dead.exists(), held.exists()), (verb, false, true));
    }
    drop(lock);
    std::fs::remove_dir(&held)?;
    Ok(())
}

fn left_behind(b: &Shelf<'_>, clear: impl Fn() -> Result<()>) -> Result<()> {
    b.says(&["run", "-d", "--name", "web", "--pids-limit", "30", "base:1", "sleep", "100"])?;
    let (monitor, _) = b.processes()?;
    let suffix = format!("-{monitor}");
    let mine = || -> Result<Option<PathBuf>> {
        Ok(groups()?.into_iter().find(|g| g.as_os_str().to_string_lossy().ends_with(&suffix)))
    };
    let group = mine()?.context("no group")?;
    kill(monitor, Signal::SIGKILL)?;
    // Unless the verbs of a case beside this one have cleared it already.
    until("ended", || match std::fs::read_to_string(group.join("cgroup.procs")) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        procs => Ok(procs?.is_empty()),
    })?;
    until("cleared", || {
        clear()?;
        Ok(mine()?.is_none())
    })
}

fn nonsense_is_refused(cx: &mut Ctx) -> Result<()> {
    let root = small_root(cx, "root")?;
    for (flag, value) in [
        ("--memory", "much"), ("--memory", "4k"), ("--cpus", "0"), ("--cpus", "many"), ("--pids-limit", "x"),
        ("--pids-limit", "-5"), ("--cpuset-cpus", "one"), ("--cpuset-cpus", "2-1"),
    ] {
        let out = cx.onlay(&["run", "--rootfs", &root, flag, value, "--", "id"])?;
        super::bad_input::is_clear(&out, flag)?;
        same!(out.code, 125);
    }
    let out = cx.onlay(&["run", "--rootfs", &root, "-m", "8m", "--memory-swap", "4m", "--", "id"])?;
    super::bad_input::is_clear(&out, "--memory-swap")?;
    Ok(())
}

/// With or without control groups: everything inside, who comes in later, and who serves the files.
fn on_one_processor(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let list = |status: &str| -> Result<String> {
        let line = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
        Ok(line.context("Cpus_allowed_list")?.trim().to_owned())
    };
    let here = list(&std::fs::read_to_string("/proc/self/status")?)?;
    let last = here.rsplit([',', '-']).next().unwrap_or_default();
    let look = ["cat", "/proc/self/status"];
    let out = b.call(&[&["run", "--rm", "--cpuset-cpus", last, "base:1"][..], &look].concat())?.ok()?;
    same!((list(&out.stdout)?, out.stderr), (last.to_owned(), String::new()));
    b.says(&["run", "-d", "--name", "web", "--cpuset-cpus", last, "base:1", "sleep", "100"])?;
    same!(list(&b.says(&[&["exec", "web"][..], &look].concat())?)?, last);
    let (_, supervisor) = b.processes()?;
    for thread in std::fs::read_dir(format!("/proc/{supervisor}/task"))? {
        same!(list(&std::fs::read_to_string(thread?.path().join("status"))?)?, last);
    }
    b.says(&["rm", "-f", "web"])?;
    let out = b.call(&["run", "--rm", "--cpuset-cpus", "1000", "base:1", "true"])?;
    super::bad_input::is_clear(&out, "1000")?;
    same!(out.code, 125);
    groups_left()
}
