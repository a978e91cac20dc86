//! The conversation with the kernel, from the first request to the last.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, SessionACL};

use super::Error;
use super::adapter::Adapter;
use super::mount::{Mount, Unmount, hides_device};
use crate::overlay::Overlay;

/// What can be tuned.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long the kernel may trust what it was told: for ever by default, because all change goes through us.
    pub ttl: Duration,
    /// Threads that answer.
    pub threads: usize,
}

/// More than the kernel can count, which it takes for "for ever".
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

impl Default for Tuning {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self { ttl: FOR_EVER, threads: (2 * cpus).clamp(2, 16) }
    }
}

/// A mount whose first request has been answered. No thread has been started yet.
#[derive(Debug)]
pub struct Session {
    fuser: fuser::Session<Adapter>,
    unmount: Unmount,
}

impl Session {
    /// Answers the kernel's first request; the mount is usable from here on, as soon as it is [run](Self::run).
    ///
    /// # Errors
    /// The mount is taken away again when the handshake fails.
    pub fn new(mount: Mount, overlay: Arc<Overlay>, tuning: &Tuning) -> Result<Self, Error> {
        let (device, unmount) = mount.split();
        let mut config = Config::default();
        // The kernel alone decides whose requests come, by `allow_other`.
        config.acl = SessionACL::All;
        config.n_threads = Some(tuning.threads.max(1));
        config.clone_fd = !hides_device(unmount.path());
        match fuser::Session::from_fd(Adapter::new(overlay, tuning), device, SessionACL::All, config) {
            Ok(fuser) => Ok(Self { fuser, unmount }),
            Err(e) => {
                unmount.detach();
                Err(Error::Session(e))
            }
        }
    }

    /// What ends the session from outside.
    pub fn stopper(&self) -> Stopper {
        Stopper { unmount: self.unmount.clone() }
    }

    /// Answers until the mount is gone, then syncs the upper layer.
    ///
    /// # Errors
    /// A connection that broke.
    pub fn run(self) -> Result<(), Error> {
        self.fuser.run().map_err(Error::Session)
    }

    /// As [`run`](Self::run), in the background.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn spawn(self) -> Result<JoinHandle<Result<(), Error>>, Error> {
        std::thread::Builder::new().name("fuse".into()).spawn(|| self.run()).map_err(Error::Session)
    }
}

/// Ends a session by detaching its mount.
#[derive(Clone, Debug)]
pub struct Stopper {
    unmount: Unmount,
}

impl Stopper {
    /// Detaches the mount if it is still there and still ours. Its last users are served until they let go.
    pub fn stop(&self) {
        self.unmount.detach();
    }
}
