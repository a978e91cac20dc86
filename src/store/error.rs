//! Why the store refuses: what, which object, why, and what may help.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::vocab::why;

/// What kind of failure it is: for callers that go on after some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such image, container, layer or blob.
    NotFound,
    /// Several are meant, or the name is taken.
    Conflict,
    /// Somebody uses it.
    InUse,
    /// What came in, or what is on disk, is not what it says it is.
    Bad,
    /// There is no room left on the disk.
    Full,
    /// The operating system said no.
    Io,
}

/// One line for the user, and what may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    kind: ErrorKind,
    text: String,
    hint: Option<String>,
}

impl Error {
    /// A failure of this kind.
    pub fn new(kind: ErrorKind, text: impl Display) -> Self {
        Self { kind, text: text.to_string(), hint: None }
    }

    /// Content that is not what it says it is.
    pub fn bad(text: impl Display) -> Self {
        Self::new(ErrorKind::Bad, text)
    }

    /// What the operating system said when asked for `what`.
    pub fn io(what: impl Display, e: &io::Error) -> Self {
        let text = format_args!("{what}: {}", why(e));
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::new(ErrorKind::Full, text)
                .with_hint("free some space; `onlay gc` removes what nothing needs; nothing half-made is left"),
            io::ErrorKind::ReadOnlyFilesystem => {
                Self::new(ErrorKind::Io, text).with_hint("the store must be writable: name another with --root")
            }
            _ => Self::new(ErrorKind::Io, text),
        }
    }

    /// The same, about a path.
    pub(super) fn at(what: impl Display, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |e| Self::io(format_args!("{what} {}", path.display()), &e)
    }

    /// The same error with something that may help.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What may help, if anything is known to.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// What the store answers.
pub type Result<T> = std::result::Result<T, Error>;
