//! Images: imported, loaded, saved, run, committed, mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::registry::noise;
use super::run::ALL;
use super::bad_input::is_clear;
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out};
use crate::manifest::{Manifest, What};
use crate::tree::{Tree, cases, holds, same};

const MAPPED: &[User] = &[User::Root, User::Ordinary];

cases!("images":
    import_run_commit.onlay().by(ALL), config_is_honoured.onlay().by(ALL), working_directory_is_made.onlay().by(ALL), users_of_the_image.onlay().by(MAPPED),
    saved_and_loaded.onlay().by(ALL), compressed_in_each_way.onlay().by(ALL), names_and_ids.onlay().by(ALL), mounted.onlay().by(ALL),
    mounted_with_an_upper.onlay().by(ALL), the_same_changes_are_the_same_layer.onlay().by(ALL),
    names_go_before_ids.onlay().by(ALL),
    what_was_removed_stays_removed.onlay().by(ALL), exported.onlay().by(ALL), a_directory_is_imported.onlay().by(ALL),
    bad_archives.onlay().by(ALL), mistakes_are_told.onlay().by(ALL), docker_archives.onlay().by(ALL),
    progress_is_shown.onlay().by(ALL), owners_without_a_range.onlay().by(&[User::Norange]),
);

/// Runs a verb on the case's own store.
pub(super) fn onlay(cx: &Ctx, args: &[&str]) -> Result<Out> {
    let store = cx.dir.p("store").display().to_string();
    let mut all = vec!["--root", &store];
    all.extend(args);
    cx.onlay(&all)
}

/// What it says, which must come with success.
pub(super) fn says(cx: &Ctx, args: &[&str]) -> Result<String> {
    Ok(onlay(cx, args)?.ok().with_context(|| args.join(" "))?.stdout.trim().to_owned())
}

pub(super) fn json(cx: &Ctx, args: &[&str]) -> Result<Value> {
    serde_json::from_str(&says(cx, args)?).with_context(|| args.join(" "))
}

pub(super) fn path(cx: &Ctx, name: &str) -> String {
    cx.dir.p(name).display().to_string()
}

/// A root file system with a shell, as a directory.
pub(super) fn rootfs(cx: &Ctx) -> Result<Tree> {
    let root = Tree(cx.dir.p("rootfs"));
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let Some(busybox) = busybox else { return Err(skip("busybox is not installed")) };
    root.dir("bin")?.dir("tmp")?.dir("home/app")?;
    fs::copy(busybox, root.p("bin/busybox"))?;
    for applet in ["sh", "ls", "cat", "echo", "rm", "mkdir", "mv", "id", "env", "pwd", "ln", "chmod", "touch", "true", "sleep"] {
        root.symlink("busybox", &format!("bin/{applet}"))?;
    }
    root.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")?;
    root.file("etc/group", "root:x:0:\napp:x:1000:\n")?;
    root.file("etc/motd", "hello\n")?.file("data/a", "a")?.file("data/b", "b")?.file("data/sub/c", "c")?;
    root.hard("data/a", "data/hard")?.mode("tmp", 0o1777)?;
    Ok(root)
}

/// The same as an archive; everything in it is root's, as in a distribution's, but what is the app's.
pub(super) fn archive(cx: &Ctx) -> Result<String> {
    rootfs(cx)?;
    let (tar, root) = (path(cx, "rootfs.tar"), path(cx, "rootfs"));
    let args = ["-cf", &tar, "--sort=name", "--owner=0", "--group=0", "-C", &root, "--exclude=./home/app", "."];
    Out::of(Command::new("tar").args(args))?.ok().context("tar")?;
    let args = ["-rf", &tar, "--owner=1000", "--group=1000", "-C", &root, "./home/app"];
    Out::of(Command::new("tar").args(args))?.ok().context("tar")?;
    Ok(tar)
}

/// An image `base` with a shell.
pub(super) fn base(cx: &Ctx) -> Result<()> {
    let tar = archive(cx)?;
    says(cx, &["import", "-q", &tar, "base", "--change", "CMD [\"sh\"]"])?;
    Ok(())
}

