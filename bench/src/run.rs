//! The rounds: every competitor in turn, a fresh mount each time, everything gone afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Scale;
use crate::competitor::{Competitor, Kind, initial_root};
use crate::fixture::{Fixtures, Set, copy_layers};
use crate::mounted::{Mounted, Place};
use crate::proc::Usage;
use crate::report::{Cell, Row, Used};
use crate::requests::{Counter, Requests};
use crate::stats::Summary;
use crate::tools::Tools;
use crate::watch::Watch;
use crate::workload::{Cx, Work, Workload};

/// What is run, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) competitors: &'a [Competitor],
    pub(crate) workloads: &'a [Workload],
    pub(crate) rounds: usize,
    pub(crate) scale: Scale,
    pub(crate) tools: &'a Tools,
    /// The machine's caches may be dropped before a fresh round.
    pub(crate) cold: bool,
    /// Ours; removed by the caller.
    pub(crate) dir: &'a Path,
    /// Counts FUSE requests, where that is possible.
    pub(crate) counter: Option<&'a Counter>,
}

/// One time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    time: Duration,
    used: Option<Usage>,
}

/// The caches of the machine can be dropped.
pub(crate) fn can_drop() -> bool {
    initial_root()
}

/// Runs everything; when interrupted, what is complete is there.
pub(crate) fn run(plan: &Plan<'_>, fixtures: &mut Fixtures<'_>, watch: &Watch) -> Vec<Row> {
    let counted = usize::from(plan.counter.is_some());
    let steps = plan.workloads.len() * (plan.rounds + counted) * plan.competitors.len();
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (left: {eta}) {msg}") {
        bar.set_style(style);
    }
    let mut rows = Vec::new();
    for (nth, workload) in plan.workloads.iter().enumerate() {
        let mut samples: Vec<Result<Vec<Sample>>> = plan.competitors.iter().map(|_| Ok(Vec::new())).collect();
        let mut requests: Vec<Option<Requests>> = vec![None; plan.competitors.len()];
        for round in 0..plan.rounds + counted {
            for i in 0..plan.competitors.len() {
                // Nobody is always the first, or always behind the same one.
                let i = if round % 2 == 0 { i } else { plan.competitors.len() - 1 - i };
                let competitor = &plan.competitors[i];
                bar.set_message(format!("{}: {}", workload.name, competitor.label));
                bar.tick();
                // One more round, as counting takes time.
                let counter = plan.counter.filter(|_| round == plan.rounds);
                if let (Ok(so_far), true) = (&mut samples[i], applies(competitor, workload, counter.is_some())) {
                    match one(plan, fixtures, watch, competitor, workload, counter) {
                        Ok((_, counts)) if counter.is_some() => requests[i] = counts,
                        Ok((sample, _)) => so_far.push(sample),
                        Err(e) => samples[i] = Err(e),
                    }
                }
                if watch.interrupted() {
                    bar.abandon();
                    return rows;
                }
                bar.inc(1);
            }
        }
        if bar.is_hidden() {
            eprintln!("{}/{} {}", nth + 1, plan.workloads.len(), workload.name);
        }
        let cells = samples.iter().zip(requests).zip(plan.competitors);
        let cells = cells.map(|((s, r), c)| cell(s, r, applies(c, workload, false))).collect();
        rows.push(Row { workload: workload.name.clone(), cells });
    }
    bar.finish_and_clear();
    rows
}

/// A copy is not mounted, and only FUSE has requests to count.
fn applies(competitor: &Competitor, workload: &Workload, counting: bool) -> bool {
    let mounting = matches!(workload.work, Work::Mounting);
    match competitor.kind {
        Kind::Overlayfs | Kind::OverlayfsMetacopy => !counting,
        Kind::Native => !mounting && !counting,
        _ => !(mounting && counting),
    }
}

fn cell(samples: &Result<Vec<Sample>>, requests: Option<Requests>, applies: bool) -> Cell {
    let samples = match samples {
        Ok(_) if !applies => return Cell::DoesNotApply,
        Ok(samples) => samples,
        Err(e) => return Cell::Failed { why: format!("{e:#}") },
    };
    let times: Vec<f64> = samples.iter().map(|s| s.time.as_secs_f64()).collect();
    let Some(summary) = Summary::of(&times) else { return Cell::Failed { why: "not measured".into() } };
    let used: Vec<Usage> = samples.iter().filter_map(|s| s.used).collect();
    let cpu = Summary::of(&used.iter().map(|u| u.cpu).collect::<Vec<_>>());
    let daemon = cpu.map(|cpu| Used {
        cpu: cpu.median,
        peak_rss: used.iter().map(|u| u.peak_rss).max().unwrap_or_default(),
        fds: used.iter().map(|u| u.fds).max().unwrap_or_default(),
    });
    Cell::Done { summary, times, daemon, requests }
}

