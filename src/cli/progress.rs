//! How far long work is: bars with bytes, rate and time left on a terminal, a line at the end of each piece otherwise.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use oci_spec::image::Digest;

use super::store::size;
use crate::store::Progress;
use crate::vocab::digest::short;

/// Bars, or lines on stderr.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    terminal: bool,
    quiet: bool,
    running: Mutex<HashMap<Digest, (ProgressBar, &'static str)>>,
}

impl Bars {
    /// `quiet`: nothing at all.
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { all: MultiProgress::with_draw_target(target), terminal, quiet, running: Mutex::default() }
    }

    /// So many bytes of a blob are done: also less than before, where it has to begin again.
    pub(super) fn at(&self, blob: &Digest, bytes: u64) {
        if let Some((bar, _)) = self.bar(blob) {
            bar.set_position(bytes);
        }
    }

    /// There is nothing to do for a blob, and why.
    pub(super) fn note(&self, blob: &Digest, why: &str) {
        if let Some((bar, _)) = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(blob) {
            bar.finish_and_clear();
        }
        if !self.terminal && !self.quiet {
            eprintln!("{} {why}", short(blob));
        }
    }

    fn bar(&self, blob: &Digest) -> Option<(ProgressBar, &'static str)> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(blob).cloned()
    }
}

impl Progress for Bars {
    fn begin(&self, what: &'static str, blob: &Digest, bytes: Option<u64>) {
        let bar = match bytes {
            Some(bytes) => {
                let style = ProgressStyle::with_template(
                    "{prefix} {msg:10} [{bar:30}] {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>11} {eta:>4}",
                );
                let bar = ProgressBar::new(bytes);
                style.map_or(bar.clone(), |style| bar.with_style(style.progress_chars("=> ")))
            }
            None => {
                let style =
                    ProgressStyle::with_template("{prefix} {msg:10} {decimal_bytes:>9} {decimal_bytes_per_sec:>11}");
                let bar = ProgressBar::no_length();
                style.map_or(bar.clone(), |style| bar.with_style(style))
            }
        };
        let bar = self.all.add(bar.with_prefix(short(blob).to_owned()).with_message(what));
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(blob.clone(), (bar, what));
    }

    fn more(&self, blob: &Digest, bytes: u64) {
        if let Some((bar, _)) = self.bar(blob) {
            bar.inc(bytes);
        }
    }

    fn end(&self, blob: &Digest) {
        let ended = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(blob);
        if let Some((bar, what)) = ended {
            if !self.terminal && !self.quiet {
                eprintln!("{} {what} done, {}", short(blob), size(bar.position()));
            }
            bar.finish_and_clear();
        }
    }
}
