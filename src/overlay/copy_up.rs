//! Lower to upper: built in the work directory (data, then owner, attributes, mode and times), a file under no name where
//! the file system can, then published by one link(2) or rename(2). What failed is gone again; nothing is half there.

use std::sync::Arc;

use super::Overlay;
use super::file::link_target;
use super::links::Link;
use super::node::{Key, Node, Upper, UpperAt};
use super::stack::face;
use crate::layer::{File, Handle, Rename};
use crate::vocab::acl;
use crate::vocab::dialect::{self, LABEL, STORED_STATS};
use crate::vocab::{Access, Errno, Kind, Result, SetTime, Stat};

const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// Copied in one go at most: a request that waits for a bigger copy can still be interrupted in between.
const CHUNK: u64 = 64 << 20;
const CAPABILITY: &[u8] = b"security.capability";
const TRIES: u32 = 100;

/// How much of an object must be in the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Everything but a file's data.
    Metadata,
    /// A file's first bytes as well; it is about to be cut there.
    Data { upto: u64 },
}

impl Want {
    /// A file with all its data.
    pub(super) const ALL_DATA: Self = Self::Data { upto: u64::MAX };
}

/// A lower object on its way up.
struct Source {
    dir: Handle,
    name: Box<[u8]>,
    stat: Stat,
    /// User and group as stored: what the id map does not know keeps its owner.
    owner: (u32, u32),
    /// Its ids are the view's, in ACLs too.
    mapped: bool,
}

/// An object being built: in the work directory by its name there; or with none yet, where the name is empty, as it is to
/// handles, and `dir` is the object.
#[derive(Debug)]
struct Draft {
    dir: Handle,
    name: Vec<u8>,
}

impl Draft {
    /// Puts it in its place, where nothing is.
    fn put(&self, to: &Handle, name: &[u8], how: Rename) -> Result<()> {
        if self.name.is_empty() { self.dir.link(b"", to, name) } else { self.dir.rename(&self.name, to, name, how) }
    }

    fn remove(&self, kind: Kind) -> Result<()> {
        match kind {
            _ if self.name.is_empty() => Ok(()),
            Kind::Dir => self.dir.rmdir(&self.name),
            _ => self.dir.unlink(&self.name),
        }
    }
}

impl Overlay {
    /// Sees to it that the upper has this much of a node.
    ///
    /// # Errors
    /// `EROFS` without an upper; whatever goes wrong on the way, and then nothing has changed.
    pub(super) fn copy_up(&self, node: &Arc<Node>, want: Want) -> Result<()> {
        self.tree()?;
        // A plain upper says of nothing that its data is elsewhere.
        let whole = self.is_plain() && node.kind == Kind::File && want == Want::Metadata;
        let want = if whole { Want::ALL_DATA } else { want };
        let done = |node: &Node| {
            let state = node.state.lock();
            state.upper.as_ref().is_some_and(|u| want == Want::Metadata || !u.metacopy)
        };
        if done(node) {
            return Ok(());
        }
        self.copy_up_above(node)?;
        let _one_at_a_time = node.copy_up.lock();
        if done(node) {
            return Ok(());
        }
        if node.is_dir() {
            return self.copy_up_dir(node);
        }
        match want {
            Want::Data { upto } if node.has_upper() => self.complete_data(node, upto),
            _ => self.copy_up_other(node, want, true),
        }
    }

    /// The directories above a node, the topmost first: not one inside the other, however deep the tree.
    fn copy_up_above(&self, node: &Arc<Node>) -> Result<()> {
        let mut missing = Vec::new();
        let mut at = node.first_link();
        while let Some(link) = at {
            if link.parent.has_upper() {
                break;
            }
            at = link.parent.first_link();
            missing.push(link.parent);
        }
        missing.iter().rev().try_for_each(|dir| self.copy_up(dir, Want::Metadata))
    }

