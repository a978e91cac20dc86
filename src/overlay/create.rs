//! New names: mknod, mkdir, symlink, link.

use std::sync::Arc;

use super::copy_up::Want;
use super::lookup::{Found, InUpper};
use super::node::{Below, Node, UpperAt};
use super::stack::Marks;
use super::{Attr, Caller, Overlay};
use crate::layer::{Handle, Rename};
use crate::vocab::{Errno, Kind, Result, Stat, acl};

/// What is to be made.
pub(super) struct New<'a> {
    pub(super) caller: &'a Caller,
    /// Who is to own it, as stored.
    pub(super) uid: u32,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) rdev: u64,
    pub(super) target: &'a [u8],
}

impl Overlay {
    /// mknod(2): a regular file, fifo, socket or device node. The caller holds a reference to it.
    ///
    /// # Errors
    /// As mknod(2).
    pub fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> Result<Attr> {
        if matches!(kind, Kind::Dir | Kind::Symlink) {
            return Err(Errno::INVAL);
        }
        self.make(parent, name, &New { caller, uid: caller.uid, kind, mode, rdev, target: b"" })
    }

    /// mkdir(2). The caller holds a reference to it.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr> {
        self.make(parent, name, &New { caller, uid: caller.uid, kind: Kind::Dir, mode, rdev: 0, target: b"" })
    }

    /// symlink(2). The caller holds a reference to it.
    ///
    /// # Errors
    /// As symlink(2).
    pub fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr> {
        self.make(parent, name, &New { caller, uid: caller.uid, kind: Kind::Symlink, mode: 0o777, rdev: 0, target })
    }

    fn make(&self, parent: u64, name: &[u8], new: &New<'_>) -> Result<Attr> {
        self.check_name(name)?;
        let parent = self.dir_node(parent)?;
        self.copy_up(&parent, Want::Metadata)?;
        let names = parent.names_mut();
        if names.removed() {
            return Err(Errno::NOENT);
        }
        let dir = self.upper_dir(&parent)?;
        let inherits = self.has_default_acl(&parent)?;
        let new = &New { uid: self.config.ids.uid.stored_for(new.caller.uid), ..*new };
        let device = new.kind.is_whiteout(new.rdev);
        let mut mode = new.mode & 0o7777;
        if !inherits && new.kind != Kind::Symlink {
            mode &= !new.caller.umask;
        }
        let simple = !self.config.stored_owners && !self.is_plain() && !device;
        let alone = simple && self.in_lower(&parent, name)?.is_none();
        let stat = match if alone { self.make_alone(&dir, name, new, mode)? } else { None } {
            Some(stat) => stat,
            None => {
                let over_whiteout = self.vacant(&parent, names.removed(), name)?;
                if device {
                    self.set_devices(&parent, &dir)?;
                }
                self.make_among(&dir, name, new, mode, inherits, over_whiteout)?;
                dir.stat(name)?
            }
        };
        let stored = if self.config.stored_owners || device { self.marks(&dir, name)? } else { Marks::default() };
        let upper = Some((stat, stored));
        let found = Found { upper, named: true, index: None, lower: None, since: None };
        let node = self.node_of(&parent, name, &found)?;
        self.listed(&parent, name, &node);
        let shown = if self.config.stored_owners { self.upper_stat(&dir, name)? } else { self.shown(stat, None) };
        let attr = self.attr_of(&node, shown);
        self.inodes.claim(&node);
        Ok(attr)
    }

    /// Makes it where no lower has the name, so that making it tells whether it is taken; `None` if it is, perhaps by a
    /// whiteout that hides nothing.
    fn make_alone(&self, dir: &Handle, name: &[u8], new: &New<'_>, mode: u32) -> Result<Option<Stat>> {
        match self.build_new(dir, name, new, mode) {
            Err(Errno::EXIST) => return Ok(None),
            built => built?,
        }
        let settle = || {
            let fresh = dir.stat(name)?;
            if (fresh.uid, fresh.gid) == (new.uid, self.config.ids.gid.stored_for(new.caller.gid)) {
                // Whatever the directory passes on, the disk has passed on.
                return Ok(fresh);
            }
            let (mode, gid) = self.passed_on(dir, new, mode)?;
            self.settle(dir, name, &fresh, new, mode, gid)?;
            dir.stat(name)
        };
        let settled = settle();
        if settled.is_err() {
            unmake(dir, name, new.kind);
        }
        settled.map(Some)
    }

    /// Makes it where names are below, too, or whiteouts.
    fn make_among(
        &self,
        dir: &Handle,
        name: &[u8],
        new: &New<'_>,
        mode: u32,
        inherits: bool,
        over_whiteout: bool,
    ) -> Result<()> {
        let (mode, gid) = self.passed_on(dir, new, mode)?;
        if over_whiteout && !self.is_plain() {
            return self.make_over_whiteout(dir, name, new, mode, gid, inherits);
        }
        if over_whiteout {
            self.make_way(dir, name)?;
        }
        self.build_new(dir, name, new, mode)?;
        let settled = dir.stat(name).and_then(|fresh| self.settle(dir, name, &fresh, new, mode, gid)).and_then(|()| {
            // What the whiteout hid may be a directory, too.
            if over_whiteout && new.kind == Kind::Dir { self.make_opaque(dir, name) } else { Ok(()) }
        });
        if settled.is_err() {
            unmake(dir, name, new.kind);
        } else if over_whiteout {
            self.take_whiteout(dir, name);
        }
        settled
    }

    /// Mode and group of something new, with what a directory with the set-group-id bit passes on.
    pub(super) fn passed_on(&self, dir: &Handle, new: &New<'_>, mode: u32) -> Result<(u32, u32)> {
        let above = self.stored_stat(dir, b"")?;
        Ok(match (above.mode & 0o2000 != 0, new.kind) {
            (true, Kind::Dir) => (mode | 0o2000, above.gid),
            (true, _) => (mode, above.gid),
            (false, _) => (mode, self.config.ids.gid.stored_for(new.caller.gid)),
        })
    }

    /// Whether a name is free, and a whiteout in the upper.
    fn vacant(&self, parent: &Arc<Node>, removed: bool, name: &[u8]) -> Result<bool> {
        if removed {
            return Err(Errno::NOENT);
        }
        match self.in_upper(parent, name)? {
            InUpper::Object(..) => Err(Errno::EXIST),
            InUpper::Whiteout => Ok(true),
            InUpper::Nothing if self.in_lower(parent, name)?.is_some() => Err(Errno::EXIST),
            InUpper::Nothing => Ok(false),
        }
    }

    fn build_new(&self, dir: &Handle, name: &[u8], new: &New<'_>, mode: u32) -> Result<()> {
        match new.kind {
            Kind::Dir => dir.mkdir(name, mode),
            Kind::Symlink => dir.symlink(new.target, name),
            kind if kind.is_whiteout(new.rdev) => self.build_device(dir, name, mode),
            kind => match dir.mknod(name, kind, mode, new.rdev) {
                Err(Errno::PERM) if self.config.stored_owners => dir.mknod(name, Kind::File, mode, 0),
                r => r,
            },
        }
    }

    /// Gives a new object, which is `fresh`, to its owner.
    pub(super) fn settle(
        &self,
        dir: &Handle,
        name: &[u8],
        fresh: &Stat,
        new: &New<'_>,
        mode: u32,
        gid: u32,
    ) -> Result<()> {
        if self.config.stored_owners {
            return self.settle_stored(dir, name, fresh, new, mode, gid);
        }
        if (fresh.uid, fresh.gid) != (new.uid, gid) {
            self.give(dir, name, Some(new.uid), Some(gid), None)?;
            if mode & 0o6000 != 0 && new.kind != Kind::Symlink {
                // Giving it away took these bits.
                dir.chmod(name, (fresh.mode & 0o1777) | (mode & 0o6000))?;
            }
        }
        Ok(())
    }

    fn settle_stored(
        &self,
        dir: &Handle,
        name: &[u8],
        on_disk: &Stat,
        new: &New<'_>,
        mode: u32,
        gid: u32,
    ) -> Result<()> {
        if !matches!(on_disk.kind, Kind::File | Kind::Dir) {
            return Ok(());
        }
        let stored = crate::vocab::owner::StoredStat {
            uid: new.uid,
            gid,
            mode: if new.kind == Kind::Symlink { 0o777 } else { mode },
            kind: Some(new.kind),
            rdev: new.rdev,
        };
        let least = if on_disk.kind == Kind::Dir { 0o700 } else { 0o600 };
        dir.chmod(name, mode & 0o777 | least)?;
        self.write_owner(dir, name, &stored)
    }

    /// Makes it in the work directory and puts it in the whiteout's place; a directory is opaque, since what the
    /// whiteout hid may be one, too.
    fn make_over_whiteout(
        &self,
        dir: &Handle,
        name: &[u8],
        new: &New<'_>,
        mode: u32,
        gid: u32,
        inherits: bool,
    ) -> Result<()> {
        let work = &self.tree()?.work;
        let temp = self.temp_name();
        // An ACL is inherited from the directory a thing is made in: one like the real one.
        let nest = if inherits { Some(self.temp_name()) } else { None };
        let place = match &nest {
            None => work.clone(),
            Some(nest) => {
                work.mkdir(nest, 0o700)?;
                let inside = work.open_dir(nest)?;
                if let Some(acl) = dir.getxattr(b"", acl::DEFAULT)? {
                    inside.setxattr(b"", acl::DEFAULT, &acl, 0)?;
                }
                inside
            }
        };
        let r = (|| {
            self.build_new(&place, &temp, new, mode)?;
            self.settle(&place, &temp, &place.stat(&temp)?, new, mode, gid)?;
            if new.kind == Kind::Dir {
                self.make_opaque(&place, &temp)?;
                place.rename(&temp, dir, name, Rename::Exchange)?;
                // It is made; the whiteout that came out is cleared at the latest at the next mount.
                if let Err(e) = place.unlink(&temp) {
                    log::warn!("a whiteout is left in the work directory: {e}");
                }
                Ok(())
            } else {
                place.rename(&temp, dir, name, Rename::Replace)
            }
        })();
        if r.is_err() || nest.is_some() {
            // Whatever is left goes; at the latest at the next mount.
            let cleared = if nest.is_some() { place.clear() } else { remove_any(&place, &temp) };
            let cleared = cleared.and_then(|()| nest.as_ref().map_or(Ok(()), |n| work.rmdir(n)));
            if let Err(e) = cleared {
                log::warn!("something is left in the work directory: {e}");
            }
        }
        r
    }

    /// link(2): one more name for an inode. The caller holds one more reference to it.
    ///
    /// # Errors
    /// As link(2).
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        self.check_name(name)?;
        let (node, parent) = (self.node(ino)?, self.dir_node(parent)?);
        if node.is_dir() {
            return Err(Errno::PERM);
        }
        self.copy_up(&parent, Want::Metadata)?;
        self.copy_up(&node, Want::Metadata)?;
        if !self.keep_redirect(&node)? {
            // It has lost its last name; those that are counted still are covered by something else.
            if self.node_attr(&node)?.stat.nlink == 0 {
                let names = parent.names();
                self.vacant(&parent, names.removed, name)?;
                return Err(Errno::NOENT);
            }
            // Nothing would lead to its data below.
            self.copy_up(&node, Want::ALL_DATA)?;
        }
        let pinned = self.with_upper(&node, |dir, at| dir.pin(at))?;
        let names = parent.names_mut();
        let over_whiteout = self.vacant(&parent, names.removed(), name)?;
        let dir = self.upper_dir(&parent)?;
        let (lower, key, device) = {
            let state = node.state.lock();
            let upper = state.upper.as_ref();
            (!matches!(state.below, Below::Nothing), upper.map(|u| u.key), upper.is_some_and(|u| u.device))
        };
        if lower || key.is_none_or(|k| self.inodes.number(k) != node.ino) {
            self.set_impure(&parent, &dir)?;
        }
        if device {
            self.set_devices(&parent, &dir)?;
        }
        if over_whiteout && self.is_plain() {
            self.make_way(&dir, name)?;
            pinned.link(b"", &dir, name)?;
            self.take_whiteout(&dir, name);
        } else if over_whiteout {
            let work = &self.tree()?.work;
            let temp = self.temp_name();
            pinned.link(b"", work, &temp)?;
            let r = work.rename(&temp, &dir, name, Rename::Replace);
            self.discard_unless(r, &temp, node.kind)?;
        } else {
            pinned.link(b"", &dir, name)?;
        }
        {
            let mut state = node.state.lock();
            state.nlink = state.nlink.map(|n| n + 1);
            if let Some(upper) = state.upper.as_deref_mut()
                && matches!(upper.at, UpperAt::Pinned(_))
            {
                upper.at = UpperAt::Name;
            }
        }
        node.add_link(&parent, name);
        self.listed(&parent, name, &node);
        drop(names);
        self.claimed(&node)
    }
}

impl Overlay {
    /// A name that something new may have.
    pub(super) fn check_name(&self, name: &[u8]) -> Result<()> {
        match name {
            b"" => Err(Errno::NOENT),
            b"." | b".." => Err(Errno::EXIST),
            _ if name.len() > 255 => Err(Errno::NAMETOOLONG),
            _ if name.contains(&b'/') || name.contains(&0) || self.is_reserved(name) => Err(Errno::INVAL),
            _ => Ok(()),
        }
    }
}

/// Takes away what could not be finished.
fn unmake(dir: &Handle, name: &[u8], kind: Kind) {
    let undone = if kind == Kind::Dir { dir.rmdir(name) } else { dir.unlink(name) };
    if let Err(e) = undone {
        log::warn!("{} was made by halves and can't be removed: {e}", String::from_utf8_lossy(name));
    }
}

fn remove_any(dir: &Handle, name: &[u8]) -> Result<()> {
    match dir.unlink(name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => match dir.rmdir(name) {
            Err(Errno::NOENT) => Ok(()),
            r => r,
        },
        Err(e) => Err(e),
    }
}
