//! `onlay run`, on the machine's own root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::case::User;
use crate::ctx::{Ctx, Out};
use crate::tree::{cases, holds, same};

/// Whoever may have a merged view of their own.
pub(super) const ALL: &[User] = &[User::Root, User::Ordinary, User::Norange];
const MAPPED: &[User] = &[User::Root, User::Ordinary];

cases!("run":
    exit_codes.onlay().by(ALL), signal_of_the_command.onlay().by(ALL), signals_are_forwarded.onlay().by(ALL),
    stdio.onlay().by(ALL), zombies.onlay().by(ALL), namespaces.onlay().by(ALL), network_none.onlay().by(ALL),
    proc_and_dev.onlay().by(ALL), process_1_tells_nothing.onlay().by(ALL), no_stray_descriptors.onlay().by(ALL), root_is_the_view.onlay().by(ALL),
    root_inside.onlay().by(ALL), upper_is_kept.onlay().by(ALL), owners_are_remembered.onlay().by(MAPPED),
    rootfs.onlay().by(ALL), layers.onlay().by(ALL), layers_stay_as_they_are.onlay().by(ALL),
    upper_in_use.onlay().by(MAPPED), mount_is_gone.onlay().by(ALL), many_at_once.onlay().by(MAPPED),
);

/// Runs a shell command in a view of the machine.
pub(super) fn host(cx: &Ctx, script: &str) -> Result<Out> {
    cx.onlay(&["run", "--host", "--", "sh", "-c", script])
}

/// Its output, which must come with success.
fn says(cx: &Ctx, script: &str) -> Result<String> {
    Ok(host(cx, script)?.ok().with_context(|| script.to_owned())?.stdout.trim().to_owned())
}

fn exit_codes(cx: &mut Ctx) -> Result<()> {
    for code in [0, 1, 3, 42, 124, 255] {
        same!((code, host(cx, &format!("exit {code}"))?.code), (code, code));
    }
    same!(cx.onlay(&["run", "--host", "--", "/etc/passwd"])?.code, 126);
    same!(cx.onlay(&["run", "--host", "--", "/etc"])?.code, 126);
    same!(cx.onlay(&["run", "--host", "--", "no-such-thing"])?.code, 127);
    same!(cx.onlay(&["run", "--rootfs", "/no/such/root", "--", "true"])?.code, 125);
    same!(cx.onlay(&["run", "--host", "true"])?.code, 0);
    Ok(())
}

fn signal_of_the_command(cx: &mut Ctx) -> Result<()> {
    same!(host(cx, "kill -TERM $$")?.code, 143);
    same!(host(cx, "kill -KILL $$")?.code, 137);
    Ok(())
}

