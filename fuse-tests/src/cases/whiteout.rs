//! Whiteouts and opaque directories, native.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("whiteout":
    of_lower_layers.union(), in_upper.union(), opaque_hides_from_lookup.union(), attribute_whiteouts.union(),
    are_never_seen.union(), restored_name.union(), in_bottom_layer.union(),
);

fn of_lower_layers(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.whiteout("gone")?.whiteout("d/gone")?;
    cx.lower()?.file("gone", "")?.file("d/gone", "")?.file("d/here", "")?;
    let m = cx.mount()?;
    same!((m.ls("")?, m.ls("d")?), ("d".to_owned(), "here".to_owned()));
    fails!(std::fs::metadata(m.p("gone")), ENOENT);
    m.file("gone", "back")?.dir("d/gone")?;
    let m = cx.remount()?;
    same!((m.read("gone")?, m.ls("d/gone")?), ("back".to_owned(), String::new()));
    Ok(())
}

fn in_upper(cx: &mut Ctx) -> Result<()> {
    cx.upper.whiteout("gone")?.whiteout("dir")?;
    cx.lower()?.file("gone", "")?.file("dir/f", "")?.file("here", "")?;
    let m = cx.mount()?;
    same!(m.ls("")?, "here");
    m.dir("dir")?;
    same!(cx.remount()?.ls("dir")?, "");
    Ok(())
}

fn opaque_hides_from_lookup(cx: &mut Ctx) -> Result<()> {
    let attr = format!("{}opaque", cx.prefix());
    let top = cx.lower()?;
    top.file("d/top", "")?.setx("d", &attr, "y")?;
    cx.lower()?.file("d/below", "")?.file("d/sub/x", "")?;
    cx.upper.dir("u")?.setx("u", &attr, "y")?;
    top.file("u/below", "")?;
    let m = cx.mount()?;
    // By name before any listing, and by listing.
    fails!(std::fs::metadata(m.p("d/below")), ENOENT);
    fails!(std::fs::metadata(m.p("d/sub/x")), ENOENT);
    fails!(std::fs::metadata(m.p("u/below")), ENOENT);
    same!((m.ls("d")?, m.ls("u")?), ("top".to_owned(), String::new()));
    Ok(())
}

fn attribute_whiteouts(cx: &mut Ctx) -> Result<()> {
    let p = cx.prefix();
    let top = cx.lower()?;
    top.dir("d")?.setx("d", &format!("{p}opaque"), "x")?;
    top.file("d/gone", "")?.setx("d/gone", &format!("{p}whiteout"), "")?.file("d/empty", "")?;
    cx.lower()?.file("d/gone", "below")?.file("d/kept", "k")?.file("d/empty", "below")?;
    let m = cx.mount()?;
    fails!(std::fs::metadata(m.p("d/gone")), ENOENT);
    same!((m.ls("d")?, m.read("d/empty")?), ("empty kept".to_owned(), String::new()));
    m.file("d/gone", "new")?;
    same!(cx.remount()?.read("d/gone")?, "new");
    Ok(())
}

fn are_never_seen(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/a", "")?.file("d/b", "")?;
    let m = cx.mount()?;
    m.rm("d/a")?;
    // On disk it is a device; in the view it is nothing, in listing, lookup, open, link and rename alike.
    let st = cx.upper.stat("d/a")?;
    holds!(st.file_type().is_char_device() && st.rdev() == 0);
    same!(m.ls("d")?, "b");
    fails!(std::fs::File::open(m.p("d/a")), ENOENT);
    fails!(std::fs::hard_link(m.p("d/a"), m.p("x")), ENOENT);
    fails!(std::fs::rename(m.p("d/a"), m.p("x")), ENOENT);
    fails!(std::fs::remove_dir(m.p("d/a")), ENOENT);
    Ok(())
}

fn restored_name(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "low")?;
    let m = cx.mount()?;
    m.rm("f")?.dir("f")?;
    std::fs::remove_dir(m.p("f"))?;
    m.symlink("x", "f")?.rm("f")?.file("f", "new")?;
    let m = cx.remount()?;
    same!(m.read("f")?, "new");
    m.rm("f")?;
    same!(cx.remount()?.ls("")?, "");
    Ok(())
}

fn in_bottom_layer(cx: &mut Ctx) -> Result<()> {
    // It hides nothing, and is still not shown.
    cx.lower()?.file("a", "")?;
    cx.lower()?.whiteout("w")?.file("b", "")?;
    let m = cx.mount()?;
    same!(m.ls("")?, "a b");
    fails!(std::fs::metadata(m.p("w")), ENOENT);
    m.file("w", "x")?.rm("w")?;
    same!(cx.remount()?.ls("")?, "a b");
    Ok(())
}
