//! Finding names: merging, precedence, long names, strange names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::tree::{cases, fails, holds, same};

cases!("lookup":
    merges, upper_layer_wins, file_hides_directory.union(), names_of_255_bytes, name_too_long, strange_names,
    no_such_parent, one_device, deep_path, many_layers.union(), search_permission.privileged(),
    lookups_while_names_change, absent_names.union(), absent_names_beside_wh.onlay(),
);

fn merges(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/top", "1")?.file("only-top", "2")?;
    cx.lower()?.file("d/bottom", "3")?.file("only-bottom", "4")?.dir("e/f/g")?;
    let m = cx.mount()?;
    same!(m.ls("")?, "d e only-bottom only-top");
    same!(m.ls("d")?, "bottom top");
    same!(m.read("d/top")? + &m.read("d/bottom")? + &m.read("only-top")? + &m.read("only-bottom")?, "1324");
    holds!(m.stat("e/f/g")?.is_dir());
    holds!(!m.has("d/none")?);
    Ok(())
}

fn upper_layer_wins(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "top")?.mode("a", 0o600)?.dir("d")?.mode("d", 0o711)?.times("d", 5, 6)?;
    cx.lower()?.file("a", "bottom")?.mode("a", 0o644)?.dir("d")?.mode("d", 0o777)?;
    let m = cx.mount()?;
    same!(m.read("a")?, "top");
    same!(m.bits("a")?, 0o600);
    same!(m.bits("d")?, 0o711);
    same!((m.stat("d")?.mtime(), m.stat("d")?.mtime_nsec()), (5, 6));
    m.file("a", "new")?;
    same!(m.read("a")?, "new");
    Ok(())
}

fn file_hides_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("x", "file")?.dir("y")?;
    cx.lower()?.file("x/inside", "")?.file("y", "file")?;
    cx.lower()?.file("y/deep", "")?;
    let m = cx.mount()?;
    holds!(m.stat("x")?.is_file());
    fails!(std::fs::read(m.p("x/inside")), ENOTDIR);
    // What is below a file is not merged with what is above it.
    same!(m.ls("y")?, "");
    holds!(!m.has("y/deep")?);
    Ok(())
}

fn names_of_255_bytes(cx: &mut Ctx) -> Result<()> {
    let names: Vec<String> = (250..=255).map(|n| "n".repeat(n)).collect();
    let low = cx.lower()?;
    for n in &names {
        low.file(n, n)?.file(&format!("d/{n}"), "")?;
    }
    let m = cx.mount()?;
    for n in &names {
        same!(m.read(n)?, *n);
        m.append(n, "!")?;
        same!(m.read(n)?, format!("{n}!"));
        m.rm(n)?;
        holds!(!m.has(n)?);
        m.file(n, "again")?;
        m.mv(n, &n.replace('n', "m"))?;
        m.rm(&format!("d/{n}"))?;
    }
    same!(m.ls("d")?, "");
    let m = cx.remount()?;
    for n in &names {
        holds!(!m.has(n)?);
        same!(m.read(&n.replace('n', "m"))?, "again");
    }
    Ok(())
}

fn name_too_long(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    let long = m.p("x".repeat(256));
    fails!(std::fs::metadata(&long), ENAMETOOLONG);
    fails!(std::fs::write(&long, ""), ENAMETOOLONG);
    fails!(std::fs::create_dir(&long), ENAMETOOLONG);
    m.file("a", "")?;
    fails!(std::fs::rename(m.p("a"), &long), ENAMETOOLONG);
    fails!(std::fs::hard_link(m.p("a"), &long), ENAMETOOLONG);
    Ok(())
}

fn strange_names(cx: &mut Ctx) -> Result<()> {
    let names: [&[u8]; 9] =
        [b".wh.foo", b".wh..wh..opq", b"\xff\xfe", b"a\nb", b"-rf", b"a:b,c\\d", b" ", b"...", b".wh."];
    let low = cx.lower()?;
    for (i, n) in names.iter().enumerate().filter(|(i, _)| *i != 1 && *i != 8 && *i != 0) {
        std::fs::write(low.p(OsStr::from_bytes(n)), i.to_string())?;
    }
    low.file("foo", "not hidden by what is made above")?;
    let m = cx.mount()?;
    for n in [names[0], names[1], names[8]] {
        std::fs::write(m.p(OsStr::from_bytes(n)), "made")?;
    }
    let m = cx.remount()?;
    for (i, n) in names.iter().enumerate() {
        let want = if [0, 1, 8].contains(&i) { "made".to_owned() } else { i.to_string() };
        same!(std::fs::read_to_string(m.p(OsStr::from_bytes(n)))?, want);
    }
    holds!(m.has("foo")?);
    same!(std::fs::read_dir(&m.0)?.count(), names.len() + 1);
    Ok(())
}

