//! What was found out, and ways to show it.

mod goals;
pub(crate) mod markdown;
pub(crate) mod svg;

use serde::Serialize;

use crate::competitor::{Competitor, Kind, Missing};
use crate::requests::Requests;
use crate::stats::Summary;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) competitors: Vec<Competitor>,
    /// Which of them the ratios are to.
    pub(crate) baseline: usize,
    pub(crate) missing: Vec<Missing>,
    pub(crate) rows: Vec<Row>,
    /// What a reader should know.
    pub(crate) notes: Vec<String>,
}

/// Where it was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_gib: u64,
    pub(crate) filesystem: String,
    /// How requests of FUSE come, and how idle CPUs wait for them.
    pub(crate) waiting: String,
    /// Load averages (1, 5, 15 minutes) before and after.
    pub(crate) load: [String; 2],
    /// root, or an ordinary user.
    pub(crate) user: String,
    pub(crate) command: String,
    /// Seconds since 1970 at the end.
    pub(crate) time: u64,
}

/// A workload's results, one for each competitor.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) cells: Vec<Cell>,
}

/// One result.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum Cell {
    Done {
        summary: Summary,
        times: Vec<f64>,
        /// Of the daemon, where there is one.
        daemon: Option<Used>,
        /// FUSE requests of one round by type, where they can be counted.
        requests: Option<Requests>,
    },
    Failed {
        why: String,
    },
    /// There is no such thing for this competitor.
    DoesNotApply,
}

/// What a daemon used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Used {
    /// Seconds in one round, the median.
    pub(crate) cpu: f64,
    /// KiB, the most of all rounds.
    pub(crate) peak_rss: u64,
    /// The most at the end of a round.
    pub(crate) fds: usize,
}

impl Cell {
    pub(crate) fn median(&self) -> Option<f64> {
        match self {
            Self::Done { summary, .. } => Some(summary.median),
            Self::Failed { .. } | Self::DoesNotApply => None,
        }
    }

    fn daemon(&self) -> Option<Used> {
        match self {
            Self::Done { daemon, .. } => *daemon,
            Self::Failed { .. } | Self::DoesNotApply => None,
        }
    }
}

impl Report {
    /// The kernel's union if it takes part, else a plain copy, else the first.
    pub(crate) fn baseline_of(competitors: &[Competitor]) -> usize {
        let at = |kind| competitors.iter().position(|c| c.kind == kind);
        at(Kind::Overlayfs).or_else(|| at(Kind::OverlayfsMetacopy)).or_else(|| at(Kind::Native)).unwrap_or(0)
    }

    /// How many times as long as the baseline.
    pub(crate) fn ratio(&self, row: &Row, column: usize) -> Option<f64> {
        let base = row.cells.get(self.baseline)?.median()?;
        (base > 0.0).then_some(row.cells.get(column)?.median()? / base)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn done(times: &[f64], daemon: Option<Used>) -> Cell {
        let requests = daemon.map(|_| [("LOOKUP", 2), ("READ", 300)].map(|(k, n)| (k.to_owned(), n)).into());
        Cell::Done { summary: Summary::of(times).unwrap(), times: times.to_vec(), daemon, requests }
    }

    /// A report with a bit of everything.
    pub(crate) fn example() -> Report {
        let one = |kind, label: &str, version: &str| Competitor {
            kind,
            program: "".into(),
            label: label.into(),
            version: version.into(),
        };
        let used = Some(Used { cpu: 0.25, peak_rss: 2048, fds: 9 });
        Report {
            machine: Machine {
                kernel: "Linux 6.18.0".into(),
                cpu: "Some <CPU>".into(),
                cpus: 2,
                memory_gib: 23,
                filesystem: "ext4".into(),
                waiting: "FUSE over io_uring off".into(),
                load: ["0.10 0.20 0.30".into(), "1.00 0.50 0.40".into()],
                user: "root".into(),
                command: "bench --rounds 3".into(),
                time: 0,
            },
            competitors: vec![
                one(Kind::Onlay, "onlay 0.1.0", "0.1.0"),
                one(Kind::Overlayfs, "overlayfs", "Linux 6.18.0"),
                one(Kind::FuseOverlayfs, "fuse-overlayfs 1.10", "1.10"),
            ],
            baseline: 1,
            missing: vec![Missing { name: "gcc".into(), hint: "package gcc".into() }],
            rows: vec![
                Row {
                    workload: "walk".into(),
                    cells: vec![
                        done(&[0.2, 0.21, 0.3], used),
                        done(&[0.1, 0.1, 0.2], None),
                        done(&[1.5, 1.3, 1.4], used),
                    ],
                },
                Row {
                    workload: "mv".into(),
                    cells: vec![
                        done(&[0.000_05], used),
                        done(&[2.0], None),
                        Cell::Failed { why: "its daemon died: signal: 11 | sorry".into() },
                    ],
                },
                Row {
                    workload: "mount".into(),
                    cells: vec![Cell::DoesNotApply, done(&[0.002], None), done(&[0.004], None)],
                },
            ],
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn ratios_are_to_the_baseline() {
        let r = example();
        assert_eq!(r.ratio(&r.rows[0], 1), Some(1.0));
        assert!((r.ratio(&r.rows[0], 2).unwrap() - 14.0).abs() < 1e-9);
        assert_eq!(r.ratio(&r.rows[1], 2), None);
        assert_eq!(Report::baseline_of(&r.competitors), 1);
        assert_eq!(Report::baseline_of(&r.competitors[2..]), 0);
    }

    #[test]
    fn json_has_every_time() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["rows"][0]["cells"][0]["times"][1], 0.21);
        assert_eq!(json["rows"][1]["cells"][2]["state"], "failed");
    }
}