    /// Puts a lower hard link into the index, so that its link count in the view is known, but under no name.
    pub(super) fn copy_up_to_index(&self, node: &Arc<Node>) -> Result<()> {
        let _one_at_a_time = node.copy_up.lock();
        if node.has_upper() { Ok(()) } else { self.copy_up_other(node, Want::Metadata, false) }
    }

    /// Whether a node is a lower hard link that belongs in the index.
    pub(super) fn wants_index(&self, node: &Node) -> bool {
        let state = node.state.lock();
        state.below.nlink().is_some_and(|n| n > 1)
            && state.upper.is_none()
            && self.has_index()
            && self.can_mark(node.kind)
    }

    fn copy_up_dir(&self, node: &Arc<Node>) -> Result<()> {
        let tree = self.tree()?;
        let dirs = node.lower_dirs();
        let lower = face(&dirs).ok_or(Errno::NOENT)?;
        let dir = self.lower_handle(lower)?;
        let stored = if self.layers[lower.layer].stored_owners { self.marks(&dir, b"")?.stored } else { None };
        let stat = self.shown_lower(lower.layer, dir.stat(b"")?, stored.as_ref());
        let owner = self.stored_owner(&dir, b"", lower.layer, &stat)?;
        let mapped = self.layers[lower.layer].mapped;
        let source = Source { dir, name: Box::default(), stat, owner, mapped };
        let draft = Draft { dir: tree.work.clone(), name: self.temp_name() };
        draft.dir.mkdir(&draft.name, 0o700)?;
        let r = self
            .dress(node, &source, &draft, false)
            .and_then(|key| self.publish(node, &draft, upper_object(key, UpperAt::Name, false)));
        self.discard_unless(r, &draft.name, Kind::Dir)
    }

    fn copy_up_other(&self, node: &Arc<Node>, want: Want, publish: bool) -> Result<()> {
        let stat = self.lower_stat(node)?;
        let pos = node.state.lock().other().ok_or(Errno::NOENT)?.pos;
        let dir = self.lower_handle(&pos.dir)?;
        let owner = self.stored_owner(&dir, &pos.name, pos.dir.layer, &stat)?;
        let mapped = self.layers[pos.dir.layer].mapped;
        let source = Source { dir, name: pos.name, stat, owner, mapped };
        let metacopy = node.kind == Kind::File && want == Want::Metadata && stat.size > 0;
        let index = if stat.nlink > 1 && self.has_index() && self.can_mark(node.kind) {
            source.dir.file_handle(&source.name)?
        } else {
            None
        };
        let draft = self.build(node, &source, want, metacopy)?;
        let r = (|| {
            let key = self.dress(node, &source, &draft, metacopy)?;
            match index {
                None => self.publish(node, &draft, upper_object(key, UpperAt::Name, metacopy)),
                Some(handle) => {
                    let name = handle.index_name();
                    let delta = format!("U{:+}", i64::from(stat.nlink) - 1);
                    let attr = self.prefix.attr(dialect::NLINK);
                    draft.dir.setxattr(&draft.name, &attr, delta.as_bytes(), 0)?;
                    draft.put(self.index()?, &name, Rename::NoReplace)?;
                    self.adopt(node, upper_object(key, UpperAt::Index(name.into()), metacopy), Some(stat.nlink));
                    Ok(())
                }
            }
        })();
        match draft.name.as_slice() {
            b"" => r?,
            temp => self.discard_unless(r, temp, node.kind)?,
        }
        if publish { self.link_up(node) } else { Ok(()) }
    }

    /// Who owns a lower object on disk; `shown` is its stat in the view.
    fn stored_owner(&self, dir: &Handle, name: &[u8], layer: usize, shown: &Stat) -> Result<(u32, u32)> {
        let ids = &self.config.ids;
        if ids.is_identity() {
            return Ok((shown.uid, shown.gid));
        }
        if self.layers[layer].mapped {
            return Ok((ids.uid.stored_for(shown.uid), ids.gid.stored_for(shown.gid)));
        }
        let stored = if self.layers[layer].stored_owners { self.marks(dir, name)?.stored } else { None };
        let stat = self.on_disk(dir.stat(name)?, stored.as_ref());
        Ok((stat.uid, stat.gid))
    }