fn no_such_parent(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "")?;
    let m = cx.mount()?;
    fails!(std::fs::write(m.p("none/x"), ""), ENOENT);
    fails!(std::fs::write(m.p("f/x"), ""), ENOTDIR);
    fails!(std::fs::read_dir(m.p("f")), ENOTDIR);
    fails!(std::fs::read(m.p("")), EISDIR);
    Ok(())
}

fn one_device(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("a", "")?.dir("d")?.symlink("a", "l")?;
    cx.lower()?.file("b", "")?.dir("e")?;
    let m = cx.mount()?;
    m.file("c", "")?;
    let dev = m.stat("")?.dev();
    for n in ["a", "b", "c", "d", "e", "l"] {
        same!((n, m.stat(n)?.dev()), (n, dev));
    }
    m.append("a", "x")?;
    same!(m.stat("a")?.dev(), dev);
    Ok(())
}

fn deep_path(cx: &mut Ctx) -> Result<()> {
    // Deep, yet below PATH_MAX.
    let deep = vec!["dir-d"; 500].join("/");
    cx.lower()?.file(&format!("{deep}/f"), "low")?;
    let m = cx.mount()?;
    same!(m.read(&format!("{deep}/f"))?, "low");
    m.append(&format!("{deep}/f"), "+")?;
    let m = cx.remount()?;
    same!(m.read(&format!("{deep}/f"))?, "low+");
    std::fs::remove_dir_all(m.p("dir-d"))?;
    same!(m.ls("")?, "");
    Ok(())
}

fn many_layers(cx: &mut Ctx) -> Result<()> {
    // As many as fit into the kernel's page of options.
    let n = 40;
    for i in 0..n {
        cx.lower()?.file(&format!("d/f{i}"), i.to_string())?.file("same", i.to_string())?;
    }
    let m = cx.mount()?;
    for i in 0..n {
        same!(m.read(&format!("d/f{i}"))?, i.to_string());
    }
    same!(m.read("same")?, "0");
    same!(std::fs::read_dir(m.p("d"))?.count(), n);
    m.rm("same")?;
    holds!(!m.has("same")?);
    Ok(())
}

fn search_permission(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("closed/f", "")?.mode("closed", 0o700)?.file("list/f", "")?.mode("list", 0o744)?;
    cx.dir.mode("", 0o755)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    crate::sys::as_ids(1234, 1234, &[], || {
        fails!(std::fs::metadata(m.p("closed/f")), EACCES);
        fails!(std::fs::read_dir(m.p("closed")), EACCES);
        same!(m.ls("list")?, "f");
        fails!(std::fs::metadata(m.p("list/f")), EACCES);
        fails!(std::fs::write(m.p("new"), ""), EACCES);
        Ok(())
    })
}

fn lookups_while_names_change(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("steady", "here")?.file("a", "1")?;
    let m = cx.mount()?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !done.load(Ordering::Relaxed) {
                        same!(m.read("steady")?, "here");
                        let (a, b) = (m.has("a")?, m.has("b")?);
                        // Between the two looks the name may have moved either way; no other error may appear.
                        let _seen = (a, b);
                    }
                    Ok(())
                })
            })
            .collect();
        let moved = (0..200).try_for_each(|_| m.mv("a", "b").and_then(|m| m.mv("b", "a")).map(drop));
        done.store(true, Ordering::Relaxed);
        for r in readers {
            r.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        moved
    })?;
    same!(m.read("a")?, "1");
    Ok(())
}

/// Names of lower directories are known after a few that were not there: what comes by the mount is seen all the same.
fn absent_names(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/top", "1")?;
    cx.lower()?.file("d/bottom", "2")?.dir("d/sub")?;
    let m = cx.mount()?;
    for i in 0..20 {
        holds!(!m.has(format!("d/none{i}"))?, "{i}");
    }
    same!(m.read("d/top")? + &m.read("d/bottom")?, "12");
    m.file("d/none3", "new")?.mv("d/bottom", "d/none4")?.rm("d/top")?.dir("d/none5")?;
    same!(m.read("d/none3")? + &m.read("d/none4")?, "new2");
    for name in ["d/top", "d/bottom", "d/none6"] {
        holds!(!m.has(name)?, "{name}");
    }
    same!(m.ls("d")?, "none3 none4 none5 sub");
    m.file("d/top", "again")?;
    same!(m.read("d/top")?, "again");
    Ok(())
}

/// The same where a layer hides names of others.
fn absent_names_beside_wh(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/.wh.hidden", "")?.file("d/top", "1")?;
    cx.lower()?.file("d/hidden", "2")?.file("d/shown", "3")?;
    let m = cx.mount()?;
    for i in 0..20 {
        holds!(!m.has(format!("d/none{i}"))? && !m.has("d/hidden")?, "{i}");
    }
    same!(m.read("d/shown")?, "3");
    m.file("d/hidden", "mine")?;
    same!(m.read("d/hidden")?, "mine");
    Ok(())
}
