//! What onlay means to reach, and whether a report shows it. A goal is met, or missed, only where medians and minima agree.

use std::fmt::{self, Write as _};

use super::markdown::times_as;
use super::{Cell, Report, Row};
use crate::competitor::Kind;

/// A ratio to the kernel's union that is not to be exceeded.
struct Goal {
    /// How the workload's name begins, and how it ends.
    begins: &'static str,
    ends: &'static str,
    at_most: f64,
    /// The same on tmpfs, where no disk hides the cost.
    on_tmpfs: Option<f64>,
    /// How many times faster than the better fuse-overlayfs it is to be.
    faster: Option<f64>,
}

const fn goal(begins: &'static str, ends: &'static str, at_most: f64) -> Goal {
    Goal { begins, ends, at_most, on_tmpfs: None, faster: None }
}

const fn twice(begins: &'static str, ends: &'static str, at_most: f64, on_tmpfs: f64) -> Goal {
    Goal { begins, ends, at_most, on_tmpfs: Some(on_tmpfs), faster: Some(2.0) }
}

const GOALS: &[Goal] = &[
    goal("hot stat", "calls", 1.1),
    goal("hot open and close", "calls", 1.1),
    goal("absent names", "calls", 1.1),
    goal("walk, names only", "again", 1.1),
    goal("walk with stat", "again", 1.1),
    goal("read all files", "again", 1.1),
    goal("walk with stat", "fresh", 1.5),
    goal("read all files", "fresh", 1.5),
    goal("git status", "", 1.15),
    goal("gcc", "", 1.15),
    goal("python", "", 1.15),
    twice("create", "files", 2.0, 4.0),
    twice("untar", "files", 2.0, 4.0),
    twice("rm -rf of", "new files", 4.0, 4.0),
    goal("rm -rf of lower", "", 4.0),
    goal("chmod -R", "", 0.5),
    goal("chown -R", "", 0.5),
    goal("mv of", "", 0.02),
    goal("read", "MiB, fresh", 1.3),
    goal("read", "MiB, again", 1.05),
    goal("read", "random", 1.05),
    goal("write", "MiB", 1.3),
    goal("write", "random", 1.3),
    goal("append a byte", "below", 1.0),
];

/// With an image index the fresh walk is to beat the kernel.
const WITH_INDEX: Goal = goal("walk with stat", "fresh", 0.9);

impl Goal {
    fn is_for(&self, row: &Row) -> bool {
        row.workload.starts_with(self.begins) && row.workload.ends_with(self.ends)
    }
}

/// Median and minimum of one result as a multiple of another's.
#[derive(Clone, Copy)]
struct Times {
    median: f64,
    min: f64,
}

impl Times {
    fn of(cell: &Cell, base: &Cell) -> Option<Self> {
        let (Cell::Done { summary: a, .. }, Cell::Done { summary: b, .. }) = (cell, base) else { return None };
        (b.median > 0.0 && b.min > 0.0).then(|| Self { median: a.median / b.median, min: a.min / b.min })
    }

    fn verdict(self, at_most: f64) -> String {
        match (self.median <= at_most, self.min <= at_most) {
            (true, true) => "met".to_owned(),
            (false, false) => {
                let by = |x: f64| format!("{:.1}", x / at_most);
                let (low, high) = (self.median.min(self.min), self.median.max(self.min));
                format!("**missed**, {} to {} times as much", by(low), by(high))
            }
            _ => "undecided: median and minimum disagree".to_owned(),
        }
    }
}

/// The goals as a table; nothing where onlay or the kernel's union did not take part.
pub(super) fn render(report: &Report, out: &mut String) -> fmt::Result {
    let column = |kind| report.competitors.iter().position(|c| c.kind == kind);
    let (Some(kernel), onlay) = (column(Kind::Overlayfs), column(Kind::Onlay)) else { return Ok(()) };
    let mut lines = String::new();
    for row in &report.rows {
        if let (Some(onlay), Some(goal)) = (onlay, GOALS.iter().find(|g| g.is_for(row))) {
            let at_most = goal.on_tmpfs.filter(|_| report.machine.filesystem == "tmpfs").unwrap_or(goal.at_most);
            line(&row.workload, at_most, Times::of(&row.cells[onlay], &row.cells[kernel]), &mut lines)?;
            if let (Some(faster), Some(better)) = (goal.faster, better(report, row)) {
                let what = format!("{}, to the better fuse-overlayfs", row.workload);
                line(&what, 1.0 / faster, Times::of(&row.cells[onlay], better), &mut lines)?;
            }
        }
        if let (Some(index), true) = (column(Kind::OnlayIndex), WITH_INDEX.is_for(row)) {
            let what = format!("{}, image index", row.workload);
            line(&what, WITH_INDEX.at_most, Times::of(&row.cells[index], &row.cells[kernel]), &mut lines)?;
        }
    }
    if let Some(onlay) = onlay {
        shared_blocks(report, onlay, &mut lines)?;
        threads(report, onlay, &mut lines)?;
    }
    if lines.is_empty() {
        return Ok(());
    }
    let base = &report.competitors[kernel].label;
    writeln!(
        out,
        "| goal (ratio to {base} unless it says otherwise) | ≤ | median | minimum | |\n|---|--:|--:|--:|---|"
    )?;
    writeln!(out, "{lines}")
}

