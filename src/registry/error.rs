//! What went wrong in words for a user: what, why, what may help.

use std::fmt::Display;
use std::io;

use crate::vocab::why;

/// A conversation that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    text: String,
    hint: Option<String>,
    kind: Kind,
}

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of an image makes no sense.
    Reference,
    /// The registry wants a login, or refuses the one it got.
    Unauthorized,
    /// This user may not.
    Denied,
    /// The registry has no such thing.
    NotFound,
    /// The registry wants to be asked less.
    TooMany,
    /// The registry has a fault.
    Server,
    /// Nothing came for too long.
    Stalled,
    /// The registry can't prove who it is.
    Untrusted,
    /// No connection, or one that broke.
    Unreachable,
    /// Sent somewhere we do not go.
    Redirect,
    /// What came is not what the manifest or the digest says.
    Content,
    /// What came is nothing we can read.
    Malformed,
    /// No image for the platform.
    Platform,
    /// An auth file, or a program that keeps passwords.
    Credentials,
    /// This side: the sink or the source.
    Local,
    /// There is no room left on this side.
    Full,
    /// Another thread has failed, and says why.
    Stopped,
}

impl Error {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { text: text.into(), hint: None, kind }
    }

    /// Something on this side: `what` it was about and what the system said.
    pub(super) fn local(what: impl Display, e: &io::Error) -> Self {
        let text = format!("{what}: {}", why(e));
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::new(Kind::Full, text).hint("make room and try again; what is whole is kept")
            }
            _ => Self::new(Kind::Local, text),
        }
    }

    /// The same, with something that may help.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, and how often it was tried.
    pub(super) fn after(mut self, tries: u32) -> Self {
        if tries > 1 {
            self.text = format!("{} (tried {tries} times)", self.text);
        }
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What may help, if anything is known to.
    pub fn what_helps(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Words of a stranger, fit for a terminal: no control characters, not long.
pub(super) fn tame(words: &str) -> String {
    const LONGEST: usize = 200;
    let mut tame: String =
        words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST + 1).collect::<String>();
    if tame.chars().count() > LONGEST {
        tame = tame.chars().take(LONGEST).chain(['…']).collect();
    }
    tame.split_whitespace().collect::<Vec<_>>().join(" ")
}
