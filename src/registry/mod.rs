//! Conversations with image registries (OCI distribution specification, and the Docker Registry HTTP API v2 before it).
//!
//! Nothing here knows how images are kept: what arrives goes into a [`Sink`], what is sent comes out of a [`Source`].
//!
//! | file | thought |
//! |---|---|
//! | `reference` | how an image is named, and where that is |
//! | `http` | one request: time limits, redirects, what may go unencrypted |
//! | `trouble` | which failures are worth another try, and when |
//! | `auth` | what the registry wants to see before it answers |
//! | `credentials`, `login` | the auth files of podman and docker, read and written |
//! | `session` | a repository that is talked to |
//! | `blob` | one blob, fetched and checked as it comes in |
//! | `manifest`, `platform` | what an answer means; the image for this machine |
//! | `pull`, `push` | a whole image, only what the other side lacks; several blobs at a time (`parallel`) |
//!
//! No thread and no connection outlives a call.

mod auth;
mod blob;
mod credentials;
mod error;
mod http;
mod login;
mod manifest;
mod parallel;
mod platform;
mod pull;
mod push;
mod reference;
mod session;
mod trouble;

#[cfg(test)]
mod tests;

pub use blob::{Finished, Part};
pub use credentials::{Credentials, Secret};
pub use error::{Error, Kind};
pub use http::Patience;
pub use login::{log_in, log_out};
pub use platform::Platform;
pub use pull::{Pulled, Sink};
pub use push::{Outgoing, Pushed, Source};
pub use reference::parse as parse_reference;
pub use session::{Access, Options, Session};

use oci_spec::image::Descriptor;

/// What is told while blobs move. Called from several threads.
pub trait Progress: Sync {
    /// A blob starts to move; `done` bytes of it did in an earlier attempt.
    fn start(&self, blob: &Descriptor, done: u64);
    /// So many bytes of it have moved, earlier attempts included. Less than before, if it has to begin again.
    fn at(&self, blob: &Descriptor, done: u64);
    /// It is there.
    fn end(&self, blob: &Descriptor, how: Moved);
}

/// How a blob came to be where it was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It was there.
    Already,
    /// Its bytes were sent.
    Sent,
    /// The registry took it from another of its repositories.
    Mounted,
}

/// Tells nobody.
#[derive(Debug)]
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _: &Descriptor, _: u64) {}
    fn at(&self, _: &Descriptor, _: u64) {}
    fn end(&self, _: &Descriptor, _: Moved) {}
}
