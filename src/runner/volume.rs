//! What is mounted inside beside the view: directories and files of the caller's, and tmpfs(5).
//!
//! A target is resolved with the view as root and without magic links: a symbolic link of the image leads nowhere but
//! into the image. What is missing of it is made.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use super::inside::{Failure, attach_to, file_type, filesystem, resolve};
use crate::sys::mount::set_attributes;

/// One more mount inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Where it comes from.
    pub source: Source,
    /// An absolute path inside; made if it is missing.
    pub target: PathBuf,
    /// Nobody inside writes to it.
    pub read_only: bool,
    /// No program of it can be executed.
    pub no_exec: bool,
    /// Set-user-id bits in it mean nothing.
    pub no_suid: bool,
    /// Devices in it can't be opened.
    pub no_dev: bool,
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A directory or file of the machine's, absolute, with all that is mounted in it.
    Machine(PathBuf),
    /// A new tmpfs(5) with options as it takes them (`size`, `mode`, ..).
    Tmpfs(Vec<(String, String)>),
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Machine(path) => write!(f, "mount {} on {}", path.display(), self.target.display())?,
            Source::Tmpfs(options) => {
                let options: Vec<_> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "mount tmpfs on {} {}", self.target.display(), options.join(","))?;
            }
        }
        for (on, name) in
            [(self.read_only, "read-only"), (self.no_exec, "noexec"), (self.no_suid, "nosuid"), (self.no_dev, "nodev")]
        {
            if on {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

impl Volume {
    fn attributes(&self) -> MountAttrFlags {
        let mut attributes = MountAttrFlags::empty();
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        attributes
    }

    /// Mounts it in `view`. `machine` is the root the source is named from.
    pub(super) fn mount(&self, machine: &OwnedFd, view: &OwnedFd) -> Result<(), Failure> {
        let (mount, kind) = match &self.source {
            Source::Machine(path) => clone_source(machine, path)?,
            Source::Tmpfs(options) => {
                let mut options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                if !options.iter().any(|(k, _)| *k == "mode") {
                    options.push(("mode", "1777"));
                }
                (filesystem("tmpfs", &options, self.attributes())?, FileType::Directory)
            }
        };
        if let Source::Machine(_) = self.source {
            set_attributes(mount.as_fd(), self.attributes(), true)?;
        }
        let target = make_target(view, &self.target, kind)?;
        refuse_kernel_files(&target)?;
        Ok(attach_to(&mount, &target)?)
    }
}

fn clone_source(machine: &OwnedFd, path: &Path) -> Result<(OwnedFd, FileType), Failure> {
    let hint = "the volume's source must be there, and be yours to read";
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let source = rustix::fs::openat(machine, relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::from(e).hinted(hint))?;
    let kind = file_type(&source)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok((open_tree(&source, "", flags)?, kind))
}

/// The object at `path` in `view`; what is missing is made: directories, and in the end a directory or an empty file.
pub(super) fn make_target(view: &OwnedFd, path: &Path, kind: FileType) -> Result<OwnedFd, Failure> {
    let hint = "what is there already must be of the same kind; give the view an upper if it has none";
    let explain = |e: Errno| Failure::from(e).hinted(hint);
    let mut so_far = PathBuf::from("/");
    let names: Vec<_> = path.components().filter(|c| !matches!(c, Component::RootDir | Component::CurDir)).collect();
    let mut found = resolve(view, &so_far, OFlags::PATH, Mode::empty())?;
    for (i, name) in names.iter().enumerate() {
        so_far.push(name);
        let last = i + 1 == names.len();
        found = match resolve(view, &so_far, OFlags::PATH, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) if *name != Component::ParentDir => {
                let name = Path::new(name.as_os_str());
                if last && kind != FileType::Directory {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                    // What was found so far is a directory inside, and the last name is none that leads on.
                    rustix::fs::openat(&found, name, flags, Mode::from_raw_mode(0o644)).map_err(explain)?;
                } else {
                    rustix::fs::mkdirat(&found, name, Mode::from_raw_mode(0o755)).map_err(explain)?;
                }
                resolve(view, &so_far, OFlags::PATH, Mode::empty()).map_err(explain)?
            }
            Err(e) => return Err(explain(e)),
        };
    }
    let is_dir = file_type(&found)? == FileType::Directory;
    match (is_dir, kind == FileType::Directory) {
        (true, true) | (false, false) => Ok(found),
        (true, false) => Err(explain(Errno::ISDIR)),
        (false, true) => Err(explain(Errno::NOTDIR)),
    }
}

/// Over /proc and /sys nothing is mounted: programs trust what is there, and a symbolic link of the image could lead here.
fn refuse_kernel_files(target: &OwnedFd) -> Result<(), Failure> {
    let kind = rustix::fs::fstatfs(target)?.f_type;
    if kind == rustix::fs::PROC_SUPER_MAGIC || kind == SYSFS_MAGIC {
        return Err(Failure::from(Errno::PERM).hinted("the target is in /proc or /sys, perhaps by a link of the image"));
    }
    Ok(())
}

/// `SYSFS_MAGIC` of linux/magic.h.
const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;
