//! Containers that run detached: started, entered, ended, started again, and what happens when somebody kills parts of
//! them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run::{ALL, small_root};
use crate::ctx::{Ctx, Out};
use crate::tree::{cases, holds, same};

cases!("lifecycle":
    runs_on_and_is_stopped.onlay().by(ALL), exec_is_inside.onlay().by(ALL), exec_on_a_terminal.onlay().by(ALL),
    what_cannot_start_says_so.onlay().by(ALL), starts_again_with_its_files.onlay().by(ALL),
    logs_are_kept_and_followed.onlay().by(ALL), a_killed_service_ends_the_container.onlay().by(ALL),
    a_killed_monitor_ends_the_container.onlay().by(ALL), outlives_who_started_it.onlay().by(ALL),
    orphans_are_reaped.onlay().by(ALL), removed_by_force_and_by_itself.onlay().by(ALL),
    used_by_one_at_a_time.onlay().by(ALL), nothing_is_left_of_what_is_thrown_away.onlay().by(ALL),
);

/// A store with one small image.
pub(super) struct Shelf<'a> {
    pub(super) cx: &'a Ctx,
    pub(super) store: String,
}

impl Drop for Shelf<'_> {
    fn drop(&mut self) {
        for name in ["web", "job"] {
            self.call(&["rm", "-f", name]).ok();
        }
    }
}

impl<'a> Shelf<'a> {
    pub(super) fn new(cx: &'a Ctx) -> Result<Self> {
        let root = small_root(cx, "root")?;
        for applet in ["sleep", "ps", "mkdir", "seq", "wc", "grep", "kill", "true", "tty", "setsid"] {
            cx.dir.symlink("busybox", &format!("root/bin/{applet}"))?;
        }
        let new = Self { cx, store: cx.dir.p("store").display().to_string() };
        let tar = cx.dir.p("root.tar").display().to_string();
        Out::of(Command::new("tar").args(["-C", &root, "-cf", &tar, "."]))?.ok()?;
        new.call(&["import", &tar, "base:1"])?.ok()?;
        Ok(new)
    }

    pub(super) fn call(&self, args: &[&str]) -> Result<Out> {
        self.cx.onlay(&[&["--root", &self.store], args].concat())
    }

    pub(super) fn says(&self, args: &[&str]) -> Result<String> {
        Ok(self.call(args)?.ok().with_context(|| args.join(" "))?.stdout.trim().to_owned())
    }

    pub(super) fn start(&self, script: &str) -> Result<String> {
        self.says(&["run", "-d", "--name", "web", "base:1", "sh", "-c", script])
    }

    pub(super) fn status(&self) -> Result<String> {
        let list: serde_json::Value = serde_json::from_str(&self.says(&["ps", "-a", "--format", "json"])?)?;
        Ok(list[0]["status"].as_str().unwrap_or("none").to_owned())
    }

    /// Its monitor and, of that one, the supervisor.
    pub(super) fn processes(&self) -> Result<(Pid, Pid)> {
        let list: serde_json::Value = serde_json::from_str(&self.says(&["ps", "--format", "json"])?)?;
        let monitor = list[0]["pid"].as_i64().context("no pid in ps")?;
        let children = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"))?;
        Ok((Pid::from_raw(i32::try_from(monitor)?), Pid::from_raw(children.trim().parse()?)))
    }
}