fn import_run_commit(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let id = says(cx, &["images", "-q"])?;
    same!(id.len(), 12);
    says(cx, &["run", "--name", "one", "base", "sh", "-c", "echo changed > /etc/motd; echo new > /new; rm /data/b; mkdir /etc/x; touch /etc/x/y /etc/x-y /etc/x.y /etc/x0"])?;
    let changed = says(cx, &["diff", "one"])?;
    for line in ["C /etc/motd", "A /new", "D /data/b"] {
        holds!(changed.lines().any(|l| l == line), "{line} is not in {changed}");
    }
    sorted(&changed)?;
    let ps = json(cx, &["ps", "-a", "--format", "json"])?;
    same!((ps[0]["name"].as_str(), ps[0]["status"].as_str()), (Some("one"), Some("exited")));
    says(cx, &["commit", "-q", "--message", "why", "--change", "ENV B=2", "one", "app:1"])?;
    same!(says(cx, &["run", "--rm", "app:1", "sh", "-c", "cat /etc/motd /new; ls /data; echo $B"])?, "changed\nnew\na\nhard\nsub\n2");
    // The base is what it was; the delta is small and names its parent's layers.
    same!(says(cx, &["run", "--rm", "base", "cat", "/etc/motd"])?, "hello");
    let (base, app) = (json(cx, &["inspect", "base"])?, json(cx, &["inspect", "app:1"])?);
    same!(app[0]["layers"].as_array().map(Vec::len), Some(2));
    same!(&app[0]["layers"][0], &base[0]["layers"][0]);
    let delta = app[0]["layers"][1]["size"].as_u64();
    holds!(delta.is_some_and(|d| d < 100), "{delta:?}");
    let history = json(cx, &["history", "--format", "json", "app:1"])?;
    same!((history.as_array().map(Vec::len), history[0]["comment"].as_str()), (Some(2), Some("why")));
    // The removed file is gone from the view between the images, too.
    let between = says(cx, &["diff", "base..app:1"])?;
    holds!(between.lines().any(|l| l == "D /data/b") && between.lines().any(|l| l == "C /etc/motd"), "{between}");
    holds!(!between.contains("/bin"), "{between}");
    sorted(&between)?;
    says(cx, &["rm", "one"])?;
    says(cx, &["rmi", "base"])?;
    same!(says(cx, &["run", "--rm", "app:1", "cat", "/new"])?, "new");
    says(cx, &["rmi", "app:1"])?;
    nothing_left(cx)
}

/// Lines of a letter and a path, by the paths' bytes.
fn sorted(lines: &str) -> Result<()> {
    let paths: Vec<_> = lines.lines().filter_map(|l| l.split_once(' ')).map(|(_, path)| path).collect();
    holds!(paths.is_sorted() && paths.iter().all(|p| p.starts_with('/')), "{paths:?}");
    Ok(())
}

/// The store holds nothing any more.
pub(super) fn nothing_left(cx: &Ctx) -> Result<()> {
    says(cx, &["gc"])?;
    let store = Tree(cx.dir.p("store"));
    for dir in ["layers", "blobs/sha256", "containers", "tmp", "partial"] {
        same!((dir, store.ls(dir)?), (dir, String::new()));
    }
    Ok(())
}

fn config_is_honoured(cx: &mut Ctx) -> Result<()> {
    let tar = archive(cx)?;
    let changes = ["ENTRYPOINT [\"sh\", \"-c\"]", "CMD [\"echo $A $C; pwd\"]", "ENV A=1 C='two words'", "WORKDIR /data/sub",
        "EXPOSE 80 81 82 83 84 85/udp", "LABEL a.b=c"];
    let mut args = vec!["import", "-q", &tar, "reg.example/team/app:1"];
    changes.iter().for_each(|change| args.extend(["-c", change]));
    says(cx, &args)?;
    let image = "reg.example/team/app:1";
    same!(says(cx, &["run", "--rm", image])?, "1 two words\n/data/sub");
    same!(says(cx, &["run", "--rm", image, "echo given"])?, "given");
    same!(says(cx, &["run", "--rm", "-e", "A=3", "-w", "/", image])?, "3 two words\n/");
    same!(says(cx, &["run", "--rm", "--entrypoint", "cat", image, "/etc/motd"])?, "hello");
    same!(onlay(cx, &["run", "--rm", image, "exit 42"])?.code, 42);
    let inspect = &json(cx, &["inspect", image])?[0];
    same!(inspect["names"][0].as_str(), Some(image));
    let config = &inspect["config"]["config"];
    same!((config["Labels"]["a.b"].as_str(), config["ExposedPorts"].get("80/tcp").is_some()), (Some("c"), true));
    same!(says(cx, &["ps", "-aq"])?, "");
    // Made without being run.
    let id = says(cx, &["create", "--name", "later", image])?;
    same!(id.len(), 64);
    let later = json(cx, &["inspect", "later"])?;
    same!(later[0]["state"]["status"].as_str(), Some("created"));
    says(cx, &["rm", &id[..5]])?;
    Ok(())
}

