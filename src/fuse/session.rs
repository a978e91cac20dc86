//! The conversation with the kernel, from the first request to the last.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, SessionACL};

use super::by_fuser::Shim;
use super::mechanisms::{self, Chosen, Wishes};
use super::mount::{Mount, Unmount, hides_device};
use super::ops::Ops;
use super::ours::{self, Ours};
use super::transport::{self, Transport};
use super::{Error, readahead};
use crate::overlay::Overlay;

/// What can be tuned.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long the kernel may trust what it was told: for ever by default, because all change goes through us.
    pub ttl: Duration,
    /// Threads that answer.
    pub threads: usize,
    /// Extended attributes that programs may use.
    pub attrs: Attrs,
    /// Every directory has one link: for disks where counting them is slow.
    pub static_nlink: bool,
    /// What is asked of the mechanisms that save requests and copies.
    pub wishes: Wishes,
    /// What a view of the lower layers alone may be asked for by, to be shown on the same device.
    pub beside: Option<String>,
    /// Who carries requests and replies; `None`: the best there is.
    pub transport: Option<Transport>,
}

/// Which extended attributes programs may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attrs {
    /// All that the layers take.
    #[default]
    All,
    /// No ACLs.
    NoAcls,
    /// None.
    None,
}

impl Attrs {
    /// Whether a program may use this one.
    pub(super) fn allow(self, name: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::NoAcls => !name.starts_with(b"system.posix_acl_"),
            Self::None => false,
        }
    }
}

/// More than the kernel can count, which it takes for "for ever".
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

impl Default for Tuning {
    fn default() -> Self {
        // Not what a control group leaves of them, which takes ten calls to find out: threads are started as they are needed.
        let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
        Self {
            ttl: FOR_EVER,
            threads: (2 * cpus).clamp(2, 16),
            attrs: Attrs::All,
            static_nlink: false,
            wishes: Wishes::default(),
            beside: None,
            transport: None,
        }
    }
}

/// A mount whose first request has been answered. No thread has been started yet.
#[derive(Debug)]
pub struct Session {
    carrier: Carrier,
    unmount: Unmount,
    mechanisms: Vec<Chosen>,
}

#[derive(Debug)]
enum Carrier {
    Fuser(Box<fuser::Session<Shim>>),
    Ours(Ours),
}

impl Carrier {
    fn transport(&self) -> Transport {
        match self {
            Self::Fuser(_) => Transport::Fuser,
            Self::Ours(ours) => ours.transport(),
        }
    }
}

impl Session {
    /// Answers the kernel's first request; the mount is usable from here on, as soon as it is [served](Self::spawn).
    /// `locks` are those of the upper, closed after the last request.
    ///
    /// # Errors
    /// The mount is taken away again when the handshake fails.
    pub fn new(mount: Mount, overlay: Arc<Overlay>, tuning: &Tuning, locks: Vec<OwnedFd>) -> Result<Self, Error> {
        let (device, unmount) = mount.split();
        let ops = Arc::new(Ops::new(overlay, tuning));
        ops.hold(locks);
        let clone = !hides_device(unmount.path());
        let (transport, mut why) = transport::choose(tuning.transport);
        let carrier = match transport {
            Transport::Fuser => by_fuser(device, ops.clone(), tuning, clone),
            _ => Ours::new(device, ops.clone(), tuning.threads, clone, transport == Transport::Uring).map(|ours| {
                why = ours.hindered().unwrap_or(why.clone());
                Carrier::Ours(ours)
            }),
        };
        match carrier {
            Ok(carrier) => {
                let mut mechanisms = ops.mechanisms();
                mechanisms.push(birth(&ops, &carrier, tuning));
                mechanisms.push(Chosen { name: "transport", what: carrier.transport().to_string(), why });
                mechanisms.push(readahead::set(unmount.device_number(), tuning.wishes.readahead));
                Ok(Self { carrier, unmount, mechanisms })
            }
            Err(e) => {
                unmount.detach();
                Err(Error::Session(e))
            }
        }
    }

