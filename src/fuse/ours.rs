//! Our own transports: threads over [`device`] alone, or over [`ring`]s with one that reads the device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::abi::{Header, op};
use super::device::{self, Replies, Turn, another};
use super::handshake::shake_hands;
use super::ops::{Ops, feature};
use super::ring;
use super::straight::Straight;
use super::transport::Transport;
use crate::vocab::{Result, why};

/// Bytes for the stack of a thread, there when they are used: redirects are followed one inside the other, as many as there
/// are layers.
pub(super) const STACK: usize = 16 << 20;

/// A connection whose first request has been answered.
#[derive(Debug)]
pub(super) struct Ours {
    ops: Arc<Ops>,
    device: Arc<OwnedFd>,
    /// Each reader has a descriptor of the connection for itself.
    clones: bool,
    readers: usize,
    /// For io_uring.
    rings: Vec<ring::Server>,
    /// Why there is no io_uring though it was wanted.
    hindered: Option<String>,
}

/// So many requests are what one small program takes to start.
const EARLY: usize = 64;

impl Ours {
    /// Answers the kernel's first request.
    ///
    /// # Errors
    /// What the device answers, and a kernel that is too old.
    pub(super) fn new(device: OwnedFd, ops: Arc<Ops>, threads: usize, clones: bool, uring: bool) -> io::Result<Self> {
        let (mut rings, mut hindered) = (Vec::new(), None);
        if uring {
            // All that can fail does before the kernel counts on it.
            match ring::servers() {
                Ok(servers) => rings = servers,
                Err(e) => hindered = Some(format!("no io_uring here: {}", why(&e))),
            }
        }
        let extra = if rings.is_empty() { 0 } else { feature::OVER_IO_URING };
        let on = shake_hands(device.as_fd(), &ops, extra)?;
        if on & feature::OVER_IO_URING == 0 && !rings.is_empty() {
            hindered = Some("the kernel does not offer io_uring".to_owned());
            rings.clear();
        }
        let device = Arc::new(device);
        if ops.passes_through() {
            ops.hand_over_by(Straight::new(device.clone()));
        }
        // FORGET and the like alone do not keep more than one busy.
        let readers = if rings.is_empty() { threads.max(1) } else { 1 };
        Ok(Self { ops, device, clones, readers, rings, hindered })
    }

    /// Which one it has come to.
    pub(super) fn transport(&self) -> Transport {
        if self.rings.is_empty() { Transport::Device } else { Transport::Uring }
    }

    /// Why it is not io_uring, if that was wanted.
    pub(super) fn hindered(&self) -> Option<String> {
        self.hindered.clone()
    }

    /// Answers until the mount is gone, in this thread and as many as are busy at the same time.
    ///
    /// # Errors
    /// What the first thread that failed ran into.
    pub(super) fn run(self) -> io::Result<()> {
        let Self { ops, device, clones, readers, rings, hindered: _ } = self;
        let crew = Arc::new(Crew {
            ops: ops.clone(),
            device: device.clone(),
            clones,
            most: readers,
            there: AtomicUsize::new(1),
            waiting: AtomicUsize::new(1),
            early: AtomicUsize::new(0),
            threads: Mutex::default(),
            replies: Replies::default(),
        });
        for (i, server) in rings.into_iter().enumerate() {
            let (device, ops) = (device.clone(), ops.clone());
            crew.threads.lock().push(start(format!("ring-{i}"), move || server.serve(device.as_fd(), &ops))?);
        }
        let mut ended = crew.serve(&device).map_err(io::Error::from);
        // Whoever starts one more has not ended yet, and so is still in the list, or this thread.
        while let Some(thread) = { crew.threads.lock().pop() } {
            let end = thread.join().map_err(|_| io::Error::other("a thread panicked")).and_then(|r| Ok(r?));
            ended = ended.and(end);
        }
        ops.destroy();
        ended
    }
}

/// The threads that read the device. One more is started when the last one that waits for a request gets one: most mounts
/// never need all of them, and a short-lived one pays for each. The first few that only look around, as who starts one
/// program does, wait for each other, unless a layer is on another machine or somebody else's to answer for.
struct Crew {
    ops: Arc<Ops>,
    device: Arc<OwnedFd>,
    clones: bool,
    /// So many at most.
    most: usize,
    there: AtomicUsize,
    /// Those that wait for a request; not counted any more when all are there.
    waiting: AtomicUsize,
    /// Requests for which no thread was started.
    early: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<Result<()>>>>,
    replies: Replies,
}

impl Crew {
    fn serve(self: &Arc<Self>, device: &OwnedFd) -> Result<()> {
        device::serve(device.as_fd(), &self.ops, &self.replies, &mut |now| match now {
            Turn::Busy(request) => self.busy(request),
            Turn::Waits => self.waits(),
        })
    }

    fn is_complete(&self) -> bool {
        self.there.load(Ordering::Relaxed) >= self.most
    }

    fn waits(&self) {
        if !self.is_complete() {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it is one of the first, and nobody has to wait for long while it is answered.
    fn is_early(&self, request: &[u8]) -> bool {
        if self.early.load(Ordering::Relaxed) >= EARLY {
            return false;
        }
        let looks = |opcode| op::only_looks(opcode) && !(opcode == op::OPEN && self.ops.answers_open());
        let quick = self.ops.is_local() && Header::parse(request).is_ok_and(|header| looks(header.opcode));
        quick && self.early.fetch_add(1, Ordering::Relaxed) < EARLY
    }

    fn busy(self: &Arc<Self>, request: &[u8]) {
        if self.is_complete() || self.waiting.fetch_sub(1, Ordering::Relaxed) > 1 || self.is_early(request) {
            return;
        }
        let number = self.there.fetch_add(1, Ordering::Relaxed);
        if number >= self.most {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let crew = self.clone();
        let device = if self.clones { another(&self.device) } else { self.device.clone() };
        match start(format!("fuse-{number}"), move || crew.serve(&device)) {
            Ok(thread) => self.threads.lock().push(thread),
            Err(e) => {
                log::debug!("no more threads than {number}: {}", why(&e));
                self.there.store(self.most, Ordering::Relaxed);
            }
        }
    }
}

fn start(name: String, f: impl FnOnce() -> Result<()> + Send + 'static) -> io::Result<JoinHandle<Result<()>>> {
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(f)
}