/// The directories that every run makes where mounts go, and the one that is asked for.
const WITH_WORKDIR: &str = "A /dev\nA /proc\nA /srv\nA /srv/new\nA /srv/new/dir\nA /sys";

/// The image's working directory is made, for its user; one that is only given here is not.
fn working_directory_is_made(cx: &mut Ctx) -> Result<()> {
    let tar = archive(cx)?;
    let import = |name: &str, dir: &str, user: &str| says(cx, &["import", "-q", &tar, name, "-c", dir, "-c", user]);
    import("app", "WORKDIR /srv/new/dir", "USER root")?;
    same!(says(cx, &["run", "--name", "one", "app", "pwd"])?, "/srv/new/dir");
    same!(says(cx, &["diff", "one"])?, WITH_WORKDIR);
    same!(says(cx, &["run", "--rm", "--read-only", "app", "pwd"])?, "/srv/new/dir");
    let typo = onlay(cx, &["run", "--rm", "-w", "/srv/now", "app", "pwd"])?;
    holds!(typo.code == 125 && typo.stderr.contains("change to directory /srv/now"), "{typo:?}");
    // By a link of the image's, which leads nowhere but into the image.
    Tree(cx.dir.p("rootfs")).symlink("../../../data", "link")?;
    let args = ["-rf", &tar, "-C", &path(cx, "rootfs"), "./link"];
    Out::of(Command::new("tar").args(args))?.ok()?;
    import("linked", "WORKDIR /link/new", "USER root")?;
    same!(says(cx, &["run", "--name", "two", "linked", "pwd"])?, "/data/new");
    import("file", "WORKDIR /etc/motd/x", "USER root")?;
    let file = onlay(cx, &["run", "--rm", "file", "pwd"])?;
    holds!(file.code == 125 && file.stderr.contains("/etc/motd/x: Not a directory"), "{file:?}");
    if cx.user != User::Norange {
        import("users", "WORKDIR /srv/app", "USER app")?;
        same!(says(cx, &["run", "--rm", "users", "sh", "-c", "touch x; [ -O . ] && ! [ -O .. ] && ls"])?, "x");
    }
    Ok(())
}

fn users_of_the_image(cx: &mut Ctx) -> Result<()> {
    let tar = archive(cx)?;
    says(cx, &["import", "-q", &tar, "app", "-c", "USER app", "-c", "CMD [\"sh\", \"-c\", \"id -u; touch ~/x; ls -n ~/x\"]"])?;
    let said = says(cx, &["run", "--name", "one", "app"])?;
    holds!(said.starts_with("1000\n") && said.contains("1000     1000"), "{said}");
    same!(says(cx, &["run", "--rm", "-u", "0", "app", "id", "-u"])?, "0");
    says(cx, &["commit", "-q", "one", "two"])?;
    let said = says(cx, &["run", "--rm", "-u", "0", "two", "ls", "-n", "/home/app/x"])?;
    holds!(said.contains("1000     1000"), "{said}");
    Ok(())
}

fn saved_and_loaded(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    says(cx, &["run", "--name", "one", "base", "touch", "/one"])?;
    says(cx, &["commit", "-q", "one", "app:1"])?;
    let digests = |all: &Value| (all[0]["id"].clone(), all[0]["digest"].clone());
    let before = digests(&json(cx, &["inspect", "app:1"])?);
    let file = path(cx, "app.tar");
    says(cx, &["save", "-q", "-o", &file, "app:1", "base"])?;
    let again = path(cx, "again.tar");
    says(cx, &["save", "-q", "-o", &again, "app:1", "base"])?;
    same!(fs::read(&file)? == fs::read(&again)?, true);
    Out::of(Command::new("gzip").args(["-k", "-1", &file]))?.ok()?;
    let layout = path(cx, "layout");
    fs::create_dir(&layout)?;
    Out::of(Command::new("tar").args(["-C", &layout, "-xf", &file]))?.ok()?;
    let packed = format!("{file}.gz");
    for from in [&file, &packed, &layout] {
        let other = path(cx, "other");
        let told = cx.onlay(&["--root", &other, "load", "-i", from])?.ok()?;
        holds!(told.stdout.contains("Loaded image: app:1"), "{told:?}");
        let inspect = cx.onlay(&["--root", &other, "inspect", "app:1"])?.ok()?;
        same!(digests(&serde_json::from_str(&inspect.stdout)?), before.clone());
        same!(cx.onlay(&["--root", &other, "run", "--rm", "app:1", "ls", "/one"])?.stdout, "/one\n");
        same!(cx.onlay(&["--root", &other, "run", "--rm", "base", "cat", "/etc/motd"])?.stdout, "hello\n");
        cx.onlay(&["--root", &other, "rmi", "app:1", "base"])?.ok()?;
    }
    Ok(())
}

