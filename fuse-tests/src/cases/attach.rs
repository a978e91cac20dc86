//! `onlay attach`: coming back to what was left, or was started for nobody.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bad_input::is_clear;
use super::lifecycle::{Shelf, until};
use super::run::ALL;
use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

cases!("attach":
    a_session_left_by_keys.onlay().by(ALL), a_detached_terminal.onlay().by(ALL), standard_input_is_kept_open.onlay().by(ALL),
    signals_are_sent_on.onlay().by(ALL), who_does_not_read_keeps_nobody_from_ending.onlay().by(ALL),
    mistakes_are_told.onlay().by(ALL),
);

/// Onlay on a terminal of its own, and what that shows.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    shown: std::path::PathBuf,
}

impl Terminal {
    fn new(b: &Shelf<'_>, words: &str) -> Result<Self> {
        let shown = tempfile::Builder::new().tempfile_in(&b.cx.dir.0)?.keep()?.1;
        let line = format!("{} --root {} {words}", b.cx.binary().display(), b.store);
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("SHELL", "/bin/sh");
        let mut script = script.stdin(Stdio::piped()).stdout(File::create(&shown)?).spawn().context("script")?;
        Ok(Self { keys: script.stdin.take().context("stdin")?, script, shown })
    }

    /// Types a line until its answer is seen: a shell that begins may throw away what was typed before.
    fn answers(&mut self, line: &str, answer: &str) -> Result<()> {
        let before = self.seen()?.matches(answer).count();
        let mut round = 0;
        until(answer, || {
            if round % 25 == 0 {
                self.keys.write_all(line.as_bytes())?;
            }
            round += 1;
            Ok(self.seen()?.matches(answer).count() > before)
        })
    }

    fn seen(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.shown)?).into_owned())
    }

    fn leave(mut self, keys: &[u8]) -> Result<()> {
        self.keys.write_all(keys)?;
        same!(self.script.wait()?.code(), Some(0));
        Ok(())
    }
}

/// One who only looks on.
struct Watching {
    child: Child,
    shown: std::path::PathBuf,
}

impl Watching {
    fn new(b: &Shelf<'_>) -> Result<Self> {
        let shown = b.cx.dir.p("watched");
        let mut command = Command::new(b.cx.binary());
        command.args(["--root", &b.store, "attach", "--no-stdin", "web"]).stdin(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.stdout(File::create(&shown)?).spawn()?, shown })
    }

    fn seen(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.shown)?).into_owned())
    }
}

fn a_session_left_by_keys(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let mut terminal = Terminal::new(&b, "run -it --name web base:1 sh")?;
    terminal.answers("X=mine; echo fir''st\n", "first")?;
    terminal.leave(b"\x10\x11")?;
    for (flags, keys) in [("", &b"\x10\x11"[..]), ("--detach-keys ctrl-a,d", b"\x01d"), ("", b"\x10\x11")] {
        let mut terminal = Terminal::new(&b, &format!("attach {flags} web"))?;
        // The same shell.
        terminal.answers("echo $X ag''ain\n", "mine again")?;
        terminal.leave(keys)?;
        same!(b.status()?, "running");
    }
    // Two at once see the same; what ends it ends both, with its code.
    let (mut one, mut other) = (Terminal::new(&b, "attach web")?, Terminal::new(&b, "attach web")?);
    one.answers("echo o''ne\n", "one")?;
    other.answers("echo oth''er\n", "other")?;
    until("it is seen by both", || Ok(one.seen()?.contains("other")))?;
    one.keys.write_all(b"exit 7\n")?;
    same!((one.script.wait()?.code(), other.script.wait()?.code()), (Some(7), Some(7)));
    same!((b.says(&["wait", "web"])?, b.status()?), ("7".to_owned(), "exited".to_owned()));
    Ok(())
}

fn a_detached_terminal(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.says(&["run", "-dit", "--name", "web", "base:1", "sh"])?;
    let mut terminal = Terminal::new(&b, "attach web")?;
    terminal.answers("echo he''re\n", "here")?;
    terminal.leave(b"\x10\x11")?;
    same!(b.status()?, "running");
    // What was seen there is in the log, too.
    until("logged", || Ok(b.says(&["logs", "web"])?.contains("here")))?;
    // With nothing to type on, its input does not end.
    let mut watching = Watching::new(&b)?;
    let mut terminal = Terminal::new(&b, "attach web")?;
    until("it is watched", || {
        terminal.keys.write_all(b"echo th''ere\n")?;
        Ok(watching.seen()?.contains("there"))
    })?;
    terminal.keys.write_all(b"echo la''st; exit 4\n")?;
    same!(terminal.script.wait()?.code(), Some(4));
    holds!(watching.child.wait()?.code() == Some(4) && watching.seen()?.contains("last"), "{}", watching.seen()?);
    // Started again, it is as it was.
    same!(b.says(&["wait", "web"])?, "4");
    b.says(&["start", "web"])?;
    let mut terminal = Terminal::new(&b, "attach web")?;
    terminal.answers("echo on''ce more\n", "once more")
}

