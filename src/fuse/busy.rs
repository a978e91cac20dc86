//! Busy polling: who has answered looks out for the next request for a moment before it sleeps.
//!
//! Most of a round trip is waking threads on other CPUs. A program that got its answer often asks again at once; if a
//! thread of ours is still awake then, one of the two wake-ups is saved. One thread at a time looks, on a descriptor that
//! does not block; it does what will probably be asked for next, or lets others go first on its CPU, and gives up sooner each
//! time that nothing came.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::device::Received;
use super::ops::Ops;
use crate::vocab::{Errno, Result};

/// The longest look: about what two wake-ups cost on a virtual machine.
const LONGEST: Duration = Duration::from_micros(50);
/// The longest look that gets something done meanwhile.
const WORKING: Duration = Duration::from_micros(500);
/// A look shorter than this is none.
const SHORTEST: Duration = Duration::from_micros(5);
/// Who has given up tries again after so many requests.
const AGAIN: u32 = 16;

/// Where threads look out, one at a time.
#[derive(Debug)]
pub(super) struct Lookout {
    device: Arc<OwnedFd>,
    taken: AtomicBool,
}

impl Lookout {
    /// `device` is one more descriptor of the connection, which does not block.
    pub(super) fn new(device: Arc<OwnedFd>) -> Self {
        Self { device, taken: AtomicBool::new(false) }
    }

    /// What is read here is answered here.
    pub(super) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// The next request, if it comes while it is worth waiting awake.
    ///
    /// # Errors
    /// What read(2) answers, but for what only means that there is nothing yet.
    pub(super) fn look(&self, ops: &Ops, patience: &mut Patience, buf: &mut [u8]) -> Result<Option<Received>> {
        if self.taken.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(window) = patience.window() else { return Ok(None) };
        if self.taken.swap(true, Ordering::Acquire) {
            return Ok(None);
        }
        let got = self.read(ops, window, buf);
        self.taken.store(false, Ordering::Release);
        match got {
            Ok(Some(_)) => patience.met(),
            _ => patience.missed(),
        }
        got
    }

    fn read(&self, ops: &Ops, window: Duration, buf: &mut [u8]) -> Result<Option<Received>> {
        let begun = Instant::now();
        loop {
            match rustix::io::read(&self.device, &mut *buf) {
                Ok(n) => return Ok(Some(Received::Request(n))),
                Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV) => return Ok(Some(Received::End)),
                Err(e) => return Err(e),
            }
            let worked = ops.work_ahead();
            if !worked {
                // On a busy CPU this takes longer than the look may.
                rustix::thread::sched_yield();
            }
            if begun.elapsed() > if worked { WORKING } else { window } {
                return Ok(None);
            }
        }
    }
}

/// How long a thread looks, by how it went before.
#[derive(Debug)]
pub(super) struct Patience {
    /// Zero: not at all.
    window: Duration,
    /// Requests since it gave up.
    since: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { window: LONGEST, since: 0 }
    }
}

impl Patience {
    fn window(&mut self) -> Option<Duration> {
        if self.window.is_zero() {
            self.since += 1;
            if self.since < AGAIN {
                return None;
            }
            self.since = 0;
            self.window = LONGEST;
        }
        Some(self.window)
    }

    fn met(&mut self) {
        self.window = LONGEST;
    }

    fn missed(&mut self) {
        self.window /= 2;
        if self.window < SHORTEST {
            self.window = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_misses_gives_up_and_tries_again() {
        let mut patience = Patience::default();
        let mut looks = 0;
        while patience.window().is_some() {
            looks += 1;
            patience.missed();
        }
        assert_eq!(looks, 4, "50, 25, 12 and 6 µs");
        // The request that found nobody looking was the first.
        let waited = (2..).find(|_| patience.window().is_some());
        assert_eq!(waited, Some(AGAIN));
        // Once more in vain: half as long, not never.
        patience.missed();
        assert_eq!(patience.window(), Some(LONGEST / 2));
        patience.met();
        assert_eq!(patience.window(), Some(LONGEST));
    }
}