/// A root file system, plain or compressed, in a file or on standard input, is one layer.
fn compressed_in_each_way(cx: &mut Ctx) -> Result<()> {
    let tar = archive(cx)?;
    let layers = |name: &str| -> Result<Value> { Ok(json(cx, &["inspect", name])?[0]["layers"].take()) };
    says(cx, &["import", "-q", &tar, "plain"])?;
    let want = layers("plain")?;
    for (program, end) in [("gzip", "gz"), ("zstd", "zst")] {
        let packed = format!("{tar}.{end}");
        let out = Out::of(Command::new(program).args(["-k", "-q", "-1", &tar]));
        out.map_err(|_| skip(format!("{program} is not installed")))?.ok()?;
        says(cx, &["import", "-q", &packed, program])?;
        same!((program, layers(program)?), (program, want.clone()));
        let line = format!("exec \"$0\" --root \"$1\" import -q - {program}:stdin < \"$2\"");
        Out::of(Command::new("sh").args(["-c", &line]).arg(cx.binary()).args([&path(cx, "store"), &packed]))?.ok()?;
        same!((program, layers(&format!("{program}:stdin"))?), (program, want.clone()));
    }
    Ok(())
}

fn docker_archives(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let id = says(cx, &["images", "-q", "--no-trunc"])?;
    let file = path(cx, "docker.tar");
    says(cx, &["save", "-q", "--format", "docker", "-o", &file, "base"])?;
    // As an old docker writes it: a layer by the directory it is in, one that is a link, no layout of OCI's.
    let (new, old) = (Tree(cx.dir.p("new")), Tree(cx.dir.p("old")));
    new.dir("")?;
    Out::of(Command::new("tar").args(["-C", &new.0.display().to_string(), "-xf", &file]))?.ok()?;
    let manifest: Value = serde_json::from_slice(&fs::read(new.p("manifest.json"))?)?;
    let one = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (config, layer) = (one(&manifest[0]["Config"]), one(&manifest[0]["Layers"][0]));
    old.dir("one")?.dir("two")?.symlink("../one/layer.tar", "two/layer.tar")?;
    let plain = Out::of(Command::new("sh").args(["-c", "zcat < \"$1\" > \"$2\"", "sh"]).args([new.p(&layer), old.p("one/layer.tar")]))?;
    plain.ok()?;
    fs::copy(new.p(&config), old.p("c.json"))?;
    old.file("manifest.json", r#"[{"Config":"c.json","RepoTags":["old:1","older:2"],"Layers":["two/layer.tar"]}]"#)?;
    let file = path(cx, "old.tar");
    let dir = old.0.display().to_string();
    Out::of(Command::new("tar").args(["-C", &dir, "-cf", &file, "two", "manifest.json", "c.json", "one"]))?.ok()?;
    let told = says(cx, &["load", "-i", &file])?;
    same!(told.lines().count(), 2);
    same!(says(cx, &["images", "-q", "--no-trunc", "older"])?, id);
    same!(says(cx, &["run", "--rm", "older:2", "cat", "/etc/motd"])?, "hello");
    Ok(())
}

fn names_and_ids(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let id = says(cx, &["images", "-q"])?;
    let made = says(cx, &["create", "base"])?;
    says(cx, &["tag", &id[..4], "reg.example:5000/a/b:x"])?;
    let list = says(cx, &["images"])?;
    holds!(list.contains("reg.example:5000/a/b") && list.contains("base "), "{list}");
    same!(says(cx, &["inspect", &id, "--format", "json"])?, says(cx, &["inspect", "base"])?);
    // As many as make two begin alike.
    for n in 0..17 {
        says(cx, &["commit", "-q", "-c", &format!("ENV N={n}"), &made, &format!("many:{n}")])?;
    }
    let mut ids: Vec<String> = says(cx, &["images", "-q"])?.lines().map(str::to_owned).collect();
    ids.sort();
    holds!(ids.len() == 18 && ids.iter().all(|id| id.len() == 12), "{ids:?}");
    let alike = ids.windows(2).find(|w| w[0][..1] == w[1][..1]).context("of 18, two begin alike")?;
    let out = onlay(cx, &["tag", &alike[0][..1], "x"])?;
    is_clear(&out, "images begin so")?;
    let digits = 1 + alike[0].bytes().zip(alike[1].bytes()).take_while(|(a, b)| a == b).count();
    says(cx, &["tag", &alike[0][..digits], "x"])?;
    same!(says(cx, &["images", "-q", "x"])?, alike[0].clone());
    same!(says(cx, &["rmi", "x"])?, "Untagged: x:latest");
    let several = onlay(cx, &["rmi", &id])?;
    holds!(several.code == 1 && several.stderr.contains("several names") && several.stderr.contains("hint"), "{several:?}");
    same!(says(cx, &["rmi", "reg.example:5000/a/b:x"])?, "Untagged: reg.example:5000/a/b:x");
    let id2 = made;
    let used = onlay(cx, &["rmi", "base"])?;
    holds!(used.code == 1 && used.stderr.contains("is used by container"), "{used:?}");
    says(cx, &["rmi", "--force", "base"])?;
    // The container keeps what it needs.
    says(cx, &["gc", "--untagged"])?;
    same!(says(cx, &["diff", &id2[..12]])?, "");
    says(cx, &["commit", "-q", &id2[..12], "back"])?;
    same!(says(cx, &["run", "--rm", "back", "cat", "/etc/motd"])?, "hello");
    Ok(())
}

fn mistakes_are_told(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    for (args, words) in [
        (&["run", "nowhere", "true"][..], "no such image: nowhere"),
        (&["inspect", "nowhere"], "no such image or container: nowhere"),
        (&["history", "nowhere"], "no such image"),
        (&["tag", "base", "No:Good"], "names no image"),
        (&["rm", "nobody"], "no such container: nobody"),
        (&["commit", "nobody", "x"], "no such container: nobody"),
        (&["import", "/nowhere", "x"], "No such file"),
        (&["load", "-i", "/etc/passwd"], "read the archive"),
        (&["import", "/etc/passwd", "x"], "/etc/passwd"),
        (&["import", "-c", "RUN x", "/etc/passwd", "x"], "no such instruction"),
        (&["create", "--name", "a/b", "base"], "container name"),
        (&["diff", "base"], "base is an image"),
        (&["diff", "nowhere..base"], "no such image: nowhere"),
        (&["mount", "base"], "no layer to show on base"),
        (&["pull", "--authfile", "/nowhere", "127.0.0.1:1/x"], "--authfile /nowhere"),
    ] {
        let out = onlay(cx, args)?;
        holds!(out.code != 0 && out.stderr.contains(words) && out.stderr.contains("hint:"), "{args:?}: {out:?}");
    }
    same!(onlay(cx, &["run", "nowhere", "true"])?.code, 125);
    same!(onlay(cx, &["run", "--rm", "base", "nothing"])?.code, 127);
    says(cx, &["create", "--name", "one", "base"])?;
    let taken = onlay(cx, &["create", "--name", "one", "base"])?;
    holds!(taken.stderr.contains("is taken"), "{taken:?}");
    same!(says(cx, &["ps", "-aq"])?.lines().count(), 1);
    Ok(())
}

fn mounted(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let m = cx.m.clone();
    let at = m.0.display().to_string();
    says(cx, &["mount", "base", &at])?;
    let shown = Manifest::of(&m.0, What::SHAPE)?;
    same!(m.read("etc/motd")?, "hello\n");
    same!(m.stat("tmp")?.permissions().readonly(), false);
    holds!(fs::write(m.p("x"), "x").is_err_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem), "writable");
    // It stays whole for as long as it is mounted, though nothing needs it any more.
    says(cx, &["rmi", "base"])?;
    says(cx, &["gc"])?;
    shown.check(&Manifest::of(&m.0, What::SHAPE)?, "after rmi")?;
    cx.onlay(&["umount", &at])?.ok()?;
    cx.wait_for_daemons()?;
    nothing_left(cx)
}

