//! Listing directories.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use rustix::fs::{Dir, FileType, SeekFrom, seek};

use crate::ctx::Ctx;
use crate::tree::{cases, holds, raw_entries, same};

cases!("readdir":
    dots, types, d_ino_is_st_ino, rewind_shows_new, seek_to_each_cookie, ten_thousand,
    hundred_thousand_while_it_changes.onlay().slow(300), while_removing,
    removed_while_open, made_while_open, no_duplicates_after_rename, empty_after_whiteouts, permission.privileged(),
);

fn dots(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d/e")?;
    let m = cx.mount()?;
    m.dir("up")?;
    for (d, parent) in [("", None), ("d", Some("")), ("d/e", Some("d")), ("up", Some(""))] {
        let list = raw_entries(&File::open(m.p(d))?)?;
        let find = |name: &str| list.iter().filter(|e| e.name == name).map(|e| (e.ino, e.kind)).collect::<Vec<_>>();
        same!((d, find(".")), (d, vec![(m.stat(d)?.ino(), FileType::Directory)]));
        let up = find("..");
        same!((d, up.len()), (d, 1));
        if let Some(parent) = parent {
            same!((d, up[0].0), (d, m.stat(parent)?.ino()));
        }
    }
    Ok(())
}

fn types(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.file("f", "")?.dir("d")?.symlink("x", "l")?.node("p", FileType::Fifo, 0o600, 0)?;
    low.node("s", FileType::Socket, 0o600, 0)?;
    let m = cx.mount()?;
    m.file("f2", "")?.dir("d2")?.symlink("x", "l2")?.node("p2", FileType::Fifo, 0o600, 0)?;
    for e in raw_entries(&File::open(&m.0)?)? {
        let want = match e.name.to_string_lossy().chars().next() {
            Some('f') => FileType::RegularFile,
            Some('l') => FileType::Symlink,
            Some('p') => FileType::Fifo,
            Some('s') => FileType::Socket,
            _ => FileType::Directory,
        };
        same!((&e.name, e.kind), (&e.name, want));
    }
    Ok(())
}

fn d_ino_is_st_ino(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/low", "")?.file("d/changed", "")?.dir("d/merged")?.file("d/linked", "")?.hard("d/linked", "d/l2")?;
    cx.lower()?.file("d/below", "")?.dir("d/merged/x")?;
    let m = cx.mount()?;
    m.file("d/up", "")?.append("d/changed", "x")?.dir("d/updir")?.file("d/merged/new", "")?;
    for round in 0..2 {
        for dir in ["", "d", "d/merged"] {
            // A fresh listing of names nobody looked up since the mount, then the same once they are known.
            let list = raw_entries(&File::open(cx.m.p(dir))?)?;
            for e in list.iter().filter(|e| e.name != "..") {
                let st = std::fs::symlink_metadata(cx.m.p(dir).join(&e.name))?;
                same!((round, dir, &e.name, e.ino), (round, dir, &e.name, st.ino()));
            }
        }
        cx.remount()?;
    }
    Ok(())
}

fn rewind_shows_new(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/a", "")?.file("d/b", "")?;
    let m = cx.mount()?;
    let dir = File::open(m.p("d"))?;
    same!(raw_entries(&dir)?.len(), 4);
    m.file("d/c", "")?.rm("d/a")?;
    seek(&dir, SeekFrom::Start(0))?;
    let names: BTreeSet<String> = raw_entries(&dir)?.iter().map(|e| e.name.display().to_string()).collect();
    same!(names.into_iter().collect::<Vec<_>>().join(" "), ". .. b c");
    Ok(())
}

fn seek_to_each_cookie(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..60 {
        low.file(&format!("d/low{i}"), "")?;
    }
    let m = cx.mount()?;
    for i in 0..60 {
        m.file(&format!("d/up{i}"), "")?;
    }
    let dir = File::open(m.p("d"))?;
    let all = raw_entries(&dir)?;
    same!(all.len(), 122);
    for (i, e) in all.iter().enumerate() {
        seek(&dir, SeekFrom::Start(e.next))?;
        let rest = raw_entries(&dir)?;
        holds!(rest == all[i + 1..], "after {}: {} entries, want {}", e.name.display(), rest.len(), all.len() - i - 1);
    }
    Ok(())
}

