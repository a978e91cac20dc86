//! Redirects: what a rename of a lower directory leaves on disk, and what is read of it.

use anyhow::Result;

use crate::ctx::Ctx;
use crate::case::User;
use crate::tree::{cases, holds, same};

cases!("redirect":
    is_the_kernels.onlay(), read_from_upper.union().by(&[User::Root]), in_lower_layer.union().by(&[User::Root]),
    into_another_directory.onlay(), strange_names.onlay(), beside_a_renamed_one.union().by(&[User::Root]),
);

fn is_the_kernels(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?.file("p/q/g", "y")?;
    let m = cx.mount()?;
    m.mv("d", "e")?.mv("p/q", "q2")?;
    let redirect = format!("{}redirect", cx.prefix());
    // Either a name in the same directory, or a path from the root.
    let text = |n: &str| -> Result<String> {
        Ok(cx.upper.getx(n, &redirect)?.map(|v| String::from_utf8_lossy(&v).into_owned()).unwrap_or_default())
    };
    holds!(["d", "/d"].contains(&text("e")?.as_str()), "{}", text("e")?);
    same!(text("q2")?, "/p/q");
    same!((cx.upper.ls("e")?, m.ls("q2")?), (String::new(), "g".to_owned()));
    Ok(())
}

fn read_from_upper(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a/f", "x")?.file("p/q/g", "y")?;
    cx.upper.dir("b")?.setx("b", "trusted.overlay.redirect", "a")?.whiteout("a")?;
    cx.upper.dir("r")?.setx("r", "trusted.overlay.redirect", "/p/q")?;
    let m = cx.mount()?;
    same!((m.ls("")?, m.read("b/f")?, m.read("r/g")?), ("b p r".to_owned(), "x".to_owned(), "y".to_owned()));
    Ok(())
}

fn in_lower_layer(cx: &mut Ctx) -> Result<()> {
    let top = cx.lower()?;
    top.file("b/new", "n")?.setx("b", "trusted.overlay.redirect", "a")?.whiteout("a")?;
    cx.lower()?.file("a/f", "x")?;
    cx.lower()?.file("a/g", "y")?;
    let m = cx.mount()?;
    same!((m.ls("")?, m.ls("b")?), ("b".to_owned(), "f g new".to_owned()));
    m.mv("b", "c")?;
    let m = cx.remount()?;
    same!((m.ls("")?, m.ls("c")?), ("c".to_owned(), "f g new".to_owned()));
    Ok(())
}

fn beside_a_renamed_one(cx: &mut Ctx) -> Result<()> {
    // A name as a redirect is one in what the parent is merged with, which has another name there.
    let attr = "trusted.overlay.redirect";
    let top = cx.lower()?;
    top.dir("h/h")?.setx("h", attr, "c")?.setx("h/h", attr, "b")?.whiteout("c")?.whiteout("h/b")?;
    top.file("h/m", "")?.setx("h/m", "trusted.overlay.metacopy", "")?.setx("h/m", attr, "n")?.rw("h/m")?.set_len(4)?;
    cx.lower()?.file("c/b/right", "")?.file("c/n", "data")?.file("h/b/wrong", "")?;
    let m = cx.mount()?;
    same!((m.ls("h/h")?, m.read("h/m")?), ("right".to_owned(), "data".to_owned()));
    m.mv("h", "i")?;
    same!(cx.remount()?.ls("i/h")?, "right");
    Ok(())
}

fn into_another_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a/f", "x")?.file("b/g", "y")?;
    cx.lower()?.file("a/deeper/h", "z")?;
    let m = cx.mount()?;
    // Into a pure upper directory, into a merged one, and into one that was moved itself.
    m.dir("new/x")?.mv("a/deeper", "new/x/d1")?.mv("a", "b/a2")?.mv("b", "b2")?;
    for m in [m, cx.remount()?] {
        same!((m.read("new/x/d1/h")?, m.read("b2/a2/f")?, m.ls("b2/a2")?), ("z".into(), "x".into(), "f".into()));
        same!(m.ls("")?, "b2 new");
    }
    Ok(())
}

fn strange_names(cx: &mut Ctx) -> Result<()> {
    let long = "l".repeat(255);
    let names = ["a b", "c\nd", "-e", "f:g,h\\i", &long, "ünï"];
    let low = cx.lower()?;
    for n in names {
        low.file(&format!("{n}/f"), n)?;
    }
    let m = cx.mount()?;
    for (i, n) in names.iter().enumerate() {
        m.mv(n, &format!("moved{i}"))?;
    }
    let m = cx.remount()?;
    for (i, n) in names.iter().enumerate() {
        same!(m.read(&format!("moved{i}/f"))?, *n);
    }
    Ok(())
}
