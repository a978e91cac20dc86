//! What to run, and where.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::{KEPT_CAPABILITIES, Mapping, Names, Port, Resources, Seccomp, Volume};

/// The network the command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The caller's own.
    Host,
    /// A new one with nothing but a loopback interface, which is up.
    None,
    /// A new one, connected by pasta(1).
    Pasta,
    /// A new one, connected by slirp4netns(1).
    Slirp4netns,
}

/// A resource limit, setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `RLIMIT_..` without the prefix, in small letters.
    pub name: LimitName,
    /// What holds; `None` is no limit.
    pub soft: Option<u64>,
    /// How far the command may raise it.
    pub hard: Option<u64>,
}

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of setrlimit(2)")]
pub enum LimitName {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl LimitName {
    /// All of them, with the names people type.
    pub const ALL: [(&'static str, Self); 15] = [
        ("as", Self::As),
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
    ];

    pub(super) fn resource(self) -> rustix::process::Resource {
        use rustix::process::Resource as R;
        match self {
            Self::As => R::As,
            Self::Core => R::Core,
            Self::Cpu => R::Cpu,
            Self::Data => R::Data,
            Self::Fsize => R::Fsize,
            Self::Memlock => R::Memlock,
            Self::Msgqueue => R::Msgqueue,
            Self::Nice => R::Nice,
            Self::Nofile => R::Nofile,
            Self::Nproc => R::Nproc,
            Self::Rss => R::Rss,
            Self::Rtprio => R::Rtprio,
            Self::Rttime => R::Rttime,
            Self::Sigpending => R::Sigpending,
            Self::Stack => R::Stack,
        }
    }
}

/// One process inside: the command of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The command and its arguments; a name without a slash is looked for in `PATH` of `env`, inside the view.
    pub command: Vec<OsString>,
    /// The whole environment of the command, in order; a later value of a name wins.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory inside; `None` is `/`.
    pub workdir: Option<PathBuf>,
    /// `USER[:GROUP]`, names of the view's `/etc/passwd` and `/etc/group`, or numbers; `None` is root.
    pub user: Option<String>,
    /// What stays in the bounding set; of root also what is in force.
    #[serde(with = "capability_bits")]
    pub capabilities: CapabilitySet,
    /// `PR_SET_NO_NEW_PRIVS`: set-user-id programs inside gain nothing.
    pub no_new_privs: bool,
    /// The system calls allowed.
    pub seccomp: Seccomp,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// A terminal of its own, lent to the caller.
    pub terminal: bool,
    /// Standard input is the caller's; else there is none.
    pub stdin: bool,
    /// Keys on the caller's terminal that leave it to itself; empty: none do.
    #[serde(default)]
    pub detach_keys: Vec<u8>,
    /// The command is no program of the view but [`Attended::own`](super::Attended::own), called with these words.
    #[serde(default)]
    pub own: bool,
}

impl Process {
    /// `command` as root with the defaults: an empty environment, podman's capabilities, the default seccomp profile.
    pub fn new(command: Vec<OsString>) -> Self {
        Self {
            command,
            env: Vec::new(),
            workdir: None,
            user: None,
            capabilities: KEPT_CAPABILITIES,
            no_new_privs: true,
            seccomp: Seccomp::Default,
            limits: Vec::new(),
            terminal: false,
            stdin: true,
            detach_keys: Vec::new(),
            own: false,
        }
    }
}

mod capability_bits {
    use rustix::thread::CapabilitySet;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(set: &CapabilitySet, to: S) -> Result<S::Ok, S::Error> {
        set.bits().serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<CapabilitySet, D::Error> {
        Ok(CapabilitySet::from_bits_retain(u64::deserialize(from)?))
    }
}

/// Everything [`run`](super::run) needs to know, as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The command.
    pub process: Process,
    /// The host name inside; `None` keeps the machine's.
    pub hostname: Option<String>,
    /// The network inside.
    pub network: Network,
    /// Ports of the machine's that lead inside, with a network that is connected.
    pub ports: Vec<Port>,
    /// What names stand for.
    pub names: Names,
    /// Limits on all processes inside together.
    pub resources: Resources,
    /// The ids inside.
    pub mapping: Mapping,
    /// A directory of the caller's, absolute, that exists: the view is mounted on it, in a mount namespace nobody else
    /// sees.
    pub base: PathBuf,
    /// The view is the machine's own root: its `resolv.conf` and `hosts` are there already.
    pub host: bool,
    /// Directories inside to cover with empty ones, if they are there (the throw-away upper, say).
    pub hide: Vec<PathBuf>,
    /// What else is mounted inside, in this order.
    pub volumes: Vec<Volume>,
    /// The working directory is made if it is not there.
    pub make_workdir: bool,
    /// Nothing but volumes, tmpfs and /dev can be written to.
    pub read_only: bool,
    /// Paths inside to cover beside the usual ones.
    pub mask: Vec<PathBuf>,
    /// Usual ones to leave uncovered and writable; `/` is all of them.
    pub unmask: Vec<PathBuf>,
}

impl Network {
    /// A network namespace is made.
    pub(super) fn is_new(self) -> bool {
        self != Self::Host
    }

