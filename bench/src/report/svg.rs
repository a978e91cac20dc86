//! A bar chart: how many times as long as the baseline, on a logarithmic scale. No background and mid-tone colours, so
//! that it can be read on a light page and on a dark one.

use std::fmt::{self, Write as _};

use super::Report;
use super::markdown::times_as;

const LABELS: f64 = 260.0;
const PLOT: f64 = 560.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 64.0;
const BAR: f64 = 9.0;
const GAP: f64 = 9.0;
const GREY: &str = "#808080";
const COLOURS: [&str; 6] = ["#2f8fdd", "#e0802a", "#a864c8", "#3aa655", "#d1495b", "#8a8d3f"];

/// The range of ratios, in powers of ten.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn x(&self, ratio: f64) -> f64 {
        let at = (ratio.log10() - self.low) / (self.high - self.low);
        LABELS + PLOT * at.clamp(0.0, 1.0)
    }
}

/// The chart of a report.
pub(crate) fn render(report: &Report) -> Result<String, fmt::Error> {
    let columns: Vec<usize> = (0..report.competitors.len()).filter(|c| *c != report.baseline).collect();
    let ratios = |row| columns.iter().filter_map(move |c| report.ratio(row, *c));
    let all = || report.rows.iter().flat_map(ratios).filter(|r| *r > 0.0).map(f64::log10);
    let scale = Scale { low: all().fold(-0.3, f64::min).max(-4.0) - 0.05, high: all().fold(1.0, f64::max) + 0.05 };
    let row_height = columns.len() as f64 * BAR + GAP;
    let height = TOP + row_height * report.rows.len() as f64 + 24.0;
    let width = LABELS + PLOT + RIGHT;
    let mut out = String::new();
    let o = &mut out;
    writeln!(o, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}""#)?;
    writeln!(o, r#" height="{height:.0}" font-family="system-ui, sans-serif" font-size="11" fill="{GREY}">"#)?;
    let base = report.competitors.get(report.baseline).map_or("", |c| c.label.as_str());
    let m = &report.machine;
    let title =
        format!("Wall time, as a multiple of {base} (log scale; left is faster). {}, {}", m.kernel, m.filesystem);
    writeln!(o, r#"<text x="8" y="18" font-size="13" font-weight="600">{}</text>"#, escape(&title))?;
    legend(report, &columns, o)?;
    grid(&scale, height, o)?;
    for (n, row) in report.rows.iter().enumerate() {
        let y = TOP + n as f64 * row_height + GAP / 2.0;
        let middle = y + columns.len() as f64 * BAR / 2.0 + 4.0;
        let label = escape(&row.workload);
        writeln!(o, r#"<text x="{:.0}" y="{middle:.1}" text-anchor="end">{label}</text>"#, LABELS - 8.0)?;
        for (k, column) in columns.iter().enumerate() {
            let y = y + k as f64 * BAR;
            bar(&scale, report.ratio(row, *column), COLOURS[k % COLOURS.len()], y, o)?;
        }
    }
    writeln!(o, "</svg>")?;
    Ok(out)
}

fn bar(scale: &Scale, ratio: Option<f64>, colour: &str, y: f64, o: &mut String) -> fmt::Result {
    let one = scale.x(1.0);
    let text = y + BAR - 1.5;
    let Some(ratio) = ratio else {
        return writeln!(o, r#"<text x="{:.1}" y="{text:.1}" font-size="8.5">no result</text>"#, one + 4.0);
    };
    let x = scale.x(ratio);
    let (left, width) = (x.min(one), (x - one).abs().max(1.0));
    let tall = BAR - 1.0;
    writeln!(o, r#"<rect x="{left:.1}" y="{y:.1}" width="{width:.1}" height="{tall:.1}" rx="1.5" fill="{colour}"/>"#)?;
    let (at, anchor) = if x < one { (left - 3.0, "end") } else { (left + width + 3.0, "start") };
    let label = times_as(ratio);
    writeln!(o, r#"<text x="{at:.1}" y="{text:.1}" font-size="8.5" text-anchor="{anchor}">{label}</text>"#)
}

fn legend(report: &Report, columns: &[usize], o: &mut String) -> fmt::Result {
    let mut x = LABELS;
    for (k, column) in columns.iter().enumerate() {
        let label = &report.competitors[*column].label;
        let colour = COLOURS[k % COLOURS.len()];
        writeln!(o, r#"<rect x="{x:.0}" y="30" width="10" height="10" rx="2" fill="{colour}"/>"#)?;
        writeln!(o, r#"<text x="{:.0}" y="39">{}</text>"#, x + 14.0, escape(label))?;
        x += 36.0 + label.chars().count() as f64 * 6.2;
    }
    Ok(())
}

fn grid(scale: &Scale, height: f64, o: &mut String) -> fmt::Result {
    for power in scale.low.floor() as i32..=scale.high.ceil() as i32 {
        for digit in [1.0, 2.0, 5.0] {
            let ratio = digit * 10f64.powi(power);
            let at = ratio.log10();
            // The smaller steps only where there is room for their numbers.
            if at < scale.low || at > scale.high || (digit > 1.0 && scale.high - scale.low > 3.5) {
                continue;
            }
            let x = scale.x(ratio);
            let (stroke, opacity) = if ratio == 1.0 { (1.5, 0.9) } else { (0.6, 0.4) };
            let (from, to) = (TOP - 4.0, height - 18.0);
            write!(o, r#"<line x1="{x:.1}" x2="{x:.1}" y1="{from:.0}" y2="{to:.0}" stroke="{GREY}""#)?;
            writeln!(o, r#" stroke-width="{stroke}" stroke-opacity="{opacity}"/>"#)?;
            writeln!(
                o,
                r#"<text x="{x:.1}" y="{:.0}" text-anchor="middle" font-size="9">{ratio}×</text>"#,
                height - 6.0
            )?;
            writeln!(o, r#"<text x="{x:.1}" y="{:.0}" text-anchor="middle" font-size="9">{ratio}×</text>"#, TOP - 8.0)?;
        }
    }
    Ok(())
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_for_every_result() {
        let mut report = crate::report::tests::example();
        report.rows[0].workload = "a < b".into();
        let svg = render(&report).unwrap();
        // Two in the legend, two of onlay, two of fuse-overlayfs.
        assert_eq!(svg.matches("<rect").count(), 6);
        assert_eq!(svg.matches("no result").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn slower_is_to_the_right() {
        let scale = Scale { low: -1.0, high: 1.0 };
        assert!(scale.x(0.5) < scale.x(1.0) && scale.x(1.0) < scale.x(3.0));
        assert!((scale.x(1.0) - (LABELS + PLOT / 2.0)).abs() < 1e-9);
    }
}
