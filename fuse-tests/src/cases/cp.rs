//! `onlay cp`: docker's rules, in containers that run and that do not, and what hostile ones try.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::bad_input::is_clear;
use super::lifecycle::Shelf;
use super::run::ALL;
use crate::case::User;
use crate::ctx::{Ctx, Out};
use crate::tree::{cases, holds, same};

const MAPPED: &[User] = &[User::Root, User::Ordinary];

cases!("cp":
    out_and_in.onlay().by(ALL), as_archives.onlay().by(ALL), owners_by_the_map.onlay().by(MAPPED),
    owners_that_are_remembered.onlay().by(&[User::Norange]), links_lead_nowhere_else.onlay().by(ALL), mistakes_are_told.onlay().by(ALL), all_kinds.onlay().by(ALL),
);

/// A store with a container `web`, which runs.
fn running<'a>(cx: &'a Ctx) -> Result<Shelf<'a>> {
    let b = Shelf::new(cx)?;
    with_web(&b, true)?;
    Ok(b)
}

/// A container `web`, which runs or not.
fn with_web(b: &Shelf<'_>, runs: bool) -> Result<()> {
    let script = "mkdir -p /data/sub; echo a > /data/a; echo b > /data/sub/b; echo up";
    if runs {
        b.start(&format!("{script}; while :; do sleep 0.05; done"))?;
        super::lifecycle::until("up", || Ok(b.says(&["logs", "web"])? == "up"))?;
    } else {
        b.says(&["run", "--name", "web", "base:1", "sh", "-c", script])?;
    }
    Ok(())
}

/// What a shell says in the container, which is left as it was.
fn look(b: &Shelf<'_>, runs: bool, script: &str) -> Result<String> {
    if runs {
        return b.says(&["exec", "web", "sh", "-c", script]);
    }
    b.says(&["commit", "-q", "web", "look:1"])?;
    let said = b.says(&["run", "--rm", "look:1", "sh", "-c", script]);
    b.says(&["rmi", "look:1"])?;
    said
}

fn out_and_in(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    for runs in [true, false] {
        with_web(&b, runs)?;
        let out = format!("out{runs}");
        cx.dir.dir(&out)?;
        let here = |name: &str| cx.dir.p(format!("{out}/{name}")).display().to_string();
        let read = |name: &str| cx.dir.read(&format!("{out}/{name}"));
        let cp = |from: &str, to: &str| b.says(&["cp", from, to]).map(drop);
        // A file: to a name, into a directory, over a file.
        cp("web:/data/a", &here("new"))?;
        cp("web:data/sub/b", &here(""))?;
        cp("web:/data/sub/b", &here("new"))?;
        same!((read("new")?, read("b")?), ("b\n".to_owned(), "b\n".to_owned()));
        // A directory: under a new name, into one, its contents.
        cp("web:/data", &here("copy"))?;
        cp("web:/data", &here(""))?;
        cx.dir.dir(&format!("{out}/into"))?;
        cp("web:/data/.", &here("into"))?;
        for dir in ["copy", "data", "into"] {
            same!((read(&format!("{dir}/a"))?, read(&format!("{dir}/sub/b"))?), ("a\n".to_owned(), "b\n".to_owned()));
        }
        // The other way.
        cp(&here("new"), "web:/tmp/n")?;
        cp(&here("new"), "web:/tmp")?;
        cp(&here("copy"), "web:/tmp")?;
        cp(&here("copy"), "web:/srv")?;
        cp(&format!("{}/.", here("into")), "web:/etc/")?;
        let want = "b\nb\na\nb\na\na\nb";
        same!(look(&b, runs, "cat /tmp/n /tmp/new /tmp/copy/a /tmp/copy/sub/b /srv/a /etc/a /etc/sub/b")?, want);
        let listed: serde_json::Value = serde_json::from_str(&b.says(&["ps", "-a", "--format", "json"])?)?;
        same!(listed[0]["status"].as_str(), Some(if runs { "running" } else { "exited" }));
        b.says(&["rm", "-f", "web"])?;
    }
    Ok(())
}

