//! `onlay mount`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::case::{User, skip};
use crate::ctx::{Ctx, daemons, mounts_below};
use crate::tree::{Tree, cases, fails, holds, same};

cases!("mount":
    lets_go_of_stdio.onlay(), dash_o.onlay(), escapes.onlay(), first_lower_is_top.onlay(),
    read_only_without_upper.onlay(), foreground.onlay(), over_parent_of_layers.onlay(), relative_paths.onlay(),
    layer_roots_may_be_symlinks.onlay(), quick_loops.onlay(), newer_mount_survives.onlay(), work_leftovers.onlay(),
    layer_changes_meanwhile.onlay(), shared_lower.onlay(), at_once_usable.onlay(), upper_only.onlay(),
    spaces_in_paths.onlay(), next_while_the_last_syncs.onlay().by(&[User::Root]),
);

fn text(t: &Tree, name: &str) -> String {
    t.p(name).display().to_string()
}

fn umount(cx: &Ctx, at: &str) -> Result<()> {
    cx.onlay(&["umount", &text(&cx.dir, at)])?.ok().map(drop)
}

fn lets_go_of_stdio(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let start = Instant::now();
    // Reads its stdout and stderr to the end: a daemon that holds a pipe would keep us for ever.
    let m = cx.mount()?;
    holds!(start.elapsed() < Duration::from_secs(20));
    let daemons = daemons(&cx.dir.0)?;
    same!(daemons.len(), 1);
    for fd in 0..=2 {
        let target = fs::read_link(format!("/proc/{}/fd/{fd}", daemons[0].0));
        let held = target.as_ref().map(|t| t.display().to_string()).unwrap_or_default();
        holds!(!held.starts_with("pipe:"), "fd {fd} is {held}");
    }
    same!(fs::read_link(format!("/proc/{}/cwd", daemons[0].0))?.display().to_string(), "/");
    same!(m.read("f")?, "x");
    Ok(())
}

fn dash_o(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("a/f", "a")?.file("b/f", "b")?.file("b/g", "g")?;
    let (a, b, u, w) = (text(&cx.dir, "a"), text(&cx.dir, "b"), text(&cx.upper, ""), text(&cx.work, ""));
    let options = format!("lowerdir={a}:{b},upperdir={u},workdir={w}");
    cx.onlay(&["mount", "-o", &options, &text(&cx.m, "")])?.ok()?;
    same!(cx.m.read("f")? + &cx.m.read("g")?, "ag");
    cx.m.file("new", "n")?;
    umount(cx, "mnt")?;
    same!((cx.upper.ls("")?, cx.dir.ls("a")?), ("new".to_owned(), "f".to_owned()));
    Ok(())
}

/// A busy disk keeps the daemon for long; whoever mounts the upper again meanwhile need not wait for it.
fn next_while_the_last_syncs(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    m.file("new", "n")?;
    let pid = daemons(&cx.dir.0)?.first().map_or(0, |d| d.0).to_string();
    // Longer than mount waits.
    let slow = ["-f", "-q", "-e", "trace=syncfs", "-e", "inject=syncfs:delay_enter=60s", "-p", &pid];
    let strace = Command::new("strace").args(slow).stderr(Stdio::piped()).spawn();
    let mut strace = match strace {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(skip("there is no strace")),
        strace => strace?,
    };
    let traced = || fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| !s.contains("TracerPid:\t0\n"));
    let start = Instant::now();
    while !traced() {
        holds!(start.elapsed() < Duration::from_secs(20), "strace does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
    nix::mount::umount2(&cx.m.0, nix::mount::MntFlags::empty())?;
    let again = cx.mount();
    let still = traced();
    strace.kill()?;
    strace.wait()?;
    same!(again?.read("new")?, "n");
    holds!(still, "the first daemon was done before");
    Ok(())
}

fn escapes(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("a:b,c/f", "x")?.dir("u,p")?.dir("w,k")?.file("plain/g", "y")?;
    let escaped = |n: &str| text(&cx.dir, n).replace(':', "\\:").replace(',', "\\,");
    let (l, p, u, w) = (escaped("a:b,c"), escaped("plain"), escaped("u,p"), escaped("w,k"));
    cx.onlay(&["mount", "-o", &format!("lowerdir={l}:{p},upperdir={u},workdir={w}"), &text(&cx.m, "")])?.ok()?;
    same!(cx.m.ls("")?, "f g");
    umount(cx, "mnt")
}

fn first_lower_is_top(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("a/f", "a")?.file("b/f", "b")?;
    let (a, b, m) = (text(&cx.dir, "a"), text(&cx.dir, "b"), text(&cx.m, ""));
    cx.onlay(&["mount", "--lower", &a, "--lower", &b, &m])?.ok()?;
    same!(cx.m.read("f")?, "a");
    umount(cx, "mnt")
}

fn read_only_without_upper(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("a/f", "a")?.dir("a/d")?;
    cx.onlay(&["mount", "--lower", &text(&cx.dir, "a"), &text(&cx.m, "")])?.ok()?;
    let m = cx.m.clone();
    fails!(fs::write(m.p("new"), ""), EROFS);
    fails!(fs::create_dir(m.p("e")), EROFS);
    fails!(fs::remove_file(m.p("f")), EROFS);
    fails!(fs::rename(m.p("f"), m.p("g")), EROFS);
    fails!(fs::OpenOptions::new().write(true).open(m.p("f")), EROFS);
    fails!(fs::set_permissions(m.p("f"), std::os::unix::fs::PermissionsExt::from_mode(0o600)), EROFS);
    same!(m.read("f")?, "a");
    umount(cx, "mnt")?;
    same!(cx.dir.ls("a")?, "d f");
    Ok(())
}

fn foreground(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("a/f", "a")?;
    for (flag, signal) in [("-f", Signal::SIGINT), ("--foreground", Signal::SIGTERM), ("-f", Signal::SIGQUIT)] {
        let args = ["mount", flag, "--lower", &text(&cx.dir, "a"), &text(&cx.m, "")];
        let mut child = Command::new(cx.binary()).args(args).stdin(Stdio::null()).spawn()?;
        wait_until(|| cx.m.has("f"))?;
        holds!(child.try_wait()?.is_none());
        // What other daemons take for a question.
        for other in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM] {
            kill(Pid::from_raw(child.id().cast_signed()), other)?;
        }
        same!(cx.m.read("f")?, "a");
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        let status = child.wait()?;
        holds!(status.success(), "{signal}: {status}");
        same!(mounts_below(&cx.dir.0)?, Vec::<std::path::PathBuf>::new());
    }
    Ok(())
}