    /// What saves requests and copies in this session, and what does not, with reasons.
    pub fn mechanisms(&self) -> &[Chosen] {
        &self.mechanisms
    }

    /// What ends the session from outside.
    pub fn stopper(&self) -> Stopper {
        Stopper { unmount: self.unmount.clone() }
    }

    /// Answers in threads until the mount is gone, then syncs the upper layer; the handle tells how it ended.
    ///
    /// # Errors
    /// No thread could be started, or the mount not be put in its place.
    pub fn spawn(self) -> Result<Serving, Error> {
        let unmount = self.unmount.clone();
        let serving = self.start()?;
        unmount.attach()?;
        Ok(serving)
    }

    /// The same for a mount that is [in no place](Mount::detached): it comes along.
    ///
    /// # Errors
    /// No thread could be started; it has a place.
    pub fn spawn_aside(self) -> Result<(Serving, OwnedFd), Error> {
        let placed = || Error::Session(io::Error::other("the mount has a place already"));
        let tree = self.unmount.hand_over().ok_or_else(placed)?;
        Ok((self.start()?, tree))
    }

    fn start(self) -> Result<Serving, Error> {
        let (ends, ended) = mpsc::channel();
        let serve = move || {
            // Dropped however this ends.
            let _ends: mpsc::Sender<()> = ends;
            match self.carrier {
                Carrier::Fuser(fuser) => fuser.run().map_err(Error::Session),
                Carrier::Ours(ours) => ours.run().map_err(Error::Session),
            }
        };
        let thread = std::thread::Builder::new()
            .name("fuse".into())
            .stack_size(ours::STACK)
            .spawn(serve)
            .map_err(Error::Session)?;
        Ok(Serving { thread, ended })
    }
}

/// A session that is being served.
#[derive(Debug)]
pub struct Serving {
    thread: JoinHandle<Result<(), Error>>,
    ended: mpsc::Receiver<()>,
}

impl Serving {
    /// Waits until the mount is gone, and tells how it went.
    ///
    /// # Errors
    /// What the session ran into; a thread that panicked.
    pub fn join(self) -> Result<(), Error> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err(Error::Session(io::Error::other("a thread panicked; please report it"))))
    }

    /// The same, so long at most; `None`: it still goes on.
    pub fn join_within(self, patience: Duration) -> Option<Result<(), Error>> {
        match self.ended.recv_timeout(patience) {
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => Some(self.join()),
        }
    }
}

fn birth(ops: &Ops, carrier: &Carrier, tuning: &Tuning) -> Chosen {
    let hindered = matches!(carrier, Carrier::Fuser(_)).then_some("fuser 0.18 has no FUSE_STATX");
    let on = ops.tells_birth() && hindered.is_none();
    let best = "it would cost a request for each file that a program in Rust or Node.js looks at";
    Chosen::new("btime", on, mechanisms::why(tuning.wishes.btime, hindered.filter(|_| ops.tells_birth()), best))
}

fn by_fuser(device: OwnedFd, ops: Arc<Ops>, tuning: &Tuning, clone: bool) -> io::Result<Carrier> {
    let mut config = Config::default();
    // The kernel alone decides whose requests come, by `allow_other`.
    config.acl = SessionACL::All;
    config.n_threads = Some(tuning.threads.max(1));
    config.clone_fd = clone;
    let notifier = Arc::new(OnceLock::new());
    let session = fuser::Session::from_fd(Shim::new(ops, notifier.clone()), device, SessionACL::All, config)?;
    notifier.get_or_init(|| session.notifier());
    Ok(Carrier::Fuser(Box::new(session)))
}

/// Ends a session by detaching its mount.
#[derive(Clone, Debug)]
pub struct Stopper {
    unmount: Unmount,
}

impl Stopper {
    pub(super) fn new(unmount: Unmount) -> Self {
        Self { unmount }
    }

    /// Detaches the mount if it is still there and still ours. Its last users are served until they let go.
    pub fn stop(&self) {
        self.unmount.detach();
    }
}