fn as_archives(cx: &mut Ctx) -> Result<()> {
    let b = running(cx)?;
    let mut tar = Command::new("tar").args(["-t"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let out = Command::new(cx.binary())
        .args(["--root", &b.store, "cp", "web:/data", "-"])
        .stdout(tar.stdin.take().context("stdin")?)
        .status()?;
    let listed = String::from_utf8(tar.wait_with_output()?.stdout)?;
    let mut names: Vec<_> = listed.lines().map(|l| l.trim_end_matches('/')).collect();
    names.sort_unstable();
    same!((out.code(), names), (Some(0), vec!["data", "data/a", "data/sub", "data/sub/b"]));
    // In again, with names of its own.
    cx.dir.file("t/x/y", "y")?;
    let mut tar = Command::new("tar").args(["-C", &cx.dir.p("t").display().to_string(), "-c", "."]).stdout(Stdio::piped()).spawn()?;
    let out = Command::new(cx.binary())
        .args(["--root", &b.store, "cp", "-", "web:/tmp"])
        .stdin(tar.stdout.take().context("stdout")?)
        .status()?;
    tar.wait()?;
    same!((out.code(), look(&b, true, "cat /tmp/x/y")?), (Some(0), "y".to_owned()));
    Ok(())
}

fn owners_by_the_map(cx: &mut Ctx) -> Result<()> {
    let b = Shelf::new(cx)?;
    for runs in [true, false] {
        with_web(&b, runs)?;
        cx.dir.file("in", "x")?.mode("in", 0o4755)?;
        let file = cx.dir.p("in").display().to_string();
        // Root's, as docker has it.
        b.says(&["cp", &file, "web:/tmp/plain"])?;
        same!(look(&b, runs, "stat -c '%u:%g %a' /tmp/plain")?, "0:0 755");
        if runs {
            b.says(&["exec", "web", "sh", "-c", "busybox chown 33:44 /data/a; busybox chmod 4755 /data/a"])?;
            let moved = b.call(&["cp", "-a", "web:/data/a", &cx.dir.p("kept").display().to_string()])?.ok()?;
            let kept = std::fs::metadata(cx.dir.p("kept"))?;
            match cx.user {
                User::Root => same!((kept.uid(), kept.gid(), kept.mode() & 0o7777), (33, 44, 0o4755)),
                _ => holds!(moved.stderr.contains("owners can't be kept"), "{moved:?}"),
            }
            // Without it they are whoever's calls, and nothing is set-user-id.
            b.says(&["cp", "web:/data/a", &cx.dir.p("mine").display().to_string()])?;
            let mine = std::fs::metadata(cx.dir.p("mine"))?;
            same!((mine.uid(), mine.mode() & 0o7777), (nix::unistd::geteuid().as_raw(), 0o755));
            // From container to container by an archive: as they were.
            let script = format!("{0} --root {1} cp web:/data - | {0} --root {1} cp - web:/srv", cx.binary().display(), b.store);
            b.says(&["exec", "web", "mkdir", "/srv"])?;
            Out::of(Command::new("sh").args(["-c", &script]))?.ok()?;
            same!(look(&b, true, "stat -c '%u:%g %a' /srv/data/a")?, "33:44 4755");
        }
        b.says(&["rm", "-f", "web"])?;
    }
    Ok(())
}

/// With one id only all is shown as root's, and yet known.
fn owners_that_are_remembered(cx: &mut Ctx) -> Result<()> {
    let b = running(cx)?;
    let script = "busybox chown 33:44 /data/a; busybox chown 1000 /data/sub; busybox chown 7:8 /etc; echo mine > /data/mine";
    b.says(&["exec", "web", "sh", "-c", script])?;
    let listed = |from: &str| -> Result<Vec<String>> {
        let script = format!("{} --root {} cp {from} - | tar -tv --numeric-owner", cx.binary().display(), b.store);
        let out = Out::of(Command::new("sh").args(["-c", &script]))?.ok()?;
        let line = |l: &str| {
            let words: Vec<_> = l.split_whitespace().collect();
            format!("{} {}", words.get(1).unwrap_or(&""), words.last().unwrap_or(&"").trim_end_matches('/'))
        };
        Ok(out.stdout.lines().map(line).collect())
    };
    let want = ["0/0 data", "33/44 data/a", "0/0 data/mine", "1000/0 data/sub", "0/0 data/sub/b"];
    same!(listed("web:/data")?, want);
    same!(listed("web:/etc")?.first().cloned(), Some("7/8 etc".to_owned()));
    // What is asked for is no attribute that one can set, or see in a list; nor does it help outside of the view.
    let forge = b.call(&["exec", "web", "busybox", "setfattr", "-n", "user.onlay.owner", "-v", "5:5", "/data/mine"])?;
    holds!(forge.code != 0 || listed("web:/data/mine")? == ["0/0 mine"], "{forge:?}");
    // In again, by an archive and as files: known as before, whoever runs or not.
    b.says(&["exec", "web", "sh", "-c", "busybox mkdir /srv; busybox ln -s a /data/sub/link"])?;
    let script = format!("{0} --root {1} cp web:/data - | {0} --root {1} cp - web:/srv", cx.binary().display(), b.store);
    let said = Out::of(Command::new("sh").args(["-c", &script]))?.ok()?;
    same!(said.stderr, "");
    let copied = ["0/0 data", "33/44 data/a", "0/0 data/mine", "1000/0 data/sub", "0/0 data/sub/b"];
    let shown = |of: Vec<String>| of.into_iter().filter(|l| !l.contains("link") && !l.ends_with(" a")).collect::<Vec<_>>();
    same!(shown(listed("web:/srv/data")?), copied);
    b.says(&["exec", "web", "busybox", "rm", "/data/sub/link"])?;
    let file = cx.dir.file("given", "x")?.p("given").display().to_string();
    let whose = nix::unistd::geteuid();
    b.says(&["cp", "-a", &file, "web:/tmp/given"])?;
    same!(listed("web:/tmp/given")?, [format!("{whose}/{} given", nix::unistd::getegid())]);
    same!(b.says(&["exec", "web", "busybox", "stat", "-c", "%u:%g", "/tmp/given"])?, "0:0");
    // Of those that do not run the same is known.
    b.says(&["kill", "web"])?;
    same!(listed("web:/data")?, want);
    b.says(&["cp", "-a", &file, "web:/tmp/later"])?;
    same!(listed("web:/tmp/later")?, [format!("{whose}/{} later", nix::unistd::getegid())]);
    // It is not ours to give here.
    let moved = b.call(&["cp", "-a", "web:/data/a", &cx.dir.p("kept").display().to_string()])?.ok()?;
    holds!(moved.stderr.contains("owners can't be kept"), "{moved:?}");
    Ok(())
}

fn links_lead_nowhere_else(cx: &mut Ctx) -> Result<()> {
    let secret = cx.dir.file("secret", "outside")?.p("secret").display().to_string();
    let outside = cx.dir.dir("outside")?.p("outside").display().to_string();
    let b = Shelf::new(cx)?;
    for runs in [true, false] {
        with_web(&b, runs)?;
        let make = format!("ln -s {secret} /data/leak; ln -s {outside} /data/dir; ln -s ../../../../../../..{secret} /data/up; ln -s a /data/good");
        if runs {
            b.says(&["exec", "web", "busybox", "sh", "-c", &make.replace("ln ", "busybox ln ")])?;
        } else {
            b.says(&["rm", "web"])?;
            let script = format!("mkdir /data; echo a > /data/a; {}", make.replace("ln ", "busybox ln "));
            b.says(&["run", "--name", "web", "base:1", "busybox", "sh", "-c", &script])?;
        }
        let target = format!("got{runs}");
        let to = cx.dir.dir(&target)?.p(&target).display().to_string();
        // Followed, they are looked for inside, where there is no such thing.
        for name in ["leak", "up"] {
            let out = b.call(&["cp", "-L", &format!("web:/data/{name}"), &to])?;
            holds!(out.code == 1 && out.stderr.contains("hint:"), "{out:?}");
        }
        b.says(&["cp", "-L", "web:/data/good", &to])?;
        // As links they come along, and are no way out for what follows.
        b.says(&["cp", "web:/data/.", &to])?;
        same!(std::fs::read_link(cx.dir.p(format!("{target}/leak")))?, Path::new(&secret));
        cx.dir.file("more/dir/x", "x")?.file("more/leak", "over")?;
        let out = b.call(&["cp", &format!("{}/.", cx.dir.p("more").display()), "web:/data"])?;
        holds!(out.code == 1 && out.stderr.contains("/data/dir"), "{out:?}");
        // One that leads nowhere inside is replaced.
        b.says(&["cp", &cx.dir.p("more/leak").display().to_string(), "web:/data/dir"])?;
        same!(look(&b, runs, "cat /data/dir")?, "over");
        same!((cx.dir.read("secret")?, cx.dir.ls("outside")?), ("outside".to_owned(), String::new()));
        b.says(&["rm", "-f", "web"])?;
    }
    Ok(())
}

fn mistakes_are_told(cx: &mut Ctx) -> Result<()> {
    let b = running(cx)?;
    cx.dir.file("f", "")?.dir("d")?;
    let (f, d) = (cx.dir.p("f").display().to_string(), cx.dir.p("d").display().to_string());
    for (from, to, named) in [
        ("web:/none", f.as_str(), "/none"), ("web:/data", &f, &f), ("web:/data/a", &format!("{f}/x"), &f),
        ("web:/data/a", "/no/such/dir/x", "/no/such/dir"), ("/no/such", "web:/tmp", "/no/such"),
        (&d, "web:/data/a", "/data/a"), (&f, "web:/no/dir/x", "/no/dir"), (&f, "web:/data/new/", "/data/new/"),
        ("none:/x", &f, "none"), (&f, &d, "container"), ("web:/a", "web:/b", "container"),
    ] {
        let out = b.call(&["cp", from, to])?;
        is_clear(&out, named).with_context(|| format!("cp {from} {to}"))?;
    }
    // Nothing was made.
    same!(look(&b, true, "ls /tmp")?, "");
    let mut gzip = Command::new(cx.binary());
    gzip.args(["--root", &b.store, "cp", "-", "web:/tmp"]);
    let mut child = gzip.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("stdin")?, &[0x1f, 0x8b, 8, 0].repeat(300))?;
    let said = child.wait_with_output()?;
    holds!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("hint:"), "{said:?}");
    Ok(())
}

