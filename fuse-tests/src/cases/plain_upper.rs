//! An upper that holds whiteouts as `.wh.` files: where it was asked for, and on file systems that take no others.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount, umount2};

use crate::ctx::{Ctx, Out};
use crate::tree::{Tree, cases, fails, holds, same};

cases!("plain_upper":
    asked_for.onlay(), without_attributes.onlay().privileged(), reserved_names.onlay(), stays_as_it_is.onlay(),
    diff.onlay(), whiteout_beside_a_directory.onlay(),
);

const ASK: &str = "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT";

/// Mounts `upper` and `work` over the lower `l`; `ask` for whiteouts as files. What was said.
fn mounted(cx: &Ctx, upper: &Tree, work: &Tree, ask: bool) -> Result<String> {
    let mut cmd = Command::new(cx.binary());
    let (l, u, w) = (cx.dir.p("l"), upper.0.display(), work.0.display());
    cmd.args(["fuse-overlayfs", "-o", &format!("lowerdir={},upperdir={u},workdir={w}", l.display())]);
    cmd.arg(&cx.m.0).current_dir("/").env_remove(ASK);
    if ask {
        cmd.env(ASK, "1");
    }
    Ok(Out::of(&mut cmd)?.ok()?.stderr)
}

fn umount(cx: &Ctx) -> Result<()> {
    cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    cx.wait_for_daemons()
}

fn lower(cx: &Ctx) -> Result<()> {
    let l = Tree(cx.dir.p("l"));
    l.file("f", "below")?.file("g", "below")?.file("d/old", "old")?.file("d/sub/old", "old")?.file("e/x", "x")?;
    l.file("big", vec![b'b'; 100_000])?.mode("big", 0o4755)?.dir("empty")?.file("file", "was a file")?;
    Ok(())
}

/// Deletes, replaces, renames and links; then looks whether it is all there after another mount.
fn changes(cx: &Ctx, upper: &Tree, work: &Tree, ask: bool) -> Result<()> {
    let m = cx.m.clone();
    m.rm("f")?;
    std::fs::remove_dir_all(m.p("d"))?;
    m.dir("d")?.file("d/new", "new")?;
    same!(m.ls("d")?, "new");
    // A lower directory does not move; mv(1) copies it then.
    fails!(std::fs::rename(m.p("e"), m.p("moved")), EXDEV);
    Out::of(Command::new("mv").arg(m.p("e")).arg(m.p("moved")))?.ok()?;
    same!((m.read("moved/x")?, m.has("e")?), ("x".to_owned(), false));
    // A directory over a whiteout, and over a directory that shows nothing.
    m.dir("made")?.file("made/y", "y")?.mv("made", "e")?;
    same!(m.ls("e")?, "y");
    m.rm("moved/x")?.mv("e", "moved")?.mv("moved", "e")?;
    m.mv("g", "h")?.hard("h", "i")?.rm("file")?.dir("file")?.file("empty/in", "")?;
    // All of it goes up for a change of mode.
    m.mode("big", 0o600)?;
    same!(upper.stat("big")?.len(), 100_000);
    holds!(m.listx("big")?.is_empty());
    let seen = |m: &Tree| -> Result<()> {
        same!(m.ls("")?, "big d e empty file h i");
        same!((m.ls("d")?, m.ls("e")?, m.ls("file")?, m.ls("empty")?), ("new".into(), "y".into(), "".into(), "in".into()));
        same!((m.read("h")?, m.stat("h")?.nlink()), ("below".to_owned(), 2));
        same!((m.bits("big")?, m.read("big")?.len()), (0o600, 100_000));
        fails!(std::fs::metadata(m.p("d/old")), ENOENT);
        Ok(())
    };
    seen(&m)?;
    umount(cx)?;
    same!(upper.ls("")?, ".wh..wh.aufs .wh.f .wh.g big d e empty file h i");
    same!((upper.ls("d")?, upper.ls("file")?), (".wh..wh..opq new".to_owned(), ".wh..wh..opq".to_owned()));
    for name in ["", "d", "big", "h"] {
        let attrs = upper.listx(name)?;
        holds!(!attrs.iter().any(|a| a.contains("overlay")), "{name}: {attrs:?}");
    }
    same!(Tree(work.p("work")).ls("")?, "");
    mounted(cx, upper, work, ask)?;
    seen(&m)?;
    m.file("f", "again")?;
    umount(cx)?;
    holds!(!upper.has(".wh.f")?);
    same!(Tree(cx.dir.p("l")).read("f")?, "below");
    Ok(())
}

