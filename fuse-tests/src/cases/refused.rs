//! What cannot be run is refused in one clear line with a hint and docker's exit code, and leaves nothing behind: mistakes of
//! who asks, and machines that do not grant what a container takes.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bad_input::is_clear;
use super::lifecycle::{Shelf, until};
use super::run::ALL;
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out, mounts_below};
use crate::sys::refuse;
use crate::tree::{cases, holds, same};

cases!("refused":
    mistakes.onlay().by(ALL), commands_that_are_none.onlay().by(ALL), more_namespaces_than_allowed.onlay().by(ALL),
    calls_that_are_refused.onlay().by(&[User::Root, User::Norange]).slow(300),
    helpers_that_gain_nothing.onlay().by(&[User::Ordinary]), no_dev_fuse.onlay().by(ALL),
    ids_that_are_not_there.onlay().by(&[User::Norange]), a_service_killed_in_the_foreground.onlay().by(ALL),
);

/// No container, no mount, no throw-away directory.
fn nothing_left(b: &Shelf<'_>) -> Result<()> {
    same!(b.says(&["ps", "-aq"])?, "");
    same!(std::fs::read_dir(Path::new(&b.store).join("containers"))?.count(), 0);
    holds!(mounts_below(&b.cx.dir.0)?.is_empty());
    Ok(())
}

/// What makes no sense, in all that make a container: nothing is made.
fn mistakes(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let file = cx.dir.file("file", "")?.p("file").display().to_string();
    let over = format!("{file}:/tmp");
    for (flags, image, named) in [
        (&[][..], "none:1", "none:1"), (&["--no-such-flag"], "base:1", "--no-such-flag"),
        (&["--name", "a b"], "base:1", "a b"), (&["-v", "/no/such:/x"], "base:1", "/no/such"),
        (&["-v", "/tmp"], "base:1", "--volume /tmp"), (&["-v", "name:/x"], "base:1", "name:/x"),
        (&["--mount", "src=/tmp"], "base:1", "--mount"), (&["--tmpfs", "/x:loud"], "base:1", "loud"),
        (&["--network", "moon"], "base:1", "moon"), (&["--security-opt", "seccomp=/no"], "base:1", "seccomp=/no"),
        (&["-e", "=x"], "base:1", "--env"), (&["--env-file", "/no/such"], "base:1", "/no/such"),
        (&["--hostname", "a_b"], "base:1", "a_b"), (&["--ulimit", "nofile=9:3"], "base:1", "nofile=9:3"),
        (&["--stop-timeout", "soon"], "base:1", "soon"), (&["-w", "here"], "base:1", "here"),
    ] {
        for verb in [&["run"][..], &["run", "--rm"], &["run", "-d"], &["create"]] {
            let out = b.call(&[verb, flags, &[image, "id"]].concat())?;
            is_clear(&out, named).with_context(|| format!("{verb:?} {flags:?}"))?;
            same!((verb, flags, out.code), (verb, flags, 125));
        }
        nothing_left(&b)?;
    }
    for words in [&["run"][..], &["run", "--rm"], &["exec"], &["exec", "web"], &["create"]] {
        let out = b.call(words)?;
        is_clear(&out, "")?;
        same!((words, out.code), (words, 125));
    }
    // Only seen once it is mounted.
    for flags in [&["-w", "/no/such"][..], &["-u", "nobody-here"], &["-v", &over]] {
        let out = b.call(&[&["run"], flags, &["base:1", "id"]].concat())?;
        is_clear(&out, "")?;
        same!((flags, out.code), (flags, 125));
        nothing_left(&b)?;
    }
    // A name that somebody has, who runs or does not.
    b.start("while :; do sleep 0.05; done")?;
    b.says(&["create", "--name", "job", "base:1", "id"])?;
    for name in ["web", "job"] {
        for verb in [&["run"][..], &["run", "--rm"], &["run", "-d"], &["create"]] {
            let out = b.call(&[verb, &["--name", name, "base:1", "id"]].concat())?;
            is_clear(&out, name)?;
            same!((verb, out.code), (verb, 125));
        }
    }
    same!(b.says(&["ps", "-aq"])?.lines().count(), 2);
    let out = b.call(&["exec", "job", "id"])?;
    is_clear(&out, "job")?;
    same!(out.code, 125);
    Ok(())
}

