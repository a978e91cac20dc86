//! What to run, and where.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Mapping;

/// The network the command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The caller's own.
    Host,
    /// A new one with nothing but a loopback interface, which is up.
    None,
}

/// Everything [`run`](super::run) needs to know, as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The command and its arguments; a name without a slash is looked for in `PATH` of `env`, inside the view.
    pub command: Vec<OsString>,
    /// The whole environment of the command, in order; a later value of a name wins.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory inside; `None` is `/`.
    pub workdir: Option<PathBuf>,
    /// The host name inside; `None` keeps the machine's.
    pub hostname: Option<String>,
    /// The network inside.
    pub network: Network,
    /// The ids inside.
    pub mapping: Mapping,
    /// A directory of the caller's, absolute, that exists: the view is mounted on `merged` below it, in a mount
    /// namespace nobody else sees. `merged` is made, and removed in the end.
    pub base: PathBuf,
    /// The view is the machine's own root: its `resolv.conf` and `hosts` are there already.
    pub host: bool,
    /// Directories inside to cover with empty ones, if they are there (the throw-away upper, say).
    pub hide: Vec<PathBuf>,
    /// `PR_SET_NO_NEW_PRIVS`: set-user-id programs inside gain nothing.
    pub no_new_privs: bool,
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
/// the new user namespace and in the new mount namespace, in this order, each at most once.
pub trait Root {
    /// Mounts the view at `target`, an empty directory. The process has one thread, and must still have one
    /// afterwards: init is forked next.
    ///
    /// # Errors
    /// Whatever hinders; it becomes the runner's error. [`finish`](Root::finish) is called nevertheless.
    fn mount(&mut self, target: &Path) -> Result<(), RootError>;

    /// Starts to serve the view, in threads, and returns. Init is running by now and waits for answers.
    ///
    /// # Errors
    /// Whatever hinders; init is then killed.
    fn serve(&mut self) -> Result<(), RootError>;

    /// Everything inside has ended and the view is detached: waits for the threads (for a limited time: someone
    /// outside may still hold a file of the view open), syncs, removes what is to be thrown away. Only this process
    /// can: files of mapped ids belong to it alone.
    ///
    /// # Errors
    /// What was lost; it becomes the runner's error.
    fn finish(&mut self) -> Result<(), RootError>;
}
