//! Our own transport over io_uring (Linux 6.14, `/sys/module/fuse/parameters/enable_uring`): for each CPU a queue, whose
//! requests are answered by threads that stay on that CPU, with one system call for a reply and the next request.
//! What nobody waits for (FORGET, INTERRUPT) still comes from `/dev/fuse`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::abi::{Header, OUT_HEADER, Out, Request, op};
use super::ops::{MAX_WRITE, Ops};
use super::wire::answer;
use crate::sys::uring::Slot;
use crate::vocab::{Errno, Result};

/// Threads for one queue: as many requests of one CPU's callers can take long before another waits for them.
const THREADS: usize = 4;
/// Threads for all queues, where that leaves one for each.
const MAX_THREADS: usize = 64;

/// From how many bytes on a READ most likely reads ahead of the caller.
const AHEAD: usize = 128 << 10;

/// A thread to be.
#[derive(Debug)]
pub(super) struct Server {
    slot: Slot,
    queue: u16,
    place: Place,
}

/// Where the thread may be.
#[derive(Debug)]
struct Place {
    /// The queue's CPU.
    own: usize,
    /// The CPUs that the process may use.
    anywhere: CpuSet,
    /// It may go to all of them, for now, not to its own alone.
    roams: bool,
}

/// Everything that can fail, before the kernel is told that we use it: one server or more for each queue.
///
/// # Errors
/// Why there can be no rings here.
pub(super) fn servers() -> std::io::Result<Vec<Server>> {
    let queues = possible_cpus()?;
    let anywhere = sched_getaffinity(None)?;
    let each = (MAX_THREADS / usize::from(queues).max(1)).clamp(1, THREADS);
    let all = (0..queues).flat_map(|queue| std::iter::repeat_n(queue, each));
    let place = |queue: u16| Place { own: queue.into(), anywhere, roams: true };
    all.map(|queue| Ok(Server { slot: Slot::new(MAX_WRITE as usize)?, queue, place: place(queue) })).collect()
}

/// CPUs that there may ever be: the kernel has a queue for each.
fn possible_cpus() -> std::io::Result<u16> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = list.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<u16>().ok());
    last.and_then(|n| n.checked_add(1)).ok_or_else(|| std::io::Error::other(format!("CPUs: {list:?}")))
}

impl Server {
    /// Answers requests until the mount is gone.
    ///
    /// # Errors
    /// What the ring answers.
    pub(super) fn serve(mut self, device: BorrowedFd<'_>, ops: &Ops) -> Result<()> {
        self.place.roam(false);
        let device = device.as_fd();
        // For replies to requests that came with a payload, which is where the reply's goes.
        let mut reply = vec![0; MAX_WRITE as usize];
        let mut next = self.slot.register(device, self.queue);
        loop {
            match next.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)) {
                Ok(()) => {}
                Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV) => return Ok(()),
                Err(e) => return Err(e),
            }
            let (header, payload) = self.answer(ops, &mut reply)?;
            next = self.slot.commit(device, self.queue, &header, payload);
        }
    }

    fn answer(&mut self, ops: &Ops, reply: &mut [u8]) -> Result<([u8; OUT_HEADER], usize)> {
        let (header, arg, size, payload) = self.slot.request();
        let header = Header::parse(header)?;
        let arg = op::arg_size(header.opcode).and_then(|n| arg.get(..n)).unwrap_or_default();
        let request = Request { header, arg, data: b"" };
        let reads = request.reads();
        self.place.roam(reads >= AHEAD || request.writes_back());
        let done = if size == 0 {
            answer(ops, &request, payload)
        } else {
            let done = answer(ops, &Request { header, arg, data: &payload[..size] }, reply);
            if let Some(Ok(n)) = done {
                payload[..n].copy_from_slice(&reply[..n]);
            }
            done
        };
        // More like it are likely to follow.
        self.slot.expect(size.max(reads));
        let done = done.unwrap_or(Ok(0));
        let mut bytes = [0; OUT_HEADER];
        Out::new(&mut bytes).header(header.unique, done)?;
        Ok((bytes, done.unwrap_or(0)))
    }
}

impl Place {
    /// Whether the thread may roam from now on. Woken on the caller's own CPU, it costs nobody another wake-up; but while
    /// data are read ahead or written back, the caller could go on. Such requests come in rows, so a thread stays the one
    /// way until it meets the other.
    fn roam(&mut self, roams: bool) {
        // The queue's CPU may be none of ours.
        let roams = roams || !self.anywhere.is_set(self.own);
        if self.roams == roams {
            return;
        }
        self.roams = roams;
        let mut own = CpuSet::new();
        own.set(self.own);
        if let Err(e) = sched_setaffinity(None, if roams { &self.anywhere } else { &own }) {
            log::debug!("not where CPU {} is served best: {e}", self.own);
        }
    }
}
