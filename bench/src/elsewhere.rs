//! File systems of our own, in a file: for what depends on them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};

use crate::tools::{Tool, Tools, run};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Xfs,
    Btrfs,
}

impl Disk {
    pub(crate) const ALL: [Self; 2] = [Self::Xfs, Self::Btrfs];

    /// What makes one.
    pub(crate) fn tool(self) -> Tool {
        match self {
            Self::Xfs => Tool::MkfsXfs,
            Self::Btrfs => Tool::MkfsBtrfs,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// One that is mounted; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Elsewhere(PathBuf);

impl Elsewhere {
    /// Makes one with room for a file of so many MiB, and another one where it can't share blocks.
    pub(crate) fn new(disk: Disk, site: &Path, mib: u64, tools: &Tools) -> Result<Self> {
        let (image, at) = (site.join(format!("{}.image", disk.name())), site.join(disk.name()));
        File::create_new(&image)?.set_len((2 * mib + 1024) << 20)?;
        std::fs::create_dir(&at)?;
        let (mkfs, force) = match disk {
            Disk::Xfs => (&tools.mkfs_xfs, "-f"),
            Disk::Btrfs => (&tools.mkfs_btrfs, "-f"),
        };
        run(Command::new(mkfs).arg(force).arg(&image))?;
        run(Command::new("mount").args(["-t", disk.name(), "-o", "loop"]).arg(&image).arg(&at))
            .context("a loop device")?;
        Ok(Self(at))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Err(e) = unmount(&self.0, UnmountFlags::empty()) {
            eprintln!("{}: {e}", self.0.display());
        }
    }
}