pub(super) fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is()? {
        holds!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

const POLITE: &str = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done";

fn runs_on_and_is_stopped(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let id = b.start(POLITE)?;
    same!((id.len(), b.status()?), (64, "running".to_owned()));
    until("up", || Ok(b.says(&["logs", "web"])? == "up"))?;
    same!(b.says(&["stop", "web"])?, "web");
    same!((b.says(&["wait", "web"])?, b.status()?), ("5".to_owned(), "exited".to_owned()));
    same!(b.says(&["logs", "web"])?, "up\nbye");
    // Ended is stopped.
    b.says(&["stop", &id[..5]])?;
    // One that does not listen.
    b.says(&["run", "-d", "--name", "job", "base:1", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"])?;
    until("up", || Ok(b.says(&["logs", "job"])? == "up"))?;
    b.says(&["stop", "-t", "0", "job"])?;
    same!(b.says(&["wait", "job"])?, "137");
    Ok(())
}

fn exec_is_inside(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.says(&["run", "-d", "--name", "web", "-e", "A=1", "-w", "/tmp", "base:1", "sh", "-c", POLITE])?;
    let script = "echo $A $B; pwd; touch /inside; exit 7";
    let out = b.call(&["exec", "-e", "B=2", "web", "sh", "-c", script])?;
    same!((out.code, out.stdout.as_str()), (7, "1 2\n/tmp\n"));
    let confined = b.says(&["exec", "web", "grep", "-E", "Seccomp:|NoNewPrivs:|CapBnd:", "/proc/self/status"])?;
    let own = b.says(&["exec", "web", "grep", "-E", "Seccomp:|NoNewPrivs:|CapBnd:", "/proc/2/status"])?;
    same!(confined, own);
    same!(b.says(&["exec", "web", "sh", "-c", "ls /proc/self/fd | wc -l"])?, "4");
    same!(b.call(&["exec", "web", "no-such-thing"])?.code, 127);
    same!(b.call(&["exec", "web", "/etc"])?.code, 126);
    same!(b.call(&["exec", "web", "sh", "-c", "kill -9 $$"])?.code, 137);
    same!(b.call(&["exec", "none", "true"])?.code, 125);
    let mut cat = Command::new(cx.binary())
        .args(["--root", &b.store, "exec", "-i", "web", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut cat.stdin.take().context("stdin")?, b"through")?;
    same!(String::from_utf8(cat.wait_with_output()?.stdout)?, "through");
    b.says(&["exec", "-d", "web", "sh", "-c", "sleep 0.1; touch /later"])?;
    until("later", || Ok(b.call(&["exec", "web", "ls", "/later"])?.code == 0))?;
    Ok(())
}

fn exec_on_a_terminal(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start(POLITE)?;
    // Without a terminal here there is one inside all the same.
    same!(b.says(&["exec", "-t", "web", "tty"])?, "/dev/pts/0");
    b.says(&["run", "-d", "-t", "--name", "job", "base:1", "tty"])?;
    b.says(&["wait", "job"])?;
    same!(b.says(&["logs", "job"])?, "/dev/pts/0");
    Ok(())
}

fn what_cannot_start_says_so(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    for (args, code) in [
        (&["run", "-d", "--name", "web", "base:1", "no-such-thing"][..], 127),
        (&["run", "-d", "--name", "job", "base:1", "/etc"], 126),
        (&["run", "-d", "--name", "job", "none:1", "true"], 125),
        (&["run", "-d", "--rm", "--name", "x", "-v", "/no/such:/x", "base:1", "true"], 125),
        (&["run", "-d", "--rm", "--name", "x", "-w", "/no/such", "base:1", "true"], 125),
    ] {
        let out = b.call(args)?;
        holds!(out.code == code && out.stderr.contains("hint:"), "{args:?}: {out:?}");
        b.call(&["rm", "-f", "job"])?;
    }
    // Nothing of those that are not kept.
    same!(b.says(&["ps", "-aq"])?.lines().count(), 1);
    same!(b.call(&["start", "none"])?.code, 1);
    holds!(b.call(&["exec", "web", "true"])?.stderr.contains("is not running"), "exec in one that ended");
    Ok(())
}

fn starts_again_with_its_files(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start("echo run >> /tmp/runs; echo up; while :; do sleep 0.05; done")?;
    for runs in ["1", "2", "3"] {
        until("runs", || Ok(b.call(&["exec", "web", "grep", "-c", "run", "/tmp/runs"])?.stdout.trim() == runs))?;
        b.says(&["restart", "-t", "0", "web"])?;
    }
    b.says(&["kill", "web"])?;
    same!(b.says(&["wait", "web"])?, "137");
    let out = b.call(&["run", "--name", "job", "base:1", "sh", "-c", "test -e /x && exit 3; touch /x; exit 4"])?;
    same!((out.code, b.call(&["start", "-a", "job"])?.code), (4, 3));
    Ok(())
}

fn logs_are_kept_and_followed(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start("for i in $(seq 300); do echo line $i; echo oops $i >&2; done; sleep 0.3; echo end")?;
    // Follows to the end, and misses nothing.
    let out = b.call(&["logs", "-f", "web"])?.ok()?;
    same!((out.stdout.lines().count(), out.stderr.lines().filter(|l| l.starts_with("oops")).count()), (301, 300));
    same!(b.says(&["logs", "--tail", "1", "web"])?, "end");
    let stamped = b.says(&["logs", "-t", "-n1", "web"])?;
    holds!(stamped.ends_with("Z end") && stamped.starts_with("20"), "{stamped}");
    Ok(())
}

fn a_killed_service_ends_the_container(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start("test -e /kept || echo kept > /kept; echo up; while :; do sleep 0.05; done")?;
    until("up", || Ok(b.says(&["logs", "web"])? == "up"))?;
    let (_, supervisor) = b.processes()?;
    kill(supervisor, Signal::SIGKILL)?;
    until("ended", || Ok(b.status()? == "exited"))?;
    same!(b.says(&["wait", "web"])?, "125");
    let log = b.call(&["logs", "web"])?.ok()?;
    holds!(log.stderr.contains("supervisor: killed by SIGKILL"), "{log:?}");
    b.says(&["start", "web"])?;
    same!(b.says(&["exec", "web", "cat", "/kept"])?, "kept");
    Ok(())
}

fn a_killed_monitor_ends_the_container(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start("test -e /kept || echo kept > /kept; echo up; while :; do sleep 0.05; done")?;
    until("up", || Ok(b.says(&["logs", "web"])? == "up"))?;
    let (monitor, supervisor) = b.processes()?;
    kill(monitor, Signal::SIGKILL)?;
    until("ended", || Ok(b.status()? == "exited"))?;
    until("gone", || Ok(kill(supervisor, None).is_err()))?;
    let listed = b.says(&["ps", "-a"])?;
    holds!(listed.contains("Dead"), "{listed}");
    b.says(&["start", "web"])?;
    same!(b.says(&["exec", "web", "cat", "/kept"])?, "kept");
    Ok(())
}

fn outlives_who_started_it(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    // The whole session of who started it is told to go.
    let script = format!(
        "{} --root {} run -d --name web base:1 sh -c 'while :; do sleep 0.05; done'; trap '' HUP; kill -HUP 0",
        cx.binary().display(),
        b.store
    );
    Out::of(Command::new("setsid").args(["--wait", "sh", "-c", &script]))?;
    std::thread::sleep(Duration::from_millis(200));
    same!(b.status()?, "running");
    let (monitor, _) = b.processes()?;
    same!(nix::unistd::getsid(Some(monitor))?, monitor);
    Ok(())
}

fn orphans_are_reaped(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let script = "for i in $(seq 1000); do (true &); done; echo made; while :; do sleep 0.05; done";
    b.start(script)?;
    until("made", || Ok(b.says(&["logs", "web"])? == "made"))?;
    let zombies = "cat /proc/[0-9]*/stat | grep -c ') Z '";
    until("reaped", || Ok(b.call(&["exec", "web", "sh", "-c", zombies])?.stdout.trim() == "0"))
}

fn removed_by_force_and_by_itself(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start("while :; do sleep 0.05; done")?;
    holds!(b.call(&["rm", "web"])?.code != 0, "removed while running");
    b.says(&["rm", "-f", "web"])?;
    same!(b.says(&["ps", "-aq"])?, "");
    b.says(&["run", "-d", "--rm", "--name", "job", "base:1", "sh", "-c", "touch /x"])?;
    until("gone", || Ok(b.says(&["ps", "-aq"])?.is_empty()))?;
    let left = std::fs::read_dir(std::path::Path::new(&b.store).join("containers"))?.count();
    same!(left, 0);
    Ok(())
}

fn used_by_one_at_a_time(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start("while :; do sleep 0.05; done")?;
    // To start what runs is nothing; a second one of its name is refused.
    b.says(&["start", "web"])?;
    let out = b.call(&["run", "-d", "--name", "web", "base:1", "true"])?;
    holds!(out.code == 125 && out.stderr.contains("taken"), "{out:?}");
    let top = b.says(&["top", "web"])?;
    holds!(top.lines().count() >= 2 && top.contains("while :"), "{top}");
    holds!(b.says(&["stats", "web"])?.contains("web"), "stats");
    Ok(())
}

/// When `run --rm` is over nothing is left, not for a moment: no name, file, process or mount. Only the empty directories of
/// one in which nothing was written, for the next.
fn nothing_is_left_of_what_is_thrown_away(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let store = std::path::Path::new(&b.store);
    let names = |dir: &str| -> Result<Vec<String>> {
        let names = std::fs::read_dir(store.join(dir))?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        names.filter(|n| !n.as_ref().is_ok_and(|n| n.ends_with(".lock") || n == "spare")).collect()
    };
    // Whoever has the store in its words, but for this process and those that started it.
    let processes = || -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let words = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if words.contains(&b.store) && words.contains(" run ") {
                found.push(words);
            }
        }
        Ok(found)
    };
    let write = "mkdir /d && echo x > /d/x && chmod 0 /d && rm -rf /tmp && sleep 100 & [ -d /bin ] && exit $0";
    for (script, code) in [("exit 3", 3), ("kill -9 $$", 137), (write, 125), ("exec /no/such", 127)] {
        for _ in 0..3 {
            // The same name each time.
            let out = b.call(&["run", "--rm", "--name", "job", "base:1", "sh", "-c", script, "125"])?;
            same!((script, out.code), (script, code));
            same!(names("containers")?, Vec::<String>::new());
            same!(names("tmp")?, Vec::<String>::new());
            same!(processes()?, Vec::<String>::new());
            if let Ok(mut left) = std::fs::read_dir(store.join("tmp/spare/upper")) {
                holds!(left.next().is_none(), "{script}: {left:?}");
            }
        }
    }
    let out = b.call(&["run", "--rm", "--name", "job", "base:1", "/no/such"])?;
    same!(out.code, 127);
    same!((names("containers")?.len(), names("tmp")?.len()), (0, 0));
    // One that is cut off in all its parts was never synced, and does not start again.
    b.says(&["run", "-d", "--rm", "--name", "web", "base:1", "sleep", "100"])?;
    let (monitor, supervisor) = b.processes()?;
    kill(monitor, Signal::SIGKILL)?;
    // Its death may have ended the other by now.
    kill(supervisor, Signal::SIGKILL).ok();
    until("ended", || Ok(b.status()? != "running"))?;
    if b.status()? != "none" {
        super::bad_input::is_clear(&b.call(&["start", "web"])?, "web")?;
        b.says(&["rm", "web"])?;
    }
    // Nor of a view without an image.
    let scratch = cx.dir.dir("scratch")?.p("scratch");
    let root = cx.dir.p("root").display().to_string();
    let mut run = Command::new(cx.binary());
    let out = Out::of(run.args(["run", "--rootfs", &root, "--", "sh", "-c", "echo x > /x; exit 4"]).env("TMPDIR", &scratch))?;
    same!((out.code, std::fs::read_dir(&scratch)?.count()), (4, 0));
    Ok(())
}