fn signals_are_forwarded(cx: &mut Ctx) -> Result<()> {
    for (signal, trap) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGHUP, "HUP")] {
        let script = format!("trap 'exit 7' {trap}; echo ready; while :; do sleep 0.05; done");
        let mut child = Command::new(cx.binary())
            .args(["run", "--host", "--", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        same!(line.trim(), "ready");
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        same!((trap, child.wait()?.code()), (trap, Some(7)));
    }
    Ok(())
}

fn stdio(cx: &mut Ctx) -> Result<()> {
    let mut child = Command::new(cx.binary())
        .args(["run", "--host", "--", "sh", "-c", "cat; echo err >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(b"through")?;
    let out = child.wait_with_output()?;
    same!((out.stdout.as_slice(), out.stderr.as_slice()), (&b"through"[..], &b"err\n"[..]));
    Ok(())
}

fn zombies(cx: &mut Ctx) -> Result<()> {
    // Orphans of a shell that ended become init's children.
    let script = "for i in 1 2 3; do sh -c 'sleep 0.1 & exit 0'; done; sleep 0.5; \
                  cat /proc/[0-9]*/stat | grep -c ') Z ' || true";
    same!(says(cx, script)?, "0");
    Ok(())
}

fn namespaces(cx: &mut Ctx) -> Result<()> {
    for ns in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
        let outside = std::fs::read_link(format!("/proc/self/ns/{ns}"))?.display().to_string();
        let inside = says(cx, &format!("readlink /proc/self/ns/{ns}"))?;
        holds!(inside.starts_with(ns) && inside != outside, "{ns}: {inside}");
    }
    let outside = std::fs::read_link("/proc/self/ns/net")?.display().to_string();
    let out = cx.onlay(&["run", "--host", "--network", "host", "--", "readlink", "/proc/self/ns/net"])?.ok()?;
    same!(out.stdout.trim(), outside);
    // Only what belongs to the view runs in it.
    let pids: u32 = says(cx, "ls -d /proc/[0-9]* | wc -l")?.parse()?;
    holds!(pids < 8, "{pids} processes inside");
    Ok(())
}

fn network_none(cx: &mut Ctx) -> Result<()> {
    let script = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; grep -c 127.0.0.1 /proc/net/fib_trie";
    let out = cx.onlay(&["run", "--host", "--network", "none", "--", "sh", "-c", script])?.ok()?;
    let mut lines = out.stdout.lines();
    same!(lines.next(), Some("lo"));
    // It is up: it has its address.
    holds!(lines.next().is_some_and(|n| n != "0"), "{}", out.stdout);
    same!(lines.next(), None);
    Ok(())
}

fn proc_and_dev(cx: &mut Ctx) -> Result<()> {
    same!(says(cx, "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c")?, "3\n2");
    same!(says(cx, "cat /proc/1/comm > /dev/null && test -r /proc/self/status && echo yes")?, "yes");
    let devices = says(cx, "cd /dev; for d in *; do test -b $d && echo $d; done; test -e fuse && echo fuse; true")?;
    same!(devices, "");
    let links = says(cx, "for d in null zero full random urandom tty fd stdin stdout stderr shm pts; do \
                          test -e /dev/$d -o -L /dev/$d || echo missing $d; done")?;
    same!(links, "");
    same!(says(cx, "echo y > /dev/shm/x && cat /dev/shm/x")?, "y");
    Ok(())
}

/// Not how it was called, nor what anything else before the command was.
fn process_1_tells_nothing(cx: &mut Ctx) -> Result<()> {
    let read = "cd /proc; cat 1/comm; cat 1/cmdline | od -An -c; cat [0-9]*/cmdline [0-9]*/environ 2>/dev/null | grep -ac 't[o]ld' || true";
    let told = ["--hostname", "told", "-v", "/etc:/told"];
    for more in [&told[..2], &told[..], &[]] {
        let out = Command::new(cx.binary())
            .args([&["run", "--host"], more, &["--", "env", "-i", "PATH=/bin:/usr/bin", "sh", "-c", read]].concat())
            .env("SECRET", "told")
            .output()?;
        let said = String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        same!((more, said.as_str()), (more, "init i n i t \\0 0"));
    }
    Ok(())
}

fn no_stray_descriptors(cx: &mut Ctx) -> Result<()> {
    // 0, 1, 2 and the one that ls(1) reads the directory with.
    same!(says(cx, "ls /proc/self/fd | tr '\\n' ' '")?, "0 1 2 3");
    Ok(())
}

fn root_is_the_view(cx: &mut Ctx) -> Result<()> {
    let first = says(cx, "grep ' / / ' /proc/self/mountinfo")?;
    holds!(first.contains("onlay") && first.lines().count() == 1, "{first}");
    // The old root is gone, not just hidden.
    same!(says(cx, "ls -di / /.. | sed 's/ .*//' | sort -u | wc -l")?, "1");
    Ok(())
}

fn root_inside(cx: &mut Ctx) -> Result<()> {
    same!(says(cx, "id -u; stat -c %u:%g /etc/passwd /usr/bin; touch /etc/new && stat -c %u /etc/new")?, "0\n0:0\n0:0\n0");
    // Private files of the machine's root stay private.
    if cx.user != User::Root {
        let shadow = host(cx, "cat /etc/shadow")?;
        holds!(shadow.code != 0 && shadow.stdout.is_empty(), "/etc/shadow is readable");
    }
    Ok(())
}

pub(super) fn with_upper(cx: &Ctx, script: &str) -> Result<String> {
    let (u, w) = (cx.upper.0.display().to_string(), cx.work.0.display().to_string());
    let args = ["run", "--host", "--upper", &u, "--work", &w, "--", "sh", "-c", script];
    Ok(cx.onlay(&args)?.ok().with_context(|| script.to_owned())?.stdout.trim().to_owned())
}

fn upper_is_kept(cx: &mut Ctx) -> Result<()> {
    with_upper(cx, "echo kept > /etc/onlay-test; rm /etc/passwd; mkdir -p /opt/onlay/x")?;
    same!(with_upper(cx, "cat /etc/onlay-test; ls -d /opt/onlay/x; test -e /etc/passwd || echo gone")?,
        "kept\n/opt/onlay/x\ngone");
    same!(cx.upper.read("etc/onlay-test")?, "kept\n");
    holds!(std::path::Path::new("/etc/passwd").exists() && !std::path::Path::new("/etc/onlay-test").exists());
    // The view does not show its own upper.
    let upper = cx.upper.0.display();
    same!(with_upper(cx, &format!("ls {upper} 2>/dev/null | wc -l"))?, "0");
    let out = cx.onlay(&["diff", &cx.upper.0.display().to_string()])?.ok()?;
    holds!(out.stdout.contains("D /etc/passwd") || out.stdout.contains("D etc/passwd"), "{}", out.stdout);
    Ok(())
}

fn owners_are_remembered(cx: &mut Ctx) -> Result<()> {
    with_upper(cx, "touch /etc/a /etc/b; mkdir /etc/c; chown 33:44 /etc/a; chown 1000:5 /etc/c; chown 7 /etc/hostname; \
                    ln -s x /etc/l; chown -h 12:13 /etc/l; chmod 4755 /etc/a")?;
    let seen = with_upper(cx, "stat -c '%n %u:%g %a' /etc/a /etc/b /etc/c /etc/l /etc/hostname")?;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata("/etc/hostname")?) & 0o7777;
    let want = "/etc/a 33:44 4755\n/etc/b 0:0 644\n/etc/c 1000:5 755\n/etc/l 12:13 777\n/etc/hostname 7:0";
    same!(seen, format!("{want} {mode:o}"));
    Ok(())
}

/// A root directory with a static shell and nothing else.
pub(super) fn small_root(cx: &Ctx, name: &str) -> Result<String> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| std::path::Path::new(p).exists());
    let busybox = busybox.ok_or_else(|| crate::case::skip("no busybox-static: see fuse-tests/run-all"))?;
    for d in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        cx.dir.dir(&format!("{name}/{d}"))?;
    }
    std::fs::copy(busybox, cx.dir.p(format!("{name}/bin/busybox")))?;
    for applet in ["sh", "ls", "cat", "id", "touch", "stat", "rm"] {
        cx.dir.symlink("busybox", &format!("{name}/bin/{applet}"))?;
    }
    Ok(cx.dir.p(name).display().to_string())
}