    /// Makes the object itself, with its data if wanted.
    fn build(&self, node: &Node, source: &Source, want: Want, metacopy: bool) -> Result<Draft> {
        let work = &self.tree()?.work;
        if node.kind == Kind::File
            && let Some((dir, file)) = work.create_unnamed(0o600)?
        {
            self.fill(node, source, want, metacopy, &file)?;
            return Ok(Draft { dir, name: Vec::new() });
        }
        let draft = Draft { dir: work.clone(), name: self.temp_name() };
        let made = self.build_named(node, source, want, metacopy, &draft.name);
        self.discard_unless(made, &draft.name, node.kind)?;
        Ok(draft)
    }

    fn build_named(&self, node: &Node, source: &Source, want: Want, metacopy: bool, temp: &[u8]) -> Result<()> {
        let work = &self.tree()?.work;
        match node.kind {
            Kind::Dir => work.mkdir(temp, 0o700),
            Kind::File => self.fill(node, source, want, metacopy, &work.create(temp, 0o600)?),
            Kind::Symlink => work.symlink(&link_target(&source.dir, &source.name)?, temp),
            kind if kind.is_whiteout(source.stat.rdev) => self.build_device(work, temp, 0o600),
            kind => match work.mknod(temp, kind, 0o600, source.stat.rdev) {
                // Its type goes into the attribute.
                Err(Errno::PERM) if self.config.stored_owners => work.mknod(temp, Kind::File, 0o600, 0),
                r => r,
            },
        }
    }

    /// The content of a file, as much as is wanted.
    fn fill(&self, node: &Node, source: &Source, want: Want, metacopy: bool, file: &File) -> Result<()> {
        match want {
            Want::Data { upto } if upto > 0 => {
                let how = copy_data(&self.open_lower_data(node)?, file, source.stat.size, upto)?;
                self.to_disk(file, how)
            }
            _ if metacopy => file.truncate(source.stat.size),
            _ => Ok(()),
        }
    }

    /// Owner, attributes, marks, mode and times. The owner comes first: giving a file away takes its capabilities.
    /// Which object it is.
    fn dress(&self, node: &Node, source: &Source, draft: &Draft, metacopy: bool) -> Result<Key> {
        let (work, temp) = (&draft.dir, &draft.name);
        let stat = &source.stat;
        let fresh = work.stat(temp)?;
        let (uid, gid) = source.owner;
        if self.config.stored_owners {
            self.store_owner(work, temp, &Stat { uid, gid, ..*stat })?;
        } else if (fresh.uid, fresh.gid) != source.owner {
            self.give(work, temp, Some(uid), Some(gid), None)?;
        }
        for attr in source.dir.listxattr(&source.name)? {
            if STORED_STATS.contains(&&attr[..]) || self.prefix.unescape(&attr).is_none() {
                continue;
            }
            let Some(mut value) = source.dir.getxattr(&source.name, &attr)? else { continue };
            if source.mapped && acl::is_acl(&attr) {
                value = self.stored_acl(&value)?;
            }
            match work.setxattr(temp, &attr, &value, 0) {
                Ok(()) => {}
                Err(e) if stays_behind(&attr, e, self.is_plain()) => {
                    log::debug!("{} stays behind", String::from_utf8_lossy(&attr));
                }
                Err(e) => return Err(e),
            }
        }
        if self.can_mark(node.kind) && (fresh.kind != Kind::Symlink || self.prefix == dialect::Prefix::Trusted) {
            // The longest last: ext4 keeps what fits in the inode, and has a block for the rest.
            if metacopy {
                work.setxattr(temp, &self.prefix.attr(dialect::METACOPY), b"", 0)?;
            }
            if node.kind != Kind::Dir {
                let identity = dialect::identity(node.ino, source.dir.birth(&source.name)?);
                work.setxattr(temp, &self.prefix.attr(dialect::INO), &identity, 0)?;
            }
            let origin = source.dir.file_handle(&source.name)?;
            let origin = origin.as_ref().map_or(&b""[..], |h| h.as_bytes());
            work.setxattr(temp, &self.prefix.attr(dialect::ORIGIN), origin, 0)?;
        }
        if node.kind != Kind::Symlink && !self.config.stored_owners {
            work.chmod(temp, stat.mode)?;
        }
        work.utimens(temp, SetTime::To(stat.atime), SetTime::To(stat.mtime))?;
        Ok((fresh.dev, fresh.ino))
    }

