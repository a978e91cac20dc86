//! `onlay diff`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use crate::ctx::Ctx;
use crate::tree::{Tree, cases, holds, same};

cases!("diff": exact.onlay(), json.onlay(), of_nothing.onlay(), renamed_directory.onlay(), strange_names.onlay());

fn changes(m: &Tree) -> Result<()> {
    m.file("new", "")?.file("newdir/inside", "")?.append("changed", "+")?.mode("meta", 0o600)?.rm("gone")?;
    m.file("d/new", "")?.rm("d/gone")?.symlink("x", "link")?;
    std::fs::remove_dir_all(m.p("gonedir"))?;
    Ok(())
}

fn mount(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("changed", "x")?.file("meta", "x")?.file("gone", "")?.file("d/gone", "")?.file("d/same", "")?;
    cx.dir.file("lower0/gonedir/f", "")?.file("lower0/same", "")?;
    let m = cx.mount()?;
    changes(&m)?;
    cx.umount()
}

/// What must be said. Directories that only hold a change may be listed as changed, too.
const WANT: [&str; 9] =
    ["A link", "A new", "A newdir", "A newdir/inside", "A d/new", "C changed", "C meta", "D gone", "D gonedir"];
const MAY: [&str; 2] = ["C d", "C "];

fn check(found: BTreeSet<String>) -> Result<()> {
    let mut want: BTreeSet<String> = WANT.iter().map(|s| (*s).to_owned()).collect();
    want.insert("D d/gone".to_owned());
    let found: BTreeSet<String> = found.into_iter().filter(|l| !MAY.contains(&l.as_str())).collect();
    same!(found, want);
    Ok(())
}

fn exact(cx: &mut Ctx) -> Result<()> {
    mount(cx)?;
    let out = cx.onlay(&["diff", &cx.upper.0.display().to_string()])?.ok()?;
    let lines = out.stdout.lines().map(|l| l.split_once(' ').with_context(|| format!("line {l:?}")));
    let found = lines.map(|l| l.map(|(c, p)| format!("{c} {}", p.trim().trim_start_matches('/'))));
    check(found.collect::<Result<_>>()?)
}

fn json(cx: &mut Ctx) -> Result<()> {
    mount(cx)?;
    let out = cx.onlay(&["diff", &cx.upper.0.display().to_string(), "--format", "json"])?.ok()?;
    let value: serde_json::Value = serde_json::from_str(&out.stdout)?;
    let mut found = BTreeSet::new();
    for row in value.as_array().context("an array")? {
        let word = |k: &str| row[k].as_str().with_context(|| format!("{k} in {row}"));
        let letter = match word("change")? {
            "added" => "A",
            "changed" => "C",
            "deleted" => "D",
            other => anyhow::bail!("change {other}"),
        };
        found.insert(format!("{letter} {}", word("path")?.trim_start_matches('/')));
    }
    check(found)
}

fn of_nothing(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    m.read("f")?;
    cx.umount()?;
    let upper = cx.upper.0.display().to_string();
    same!(cx.onlay(&["diff", &upper])?.ok()?.stdout, "");
    let out = cx.onlay(&["diff", &upper, "--format", "json"])?.ok()?;
    same!(serde_json::from_str::<serde_json::Value>(&out.stdout)?, serde_json::json!([]));
    Ok(())
}

fn renamed_directory(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("d/f", "x")?;
    cx.mount()?.mv("d", "e")?;
    cx.umount()?;
    let lower = cx.dir.p("lower0").display().to_string();
    let out = cx.onlay(&["diff", &cx.upper.0.display().to_string(), "--lower", &lower])?.ok()?;
    let has = |l: &str| out.stdout.lines().any(|g| g == l || g == l.replace(' ', " /"));
    holds!(has("D d") && (has("A e") || has("C e")), "{}", out.stdout);
    Ok(())
}

fn strange_names(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("a\nD b", "")?.file("c d", "")?;
    cx.umount()?;
    let upper = cx.upper.0.display().to_string();
    // One line each: no name can pretend to be another change.
    let out = cx.onlay(&["diff", &upper])?.ok()?;
    holds!(out.stdout.lines().filter(|l| l.len() > 3).all(|l| l.starts_with("A ")), "{}", out.stdout);
    let out = cx.onlay(&["diff", &upper, "--format", "json"])?.ok()?;
    holds!(out.stdout.contains("a\\nD b"), "{}", out.stdout);
    Ok(())
}