fn rootfs(cx: &mut Ctx) -> Result<()> {
    let root = small_root(cx, "root")?;
    let run = |script: &str| cx.onlay(&["run", "--rootfs", &root, "--", "sh", "-c", script]);
    same!(run("id -u; touch /new; rm /bin/rm")?.ok()?.stdout, "0\n");
    holds!(!run("cat /etc/passwd")?.stdout.contains("root:"), "that is the machine's /etc");
    holds!(!cx.dir.has("root/new")? && cx.dir.has("root/bin/rm")?);
    same!(run("exit 9")?.code, 9);
    Ok(())
}

fn layers(cx: &mut Ctx) -> Result<()> {
    let root = small_root(cx, "root")?;
    cx.dir.file("app/etc/app", "from the top")?;
    let app = cx.dir.p("app").display().to_string();
    let (u, w) = (cx.upper.0.display().to_string(), cx.work.0.display().to_string());
    let args = ["run", "--lower", &app, "--lower", &root, "--upper", &u, "--work", &w, "--", "cat", "/etc/app"];
    same!(cx.onlay(&args)?.ok()?.stdout, "from the top");
    Ok(())
}

fn layers_stay_as_they_are(cx: &mut Ctx) -> Result<()> {
    use crate::manifest::{Manifest, What};
    let root = small_root(cx, "root")?;
    let before = Manifest::of(root.as_ref(), What::DISK)?;
    cx.onlay(&["run", "--rootfs", &root, "--", "sh", "-c", "rm -rf /etc /bin/cat; touch /tmp/x /bin/sh"])?.ok()?;
    before.check(&Manifest::of(root.as_ref(), What::DISK)?, "the root directory")
}

fn upper_in_use(cx: &mut Ctx) -> Result<()> {
    let (u, w) = (cx.upper.0.display().to_string(), cx.work.0.display().to_string());
    let args = ["run", "--host", "--upper", &u, "--work", &w, "--"];
    let mut first = Command::new(cx.binary())
        .args(args)
        .args(["sh", "-c", "echo up; read wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(first.stdout.take().context("stdout")?).read_line(&mut line)?;
    let second = Out::of(Command::new(cx.binary()).args(args).arg("true"))?;
    drop(first.stdin.take());
    first.wait()?;
    super::bad_input::is_clear(&second, &u)?;
    same!(second.code, 125);
    Ok(())
}

fn mount_is_gone(cx: &mut Ctx) -> Result<()> {
    let count = || -> Result<usize> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(table.lines().filter(|l| l.contains("onlay-run") || l.contains("/merged")).count())
    };
    same!(count()?, 0);
    // Even when the command leaves somebody behind who holds a file open.
    let out = host(cx, "sleep 1000 < /etc/passwd > /dev/null 2>&1 & exit 5")?;
    same!((out.code, count()?), (5, 0));
    Ok(())
}

fn many_at_once(cx: &mut Ctx) -> Result<()> {
    std::thread::scope(|scope| -> Result<()> {
        let cx = &*cx;
        let runs: Vec<_> = (0..6)
            .map(|i| scope.spawn(move || says(cx, &format!("echo {i} > /etc/hostname; sleep 0.1; cat /etc/hostname"))))
            .collect();
        for (i, r) in runs.into_iter().enumerate() {
            same!(r.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??, i.to_string());
        }
        Ok(())
    })
}
