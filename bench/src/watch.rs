//! Ctrl-C, and competitors that hang: both end the daemon, so that whoever waits for its answers gets an error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// No step may take longer.
const LIMIT: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_millis(100);

/// Shared with a thread that watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch(Arc<State>);

#[derive(Debug, Default)]
struct State {
    interrupted: AtomicBool,
    late: AtomicBool,
    current: Mutex<Option<(u32, Instant)>>,
}

impl Watch {
    /// Takes over SIGINT, SIGTERM and SIGHUP.
    pub(crate) fn start() -> Result<Self> {
        let watch = Self::default();
        let state = watch.0.clone();
        ctrlc::set_handler(move || {
            state.interrupted.store(true, Ordering::SeqCst);
            eprintln!("\ninterrupted: cleaning up");
        })
        .context("signal handler")?;
        let state = watch.0.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(TICK);
                state.look();
            }
        });
        Ok(watch)
    }

    /// From here on this child, the head of its process group, is ended with its group when time is up or we are to stop. It must be disarmed before it is reaped.
    pub(crate) fn arm(&self, pid: u32) {
        self.0.late.store(false, Ordering::SeqCst);
        *self.lock() = Some((pid, Instant::now() + LIMIT));
    }

    /// The child may be reaped.
    pub(crate) fn disarm(&self) {
        *self.lock() = None;
    }

    /// Fails when we are to stop.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.interrupted() {
            bail!("interrupted");
        }
        Ok(())
    }

    pub(crate) fn interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::SeqCst)
    }

    /// Whether the last armed child was ended because it took too long.
    pub(crate) fn late(&self) -> bool {
        self.0.late.load(Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(u32, Instant)>> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn look(&self) {
        let interrupted = self.interrupted.load(Ordering::SeqCst);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((pid, end)) = *current else { return };
        let late = Instant::now() > end;
        if !late && !interrupted {
            return;
        }
        self.late.store(late, Ordering::SeqCst);
        if let Some(pid) = Pid::from_raw(pid.cast_signed())
            && let Err(e) = kill_process_group(pid, Signal::KILL)
        {
            eprintln!("kill {pid:?}: {e}");
        }
        *current = None;
    }
}