fn line(what: &str, at_most: f64, times: Option<Times>, out: &mut String) -> fmt::Result {
    match times {
        Some(t) => {
            let verdict = t.verdict(at_most);
            writeln!(out, "| {what} | {at_most} | {} | {} | {verdict} |", times_as(t.median), times_as(t.min))
        }
        None => writeln!(out, "| {what} | {at_most} | – | – | no result |"),
    }
}

/// The result of the fastest fuse-overlayfs.
fn better<'a>(report: &'a Report, row: &'a Row) -> Option<&'a Cell> {
    let theirs = row.cells.iter().zip(&report.competitors).filter(|(_, c)| c.kind == Kind::FuseOverlayfs);
    theirs.filter_map(|(cell, _)| Some((cell, cell.median()?))).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(cell, _)| cell)
}

/// Milliseconds for a byte appended to a big lower file where its blocks can be shared.
const SHARED: f64 = 20.0;

fn shared_blocks(report: &Report, onlay: usize, out: &mut String) -> fmt::Result {
    for row in report.rows.iter().filter(|r| r.workload.starts_with("append") && !r.workload.ends_with("below")) {
        let Cell::Done { summary, .. } = &row.cells[onlay] else { continue };
        let t = Times { median: summary.median * 1e3, min: summary.min * 1e3 };
        let verdict = t.verdict(SHARED);
        writeln!(out, "| {}, in ms | {SHARED} | {:.1} ms | {:.1} ms | {verdict} |", row.workload, t.median, t.min)?;
    }
    Ok(())
}

/// Eight threads take no longer in total than one.
fn threads(report: &Report, onlay: usize, out: &mut String) -> fmt::Result {
    for row in &report.rows {
        let Some(one) = row.workload.strip_suffix(", 8 threads") else { continue };
        if let Some(single) = report.rows.iter().find(|r| r.workload == one) {
            let what = format!("{}, to one thread", row.workload);
            line(&what, 1.0, Times::of(&row.cells[onlay], &single.cells[onlay]), out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{done, example};

    fn rendered(report: &Report) -> String {
        let mut out = String::new();
        render(report, &mut out).unwrap();
        out
    }

    #[test]
    fn met_missed_and_undecided() {
        let mut report = example();
        let row = |workload: &str, ours: &[f64], theirs: &[f64]| Row {
            workload: workload.into(),
            cells: vec![done(ours, None), done(&[1.0, 1.0, 1.0], None), done(theirs, None)],
        };
        report.rows = vec![
            row("walk with stat, fresh", &[1.4, 1.4, 1.4], &[9.0]),
            row("walk with stat, fresh, 8 threads", &[2.8, 2.8, 2.8], &[9.0]),
            row("create 50 files", &[3.0, 3.0, 1.0], &[5.0]),
            row("rm -rf of 9 new files", &[5.0, 6.0, 8.0], &[20.0]),
            row("hot stat, 9 calls", &[1.0], &[5.0]),
            row("append a byte to 9 MiB below, xfs", &[0.018, 0.018, 0.017], &[5.0]),
        ];
        report.rows[4].cells[0] = Cell::Failed { why: "x".into() };
        let expected = "\
| goal (ratio to overlayfs unless it says otherwise) | ≤ | median | minimum | |
|---|--:|--:|--:|---|
| walk with stat, fresh | 1.5 | 1.40× | 1.40× | met |
| create 50 files | 2 | 3.0× | 1.00× | undecided: median and minimum disagree |
| create 50 files, to the better fuse-overlayfs | 0.5 | 0.60× | 0.20× | undecided: median and minimum disagree |
| rm -rf of 9 new files | 4 | 6.0× | 5.0× | **missed**, 1.2 to 1.5 times as much |
| rm -rf of 9 new files, to the better fuse-overlayfs | 0.5 | 0.30× | 0.25× | met |
| hot stat, 9 calls | 1.1 | – | – | no result |
| append a byte to 9 MiB below, xfs, in ms | 20 | 18.0 ms | 17.0 ms | met |
| walk with stat, fresh, 8 threads, to one thread | 1 | 2.0× | 2.0× | **missed**, 2.0 to 2.0 times as much |

";
        assert_eq!(rendered(&report), expected);
        // On tmpfs the limit is another.
        report.machine.filesystem = "tmpfs".into();
        assert!(rendered(&report).contains("| create 50 files | 4 | 3.0× | 1.00× | met |"));
        // Nothing to compare with.
        report.competitors[1].kind = Kind::Native;
        assert_eq!(rendered(&report), "");
    }

    #[test]
    fn every_goal_has_a_workload() {
        use clap::Parser as _;
        let names = crate::workload::all(&crate::args::Args::parse_from(["bench"]).scale());
        for goal in GOALS.iter().chain([&WITH_INDEX]) {
            let row = |w: &crate::workload::Workload| Row { workload: w.name.clone(), cells: Vec::new() };
            assert!(names.iter().any(|w| goal.is_for(&row(w))), "{} .. {}", goal.begins, goal.ends);
        }
    }
}
