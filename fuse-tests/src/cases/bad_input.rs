//! What makes no sense is refused in one clear line with a hint, and leaves nothing behind.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::Result;

use crate::case::{User, skip};
use crate::ctx::{Ctx, Out, mounts_below};
use crate::tree::{cases, holds, same};

cases!("bad_input":
    missing_directories.onlay(), file_for_directory.onlay(), overlapping.onlay(), other_file_system.onlay(),
    mountpoint_in_use.onlay(), upper_in_use.onlay(), no_layers.onlay(), work_missing.onlay(),
    mountpoint_in_layer.onlay(), unreadable_lower.onlay().by(&[User::Ordinary]),
    unwritable_upper.onlay().by(&[User::Ordinary]), no_dev_fuse.onlay().by(&[User::Root]),
    no_permission_on_dev_fuse.onlay().by(&[User::Root]), no_fusermount.onlay().by(&[User::Ordinary]),
    no_newuidmap.onlay().by(&[User::Ordinary]),
    no_such_command.onlay().by(&[User::Root, User::Ordinary, User::Norange]),
    run_without_root_directory.onlay().by(&[User::Root, User::Ordinary]), diff_of_nothing.onlay(),
    unknown_verb.onlay(), same_layer_twice.onlay(), lower_that_vanishes.onlay(), upper_of_a_newer_format.onlay(),
);

/// One line `onlay: ..` that names `what`, one line `hint: ..`, no success, no output.
pub(super) fn is_clear(out: &Out, what: &str) -> Result<()> {
    let lines: Vec<&str> = out.stderr.lines().collect();
    holds!(out.code != 0 && out.code < 128, "exit {}: {}", out.code, out.stderr);
    holds!(out.stdout.is_empty(), "stdout: {}", out.stdout);
    holds!(lines.len() == 2, "not one line and a hint:\n{}", out.stderr);
    holds!(lines[0].starts_with("onlay: "), "{}", lines[0]);
    holds!(lines[0].contains(what), "does not name {what}: {}", lines[0]);
    holds!(lines[1].starts_with("hint: ") && lines[1].len() > 12, "{}", lines[1]);
    holds!(!lines[0].contains("(os error") && !lines[0].contains("Os {"), "{}", lines[0]);
    Ok(())
}

/// `onlay mount` with these is refused, names `what`, and makes nothing.
fn refused(cx: &Ctx, lowers: &[&str], upper: &str, work: &str, at: &str, what: &str) -> Result<()> {
    let path = |n: &str| if n.starts_with('/') { n.to_owned() } else { cx.dir.p(n).display().to_string() };
    let mut args = vec!["mount".to_owned()];
    for l in lowers {
        args.extend(["--lower".to_owned(), path(l)]);
    }
    for (flag, dir) in [("--upper", upper), ("--work", work)] {
        if !dir.is_empty() {
            args.extend([flag.to_owned(), path(dir)]);
        }
    }
    args.push(path(at));
    let (mounts, before) = (mounts_below(&cx.dir.0)?, listing(cx)?);
    let out = cx.onlay(&args)?;
    is_clear(&out, &path(what)).map_err(|e| e.context(format!("{args:?}")))?;
    same!(mounts_below(&cx.dir.0)?, mounts);
    let new: Vec<_> = listing(cx)?.into_iter().filter(|l| !before.contains(l)).collect();
    holds!(new.is_empty(), "half-made by {args:?}: {new:?}");
    Ok(())
}

/// Every path of the case's directory.
fn listing(cx: &Ctx) -> Result<Vec<String>> {
    let find = Out::of(Command::new("find").arg(&cx.dir.0).arg("-xdev"))?;
    Ok(find.stdout.lines().map(str::to_owned).collect())
}

fn dirs(cx: &Ctx) -> Result<()> {
    cx.dir.dir("low/sub")?.dir("low2")?.file("file", "x")?;
    Ok(())
}