fn asked_for(cx: &mut Ctx) -> Result<()> {
    lower(cx)?;
    let (upper, work) = (cx.upper.clone(), cx.work.clone());
    same!(mounted(cx, &upper, &work, true)?, "");
    // Next time it need not be asked for: the upper says so itself.
    changes(cx, &upper, &work, false)
}

/// The one file system of every kernel that has no attributes for programs.
fn without_attributes(cx: &mut Ctx) -> Result<()> {
    lower(cx)?;
    let at = Tree(cx.dir.dir("r")?.p("r"));
    mount(Some("none"), &at.0, Some("ramfs"), MsFlags::empty(), None::<&str>).context("mount a ramfs")?;
    let (upper, work) = (Tree(at.p("u")), Tree(at.p("w")));
    upper.dir("")?;
    work.dir("")?;
    let said = mounted(cx, &upper, &work, false)?;
    holds!(said.lines().count() == 1 && said.contains(".wh.") && said.contains("r/u"), "{said}");
    let done = changes(cx, &upper, &work, false);
    if done.is_err() {
        crate::ctx::detach_below(&cx.m.0)?;
        cx.wait_for_daemons()?;
    }
    umount2(&at.0, nix::mount::MntFlags::MNT_DETACH)?;
    done
}

/// Names that a whiteout would need can't be had, nor can what would have to be marked.
fn reserved_names(cx: &mut Ctx) -> Result<()> {
    lower(cx)?;
    mounted(cx, &cx.upper, &cx.work, true)?;
    let m = cx.m.clone();
    for name in [".wh.x", ".wh..wh..opq", ".wh."] {
        fails!(std::fs::write(m.p(name), ""), EINVAL);
        fails!(std::fs::create_dir(m.p(name)), EINVAL);
        fails!(std::fs::rename(m.p("f"), m.p(name)), EINVAL);
        fails!(std::fs::metadata(m.p(name)), ENOENT);
    }
    // A name in use is no longer than one that can be hidden; others are.
    let long = "n".repeat(255);
    m.file(&long, "long")?.rm(&long)?;
    same!(m.ls("")?, "big d e empty f file g");
    umount(cx)
}

/// Marks or files: what an upper has it keeps, whatever is asked for.
fn stays_as_it_is(cx: &mut Ctx) -> Result<()> {
    lower(cx)?;
    mounted(cx, &cx.upper, &cx.work, false)?;
    cx.m.mv("d", "d2")?;
    umount(cx)?;
    let said = mounted(cx, &cx.upper, &cx.work, true)?;
    holds!(said.contains("devices"), "{said}");
    cx.m.rm("f")?;
    same!((cx.m.ls("")?, cx.m.ls("d2/sub")?), ("big d2 e empty file g".to_owned(), "old".to_owned()));
    umount(cx)?;
    holds!(!cx.upper.has(".wh.f")? && cx.upper.has("f")?);
    Ok(())
}

fn diff(cx: &mut Ctx) -> Result<()> {
    lower(cx)?;
    mounted(cx, &cx.upper, &cx.work, true)?;
    cx.m.rm("f")?.append("g", "+")?.file("new", "")?;
    std::fs::remove_dir_all(cx.m.p("d"))?;
    cx.m.file("d/new", "")?;
    umount(cx)?;
    let (upper, lower) = (cx.upper.0.display().to_string(), cx.dir.p("l").display().to_string());
    let said = cx.onlay(&["diff", &upper, "--lower", &lower])?.ok()?.stdout;
    same!(said, "C /d\nA /d/new\nD /d/old\nD /d/sub\nD /f\nC /g\nA /new\n");
    let said = cx.onlay(&["diff", &upper])?.ok()?.stdout;
    same!(said, "A /d\nA /d/new\nD /f\nA /g\nA /new\n");
    Ok(())
}

/// In a layer, both at once: the directory is new, and what was there before it is gone (OCI image spec, layers).
fn whiteout_beside_a_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/new", "")?.file(".wh.d", "")?;
    cx.lower()?.file("d/old", "")?.file("d/sub/old", "")?;
    let m = cx.mount()?;
    same!((m.ls("")?, m.ls("d")?), ("d".to_owned(), "new".to_owned()));
    fails!(std::fs::metadata(m.p("d/old")), ENOENT);
    Ok(())
}