fn wait_until(mut f: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !f()? {
        ensure!(Instant::now() < end, "waited for 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn over_parent_of_layers(cx: &mut Ctx) -> Result<()> {
    // Every layer is behind the mount from then on.
    cx.dir.file("box/low/f", "x")?.file("box/low/d/g", "y")?.dir("box/up")?.dir("box/work")?;
    let b = |n: &str| text(&cx.dir, &format!("box/{n}"));
    let (low, up, work, at) = (b("low"), b("up"), b("work"), text(&cx.dir, "box"));
    cx.onlay(&["mount", "--lower", &low, "--upper", &up, "--work", &work, &at])?.ok()?;
    let m = Tree(cx.dir.p("box"));
    same!((m.ls("")?, m.read("d/g")?), ("d f".to_owned(), "y".to_owned()));
    m.append("d/g", "+")?.file("new", "")?.mv("f", "e")?;
    fs::remove_dir_all(m.p("d"))?;
    same!(m.ls("")?, "e new");
    umount(cx, "box")?;
    same!((cx.dir.ls("box")?, cx.dir.read("box/low/d/g")?), ("low up work".to_owned(), "y".to_owned()));
    Ok(())
}

fn relative_paths(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("a/f", "x")?;
    let args = ["mount", "--lower", "a", "--upper", "upper", "--work", "./work", "mnt"];
    crate::ctx::Out::of(Command::new(cx.binary()).args(args).current_dir(&cx.dir.0))?.ok()?;
    cx.m.append("f", "+")?;
    same!(cx.m.read("f")?, "x+");
    crate::ctx::Out::of(Command::new(cx.binary()).args(["umount", "mnt"]).current_dir(&cx.dir.0))?.ok()?;
    Ok(())
}

fn layer_roots_may_be_symlinks(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("real/f", "x")?.symlink("../real", "l/LAYER")?.symlink("mnt", "m")?;
    cx.onlay(&["mount", "--lower", &text(&cx.dir, "l/LAYER"), &text(&cx.dir, "m")])?.ok()?;
    same!(cx.m.read("f")?, "x");
    umount(cx, "m")
}

fn quick_loops(cx: &mut Ctx) -> Result<()> {
    // On the same path at once again: the old daemon must neither hold the upper nor unmount the new mount.
    cx.lower()?.file("f", "x")?;
    cx.mount()?;
    for i in 0..25 {
        cx.m.file(&format!("n{i}"), "")?;
        cx.umount()?;
        cx.mount()?;
        same!(cx.m.read("f")?, "x");
        holds!(cx.m.has(format!("n{i}"))?);
    }
    Ok(())
}

fn newer_mount_survives(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("a/f", "old")?.file("b/f", "new")?;
    let m = text(&cx.m, "");
    for _ in 0..5 {
        cx.onlay(&["mount", "--lower", &text(&cx.dir, "a"), &m])?.ok()?;
        let held = cx.m.ro("f")?;
        cx.onlay(&["umount", "--lazy", &m])?.ok()?;
        cx.onlay(&["mount", "--lower", &text(&cx.dir, "b"), &m])?.ok()?;
        same!(daemons(&cx.dir.0)?.len(), 2);
        // The last user of the old one lets go; its daemon ends.
        drop(held);
        wait_until(|| Ok(daemons(&cx.dir.0)?.len() == 1))?;
        same!(cx.m.read("f")?, "new");
        umount(cx, "mnt")?;
    }
    Ok(())
}

fn work_leftovers(cx: &mut Ctx) -> Result<()> {
    // What a crash leaves behind, with the names that the next mount may want.
    cx.lower()?.file("f", "x")?.file("d/g", "y")?;
    cx.work.file("work/#1", "junk")?.file("work/1/2/3", "junk")?.dir("work/whiteout")?.file("work/0", "")?;
    for i in 0..20 {
        cx.work.file(&format!("work/{i:x}a/deep/er"), "junk")?.file(&format!("work/#{i:x}"), "junk")?;
    }
    let m = cx.mount()?;
    m.append("f", "+")?.rm("d/g")?.mv("d", "e")?.dir("d")?;
    same!((m.read("f")?, m.ls("")?), ("x+".to_owned(), "d e f".to_owned()));
    Ok(())
}

fn layer_changes_meanwhile(cx: &mut Ctx) -> Result<()> {
    // Undefined what is shown; defined that nobody crashes or hangs.
    cx.dir.file("a/f", "x")?.file("a/d/g", "y")?.file("a/h", "z")?;
    let (a, u, w) = (text(&cx.dir, "a"), text(&cx.upper, ""), text(&cx.work, ""));
    cx.onlay(&["mount", "--lower", &a, "--upper", &u, "--work", &w, &text(&cx.m, "")])?.ok()?;
    cx.m.ls("d")?;
    let open = cx.m.ro("f")?;
    fs::remove_dir_all(cx.dir.p("a/d"))?;
    cx.dir.file("a/f", "longer than before")?.rm("a/h")?.dir("a/h")?.file("a/d", "a file now")?;
    for name in ["f", "d/g", "h", "d", "new"] {
        // Any answer is fine.
        drop((fs::read(cx.m.p(name)), fs::metadata(cx.m.p(name)), fs::write(cx.m.p(name), "w"), cx.m.ls(name)));
    }
    drop(open);
    cx.m.file("alive", "yes")?;
    same!(cx.m.read("alive")?, "yes");
    umount(cx, "mnt")
}

fn shared_lower(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "x")?;
    cx.dir.dir("u2")?.dir("w2")?.dir("m2")?;
    cx.mount()?;
    let (u, w, m2) = (text(&cx.dir, "u2"), text(&cx.dir, "w2"), text(&cx.dir, "m2"));
    cx.onlay(&["mount", "--lower", &text(&low, ""), "--upper", &u, "--work", &w, &m2])?.ok()?;
    cx.m.append("f", "1")?;
    cx.dir.append("m2/f", "2")?;
    same!((cx.m.read("f")?, cx.dir.read("m2/f")?), ("x1".to_owned(), "x2".to_owned()));
    umount(cx, "m2")
}

fn at_once_usable(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    for _ in 0..10 {
        let m = cx.mount()?;
        same!(mounts_below(&cx.dir.0)?.len(), 1);
        // The very first call on the view, and not a lookup.
        m.mode("", 0o750)?.mode("", 0o755)?;
        cx.umount()?;
    }
    Ok(())
}

fn upper_only(cx: &mut Ctx) -> Result<()> {
    let (u, w) = (text(&cx.upper, ""), text(&cx.work, ""));
    let out = cx.onlay(&["mount", "--upper", &u, "--work", &w, &text(&cx.m, "")])?;
    if out.code == 0 {
        cx.m.file("f", "x")?;
        umount(cx, "mnt")?;
        same!(cx.upper.ls("")?, "f");
    } else {
        super::bad_input::is_clear(&out, "layer")?;
    }
    Ok(())
}

fn spaces_in_paths(cx: &mut Ctx) -> Result<()> {
    // mountinfo writes them in octal.
    cx.dir.file("lo wer\ttab/f", "x")?.dir("the mnt\\040")?;
    let at = text(&cx.dir, "the mnt\\040");
    cx.onlay(&["mount", "--lower", &text(&cx.dir, "lo wer\ttab"), &at])?.ok()?;
    same!(cx.dir.read("the mnt\\040/f")?, "x");
    cx.onlay(&["umount", &at])?.ok()?;
    same!(cx.dir.ls("the mnt\\040")?, "");
    Ok(())
}