fn mounted_with_an_upper(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let (at, upper, work) = (path(cx, "mnt"), path(cx, "upper"), path(cx, "work"));
    says(cx, &["mount", "--upper", &upper, "--work", &work, "base", &at])?;
    let m = cx.m.clone();
    m.file("etc/motd", "changed")?.rm("data/b")?;
    cx.onlay(&["umount", &at])?.ok()?;
    cx.wait_for_daemons()?;
    same!(cx.upper.read("etc/motd")?, "changed");
    same!(cx.onlay(&["diff", &upper])?.ok()?.stdout.contains("D /data/b\n"), true);
    Ok(())
}

fn the_same_changes_are_the_same_layer(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    says(cx, &["run", "--name", "one", "base", "sh", "-c", "mkdir /x; echo 1 > /x/1; ln /x/1 /x/2; rm /data/a; chmod 600 /etc/motd"])?;
    says(cx, &["commit", "-q", "one", "a"])?;
    says(cx, &["commit", "-q", "one", "b"])?;
    let (a, b) = (json(cx, &["inspect", "a"])?, json(cx, &["inspect", "b"])?);
    same!(&a[0]["layers"], &b[0]["layers"]);
    same!(&a[0]["manifest"]["layers"], &b[0]["manifest"]["layers"]);
    Ok(())
}

