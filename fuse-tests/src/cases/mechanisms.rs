//! What saves requests: switched on and off, and counted.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;

use crate::case::{User, skip};
use crate::ctx::Ctx;
use crate::requests::{Counter, Requests};
use crate::tree::{Tree, cases, fails, holds, same};

const ROOT: &[User] = &[User::Root];

cases!("mechanisms":
    are_told.onlay(), nonsense_is_refused.onlay(), hot_open_asks_nothing.onlay().by(ROOT),
    absent_names_are_kept.onlay().by(ROOT), a_listing_is_kept.onlay().by(ROOT), writes_ask_once.onlay().by(ROOT),
    readahead.onlay().by(ROOT),
);

/// Mounts with options; what `-v` says.
fn mount(cx: &mut Ctx, options: &str) -> Result<String> {
    let mut args = cx.mount_args();
    args.extend(["-v", "-o", options].map(str::to_owned));
    Ok(cx.onlay(&args)?.ok()?.stderr)
}

fn umount(cx: &Ctx) -> Result<()> {
    cx.onlay(&["umount", &cx.m.0.display().to_string()])?.ok()?;
    cx.wait_for_daemons()
}

/// The requests of `f` on a mount with these options.
fn counted(cx: &mut Ctx, options: &str, f: impl FnOnce(&Tree) -> Result<()>) -> Result<Requests> {
    let dir = tempfile::tempdir()?;
    let counter = Counter::new(dir.path()).map_err(|e| skip(format!("requests can't be counted: {e:#}")))?;
    mount(cx, options)?;
    let requests = counter.count(&cx.m.0, || f(&cx.m));
    umount(cx)?;
    requests?
}

fn of(requests: &Requests, name: &str) -> u64 {
    requests.get(name).copied().unwrap_or_default()
}

fn are_told(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let names = ["negative_entries", "no_open", "dir_cache", "killpriv"];
    let said = mount(cx, "")?;
    for name in names {
        holds!(said.contains(&format!("{name}: on (")), "{name} in {said}");
    }
    holds!(said.contains("readahead: "), "{said}");
    umount(cx)?;
    let all_off: Vec<_> = names.iter().map(|name| format!("{name}=off")).collect();
    let said = mount(cx, &all_off.join(","))?;
    for name in names {
        holds!(said.contains(&format!("{name}: off (as asked)")), "{name} in {said}");
    }
    // It works all the same.
    same!(cx.m.read("f")?, "x");
    cx.m.append("f", "y")?.file("new", "z")?.rm("new")?;
    fails!(std::fs::read(cx.m.p("new")), ENOENT);
    same!((cx.m.ls("")?, cx.m.read("f")?), ("f".to_owned(), "xy".to_owned()));
    umount(cx)
}

fn nonsense_is_refused(cx: &mut Ctx) -> Result<()> {
    cx.lower()?;
    for options in ["no_open=perhaps", "readahead=far", "killpriv=2"] {
        let mut args = cx.mount_args();
        args.extend(["-o".to_owned(), options.to_owned()]);
        let out = cx.onlay(&args)?;
        holds!(out.code == 1 && out.stderr.contains(options) && out.stderr.contains("hint:"), "{out:?}");
    }
    Ok(())
}

fn hot_open_asks_nothing(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    for (options, opens) in [("no_open=on", 0), ("no_open=off", 20)] {
        let requests = counted(cx, options, |m| {
            // The first one is answered in any case.
            File::open(m.p("f"))?;
            (0..20).try_for_each(|_| File::open(m.p("f")).map(drop)).map_err(Into::into)
        })?;
        holds!((opens..=opens + 1).contains(&of(&requests, "OPEN")), "{options}: {requests:?}");
    }
    Ok(())
}

fn absent_names_are_kept(cx: &mut Ctx) -> Result<()> {
    cx.lower()?;
    for (options, asked) in [("negative_entries=on", 1), ("negative_entries=off", 20)] {
        let requests = counted(cx, options, |m| {
            for _ in 0..20 {
                fails!(std::fs::metadata(m.p("none")), ENOENT);
            }
            Ok(())
        })?;
        same!((options, of(&requests, "LOOKUP")), (options, asked));
    }
    Ok(())
}

fn a_listing_is_kept(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?;
    for (options, again) in [("dir_cache=on", false), ("dir_cache=off", true)] {
        let requests = counted(cx, options, |m| {
            for _ in 0..20 {
                same!(m.ls("d")?, "f");
            }
            Ok(())
        })?;
        let asked = of(&requests, "READDIR") + of(&requests, "READDIRPLUS");
        holds!((asked >= 20) == again, "{options}: {requests:?}");
    }
    Ok(())
}

fn writes_ask_once(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    for (options, asked) in [("killpriv=on", 1), ("killpriv=off", 20)] {
        let requests = counted(cx, options, |m| {
            let f = m.rw("f")?;
            (0..20).try_for_each(|i| f.write_all_at(b"y", i)).map_err(Into::into)
        })?;
        same!((options, of(&requests, "WRITE"), of(&requests, "GETXATTR")), (options, 20, asked));
    }
    Ok(())
}

fn readahead(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![7; 4 << 20])?;
    let mut reads = Vec::new();
    for (options, says) in [("readahead=off", "128 KiB"), ("readahead=512", "512 KiB"), ("readahead=auto", "1024 KiB")] {
        let said = mount(cx, options)?;
        holds!(said.contains(&format!("readahead: {says}")), "{options}: {said}");
        umount(cx)?;
        let requests = counted(cx, options, |m| {
            holds!(std::fs::read(m.p("f"))? == vec![7; 4 << 20]);
            Ok(())
        })?;
        reads.push(of(&requests, "READ"));
    }
    holds!(reads[0] >= 32 && reads[2] < reads[0] / 2, "READs: {reads:?}");
    Ok(())
}
