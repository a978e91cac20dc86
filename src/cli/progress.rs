//! How far long work is: bars with bytes, rate and time left on a terminal, a line at the end of each piece otherwise.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use oci_spec::image::Digest;

use super::store::size;
use crate::store::Progress;
use crate::vocab::digest::short;

/// Digits of an id, and letters of what has none.
const SHORT: usize = 12;

/// Work that is not done yet.
#[derive(Debug, Clone)]
struct Running {
    bar: ProgressBar,
    what: &'static str,
    name: String,
}

/// Bars, or lines on stderr.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    terminal: bool,
    quiet: bool,
    running: Mutex<HashMap<Digest, Running>>,
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
        if let Some(Running { bar, .. }) = self.running(blob) {
            bar.set_position(bytes);
        }
    }

    /// So many bytes were done before: no part of how fast it is.
    pub(super) fn is_at(&self, blob: &Digest, bytes: u64) {
        if let Some(Running { bar, .. }) = self.running(blob) {
            bar.set_position(bytes);
            bar.reset_eta();
        }
    }

    /// There is nothing to do for a blob, and why.
    pub(super) fn note(&self, blob: &Digest, why: &str) {
        if let Some(Running { bar, .. }) = self.all_running().remove(blob) {
            bar.finish_and_clear();
        }
        if !self.terminal && !self.quiet {
            eprintln!("{} {why}", short(blob));
        }
    }

    fn all_running(&self) -> MutexGuard<'_, HashMap<Digest, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self, blob: &Digest) -> Option<Running> {
        self.all_running().get(blob).cloned()
    }
}

impl Progress for Bars {
    fn begin(&self, what: &'static str, blob: &Digest, bytes: Option<u64>) {
        self.begin_named(what, blob, short(blob), bytes);
    }

    fn begin_named(&self, what: &'static str, key: &Digest, name: &str, bytes: Option<u64>) {
        let last = name.rsplit('/').find(|part| !part.is_empty()).unwrap_or(name);
        let shown: String = last.chars().take(SHORT).collect();
        let bar = match bytes {
            Some(bytes) => {
                let style = ProgressStyle::with_template(
                    "{prefix} {msg:10} [{wide_bar}] {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>11} {eta:>4}",
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
        let bar = self.all.add(bar.with_prefix(format!("{shown:SHORT$}")).with_message(what));
        self.all_running().insert(key.clone(), Running { bar, what, name: name.to_owned() });
    }

    fn more(&self, blob: &Digest, bytes: u64) {
        if let Some(Running { bar, .. }) = self.running(blob) {
            bar.inc(bytes);
        }
    }

    fn end(&self, blob: &Digest) {
        let ended = self.all_running().remove(blob);
        if let Some(Running { bar, what, name }) = ended {
            if !self.terminal && !self.quiet {
                eprintln!("{name} {what} done, {}", size(bar.position()));
            }
            bar.finish_and_clear();
        }
    }
}
