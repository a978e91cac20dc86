//! Layers written by others, and uppers read by others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

use crate::case::User;
use crate::ctx::Ctx;
use crate::manifest::{Manifest, What};
use crate::tree::{Tree, cases, fails, holds, same};

cases!("dialect":
    aufs_whiteouts.onlay(), aufs_opaque.onlay(), wh_names_in_upper_are_ordinary.onlay(), fuse_overlayfs_opaque.onlay(),
    override_stat.onlay(), kernel_reads_ours.onlay().by(&[User::Root]), we_read_kernels.onlay().by(&[User::Root]),
    kernel_reads_ours_rootless.onlay().by(&[User::Userns]), we_read_kernels_rootless.onlay().by(&[User::Userns]),
    kernel_refuses_rootless.onlay().by(&[User::Userns]),
);

fn aufs_whiteouts(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file(".wh.gone", "")?.file("d/.wh.gone", "")?.file("d/.wh.dir", "")?.file("d/top", "")?;
    cx.lower()?.file("gone", "")?.file("d/gone", "")?.file("d/dir/f", "")?.file("d/here", "")?;
    let m = cx.mount()?;
    fails!(fs::metadata(m.p("gone")), ENOENT);
    fails!(fs::metadata(m.p("d/dir/f")), ENOENT);
    same!((m.ls("")?, m.ls("d")?), ("d".to_owned(), "here top".to_owned()));
    m.file("gone", "back")?.dir("d/dir")?;
    let m = cx.remount()?;
    same!((m.read("gone")?, m.ls("d/dir")?), ("back".to_owned(), String::new()));
    Ok(())
}

fn aufs_opaque(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/.wh..wh..opq", "")?.file("d/top", "")?;
    cx.lower()?.file("d/below", "")?.file("d/sub/x", "")?;
    let m = cx.mount()?;
    fails!(fs::metadata(m.p("d/below")), ENOENT);
    same!(m.ls("d")?, "top");
    m.mv("d/top", "d/moved")?;
    same!(cx.remount()?.ls("d")?, "moved");
    Ok(())
}

fn wh_names_in_upper_are_ordinary(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("foo", "low")?;
    let m = cx.mount()?;
    m.file(".wh.foo", "mine")?.file("d/.wh..wh..opq", "")?;
    let m = cx.remount()?;
    same!((m.ls("")?, m.ls("d")?), (".wh.foo d foo".to_owned(), ".wh..wh..opq".to_owned()));
    same!((m.read(".wh.foo")?, m.read("foo")?), ("mine".to_owned(), "low".to_owned()));
    Ok(())
}

fn fuse_overlayfs_opaque(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/top", "")?.setx("d", "user.fuseoverlayfs.opaque", "y")?;
    cx.lower()?.file("d/below", "")?;
    same!(cx.mount()?.ls("d")?, "top");
    Ok(())
}

fn override_stat(cx: &mut Ctx) -> Result<()> {
    let attr = "user.containers.override_stat";
    let low = cx.lower()?;
    low.setx("", attr, "0:0:0755:dir")?;
    low.file("f", "x")?.setx("f", attr, "12:34:04711:file")?.file("old", "")?.setx("old", attr, "5:6:0600")?;
    let m = cx.mount()?;
    let st = m.stat("f")?;
    same!((st.uid(), st.gid(), st.mode() & 0o7777), (12, 34, 0o4711));
    same!((m.stat("old")?.uid(), m.bits("old")?), (5, 0o600));
    Ok(())
}

/// Two layers with something of everything that does not need the inode index.
fn layers(cx: &mut Ctx) -> Result<()> {
    let top = cx.lower()?;
    top.file("a/top", "1")?.file("a/both", "top")?.dir("gone-dir/x")?.file("gone", "")?.symlink("a/top", "l")?;
    top.file("meta", "data")?.file("data", "data")?.file("moved", "moved")?.times("moved", -5, 6)?;
    cx.lower()?.file("a/bottom", "2")?.file("a/both", "bottom")?.file("tree/s/t/u", "deep")?.file("tree/v", "v")?;
    Ok(())
}