fn commands_that_are_none(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    cx.dir.file("script", "#!/no/such/shell\n")?.mode("script", 0o755)?.file("noise", "\u{1}\u{2}\u{3}")?.mode("noise", 0o755)?;
    let volume = format!("{}:/mnt", cx.dir.0.display());
    b.start("while :; do sleep 0.05; done")?;
    for (command, code) in [
        ("no-such-thing", 127), ("/no/such/path", 127), ("", 127), ("/mnt/script", 127), ("/etc", 126), ("/mnt/noise", 126),
        ("/mnt/root.tar", 126),
    ] {
        for verb in [&["run"][..], &["run", "--rm"], &["run", "-d", "--rm"], &["run", "-t"]] {
            let out = b.call(&[verb, &["-v", &volume, "base:1", command]].concat())?;
            is_clear(&out, command).with_context(|| format!("{verb:?} {command}"))?;
            same!((verb, command, out.code), (verb, command, code));
        }
        if !command.starts_with("/mnt") {
            let out = b.call(&["exec", "web", command])?;
            is_clear(&out, command)?;
            same!((command, out.code), (command, code));
        }
    }
    b.says(&["rm", "-f", "web"])?;
    until("removed", || Ok(nothing_left(&b).is_ok()))
}

/// Where the kernel counts: in a user namespace of our own, whose limits hold for nobody else.
fn more_namespaces_than_allowed(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    for kind in ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"] {
        for run in [format!("--root {} run --rm base:1 id", b.store), format!("run --rootfs {} -- id", cx.dir.p("root").display())] {
            let script = format!("echo 0 > /proc/sys/user/max_{kind}_namespaces || exit 99; exec {} {run}", cx.binary().display());
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user"]);
            if cx.user == User::Ordinary {
                unshare.arg("--map-auto");
            }
            let out = Out::of(unshare.args(["sh", "-c", &script]))?;
            if out.code == 99 {
                return Err(skip(out.stderr));
            }
            is_clear(&out, "namespace: too many of them").with_context(|| kind.to_owned())?;
            same!((kind, out.code), (kind, 125));
            holds!(out.stderr.contains("user.max_"), "{out:?}");
        }
    }
    nothing_left(&b)
}

/// As a container around us would: each call that makes a container, refused or unknown.
fn calls_that_are_refused(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let calls = [
        ("unshare", libc::SYS_unshare), ("clone", libc::SYS_clone), ("mount", libc::SYS_mount), ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root), ("fsopen", libc::SYS_fsopen), ("fsmount", libc::SYS_fsmount),
        ("move_mount", libc::SYS_move_mount), ("open_tree", libc::SYS_open_tree), ("mount_setattr", libc::SYS_mount_setattr),
        ("sethostname", libc::SYS_sethostname), ("openat2", libc::SYS_openat2), ("capset", libc::SYS_capset),
        ("seccomp", libc::SYS_seccomp), ("close_range", libc::SYS_close_range), ("pidfd_open", libc::SYS_pidfd_open),
        ("setresuid", libc::SYS_setresuid), ("setgroups", libc::SYS_setgroups), ("signalfd4", libc::SYS_signalfd4),
        ("landlock_restrict_self", libc::SYS_landlock_restrict_self), ("setsid", libc::SYS_setsid),
    ];
    let mut failed = 0;
    for (name, call) in calls {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let mut command = Command::new(cx.binary());
            command.args(["--root", &b.store, "run", "--rm", "base:1", "id", "-u"]).current_dir("/");
            refuse(&mut command, call, errno);
            let mut out = Out::of(&mut command)?;
            // What it then can't clear up goes with its namespaces.
            out.stderr = out.stderr.lines().filter(|l| !l.starts_with("onlay: warning: ")).fold(String::new(), |s, l| s + l + "\n");
            let what = || format!("{name} refused with {errno}: {out:?}");
            // What it can do without it does without.
            if out.code == 0 {
                same!(out.stdout.as_str(), "0\n");
            } else {
                is_clear(&out, "").with_context(what)?;
                holds!(out.code == 125, "{}", what());
                failed += 1;
            }
            nothing_left(&b).with_context(what)?;
        }
    }
    holds!(failed > 20, "only {failed} of them matter");
    Ok(())
}

