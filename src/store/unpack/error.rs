//! Why a layer could not be unpacked: which entry, and what is wrong with it.

use std::fmt;

use crate::vocab::{self, Errno};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The blob could not be read to its end.
    #[error("read the blob: {0}")]
    Blob(String),
    /// The compressed stream is damaged or ends too early.
    #[error("the {0} stream is damaged: {1}")]
    Stream(&'static str, String),
    /// The archive is not one, contradicts itself, or ends too early.
    #[error("{0}")]
    Malformed(String),
    /// It would reach out of the layer, forge what the union reads, or is of a kind that a layer can't have.
    #[error("{0}")]
    Refused(String),
    /// It is more than is allowed.
    #[error("{what}: {limit} {unit} are allowed")]
    Limit {
        /// What is too much.
        what: String,
        /// How much there may be.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The file system refused.
    #[error("{what}: {}", vocab::why(errno))]
    Write {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        errno: Errno,
    },
}

/// Why a layer could not be unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    entry: Option<Vec<u8>>,
    /// It is what follows this entry, which has no name yet.
    after: bool,
    reason: Reason,
}

impl Error {
    pub(super) fn new(reason: Reason) -> Self {
        Self { entry: None, after: false, reason }
    }

    pub(super) fn malformed(words: impl Into<String>) -> Self {
        Self::new(Reason::Malformed(words.into()))
    }

    pub(super) fn refused(words: impl Into<String>) -> Self {
        Self::new(Reason::Refused(words.into()))
    }

    pub(super) fn limit(what: impl Into<String>, limit: u64, unit: &'static str) -> Self {
        Self::new(Reason::Limit { what: what.into(), limit, unit })
    }

    /// For `map_err`: the file system's answer to what was tried.
    pub(super) fn write(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::new(Reason::Write { what, errno })
    }

    /// Of this entry, unless one is named already.
    pub(super) fn of(mut self, entry: &[u8]) -> Self {
        self.entry.get_or_insert_with(|| entry.to_vec());
        self
    }

    /// Of what follows this entry.
    pub(super) fn after(self, entry: &[u8]) -> Self {
        let after = self.entry.is_none();
        Self { after, ..self.of(entry) }
    }

    /// The name of the entry as the archive has it; `None` where it is the blob as a whole.
    pub fn entry(&self) -> Option<&[u8]> {
        self.entry.as_deref()
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Whether it is this answer of the file system's.
    pub(super) fn is_errno(&self, errno: Errno) -> bool {
        matches!(self.reason, Reason::Write { errno: e, .. } if e == errno)
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match &self.reason {
            Reason::Write { errno: Errno::NOSPC | Errno::DQUOT, .. } => Some("make room where the store is"),
            Reason::Write { errno: Errno::INVAL, what: "chown" } => {
                Some("the range of subordinate ids is too small for this image: see subuid(5)")
            }
            Reason::Refused(_) | Reason::Limit { .. } => Some("do not trust this image"),
            Reason::Blob(_) | Reason::Stream(..) | Reason::Malformed(_) => Some("fetch it again, or ask who made it"),
            Reason::Write { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry {
            Some(name) => {
                let after = if self.after { "after " } else { "" };
                write!(f, "{after}entry {:?}: {}", String::from_utf8_lossy(name), self.reason)
            }
            None => write!(f, "{}", self.reason),
        }
    }
}

impl std::error::Error for Error {}
