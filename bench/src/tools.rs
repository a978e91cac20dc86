//! Other people's programs that some workloads run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::competitor::{Missing, everywhere};

/// A program that a workload needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Git,
    Gcc,
    Python,
    Dpkg,
    MkfsXfs,
    MkfsBtrfs,
}

/// Where they are; empty where they are not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    pub(crate) git: PathBuf,
    pub(crate) gcc: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) dpkg: PathBuf,
    pub(crate) mkfs_xfs: PathBuf,
    pub(crate) mkfs_btrfs: PathBuf,
}

impl Tools {
    pub(crate) fn find() -> Self {
        let first = |name: &str| everywhere(name).into_iter().next().unwrap_or_default();
        Self {
            git: first("git"),
            gcc: first("gcc"),
            python: python().unwrap_or_default(),
            dpkg: first("dpkg"),
            mkfs_xfs: first("mkfs.xfs"),
            mkfs_btrfs: first("mkfs.btrfs"),
        }
    }

    /// Why a workload can't be run.
    pub(crate) fn lacks(&self, tool: Tool) -> Option<Missing> {
        let (path, name, hint) = match tool {
            Tool::Git => (&self.git, "git", "package git"),
            Tool::Gcc => (&self.gcc, "gcc", "package gcc"),
            Tool::Python => (&self.python, "python3", "package python3"),
            Tool::Dpkg => (&self.dpkg, "dpkg", "package dpkg"),
            Tool::MkfsXfs => (&self.mkfs_xfs, "mkfs.xfs", "package xfsprogs"),
            Tool::MkfsBtrfs => (&self.mkfs_btrfs, "mkfs.btrfs", "package btrfs-progs"),
        };
        path.as_os_str().is_empty().then(|| Missing { name: name.into(), hint: hint.into() })
    }

    /// git, with no configuration but what is said here.
    pub(crate) fn git(&self) -> Command {
        let mut cmd = Command::new(&self.git);
        cmd.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_OPTIONAL_LOCKS", "0");
        // Inode numbers and ctimes differ from mount to mount; times of change and sizes do not.
        for config in ["core.checkStat=minimal", "core.trustctime=false", "safe.directory=*", "gc.auto=0"] {
            cmd.args(["-c", config]);
        }
        cmd.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"]);
        cmd
    }
}

/// The interpreter itself: what is found first may be a script that looks for it.
fn python() -> Option<PathBuf> {
    let shim = everywhere("python3").into_iter().next()?;
    let said = Command::new(shim).args(["-I", "-c", "import sys; print(sys.executable)"]).output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    path.is_file().then_some(path)
}

/// Runs a program to its end; its last words are the error.
pub(crate) fn run(cmd: &mut Command) -> Result<()> {
    let out = cmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let out = out.with_context(|| format!("{}", cmd.get_program().display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
    ensure!(out.status.success(), "{}: {}: {last}", cmd.get_program().display(), out.status);
    Ok(())
}