fn all_kinds(cx: &mut Ctx) -> Result<()> {
    let b = running(cx)?;
    let long = "n".repeat(200);
    let script = format!(
        "cd /data; busybox ln a hard; busybox ln -s a soft; busybox mkfifo fifo; mkdir -p {long}/{long}; echo deep > {long}/{long}/f; \
         busybox dd if=/dev/zero of=big bs=1M count=9 2>/dev/null; echo end >> big; busybox chmod 500 sub; busybox touch -d @1000000000 sub a"
    );
    b.says(&["exec", "web", "busybox", "sh", "-c", &script])?;
    let to = cx.dir.p("got").display().to_string();
    b.says(&["cp", "web:/data", &to])?;
    let meta = |name: &str| std::fs::symlink_metadata(cx.dir.p(format!("got/{name}")));
    same!(meta("a")?.ino(), meta("hard")?.ino());
    same!((meta("sub")?.mtime(), meta("a")?.mtime(), meta("sub")?.mode() & 0o777), (1_000_000_000, 1_000_000_000, 0o500));
    same!(cx.dir.read(&format!("got/{long}/{long}/f"))?, "deep\n");
    same!(std::fs::read(cx.dir.p("got/big"))?.len(), (9 << 20) + 4);
    holds!(std::os::unix::fs::FileTypeExt::is_fifo(&meta("fifo")?.file_type()) && meta("soft")?.is_symlink());
    // And in again: the same.
    b.says(&["cp", &to, "web:/again"])?;
    let sums = "cd /again && busybox find . ! -type p ! -type d | busybox sort | busybox xargs busybox md5sum";
    same!(look(&b, true, sums)?, look(&b, true, &sums.replace("/again", "/data"))?);
    std::fs::set_permissions(cx.dir.p("got/sub"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}