/// A made-up id may begin like the name of an image.
fn names_go_before_ids(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let id = says(cx, &["create", "--name", "one", "base", "true"])?;
    let kind = |name: &str| -> Result<String> { Ok(json(cx, &["inspect", name])?[0]["type"].as_str().unwrap_or_default().to_owned()) };
    same!((kind(&id[..4])?, kind(&id)?, kind("one")?), ("container".into(), "container".into(), "container".into()));
    says(cx, &["tag", "base", &id[..4]])?;
    says(cx, &["tag", "base", "one"])?;
    same!((kind(&id[..4])?, kind(&id[..5])?, kind("one")?), ("image".into(), "container".into(), "container".into()));
    let out = onlay(cx, &["inspect", "nobody"])?;
    is_clear(&out, "no such image or container: nobody")
}

/// Changes of every kind.
pub(super) const MANY: &str = "rm -r /data; mkdir /data; echo n > /data/new; mv /etc /etc2; mkdir /etc; echo x > /etc/x; rm /tmp -r; \
                    ln -s new /data/link; ln /data/new /data/hard; chmod 2755 /data; touch /data/.hidden";

fn what_was_removed_stays_removed(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    says(cx, &["run", "--name", "one", "base", "sh", "-c", MANY])?;
    says(cx, &["commit", "-q", "one", "app"])?;
    let look = "ls -Rn /data /etc /etc2 /home; ls -dn /*; cat /data/hard";
    let shown = says(cx, &["run", "--rm", "app", "sh", "-c", look])?;
    holds!(!shown.contains("motd\n/etc2") && shown.contains("hard") && !shown.contains("/tmp"), "{shown}");
    // By way of an archive, too: the layers say it.
    let file = path(cx, "app.tar");
    says(cx, &["save", "-q", "-o", &file, "app"])?;
    let other = path(cx, "other");
    cx.onlay(&["--root", &other, "load", "-q", "-i", &file])?.ok()?;
    let again = cx.onlay(&["--root", &other, "run", "--rm", "app", "sh", "-c", look])?.ok()?;
    let without_mounts = |text: &str| {
        text.lines().filter(|l| !["/proc", "/sys", "/dev"].iter().any(|d| l.ends_with(d))).collect::<Vec<_>>().join("\n")
    };
    same!(without_mounts(again.stdout.trim()), without_mounts(&shown));
    same!(says(cx, &["diff", "app..app"])?, "");
    Ok(())
}

fn exported(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    says(cx, &["run", "--name", "one", "base", "sh", "-c", MANY])?;
    let file = path(cx, "one.tar");
    let told = onlay(cx, &["export", "-o", &file, "one"])?.ok()?;
    holds!(told.stdout.is_empty() && told.stderr.starts_with("one exporting done, ") && told.stderr.lines().count() == 1, "{told:?}");
    same!(onlay(cx, &["export", "-q", "-o", &file, "one"])?.ok()?.stderr, "");
    says(cx, &["import", "-q", &file, "flat"])?;
    says(cx, &["commit", "-q", "one", "app"])?;
    same!(says(cx, &["diff", "app..flat"])?, "");
    let file = path(cx, "app.tar");
    says(cx, &["export", "-o", &file, "app"])?;
    let names = Out::of(Command::new("tar").args(["-tf", &file]))?.ok()?.stdout;
    holds!(names.lines().any(|n| n.ends_with("data/new")) && !names.contains(".wh."), "{names}");
    Ok(())
}

