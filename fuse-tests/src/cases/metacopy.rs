//! Copies of metadata alone.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::Result;

use crate::case::User;
use crate::ctx::Ctx;
use crate::tree::{Tree, cases, holds, same};

const NOT_ROOTLESS: &str = "no metacopy with userxattr";

cases!("metacopy":
    metadata_only.union().kernel_deviates_rootless(NOT_ROOTLESS),
    then_data.union().kernel_deviates_rootless(NOT_ROOTLESS),
    renamed_far.union().kernel_deviates_rootless(NOT_ROOTLESS), truncated, in_lower_layer.union().by(&[User::Root]),
    linked, size_and_blocks, upper_as_a_layer.onlay(),
);

fn data_blocks(t: &Tree, name: &str) -> Result<u64> {
    // A block of attributes may be there.
    Ok(t.stat(name)?.blocks().saturating_sub(8))
}

/// BuildKit and buildah do that: what was an upper is a layer of the next mount, as it is. A file that moved into a
/// directory which only that layer has still finds its data.
fn upper_as_a_layer(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("tree/t", "text")?.file("tree/big", vec![b'b'; 9000])?.file("l/a", "linked")?.hard("l/a", "l/b")?;
    let m = cx.mount()?;
    m.dir("tree/new")?.mv("tree/t", "tree/new/t")?.mv("tree/big", "tree/new/big")?.mode("tree/new/big", 0o600)?;
    m.hard("l/a", "tree/new/a")?.rm("l/b")?;
    cx.umount()?;
    cx.wait_for_daemons()?;
    let path = |t: &Tree| t.0.display().to_string();
    let args = ["mount", "--lower", &path(&cx.upper), "--lower", &path(&low), &path(&cx.m)];
    cx.onlay(&args)?.ok()?;
    let seen = (m.read("tree/new/t")?, m.read("tree/new/big")?, m.read("tree/new/a")?, m.ls("l")?);
    same!(seen, ("text".to_owned(), "b".repeat(9000), "linked".to_owned(), "a".to_owned()));
    cx.onlay(&["umount", &path(&cx.m)])?.ok().map(drop)
}

fn metadata_only(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 1 << 20])?;
    let m = cx.mount()?;
    m.mode("f", 0o600)?.setx("f", "user.a", "1")?.times("f", 5, 6)?;
    same!(data_blocks(&cx.upper, "f")?, 0);
    holds!(cx.upper.getx("f", &format!("{}metacopy", cx.prefix()))?.is_some());
    for m in [m, cx.remount()?] {
        same!((m.bits("f")?, m.stat("f")?.size(), m.stat("f")?.mtime()), (0o600, 1 << 20, 5));
        holds!(std::fs::read(m.p("f"))?.iter().all(|b| *b == b'x'), "data is lost");
    }
    Ok(())
}

fn then_data(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    m.mode("f", 0o600)?;
    let m2 = cx.remount()?;
    let reader = m2.ro("f")?;
    m2.rw("f")?.write_all_at(b"ab", 3)?;
    let mut all = [0; 10];
    reader.read_exact_at(&mut all, 0)?;
    holds!(&all == b"012ab56789" || cx.fs == crate::case::Fs::Overlayfs, "stale data");
    drop(reader);
    same!(cx.upper.getx("f", &format!("{}metacopy", cx.prefix()))?, None);
    same!((m.read("f")?, cx.upper.read("f")?), ("012ab56789".to_owned(), "012ab56789".to_owned()));
    same!(cx.remount()?.bits("f")?, 0o600);
    Ok(())
}

fn renamed_far(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a/b/f", "data")?.dir("c")?;
    cx.lower()?.file("a/b/g", "deeper")?;
    let m = cx.mount()?;
    m.mode("a/b/f", 0o600)?.mv("a/b/f", "c/f2")?.mv("a/b/g", "g2")?.mode("g2", 0o640)?.mv("a", "a2")?;
    for m in [m, cx.remount()?] {
        same!((m.read("c/f2")?, m.read("g2")?), ("data".to_owned(), "deeper".to_owned()));
        same!((m.bits("c/f2")?, m.bits("g2")?), (0o600, 0o640));
    }
    cx.m.append("c/f2", "+")?;
    same!(cx.remount()?.read("c/f2")?, "data+");
    Ok(())
}

fn truncated(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "0123456789")?;
    let m = cx.mount()?;
    m.mode("f", 0o600)?;
    m.rw("f")?.set_len(4)?;
    let m = cx.remount()?;
    same!((m.read("f")?, m.bits("f")?), ("0123".to_owned(), 0o600));
    Ok(())
}

fn in_lower_layer(cx: &mut Ctx) -> Result<()> {
    let top = cx.lower()?;
    top.file("f", "")?.mode("f", 0o711)?.setx("f", "trusted.overlay.metacopy", "")?;
    top.rw("f")?.set_len(10)?;
    top.file("moved", "")?.setx("moved", "trusted.overlay.metacopy", "")?;
    top.setx("moved", "trusted.overlay.redirect", "/d/orig")?.rw("moved")?.set_len(4)?;
    cx.lower()?.file("f", "0123456789")?.file("d/orig", "data")?;
    let m = cx.mount()?;
    same!((m.read("f")?, m.bits("f")?, m.read("moved")?), ("0123456789".to_owned(), 0o711, "data".to_owned()));
    m.append("f", "+")?.append("moved", "+")?;
    let m = cx.remount()?;
    same!((m.read("f")?, m.read("moved")?), ("0123456789+".to_owned(), "data+".to_owned()));
    Ok(())
}

fn linked(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "data")?;
    let m = cx.mount()?;
    m.mode("f", 0o600)?.hard("f", "g")?.rm("f")?;
    let m = cx.remount()?;
    same!((m.ls("")?, m.read("g")?), ("g".to_owned(), "data".to_owned()));
    m.append("g", "+")?;
    same!(cx.remount()?.read("g")?, "data+");
    Ok(())
}

fn size_and_blocks(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 1 << 20])?;
    let m = cx.mount()?;
    m.mode("f", 0o600)?;
    holds!(m.stat("f")?.blocks() >= 2048);
    Ok(())
}
