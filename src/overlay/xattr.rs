//! Extended attributes. The union's own are hidden; a program's that look like them are kept under an escaped name.

use std::sync::Arc;

use super::Overlay;
use super::copy_up::Want;
use super::node::{Below, Node};
use super::readdir::entries;
use super::stack::face;
use crate::layer::Handle;
use crate::vocab::acl;
use crate::vocab::dialect::STORED_STATS;
use crate::vocab::{Errno, Kind, Result};

impl Overlay {
    /// getxattr(2).
    ///
    /// # Errors
    /// `ENODATA` if there is no such attribute.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        if self.is_hidden(name) {
            return Err(Errno::NODATA);
        }
        let stored = self.prefix.escape(name);
        let value = self.with_top(&node, |dir, at| dir.getxattr(at, &stored))?.ok_or(Errno::NODATA)?;
        if acl::is_acl(name) && !self.is_mapped_below(&node) { self.shown_acl(value) } else { Ok(value) }
    }

    /// listxattr(2).
    ///
    /// # Errors
    /// What the layer answers.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        let node = self.node(ino)?;
        let all = self.with_top(&node, |dir, at| dir.listxattr(at))?;
        Ok(all.iter().filter(|a| !self.is_hidden(a)).filter_map(|a| self.prefix.unescape(a)).collect())
    }

    /// setxattr(2); `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
    ///
    /// # Errors
    /// As setxattr(2); `EROFS` without an upper.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let node = self.node(ino)?;
        // What is a file on disk may stand for something else.
        let not_for_users = !matches!(node.kind, Kind::File | Kind::Dir) && name.starts_with(b"user.");
        if self.is_hidden(name) || not_for_users {
            return Err(Errno::PERM);
        }
        self.copy_up(&node, Want::Metadata)?;
        let stored = self.prefix.escape(name);
        let mapped = if acl::is_acl(name) { Some(self.stored_acl(value)?) } else { None };
        let value = mapped.as_deref().unwrap_or(value);
        self.with_upper(&node, |dir, at| dir.setxattr(at, &stored, value, flags))?;
        if name == acl::DEFAULT {
            node.set_default_acl(None);
        }
        Ok(())
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// `ENODATA` if there is no such attribute; `EROFS` without an upper.
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        let node = self.node(ino)?;
        self.tree()?;
        // Nothing is copied up for the sake of an attribute that is not there.
        match self.getxattr(ino, name) {
            // An ACL that says no more than the mode is none: it can always be removed (acl(5)).
            Err(Errno::NODATA) if acl::is_acl(name) => return Ok(()),
            found => drop(found?),
        }
        self.copy_up(&node, Want::Metadata)?;
        let stored = self.prefix.escape(name);
        self.with_upper(&node, |dir, at| dir.removexattr(at, &stored))?;
        if name == acl::DEFAULT {
            node.set_default_acl(None);
        }
        Ok(())
    }

    /// Whether every layer is on a disk of this machine, or in its memory: no other machine and no other daemon is waited for.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Whether nothing in the view can change while it is mounted.
    pub fn is_fixed(&self) -> bool {
        self.upper.is_none() && !self.config.live_lowers
    }

    /// Whether an object of a layer, shown or hidden by another, has an attribute that a program could see. All of
    /// them are looked at until one has, or `stop` says to give up (which counts as one).
    ///
    /// # Errors
    /// What the layers answer.
    pub fn has_xattrs(&self, stop: &dyn Fn() -> bool) -> Result<bool> {
        let has = |dir: &Handle, name: &[u8]| -> Result<bool> {
            let all = dir.listxattr(name)?;
            Ok(all.iter().any(|a| !self.is_hidden(a) && self.prefix.unescape(a).is_some()))
        };
        let upper = self.upper.iter().map(|upper| Ok(upper.root.clone()));
        for root in upper.chain(self.layers.iter().map(|layer| self.lower_handle(&layer.root))) {
            let root = root?;
            if has(&root, b"")? {
                return Ok(true);
            }
            // Directories to come are held by their parent's handle and their name, so few are open at a time.
            let mut left: Vec<(Arc<Handle>, Vec<u8>)> = Vec::new();
            let mut next = Some(Arc::new(root));
            while let Some(dir) = next {
                for (name, _, kind) in entries(&dir)? {
                    if stop() || has(&dir, &name)? {
                        return Ok(true);
                    }
                    let kind = kind.map_or_else(|| dir.stat(&name).map(|st| st.kind), Ok)?;
                    if kind == Kind::Dir {
                        left.push((dir.clone(), name));
                    }
                }
                next = left.pop().map(|(parent, name)| parent.open_dir(&name).map(Arc::new)).transpose()?;
            }
        }
        Ok(false)
    }

    /// An ACL of a layer as the view shows it.
    fn shown_acl(&self, value: Vec<u8>) -> Result<Vec<u8>> {
        let ids = &self.config.ids;
        if ids.is_identity() {
            return Ok(value);
        }
        acl::map(&value, |id| Some(ids.uid.shown(id)), |id| Some(ids.gid.shown(id)))
    }

    /// An ACL of the view as a layer holds it; `EINVAL` for somebody whom the id map does not know.
    pub(super) fn stored_acl(&self, value: &[u8]) -> Result<Vec<u8>> {
        let ids = &self.config.ids;
        if ids.is_identity() {
            return Ok(value.to_vec());
        }
        acl::map(value, |id| ids.uid.stored(id), |id| ids.gid.stored(id))
    }

    /// Whether a node is in a lower layer only, and one whose ids are the view's already.
    fn is_mapped_below(&self, node: &Node) -> bool {
        let state = node.state.lock();
        let layer = match &state.below {
            _ if state.upper.is_some() => return false,
            Below::Dirs(dirs) => face(dirs).map(|d| d.layer),
            Below::Here { dir, .. } => Some(dir.layer),
            Below::There(other) => Some(other.pos.dir.layer),
            Below::Nothing => None,
        };
        layer.and_then(|l| self.layers.get(l)).is_some_and(|l| l.mapped)
    }

    fn is_hidden(&self, name: &[u8]) -> bool {
        let stores = || self.config.stored_owners || self.layers.iter().any(|l| l.stored_owners);
        STORED_STATS.contains(&name) && stores()
    }

    /// Whether new objects in this directory inherit an ACL, asked once.
    pub(super) fn has_default_acl(&self, dir: &Arc<Node>) -> Result<bool> {
        if let Some(known) = dir.default_acl() {
            return Ok(known);
        }
        let has = self.with_top(dir, |h, at| h.getxattr(at, acl::DEFAULT))?.is_some();
        dir.set_default_acl(Some(has));
        Ok(has)
    }
}
