//! Extended attributes. The union's own are hidden; a program's that look like them are kept under an escaped name.

use super::Overlay;
use super::copy_up::Want;
use crate::vocab::dialect::STORED_STATS;
use crate::vocab::{Errno, Kind, Result};

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

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
        self.with_top(&node, |dir, at| dir.getxattr(at, &stored))?.ok_or(Errno::NODATA)
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
        self.with_upper(&node, |dir, at| dir.setxattr(at, &stored, value, flags))?;
        if name == DEFAULT_ACL {
            node.state.lock().default_acl = None;
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
        self.getxattr(ino, name)?;
        self.copy_up(&node, Want::Metadata)?;
        let stored = self.prefix.escape(name);
        self.with_upper(&node, |dir, at| dir.removexattr(at, &stored))?;
        if name == DEFAULT_ACL {
            node.state.lock().default_acl = None;
        }
        Ok(())
    }

    fn is_hidden(&self, name: &[u8]) -> bool {
        let stores = || self.config.stored_owners || self.layers.iter().any(|l| l.stored_owners);
        STORED_STATS.contains(&name) && stores()
    }

    /// Whether new objects in this directory inherit an ACL, asked once.
    pub(super) fn has_default_acl(&self, dir: &std::sync::Arc<super::node::Node>) -> Result<bool> {
        if let Some(known) = dir.state.lock().default_acl {
            return Ok(known);
        }
        let has = self.with_top(dir, |h, at| h.getxattr(at, DEFAULT_ACL))?.is_some();
        dir.state.lock().default_acl = Some(has);
        Ok(has)
    }
}
