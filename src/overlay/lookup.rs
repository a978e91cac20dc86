//! A name of the view to an inode.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::links::{Link, Links};
use super::node::{Below, Key, Node, State, Upper, UpperAt};
use super::stack::{Lower, Marks, NEWER};
use super::{Attr, Overlay};
use crate::sys;
use crate::vocab::{Errno, Kind, Result, Stat};

/// What is read again when it was changed meanwhile; not for ever.
const TRIES: u32 = 100;

/// So many inodes went: time to tidy up.
const MANY: usize = 1 << 15;

/// What a name is in the view, and in which layers.
#[derive(Debug)]
pub(super) struct Found {
    /// In the upper, with its marks.
    pub(super) upper: Option<(Stat, Marks)>,
    /// The upper has it under this very name (and not in the index alone).
    pub(super) named: bool,
    /// In the index, under this name: the upper object of a lower hard link.
    pub(super) index: Option<Box<[u8]>>,
    /// Below; for a non-directory of the upper only where that says so.
    pub(super) lower: Option<Lower>,
    /// The moment before it was read; `None` if nobody else can have changed it since.
    pub(super) since: Option<u64>,
}

/// What the upper has under a name.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives for one lookup; a box would cost each of them an allocation")]
pub(super) enum InUpper {
    Nothing,
    Whiteout,
    Object(Stat, Marks),
}

impl Overlay {
    /// The node that the kernel calls `ino`.
    ///
    /// # Errors
    /// `ESTALE` for a number nobody knows.
    pub(super) fn node(&self, ino: u64) -> Result<Arc<Node>> {
        if ino == self.root.ino { Ok(self.root.clone()) } else { self.inodes.get(ino).ok_or(Errno::STALE) }
    }

    /// The directory that the kernel calls `ino`.
    pub(super) fn dir_node(&self, ino: u64) -> Result<Arc<Node>> {
        let node = self.node(ino)?;
        if node.is_dir() { Ok(node) } else { Err(Errno::NOTDIR) }
    }