fn standard_input_is_kept_open(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let script = "while read word; do echo got $word; echo oops $word >&2; test $word = end && exit 3; done; echo end of input";
    b.says(&["run", "-di", "--name", "web", "base:1", "sh", "-c", script])?;
    let attach = || {
        let mut command = Command::new(cx.binary());
        command.args(["--root", &b.store, "attach", "web"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let mut watching = Watching::new(&b)?;
    // What was printed before somebody came is in the log only: so wait until it is seen.
    let mut first = attach()?;
    let mut keys = first.stdin.take().context("stdin")?;
    until("heard", || {
        keys.write_all(b"one\n")?;
        Ok(watching.seen()?.contains("got one"))
    })?;
    // The end of what is typed here is not the end of its input.
    drop(keys);
    let mut second = attach()?;
    second.stdin.take().context("stdin")?.write_all(b"two\nend\n")?;
    for child in [second, first] {
        let out = child.wait_with_output()?;
        let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        holds!(out.status.code() == Some(3), "{out:?}");
        holds!(said.ends_with("got end\n") && complained.ends_with("oops end\n"), "{said}{complained}");
        holds!(!said.contains("oops") && !complained.contains("got"), "{said}{complained}");
    }
    holds!(watching.child.wait()?.code() == Some(3) && watching.seen()?.ends_with("got end\n"), "{}", watching.seen()?);
    same!(b.says(&["wait", "web"])?, "3");
    // One that is not to have input has none.
    b.says(&["run", "-d", "--name", "job", "base:1", "sh", "-c", "read x; echo none; exit 2"])?;
    same!(b.says(&["wait", "job"])?, "2");
    Ok(())
}

fn signals_are_sent_on(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.start("trap 'exit 6' INT; echo up; while :; do echo tick; sleep 0.05; done")?;
    let attach = |flag: &str| -> Result<(Child, Pid)> {
        let mut command = Command::new(cx.binary());
        command.args(["--root", &b.store, "attach", flag, "web"]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        // It is there once it prints.
        let out = child.stdout.as_mut().context("stdout")?;
        std::io::Read::read_exact(out, &mut [0])?;
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok((child, pid))
    };
    let (mut child, pid) = attach("--sig-proxy=false")?;
    kill(pid, Signal::SIGINT)?;
    same!((child.wait()?.code(), b.status()?), (Some(130), "running".to_owned()));
    // A terminal that goes away ends nothing.
    let (mut child, pid) = attach("--sig-proxy")?;
    kill(pid, Signal::SIGHUP)?;
    same!((child.wait()?.code(), b.status()?), (Some(129), "running".to_owned()));
    let (child, pid) = attach("--no-stdin")?;
    kill(pid, Signal::SIGINT)?;
    same!(child.wait_with_output()?.status.code(), Some(6));
    same!(b.says(&["wait", "web"])?, "6");
    Ok(())
}

fn who_does_not_read_keeps_nobody_from_ending(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.says(&["run", "-dt", "--name", "web", "base:1", "sh", "-c", "trap '' TERM; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"])?;
    let mut command = Command::new(cx.binary());
    command.args(["--root", &b.store, "attach", "--no-stdin", "web"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    std::io::Read::read_exact(child.stdout.as_mut().context("stdout")?, &mut [0])?;
    same!(b.says(&["exec", "web", "sh", "-c", "echo in"])?, "in");
    // Killed, it is forgotten, and the command goes on.
    child.kill()?;
    child.wait()?;
    let size = || -> Result<usize> { Ok(b.says(&["logs", "web"])?.len()) };
    let before = size()?;
    until("it goes on", || Ok(size()? > before))?;
    let mut child = command.spawn()?;
    std::io::Read::read_exact(child.stdout.as_mut().context("stdout")?, &mut [0])?;
    b.says(&["stop", "-t", "0", "web"])?;
    same!(b.says(&["wait", "web"])?, "137");
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn mistakes_are_told(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    b.says(&["create", "--name", "job", "base:1", "id"])?;
    for (words, named) in [
        (&["attach", "none"][..], "none"), (&["attach", "job"], "job"), (&["attach"], ""),
        (&["attach", "--detach-keys", "ctrl-17", "job"], "ctrl-17"), (&["attach", "--sig-proxy=so", "job"], "so"),
    ] {
        let out = b.call(words)?;
        is_clear(&out, named)?;
        same!((words, out.code), (words, 125));
    }
    let mut front = Command::new(cx.binary())
        .args(["--root", &b.store, "run", "--name", "web", "base:1", "sh", "-c", "echo up; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()?;
    std::io::Read::read_exact(front.stdout.as_mut().context("stdout")?, &mut [0])?;
    let out = b.call(&["attach", "web"])?;
    is_clear(&out, "attach")?;
    same!(out.code, 125);
    b.says(&["kill", "web"])?;
    front.wait()?;
    Ok(())
}
