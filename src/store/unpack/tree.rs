//! The layer's directory as it fills.

mod links;

use std::collections::{BTreeMap, BTreeSet};

use super::archive::{Archive, Entry, What};
use super::error::Error;
use super::name::{self, Named};
use super::{Limits, Options, Owners};
use crate::layer::{File, Handle};
use crate::vocab::dialect::{self, FUSE_OVERLAYFS_OPAQUE, LABEL, Prefix, STORED_STAT, STORED_STATS};
use crate::vocab::owner::StoredStat;
use crate::vocab::{Errno, Kind, SetTime, Timestamp, acl};

/// Directories held open at once; deeper ones are opened anew from there.
const MAX_OPEN: usize = 64;

/// What a directory gets at the end.
#[derive(Default)]
struct Last {
    times: Option<(Timestamp, Timestamp)>,
    default_acl: Option<Vec<u8>>,
}

pub(super) struct Tree<'a> {
    options: &'a Options,
    /// The directories on the way to the last one that was worked in: the root first, without a name.
    open: Vec<(Vec<u8>, Handle)>,
    /// By path.
    dirs: BTreeMap<Vec<u8>, Last>,
    dir_names: u64,
    /// Bytes of files: with their holes, and without.
    promised: u64,
    bytes: u64,
    skipped: BTreeSet<String>,
}

/// Owner and mode of what is made.
#[derive(Clone, Copy)]
struct Look {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
}

/// Before the path of a device in what was left out.
const DEVICE_LEFT_OUT: &str = "device ";

/// That of a directory which has no entry.
const IMPLIED: Look = Look { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, rdev: 0 };

impl Look {
    fn of(entry: &Entry, kind: Kind) -> Self {
        Self { kind, mode: entry.mode, uid: entry.uid, gid: entry.gid, rdev: entry.rdev }
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: Handle, options: &'a Options) -> Self {
        Self {
            options,
            open: vec![(Vec::new(), root)],
            dirs: BTreeMap::new(),
            dir_names: 0,
            promised: 0,
            bytes: 0,
            skipped: BTreeSet::new(),
        }
    }