/// A filter around an ordinary user comes with no_new_privs.
fn helpers_that_gain_nothing(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    let mut command = Command::new(cx.binary());
    command.args(["--root", &b.store, "run", "--rm", "base:1", "id", "-u"]);
    refuse(&mut command, libc::SYS_swapoff, libc::EPERM);
    let out = Out::of(&mut command)?;
    is_clear(&out, "newuidmap")?;
    holds!(out.code == 125 && out.stderr.contains("no_new_privs"), "{out:?}");
    nothing_left(&b)
}

fn no_dev_fuse(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    for (arrange, named) in [("mount -t tmpfs none /dev", "/dev/fuse"), ("mount --bind /dev/null /dev/fuse", "mount on ")] {
        for run in [format!("--root {} run --rm base:1 id", b.store), format!("run --rootfs {} -- id", cx.dir.p("root").display())] {
            let script = format!("{arrange} || exit 99; exec {} {run}", cx.binary().display());
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "--propagation", "private"]);
            match cx.user {
                User::Root => {}
                User::Norange => drop(unshare.args(["--user", "--map-root-user"])),
                _ => drop(unshare.args(["--user", "--map-root-user", "--map-auto"])),
            }
            let out = Out::of(unshare.args(["sh", "-c", &script]))?;
            is_clear(&out, named).with_context(|| arrange.to_owned())?;
            holds!(out.code == 125 && out.stderr.contains("/dev/fuse"), "{arrange}: {out:?}");
        }
    }
    nothing_left(&b)
}

/// Without a range there is root and nobody else.
fn ids_that_are_not_there(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    for user in ["33", "0:33", "33:33"] {
        let out = b.call(&["run", "-u", user, "base:1", "id"])?;
        is_clear(&out, user)?;
        holds!(out.code == 125 && out.stderr.contains("/etc/subuid"), "{out:?}");
    }
    nothing_left(&b)
}

/// What was written stays, and it starts again; of one that is not to be kept, nothing stays.
fn a_service_killed_in_the_foreground(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    for flags in [&["--name", "web"][..], &["--name", "job", "--rm"]] {
        let script = "test -e /kept && exec cat /kept; echo kept > /kept; echo up; while :; do sleep 0.05; done";
        let mut child = Command::new(cx.binary())
            .args([&["--root", &b.store, "run"], flags, &["base:1", "sh", "-c", script]].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut out = child.stdout.take().context("stdout")?;
        let mut said = [0; 3];
        std::io::Read::read_exact(&mut out, &mut said)?;
        let (monitor, supervisor) = b.processes()?;
        same!((&said, monitor.as_raw()), (b"up\n", child.id().cast_signed()));
        kill(supervisor, Signal::SIGKILL)?;
        let ended = child.wait_with_output()?;
        let out = Out {
            code: ended.status.code().context("killed")?,
            stdout: String::new(),
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
        };
        is_clear(&out, "killed by SIGKILL")?;
        same!(out.code, 125);
        until("all are gone", || Ok(!is_there(supervisor)))?;
    }
    same!(b.status()?, "exited");
    same!(b.call(&["start", "-a", "web"])?.ok()?.stdout, "kept\n");
    b.says(&["rm", "web"])?;
    nothing_left(&b)
}

fn is_there(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}
