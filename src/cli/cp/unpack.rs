//! From an archive to files. Whoever packed it is not trusted: each name is walked by descriptors below where it goes to,
//! without following a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmodat, chownat, linkat, mkdirat,
    openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Archive, EntryType};

use super::place::{Place, Spot, open_dir};
use crate::cli::error::Error;
use crate::runner::Giver;
use crate::vocab::why;

/// Unpacks what one thing was packed into: at a place that depends on what it is.
pub(super) fn unpack(from: impl Read, place: &Place, keep: Keep<'_>) -> Result<(), Error> {
    let mut archive = Archive::new(from);
    let mut unpacker: Option<Unpacker<'_>> = None;
    for entry in archive.entries().map_err(|e| broken(&e))? {
        let entry = entry.map_err(|e| broken(&e))?;
        if unpacker.is_none() {
            let spot = place.spot(entry.header().entry_type() == EntryType::Directory)?;
            unpacker =
                Some(Unpacker { spot, shown: place.path.clone(), keep, named: true, dirs: Vec::new(), foreign: false });
        }
        if let Some(unpacker) = &mut unpacker {
            unpacker.add(entry)?;
        }
    }
    unpacker.map_or(Ok(()), Unpacker::finish)
}

/// Unpacks a whole archive into a directory.
pub(super) fn unpack_all(from: impl Read, dir: &Path, keep: Keep<'_>) -> Result<(), Error> {
    let spot = Spot { dir: open_dir(dir)?, name: ".".into() };
    let mut unpacker = Unpacker { spot, shown: dir.to_owned(), keep, named: false, dirs: Vec::new(), foreign: false };
    for entry in Archive::new(from).entries().map_err(|e| broken(&e))? {
        unpacker.add(entry.map_err(|e| broken(&e))?)?;
    }
    unpacker.finish()
}

fn broken(e: &std::io::Error) -> Error {
    Error::new(format!("read the archive: {}", why(e))).hint("it must be a tar archive, not compressed")
}

/// What is kept of whom things belonged to, and of their set-id bits.
#[derive(Clone, Copy)]
pub(super) enum Keep<'a> {
    Nothing,
    /// Both, as far as there are such ids.
    Shown,
    /// Both, and of ids that are not there the view is told.
    Remembered(&'a Giver<'a>),
}

struct Unpacker<'a> {
    spot: Spot,
    shown: PathBuf,
    keep: Keep<'a>,
    /// The first word of each name is the copy itself.
    named: bool,
    /// Directories get their modes and times when nothing comes into them any more.
    dirs: Vec<(OwnedFd, Meta)>,
    /// Owners that can't be set were told of.
    foreign: bool,
}

#[derive(Clone, Copy)]
struct Meta {
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
}

/// Directories open at once; those before are finished early.
const MAX_OPEN: usize = 200;

