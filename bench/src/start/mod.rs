//! What it costs to start a container: from the call of `run` to its end, with /bin/true inside. The runners take turns; all
//! have the same root, without network and with what they do by default.

mod contender;
mod memory;
mod place;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::stats::Summary;
use crate::watch::Watch;
use contender::{Contender, Role};
use place::Place;

pub(crate) use place::{clean_up, show_cgroup2};

/// What is measured, and how often.
pub(crate) struct Start<'a> {
    /// Our program.
    pub(crate) onlay: &'a Path,
    pub(crate) rounds: usize,
    /// Containers at once.
    pub(crate) many: usize,
    /// A root file system as a tar, with /bin/true and /bin/sleep; made of the machine's own if there is none.
    pub(crate) base: Option<&'a Path>,
    /// A directory of ours.
    pub(crate) site: &'a Path,
}

struct Row {
    contender: Contender,
    /// How it has to be called here, or why it can't be.
    way: Result<&'static [&'static str]>,
    times: Vec<f64>,
}

impl Start<'_> {
    /// Markdown tables.
    pub(crate) fn run(&self, watch: &Watch) -> Result<String> {
        // As an installer writes it, like all the others: what a linker has written lies in the page cache page by page, and
        // is mapped so.
        let onlay = self.site.join("onlay");
        std::fs::copy(self.onlay, &onlay)?;
        let place = Place::new(self.site, &onlay, self.base, watch)?;
        let mut rows = Vec::new();
        for contender in contender::all() {
            watch.go_on()?;
            let way = contender.prepare(&place).and_then(|()| contender.find_way(&place));
            if let Err(e) = &way {
                eprintln!("{}: {e:#}", contender.label());
            }
            rows.push(Row { contender, way, times: Vec::new() });
        }
        for round in 0..self.rounds {
            for row in &mut rows {
                watch.go_on()?;
                let Ok(way) = row.way else { continue };
                match row.contender.once(&place, way, round) {
                    Ok(took) => row.times.push(took.as_secs_f64()),
                    Err(e) => row.way = Err(e),
                }
            }
        }
        let mut text = table(&rows) + "\n" + &goals(&rows);
        if self.many > 0 {
            text += "\n";
            text += &memory::table(&rows_that_work(&rows), self.many, &place)?;
        }
        Ok(text)
    }
}

fn rows_that_work(rows: &[Row]) -> Vec<(&Contender, &'static [&'static str])> {
    rows.iter().filter_map(|row| Some((&row.contender, *row.way.as_ref().ok()?))).collect()
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn summary(rows: &[Row], role: Role) -> Option<Summary> {
    let row = rows.iter().find(|row| row.contender.role() == role && row.way.is_ok())?;
    Summary::of(&row.times)
}

fn table(rows: &[Row]) -> String {
    let ours = summary(rows, Role::Ours);
    let rounds = rows.iter().map(|row| row.times.len()).max().unwrap_or_default();
    let mut text = format!(
        "| /bin/true in a container, {rounds} rounds | median | least | most | median, times onlay's |\n\
         |---|---|---|---|---|\n"
    );
    for row in rows {
        let label = row.contender.label();
        match (&row.way, Summary::of(&row.times)) {
            (Ok(way), Some(s)) => {
                let with = if way.is_empty() { String::new() } else { format!(" (with `{}`)", way.join(" ")) };
                let ratio = ours.map_or("-".to_owned(), |o| format!("{:.2}", s.median / o.median));
                let [median, least, most] = [s.median, s.min, s.max].map(milliseconds);
                text += &format!("| {label}{with} | {median} | {least} | {most} | {ratio} |\n");
            }
            (Err(e), _) => text += &format!("| {label} | does not work here: {} | | | |\n", one_line(e)),
            (Ok(_), None) => text += &format!("| {label} | - | | | |\n"),
        }
    }
    text
}

fn one_line(e: &anyhow::Error) -> String {
    format!("{e:#}").replace('|', "/").replace('\n', " ")
}

/// What we want to reach, and whether we do.
fn goals(rows: &[Row]) -> String {
    let Some(ours) = summary(rows, Role::Ours) else { return String::new() };
    let mut text = String::new();
    let mut goal = |words: &str, role: Role, holds: fn(f64) -> bool| {
        let line = match summary(rows, role) {
            None => format!("- {words}: not measured\n"),
            Some(theirs) => {
                let ratio = theirs.median / ours.median;
                format!("- {words}: {ratio:.2}: {}\n", if holds(ratio) { "yes" } else { "no" })
            }
        };
        text += &line;
    };
    goal("podman with runc takes at least 3 times as long", Role::PodmanRunc, |r| r >= 3.0);
    goal("podman with crun takes at least 3 times as long", Role::PodmanCrun, |r| r >= 3.0);
    goal("crun on a fuse-overlayfs mount is not faster", Role::CrunMounted, |r| r >= 1.0);
    goal("bwrap with no union takes at least half as long", Role::Bwrap, |r| r >= 0.5);
    text
}

/// How long to wait for something to come up.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn row(role: Role, way: Result<&'static [&'static str]>, times: &[f64]) -> Row {
        let contender = contender::all().into_iter().find(|c| c.role() == role).unwrap();
        Row { contender, way, times: times.to_vec() }
    }

    #[test]
    fn ratios_are_of_ours_and_failures_are_told() {
        let rows = [
            row(Role::Ours, Ok(&[]), &[0.010, 0.020, 0.030]),
            row(Role::PodmanCrun, Ok(&["--pids-limit=0"]), &[0.050]),
            row(Role::Bwrap, Ok(&[]), &[0.010]),
            row(Role::CrunMounted, Err(anyhow::anyhow!("no | such\nprogram")), &[]),
        ];
        let text = table(&rows) + &goals(&rows);
        assert!(text.contains("3 rounds"), "{text}");
        assert!(text.contains("20.0 ms | 10.0 ms | 30.0 ms | 1.00 |"), "{text}");
        assert!(text.contains("(with `--pids-limit=0`) | 50.0 ms | 50.0 ms | 50.0 ms | 2.50 |"), "{text}");
        assert!(text.contains("does not work here: no / such program |"), "{text}");
        assert!(text.contains("podman with crun takes at least 3 times as long: 2.50: no\n"), "{text}");
        assert!(text.contains("podman with runc takes at least 3 times as long: not measured\n"), "{text}");
        assert!(text.contains("bwrap with no union takes at least half as long: 0.50: yes\n"), "{text}");
    }
}
