//! Why a union could not be made.

use std::fmt;

use crate::vocab::{self, Errno};

/// Why layers can't be stacked: what, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    what: String,
    why: Option<Errno>,
    hint: Option<&'static str>,
}

impl Error {
    pub(super) fn new(what: impl Into<String>, why: Errno) -> Self {
        Self { what: what.into(), why: Some(why), hint: None }
    }

    pub(super) fn refused(what: impl Into<String>, hint: &'static str) -> Self {
        Self { what: what.into(), why: None, hint: Some(hint) }
    }

    pub(super) fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        self.hint.map(str::to_owned)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.why {
            Some(why) => write!(f, ": {}", vocab::why(&why)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