fn missing_directories(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    refused(cx, &["none"], "upper", "work", "mnt", "none")?;
    refused(cx, &["low", "none/x"], "upper", "work", "mnt", "none/x")?;
    refused(cx, &["low"], "none", "work", "mnt", "none")?;
    refused(cx, &["low"], "upper", "none", "mnt", "none")?;
    refused(cx, &["low"], "upper", "work", "none", "none")
}

fn file_for_directory(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    refused(cx, &["file"], "upper", "work", "mnt", "file")?;
    refused(cx, &["low"], "file", "work", "mnt", "file")?;
    refused(cx, &["low"], "upper", "file", "mnt", "file")?;
    refused(cx, &["low"], "upper", "work", "file", "file")
}

fn overlapping(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    cx.dir.dir("upper/in")?.dir("low/w")?.symlink("upper", "also-upper")?;
    for (lowers, upper, work, what) in [
        (&["low"][..], "low", "work", "low"),
        (&["low"], "low/sub", "work", "low/sub"),
        (&["low/sub"], "low", "work", "low"),
        (&["low"], "upper", "upper", "upper"),
        (&["low"], "upper", "upper/in", "upper/in"),
        (&["low"], "upper", "low/w", "low/w"),
        (&["low", "low2"], "low2", "work", "low2"),
        (&["also-upper"], "upper", "work", "upper"),
    ] {
        refused(cx, lowers, upper, work, "mnt", what)?;
    }
    Ok(())
}

fn other_file_system(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    let other = tempfile::Builder::new().prefix("onlay-tests").tempdir_in("/dev/shm")?;
    if std::fs::metadata(other.path())?.dev() == cx.dir.stat("")?.dev() {
        return Err(skip("/dev/shm is no file system of its own here"));
    }
    let work = other.path().display().to_string();
    refused(cx, &["low"], "upper", &work, "mnt", &work)?;
    same!(std::fs::read_dir(other.path())?.count(), 0);
    Ok(())
}

fn mountpoint_in_use(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    let (low, m) = (cx.dir.p("low").display().to_string(), cx.m.0.display().to_string());
    cx.onlay(&["mount", "--lower", &low, &m])?.ok()?;
    let refused = refused(cx, &["low2"], "upper", "work", "mnt", "mnt");
    // Whatever it was, the first one is what is mounted.
    let listed = cx.m.ls("");
    for _ in 0..mounts_below(&cx.dir.0)?.len() {
        cx.onlay(&["umount", &m])?;
    }
    refused?;
    same!(listed?, "sub");
    Ok(())
}

fn upper_in_use(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    cx.lower()?.file("f", "x")?;
    cx.dir.dir("mnt2")?.dir("work2")?.dir("upper2")?;
    cx.mount()?;
    refused(cx, &["low"], "upper", "work2", "mnt2", "upper")?;
    refused(cx, &["low"], "upper2", "work", "mnt2", "work")?;
    // Who has it is told.
    let holders = crate::ctx::daemons(&cx.dir.0)?;
    holds!(holders.len() == 1, "{holders:?}");
    let p = |n: &str| cx.dir.p(n).display().to_string();
    let out = cx.onlay(&["mount", "-l", &p("low"), "-u", &p("upper"), "-w", &p("work2"), &p("mnt2")])?;
    is_clear(&out, &format!("(process {})", holders[0].0))?;
    same!(cx.m.read("f")?, "x");
    Ok(())
}

fn no_layers(cx: &mut Ctx) -> Result<()> {
    is_clear(&cx.onlay(&["mount", &cx.m.0.display().to_string()])?, "no layer")?;
    same!(mounts_below(&cx.dir.0)?.len(), 0);
    Ok(())
}

