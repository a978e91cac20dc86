//! Where an inode's objects are in the layers: handles of directories, and files opened for their data.

use std::sync::Arc;

use super::Overlay;
use super::node::{Below, Key, Node, UpperAt};
use super::setup::UpperTree;
use super::stack::{LowerPos, Marks, face};
use crate::layer::{File, Handle};
use crate::vocab::dialect::Prefix;
use crate::vocab::handle::FileHandle;
use crate::vocab::{Access, Errno, Kind, Result, Stat};

/// Paths that move while they are followed are tried again, but not for ever.
const TRIES: u32 = 100;

impl Overlay {
    /// The writable layer.
    ///
    /// # Errors
    /// `EROFS` if there is none.
    pub(super) fn tree(&self) -> Result<&UpperTree> {
        self.upper.as_ref().ok_or(Errno::ROFS)
    }

    /// The handle of a directory's upper object.
    pub(super) fn upper_dir(&self, node: &Arc<Node>) -> Result<Handle> {
        for _ in 0..TRIES {
            if let Some(handle) = self.try_upper_dir(node)? {
                return Ok(handle);
            }
        }
        Err(Errno::STALE)
    }

    /// Climbs to the nearest open directory and opens downwards; `None` if something on the way was moved meanwhile.
    fn try_upper_dir(&self, node: &Arc<Node>) -> Result<Option<Handle>> {
        let mut missing: Vec<(Arc<Node>, Box<[u8]>, Key)> = Vec::new();
        let mut at = node.clone();
        let mut handle = loop {
            if Arc::ptr_eq(&at, &self.root) {
                break self.tree()?.root.clone();
            }
            if let Some(h) = self.dirs.get(&at.id) {
                break h;
            }
            let next = {
                let state = at.state.lock();
                let upper = state.upper.as_ref().ok_or(Errno::NOENT)?;
                if let UpperAt::Pinned(h) = &upper.at {
                    break h.clone();
                }
                let Some(link) = state.links().first() else { return Err(Errno::NOENT) };
                (link.parent.clone(), Box::from(&link.name[..]), upper.key)
            };
            missing.push((at, next.1, next.2));
            at = next.0;
        };
        for (dir, name, key) in missing.into_iter().rev() {
            let opened = match handle.open_dir(&name) {
                Ok(h) => h,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(e) => return Err(e),
            };
            let st = opened.stat(b"")?;
            if (st.dev, st.ino) != key {
                return Ok(None);
            }
            self.dirs.insert(dir.id, opened.clone());
            handle = opened;
        }
        Ok(Some(handle))
    }

    /// Works on a node's upper object by handle and name; its names stay as they are meanwhile. Not for callers that
    /// hold the `names` of one of its parents.
    pub(super) fn with_upper<T>(&self, node: &Arc<Node>, work: impl Fn(&Handle, &[u8]) -> Result<T>) -> Result<T> {
        if node.is_dir() {
            return work(&self.upper_dir(node)?, b"");
        }
        for _ in 0..TRIES {
            let (at, link) = {
                let state = node.state.lock();
                let at = state.upper.as_ref().ok_or(Errno::NOENT)?.at.clone();
                (at, state.links().first().cloned())
            };
            match (at, link) {
                (UpperAt::Pinned(handle), _) => return work(&handle, b""),
                (UpperAt::Index(name), _) => return work(self.index()?, &name),
                (UpperAt::Name, Some(link)) => {
                    let _names = link.parent.names();
                    let unmoved = {
                        let state = node.state.lock();
                        state.links().first().is_some_and(|l| l.is(&link.parent, &link.name))
                            && state.upper.as_ref().is_some_and(|u| matches!(u.at, UpperAt::Name))
                    };
                    if unmoved {
                        return work(&self.upper_dir(&link.parent)?, &link.name);
                    }
                }
                (UpperAt::Name, None) => {}
            }
        }
        Err(Errno::STALE)
    }

