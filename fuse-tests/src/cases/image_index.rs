//! What an image index saves, by counting system calls: mounting does not look at files one by one, and what the layers
//! have is looked up and listed without a call on them.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount, umount2};
use serde_json::json;

use super::images::says;
use crate::case::{User, skip};
use crate::ctx::{Ctx, Out, mounts_below};
use crate::tree::{Tree, cases, holds, same};

cases!("image_index": hundred_thousand_files_in_ten_layers.onlay().by(&[User::Root]).slow(300));

const LAYERS: usize = 10;
/// What carries requests and answers, or wakes threads: not counted. (What is read has to be opened first.)
const CARRIERS: &str = "trace=!read,readv,write,writev,io_uring_enter,futex,poll,ppoll,ioctl";
/// What takes memory for inodes that are remembered, and gives it back.
const MEMORY: [&str; 6] = ["mmap", "munmap", "mremap", "mprotect", "brk", "madvise"];
/// What threads do that start or end: so many calls, however many files there are.
const FEW: usize = 300;

/// Ten layers that have `dirs` directories in common, in each of these `files` of every layer. The top one takes one away,
/// and has the only one with something in it.
fn image(cx: &Ctx, name: &str, dirs: usize, files: usize) -> Result<()> {
    let at = Tree(cx.dir.p(name));
    at.dir("")?;
    let (mut names, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        let mut tar = Vec::new();
        for dir in 0..dirs {
            entry(&mut tar, &format!("top/{dir}/"), "");
            for file in 0..files {
                entry(&mut tar, &format!("top/{dir}/{layer}-{file}"), "");
            }
        }
        if layer + 1 == LAYERS {
            entry(&mut tar, "top/0/.wh.0-0", "");
            entry(&mut tar, "top/data", "data");
        }
        tar.resize(tar.len() + 1024, 0);
        let file = format!("{layer}.tar");
        at.file(&file, tar)?;
        let sum = Out::of(Command::new("sha256sum").arg(at.p(&file)))?.ok()?.stdout;
        diff_ids.push(format!("sha256:{}", sum.split(' ').next().context("sha256sum")?));
        names.push(file);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    at.file("config.json", config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    at.file("manifest.json", manifest.to_string())?;
    let archive = cx.dir.p(format!("{name}.tar")).display().to_string();
    Out::of(Command::new("tar").args(["-cf", &archive, "-C"]).arg(&at.0).arg("."))?.ok()?;
    fs::remove_dir_all(&at.0)?;
    says(cx, &["load", "-q", "-i", &archive]).map(drop)
}

/// A file or, with a slash at its end, a directory of root's, as ustar has it.
fn entry(tar: &mut Vec<u8>, name: &str, data: &str) {
    let kind = if name.ends_with('/') { b'5' } else { b'0' };
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if kind == b'5' { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", data.len()));
    put(136, "07346545000");
    put(148, "        ");
    put(257, "ustar\u{0}00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend_from_slice(&block);
    tar.extend_from_slice(data.as_bytes());
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A mount whose daemon's system calls are written down.
struct Traced {
    child: Child,
    log: String,
    store: String,
}

type Calls = BTreeMap<String, usize>;

impl Traced {
    fn start(cx: &Ctx, image: &str) -> Result<Self> {
        let log = cx.dir.p(format!("{image}.log")).display().to_string();
        let mut cmd = Command::new("strace");
        cmd.args(["-f", "--seccomp-bpf", "-qq", "-y", "-o", &log, "-e", CARRIERS, "-e", "signal=none"]);
        cmd.arg(cx.binary()).arg("--root").arg(cx.dir.p("store")).args(["mount", "-f", image]).arg(&cx.m.0);
        let child = match cmd.stdin(Stdio::null()).current_dir("/").spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(skip("there is no strace")),
            child => child?,
        };
        let mut traced = Self { child, log, store: cx.dir.p("store").display().to_string() };
        let end = Instant::now() + Duration::from_secs(60);
        while mounts_below(&cx.m.0)?.is_empty() {
            ensure!(traced.child.try_wait()?.is_none(), "it ended, see above");
            ensure!(Instant::now() < end, "it does not mount");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(traced)
    }

    /// How many of each call there were so far: on what is in the store (by name or descriptor), and others.
    fn calls(&self) -> Result<(Calls, Calls)> {
        let mut calls = (BTreeMap::new(), BTreeMap::new());
        for line in fs::read_to_string(&self.log)?.lines() {
            // `123 openat(..`; `123 <... openat resumed>..` is the rest of one.
            let call = line.split_whitespace().nth(1).and_then(|words| words.split_once('('));
            if let Some((name, _)) = call {
                let kind = if line.contains(&self.store) { &mut calls.0 } else { &mut calls.1 };
                *kind.entry(name.to_owned()).or_default() += 1;
            }
        }
        Ok(calls)
    }

    /// The same since then, without those for memory.
    fn since(&self, before: &(Calls, Calls)) -> Result<(Calls, Calls)> {
        let mut calls = self.calls()?;
        for (now, before) in [(&mut calls.0, &before.0), (&mut calls.1, &before.1)] {
            now.retain(|name, n| {
                *n -= before.get(name).copied().unwrap_or(0);
                *n > 0 && !MEMORY.contains(&name.as_str())
            });
        }
        Ok(calls)
    }

    fn stop(mut self, cx: &Ctx) -> Result<()> {
        cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
        self.child.wait()?;
        cx.wait_for_daemons()
    }
}

/// Lists and looks at everything; how many names there are.
fn walk(dir: &Tree) -> Result<usize> {
    let mut found = 0;
    let mut todo = vec![dir.0.clone()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at)? {
            let path = entry?.path();
            found += 1;
            if fs::symlink_metadata(&path)?.is_dir() {
                todo.push(path);
            }
        }
    }
    Ok(found)
}

fn hundred_thousand_files_in_ten_layers(cx: &mut Ctx) -> Result<()> {
    // A disk would take minutes to make so many.
    let store = cx.dir.dir("store")?.p("store");
    mount(Some("none"), &store, Some("tmpfs"), MsFlags::empty(), None::<&str>).context("tmpfs")?;
    let done = counted(cx);
    if !mounts_below(&cx.m.0)?.is_empty() {
        cx.onlay(&["umount", "--lazy", &cx.m.0.display().to_string()])?;
    }
    umount2(&store, nix::mount::MntFlags::MNT_DETACH)?;
    done
}

fn counted(cx: &Ctx) -> Result<()> {
    image(cx, "small", 1, 1)?;
    image(cx, "large", 100, 100)?;
    let mut mounting = Vec::new();
    for (name, dirs, files) in [("small", 1, 1), ("large", 100, 100)] {
        let traced = Traced::start(cx, name)?;
        // Mounting ends a while after the mount is seen: until nothing more comes.
        cx.m.ls("")?;
        let mut before = traced.calls()?;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = traced.calls()?;
            if std::mem::replace(&mut before, now) == traced.calls()? {
                break;
            }
        }
        mounting.push(before.0.values().chain(before.1.values()).sum::<usize>());
        holds!(before.0.contains_key("openat") && before.0.contains_key("statx"), "strace saw nothing: {before:?}");
        // top, data, the directories, the files of all layers but the one that was taken away.
        same!(walk(&cx.m)?, 2 + dirs + dirs * files * LAYERS - 1);
        holds!(nix::sys::stat::lstat(&cx.m.p("top/0/0-0")).is_err(), "it was taken away");
        let (on_layers, others) = traced.since(&before)?;
        same!((name, on_layers), (name, BTreeMap::new()));
        holds!(others.values().sum::<usize>() < FEW, "{name}: {others:?}");
        // The content is the layers': if opening it were not seen, nothing would be.
        same!(cx.m.read("top/data")?, "data");
        let (opened, _) = traced.since(&before)?;
        holds!(opened.keys().any(|call| call.starts_with("openat")), "{opened:?}");
        traced.stop(cx)?;
    }
    println!("system calls of mounting: {mounting:?}");
    let (small, large) = (mounting[0], mounting[1]);
    holds!(large <= small + 30, "{large} system calls to mount 100,000 files, {small} for 10");
    Ok(())
}