impl Unpacker<'_> {
    fn add(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), Error> {
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let shown = self.shown.join(name.components().skip(usize::from(self.named)).collect::<PathBuf>());
        let fail = |e: &dyn std::fmt::Display| Error::new(format!("{}: {}", shown.display(), why(e)));
        let spot = self.find(&name).map_err(|e| refused(&shown, e))?;
        let header = entry.header();
        let field = |e: std::io::Error| broken(&e);
        let id = |n: u64| u32::try_from(n).unwrap_or(0);
        let meta = Meta {
            mode: header.mode().map_err(field)? & if matches!(self.keep, Keep::Nothing) { 0o1777 } else { 0o7777 },
            owner: (id(header.uid().map_err(field)?), id(header.gid().map_err(field)?)),
            mtime: header.mtime().map_err(field)?,
        };
        let kind = header.entry_type();
        if kind == EntryType::Directory {
            return self.directory(spot, meta, &shown);
        }
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        // What is there goes, but for a directory.
        match unlinkat(&spot.dir, &spot.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => {
                return Err(fail(&"is a directory").hint("a file can't replace a directory: name another place"));
            }
            Err(e) => return Err(fail(&e)),
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat(&spot.dir, &spot.name, flags, Mode::from_raw_mode(0o600)).map_err(|e| fail(&e))?;
                let mut file = File::from(made);
                std::io::copy(&mut entry, &mut file).map_err(|e| fail(&e))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                symlinkat(OsStr::from_bytes(&target), &spot.dir, &spot.name).map_err(|e| fail(&e))?;
            }
            EntryType::Link => {
                let first = PathBuf::from(OsStr::from_bytes(&entry.link_name_bytes().unwrap_or_default()));
                let first = self.find(&first).map_err(|e| refused(&shown, e))?;
                // One name more; owner, mode and times are there.
                return linkat(&first.dir, &first.name, &spot.dir, &spot.name, AtFlags::empty()).map_err(|e| fail(&e));
            }
            EntryType::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&spot.dir, &spot.name, FileType::Fifo, mode, 0).map_err(|e| fail(&e))?;
            }
            _ => {
                log::warn!("{}: a device is left out", shown.display());
                return Ok(());
            }
        }
        self.settle(&spot.dir, &spot.name, meta, kind == EntryType::Symlink).map_err(|e| fail(&e))
    }

    fn directory(&mut self, spot: Spot, meta: Meta, shown: &Path) -> Result<(), Error> {
        let fail = |e: &dyn std::fmt::Display| Error::new(format!("{}: {}", shown.display(), why(e)));
        if spot.name != "." {
            match mkdirat(&spot.dir, &spot.name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    let there = statat(&spot.dir, &spot.name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail(&e))?;
                    if !FileType::from_raw_mode(there.st_mode).is_dir() {
                        return Err(fail(&"is no directory").hint("a directory can't replace a file or a link"));
                    }
                }
                Err(e) => return Err(fail(&e)),
            }
        } else if !self.named {
            // The archive's own top: the directory that is there stays as it is.
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&spot.dir, &spot.name, flags, Mode::empty()).map_err(|e| fail(&e))?;
        self.dirs.push((opened, meta));
        if self.dirs.len() > MAX_OPEN {
            let (dir, meta) = self.dirs.remove(0);
            self.settle(&dir, OsStr::new("."), meta, false).map_err(|e| fail(&e))?;
        }
        Ok(())
    }

    /// Owner, mode and time, in this order: chown(2) takes set-user-id bits away.
    fn settle(&mut self, dir: &OwnedFd, name: &OsStr, meta: Meta, link: bool) -> Result<(), Errno> {
        if !matches!(self.keep, Keep::Nothing) {
            let owner = (Some(Uid::from_raw(meta.owner.0)), Some(Gid::from_raw(meta.owner.1)));
            match chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
                // Not root, or an id that is not there inside.
                Err(Errno::PERM | Errno::INVAL) if self.remember(dir, name, meta.owner)? => {}
                Err(Errno::PERM | Errno::INVAL) if !self.foreign => {
                    self.foreign = true;
                    log::warn!("owners can't be kept: not every id is ours to give");
                }
                Err(Errno::PERM | Errno::INVAL) => {}
                done => done?,
            }
        }
        if !link {
            chmodat(dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
        }
        let time = Timespec { tv_sec: i64::try_from(meta.mtime).unwrap_or(0), tv_nsec: 0 };
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        utimensat(dir, name, &Timestamps { last_access: now, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Has the view remember an owner that it can't show; false if it can't do that either.
    fn remember(&self, dir: &OwnedFd, name: &OsStr, (uid, gid): (u32, u32)) -> Result<bool, Errno> {
        let Keep::Remembered(giver) = self.keep else { return Ok(false) };
        let file = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        // By the kernel, which checks what it ever does.
        let root = (Some(Uid::ROOT), Some(Gid::ROOT));
        chownat(&file, "", root.0, root.1, AtFlags::EMPTY_PATH)?;
        Ok(giver.give(file.as_fd(), uid, gid).is_ok())
    }

    /// The directory of a name, and its last word. Missing directories are made.
    fn find(&self, name: &Path) -> Result<Spot, Errno> {
        let mut words: Vec<OsString> = Vec::new();
        for component in name.components().skip(usize::from(self.named)) {
            match component {
                Component::Normal(word) => words.push(word.to_owned()),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::XDEV),
            }
        }
        let Some(last) = words.pop() else {
            return Ok(Spot { dir: self.spot.dir.try_clone().map_err(io)?, name: self.spot.name.clone() });
        };
        let mut dir = below(&self.spot.dir, &self.spot.name)?;
        for word in &words {
            dir = match below(&dir, word) {
                Err(Errno::NOENT) => {
                    mkdirat(&dir, word, Mode::from_raw_mode(0o755))?;
                    below(&dir, word)?
                }
                opened => opened?,
            };
        }
        Ok(Spot { dir, name: last })
    }

    fn finish(mut self) -> Result<(), Error> {
        // The deepest first: a time is changed by what is done inside.
        while let Some((dir, meta)) = self.dirs.pop() {
            let shown = self.shown.display().to_string();
            self.settle(&dir, OsStr::new("."), meta, false).map_err(|e| Error::new(format!("{shown}: {}", why(&e))))?;
        }
        Ok(())
    }
}

fn io(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

/// Opens a directory in another, and no link to one.
fn below(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(dir, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn refused(shown: &Path, e: Errno) -> Error {
    let what = shown.display();
    match e {
        Errno::XDEV => Error::new(format!("{what}: a name with .. in it is refused")).hint("the archive leads outside"),
        Errno::LOOP | Errno::NOTDIR => Error::new(format!("{what}: on the way there is a link or file, no directory"))
            .hint("symbolic links are not followed: copy to where it leads"),
        e => Error::new(format!("{what}: {}", why(&e))),
    }
}