    /// Works on the topmost object of a node, whichever layer has it.
    pub(super) fn with_top<T>(&self, node: &Arc<Node>, work: impl Fn(&Handle, &[u8]) -> Result<T>) -> Result<T> {
        if node.has_upper() {
            return self.with_upper(node, work);
        }
        let (dir, other) = {
            let state = node.state.lock();
            let dir = if let Below::Dirs(dirs) = &state.below { face(dirs).cloned() } else { None };
            (dir, state.other())
        };
        match (dir, other) {
            (Some(dir), _) => work(&self.lower_handle(&dir)?, b""),
            (None, Some(other)) => self.with_lower(&other.pos, work),
            (None, None) => Err(Errno::NOENT),
        }
    }

    pub(super) fn with_lower<T>(&self, pos: &LowerPos, work: impl Fn(&Handle, &[u8]) -> Result<T>) -> Result<T> {
        work(&self.lower_handle(&pos.dir)?, &pos.name)
    }

    /// A node's data, open to read or to write; to write only once it was copied up.
    pub(super) fn data(&self, node: &Arc<Node>, access: Access) -> Result<Arc<File>> {
        if node.kind == Kind::Dir {
            return Err(Errno::ISDIR);
        }
        if node.kind != Kind::File {
            return Err(Errno::INVAL);
        }
        let write = access == Access::ReadWrite;
        if let Some(file) = self.files.get(&(node.id, write)) {
            return Ok(file);
        }
        // What is opened may be outdated by a copy-up before it is in the cache; so look again once it is there.
        loop {
            let upper = self.has_upper_data(node);
            let file = Arc::new(if upper {
                self.with_upper(node, |dir, name| dir.open_file(name, access))?
            } else if write {
                return Err(Errno::ROFS);
            } else {
                self.open_lower_data(node)?
            });
            self.files.insert((node.id, write), file.clone());
            if self.has_upper_data(node) == upper {
                return Ok(file);
            }
            self.files.remove(&(node.id, write));
        }
    }

    pub(super) fn has_upper_data(&self, node: &Node) -> bool {
        node.state.lock().upper.as_ref().is_some_and(|u| !u.metacopy)
    }

    /// The data that the lower layers have.
    pub(super) fn open_lower_data(&self, node: &Node) -> Result<File> {
        let other = node.state.lock().other().ok_or(Errno::IO)?;
        self.with_lower(&other.data.unwrap_or(other.pos), |dir, name| dir.open_file(name, Access::Read))
    }

    /// A node's files and handles in caches are no longer right.
    pub(super) fn forget_files(&self, node: &Node) {
        self.files.remove(&(node.id, false));
        self.files.remove(&(node.id, true));
    }

    /// The inode index.
    pub(super) fn index(&self) -> Result<&Handle> {
        self.tree()?.index.as_ref().ok_or(Errno::OPNOTSUPP)
    }

    /// Whether objects of this kind can carry private attributes: `user.*` are for files and directories only, and a plain
    /// upper has none.
    pub(super) fn can_mark(&self, kind: Kind) -> bool {
        !self.is_plain() && (self.prefix == Prefix::Trusted || matches!(kind, Kind::File | Kind::Dir))
    }

    /// The upper object that a lower hard link was copied up to, by any of its names.
    pub(super) fn indexed(&self, pos: &LowerPos) -> Result<Option<(Box<[u8]>, Stat, Marks)>> {
        let Some(index) = self.upper.as_ref().and_then(|u| u.index.as_ref()) else { return Ok(None) };
        let Some(handle) = self.with_lower(pos, |dir, name| dir.file_handle(name))? else { return Ok(None) };
        let name = handle.index_name();
        match index.stat(&name) {
            Ok(stat) if !stat.is_whiteout() => {
                let marks = self.marks(index, &name)?;
                Ok(Some((name.into(), stat, marks)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The name in the index of an upper object that says it is there.
    pub(super) fn index_of(&self, stat: &Stat, marks: &Marks) -> Result<Option<Box<[u8]>>> {
        let (Some(_), Some(origin)) = (marks.nlink, &marks.origin) else { return Ok(None) };
        let Some(index) = self.upper.as_ref().and_then(|u| u.index.as_ref()) else { return Ok(None) };
        let name = FileHandle::from_bytes(origin).index_name();
        match index.stat(&name) {
            Ok(found) if (found.dev, found.ino) == (stat.dev, stat.ino) => Ok(Some(name.into())),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A name in the work directory that nothing has.
    pub(super) fn temp_name(&self) -> Vec<u8> {
        let n = self.temp.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("#{n:x}").into_bytes()
    }
}
