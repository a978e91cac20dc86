//! From files to an archive, each reached by the descriptor of its directory and without following a link.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use tar::{Builder, EntryType, Header};

use super::place::{base, open_dir};
use crate::cli::error::Error;
use crate::fuse::OWNER_ATTR;
use crate::vocab::why;

/// The name of what is copied, where it gets another one anyway.
pub(super) const NAMELESS: &str = "0";

/// What is to be copied.
#[derive(Debug)]
pub(super) struct Source {
    dir: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Source {
    /// Finds it; a symbolic link is copied as one, unless it is to be followed.
    pub(super) fn open(path: &Path, follow: bool) -> Result<Self, Error> {
        let fail = |e: &dyn std::fmt::Display| {
            Error::new(format!("{}: {}", path.display(), why(e))).hint("the path of what to copy, on the side it is on")
        };
        let bytes = path.as_os_str().as_bytes();
        let whole = bytes.ends_with(b"/") || bytes.ends_with(b"/.") || base(path) == ".";
        let path = if follow || whole { path.canonicalize().map_err(|e| fail(&e))? } else { path.to_owned() };
        if path.as_os_str() == "/" {
            return Ok(Self { dir: open_dir(&path)?, name: ".".into(), path });
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = open_dir(parent).map_err(|_| fail(&"no such file or directory"))?;
        let name = base(&path);
        let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail(&e))?;
        if whole && !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(fail(&"is no directory"));
        }
        Ok(Self { dir, name, path })
    }
}

/// Whose files are said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// As they are shown.
    Shown,
    /// As the view remembers, which shows all of its own as root's.
    Remembered,
}

/// Packs it under `name`.
pub(super) fn pack(source: &Source, to: impl Write, name: Option<OsString>, owners: Owners) -> Result<(), Error> {
    let view = match owners {
        Owners::Shown => None,
        Owners::Remembered => rustix::fs::stat("/").ok().map(|root| root.st_dev),
    };
    let mut packer = Packer { to: Builder::new(to), links: HashMap::new(), view };
    let name = name.unwrap_or_else(|| NAMELESS.into());
    packer.add(&source.dir, &source.name, Path::new(&name), &source.path)?;
    packer.to.finish().map_err(|e| Error::new(format!("write the archive: {}", why(&e))))
}

struct Packer<W: Write> {
    to: Builder<W>,
    /// By device and inode, the first name of what has several.
    links: HashMap<(u64, u64), PathBuf>,
    /// The device whose owners are remembered, and shown as root.
    view: Option<u64>,
}

impl<W: Write> Packer<W> {
    /// Adds `name` in `dir` as `path`; `shown` is for messages.
    fn add(&mut self, dir: &OwnedFd, name: &OsStr, path: &Path, shown: &Path) -> Result<(), Error> {
        let fail = |e: &dyn std::fmt::Display| Error::new(format!("{}: {}", shown.display(), why(e)));
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail(&e))?;
        let mut header = header(&stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !kind.is_dir() && stat.st_nlink > 1 {
            match self.links.entry((stat.st_dev, stat.st_ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    header.set_entry_type(EntryType::Link);
                    header.set_size(0);
                    let first = first.get().clone();
                    return self.to.append_link(&mut header, path, first).map_err(|e| fail(&e));
                }
                std::collections::hash_map::Entry::Vacant(new) => drop(new.insert(path.to_owned())),
            }
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match kind {
            FileType::RegularFile => {
                let file = File::from(openat(dir, name, flags, Mode::empty()).map_err(|e| fail(&e))?);
                self.remember(&mut header, &stat, &file);
                header.set_entry_type(EntryType::Regular);
                let size = file.metadata().map_err(|e| fail(&e))?.len();
                header.set_size(size);
                // One that grows or shrinks meanwhile must not shift what follows.
                let exact = file.take(size).chain(std::io::repeat(0)).take(size);
                self.to.append_data(&mut header, path, exact).map_err(|e| fail(&e))
            }
            FileType::Directory => {
                let opened = openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty()).map_err(|e| fail(&e))?;
                self.remember(&mut header, &stat, &opened);
                header.set_entry_type(EntryType::Directory);
                self.to.append_data(&mut header, path, std::io::empty()).map_err(|e| fail(&e))?;
                let mut names = Vec::new();
                for entry in Dir::read_from(opened.as_fd()).map_err(|e| fail(&e))? {
                    let entry = entry.map_err(|e| fail(&e))?;
                    let name = entry.file_name().to_bytes();
                    if name != b"." && name != b".." {
                        names.push(OsStr::from_bytes(name).to_owned());
                    }
                }
                names.sort();
                names.iter().try_for_each(|name| self.add(&opened, name, &path.join(name), &shown.join(name)))
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(|e| fail(&e))?;
                header.set_entry_type(EntryType::Symlink);
                self.to.append_link(&mut header, path, OsStr::from_bytes(target.to_bytes())).map_err(|e| fail(&e))
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.to.append_data(&mut header, path, std::io::empty()).map_err(|e| fail(&e))
            }
            _ => {
                log::warn!("{}: a device or socket is left out", shown.display());
                Ok(())
            }
        }
    }

    /// The owner that the view remembers; nobody can have forged it, as the view answers for its own files itself.
    fn remember(&self, header: &mut Header, stat: &Stat, file: impl AsFd) {
        let mut value = [0; 32];
        if self.view == Some(stat.st_dev)
            && let Ok(len) = rustix::fs::fgetxattr(file, OWNER_ATTR, &mut value)
            && let Some((uid, gid)) = owner(&value[..len])
        {
            header.set_uid(uid);
            header.set_gid(gid);
        }
    }
}

/// What the view's attribute says.
fn owner(value: &[u8]) -> Option<(u64, u64)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse::<u32>().ok()?.into(), gid.parse::<u32>().ok()?.into()))
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}
