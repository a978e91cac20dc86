//! Medians and spread.

use serde::Serialize;

/// What is left of several times, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: usize,
}

impl Summary {
    /// `None` where nothing was measured.
    pub(crate) fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: median_sorted(&sorted), min, max, rounds: sorted.len() })
    }
}

/// The middle one; the mean of the two middle ones where their number is even.
fn median_sorted(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_is_all() {
        let s = Summary { median: 2.0, min: 2.0, max: 2.0, rounds: 1 };
        assert_eq!(Summary::of(&[2.0]), Some(s));
    }

    #[test]
    fn odd_takes_the_middle_one() {
        let s = Summary { median: 3.0, min: 1.0, max: 90.0, rounds: 5 };
        assert_eq!(Summary::of(&[90.0, 3.0, 1.0, 2.0, 4.0]), Some(s));
    }

    #[test]
    fn even_takes_the_mean_of_two() {
        let s = Summary { median: 2.5, min: 1.0, max: 9.0, rounds: 4 };
        assert_eq!(Summary::of(&[9.0, 3.0, 1.0, 2.0]), Some(s));
    }
}