fn ten_thousand(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    low.dir("d")?;
    for i in 0..10_000 {
        std::fs::write(low.p(format!("d/file-with-a-longish-name-{i}")), "")?;
    }
    let m = cx.mount()?;
    let names = |m: &crate::tree::Tree| -> Result<BTreeSet<_>> {
        let list = std::fs::read_dir(m.p("d"))?.map(|e| e.map(|e| e.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        let set: BTreeSet<_> = list.iter().cloned().collect();
        holds!(set.len() == list.len(), "{} names twice", list.len() - set.len());
        Ok(set)
    };
    same!(names(&m)?.len(), 10_000);
    for i in 0..100 {
        m.rm(&format!("d/file-with-a-longish-name-{}", i * 99))?.file(&format!("d/new{i}"), "")?;
    }
    let got = names(&m)?;
    same!(got.len(), 10_000);
    holds!(got == names(&cx.remount()?)?, "a remount shows other names");
    Ok(())
}

fn while_removing(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..500 {
        low.file(&format!("d/f{i}"), "")?;
    }
    let m = cx.mount()?;
    // As rm -r does it: what is read is removed before the next is read.
    for e in Dir::new(std::os::fd::OwnedFd::from(File::open(m.p("d"))?))? {
        let e = e?;
        let name = e.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            m.rm(&format!("d/{name}"))?;
        }
    }
    same!(m.ls("d")?, "");
    std::fs::remove_dir(m.p("d"))?;
    Ok(())
}

fn removed_while_open(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("d")?;
    let m = cx.mount()?;
    let dir = File::open(m.p("d"))?;
    std::fs::remove_dir(m.p("d"))?;
    same!(dir.metadata()?.is_dir(), true);
    let names = raw_entries(&dir).map(|l| l.into_iter().filter(|e| e.name != "." && e.name != "..").count());
    holds!(names.is_err() || matches!(names, Ok(0)));
    Ok(())
}

fn made_while_open(cx: &mut Ctx) -> Result<()> {
    let low = cx.lower()?;
    for i in 0..300 {
        low.file(&format!("d/f{i}"), "")?;
    }
    let m = cx.mount()?;
    let mut seen = Vec::new();
    for (n, e) in std::fs::read_dir(m.p("d"))?.enumerate() {
        seen.push(e?.file_name());
        if n < 100 {
            m.file(&format!("d/new{n}"), "")?;
        }
    }
    // What was there all the time is listed exactly once, whatever happens beside it.
    let old: BTreeSet<_> = seen.iter().filter(|n| n.to_string_lossy().starts_with('f')).collect();
    same!(old.len(), 300);
    same!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
    Ok(())
}

fn no_duplicates_after_rename(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/a", "")?.file("d/b", "")?.file("d/c", "")?;
    let m = cx.mount()?;
    same!(m.ls("d")?, "a b c");
    m.mv("d/a", "d/x")?.mv("d/b", "d/c")?;
    same!(m.ls("d")?, "c x");
    m.mv("d/x", "d/a")?;
    same!(m.ls("d")?, "a c");
    same!(cx.remount()?.ls("d")?, "a c");
    Ok(())
}

fn empty_after_whiteouts(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/a", "")?.file("d/b", "")?;
    let m = cx.mount()?;
    m.rm("d/a")?.rm("d/b")?;
    same!(raw_entries(&File::open(m.p("d"))?)?.len(), 2);
    Ok(())
}

fn permission(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "")?.mode("d", 0o711)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    crate::sys::as_ids(1234, 1234, &[], || {
        crate::tree::fails!(std::fs::read_dir(m.p("d")), EACCES);
        same!(m.read("d/f")?, "");
        Ok(())
    })
}

/// Made, removed and renamed meanwhile; what stays is told exactly once, also after seeking back.
fn hundred_thousand_while_it_changes(cx: &mut Ctx) -> Result<()> {
    const HALF: usize = 50_000;
    let low = cx.lower()?;
    low.dir("d")?;
    for i in 0..HALF {
        File::create(low.p(format!("d/low{i}")))?;
    }
    let m = cx.mount()?;
    for i in 0..HALF {
        File::create(m.p(format!("d/up{i}")))?;
    }
    let dir = File::open(m.p("d"))?;
    let mut buf = vec![std::mem::MaybeUninit::uninit(); 32 << 10];
    let mut seen = std::collections::HashMap::<String, u32>::new();
    let (mut step, mut kept, mut after) = (0, None, Vec::new());
    loop {
        let mut raw = rustix::fs::RawDir::new(&dir, &mut buf);
        let mut any = false;
        while let Some(entry) = raw.next() {
            let entry = entry?;
            any = true;
            let name = entry.file_name().to_string_lossy().into_owned();
            if kept.is_some() {
                after.push(name.clone());
            }
            *seen.entry(name).or_default() += 1;
            if step == 40 && kept.is_none() {
                kept = Some(entry.next_entry_cookie());
            }
            if raw.is_buffer_empty() {
                break;
            }
        }
        if !any {
            break;
        }
        // Every hundredth goes, is renamed, or is new.
        for i in [step * 200, step * 200 + 100].into_iter().filter(|i| *i < HALF) {
            std::fs::remove_file(m.p(format!("d/low{i}")))?;
            std::fs::rename(m.p(format!("d/up{i}")), m.p(format!("d/renamed{i}")))?;
            File::create(m.p(format!("d/new{i}")))?;
        }
        step += 1;
    }
    holds!(step > 60, "only {step} steps");
    for i in (0..HALF).filter(|i| i % 100 != 0) {
        for name in [format!("low{i}"), format!("up{i}")] {
            let n = seen.get(&name).copied().unwrap_or(0);
            holds!(n == 1, "{name} was told {n} times");
        }
    }
    holds!(seen.iter().all(|(_, n)| *n == 1), "something was told twice");
    // Back to a place in the middle: the same names follow, but for those that changed.
    rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(kept.unwrap_or(0)))?;
    let again: std::collections::HashSet<_> =
        raw_entries(&dir)?.into_iter().map(|e| e.name.to_string_lossy().into_owned()).collect();
    let stays = |n: &&String| {
        let number = n.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        (n.starts_with("low") || n.starts_with("up")) && number.parse::<usize>().is_ok_and(|i| i % 100 != 0)
    };
    let lost = after.iter().filter(stays).filter(|n| !again.contains(*n)).count();
    same!((lost, again.iter().filter(stays).count()), (0, after.iter().filter(stays).count()));
    Ok(())
}
