//! Listings. Nothing is kept per open directory: an entry's cookie is a keyed hash of its name, so a listing can be
//! dropped and made again at any moment, and whoever goes on at a cookie misses and repeats nothing that stayed.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::RwLock;

use super::cache::weighted;
use super::node::Node;
use super::stack::{LowerDir, Marks};
use super::{Attr, Entry, Overlay};
use crate::layer::Handle;
use crate::vocab::dialect::{self, Aufs};
use crate::vocab::{Errno, Kind, Result};

/// `.` and `..` come first.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Entries kept in all listings together: more than a quarter of that in one directory would be read anew for each request.
const MAX_ENTRIES: u64 = 1 << 20;

/// With more than this kept, what was read to its end and has not been changed is let go: the kernel has it.
const ENOUGH: u64 = 1 << 12;

/// A directory's entries in the order of their cookies.
#[derive(Debug, Default)]
struct Entries(BTreeMap<(u64, Box<[u8]>), (u64, Kind)>);

/// The entries, as long as they are kept.
#[derive(Debug)]
pub(super) struct Listing {
    /// How many there were at first: the cache counts on a weight that never changes.
    weight: usize,
    entries: RwLock<Entries>,
}

/// What a listing counts for in the cache.
#[derive(Clone, Debug)]
pub(super) struct BySize;

impl quick_cache::Weighter<u64, Arc<Listing>> for BySize {
    fn weight(&self, _: &u64, listing: &Arc<Listing>) -> u64 {
        listing.weight as u64 + 4
    }
}

/// A cache of listings.
pub(super) fn cache() -> quick_cache::sync::Cache<u64, Arc<Listing>, BySize> {
    weighted(4096, MAX_ENTRIES, BySize)
}

