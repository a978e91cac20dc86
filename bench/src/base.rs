//! A Debian to work with.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

use crate::debian;

/// The root file system that was given as a tar, or one that is kept for the tests, or a fresh one in `site`.
pub(crate) fn base(site: &Path, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string()),
        None => debian::base(rustix::process::geteuid().as_raw(), site)
            .map_err(|why| anyhow!("{why}; a tar of your own can be given with --base")),
    }
}