fn work_missing(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    let p = |n: &str| cx.dir.p(n).display().to_string();
    let o = format!("lowerdir={},upperdir={}", p("low"), p("upper"));
    is_clear(&cx.onlay(&["mount", "-o", &o, &p("mnt")])?, &p("upper"))?;
    let o = format!("lowerdir={},workdir={}", p("low"), p("work"));
    is_clear(&cx.onlay(&["mount", "-o", &o, &p("mnt")])?, &p("work"))?;
    let o = format!("lowerdir={},upperdir=", p("low"));
    is_clear(&cx.onlay(&["mount", "-o", &o, &p("mnt")])?, "upperdir")?;
    same!(mounts_below(&cx.dir.0)?.len(), 0);
    Ok(())
}

fn mountpoint_in_layer(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    refused(cx, &["low"], "upper", "work", "low/sub", "low/sub")
}

fn unreadable_lower(cx: &mut Ctx) -> Result<()> {
    if std::fs::read_dir("/root").is_ok() {
        return Err(skip("/root is open to everybody here"));
    }
    refused(cx, &["/root"], "upper", "work", "mnt", "/root")
}

fn unwritable_upper(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    cx.dir.dir("ro")?.mode("ro", 0o555)?;
    refused(cx, &["low"], "ro", "work", "mnt", "ro")?;
    refused(cx, &["low"], "/etc", "work", "mnt", "/etc")?;
    refused(cx, &["low"], "upper", "work", "/etc", "/etc")
}

fn same_layer_twice(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    refused(cx, &["low", "low2", "low/../low"], "", "", "mnt", "low/../low")
}

/// A layer that is removed under a live mount: errors, no hang, and an unmount in good order.
fn lower_that_vanishes(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("low/f", "x")?.file("low/d/g", "y")?.file("low2/kept", "k")?;
    let p = |n: &str| cx.dir.p(n).display().to_string();
    let (upper, work) = (cx.upper.0.display().to_string(), cx.work.0.display().to_string());
    let (low, low2, m) = (p("low"), p("low2"), p("mnt"));
    cx.onlay(&["mount", "--lower", &low, "--lower", &low2, "--upper", &upper, "--work", &work, &m])?.ok()?;
    same!(cx.m.read("d/g")?, "y");
    std::fs::remove_dir_all(&low)?;
    for name in ["f", "d/g", "none"] {
        // What the kernel knows it may still show.
        if let Ok(text) = cx.m.read(name) {
            holds!(name != "none" && text.len() < 2);
        }
    }
    cx.m.file("new", "n")?;
    same!((cx.m.read("kept")?, cx.m.read("new")?), ("k".to_owned(), "n".to_owned()));
    holds!(std::fs::read_dir(&cx.m.0)?.filter_map(Result::ok).any(|e| e.file_name() == "kept"));
    cx.onlay(&["umount", &m])?.ok()?;
    same!(cx.upper.read("new")?, "n");
    // The next mount says what is missing.
    refused(cx, &["low", "low2"], "upper", "work", "mnt", "low")
}

/// Runs onlay where `/dev` is ours to arrange.
fn with_dev(cx: &Ctx, arrange: &str, user: &str) -> Result<Out> {
    dirs(cx)?;
    let script = format!(
        "set -e; mount -t tmpfs -o mode=755 none /dev; mknod -m 666 /dev/null c 1 3; {arrange}
         exec {user} {} mount --lower {low} --upper {upper} --work {work} {m}",
        cx.binary().display(),
        low = cx.dir.p("low").display(),
        upper = cx.upper.0.display(),
        work = cx.work.0.display(),
        m = cx.m.0.display()
    );
    Out::of(Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]))
}

fn no_dev_fuse(cx: &mut Ctx) -> Result<()> {
    is_clear(&with_dev(cx, "", "")?, "/dev/fuse")?;
    same!((cx.upper.ls("")?, cx.m.ls("")?), (String::new(), String::new()));
    Ok(())
}

fn no_permission_on_dev_fuse(cx: &mut Ctx) -> Result<()> {
    for d in ["upper", "work", "mnt"] {
        cx.dir.owner(d, 1234, 1234)?;
    }
    let user = "setpriv --reuid 1234 --regid 1234 --clear-groups";
    is_clear(&with_dev(cx, "mknod -m 600 /dev/fuse c 10 229;", user)?, "/dev/fuse")
}

