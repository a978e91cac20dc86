//! Owners set inside by a user without subordinate ids, of whose the kernel knows one only.

use std::process::Command;

use anyhow::Result;

use super::run::{small_root, with_upper};
use crate::case::User;
use crate::ctx::Ctx;
use crate::tree::{cases, holds, same};

const NORANGE: &[User] = &[User::Norange];

cases!("owners":
    are_remembered.onlay().by(NORANGE), names_are_the_callers.onlay().by(NORANGE), only_the_views.onlay().by(NORANGE),
    races.onlay().by(NORANGE),
);

/// The owner that the upper remembers.
fn remembered(cx: &Ctx, path: &str) -> Result<String> {
    let value = cx.upper.getx(path, "user.containers.override_stat")?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&value).into_owned())
}

fn are_remembered(cx: &mut Ctx) -> Result<()> {
    let seen = with_upper(cx, "cd /etc; touch a b link-to-me; mkdir -p c/d; touch c/d/e; ln -s link-to-me l; \
        chown 33:44 a; chown :5 b; chown -R 1000:1000 c; chown 7 l; chown -h 9 l; chown 12 /etc/hostname; \
        install -o 8 -g 9 a installed; chmod 6755 b; chown 6 b; cp a copy; chown --reference=a copy; \
        stat -c %u:%g a c c/d/e hostname; stat -c %a b")?;
    // The kernel knows one id only, and would let nobody write to what another owns.
    same!(seen, "0:0\n0:0\n0:0\n0:0\n755");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata("/etc/hostname")?) & 0o7777;
    for (path, want) in [
        ("a", "33:44:0644:file"), ("b", "6:5:0755:file"), ("c", "1000:1000:0755:dir"), ("c/d/e", "1000:1000:0644:file"),
        ("link-to-me", "7:0:0644:file"), ("hostname", &format!("12:0:0{mode:o}:file")), ("installed", "8:9:0755:file"),
    ] {
        same!((path, remembered(cx, &format!("etc/{path}"))?), (path, want.to_owned()));
    }
    // And stay remembered: by a run that does not touch them, and until they are given back.
    with_upper(cx, "chmod 600 /etc/a; mv /etc/c /etc/moved; chown 0:0 /etc/b")?;
    let now = ["a", "moved/d/e", "b"].map(|p| remembered(cx, &format!("etc/{p}")));
    let [a, e, b] = now;
    same!([a?, e?, b?], ["33:44:0600:file", "1000:1000:0644:file", "0:0:0755:file"].map(str::to_owned));
    // Errors are those of chown(2).
    let script = "chown 5 /etc/none 2>&1; chown 5 /etc/a/x 2>&1; ln -s y /etc/y; chown 5 /etc/y 2>&1; true";
    let said = with_upper(cx, script)?;
    for error in ["No such file", "Not a directory", "Too many levels"] {
        holds!(said.contains(error), "{error}: {said}");
    }
    let (u, w) = (cx.upper.0.display().to_string(), cx.work.0.display().to_string());
    let args = ["run", "--host", "--cap-drop", "CHOWN", "--upper", &u, "--work", &w, "--", "chown", "5", "/etc/a"];
    let out = cx.onlay(&args)?;
    holds!(out.code == 1 && out.stderr.contains("not permitted"), "{}", out.stderr);
    let args = ["run", "--host", "--read-only", "--upper", &u, "--work", &w, "--", "chown", "5", "/etc/a"];
    let out = cx.onlay(&args)?;
    holds!(out.code == 1 && out.stderr.contains("Read-only"), "{}", out.stderr);
    same!(remembered(cx, "etc/a")?, "33:44:0600:file");
    Ok(())
}

/// Names are those of the caller, whose root another one is.
fn names_are_the_callers(cx: &mut Ctx) -> Result<()> {
    let root = small_root(cx, "root")?;
    cx.dir.file("root/f", "")?.file("root/j/f", "")?.dir("root/j/d")?.symlink("/f", "root/j/l")?;
    cx.dir.symlink("busybox", "root/bin/chroot")?.symlink("busybox", "root/bin/cp")?;
    let (u, w) = (cx.upper.0.display().to_string(), cx.work.0.display().to_string());
    let script = "cp /bin/busybox /j/busybox; cd /j/d; exec 9</; chroot /j /busybox chown 3 /f; chroot /j /busybox chown 4 /l; \
                  chroot /j /busybox sh -c 'cd d; /busybox chown 5 ../../../../d'; /bin/busybox chown 6 ../../f";
    let args = ["run", "--rootfs", &root, "--upper", &u, "--work", &w, "--", "/bin/sh", "-ec", script];
    cx.onlay(&args)?.ok()?;
    same!((remembered(cx, "j/f")?, remembered(cx, "j/d")?), ("4:0:0644:file".to_owned(), "5:0:0755:dir".to_owned()));
    same!(remembered(cx, "f")?, "6:0:0644:file");
    Ok(())
}

/// What is mounted into the view, or named in the ways of /proc, is refused as ever.
fn only_the_views(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("volume/f", "")?;
    let volume = format!("{}:/tmp", cx.dir.p("volume").display());
    let at = |script: &str| cx.onlay(&["run", "--host", "-v", &volume, "--tmpfs", "/mnt", "--", "sh", "-c", script]);
    for target in ["/tmp/f", "/mnt", "/dev/null", "/dev/shm", "/proc/1", "/proc/self/fd/0", "/proc/1/root/etc/passwd"] {
        let out = at(&format!("chown 5:5 {target}"))?;
        holds!(out.code == 1, "{target}: {}", out.stderr);
    }
    holds!(at("chown 5 /tmp/f")?.stderr.contains("Invalid argument"));
    holds!(cx.dir.listx("volume/f")?.is_empty());
    // A directory of the machine's that was given as standard input is no way out.
    let outside = cx.dir.p("volume");
    let script = "cd /proc/self/fd/0 2>/dev/null; chown 5 f 2>/dev/null; chown 5 /proc/self/fd/0/f 2>/dev/null; echo $?";
    let mut child = Command::new(cx.binary());
    let out = child.args(["run", "--host", "--", "sh", "-c", script]).stdin(std::fs::File::open(&outside)?).output()?;
    same!(String::from_utf8_lossy(&out.stdout), "1\n");
    holds!(cx.dir.listx("volume/f")?.is_empty());
    Ok(())
}

/// Somebody changes what a name stands for while we look it up.
fn races(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("volume/f", "")?;
    let volume = format!("{}:/mnt", cx.dir.p("volume").display());
    let (u, w) = (cx.upper.0.display().to_string(), cx.work.0.display().to_string());
    let script = "mkdir /tmp/r && cd /tmp/r && touch mine && i=0; \
        ( while test ! -e stop; do ln -sfn /mnt/f x; ln -sfn mine x; ln -sfn /proc/1/root/etc/passwd x; ln -sfn /mnt x; done ) & \
        while test $i -lt 300; do chown $i:$i x 2>/dev/null; i=$((i+1)); done; touch stop; wait; chown 77 mine; \
        for j in 1 2 3 4; do ( for k in $(seq 50); do chown $k mine; done ) & done; wait; chown 78 mine";
    let args = ["run", "--host", "-v", &volume, "--tmpfs", "/run", "--upper", &u, "--work", &w, "--", "sh", "-c", script];
    cx.onlay(&args)?.ok()?;
    holds!(cx.dir.listx("volume/f")?.is_empty() && cx.dir.listx("volume")?.is_empty());
    holds!(remembered(cx, "tmp/r/mine")?.starts_with("78:"), "{}", remembered(cx, "tmp/r/mine")?);
    Ok(())
}