    /// Looks a name up; the caller holds one more reference to the inode until it is [forgotten](Self::forget).
    ///
    /// # Errors
    /// `ENOENT`, and what the layers answer.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        let parent = self.dir_node(parent)?;
        let guard = parent.names();
        if guard.removed {
            return Err(Errno::NOENT);
        }
        let (node, attr) = self.look(&parent, name)?.ok_or(Errno::NOENT)?;
        drop(guard);
        self.inodes.claim(&node);
        Ok(attr)
    }

    /// Gives back `count` references to an inode. Whether there are more.
    pub fn forget(&self, ino: u64, count: u64) -> bool {
        let held = self.inodes.forget(ino, count);
        self.let_go();
        held
    }

    /// Caches let go of what belongs to inodes that nobody refers to any more.
    pub(super) fn let_go(&self) {
        let gone = self.inodes.take_gone();
        self.tidy_after(gone.len());
        for id in gone {
            self.dirs.remove(&id);
            self.listings.remove(&id);
            self.files.remove(&(id, false));
            self.files.remove(&(id, true));
        }
    }

    /// Once many inodes went, memory goes back to the system, too: a walk must not cost for ever.
    fn tidy_after(&self, gone: usize) {
        let before = self.forgotten.fetch_add(gone, Ordering::Relaxed);
        if before / MANY != (before + gone) / MANY {
            // Most are of directories that went; each keeps a page of the allocator's from going back.
            self.names.clear();
            self.inodes.shrink();
            sys::alloc::give_back();
        }
    }

    /// The node of a name and its metadata. The caller holds `parent.names`.
    pub(super) fn look(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<(Arc<Node>, Attr)>> {
        let Some(found) = self.resolve(parent, name)? else { return Ok(None) };
        let node = self.node_of(parent, name, &found)?;
        let attr = self.found_attr(&node, &found)?;
        Ok(Some((node, attr)))
    }

    /// The node of a name. The caller holds `parent.names`.
    pub(super) fn peek(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<Arc<Node>>> {
        match self.resolve(parent, name)? {
            Some(found) => self.node_of(parent, name, &found).map(Some),
            None => Ok(None),
        }
    }

    fn found_attr(&self, node: &Arc<Node>, found: &Found) -> Result<Attr> {
        let (dir_lower, copied) = {
            let state = node.state.lock();
            (matches!(state.below, Below::Dirs(_)), state.upper.is_some())
        };
        if found.upper.is_none() && copied && !dir_lower {
            // Copied up since, under another name.
            return self.node_attr(node);
        }
        let stat = match (&found.upper, &found.lower) {
            (Some((stat, marks)), lower) => {
                let mut stat = self.shown(*stat, marks.stored.as_ref().filter(|_| self.config.stored_owners));
                if let (true, Some(Lower::Other { stat: below, .. })) = (marks.metacopy, lower) {
                    stat.blocks = below.blocks;
                }
                stat
            }
            (None, Some(Lower::Dir { stat, .. } | Lower::Other { stat, .. })) => *stat,
            (None, None) => return Err(Errno::NOENT),
        };
        Ok(self.attr_of(node, stat))
    }

    /// What the upper has under `name` in `parent`.
    pub(super) fn in_upper(&self, parent: &Arc<Node>, name: &[u8]) -> Result<InUpper> {
        let (has, attr_whiteouts, mixed, merged) = {
            let mixed = parent.is_mixed() || self.config.stored_owners;
            let state = parent.state.lock();
            // Of plain whiteouts and marks; where nothing is below, none means anything.
            let merged = self.is_plain() && matches!(&state.below, Below::Dirs(dirs) if !dirs.is_empty());
            (state.upper.is_some(), state.upper.as_ref().is_some_and(|u| u.attr_whiteouts), mixed, merged)
        };
        if !has {
            return Ok(InUpper::Nothing);
        }
        let dir = self.upper_dir(parent)?;
        let stat = match dir.stat(name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if merged && self.has_plain_whiteout(&dir, name)? => return Ok(InUpper::Whiteout),
            Err(Errno::NOENT) => return Ok(InUpper::Nothing),
            Err(e) => return Err(e),
        };
        if stat.is_whiteout() {
            return Ok(InUpper::Whiteout);
        }
        // A directory may be impure or opaque where its parent is neither.
        let marked = mixed || stat.kind == Kind::Dir;
        let mut marks = if marked { self.marks(&dir, name)? } else { Marks::default() };
        if merged && stat.kind == Kind::Dir && !marks.opaque {
            marks.opaque = self.is_plain_opaque(&dir, name)?;
        }
        if attr_whiteouts && marks.whiteout && stat.kind == Kind::File && stat.size == 0 {
            return Ok(InUpper::Whiteout);
        }
        Ok(InUpper::Object(stat, marks))
    }

    /// What the lowers have under `name` in `parent`, shown or not.
    pub(super) fn in_lower(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<Lower>> {
        let dirs = parent.lower_dirs();
        if dirs.is_empty() { Ok(None) } else { self.step_lower(&dirs, name) }
    }

    /// What a name is in the view.
    pub(super) fn resolve(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<Found>> {
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        if self.is_reserved(name) {
            return Ok(None);
        }
        let since = Some(self.inodes.moment());
        match self.in_upper(parent, name)? {
            InUpper::Whiteout => Ok(None),
            InUpper::Nothing => {
                let Some(lower) = self.in_lower(parent, name)? else { return Ok(None) };
                if let Lower::Other { pos, stat, .. } = &lower
                    && stat.nlink > 1
                    && let Some((index, stat, marks)) = self.indexed(pos)?
                {
                    let upper = Some((stat, marks));
                    return Ok(Some(Found { upper, named: false, index: Some(index), lower: Some(lower), since }));
                }
                Ok(Some(Found { upper: None, named: false, index: None, lower: Some(lower), since }))
            }
            InUpper::Object(stat, marks) => {
                if marks.newer && stat.kind == Kind::File {
                    return Err(self.bad_upper(parent, name, NEWER));
                }
                let lower = match (stat.kind, &marks.redirect) {
                    (Kind::Dir, _) if marks.opaque => None,
                    (Kind::File, _) if !marks.metacopy => None,
                    (Kind::Dir | Kind::File, Some(path)) => self.follow(parent, name, path)?,
                    (Kind::Dir | Kind::File, None) => self.in_lower(parent, name)?,
                    _ => None,
                };
                let lower = match (stat.kind, lower) {
                    (Kind::Dir, Some(l @ Lower::Dir { .. })) => Some(l),
                    (Kind::Dir, _) => None,
                    (_, Some(l @ Lower::Other { stat: Stat { kind: Kind::File, .. }, .. })) => Some(l),
                    (_, _) if marks.metacopy => {
                        return Err(self.bad_upper(parent, name, "its data is not in the layers below"));
                    }
                    _ => None,
                };
                let index = self.index_of(&stat, &marks)?;
                Ok(Some(Found { upper: Some((stat, marks)), named: true, index, lower, since }))
            }
        }
    }

    /// What the redirect of `name` leads to.
    fn follow(&self, parent: &Arc<Node>, name: &[u8], path: &[u8]) -> Result<Option<Lower>> {
        self.walk(&self.absolute(parent, path)).map_err(|e| match e {
            Errno::IO => self.bad_upper(parent, name, "its redirect can't be followed"),
            e => e,
        })
    }

    /// Says what is wrong with an object of the upper: who reads it gets `EIO`.
    fn bad_upper(&self, parent: &Arc<Node>, name: &[u8], what: &str) -> Errno {
        let mut path = vec![name.to_vec()];
        let mut at = parent.clone();
        while let Some(link) = at.first_link() {
            path.push(link.name.to_vec());
            at = link.parent;
        }
        let path: Vec<_> = path.iter().rev().map(|n| String::from_utf8_lossy(n)).collect();
        log::warn!("upper: /{}: {what}", path.join("/"));
        Errno::IO
    }

    /// A redirect as a path from the layers' roots.
    fn absolute(&self, parent: &Arc<Node>, path: &[u8]) -> Vec<u8> {
        if path.starts_with(b"/") {
            return path.to_vec();
        }
        // Without names nobody looks into it.
        let mut full = self.lower_path(parent).unwrap_or_default();
        full.push(b'/');
        full.extend_from_slice(path);
        full
    }

    /// The path under which the lowers have what a directory of the view is merged with: its own, but for redirects.
    /// `None` where a name on the way to the root is gone.
    pub(super) fn lower_path(&self, node: &Arc<Node>) -> Option<Vec<u8>> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut at = node.clone();
        while !Arc::ptr_eq(&at, &self.root) {
            let parent = {
                let state = at.state.lock();
                if let Some(r) = state.upper.as_ref().and_then(|u| u.redirect.clone()) {
                    names.push(r[1..].into());
                    break;
                }
                let link = state.links().first()?;
                names.push(link.name[..].into());
                link.parent.clone()
            };
            at = parent;
        }
        Some(names.iter().rev().flat_map(|n| [b"/", &n[..]].concat()).collect())
    }

    /// The node for what was found under `name` in `parent`.
    pub(super) fn node_of(&self, parent: &Arc<Node>, name: &[u8], found: &Found) -> Result<Arc<Node>> {
        if let Some(node) = self.node_if_fresh(parent, name, found)? {
            return Ok(node);
        }
        for _ in 0..TRIES {
            let found = self.resolve(parent, name)?.ok_or(Errno::NOENT)?;
            if let Some(node) = self.node_if_fresh(parent, name, &found)? {
                return Ok(node);
            }
            // Its last node is on its way out.
            std::thread::yield_now();
        }
        Err(Errno::STALE)
    }

    /// As `node_of`; `None` if what was found may be outdated.
    fn node_if_fresh(&self, parent: &Arc<Node>, name: &[u8], found: &Found) -> Result<Option<Arc<Node>>> {
        let mut keys: SmallVec<[Key; 2]> = SmallVec::new();
        let mut want = None;
        let below = match &found.lower {
            Some(Lower::Dir { dirs, .. }) => {
                let key = dirs.first().map(|d| (d.dev, d.ino)).ok_or(Errno::IO)?;
                keys.push(key);
                want = Some(self.inodes.number(key));
                Below::Dirs(dirs.iter().cloned().collect())
            }
            Some(Lower::Other { pos, data, stat }) => {
                keys.push((stat.dev, stat.ino));
                want = Some(self.inodes.number((stat.dev, stat.ino)));
                Below::other(pos, data.as_ref(), stat, name)
            }
            None => Below::Nothing,
        };
        let mut kind = match &found.lower {
            Some(Lower::Dir { .. }) => Kind::Dir,
            Some(Lower::Other { stat, .. }) => stat.kind,
            None => Kind::File,
        };
        let mut nlink = None;
        let upper = match &found.upper {
            None => None,
            Some((stat, marks)) => {
                let key = (stat.dev, stat.ino);
                let shown = self.shown(*stat, marks.stored.as_ref().filter(|_| self.config.stored_owners));
                kind = if marks.device { Kind::Char } else { shown.kind };
                keys.insert(0, key);
                if want.is_none() || kind != Kind::Dir {
                    want = Some(marks.ino.unwrap_or_else(|| want.unwrap_or_else(|| self.inodes.number(key))));
                }
                if found.index.is_some() {
                    let n = i64::from(stat.nlink) + marks.nlink.unwrap_or(-1);
                    nlink = Some(u32::try_from(n.max(0)).unwrap_or(u32::MAX));
                }
                Some(Upper {
                    key,
                    at: found.index.clone().map_or(UpperAt::Name, UpperAt::Index),
                    metacopy: marks.metacopy,
                    redirect: marks.redirect.as_ref().map(|r| self.absolute(parent, r).into()),
                    impure: marks.impure,
                    attr_whiteouts: marks.attr_whiteouts,
                    device: marks.device,
                    devices: marks.devices,
                })
            }
        };
        let link = Link { parent: parent.clone(), name: name.into() };
        let table = &self.inodes;
        let node = table.intern(&keys, want.ok_or(Errno::IO)?, found.since, |ino| {
            let state = State::new(Some(link.clone()), upper.clone(), below.clone(), nlink);
            Node::new(ino, kind, state, table.clone())
        });
        let Some(node) = node else { return Ok(None) };
        if !node.is_dir() {
            node.add_link(parent, name);
            // It was held open because no name of it was known; now one is.
            let mut state = node.state.lock();
            let pinned = match state.upper.as_deref_mut() {
                Some(u) if found.named && matches!(u.at, UpperAt::Pinned(_)) => {
                    Some(std::mem::replace(&mut u.at, found.index.clone().map_or(UpperAt::Name, UpperAt::Index)))
                }
                _ => None,
            };
            // Its path is through this name alone: whatever was known before is gone.
            let gone = if pinned.is_some() { state.keep_link(parent, name) } else { Links::NONE };
            drop(state);
            drop(gone);
        }
        Ok(Some(node))
    }
}