/// With one id only: owners set inside are those of what goes out.
fn owners_without_a_range(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let script = "busybox chown 33:44 /etc/motd; busybox chown -R 1000:5 /data; echo x > /new; busybox chown 7 /new";
    says(cx, &["run", "--name", "one", "base", "sh", "-ec", script])?;
    says(cx, &["commit", "-q", "one", "app"])?;
    let (of_container, of_image, again) = (path(cx, "c.tar"), path(cx, "i.tar"), path(cx, "again.tar"));
    says(cx, &["export", "-o", &of_container, "one"])?;
    says(cx, &["export", "-o", &of_image, "app"])?;
    // As the layers below they show, and are kept, too.
    says(cx, &["run", "--name", "two", "app", "sh", "-ec", "echo more >> /etc/motd; busybox chown 7:3 /new"])?;
    says(cx, &["export", "-o", &again, "two"])?;
    for (tar, new) in [(of_container, "7/0"), (of_image, "7/0"), (again, "7/3")] {
        let list = Out::of(Command::new("tar").args(["--numeric-owner", "-tvf", &tar]))?.ok()?.stdout;
        for (name, owner) in [("etc/motd", "33/44"), ("data/a", "1000/5"), ("data/sub/c", "1000/5"), ("new", new), ("etc/passwd", "0/0")] {
            let line = list.lines().find(|l| l.ends_with(&format!("/{name}")) || l.ends_with(&format!(" {name}")));
            let line = line.with_context(|| format!("{name}: {list}"))?;
            holds!(line.split_whitespace().nth(1) == Some(owner), "{tar}: {line}");
        }
    }
    Ok(())
}

fn a_directory_is_imported(cx: &mut Ctx) -> Result<()> {
    let root = rootfs(cx)?;
    root.file("odd/.wh.not-really", "").ok();
    root.rm("odd/.wh.not-really")?.symlink("nowhere", "odd/link")?.mode("data/sub", 0o750)?;
    says(cx, &["import", "-q", &root.0.display().to_string(), "dir", "-c", "CMD cat /etc/motd"])?;
    same!(says(cx, &["run", "--rm", "dir"])?, "hello");
    let at = cx.m.0.display().to_string();
    says(cx, &["mount", "dir", &at])?;
    same!(cx.m.read("data/hard")?, "a");
    same!(cx.m.bits("data/sub")? & 0o777, 0o750);
    cx.onlay(&["umount", &at])?.ok()?;
    cx.wait_for_daemons()
}

/// Breaks an archive in one way after the other: each is refused, and nothing is left of it.
fn bad_archives(cx: &mut Ctx) -> Result<()> {
    base(cx)?;
    let file = path(cx, "good.tar");
    says(cx, &["save", "-q", "-o", &file, "base"])?;
    let inspect = json(cx, &["inspect", "base"])?;
    let hex = |v: &Value| v.as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
    let (manifest, config) = (hex(&inspect[0]["digest"]), hex(&inspect[0]["id"]));
    let layer = hex(&inspect[0]["manifest"]["layers"][0]["digest"]);
    says(cx, &["rmi", "base"])?;
    let blob = |hex: &str| format!("blobs/sha256/{hex}");
    let break_it = |name: &str, change: &dyn Fn(&Tree) -> Result<()>| -> Result<PathBuf> {
        let tree = Tree(cx.dir.p(format!("bad-{name}")));
        tree.dir("")?;
        Out::of(Command::new("tar").args(["-C", &tree.0.display().to_string(), "-xf", &file]))?.ok()?;
        change(&tree)?;
        let bad = cx.dir.p(format!("bad-{name}.tar"));
        Out::of(Command::new("tar").arg("-C").arg(&tree.0).arg("-cf").arg(&bad).arg("."))?.ok()?;
        Ok(bad)
    };
    // A manifest of another config or other sizes, under its own digest.
    let remade = |tree: &Tree, old: &str, from: &str, to: &str| -> Result<String> {
        let text = tree.read(&blob(old))?.replace(from, to);
        let out = Command::new("sha256sum").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
        let mut child = out?;
        std::io::Write::write_all(child.stdin.as_mut().context("stdin")?, text.as_bytes())?;
        let said = String::from_utf8(child.wait_with_output()?.stdout)?;
        let new = said.split_whitespace().next().unwrap_or_default().to_owned();
        tree.file(&blob(&new), &text)?.rm(&blob(old))?;
        Ok(new)
    };
    let in_index = |tree: &Tree, new: &str| -> Result<()> {
        let (index, size) = (tree.read("index.json")?.replace(&manifest, new), tree.stat(blob(new))?.len());
        let mut index: Value = serde_json::from_str(&index)?;
        index["manifests"][0]["size"] = size.into();
        tree.file("index.json", index.to_string()).map(|_| ())
    };
    let size = fs::metadata(Tree(cx.dir.p("rootfs")).p("etc/motd"))?.len();
    same!(size, 6);
    let cut = cx.dir.p("bad-cut.tar");
    let whole = fs::read(&file)?;
    fs::write(&cut, &whole[..whole.len() * 2 / 3])?;
    let bad = [
        (cut, "what came is"),
        (break_it("digest", &|t| t.append(&blob(&layer), "x").map(|_| ()))?, "what came is"),
        (break_it("missing", &|t| t.rm(&blob(&layer)).map(|_| ()))?, &layer[..]),
        (break_it("no-config", &|t| t.rm(&blob(&config)).map(|_| ()))?, &config[..]),
        (break_it("no-json", &|t| t.file("index.json", "{").map(|_| ()))?, "index.json"),
        (
            break_it("sizes", &|t| {
                let new = remade(t, &manifest, "\"size\":", "\"size\":1")?;
                in_index(t, &new)
            })?,
            "by the manifest",
        ),
        (
            break_it("diff-id", &|t| {
                let diff_id = hex(&inspect[0]["layers"][0]["diffId"]);
                let new_config = remade(t, &config, &diff_id, &"ab".repeat(32))?;
                let new = remade(t, &manifest, &config, &new_config)?;
                in_index(t, &new)
            })?,
            "its diff-id is",
        ),
    ];
    for (archive, words) in bad {
        let out = onlay(cx, &["load", "-q", "-i", &archive.display().to_string()])?;
        holds!(out.code == 1 && out.stderr.contains(words) && out.stderr.contains("hint:"), "{}: {out:?}", archive.display());
        same!(says(cx, &["images", "-q"])?, "");
        nothing_left(cx)?;
    }
    Ok(())
}