    /// Puts a finished object under its node's name; under none if it has lost its last.
    fn publish(&self, node: &Arc<Node>, draft: &Draft, upper: Upper) -> Result<()> {
        for _ in 0..TRIES {
            let Some(link) = node.first_link() else {
                let pinned = draft.dir.pin(&draft.name)?;
                draft.remove(node.kind)?;
                self.adopt(node, Upper { at: UpperAt::Pinned(pinned), ..upper }, Some(0));
                return Ok(());
            };
            self.copy_up(&link.parent, Want::Metadata)?;
            let _names = link.parent.names_mut();
            if !node.first_link().is_some_and(|l| l.is(&link.parent, &link.name)) {
                continue;
            }
            let dir = self.upper_dir(&link.parent)?;
            if node.kind != Kind::Dir {
                self.set_impure(&link.parent, &dir)?;
                if self.is_device(node) {
                    self.set_devices(&link.parent, &dir)?;
                }
            }
            return keep_times(&dir, || {
                // Not every plain upper knows how not to replace; nobody has the name, for we hold the names.
                let how = if self.is_plain() { Rename::Replace } else { Rename::NoReplace };
                draft.put(&dir, &link.name, how)?;
                self.adopt(node, upper, None);
                Ok(())
            });
        }
        Err(Errno::STALE)
    }

    /// Gives an indexed object the names in the upper that we know it by: so the upper alone, without the index, still
    /// shows the change.
    fn link_up(&self, node: &Arc<Node>) -> Result<()> {
        let index = match node.state.lock().upper.as_ref().map(|u| u.at.clone()) {
            Some(UpperAt::Index(name)) => name,
            _ => return Ok(()),
        };
        let links: Vec<Link> = node.state.lock().links().to_vec();
        for link in links {
            self.copy_up(&link.parent, Want::Metadata)?;
            let _names = link.parent.names_mut();
            if node.state.lock().links().find(&link.parent, &link.name).is_none() {
                continue;
            }
            let dir = self.upper_dir(&link.parent)?;
            self.set_impure(&link.parent, &dir)?;
            if self.is_device(node) {
                self.set_devices(&link.parent, &dir)?;
            }
            keep_times(&dir, || self.link_indexed(node, &index, &dir, &link.name))?;
        }
        Ok(())
    }

    /// Makes a name in the upper for an indexed object; the view had it before, so it counts as many as before.
    pub(super) fn link_indexed(&self, node: &Node, index: &[u8], dir: &Handle, name: &[u8]) -> Result<()> {
        match self.index()?.link(index, dir, name) {
            Ok(()) => {}
            // It has the name already, and is counted.
            Err(Errno::EXIST) => return Ok(()),
            Err(e) => return Err(e),
        }
        let nlink = node.state.lock().nlink;
        let counted = self.set_nlink(node, index, nlink);
        if counted.is_err() {
            dir.unlink(name)?;
        }
        counted
    }

