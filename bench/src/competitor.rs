//! Who takes part: what is on this machine, and how to get what is not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

/// What kind of union.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Onlay,
    /// The same, with an image index of the lower layers that was built before.
    OnlayIndex,
    /// The same without an index, over `/dev/fuse` even where io_uring is switched on.
    OnlayDevice,
    /// The kernel's, with what it does by default.
    Overlayfs,
    /// The kernel's, with `metacopy=on,redirect_dir=on`.
    OverlayfsMetacopy,
    FuseOverlayfs,
    /// unionfs-fuse.
    Unionfs,
    /// No union: a directory with a copy of what the union would show.
    Native,
}

impl Kind {
    /// Ours, however it is mounted.
    pub(crate) fn is_onlay(self) -> bool {
        matches!(self, Self::Onlay | Self::OnlayIndex | Self::OnlayDevice)
    }
}

/// One that takes part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Competitor {
    pub(crate) kind: Kind,
    /// Its program; empty where it has none.
    pub(crate) program: PathBuf,
    /// What it is called in the table.
    pub(crate) label: String,
    /// What it says of itself.
    pub(crate) version: String,
}

/// One that does not, or a workload that can't be run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Missing {
    pub(crate) name: String,
    /// How to get it.
    pub(crate) hint: String,
}

const FUSE_OVERLAYFS: &str = "package fuse-overlayfs (1.x), or `cargo install fuse-overlayfs` (2.x)";

/// Everybody asked for, in the order of the table, and who is missing.
pub(crate) fn find(against: &[String]) -> Result<(Vec<Competitor>, Vec<Missing>)> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    let mut take = |one: Result<Competitor, Missing>| match one {
        Ok(c) => found.push(c),
        Err(m) => missing.push(m),
    };
    let default = ["overlayfs", "fuse-overlayfs", "unionfs"].map(str::to_owned);
    take(onlay(Kind::Onlay));
    for word in if against.is_empty() { default.as_slice() } else { against } {
        let (name, path) = match word.split_once('=') {
            Some((name, path)) => (name, Some(Path::new(path))),
            None => (word.as_str(), None),
        };
        match (name, path) {
            ("onlay", None) => {}
            ("onlay-index", None) => take(onlay(Kind::OnlayIndex)),
            ("onlay-device", None) => take(onlay(Kind::OnlayDevice)),
            ("onlay", Some(path)) => take(Ok(program(Kind::Onlay, path)?)),
            ("fuse-overlayfs", Some(path)) => take(Ok(program(Kind::FuseOverlayfs, path)?)),
            ("fuse-overlayfs", None) => {
                let paths = everywhere("fuse-overlayfs");
                if paths.is_empty() {
                    take(Err(Missing { name: name.into(), hint: FUSE_OVERLAYFS.into() }));
                }
                for path in paths {
                    take(Ok(program(Kind::FuseOverlayfs, &path)?));
                }
            }
            ("unionfs", Some(path)) => take(Ok(program(Kind::Unionfs, path)?)),
            ("unionfs", None) => take(match everywhere("unionfs").first() {
                Some(path) => Ok(program(Kind::Unionfs, path)?),
                None => Err(Missing { name: name.into(), hint: "package unionfs-fuse".into() }),
            }),
            ("overlayfs", None) => take(kernel(Kind::Overlayfs, name)),
            ("overlayfs-metacopy", None) => take(kernel(Kind::OverlayfsMetacopy, name)),
            ("native", None) => take(Ok(Competitor {
                kind: Kind::Native,
                program: PathBuf::new(),
                label: "native".into(),
                version: "a copy".into(),
            })),
            _ => bail!("--against {word}: not known; see --help for the names"),
        }
    }
    tell_apart(&mut found);
    Ok((found, missing))
}

/// `$ONLAY`, or the one beside this binary.
fn onlay(kind: Kind) -> Result<Competitor, Missing> {
    let beside = || std::env::current_exe().ok().map(|me| me.with_file_name("onlay")).filter(|p| p.exists());
    let named = std::env::var_os("ONLAY").map(PathBuf::from);
    named
        .or_else(beside)
        .and_then(|path| program(kind, &path).ok())
        .ok_or_else(|| Missing { name: "onlay".into(), hint: "`cargo build --release`, or its path in $ONLAY".into() })
}

fn kernel(kind: Kind, name: &str) -> Result<Competitor, Missing> {
    let no = |hint: &str| Err(Missing { name: name.to_owned(), hint: hint.to_owned() });
    if !rustix::process::geteuid().is_root() {
        return no("needs root; or give --rootless, for a user namespace");
    }
    if kind == Kind::OverlayfsMetacopy && !initial_root() {
        return no("only for root outside of user namespaces");
    }
    // A module is loaded when it is first mounted; the list only rules it out where modules can't be.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let listed = std::fs::read_to_string("/proc/filesystems").is_ok_and(|s| s.contains("overlay"));
    if !listed && !Path::new("/lib/modules").join(&release).exists() {
        return no("the kernel has no overlayfs: CONFIG_OVERLAY_FS");
    }
    Ok(Competitor { kind, program: PathBuf::new(), label: name.to_owned(), version: format!("Linux {release}") })
}

fn program(kind: Kind, path: &Path) -> Result<Competitor> {
    let program = path.canonicalize().with_context(|| path.display().to_string())?;
    let out = Command::new(&program).arg("--version").output().with_context(|| path.display().to_string())?;
    ensure!(out.status.success(), "{} --version: {}", path.display(), out.status);
    let said = String::from_utf8_lossy(&out.stdout);
    let name = match kind {
        kind if kind.is_onlay() => "onlay",
        Kind::Unionfs => "unionfs-fuse",
        _ => "fuse-overlayfs",
    };
    let line = said.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    let version = line.split(' ').next_back().unwrap_or_default().to_owned();
    let with = match kind {
        Kind::OnlayIndex => ", image index",
        Kind::OnlayDevice => ", /dev/fuse",
        _ => "",
    };
    Ok(Competitor { kind, program, label: format!("{name} {version}").trim().to_owned() + with, version })
}

/// Two with the same name get their paths.
fn tell_apart(found: &mut [Competitor]) {
    let labels: Vec<String> = found.iter().map(|c| c.label.clone()).collect();
    for c in found {
        if labels.iter().filter(|l| **l == c.label).count() > 1 && !c.program.as_os_str().is_empty() {
            c.label = format!("{} ({})", c.label, c.program.display());
        }
    }
}

/// Where a program is: in each directory of PATH, and where cargo installs.
pub(crate) fn everywhere(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    let mut found = Vec::new();
    for dir in std::env::split_paths(&path).chain(cargo) {
        if let Ok(path) = dir.join(name).canonicalize()
            && path.is_file()
            && !found.contains(&path)
        {
            found.push(path);
        }
    }
    found
}

/// Root, and not just of a user namespace.
pub(crate) fn initial_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(label: &str, program: &str) -> Competitor {
        Competitor { kind: Kind::Onlay, program: program.into(), label: label.into(), version: String::new() }
    }

    #[test]
    fn same_names_get_paths() {
        let mut all = [one("onlay 1", "/a"), one("onlay 1", "/b"), one("overlayfs", "")];
        tell_apart(&mut all);
        let labels: Vec<&str> = all.iter().map(|c| c.label.as_str()).collect();
        assert_eq!(labels, ["onlay 1 (/a)", "onlay 1 (/b)", "overlayfs"]);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(find(&["unionmagic".to_owned()]).is_err());
        assert!(find(&["fuse-overlayfs=/nowhere/at/all".to_owned()]).is_err());
    }
}