/// Runs onlay where only these programs are found.
fn with_path(cx: &Ctx, programs: &[&str], args: &[&str]) -> Result<Out> {
    cx.dir.dir("bin")?;
    for p in programs {
        let found = ["/bin", "/usr/bin", "/usr/local/bin"].iter().map(|d| format!("{d}/{p}"));
        if let Some(real) = found.into_iter().find(|f| std::path::Path::new(f).exists()) {
            cx.dir.symlink(&real, &format!("bin/{p}"))?;
        }
    }
    Out::of(Command::new(cx.binary()).args(args).env("PATH", cx.dir.p("bin")).current_dir("/"))
}

fn no_fusermount(cx: &mut Ctx) -> Result<()> {
    dirs(cx)?;
    let p = |n: &str| cx.dir.p(n).display().to_string();
    let out = with_path(cx, &["sh"], &["mount", "--lower", &p("low"), &p("mnt")])?;
    if out.code == 0 {
        cx.onlay(&["umount", &p("mnt")])?.ok()?;
        return Err(skip("the helper is found by its full path"));
    }
    is_clear(&out, "fusermount3")
}

fn no_newuidmap(cx: &mut Ctx) -> Result<()> {
    let out = with_path(cx, &["sh", "true", "fusermount3"], &["run", "--host", "--", "/bin/true"])?;
    is_clear(&out, "newuidmap")?;
    same!(out.code, 125);
    Ok(())
}

fn no_such_command(cx: &mut Ctx) -> Result<()> {
    for command in ["no-such-command-at-all", "/no/such/path"] {
        let out = cx.onlay(&["run", "--host", "--", command])?;
        is_clear(&out, command)?;
        same!(out.code, 127);
    }
    Ok(())
}

fn run_without_root_directory(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("file", "")?.dir("low")?;
    for name in ["none", "file"] {
        let path = cx.dir.p(name).display().to_string();
        for flag in ["--rootfs", "--lower"] {
            let out = cx.onlay(&["run", flag, &path, "--", "/bin/true"])?;
            is_clear(&out, &path)?;
            same!(out.code, 125);
        }
    }
    // A command that an empty root does not have.
    let out = cx.onlay(&["run", "--rootfs", &cx.dir.p("low").display().to_string(), "--", "/bin/true"])?;
    holds!(out.code == 125 || out.code == 127, "{out:?}");
    is_clear(&out, "")?;
    same!(cx.dir.ls("low")?, "");
    Ok(())
}

fn diff_of_nothing(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("file", "")?;
    for name in ["none", "file"] {
        let path = cx.dir.p(name).display().to_string();
        is_clear(&cx.onlay(&["diff", &path])?, &path)?;
    }
    Ok(())
}

fn unknown_verb(cx: &mut Ctx) -> Result<()> {
    for args in [&["mout"][..], &["mount"], &["mount", "--no-such-flag"], &[]] {
        let out = cx.onlay(args)?;
        holds!(out.code != 0 && !out.stderr.is_empty(), "{args:?}: {out:?}");
        holds!(!out.stderr.contains("panicked"), "{}", out.stderr);
    }
    Ok(())
}

/// A mount that left word of a feature that we do not know; so it is with the kernel's union.
fn upper_of_a_newer_format(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    cx.work.dir("work/incompat/time-travel")?;
    cx.upper.file("kept", "k")?;
    let out = cx.onlay(&cx.mount_args()?)?;
    is_clear(&out, "time-travel")?;
    holds!(mounts_below(&cx.dir.0)?.is_empty());
    // Nothing was touched.
    holds!(cx.work.has("work/incompat/time-travel")? && cx.upper.read("kept")? == "k");
    std::fs::remove_dir_all(cx.work.p("work/incompat"))?;
    same!(cx.mount()?.ls("")?, "f kept");
    Ok(())
}