impl Overlay {
    /// Calls `each` for the entries after `cookie` (0: from the start, with `.` and `..`) until it says that it is full.
    ///
    /// # Errors
    /// `ENOTDIR`; what the layers answer.
    pub fn readdir(&self, ino: u64, cookie: u64, each: &mut dyn FnMut(&Entry<'_>) -> bool) -> Result<()> {
        let node = self.dir_node(ino)?;
        self.let_go();
        if self.dots(&node, cookie, &mut |e| each(e)) {
            return Ok(());
        }
        let names = node.names();
        if names.removed {
            return Ok(());
        }
        let listing = self.listing(&node)?;
        drop(names);
        let listing = listing.entries.read();
        self.read_to(&node, &listing, cookie);
        for ((cookie, name), (ino, kind)) in listing.after(cookie) {
            if each(&Entry { ino: *ino, cookie: *cookie, kind: *kind, name }) {
                break;
            }
        }
        Ok(())
    }

    /// As [`readdir`](Self::readdir), with the attributes of all but `.` and `..`. Each entry that was taken (`each` did
    /// not say full) holds a reference to its inode, as after a lookup.
    ///
    /// # Errors
    /// As readdir.
    pub fn readdir_plus(
        &self,
        ino: u64,
        cookie: u64,
        each: &mut dyn FnMut(&Entry<'_>, Option<&Attr>) -> bool,
    ) -> Result<()> {
        let node = self.dir_node(ino)?;
        self.let_go();
        if self.dots(&node, cookie, &mut |e| each(e, None)) {
            return Ok(());
        }
        let names = node.names();
        if names.removed {
            return Ok(());
        }
        let listing = self.listing(&node)?;
        let listing = listing.entries.read();
        self.read_to(&node, &listing, cookie);
        for ((cookie, name), (ino, kind)) in listing.after(cookie) {
            let entry = Entry { ino: *ino, cookie: *cookie, kind: *kind, name };
            let full = match self.look(&node, name) {
                Ok(Some((child, attr))) => {
                    let full = each(&Entry { ino: attr.ino, kind: attr.stat.kind, ..entry }, Some(&attr));
                    if !full {
                        self.inodes.claim(&child);
                    }
                    full
                }
                // A layer that is changed under us, or may not be looked into: the name is all there is.
                Ok(None) | Err(_) => each(&entry, None),
            };
            if full {
                break;
            }
        }
        Ok(())
    }

    /// Somebody has come to `cookie`; at the end, a listing that can be had again as it was may go.
    fn read_to(&self, node: &Node, listing: &Entries, cookie: u64) {
        if self.listings.weight() > ENOUGH && listing.after(cookie).next().is_none() && !node.has_upper() {
            self.listings.remove(&node.id);
        }
    }

    /// `.` and `..`; whether `each` is full.
    fn dots(&self, node: &Arc<Node>, cookie: u64, each: &mut dyn FnMut(&Entry<'_>) -> bool) -> bool {
        let above = node.first_link().map_or(node.ino, |l| l.parent.ino);
        let dir = |ino, cookie, name| Entry { ino, cookie, kind: Kind::Dir, name };
        (cookie < DOT && each(&dir(node.ino, DOT, b"."))) || (cookie < DOT_DOT && each(&dir(above, DOT_DOT, b"..")))
    }

    /// Whether a directory shows nothing. The caller holds its `names`.
    pub(super) fn is_empty(&self, node: &Arc<Node>) -> Result<bool> {
        Ok(self.listing(node)?.entries.read().0.is_empty())
    }

    /// A name was made. The caller holds the directory's `names`.
    pub(super) fn listed(&self, dir: &Node, name: &[u8], node: &Node) {
        if let Some(listing) = self.listings.get(&dir.id) {
            let len = {
                let mut entries = listing.entries.write();
                entries.0.insert((self.cookie(name), name.into()), (node.ino, node.kind));
                entries.0.len()
            };
            // It has outgrown its weight: the next one is weighed anew.
            if len > 2 * listing.weight + 64 {
                self.listings.remove(&dir.id);
            }
        }
    }

    /// A name went. The caller holds the directory's `names`.
    pub(super) fn unlisted(&self, dir: &Node, name: &[u8]) {
        if let Some(listing) = self.listings.get(&dir.id) {
            listing.entries.write().0.remove(&(self.cookie(name), name.into()));
        }
    }

    /// 63 bits, so that it is a positive `off_t`.
    fn cookie(&self, name: &[u8]) -> u64 {
        (self.hasher.hash_one(name) >> 1).max(DOT_DOT + 1)
    }

    /// The listing of a directory, from the cache or the layers. The caller holds its `names`.
    fn listing(&self, node: &Arc<Node>) -> Result<Arc<Listing>> {
        if let Some(listing) = self.listings.get(&node.id) {
            return Ok(listing);
        }
        let mut listing = Entries::default();
        let mut hidden = HashSet::new();
        if node.has_upper() {
            self.list_upper(node, &mut listing, &mut hidden)?;
        }
        self.list_lowers(&node.lower_dirs(), &mut listing, &mut hidden)?;
        let listing = Arc::new(Listing { weight: listing.0.len(), entries: RwLock::new(listing) });
        self.listings.insert(node.id, listing.clone());
        Ok(listing)
    }

    fn list_upper(&self, node: &Arc<Node>, listing: &mut Entries, hidden: &mut HashSet<Vec<u8>>) -> Result<()> {
        let dir = self.upper_dir(node)?;
        // In a plain upper what was copied up may be anywhere.
        let mixed = node.is_mixed() || self.config.stored_owners || self.is_plain();
        let attr_whiteouts = node.state.lock().upper.as_ref().is_some_and(|u| u.attr_whiteouts);
        let dev = dir.stat(b"")?.dev;
        for (name, ino, kind) in entries(&dir)? {
            if self.is_reserved(&name) {
                if let Aufs::Hides(other) = dialect::aufs(&name) {
                    hidden.insert(other.to_vec());
                }
                continue;
            }
            let Some(mut kind) = self.kind_unless_whiteout(&dir, &name, kind, attr_whiteouts)? else {
                hidden.insert(name);
                continue;
            };
            let mut number = self.inodes.number((dev, ino));
            if mixed && kind == Kind::Dir {
                if let Some(found) = self.resolve(node, &name)? {
                    number = self.node_of(node, &name, &found)?.ino;
                }
            } else if mixed {
                let marks = self.marks(&dir, &name)?;
                // What can't be marked keeps its number while somebody refers to it.
                let kept = || self.inodes.find((dev, ino)).map(|n| n.ino);
                number = marks.ino.or_else(kept).unwrap_or(number);
                if marks.device {
                    kind = Kind::Char;
                }
                if let Some(stored) = marks.stored.filter(|_| self.config.stored_owners) {
                    kind = stored.kind_of(kind);
                }
            }
            listing.0.insert((self.cookie(&name), name.into()), (number, kind));
        }
        Ok(())
    }

    /// Names that these lower directories show together, sorted.
    pub(super) fn lower_names(&self, dirs: &[Arc<LowerDir>]) -> Result<Vec<Box<[u8]>>> {
        let mut listing = Entries::default();
        self.list_lowers(dirs, &mut listing, &mut HashSet::new())?;
        let mut names: Vec<_> = listing.0.into_keys().map(|(_, name)| name).collect();
        names.sort();
        Ok(names)
    }

    fn list_lowers(&self, dirs: &[Arc<LowerDir>], listing: &mut Entries, hidden: &mut HashSet<Vec<u8>>) -> Result<()> {
        dirs.iter().filter(|dir| !dir.closed).try_for_each(|dir| self.list_lower(dir, listing, hidden))
    }

    fn list_lower(&self, lower: &Arc<LowerDir>, listing: &mut Entries, hidden: &mut HashSet<Vec<u8>>) -> Result<()> {
        let dir = self.lower_handle(lower)?;
        let stored = self.layers[lower.layer].stored_owners;
        // What this layer's own whiteouts hide is hidden below it only.
        let mut below = Vec::new();
        let mut all = Vec::new();
        match dir.list(&mut |e| all.push((e.name.to_vec(), (e.dev.unwrap_or(lower.dev), e.ino), e.kind))) {
            Err(Errno::NOENT | Errno::STALE) => {
                log::warn!("lower layer {}: a directory was removed under the mount", lower.layer + 1);
                return Ok(());
            }
            listed => listed?,
        }
        self.learn(lower, &dir, all.iter().map(|(name, ..)| name.as_slice()));
        for (name, object, kind) in all {
            if self.config.aufs {
                match dialect::aufs(&name) {
                    Aufs::Plain => {}
                    Aufs::Private => continue,
                    Aufs::Hides(other) => {
                        below.push(other.to_vec());
                        continue;
                    }
                }
            }
            let key = (self.cookie(&name), name.clone().into());
            if hidden.contains(&name) || listing.0.contains_key(&key) || self.config.hide.contains(&object) {
                continue;
            }
            let Some(mut kind) = self.kind_unless_whiteout(&dir, &name, kind, lower.attr_whiteouts)? else {
                below.push(name);
                continue;
            };
            if kind == Kind::File && (stored || lower.devices) {
                let marks = self.marks(&dir, &name)?;
                if let Some(s) = marks.stored.filter(|_| stored) {
                    kind = s.kind_of(kind);
                }
                if marks.device && lower.devices {
                    kind = Kind::Char;
                }
            }
            listing.0.insert(key, (self.inodes.number(object), kind));
        }
        hidden.extend(below);
        Ok(())
    }

    /// An entry's kind; `None` for a whiteout.
    pub(super) fn kind_unless_whiteout(
        &self,
        dir: &Handle,
        name: &[u8],
        kind: Option<Kind>,
        attrs: bool,
    ) -> Result<Option<Kind>> {
        match kind {
            Some(Kind::Char) | None => match dir.stat(name) {
                Ok(st) if st.is_whiteout() => Ok(None),
                Ok(st) => Ok(Some(st.kind)),
                // Not to be looked at: shown by its name, as readdir(3) does.
                Err(Errno::ACCESS | Errno::NOENT) => Ok(Some(kind.unwrap_or(Kind::File))),
                Err(e) => Err(e),
            },
            Some(Kind::File) if attrs => {
                let Marks { whiteout, .. } = self.marks(dir, name)?;
                Ok(if whiteout && dir.stat(name)?.size == 0 { None } else { kind })
            }
            _ => Ok(kind),
        }
    }
}

impl Entries {
    fn after(&self, cookie: u64) -> impl Iterator<Item = (&(u64, Box<[u8]>), &(u64, Kind))> {
        let from = if cookie <= DOT_DOT { 0 } else { cookie.saturating_add(1) };
        self.0.range((from, Box::default())..)
    }
}

pub(super) fn entries(dir: &Handle) -> Result<Vec<(Vec<u8>, u64, Option<Kind>)>> {
    let mut all = Vec::new();
    dir.list(&mut |e| all.push((e.name.to_vec(), e.ino, e.kind)))?;
    Ok(all)
}