    /// Writes the link count that an indexed object has in the view.
    pub(super) fn set_nlink(&self, node: &Node, index: &[u8], nlink: Option<u32>) -> Result<()> {
        let Some(nlink) = nlink else { return Ok(()) };
        let dir = self.index()?;
        let delta = format!("U{:+}", i64::from(nlink) - i64::from(dir.stat(index)?.nlink));
        dir.setxattr(index, &self.prefix.attr(dialect::NLINK), delta.as_bytes(), 0)?;
        node.state.lock().nlink = Some(nlink);
        Ok(())
    }

    /// The node has an upper object from now on.
    fn adopt(&self, node: &Arc<Node>, upper: Upper, nlink: Option<u32>) {
        self.inodes.add_key(node, upper.key);
        {
            let device = self.is_device(node);
            let mut state = node.state.lock();
            state.upper = Some(Box::new(Upper { device, ..upper }));
            state.nlink = nlink;
        }
        self.forget_files(node);
    }

    /// Marks a directory whose inode numbers are not all those on disk.
    pub(super) fn set_impure(&self, node: &Node, dir: &Handle) -> Result<()> {
        if self.is_plain() || node.is_mixed() {
            return Ok(());
        }
        dir.setxattr(b"", &self.prefix.attr(dialect::IMPURE), b"y", 0)?;
        if let Some(upper) = &mut node.state.lock().upper {
            upper.impure = true;
        }
        Ok(())
    }

    /// Whether the lower object of a node is a device that would be a whiteout in the upper.
    fn is_device(&self, node: &Node) -> bool {
        node.state.lock().below.is_device()
    }

    /// Makes what stands for a character device 0:0: as such it would be a whiteout.
    pub(super) fn build_device(&self, dir: &Handle, name: &[u8], mode: u32) -> Result<()> {
        if self.is_plain() {
            return Err(Errno::PERM);
        }
        dir.mknod(name, Kind::File, mode, 0)?;
        let marked = dir.setxattr(name, &self.prefix.attr(dialect::DEVICE), b"0:0", 0);
        if marked.is_err() {
            dir.unlink(name)?;
        }
        marked
    }

    /// Marks a directory that holds what stands for a device: its files must be looked at more closely.
    pub(super) fn set_devices(&self, node: &Node, dir: &Handle) -> Result<()> {
        if self.is_plain() || node.state.lock().upper.as_ref().is_some_and(|u| u.devices) {
            return Ok(());
        }
        dir.setxattr(b"", &self.prefix.attr(dialect::DEVICES), b"y", 0)?;
        if let Some(upper) = &mut node.state.lock().upper {
            upper.devices = true;
        }
        Ok(())
    }

    /// Gives a metacopy its data, up to where it is about to be cut.
    fn complete_data(&self, node: &Arc<Node>, upto: u64) -> Result<()> {
        let source = self.open_lower_data(node)?;
        let file = self.with_upper(node, |dir, name| dir.open_file(name, Access::ReadWrite))?;
        let before = self.with_upper(node, |dir, name| Ok((dir.stat(name)?, dir.getxattr(name, CAPABILITY)?)))?;
        let (stat, capability) = before;
        let times = (SetTime::To(stat.atime), SetTime::To(stat.mtime));
        let copied = copy_data(&source, &file, source.stat()?.size, upto).and_then(|how| self.to_disk(&file, how));
        let done = copied.and_then(|()| {
            // Writing took the set-id bits, capabilities and times; the data is not new to anybody.
            self.with_upper(node, |dir, name| {
                dir.chmod(name, stat.mode)?;
                if let Some(value) = &capability {
                    dir.setxattr(name, CAPABILITY, value, 0)?;
                }
                dir.utimens(name, times.0, times.1)?;
                dir.removexattr(name, &self.prefix.attr(dialect::METACOPY))
            })
        });
        if let Err(e) = done {
            // Its data is still the lower's; its size and times are not.
            file.truncate(stat.size)?;
            self.with_upper(node, |dir, name| dir.utimens(name, times.0, times.1))?;
            return Err(e);
        }
        if let Some(upper) = &mut node.state.lock().upper {
            upper.metacopy = false;
        }
        self.forget_files(node);
        Ok(())
    }

