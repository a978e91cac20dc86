//! The store when many use it at once: nothing breaks, everything ends, results are right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::images::{base, says};
use super::registry::{images_of, noise, theirs, tool};
use crate::case::User;
use crate::ctx::Ctx;
use crate::docker_registry::Registry;
use crate::on_disk::OnDisk;
use crate::tree::{Tree, cases, holds, same, together};

const BOTH: &[User] = &[User::Root, User::Ordinary];

cases!("crowd":
    ten_of_each.onlay().by(BOTH).slow(400), the_same_thing_ten_times.onlay().by(BOTH).slow(200),
);

/// Sets a flag when it goes, however.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does the work for 0 to 9 at the same time, while `gc` runs over and over; how often it did.
fn while_swept(cx: &Ctx, work: impl Fn(usize) -> Result<()> + Send + Sync) -> Result<usize> {
    let over = AtomicBool::new(false);
    let mut swept = 0;
    std::thread::scope(|scope| {
        let all = scope.spawn(|| {
            let _over = Over(&over);
            together(0..10, work)
        });
        let sweeping = (|| -> Result<()> {
            while !over.load(Ordering::SeqCst) {
                says(cx, &["gc"])?;
                swept += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })();
        all.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        sweeping
    })?;
    Ok(swept)
}

fn names(kinds: &[&str]) -> std::collections::BTreeSet<String> {
    let each = kinds.iter().flat_map(|kind| (0..10).map(move |n| format!("docker.io/library/{kind}{n}:latest")));
    each.collect()
}

/// Ten threads, and in each a pull, an import, a commit and a run, with images and containers that go on the way.
fn ten_of_each(cx: &mut Ctx) -> Result<()> {
    let registry = Registry::start(&cx.dir, "r", false)?;
    images_of(cx, 200_000)?;
    for (image, name) in [("base", "app:base"), ("child", "app:child")] {
        theirs(cx, &registry, image, name, "")?;
    }
    base(cx)?;
    for n in 0..10 {
        // Two and two are the same.
        cx.dir.file(&format!("root{n}/noise"), &noise(50_000 + n / 2)[n / 2..])?;
        tool(cx, &format!("tar -C root{n} --owner=0 --group=0 --mtime=@1 -cf {n}.tar ."))?;
        says(cx, &["create", "--name", &format!("made{n}"), "base"])?;
    }
    let containers = says(cx, &["ps", "-aq", "--no-trunc"])?;
    for id in containers.lines() {
        Tree(cx.dir.p(format!("store/containers/{id}/upper"))).file("new/file", id)?;
    }
    let shared = &*cx;
    let swept = while_swept(shared, |n| {
        let cx = shared;
        let pulled = format!("{}/app:{}", registry.host, if n % 2 == 0 { "base" } else { "child" });
        let tar = cx.dir.p(format!("{n}.tar")).display().to_string();
        let (made, kept, gone) = (format!("made{n}"), format!("kept{n}"), format!("gone{n}"));
        let (pulled_as, imported) = (format!("pulled{n}"), format!("imported{n}"));
        says(cx, &["pull", "-q", &pulled])?;
        says(cx, &["import", "-q", &tar, &imported])?;
        says(cx, &["commit", "-q", &made, &kept])?;
        same!(says(cx, &["run", "--rm", "base", "sh", "-c", &format!("echo {n}; cat /data/sub/c")])?, format!("{n}\nc"));
        says(cx, &["tag", &pulled, &pulled_as])?;
        // What goes while others come.
        says(cx, &["import", "-q", &tar, &gone])?;
        says(cx, &["run", "--name", &gone, "base", "sh", "-c", "echo x > /new"])?;
        says(cx, &["rmi", &gone])?;
        says(cx, &["rm", &gone, &made])?;
        let id = says(cx, &["run", "--rm", &kept, "sh", "-c", "cat /new/file"])?;
        holds!(containers.lines().any(|c| c == id), "{id} is not in {containers}");
        Ok(())
    })?;
    holds!(swept > 0);
    same!(says(cx, &["ps", "-aq"])?, "");
    says(cx, &["gc"])?;
    let mut disk = OnDisk::new(Tree(cx.dir.p("store")));
    let mut wanted = names(&["pulled", "imported", "kept"]);
    wanted.insert("docker.io/library/base:latest".to_owned());
    wanted.extend(["base", "child"].map(|tag| format!("{}/app:{tag}", registry.host)));
    same!(disk.images().context("in the end")?, wanted);
    disk.nothing_else()
}

/// The same archive ten times at once, in a store that is not there yet: each has its image, whose layer is one.
fn the_same_thing_ten_times(cx: &mut Ctx) -> Result<()> {
    for round in 0..3 {
        cx.dir.file("root/noise", noise(300_000 + round))?;
        tool(cx, "tar -C root --owner=0 --group=0 -cf same.tar .")?;
        let tar = cx.dir.p("same.tar").display().to_string();
        let shared = &*cx;
        together(0..10, |n| says(shared, &["import", "-q", &tar, &format!("same{n}")]).map(drop))?;
        let mut disk = OnDisk::new(Tree(cx.dir.p("store")));
        same!(disk.images()?, names(&["same"]));
        same!(std::fs::read_dir(cx.dir.p("store/layers"))?.count(), 1);
        let all: Vec<_> = (0..10).map(|n| format!("same{n}")).collect();
        together(&all, |name| says(shared, &["rmi", name]).map(drop))?;
        says(cx, &["gc"])?;
        disk.nothing_else()?;
        std::fs::remove_dir_all(cx.dir.p("store"))?;
    }
    Ok(())
}
