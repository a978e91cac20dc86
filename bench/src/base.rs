//! A Debian to work with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::tools::run;

/// The root file system that was given as a tar, or a fresh one in `site`.
pub(crate) fn base(site: &Path, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    eprintln!("making a base image with mmdebstrap");
    let path = site.join("base.tar");
    run(Command::new("mmdebstrap").args(["--variant=minbase", "--quiet", "bookworm"]).arg(&path))?;
    Ok(path)
}
