//! Metadata of an inode.

use std::sync::Arc;

use super::copy_up::Want;
use super::node::{Below, Node};
use super::stack::face;
use super::{Attr, Overlay, SetAttr};
use crate::layer::Handle;
use crate::vocab::dialect::{self, STORED_STATS};
use crate::vocab::ids::IdMap;
use crate::vocab::owner::StoredStat;
use crate::vocab::set_id;
use crate::vocab::{Access, Errno, Kind, Result, SetTime, Space, Stat, Timestamp};

/// Rights that a program gives its user, capabilities(7).
const CAPABILITY: &[u8] = b"security.capability";

impl Overlay {
    /// stat(2).
    ///
    /// # Errors
    /// `ESTALE` for an unknown number, and what the layers answer.
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        self.node_attr(&self.node(ino)?)
    }

    /// When an inode was made: a change does not make it anew, whichever layer has it then. `None` where nobody knows.
    ///
    /// # Errors
    /// As [`getattr`](Self::getattr).
    pub fn birth(&self, ino: u64) -> Result<Option<Timestamp>> {
        let node = self.node(ino)?;
        if let Some(dir) = face(&node.lower_dirs()) {
            return self.lower_handle(dir)?.birth(b"");
        }
        let other = node.state.lock().other();
        if let Some(other) = other {
            return self.with_lower(&other.pos, |dir, name| dir.birth(name));
        }
        self.with_upper(&node, |dir, name| {
            let was = dir.getxattr(name, &self.prefix.attr(dialect::INO))?;
            match was.and_then(|value| dialect::parse_identity(&value)?.1) {
                None => dir.birth(name),
                born => Ok(born),
            }
        })
    }

    pub(super) fn node_attr(&self, node: &Arc<Node>) -> Result<Attr> {
        let stat = if node.has_upper() {
            let stat = self.with_upper(node, |dir, name| self.upper_stat(dir, name))?;
            if node.state.lock().upper.as_ref().is_some_and(|u| u.metacopy) {
                Stat { blocks: self.lower_stat(node)?.blocks, ..stat }
            } else {
                stat
            }
        } else if !node.is_dir() {
            self.lower_stat(node)?
        } else {
            let layer = face(&node.lower_dirs()).map_or(0, |d| d.layer);
            let stored = self.layers.get(layer).is_some_and(|l| l.stored_owners);
            self.with_top(node, |dir, name| {
                let marks = if stored { self.marks(dir, name)?.stored } else { None };
                Ok(self.shown_lower(layer, dir.stat(name)?, marks.as_ref()))
            })?
        };
        Ok(self.attr_of(node, stat))
    }

    /// Who owns an object by what is remembered, where all are shown as somebody else's: user and group. `None` in a view
    /// that remembers nobody.
    ///
    /// # Errors
    /// `ENOENT`, and what the layer answers.
    pub fn remembered_owner(&self, ino: u64) -> Result<Option<(u32, u32)>> {
        if !self.config.stored_owners {
            return Ok(None);
        }
        let node = self.node(ino)?;
        let stat = if node.has_upper() {
            self.with_upper(&node, |dir, name| self.stored_stat(dir, name))?
        } else {
            let stores = self.layers.iter().any(|l| l.stored_owners);
            self.with_top(&node, |dir, name| {
                let stored = if stores { self.marks(dir, name)?.stored } else { None };
                Ok(self.on_disk(dir.stat(name)?, stored.as_ref()))
            })?
        };
        Ok(Some((stat.uid, stat.gid)))
    }

    /// The stat of what the lowers have of a non-directory, as the view shows it, but for inode and link numbers.
    pub(super) fn lower_stat(&self, node: &Node) -> Result<Stat> {
        let other = node.state.lock().other().ok_or(Errno::NOENT)?;
        let layer = other.pos.dir.layer;
        let stored = self.layers.get(layer).is_some_and(|l| l.stored_owners);
        let mut stat = self.with_lower(&other.pos, |dir, name| {
            let marks = if stored { self.marks(dir, name)?.stored } else { None };
            let mut stat = dir.stat(name)?;
            if other.device {
                stat.kind = Kind::Char;
            }
            Ok(self.shown_lower(layer, stat, marks.as_ref()))
        })?;
        if let Some(data) = &other.data {
            stat.blocks = self.with_lower(data, |dir, name| dir.stat(name))?.blocks;
        }
        Ok(Stat { nlink: other.nlink, ..stat })
    }

    /// The stat of an upper object as the view shows it, but for inode and link numbers.
    pub(super) fn upper_stat(&self, dir: &Handle, name: &[u8]) -> Result<Stat> {
        let (stat, stored) = self.upper_on_disk(dir, name)?;
        Ok(self.shown(stat, stored.as_ref()))
    }

    fn upper_on_disk(&self, dir: &Handle, name: &[u8]) -> Result<(Stat, Option<StoredStat>)> {
        let stat = dir.stat(name)?;
        for attr in STORED_STATS.into_iter().filter(|_| self.config.stored_owners) {
            if let Some(value) = dir.getxattr(name, attr)? {
                return Ok((stat, StoredStat::parse(&value)));
            }
        }
        Ok((stat, None))
    }

    /// The same, with the ids that are stored.
    pub(super) fn stored_stat(&self, dir: &Handle, name: &[u8]) -> Result<Stat> {
        let (stat, stored) = self.upper_on_disk(dir, name)?;
        Ok(self.on_disk(stat, stored.as_ref()))
    }

    /// The attributes of a node whose topmost object has this stat.
    pub(super) fn attr_of(&self, node: &Node, stat: Stat) -> Attr {
        let state = node.state.lock();
        let merged = match &state.below {
            Below::Dirs(dirs) => dirs.len() + usize::from(state.upper.is_some()) > 1,
            _ => false,
        };
        self.attr_of_locked(node, stat, state.nlink, merged)
    }

    fn attr_of_locked(&self, node: &Node, mut stat: Stat, nlink: Option<u32>, merged: bool) -> Attr {
        stat.ino = node.ino;
        // That of a file which stands for a device is not the disk's.
        stat.kind = node.kind;
        stat.nlink = match (merged, nlink) {
            // As kernel overlayfs: nobody counts the subdirectories of all layers; find(1) knows what 1 means.
            (true, None) => 1,
            (_, Some(n)) => n,
            (false, None) => stat.nlink,
        };
        Attr { ino: node.ino, stat }
    }

    /// chmod(2), chown(2), truncate(2) and utimensat(2) in one: metadata is copied up without the data.
    ///
    /// # Errors
    /// `EROFS` without an upper; what the upper answers.
    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        let node = self.node(ino)?;
        self.tree()?;
        if let Some(size) = set.size {
            self.truncate(&node, size)?;
        }
        let metadata = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        if metadata || set.atime != SetTime::Keep || set.mtime != SetTime::Keep {
            self.copy_up(&node, Want::Metadata)?;
            self.with_upper(&node, |dir, name| self.apply(dir, name, node.kind, set))?;
        }
        self.node_attr(&node)
    }

    fn truncate(&self, node: &Arc<Node>, size: u64) -> Result<()> {
        match node.kind {
            Kind::File => {}
            Kind::Dir => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        self.copy_up(node, Want::Data { upto: size })?;
        self.data(node, Access::ReadWrite)?.truncate(size)
    }

    /// Sets what `set` says on an upper object, but for its size.
    pub(super) fn apply(&self, dir: &Handle, name: &[u8], kind: Kind, set: &SetAttr) -> Result<()> {
        if set.uid.is_some() || set.gid.is_some() || (self.config.stored_owners && set.mode.is_some()) {
            self.own(dir, name, set.uid, set.gid, set.mode)?;
        }
        if let Some(mode) = set.mode
            && kind != Kind::Symlink
            && !self.config.stored_owners
        {
            dir.chmod(name, mode & 0o7777)?;
        }
        if set.atime != SetTime::Keep || set.mtime != SetTime::Keep {
            dir.utimens(name, set.atime, set.mtime)?;
        }
        Ok(())
    }

    /// Gives an upper object to somebody of the view.
    fn own(&self, dir: &Handle, name: &[u8], uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) -> Result<()> {
        let ids = &self.config.ids;
        let stored = |map: &IdMap, id: Option<u32>| id.map(|id| map.stored(id).ok_or(Errno::INVAL)).transpose();
        let mut mode = mode;
        if self.config.stored_owners && (uid.is_some() || gid.is_some()) && mode.is_none() {
            mode = self.without_rights(dir, name)?;
        }
        self.give(dir, name, stored(&ids.uid, uid)?, stored(&ids.gid, gid)?, mode)
    }

    /// What chown(2) of a file takes away, where it is not the file system's; the mode that is left, if that changes.
    fn without_rights(&self, dir: &Handle, name: &[u8]) -> Result<Option<u32>> {
        let now = self.stored_stat(dir, name)?;
        if now.kind != Kind::File {
            return Ok(None);
        }
        match dir.removexattr(name, CAPABILITY) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
        Ok(set_id::without(now.mode))
    }

    /// Gives an upper object to a stored id, or remembers that it was given where the file system can't.
    pub(super) fn give(
        &self,
        dir: &Handle,
        name: &[u8],
        uid: Option<u32>,
        gid: Option<u32>,
        mode: Option<u32>,
    ) -> Result<()> {
        if !self.config.stored_owners {
            return match dir.chown(name, uid, gid) {
                // Another owner is shown anyway.
                Err(Errno::PERM) if self.config.ids.is_squashed() => Ok(()),
                r => r,
            };
        }
        let now = self.stored_stat(dir, name)?;
        let wanted = Stat {
            uid: uid.unwrap_or(now.uid),
            gid: gid.unwrap_or(now.gid),
            mode: mode.map_or(now.mode, |m| m & 0o7777),
            ..now
        };
        self.store_owner(dir, name, &wanted)
    }

    /// Remembers owner, mode and type of an upper object in its attribute, as far as it can have one.
    pub(super) fn store_owner(&self, dir: &Handle, name: &[u8], wanted: &Stat) -> Result<()> {
        let on_disk = dir.stat(name)?;
        if matches!(on_disk.kind, Kind::File | Kind::Dir) {
            // The daemon itself must be able to work on it, whoever owns it in the view.
            let least = if on_disk.kind == Kind::Dir { 0o700 } else { 0o600 };
            dir.chmod(name, wanted.mode & 0o777 | least)?;
            return self.write_owner(dir, name, &StoredStat::of(wanted));
        }
        let now = self.stored_stat(dir, name)?;
        if (wanted.uid, wanted.gid) == (now.uid, now.gid) {
            return if on_disk.kind == Kind::Symlink { Ok(()) } else { dir.chmod(name, wanted.mode) };
        }
        // A link or a pipe takes no attribute of users; its owner is not remembered.
        log::debug!("{}: the owner of this {:?} can't be kept", String::from_utf8_lossy(name), on_disk.kind);
        Ok(())
    }

    /// Writes down whose an upper object is.
    pub(super) fn write_owner(&self, dir: &Handle, name: &[u8], stored: &StoredStat) -> Result<()> {
        let attr = self.config.stored_attr;
        dir.setxattr(name, attr, &stored.format(), 0)?;
        // Another tool's, which would count instead.
        for other in STORED_STATS.into_iter().take_while(|a| *a != attr) {
            match dir.removexattr(name, other) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// statfs(2): of the upper, or of the top layer in a read-only view.
    ///
    /// # Errors
    /// What the layer answers.
    pub fn statfs(&self) -> Result<Space> {
        match (&self.upper, self.layers.first()) {
            (Some(upper), _) => upper.root.space(),
            (None, Some(layer)) => self.lower_handle(&layer.root)?.space(),
            (None, None) => Ok(Space::default()),
        }
    }
}