    fn limits(&self) -> &'a Limits {
        &self.options.limits
    }

    /// The root is as a directory without an entry, until it has one. (With stored owners its attribute tells that there are
    /// some.)
    pub(super) fn begin(&self) -> Result<(), Error> {
        let root = self.here();
        self.settle(&root, b"", &IMPLIED)?;
        self.untold(&root)
    }

    /// Puts one entry in its place.
    pub(super) fn add(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), Error> {
        let named = name::named(&entry.path, self.limits())?;
        let (path, parents) = match &named {
            Named::Private => return Ok(()),
            Named::Opaque(dir) => (dir, dir.len()),
            Named::Whiteout(path) | Named::Object(path) => (path, path.len().saturating_sub(1)),
        };
        let followed = self.followed(path, parents)?;
        let path = followed.as_ref().map_or_else(|| path.clone(), |own| own.iter().map(Vec::as_slice).collect());
        match named {
            Named::Opaque(_) => return self.hide_all(&path),
            Named::Whiteout(_) => return self.hide(&path),
            Named::Private | Named::Object(_) => {}
        }
        for (attr, value) in &entry.xattrs {
            if value.len() > self.limits().xattr {
                let what = format!("its attribute {} has {} bytes", attr.escape_ascii(), value.len());
                return Err(Error::limit(what, self.limits().xattr as u64, "bytes"));
            }
        }
        match entry.what {
            What::HardLink => self.hard_link(&path, &entry.link),
            What::Object(Kind::Dir) => self.directory(&path, entry),
            What::Object(kind) => {
                let Some((name, above)) = path.split_last() else {
                    return Err(Error::refused(
                        "it puts something else than a directory in the place of the layer's root",
                    ));
                };
                let dir = self.dir(above)?;
                match kind {
                    Kind::File => self.file(&dir, &path, name, entry, archive),
                    Kind::Symlink => self.symlink(&dir, &path, name, entry),
                    kind => self.special(&dir, &path, name, entry, kind),
                }
            }
        }
    }

    /// The directory at `path`, made where there is nothing.
    fn dir(&mut self, path: &[&[u8]]) -> Result<Handle, Error> {
        let same = self.open[1..].iter().zip(path).take_while(|((a, _), b)| a == *b).count();
        self.open.truncate(same + 1);
        let mut at = self.here();
        for (i, name) in path.iter().enumerate().skip(same) {
            at = self.step(&at, &path[..=i], name)?;
            self.keep(i + 1, name, &at);
        }
        Ok(at)
    }

    /// Keeps the directory at this depth open, if those above it are.
    fn keep(&mut self, depth: usize, name: &[u8], dir: &Handle) {
        if self.open.len() == depth && depth < MAX_OPEN {
            self.open.push((name.to_vec(), dir.clone()));
        }
    }

    fn here(&self) -> Handle {
        // The root is never taken out.
        self.open[self.open.len() - 1].1.clone()
    }

    fn step(&mut self, at: &Handle, path: &[&[u8]], name: &[u8]) -> Result<Handle, Error> {
        match at.open_dir(name) {
            Ok(dir) => Ok(dir),
            Err(Errno::NOENT) => self.make_implied(at, name),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let kind = at.stat(name).map_err(Error::write("look at a parent"))?;
                if kind.is_whiteout() {
                    return self.make_implied(at, name);
                }
                let shown = path.join(&b'/');
                Err(Error::refused(format!("its parent {:?} is no directory", String::from_utf8_lossy(&shown))))
            }
            Err(e) => Err(Error::write("open its directory")(e)),
        }
    }

    /// Makes a directory that has no entry, or none yet.
    fn make_implied(&mut self, at: &Handle, name: &[u8]) -> Result<Handle, Error> {
        let dir = self.make_dir(at, name, &IMPLIED)?;
        self.untold(&dir)?;
        Ok(dir)
    }

    /// A directory has no entry. Where there are no attributes it looks as if it had one.
    fn untold(&self, dir: &Handle) -> Result<(), Error> {
        match self.mark(dir, dialect::IMPLIED, b"y") {
            Err(e) if e.is_errno(Errno::OPNOTSUPP) => Ok(()),
            r => r,
        }
    }

    /// A directory has an entry: it is what that says.
    fn told(&self, dir: &Handle) -> Result<(), Error> {
        match dir.removexattr(b"", &Prefix::User.attr(dialect::IMPLIED)) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(Error::write("unmark a directory")(e)),
        }
    }

    /// Makes a directory where there is nothing or a whiteout.
    fn make_dir(&mut self, at: &Handle, name: &[u8], look: &Look) -> Result<Handle, Error> {
        let mode = self.mode_on_disk(look);
        let make = || at.mkdir(name, mode);
        let mut over_whiteout = false;
        match make() {
            Err(Errno::EXIST) => {
                at.unlink(name).map_err(Error::write("replace a whiteout"))?;
                over_whiteout = true;
                make()
            }
            r => r,
        }
        .map_err(Error::write("make a directory"))?;
        let dir = at.open_dir(name).map_err(Error::write("open a directory"))?;
        self.settle(at, name, look)?;
        if over_whiteout {
            self.mark(&dir, dialect::OPAQUE, b"y")?;
        }
        Ok(dir)
    }

    fn directory(&mut self, path: &[&[u8]], entry: &Entry) -> Result<(), Error> {
        let look = Look::of(entry, Kind::Dir);
        let dir = match path.split_last() {
            None => {
                self.open.truncate(1);
                let root = self.here();
                self.settle(&root, b"", &look)?;
                self.told(&root)?;
                root
            }
            Some((name, above)) => {
                let at = self.dir(above)?;
                let dir = match at.open_dir(name) {
                    Ok(dir) => {
                        self.settle(&at, name, &look)?;
                        self.told(&dir)?;
                        dir
                    }
                    Err(Errno::NOENT) => self.make_dir(&at, name, &look)?,
                    Err(Errno::NOTDIR | Errno::LOOP) => {
                        if !at.stat(name).map_err(Error::write("look at what is there"))?.is_whiteout() {
                            at.unlink(name).map_err(Error::write("replace what is there"))?;
                        }
                        self.make_dir(&at, name, &look)?
                    }
                    Err(e) => return Err(Error::write("open a directory")(e)),
                };
                self.keep(path.len(), name, &dir);
                dir
            }
        };
        let default_acl = self.xattrs(&dir, b"", entry)?;
        let path = path.join(&b'/');
        if !self.dirs.contains_key(&path) {
            self.dir_names += path.len() as u64;
            if self.dir_names > self.limits().dir_names {
                return Err(Error::limit("the names of directories are too long", self.limits().dir_names, "bytes"));
            }
        }
        self.dirs.insert(path, Last { times: Some((entry.atime, entry.mtime)), default_acl });
        Ok(())
    }

    /// Runs `make`, which answers `EEXIST` for what is there already, and makes room for it if need be.
    fn replacing<T>(
        &mut self,
        dir: &Handle,
        path: &[&[u8]],
        make: impl Fn(&Handle) -> Result<T, Errno>,
        what: &'static str,
    ) -> Result<T, Error> {
        match make(dir) {
            Err(Errno::EXIST) => {
                self.remove(dir, path)?;
                make(dir)
            }
            r => r,
        }
        .map_err(Error::write(what))
    }

    /// Removes what is at `path`, in `dir`.
    fn remove(&mut self, dir: &Handle, path: &[&[u8]]) -> Result<(), Error> {
        let Some(name) = path.last() else { return Ok(()) };
        let failed = Error::write("replace what is there");
        match dir.unlink(name) {
            Err(Errno::ISDIR | Errno::PERM) => {
                dir.open_dir(name).and_then(|old| old.clear()).map_err(&failed)?;
                dir.rmdir(name).map_err(&failed)?;
                self.open.truncate(path.len());
                let gone = path.join(&b'/');
                let below = [&gone[..], b"/"].concat();
                self.dirs.retain(|p, _| *p != gone && !p.starts_with(&below));
                Ok(())
            }
            r => r.map_err(failed),
        }
    }

    fn file(
        &mut self,
        dir: &Handle,
        path: &[&[u8]],
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<'_>,
    ) -> Result<(), Error> {
        self.promised = self.promised.saturating_add(entry.size);
        if self.promised > self.limits().bytes {
            let what = format!("with it, files have {} bytes", self.promised);
            return Err(Error::limit(what, self.limits().bytes, "bytes"));
        }
        let look = Look::of(entry, Kind::File);
        let mode = self.mode_on_disk(&look);
        let file = self.replacing(dir, path, |d| d.create(name, mode), "make a file")?;
        match &entry.sparse {
            None => {
                archive.data(entry.size, |bytes, at| write(&file, bytes, at))?;
                self.bytes += entry.size;
            }
            Some(map) => {
                for segment in map {
                    archive.data(segment.len, |bytes, at| write(&file, bytes, segment.at + at))?;
                    self.bytes += segment.len;
                }
                file.truncate(entry.size).map_err(Error::write("set its size"))?;
            }
        }
        drop(file);
        self.settle(dir, name, &look)?;
        self.dress(dir, name, entry)
    }

    fn symlink(&mut self, dir: &Handle, path: &[&[u8]], name: &[u8], entry: &Entry) -> Result<(), Error> {
        let target = &entry.link;
        if target.is_empty() {
            return Err(Error::malformed("it is a symbolic link to nothing"));
        }
        if target.contains(&0) {
            return Err(Error::refused("there is a NUL in its target"));
        }
        let look = Look { mode: 0o777, ..Look::of(entry, Kind::Symlink) };
        // What a link is to is the business of whoever follows it, inside. Its owner can't be stored beside it.
        if self.options.owners == Owners::Stored && (look.uid, look.gid) != (0, 0) {
            let file = self.replacing(dir, path, |d| d.create(name, 0o600), "make a symbolic link's file")?;
            write(&file, target, 0)?;
        } else {
            self.replacing(dir, path, |d| d.symlink(target, name), "make a symbolic link")?;
        }
        self.settle(dir, name, &look)?;
        self.dress(dir, name, entry)
    }

    /// A pipe or a device.
    fn special(&mut self, dir: &Handle, path: &[&[u8]], name: &[u8], entry: &Entry, kind: Kind) -> Result<(), Error> {
        let look = Look::of(entry, kind);
        let stored = self.options.owners == Owners::Stored;
        let stands_for = !stored && kind.is_whiteout(entry.rdev);
        let mode = self.mode_on_disk(&look);
        if stored || stands_for {
            self.replacing(dir, path, |d| d.mknod(name, Kind::File, mode, 0), "make a device's file")?;
        } else {
            match self.replacing(dir, path, |d| d.mknod(name, kind, mode, entry.rdev), "make a device or pipe") {
                Err(e) if e.is_errno(Errno::PERM) && matches!(kind, Kind::Char | Kind::Block) => {
                    // The first one stands for all.
                    if !self.skipped.iter().any(|what| what.starts_with(DEVICE_LEFT_OUT)) {
                        self.skip(&[DEVICE_LEFT_OUT.as_bytes(), &path.join(&b'/')].concat());
                    }
                    return Ok(());
                }
                r => r?,
            }
        }
        if stands_for {
            let attr = Prefix::User.attr(dialect::DEVICE);
            dir.setxattr(name, &attr, b"0:0", 0).map_err(Error::write("mark a device's file"))?;
            self.mark(dir, dialect::DEVICES, b"y")?;
        }
        self.settle(dir, name, &look)?;
        self.dress(dir, name, entry)
    }

    fn hard_link(&mut self, path: &[&[u8]], target: &[u8]) -> Result<(), Error> {
        let Some((name, above)) = path.split_last() else {
            return Err(Error::refused("it puts something else than a directory in the place of the layer's root"));
        };
        let named = name::link_target(target, self.limits())?;
        let followed = self.followed(&named, named.len() - 1)?;
        let to = followed.as_ref().map_or(named, |own| own.iter().map(Vec::as_slice).collect());
        if to == path {
            return Err(Error::refused("it is a hard link to itself"));
        }
        let shown = String::from_utf8_lossy(target).into_owned();
        let missing = || Error::refused(format!("it is a hard link to {shown:?}, which is not in this layer"));
        let (last, dirs) = to.split_last().ok_or_else(missing)?;
        let mut from = self.open[0].1.clone();
        for part in dirs {
            from = match from.open_dir(part) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => return Err(missing()),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let why = "a part of which is no directory";
                    return Err(Error::refused(format!("it is a hard link to {shown:?}, {why}")));
                }
                Err(e) => return Err(Error::write("open the directory of a hard link's target")(e)),
            };
        }
        // Held, because what is removed to make room may be above it.
        let object = match from.pin(last) {
            Ok(object) => object,
            Err(Errno::NOENT) => return Err(missing()),
            Err(e) => return Err(Error::write("open a hard link's target")(e)),
        };
        let found = object.stat(b"").map_err(Error::write("look at a hard link's target"))?;
        if found.is_whiteout() {
            return Err(missing());
        }
        if found.kind == Kind::Dir {
            return Err(Error::refused(format!("it is a hard link to {shown:?}, a directory")));
        }
        let dir = self.dir(above)?;
        match from.link(last, &dir, name) {
            Err(Errno::EXIST) => {
                let there = dir.stat(name).map_err(Error::write("look at what is there"))?;
                if (there.dev, there.ino) == (found.dev, found.ino) {
                    return Ok(());
                }
                if to.starts_with(path) {
                    return Err(Error::refused(format!("it is a hard link to {shown:?}, which it would replace")));
                }
                self.remove(&dir, path)?;
                from.link(last, &dir, name)
            }
            r => r,
        }
        .map_err(Error::write("make a hard link"))?;
        // A device's file needs its directory to say so, too.
        if found.kind == Kind::File
            && found.size == 0
            && object.getxattr(b"", &Prefix::User.attr(dialect::DEVICE)).is_ok_and(|v| v.is_some())
        {
            self.mark(&dir, dialect::DEVICES, b"y")?;
        }
        Ok(())
    }

    /// What lower layers have at `path` is gone. What this layer has there stays, whichever came first.
    fn hide(&mut self, path: &[&[u8]]) -> Result<(), Error> {
        let Some((name, above)) = path.split_last() else { return Ok(()) };
        let Some(dir) = self.dir_to_hide_in(above)? else { return Ok(()) };
        match dir.mknod(name, Kind::Char, 0, 0) {
            Err(Errno::EXIST) => match dir.open_dir(name) {
                Ok(there) => self.mark(&there, dialect::OPAQUE, b"y"),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(e) => Err(Error::write("open a directory")(e)),
            },
            r => r.map_err(Error::write("make a whiteout (a character device 0:0)")),
        }
    }

    /// What lower layers have in the directory at `path` is gone.
    fn hide_all(&mut self, path: &[&[u8]]) -> Result<(), Error> {
        match self.dir_to_hide_in(path)? {
            Some(dir) => self.mark(&dir, dialect::OPAQUE, b"y"),
            None => Ok(()),
        }
    }

    /// The directory at `path`. `None` where this layer has something else on the way: that hides already what is below.
    /// (umoci writes so of a directory that became a file.)
    fn dir_to_hide_in(&mut self, path: &[&[u8]]) -> Result<Option<Handle>, Error> {
        let failed = match self.dir(path) {
            Ok(dir) => return Ok(Some(dir)),
            Err(e) => e,
        };
        let mut at = self.open[0].1.clone();
        for name in path {
            at = match at.open_dir(name) {
                Ok(dir) => dir,
                Err(Errno::NOTDIR | Errno::LOOP) if at.stat(name).is_ok_and(|there| !there.is_whiteout()) => {
                    return Ok(None);
                }
                Err(_) => break,
            };
        }
        Err(failed)
    }

    fn mark(&self, dir: &Handle, mark: &str, value: &[u8]) -> Result<(), Error> {
        dir.setxattr(b"", &Prefix::User.attr(mark), value, 0).map_err(Error::write("mark a directory"))
    }

    /// The mode of the object on disk: that of a stored one lets its owner, which is us, work on it.
    fn mode_on_disk(&self, look: &Look) -> u32 {
        match (self.options.owners, look.kind) {
            // Set-id bits come when it has its owner.
            (Owners::Real, _) => look.mode & 0o1777,
            (Owners::Stored, Kind::Dir) => look.mode & 0o777 | 0o700,
            (Owners::Stored, _) => look.mode & 0o777 | 0o600,
        }
    }

    /// Gives what was made its owner and mode.
    fn settle(&self, dir: &Handle, name: &[u8], look: &Look) -> Result<(), Error> {
        if self.options.owners == Owners::Stored {
            if look.kind == Kind::Symlink && (look.uid, look.gid) == (0, 0) {
                return Ok(());
            }
            if look.kind == Kind::Dir {
                dir.chmod(name, self.mode_on_disk(look)).map_err(Error::write("chmod"))?;
            }
            let Look { uid, gid, mode, kind, rdev } = *look;
            let stored = StoredStat { uid, gid, mode, kind: Some(kind), rdev };
            return dir.setxattr(name, STORED_STAT, &stored.format(), 0).map_err(Error::write("store its owner"));
        }
        dir.chown(name, Some(look.uid), Some(look.gid)).map_err(Error::write("chown"))?;
        // chown(2) takes the set-id bits away, and a directory inherits one.
        if look.kind == Kind::Dir || (look.kind != Kind::Symlink && look.mode & 0o6000 != 0) {
            dir.chmod(name, look.mode).map_err(Error::write("chmod"))?;
        }
        Ok(())
    }

    /// Gives what was made its attributes and times.
    fn dress(&mut self, dir: &Handle, name: &[u8], entry: &Entry) -> Result<(), Error> {
        self.xattrs(dir, name, entry)?;
        dir.utimens(name, SetTime::To(entry.atime), SetTime::To(entry.mtime)).map_err(Error::write("set its times"))
    }

    /// Sets attributes; hands back a default ACL, which is for later.
    fn xattrs(&mut self, dir: &Handle, name: &[u8], entry: &Entry) -> Result<Option<Vec<u8>>, Error> {
        let mut default_acl = None;
        for (attr, value) in &entry.xattrs {
            // It changes what is made in the directory: it comes when all is made.
            if attr == acl::DEFAULT {
                default_acl = Some(value.clone());
            } else if is_private(attr) {
                self.skip(attr);
            } else {
                self.xattr(dir, name, &Prefix::User.escape(attr), value)?;
            }
        }
        Ok(default_acl)
    }

    fn xattr(&mut self, dir: &Handle, name: &[u8], attr: &[u8], value: &[u8]) -> Result<(), Error> {
        match dir.setxattr(name, attr, value, 0) {
            // Not for us to set (trusted.*, security.*), not on this kind of object, or not on this file system.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS) => {
                self.skip(attr);
                Ok(())
            }
            Err(Errno::INVAL | Errno::RANGE) => {
                let words = format!("its attribute {} has a value or name that it can't have", attr.escape_ascii());
                Err(Error::refused(words))
            }
            r => r.map_err(Error::write("set an attribute")),
        }
    }

    fn skip(&mut self, attr: &[u8]) {
        /// More different ones than this are not told apart.
        const MANY: usize = 32;
        if self.skipped.len() < MANY {
            self.skipped.insert(attr.escape_ascii().to_string());
        }
    }

    /// Everything is made: directories get their times. The bytes written, and what was left out.
    pub(super) fn finish(mut self) -> Result<(u64, Vec<String>), Error> {
        for (path, last) in std::mem::take(&mut self.dirs) {
            let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).collect();
            self.last_touch(&names, &last).map_err(|e| e.of(&path))?;
        }
        Ok((self.bytes, self.skipped.into_iter().collect()))
    }

    fn last_touch(&mut self, path: &[&[u8]], last: &Last) -> Result<(), Error> {
        let dir = self.dir(path)?;
        if let Some(acl) = &last.default_acl {
            self.xattr(&dir, b"", acl::DEFAULT, acl)?;
        }
        if let Some((atime, mtime)) = last.times {
            dir.utimens(b"", SetTime::To(atime), SetTime::To(mtime)).map_err(Error::write("set its times"))?;
        }
        Ok(())
    }
}

fn write(file: &File, bytes: &[u8], at: u64) -> Result<(), Error> {
    match file.write_at(bytes, at).map_err(Error::write("write its data"))? {
        n if n == bytes.len() => Ok(()),
        // An error after some: the rest is told why.
        n => match file.write_at(&bytes[n..], at + n as u64) {
            Ok(_) => Err(Error::write("write its data")(Errno::IO)),
            Err(e) => Err(Error::write("write its data")(e)),
        },
    }
}

/// What only the union itself, or the machine, may say about an object.
pub(crate) fn is_private(attr: &[u8]) -> bool {
    attr == LABEL
        || attr == FUSE_OVERLAYFS_OPAQUE
        || STORED_STATS.contains(&attr)
        || attr.starts_with(Prefix::Trusted.as_bytes())
}