/// On a terminal bars with bytes, rate and time left; elsewhere a line for each piece, or nothing if asked for.
fn progress_is_shown(cx: &mut Ctx) -> Result<()> {
    let bytes = 24_000_000;
    cx.dir.file("big/noise", noise(bytes))?;
    let (tar, saved) = (path(cx, "big.tar"), path(cx, "saved.tar"));
    Out::of(Command::new("tar").args(["-C", &path(cx, "big"), "-cf", &tar, "."]))?.ok()?;
    let steps: [&[&str]; 3] = [&["import", &tar, "big"], &["save", "-o", &saved, "big"], &["load", "-i", &saved]];
    for (args, what) in steps.iter().zip(["importing", "saving", "copying"]) {
        let store = path(cx, "store");
        let line = [&["onlay", "--root", &store], *args].concat().join(" ").replacen("onlay", &cx.binary().display().to_string(), 1);
        let mut script = Command::new("script");
        script.args(["-qec", &format!("stty cols 100; {line}"), "/dev/null"]).env("TERM", "xterm").current_dir("/");
        let shown = Out::of(&mut script).map_err(|_| skip("there is no script(1)"))?.ok()?.stdout;
        let bars: Vec<_> = shown.split(['\r', '\n']).filter(|l| l.contains(what) && l.contains('[')).collect();
        // 2.36 MB/24.00 MB  45.48 MB/s  1s; a fast disk does it in GB/s.
        let whole = |l: &&&str| {
            let behind = l.rsplit(']').next().unwrap_or_default();
            let words: Vec<_> = behind.split_whitespace().collect();
            let left = words.last().is_some_and(|w| w.ends_with('s') && w[..w.len() - 1].bytes().all(|b| b.is_ascii_digit()));
            behind.contains("/24.0") && words.iter().any(|w| w.ends_with("B/s")) && left
        };
        holds!(bars.iter().any(|l| whole(&l)), "{args:?}: {shown:?}");
        if args[0] == "import" {
            says(cx, &["rmi", "big"])?;
            // Once more, where nobody looks.
            let quiet = onlay(cx, &[&["import", "-q"], &args[1..]].concat())?.ok()?;
            same!(quiet.stderr, "");
            says(cx, &["rmi", "big"])?;
            let lines = onlay(cx, args)?.ok()?.stderr;
            same!(lines.lines().count(), 1);
            holds!(lines.contains("big.tar importing done, 24") && !lines.contains(['\r', '\x1b']), "{lines:?}");
        }
        if args[0] == "save" {
            says(cx, &["rmi", "big"])?;
        }
    }
    Ok(())
}
