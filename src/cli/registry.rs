//! What the verbs that talk to registries share.

use std::path::PathBuf;

use oci_spec::distribution::Reference;
use oci_spec::image::Descriptor;

use super::error::Error;
use super::progress::Bars;
use crate::registry::{self, Credentials, Moved, Options, Progress};
use crate::store::Progress as _;

/// How registries are talked to.
#[derive(Debug, clap::Args)]
pub(super) struct RegistryArgs {
    /// Whether the registry must prove who it is and everything is encrypted; on this machine it need not be
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true")]
    #[arg(num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    tls_verify: bool,
    /// The file with logins [default: where podman and docker keep them]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl Default for RegistryArgs {
    fn default() -> Self {
        Self { tls_verify: true, authfile: None }
    }
}

impl RegistryArgs {
    /// For a conversation; which login it needs is not looked for yet.
    pub(super) fn options(&self) -> Options {
        Options { tls_verify: self.tls_verify, credentials: credentials(self.authfile.as_ref()), ..Options::default() }
    }

    /// For a conversation about `reference`, with its login.
    pub(super) fn options_for(&self, reference: &Reference) -> Result<Options, Error> {
        // Who names one means one; nobody logs in by chance as nobody.
        if let Some(file) = self.authfile.as_ref().filter(|file| !file.exists()) {
            return Err(Error::new(format!("--authfile {}: No such file", file.display()))
                .hint("onlay login --authfile makes one"));
        }
        let options = self.options();
        Ok(Options { credentials: options.credentials.settled(reference)?, ..options })
    }
}

/// The file, or the usual places.
pub(super) fn credentials(file: Option<&PathBuf>) -> Credentials {
    match file {
        Some(file) => Credentials::of_file(file),
        None => Credentials::usual(|name| std::env::var_os(name), rustix::process::geteuid().is_root()),
    }
}

impl From<registry::Error> for Error {
    fn from(e: registry::Error) -> Self {
        let error = Self::new(&e);
        match e.what_helps() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Blobs that move, as bars.
pub(super) struct Transfer<'a> {
    pub(super) bars: &'a Bars,
    /// `fetching` or `sending`.
    pub(super) what: &'static str,
}

impl Progress for Transfer<'_> {
    fn start(&self, blob: &Descriptor, done: u64) {
        self.bars.begin(self.what, blob.digest(), Some(blob.size()));
        self.bars.is_at(blob.digest(), done);
    }

    fn at(&self, blob: &Descriptor, done: u64) {
        self.bars.at(blob.digest(), done);
    }

    fn end(&self, blob: &Descriptor, how: Moved) {
        match how {
            Moved::Sent => self.bars.end(blob.digest()),
            Moved::Already => self.bars.note(blob.digest(), "is there already"),
            Moved::Mounted => self.bars.note(blob.digest(), "taken from another repository"),
        }
    }
}