fn change_names(m: &Tree) -> Result<()> {
    m.rm("gone")?.rm("a/top")?.append("data", "+")?.file("new/f", "n")?.append("a/bottom", "+")?.rm("l")?;
    fs::remove_dir_all(m.p("gone-dir"))?;
    m.dir("gone-dir")?.file("gone-dir/fresh", "")?.file("gone", "again")?.symlink("x", "l2")?;
    m.setx("new/f", "user.a", "1")?.times("a", 77, 88)?;
    Ok(())
}

fn change_all(m: &Tree) -> Result<()> {
    change_names(m)?;
    m.mode("meta", 0o600)?.mv("moved", "a/moved2")?.mv("tree", "tree2")?.mv("tree2/s/t", "t2")?.append("t2/u", "+")?;
    m.file("tree2/new", "")?.rm("tree2/v")?.dir("tree")?.setx("new", "trusted.overlay.opaque", "y")?;
    Ok(())
}

const ROOT: &str = "index=off,metacopy=on,redirect_dir=on";

/// Changes through one union, looks through the other.
fn interchange(cx: &mut Ctx, change: fn(&Tree) -> Result<()>, marks: &str, ours_first: bool) -> Result<()> {
    layers(cx)?;
    cx.dir.dir("kernel")?;
    let kernel = Tree(cx.dir.p("kernel"));
    let mut views = Vec::new();
    for ours in [ours_first, !ours_first] {
        let view = if ours {
            cx.mount()?
        } else {
            cx.mount_kernel(&kernel.0, marks)?;
            kernel.clone()
        };
        let done = if views.is_empty() { change(&view) } else { Ok(()) };
        let seen = Manifest::of(&view.0, What::VIEW);
        if ours {
            cx.umount()?;
            cx.wait_for_daemons()?;
        } else {
            umount2(&kernel.0, MntFlags::empty()).context("umount of the kernel's")?;
        }
        done?;
        views.push(seen?);
    }
    holds!(views[0].get("a/moved2".as_ref()).is_some() || marks == "userxattr");
    views[0].check(&views[1], "first and second view")
}

fn kernel_reads_ours(cx: &mut Ctx) -> Result<()> {
    interchange(cx, change_all, ROOT, true)
}

fn we_read_kernels(cx: &mut Ctx) -> Result<()> {
    interchange(cx, change_all, ROOT, false)
}

fn kernel_reads_ours_rootless(cx: &mut Ctx) -> Result<()> {
    // With userxattr the kernel follows neither redirects nor metacopies.
    interchange(cx, change_names, "userxattr", true)
}

fn we_read_kernels_rootless(cx: &mut Ctx) -> Result<()> {
    interchange(cx, change_names, "userxattr", false)
}

/// In a user namespace the kernel follows neither redirects nor metacopies (`ovl_fs_params_verify` in
/// fs/overlayfs/params.c turns both off with userxattr): it says so for what has one, and shows all the rest.
fn kernel_refuses_rootless(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?.file("meta", "data")?.file("rest", "r")?;
    let m = cx.mount()?;
    m.mv("d", "moved")?.mode("meta", 0o600)?.append("rest", "+")?;
    let seen = (m.read("moved/f")?, m.read("meta")?, m.read("rest")?);
    same!(seen, ("x".to_owned(), "data".to_owned(), "r+".to_owned()));
    cx.umount()?;
    cx.wait_for_daemons()?;
    cx.dir.dir("kernel")?;
    let kernel = Tree(cx.dir.p("kernel"));
    cx.mount_kernel(&kernel.0, "userxattr")?;
    let looked = (|| {
        fails!(fs::metadata(kernel.p("moved")), EPERM);
        fails!(fs::metadata(kernel.p("meta")), EPERM);
        fails!(fs::metadata(kernel.p("d")), ENOENT);
        same!(kernel.read("rest")?, "r+");
        // What it can't look up it does not list either.
        let listed = kernel.ls("")?;
        holds!(listed == "rest" || listed == "meta moved rest", "{listed}");
        Ok(())
    })();
    umount2(&kernel.0, MntFlags::empty()).context("umount of the kernel's")?;
    looked?;
    // Nor can it be asked to.
    for more in ["userxattr,redirect_dir=on", "userxattr,metacopy=on"] {
        holds!(cx.mount_kernel(&kernel.0, more).is_err(), "mounted with {more}");
    }
    Ok(())
}