/// One round of one competitor.
fn one(
    plan: &Plan<'_>,
    fixtures: &mut Fixtures<'_>,
    watch: &Watch,
    competitor: &Competitor,
    workload: &Workload,
    counter: Option<&Counter>,
) -> Result<(Sample, Option<Requests>)> {
    let round = Round::new(plan.dir)?;
    let lowers = fixtures.lowers(workload.set)?;
    let mut place = Place {
        upper: round.dir("upper")?,
        work: round.dir("work")?,
        merged: round.dir("merged")?,
        log: round.0.join("log"),
        index: index_of(plan.dir, &lowers),
        lowers,
    };
    if competitor.kind == Kind::Native {
        place.merged = native(fixtures, workload, &place)?;
    }
    if workload.fresh && plan.cold && counter.is_none() {
        drop_caches()?;
    }
    let mounted = Mounted::new(competitor, &place, watch)?;
    let (mounted, sample, requests) = measure(plan, mounted, place.merged, watch, workload, counter)?;
    mounted.end()?;
    Ok((sample, requests))
}

fn measure<'w>(
    plan: &Plan<'_>,
    mut mounted: Mounted<'w>,
    merged: PathBuf,
    watch: &Watch,
    workload: &Workload,
    counter: Option<&Counter>,
) -> Result<(Mounted<'w>, Sample, Option<Requests>)> {
    let prepare = match workload.work {
        Work::Mounting => {
            let sample = Sample { time: mounted.took, used: mounted.usage() };
            return Ok((mounted, sample, None));
        }
        Work::Mounted(prepare) => prepare,
    };
    let cx = Cx { merged, scale: plan.scale, tools: plan.tools.clone(), watch: watch.clone() };
    let timed = prepare(&cx).context("set-up");
    let timed = mounted.check(timed)?;
    let before = mounted.usage();
    let start = Instant::now();
    let done = match counter {
        Some(counter) => counter.count(&cx.merged, timed).map(Some),
        None => timed().map(|()| None),
    };
    let time = start.elapsed();
    let after = mounted.usage();
    let requests = match mounted.check(done)? {
        Some(Err(e)) => {
            eprintln!("{}: requests not counted: {e:#}", workload.name);
            None
        }
        counts => counts.and_then(Result::ok),
    };
    let used = before.zip(after).map(|(before, after)| Usage { cpu: after.cpu - before.cpu, ..after });
    Ok((mounted, Sample { time, used }, requests))
}

/// A copy that may be changed, or the one that is kept for looking at.
fn native(fixtures: &mut Fixtures<'_>, workload: &Workload, place: &Place) -> Result<PathBuf> {
    // Where files are only added, an empty directory does as well.
    if workload.writes && !matches!(workload.set, Set::Few(_)) {
        copy_layers(&place.lowers, &place.merged)?;
    } else if !workload.writes {
        return fixtures.copy(workload.set);
    }
    Ok(place.merged.clone())
}

/// All that is clean goes; what is dirty is written first, so that nobody pays for another's data.
fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")
}

/// A directory for one round.
#[derive(Debug)]
struct Round(PathBuf);

impl Round {
    fn new(parent: &Path) -> Result<Self> {
        let dir = parent.join("R");
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self(dir))
    }

    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.0.join(name);
        fs::create_dir(&dir)?;
        Ok(dir)
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a directory of ours. A mount that is still there is kept out: `rm` does not go into it.
pub(crate) fn remove(dir: &Path) {
    let mut rm = std::process::Command::new("rm");
    // The work directory of a union may be one that an ordinary user can't list.
    let status = match fs::remove_dir_all(dir.join("work")) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let mut chmod = std::process::Command::new("chmod");
            chmod.args(["-R", "u+rwx"]).arg(dir.join("work")).status().map(drop)
        }
        _ => Ok(()),
    };
    let status = status.and_then(|()| rm.args(["-rf", "--one-file-system", "--"]).arg(dir).status());
    match status {
        Ok(s) if s.success() => {}
        Ok(s) => eprintln!("rm {}: {s}", dir.display()),
        Err(e) => eprintln!("rm {}: {e}", dir.display()),
    }
}

/// Where the image index of these layers is, for all rounds.
fn index_of(dir: &Path, lowers: &[PathBuf]) -> PathBuf {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    lowers.hash(&mut hasher);
    dir.join(format!("image-index-{:016x}", hasher.finish()))
}
