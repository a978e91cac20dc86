//! The runner's one error: it crosses a process boundary, so it is text from the start.

use std::fmt::Display;

use super::RootError;
use crate::vocab;

/// Exit code of a failure of the runner itself.
pub(super) const RUNNER_FAILED: u8 = 125;
/// Exit code for a command that is there but cannot be executed.
pub(super) const NOT_EXECUTABLE: u8 = 126;
/// Exit code for a command that is not there.
pub(super) const NOT_FOUND: u8 = 127;

/// What failed, why, and what may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    pub(super) text: String,
    pub(super) hint: Option<String>,
    pub(super) code: u8,
}

impl Error {
    /// A failure of the runner: the thing and the cause.
    pub(super) fn new(what: impl Display, cause: impl Display) -> Self {
        Self { text: format!("{what}: {}", vocab::why(&cause)), hint: None, code: RUNNER_FAILED }
    }

    /// A failed system call of the runner's: the thing and why, with what may help in general.
    pub(super) fn call(what: impl Display, e: impl Into<std::io::Error>) -> Self {
        let e: std::io::Error = e.into();
        let error = Self::new(what, &e);
        match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => error.hinted(
                "a seccomp filter or a security module around us refuses that (are we in a container?), or the kernel is \
                 older than Linux 5.12",
            ),
            Some(libc::EAGAIN | libc::ENOMEM | libc::ENOSPC | libc::EMFILE | libc::ENFILE) => {
                error.hinted("a limit is reached, the machine's or ours: ulimit -a, or the control group around us")
            }
            _ => error,
        }
    }

    /// A failure that is in words already.
    pub(super) fn of_text(text: &str) -> Self {
        Self { text: text.to_owned(), hint: None, code: RUNNER_FAILED }
    }

    /// What the root said.
    pub(super) fn of_root(e: RootError) -> Self {
        Self { text: e.message, hint: e.hint, code: RUNNER_FAILED }
    }

    /// The same, with something that may help.
    pub(super) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with another exit code.
    pub(super) fn coded(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// What may help, if anything is known to.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code for it: 125 for the runner, 126 and 127 for the command.
    pub fn exit_code(&self) -> u8 {
        self.code
    }
}
