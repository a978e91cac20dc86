//! Our own transports: threads over [`device`] alone, or over [`ring`]s with one that reads the device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::device::{self, another};
use super::handshake::shake_hands;
use super::ops::{Ops, feature};
use super::ring;
use super::straight::Straight;
use super::transport::Transport;
use crate::vocab::{Result, why};

/// Bytes for the stack of a thread, there when they are used: redirects are followed one inside the other, as many as there
/// are layers.
const STACK: usize = 16 << 20;

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

    /// Answers until the mount is gone.
    ///
    /// # Errors
    /// What the first thread that failed ran into.
    pub(super) fn run(self) -> io::Result<()> {
        let mut threads = Vec::new();
        for (i, server) in self.rings.into_iter().enumerate() {
            let (device, ops) = (self.device.clone(), self.ops.clone());
            threads.push(start(format!("ring-{i}"), move || server.serve(device.as_fd(), &ops))?);
        }
        for i in 0..self.readers {
            let device = if i > 0 && self.clones { another(&self.device) } else { self.device.clone() };
            let ops = self.ops.clone();
            threads.push(start(format!("fuse-{i}"), move || device::serve(device.as_fd(), &ops))?);
        }
        let mut ended = Ok(());
        for thread in threads {
            let end = thread.join().map_err(|_| io::Error::other("a thread panicked")).and_then(|r| Ok(r?));
            ended = ended.and(end);
        }
        self.ops.destroy();
        ended
    }
}

fn start(name: String, f: impl FnOnce() -> Result<()> + Send + 'static) -> io::Result<JoinHandle<Result<()>>> {
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(f)
}
