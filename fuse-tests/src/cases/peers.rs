//! Images of other programs: skopeo, umoci and podman.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::fs::FileType;
use serde_json::Value;

use super::images::{MANY, base, json, path, says};
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::manifest::{Manifest, What};
use crate::tree::{Tree, cases, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("images": peers.onlay().by(ROOT), theirs_unpacked.onlay().by(ROOT));

/// skopeo, umoci and podman: ours opens in theirs, theirs in ours, with the same digests and trees.
fn peers(cx: &mut Ctx) -> Result<()> {
    for tool in ["skopeo", "umoci", "podman"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return Err(skip(format!("{tool} is not installed")));
        }
    }
    base(cx)?;
    says(cx, &["run", "--name", "one", "base", "sh", "-c", MANY])?;
    let upper = json(cx, &["inspect", "one"])?[0]["upper"].as_str().context("upper")?.to_owned();
    marked(&Tree(upper.into()))?;
    says(cx, &["commit", "-q", "one", "app:1"])?;
    let inspect = json(cx, &["inspect", "app:1"])?;
    let digest = inspect[0]["digest"].as_str().context("digest")?.to_owned();
    let (ours, theirs) = (path(cx, "ours.tar"), path(cx, "theirs.tar"));
    says(cx, &["save", "-q", "-o", &ours, "app:1"])?;
    let run = |program: &str, args: &[&str]| -> Result<String> {
        Ok(Out::of(Command::new(program).args(args))?.ok().with_context(|| format!("{program} {args:?}"))?.stdout)
    };
    // To skopeo and back: the manifest is the same.
    let seen: Value = serde_json::from_str(&run("skopeo", &["inspect", &format!("oci-archive:{ours}")])?)?;
    same!(seen["Digest"].as_str(), Some(&*digest));
    let layout = path(cx, "layout");
    run("skopeo", &["copy", "-q", &format!("oci-archive:{ours}"), &format!("oci:{layout}:app")])?;
    let other = path(cx, "other");
    cx.onlay(&["--root", &other, "load", "-q", "-i", &layout, "--tag", "app"])?.ok()?;
    let back: Value = serde_json::from_str(&cx.onlay(&["--root", &other, "inspect", "app"])?.ok()?.stdout)?;
    same!((&back[0]["digest"], &back[0]["id"]), (&inspect[0]["digest"], &inspect[0]["id"]));
    run("skopeo", &["copy", "-q", &format!("oci-archive:{ours}"), &format!("docker-archive:{theirs}:app:2")])?;
    says(cx, &["load", "-q", "-i", &theirs])?;
    same!(says(cx, &["diff", "app:1..app:2"])?, "");
    // The store itself is a layout.
    let store = path(cx, "store");
    let seen = run("skopeo", &["inspect", &format!("oci:{store}:docker.io/library/app:1")])?;
    let seen: Value = serde_json::from_str(&seen)?;
    same!(seen["Digest"].as_str(), Some(&*digest));
    // umoci's tree is ours.
    let bundle = path(cx, "bundle");
    run("umoci", &["unpack", "--image", &format!("{layout}:app"), &bundle])?;
    let tree = seen_by_us(cx, "app:1")?;
    tree.check(&Manifest::of(&cx.dir.p("bundle/rootfs"), What::VIEW)?, "umoci's tree")?;
    holds!(tree.get("data/new".as_ref()).is_some_and(|l| l.contains("user.note=")), "no attribute");
    podman(cx, &ours, &tree)
}

/// Attributes of both kinds on what `MANY` makes.
fn marked(tree: &Tree) -> Result<()> {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    tree.setx("data/new", "user.note", [0, 255, b'x'])?.setx("data/.hidden", "security.capability", capability)?;
    tree.setx("data", "user.of.a.directory", "d").map(drop)
}

/// What an image is when it is mounted.
fn seen_by_us(cx: &Ctx, image: &str) -> Result<Manifest> {
    seen(cx, image, What::VIEW)
}

fn seen(cx: &Ctx, image: &str, what: What) -> Result<Manifest> {
    let at = cx.m.0.display().to_string();
    says(cx, &["mount", image, &at])?;
    let seen = Manifest::of(&cx.m.0, what);
    cx.onlay(&["umount", &at])?.ok()?;
    cx.wait_for_daemons()?;
    seen
}

/// podman with a store of its own.
fn run_podman(cx: &Ctx, args: &[&str]) -> Result<String> {
    let (graph, run_root) = (path(cx, "graph"), path(cx, "runroot"));
    let mut all = vec!["--root", &graph, "--runroot", &run_root, "--storage-driver", "vfs"];
    all.extend(args);
    let out = Out::of(Command::new("podman").args(&all)).map_err(|_| skip("podman is not installed"))?;
    Ok(out.ok().with_context(|| format!("podman {args:?}"))?.stdout.trim().to_owned())
}

/// What an image is when podman mounts it.
fn seen_by_podman(cx: &Ctx, image: &str) -> Result<Manifest> {
    let at = run_podman(cx, &["image", "mount", image])?;
    let seen = Manifest::of(Path::new(&at), What::VIEW);
    run_podman(cx, &["image", "umount", image])?;
    seen
}

/// The same in podman, but for the time of the root, which is when its driver made the directory.
fn podmans(want: &Manifest, got: &Manifest) -> Result<()> {
    let differs: Vec<_> = want.diff(got).into_iter().filter(|l| !l.starts_with("! \n")).collect();
    holds!(differs.is_empty(), "podman's tree: {differs:?}");
    Ok(())
}