    /// It leads somewhere, by a program's help.
    pub(super) fn is_connected(self) -> bool {
        matches!(self, Self::Pasta | Self::Slirp4netns)
    }
}

impl Spec {
    /// A run of `process` with the defaults: a view that is not the machine's, no network, nothing else mounted.
    pub fn new(process: Process, mapping: Mapping, base: PathBuf) -> Self {
        Self {
            process,
            hostname: None,
            network: Network::None,
            ports: Vec::new(),
            names: Names::default(),
            resources: Resources::default(),
            mapping,
            base,
            host: false,
            hide: Vec::new(),
            volumes: Vec::new(),
            make_workdir: false,
            read_only: false,
            mask: Vec::new(),
            unmask: Vec::new(),
        }
    }
}

/// What went wrong in a [`Root`]: a line for the user, and what may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootError {
    /// What and why.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
}

impl<E: std::error::Error> From<E> for RootError {
    fn from(e: E) -> Self {
        Self { message: e.to_string(), hint: None }
    }
}

/// The new root: a union over FUSE in `cli`, a bind mount in tests. All three are called in the supervisor, as root of
/// the new user namespace and in a new mount namespace, in this order, each at most once. Init runs by then, and waits for
/// the view.
pub trait Root {
    /// Makes the view.
    ///
    /// # Errors
    /// Whatever hinders; it becomes the runner's error. [`finish`](Root::finish) is called nevertheless.
    fn mount(&mut self) -> Result<(), RootError>;

    /// Starts to serve the view, in threads, and returns it: a mount in no place (fsmount(2), open_tree(2)). It ends with
    /// the mount namespace of init's.
    ///
    /// # Errors
    /// Whatever hinders; init is then killed.
    fn serve(&mut self) -> Result<OwnedFd, RootError>;

    /// Everything inside has ended, and the view with it: waits for the threads (for a limited time: someone
    /// outside may still hold a file of the view open), syncs, removes what is to be thrown away. Only this process
    /// can: files of mapped ids belong to it alone.
    ///
    /// # Errors
    /// What was lost; it becomes the runner's error.
    fn finish(&mut self) -> Result<(), RootError>;

    /// Who remembers owners that the kernel knows nothing of, where the view has such a one. Asked between
    /// [`serve`](Root::serve) and [`finish`](Root::finish).
    fn owners(&self) -> Option<Arc<dyn Owners>> {
        None
    }
}

/// Who remembers owners: the view.
pub trait Owners: Send + Sync {
    /// From now on this user or group owns the object of this inode number, whatever is shown. It is open while we are
    /// asked.
    ///
    /// # Errors
    /// As chown(2).
    fn give(&self, ino: u64, uid: Option<u32>, gid: Option<u32>) -> Result<(), std::io::Error>;
}
