//! Tables in Markdown.

use std::fmt::{self, Write as _};

use super::{Cell, Machine, Report, Row, goals};
use crate::requests::Requests;

/// The whole report.
pub(crate) fn render(report: &Report) -> Result<String, fmt::Error> {
    let mut out = String::new();
    head(report, &mut out)?;
    times(report, &mut out)?;
    goals::render(report, &mut out)?;
    daemons(report, &mut out)?;
    requests(report, &mut out)?;
    failures(report, &mut out)?;
    Ok(out)
}

/// Where it was measured.
pub(crate) fn machine(m: &Machine) -> String {
    let [before, after] = &m.load;
    format!(
        "{}, {} × {}, {} GiB, {}, as {}.\n{}.\nLoad average before: {before}; after: {after}.\n`{}`\n",
        m.kernel, m.cpus, m.cpu, m.memory_gib, m.filesystem, m.user, m.waiting, m.command
    )
}

fn head(report: &Report, out: &mut String) -> fmt::Result {
    out.write_str(&machine(&report.machine))?;
    for note in &report.notes {
        writeln!(out, "{note}")?;
    }
    for missing in &report.missing {
        writeln!(out, "Not there: {} ({}).", missing.name, missing.hint)?;
    }
    writeln!(out)
}

fn times(report: &Report, out: &mut String) -> fmt::Result {
    let base = report.competitors.get(report.baseline).map_or("", |c| c.label.as_str());
    writeln!(out, "Median of wall time (min..max), and its ratio to {base}: less is better.\n")?;
    write!(out, "| workload |")?;
    for c in &report.competitors {
        write!(out, " {} |", plain(&c.label))?;
    }
    write!(out, "\n|---|")?;
    for _ in &report.competitors {
        write!(out, "--:|")?;
    }
    writeln!(out)?;
    for row in &report.rows {
        write!(out, "| {} |", plain(&row.workload))?;
        for column in 0..row.cells.len() {
            write!(out, " {} |", text(report, row, column))?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

fn text(report: &Report, row: &Row, column: usize) -> String {
    let summary = match &row.cells[column] {
        Cell::Done { summary, .. } => summary,
        Cell::Failed { .. } => return "failed".to_owned(),
        Cell::DoesNotApply => return "–".to_owned(),
    };
    let spread = match summary.rounds {
        1 => String::new(),
        _ => format!(" ({}..{})", duration(summary.min), duration(summary.max)),
    };
    let ratio = match report.ratio(row, column) {
        Some(ratio) if column != report.baseline => format!(" **{}**", times_as(ratio)),
        _ => String::new(),
    };
    format!("{}{spread}{ratio}", duration(summary.median))
}

fn daemons(report: &Report, out: &mut String) -> fmt::Result {
    let mut any = false;
    for (column, c) in report.competitors.iter().enumerate() {
        let used: Vec<_> = report.rows.iter().filter_map(|r| r.cells.get(column)?.daemon()).collect();
        let (Some(rss), Some(fds)) = (used.iter().map(|u| u.peak_rss).max(), used.iter().map(|u| u.fds).max()) else {
            continue;
        };
        if !any {
            writeln!(out, "| daemon | CPU time, all rows once | peak RSS | descriptors |\n|---|--:|--:|--:|")?;
            any = true;
        }
        let cpu: f64 = used.iter().map(|u| u.cpu).sum();
        let rss = rss as f64 / 1024.0;
        writeln!(out, "| {} | {cpu:.2} s | {rss:.1} MiB | {fds} |", plain(&c.label))?;
    }
    if any { writeln!(out) } else { Ok(()) }
}

fn requests(report: &Report, out: &mut String) -> fmt::Result {
    let of = |row: &Row, column: usize| match row.cells.get(column) {
        Some(Cell::Done { requests: Some(requests), .. }) => Some(most(requests)),
        _ => None,
    };
    let counted = |column: &usize| report.rows.iter().any(|row| of(row, *column).is_some());
    let columns: Vec<usize> = (0..report.competitors.len()).filter(counted).collect();
    if columns.is_empty() {
        return Ok(());
    }
    write!(out, "| FUSE requests in one round |")?;
    for column in &columns {
        write!(out, " {} |", plain(&report.competitors[*column].label))?;
    }
    writeln!(out, "\n|---|{}", "---|".repeat(columns.len()))?;
    for row in report.rows.iter().filter(|row| columns.iter().any(|c| of(row, *c).is_some())) {
        write!(out, "| {} |", plain(&row.workload))?;
        for column in &columns {
            write!(out, " {} |", of(row, *column).unwrap_or_else(|| "–".to_owned()))?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// The most frequent ones first.
fn most(requests: &Requests) -> String {
    let mut sorted: Vec<_> = requests.iter().collect();
    sorted.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    match sorted.is_empty() {
        true => "none".to_owned(),
        false => sorted.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", "),
    }
}

fn failures(report: &Report, out: &mut String) -> fmt::Result {
    for row in &report.rows {
        for (cell, c) in row.cells.iter().zip(&report.competitors) {
            if let Cell::Failed { why } = cell {
                writeln!(out, "- {}, {}: {}", plain(&row.workload), plain(&c.label), plain(why))?;
            }
        }
    }
    Ok(())
}

/// Nothing that ends a cell of a table.
fn plain(words: &str) -> String {
    words.replace('|', "\\|").replace('\n', " ")
}

/// Three digits and a unit.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 10.0 => format!("{s:.1} s"),
        s if s >= 0.9995 => format!("{s:.2} s"),
        s if s >= 0.1 => format!("{:.0} ms", s * 1e3),
        s if s >= 0.01 => format!("{:.1} ms", s * 1e3),
        s if s >= 0.000_999_5 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

/// A ratio, with as many digits as it deserves.
pub(crate) fn times_as(ratio: f64) -> String {
    match ratio {
        r if r >= 9.95 => format!("{r:.0}×"),
        r if r >= 1.995 => format!("{r:.1}×"),
        r if r >= 0.0995 => format!("{r:.2}×"),
        r if r > 0.0 => {
            let digits = (1.0 - r.log10().floor()).clamp(2.0, 9.0) as usize;
            format!("{r:.digits$}×")
        }
        _ => "0×".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let of = [123.4, 12.34, 1.234, 0.9996, 0.1234, 0.01234, 0.001_234, 0.000_012];
        let expected = ["123 s", "12.3 s", "1.23 s", "1.00 s", "123 ms", "12.3 ms", "1.23 ms", "12 µs"];
        assert_eq!(of.map(duration), expected);
        assert_eq!([14.0, 2.5, 1.05, 0.02, 0.000_123].map(times_as), ["14×", "2.5×", "1.05×", "0.020×", "0.00012×"]);
    }

    #[test]
    fn a_table_from_fixed_numbers() {
        let expected = r"Linux 6.18.0, 2 × Some <CPU>, 23 GiB, ext4, as root.
FUSE over io_uring off.
Load average before: 0.10 0.20 0.30; after: 1.00 0.50 0.40.
`bench --rounds 3`
a note
Not there: gcc (package gcc).

Median of wall time (min..max), and its ratio to overlayfs: less is better.

| workload | onlay 0.1.0 | overlayfs | fuse-overlayfs 1.10 |
|---|--:|--:|--:|
| walk | 210 ms (200 ms..300 ms) **2.1×** | 100 ms (100 ms..200 ms) | 1.40 s (1.30 s..1.50 s) **14×** |
| mv | 50 µs **0.000025×** | 2.00 s | failed |
| mount | – | 2.00 ms | 4.00 ms **2.0×** |

| daemon | CPU time, all rows once | peak RSS | descriptors |
|---|--:|--:|--:|
| onlay 0.1.0 | 0.50 s | 2.0 MiB | 9 |
| fuse-overlayfs 1.10 | 0.25 s | 2.0 MiB | 9 |

| FUSE requests in one round | onlay 0.1.0 | fuse-overlayfs 1.10 |
|---|---|---|
| walk | READ 300, LOOKUP 2 | READ 300, LOOKUP 2 |
| mv | READ 300, LOOKUP 2 | – |

- mv, fuse-overlayfs 1.10: its daemon died: signal: 11 \| sorry
";
        assert_eq!(render(&crate::report::tests::example()).unwrap(), expected);
    }
}
