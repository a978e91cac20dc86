//! Public suites: what they find on a plain directory, they must find in the view.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::case::User;
use crate::ctx::{Ctx, Out};
use crate::tools::tool;
use crate::tree::{cases, holds};

const ROOT: &[User] = &[User::Root];

cases!("public":
    pjdfstest.onlay().by(ROOT).slow(600), fsx_new_1.onlay().by(ROOT).slow(900), fsx_new_2.onlay().by(ROOT).slow(900),
    fsx_lower_1.onlay().by(ROOT).slow(900), fsx_lower_2.onlay().by(ROOT).slow(900),
    fsx_in_place.onlay().by(ROOT).slow(900), fsx_of_a_hard_link.onlay().by(ROOT).slow(900),
);

/// Tests of pjdfstest that pass on the file system below but not in the view, each with its reason.
const NOT_IN_VIEW: [(&str, &str); 1] =
    // __statfs_link_max in glibc's sysdeps/unix/sysv/linux/pathconf.c. The limit itself: link::as_many_as_there_can_be.
    [("link::link_count_max", "skipped: glibc's pathconf(_PC_LINK_MAX) goes by f_type, and knows no limit for FUSE")];

const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["onlay-tester", "onlay-tester"], ["onlay-norange", "onlay-norange"]]
"#;

fn pjdfstest(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.dir("t")?.mode("t", 0o777)?.file("t/top", "")?;
    cx.lower()?.dir("t")?.mode("t", 0o777)?.file("t/bottom", "")?;
    cx.dir.dir("plain")?.mode("plain", 0o777)?.mode("", 0o755)?.file("config", PJDFSTEST)?;
    let m = cx.mount()?;
    m.mode("", 0o755)?;
    // Somewhere else: what can't be renamed or linked to.
    let other = tempfile::Builder::new().prefix("onlay-tests").tempdir_in("/dev/shm")?;
    let run = |dir: &Path| -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let mut cmd = tool("pjdfstest")?;
        cmd.arg("-c").arg(cx.dir.p("config")).arg("-p").arg(dir).arg("-s").arg(other.path());
        let out = Out::of(&mut cmd)?;
        let mut tests = (BTreeSet::new(), BTreeSet::new());
        for line in out.stdout.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(name), Some("FAILED"), None) => tests.1.insert(name.to_owned()),
                (Some(name), Some("ok"), None) => tests.0.insert(name.to_owned()),
                _ => false,
            };
        }
        let summary = out.stdout.lines().find(|l| l.starts_with("Summary:")).context("no summary")?;
        println!("{}: {summary}", dir.display());
        holds!(summary.contains(&format!(" {} failed", tests.1.len())), "{summary}: {}", out.stdout);
        Ok(tests)
    };
    let (plain, view) = (run(&cx.dir.p("plain"))?, run(&m.p("t"))?);
    holds!(plain.0.len() > 300, "only {} tests pass on the file system below", plain.0.len());
    let worse: Vec<_> = plain.0.difference(&view.0).filter(|n| NOT_IN_VIEW.iter().all(|(f, _)| f != n)).collect();
    holds!(worse.is_empty(), "{} pass below and not in the view: {worse:?}", worse.len());
    let better: Vec<_> = NOT_IN_VIEW.iter().filter(|(f, _)| view.0.contains(*f)).collect();
    holds!(better.is_empty(), "listed, and pass: {better:?}");
    Ok(())
}

/// For each seed: 12 seconds of one CPU.
const OPERATIONS: u32 = 100_000;

/// At least one byte at a time: fsx takes posix_fallocate's EINVAL for none as "not supported", on any file system.
const FSX: &str = "
nomsyncafterwrite = true
[opsize]
min = 1
max = 8192
[weights]
close_open = 1
invalidate = 0.2
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 0.01
fdatasync = 0.01
posix_fallocate = 1
punch_hole = 2
sendfile = 1
posix_fadvise = 1
copy_file_range = 5
";

/// The file keeps its size: what is in it is the lower's at first.
const FSX_IN_PLACE: &str = "
blockmode = true
nomsyncafterwrite = true
[opsize]
min = 1
max = 8192
[weights]
invalidate = 0.2
mapread = 10
mapwrite = 10
read = 10
write = 5
truncate = 0
punch_hole = 2
copy_file_range = 5
";

fn fsx(cx: &Ctx, file: &str, config: &str, seed: u32, operations: u32) -> Result<()> {
    cx.dir.file("config", config)?.dir("artifacts")?;
    let mut cmd = tool("fsx")?;
    cmd.args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-f"]).arg(cx.dir.p("config"));
    let out = Out::of(cmd.arg("-P").arg(cx.dir.p("artifacts")).arg(cx.m.p(file)))?;
    let text = format!("{}{}", out.stdout, out.stderr);
    let end = text.lines().rev().take(30).collect::<Vec<_>>();
    holds!(out.code == 0 && text.contains("A-OK"), "{file}, seed {seed}: {end:#?}");
    Ok(())
}

/// A new file. As all of these, run once more on mounts with `-o passthrough` and with `-o writeback`.
fn new(cx: &mut Ctx, seed: u32) -> Result<()> {
    cx.lower()?.file("d/f", "")?;
    cx.mount()?;
    fsx(cx, "d/new", FSX, seed, OPERATIONS)
}

fn fsx_new_1(cx: &mut Ctx) -> Result<()> {
    new(cx, 1)
}

fn fsx_new_2(cx: &mut Ctx) -> Result<()> {
    new(cx, 2)
}

/// A file of the lower, which fsx cuts first.
fn lower(cx: &mut Ctx, seed: u32) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 256 << 10])?;
    cx.mount()?;
    fsx(cx, "f", FSX, seed, OPERATIONS)?;
    same_after_remount(cx, "f")
}

fn fsx_lower_1(cx: &mut Ctx) -> Result<()> {
    lower(cx, 4)
}

fn fsx_lower_2(cx: &mut Ctx) -> Result<()> {
    lower(cx, 5)
}

fn fsx_in_place(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 256 << 10])?;
    cx.mount()?;
    fsx(cx, "f", FSX_IN_PLACE, 6, OPERATIONS)?;
    same_after_remount(cx, "f")
}

fn fsx_of_a_hard_link(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", vec![b'x'; 256 << 10])?.hard("f", "other-name")?;
    cx.mount()?;
    fsx(cx, "f", FSX, 7, OPERATIONS / 4)?;
    holds!(std::fs::read(cx.m.p("f"))? == std::fs::read(cx.m.p("other-name"))?);
    same_after_remount(cx, "other-name")
}

fn same_after_remount(cx: &mut Ctx, name: &str) -> Result<()> {
    let before = std::fs::read(cx.m.p(name))?;
    let m = cx.remount()?;
    holds!(before == std::fs::read(m.p(name))?, "another content after a remount");
    Ok(())
}