    /// Data is on disk before the lower's can't be seen any more: a crash must not leave a name without its content.
    /// Shared blocks are there already, and file systems that share blocks keep the order of sharing and naming.
    fn to_disk(&self, file: &File, how: Copied) -> Result<()> {
        if self.config.volatile || how == Copied::Shared { Ok(()) } else { file.sync(true) }
    }

    /// Passes `r` on; after a failure the unfinished object is removed.
    pub(super) fn discard_unless(&self, r: Result<()>, temp: &[u8], kind: Kind) -> Result<()> {
        if r.is_err() {
            let work = &self.tree()?.work;
            let gone = if kind == Kind::Dir { work.rmdir(temp) } else { work.unlink(temp) };
            match gone {
                Ok(()) | Err(Errno::NOENT) => {}
                // It is cleared at the next mount.
                Err(e) => log::warn!("{} is left in the work directory: {e}", String::from_utf8_lossy(temp)),
            }
        }
        r
    }
}

pub(super) fn upper_object(key: Key, at: UpperAt, metacopy: bool) -> Upper {
    Upper { key, at, metacopy, redirect: None, impure: false, attr_whiteouts: false, device: false, devices: false }
}

/// Changes an entry of a directory without a trace in its times: for programs nothing happened.
pub(super) fn keep_times(dir: &Handle, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let st = dir.stat(b"")?;
    change()?;
    dir.utimens(b"", SetTime::To(st.atime), SetTime::To(st.mtime))
}

/// What this namespace or file system does not carry is left behind, as kernel overlayfs does. So is a label that SELinux
/// does not let us give; what is new has one already.
fn stays_behind(attr: &[u8], why: Errno, plain: bool) -> bool {
    match why {
        Errno::PERM | Errno::OPNOTSUPP => plain || attr.starts_with(b"security.") || attr.starts_with(b"system."),
        Errno::ACCESS => attr == LABEL,
        _ => false,
    }
}

/// How data came into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    /// The file system shares the blocks, which are on disk.
    Shared,
    /// Byte by byte, into the page cache.
    Written,
}

/// Copies the first `upto` of `size` bytes, holes as holes, and makes the target that long.
fn copy_data(from: &File, to: &File, size: u64, upto: u64) -> Result<Copied> {
    let len = size.min(upto);
    if len == size && from.clone_into(to)? {
        return Ok(Copied::Shared);
    }
    to.truncate(len)?;
    let mut at = 0;
    while at < len {
        let (start, end) = match from.seek(at, SEEK_DATA) {
            Ok(start) => (start, from.seek(start, SEEK_HOLE)?.min(len)),
            Err(Errno::NXIO) => break,
            // No holes are known here.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (at, len),
            Err(e) => return Err(e),
        };
        at = start;
        while at < end {
            match from.copy_range(at, to, at, (end - at).min(CHUNK))? {
                0 => return Err(Errno::IO),
                n => at += n,
            }
        }
    }
    Ok(Copied::Written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_behind() {
        for (attr, why, plain, stays) in [
            (LABEL, Errno::ACCESS, false, true),
            (LABEL, Errno::PERM, false, true),
            (LABEL, Errno::NOSPC, true, false),
            (CAPABILITY, Errno::ACCESS, false, false),
            (CAPABILITY, Errno::OPNOTSUPP, false, true),
            (b"user.a", Errno::OPNOTSUPP, false, false),
            (b"user.a", Errno::OPNOTSUPP, true, true),
        ] {
            let name = String::from_utf8_lossy(attr);
            assert_eq!(stays_behind(attr, why, plain), stays, "{name}: {why}, plain {plain}");
        }
    }
}