fn podman(cx: &Ctx, ours: &str, tree: &Manifest) -> Result<()> {
    let podman = |args: &[&str]| run_podman(cx, args);
    podman(&["load", "-q", "-i", ours])?;
    let id = podman(&["images", "-q", "--no-trunc"])?;
    let inspect: Value = serde_json::from_str(&says(cx, &["inspect", "app:1"])?)?;
    same!(Some(id.trim()), inspect[0]["id"].as_str());
    podmans(tree, &seen_by_podman(cx, &id)?)?;
    for format in ["oci-archive", "docker-archive"] {
        let file = path(cx, &format!("podman-{format}.tar"));
        podman(&["save", "-q", "--format", format, "-o", &file, id.trim()])?;
        says(cx, &["load", "-q", "-i", &file, "--tag", "from-podman"])?;
        same!((format, says(cx, &["diff", "app:1..from-podman"])?), (format, String::new()));
        same!(says(cx, &["run", "--rm", "from-podman", "cat", "/data/new"])?, "n");
        tree.check(&seen_by_us(cx, "from-podman")?, &format!("our tree of podman's {format}"))?;
    }
    // Several in one archive, too.
    let several = path(cx, "several.tar");
    says(cx, &["save", "-q", "-o", &several, "base", "app:1"])?;
    let told = podman(&["load", "-q", "-i", &several])?;
    holds!(told.contains("/base:latest") && told.contains("/app:1"), "{told}");
    Ok(())
}

/// An image of umoci's with all that a layer can say: its own tree, podman's and ours are the same.
fn theirs_unpacked(cx: &mut Ctx) -> Result<()> {
    let umoci = |args: &[&str]| -> Result<()> {
        let out = Out::of(Command::new("umoci").args(args).current_dir(&cx.dir.0)).map_err(|_| skip("umoci is not installed"))?;
        out.ok().with_context(|| format!("umoci {args:?}")).map(drop)
    };
    umoci(&["init", "--layout", "layout"])?;
    umoci(&["new", "--image", "layout:app"])?;
    umoci(&["unpack", "--image", "layout:app", "bundle"])?;
    let root = Tree(cx.dir.p("bundle/rootfs"));
    root.file("data/new", "n")?.file("data/.hidden", "h")?.hard("data/new", "data/hard")?.hard("data/new", "d/hard")?;
    marked(&root)?;
    root.file("d/gone", "g")?.file("d/other", "o")?.file("opaque/below", "b")?.file("kind/f", "f")?.symlink("data/new", "link")?;
    root.file("suid", "s")?.owner("suid", 33, 44)?.mode("suid", 0o6711)?.dir("sticky")?.owner("sticky", 7, 8)?.mode("sticky", 0o1777)?;
    root.node("fifo", FileType::Fifo, 0o640, 0)?.node("null", FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3))?;
    root.file(&"n".repeat(240), "long name")?.symlink(&"t".repeat(400), "long-link")?.times("data/.hidden", 77, 7)?;
    umoci(&["repack", "--image", "layout:app", "--refresh-bundle", "bundle"])?;
    // umoci compares whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    root.rm("d/gone")?.rm("data/hard")?.append("suid", "more")?.mode("sticky", 0o700)?;
    fs::remove_dir_all(root.p("opaque"))?;
    root.file("opaque/above", "a")?.setx("suid", "user.second", "2")?;
    umoci(&["repack", "--image", "layout:app", "--refresh-bundle", "bundle"])?;
    let unpacked = |tag: &str, layers: usize, what: What| -> Result<Manifest> {
        umoci(&["unpack", "--image", &format!("layout:{tag}"), tag])?;
        let want = Manifest::of(&cx.dir.p(tag).join("rootfs"), what)?;
        let one = path(cx, &format!("{tag}.tar"));
        Out::of(Command::new("skopeo").args(["copy", "-q", &format!("oci:{}:{tag}", path(cx, "layout")), &format!("oci-archive:{one}")]))?.ok()?;
        says(cx, &["load", "-q", "-i", &one, "--tag", tag])?;
        same!(json(cx, &["inspect", tag])?[0]["layers"].as_array().map(Vec::len), Some(layers));
        want.check(&seen(cx, tag, what)?, "umoci's and ours")?;
        Ok(want)
    };
    let want = unpacked("app", 2, What::VIEW)?;
    holds!(want.get("opaque/below".as_ref()).is_none() && want.get("d/hard".as_ref()).is_some_and(|l| l.contains("user.note")));
    // And on to podman by way of us.
    let file = path(cx, "theirs.tar");
    says(cx, &["save", "-q", "-o", &file, "app"])?;
    run_podman(cx, &["load", "-q", "-i", &file])?;
    podmans(&want, &seen_by_podman(cx, "app")?)?;
    // A layer that speaks of no directory but by what is in it: as build tools without a root of their own write them.
    for (name, change) in [("few", "d/k2"), ("few2", "sticky/deep/new")] {
        let tree = Tree(cx.dir.p(name));
        tree.file(change, "new")?.mode("", 0o700)?.file("d/.wh.other", "")?;
        let tar = path(cx, &format!("{name}.tar"));
        Out::of(Command::new("tar").args(["-cf", &tar, "-C", &path(cx, name), change, "d/.wh.other"]))?.ok()?;
        umoci(&["raw", "add-layer", "--image", "layout:app", "--tag", name, &tar])?;
        let want = unpacked(name, 3, What::SHAPE)?;
        holds!(want.get("sticky".as_ref()).is_some_and(|l| l.starts_with("40700 7:8")), "{:?}", want.get("sticky".as_ref()));
    }
    // podman refuses what umoci writes of a directory that became a file.
    root.rm("kind/f")?;
    fs::remove_dir(root.p("kind"))?;
    root.file("kind", "a file now")?;
    umoci(&["repack", "--image", "layout:kind", "bundle"])?;
    unpacked("kind", 3, What::VIEW).map(drop)
}
