//! The lower layers: what a name is in them, from the top one down.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use smallvec::SmallVec;

use super::{Overlay, malformed};
use crate::layer::Handle;
use crate::vocab::dialect::{self, AUFS_OPAQUE, FUSE_OVERLAYFS_OPAQUE, Prefix, STORED_STATS};
use crate::vocab::handle::FileHandle;
use crate::vocab::owner::{OVERFLOW, StoredStat};
use crate::vocab::{Errno, Kind, Result, Stat};

/// Redirects followed for one lookup. Each leads to a lower layer, so they end; but they may multiply on the way.
const MAX_REDIRECTS: u32 = 10_000;

/// Said of a metacopy that we can't read.
pub(super) const NEWER: &str = "its metacopy mark is of a format that this version does not know";

/// How many redirects a lookup may still follow.
struct Fuel(Cell<u32>);

impl Fuel {
    fn new() -> Self {
        Self(Cell::new(MAX_REDIRECTS))
    }
}

/// One lower layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) root: Arc<LowerDir>,
    /// Its objects carry ownership in an attribute.
    pub(super) stored_owners: bool,
    /// Its ids are the view's, not those to store.
    pub(super) mapped: bool,
}

/// A directory of a lower layer. It never changes, so neither does anything known about it.
#[derive(Debug)]
pub(super) struct LowerDir {
    /// Key of its handle in the cache.
    pub(super) id: u64,
    /// Index of its layer, 0 for the top one.
    pub(super) layer: usize,
    /// Where it is; a layer's root, and what is in an image index, holds its handle instead.
    pub(super) at: LowerAt,
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// It may hold attribute whiteouts (`opaque` is `x`).
    pub(super) attr_whiteouts: bool,
    /// It may hold files that stand for devices.
    pub(super) devices: bool,
    /// Its attributes are those of the layers below, if they have it ([`face`]).
    pub(super) implied: bool,
    /// Nothing in it is shown: the root of a pseudo file system.
    pub(super) closed: bool,
    /// How many names were looked for in vain since its names were known.
    pub(super) absent: AtomicU8,
}

/// Of one directory in several layers, the one whose attributes are shown. Its number is always that of the first.
pub(super) fn face(dirs: &[Arc<LowerDir>]) -> Option<&Arc<LowerDir>> {
    dirs.iter().find(|d| !d.implied).or(dirs.first())
}

/// Where a directory of a lower is.
#[derive(Debug)]
pub(super) enum LowerAt {
    Held(Handle),
    Child(Arc<LowerDir>, Box<[u8]>),
}

/// Where a non-directory of a lower is.
#[derive(Clone, Debug)]
pub(super) struct LowerPos {
    pub(super) dir: Arc<LowerDir>,
    pub(super) name: Box<[u8]>,
}

/// What a name is in the lower layers.
#[derive(Clone, Debug)]
pub(super) enum Lower {
    /// A directory: the same one in each layer that adds to it, top first.
    Dir { dirs: SmallVec<[Arc<LowerDir>; 2]>, stat: Stat },
    /// Anything else; `data` is elsewhere for a metacopy.
    Other { pos: LowerPos, data: Option<LowerPos>, stat: Stat },
}

/// The union's attributes on one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) opaque: bool,
    pub(super) attr_whiteouts: bool,
    pub(super) impure: bool,
    pub(super) whiteout: bool,
    /// An empty file that stands for a character device 0:0.
    pub(super) device: bool,
    /// A directory with such files in it.
    pub(super) devices: bool,
    /// A directory that the layer's maker said nothing of.
    pub(super) implied: bool,
    pub(super) metacopy: bool,
    /// It is a metacopy of a format that we do not know.
    pub(super) newer: bool,
    pub(super) redirect: Option<Vec<u8>>,
    pub(super) ino: Option<u64>,
    pub(super) nlink: Option<i64>,
    pub(super) origin: Option<Vec<u8>>,
    pub(super) stored: Option<StoredStat>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number that nothing else in this process has.
pub(super) fn new_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

type At<'a> = (&'a Handle, &'a [u8]);
/// An attribute and its value.
type Said<'a> = (&'a [u8], &'a [u8]);

/// What an attribute says; if that is nothing, it is told.
fn understood<T>(meant: Option<T>, (dir, name): At<'_>, (attr, value): Said<'_>) -> Option<T> {
    if meant.is_none() {
        malformed::tell(dir, name, attr, value);
    }
    meant
}

/// Whether an attribute has the only value that it can have.
fn is(only: &[u8], at: At<'_>, said: Said<'_>) -> bool {
    understood((said.1 == only).then_some(()), at, said).is_some()
}

/// Reads the union's attributes of `name`: one system call where there are none.
pub(super) fn read_marks(dir: &Handle, name: &[u8], prefix: Prefix) -> Result<Marks> {
    let mut marks = Marks::default();
    let mut stored_rank = usize::MAX;
    for attr in dir.listxattr(name)? {
        if let Some(rank) = STORED_STATS.iter().position(|a| *a == attr) {
            if rank < stored_rank
                && let Some(v) = dir.getxattr(name, &attr)?
            {
                marks.stored = understood(StoredStat::parse(&v), (dir, name), (&attr, &v));
                stored_rank = rank;
            }
            continue;
        }
        if attr == FUSE_OVERLAYFS_OPAQUE {
            marks.opaque |= dir.getxattr(name, &attr)?.is_some_and(|v| is(b"y", (dir, name), (&attr, &v)));
            continue;
        }
        let Some(short) = attr.strip_prefix(prefix.as_bytes()) else { continue };
        let Some(v) = dir.getxattr(name, &attr)? else { continue };
        let (at, said) = ((dir, name), (&attr[..], &v[..]));
        match std::str::from_utf8(short).unwrap_or_default() {
            dialect::OPAQUE => match v.as_slice() {
                b"y" => marks.opaque = true,
                b"x" => marks.attr_whiteouts = true,
                _ => malformed::tell(dir, name, &attr, &v),
            },
            dialect::REDIRECT => marks.redirect = Some(v),
            dialect::METACOPY => {
                marks.metacopy = true;
                marks.newer = !dialect::is_known_metacopy(&v);
            }
            dialect::IMPURE => marks.impure = is(b"y", at, said),
            dialect::WHITEOUT => marks.whiteout = true,
            dialect::DEVICE => marks.device = is(b"0:0", at, said),
            dialect::DEVICES => marks.devices = is(b"y", at, said),
            dialect::IMPLIED => marks.implied = is(b"y", at, said),
            dialect::INO => marks.ino = understood(dialect::parse_identity(&v), at, said).map(|(ino, _)| ino),
            dialect::ORIGIN => {
                // The kernel leaves an empty one where it can't tell.
                understood((v.is_empty() || FileHandle::is_one(&v)).then_some(()), at, said);
                marks.origin = Some(v);
            }
            dialect::NLINK => marks.nlink = understood(parse_nlink(&v), at, said).flatten(),
            _ => {}
        }
    }
    Ok(marks)
}

impl Overlay {
    /// The union's attributes of `name`.
    pub(super) fn marks(&self, dir: &Handle, name: &[u8]) -> Result<Marks> {
        read_marks(dir, name, self.prefix)
    }

    /// The handle of a lower directory.
    pub(super) fn lower_handle(&self, dir: &Arc<LowerDir>) -> Result<Handle> {
        // Climb to the nearest one that is open, then open downwards: no recursion, however deep the tree.
        let mut missing = Vec::new();
        let mut at = dir;
        let mut handle = loop {
            match &at.at {
                LowerAt::Held(h) => break h.clone(),
                LowerAt::Child(parent, _) => {
                    if let Some(h) = self.dirs.get(&at.id) {
                        break h;
                    }
                    missing.push(at);
                    at = parent;
                }
            }
        };
        for dir in missing.into_iter().rev() {
            if let LowerAt::Child(_, name) = &dir.at {
                handle = handle.open_dir(name)?;
                self.dirs.insert(dir.id, handle.clone());
            }
        }
        Ok(handle)
    }

    /// What `name` is in `dirs`, the same directory in several layers, top first.
    pub(super) fn step_lower(&self, dirs: &[Arc<LowerDir>], name: &[u8]) -> Result<Option<Lower>> {
        self.step(dirs, name, &Fuel::new())
    }

    fn step(&self, dirs: &[Arc<LowerDir>], name: &[u8], fuel: &Fuel) -> Result<Option<Lower>> {
        let mut found: SmallVec<[Arc<LowerDir>; 2]> = SmallVec::new();
        let mut top: Option<Stat> = None;
        let mut faceless = true;
        for (i, dir) in dirs.iter().enumerate() {
            if dir.closed {
                continue;
            }
            let known = self.known_names(dir);
            let may_hide = self.config.aufs && known.as_ref().is_none_or(|k| k.may_hide());
            if !may_hide && known.is_some_and(|k| !k.may_have(self.name_hash(name))) {
                continue;
            }
            let handle = self.lower_handle(dir)?;
            let stat = match handle.stat(name) {
                Ok(st) => st,
                Err(Errno::NOENT) => {
                    if may_hide && self.aufs_hides(&handle, name)? {
                        break;
                    }
                    self.missed(dir, &handle);
                    continue;
                }
                Err(Errno::NAMETOOLONG) => continue,
                Err(e) => return Err(e),
            };
            if self.config.hide.contains(&(stat.dev, stat.ino)) {
                continue;
            }
            if stat.is_whiteout() {
                break;
            }
            if stat.kind != Kind::Dir {
                if !found.is_empty() || (self.config.aufs && dialect::aufs(name) != dialect::Aufs::Plain) {
                    break;
                }
                return self.lower_other(&dirs[i..], &handle, name, stat, fuel);
            }
            let last = i + 1 == dirs.len() && found.is_empty() && !self.layers[dir.layer].stored_owners;
            // The bottom layer's own marks still tell of attribute whiteouts, but those hide nothing below the bottom:
            // they only have to be left out of listings, so they are looked for when listing.
            let marks = if last && !self.config.marked_bottom { Marks::default() } else { self.marks(&handle, name)? };
            let closed = stat.mount_root
                && self.config.close_pseudo
                && handle.open_dir(name).and_then(|h| h.is_pseudo()).unwrap_or(true);
            let child = Arc::new(LowerDir {
                id: new_id(),
                layer: dir.layer,
                at: match &handle {
                    Handle::Index(_) => LowerAt::Held(handle.open_dir(name)?),
                    _ => LowerAt::Child(dir.clone(), name.into()),
                },
                dev: stat.dev,
                ino: stat.ino,
                attr_whiteouts: marks.attr_whiteouts,
                devices: marks.devices,
                implied: marks.implied,
                closed,
                absent: AtomicU8::new(0),
            });
            if faceless && !(marks.implied && top.is_some()) {
                let shown = self.shown_lower(dir.layer, stat, marks.stored.as_ref());
                top = Some(top.map_or(shown, |first| Stat { dev: first.dev, ino: first.ino, ..shown }));
                faceless = marks.implied;
            }
            found.push(child.clone());
            // A whiteout beside a directory is for what was there before it.
            let aufs = self.config.aufs && i + 1 < dirs.len();
            if marks.opaque || (aufs && (self.aufs_opaque(&child)? || self.aufs_hides(&handle, name)?)) {
                break;
            }
            if let Some(path) = marks.redirect {
                if let Some(Lower::Dir { dirs: more, .. }) = self.redirected(&dirs[i..], name, &path, fuel)? {
                    found.extend(more);
                }
                break;
            }
        }
        Ok(top.map(|stat| Lower::Dir { dirs: found, stat }))
    }

    /// A non-directory of `dirs[0]`, with its data from further down if it is a metacopy.
    fn lower_other(
        &self,
        dirs: &[Arc<LowerDir>],
        handle: &Handle,
        name: &[u8],
        mut stat: Stat,
        fuel: &Fuel,
    ) -> Result<Option<Lower>> {
        let dir = &dirs[0];
        let pos = LowerPos { dir: dir.clone(), name: name.into() };
        let stored = self.layers[dir.layer].stored_owners;
        // A metacopy is all hole on disk, but for the blocks of its attributes. That its directory is in this layer only
        // says nothing: it may have been moved here. In the bottom layer it has no data anywhere, which must be told.
        let bottom = dir.layer + 1 == self.layers.len();
        let attributes = if bottom { 0 } else { 2 * u64::from(stat.blksize) / 512 };
        let hollow = (self.config.marked_bottom || !bottom) && stat.blocks <= attributes && stat.size > 0;
        if stat.kind != Kind::File || (dirs.len() == 1 && !(stored || dir.attr_whiteouts || dir.devices || hollow)) {
            return Ok(Some(Lower::Other { pos, data: None, stat: self.shown_lower(dir.layer, stat, None) }));
        }
        let marks = self.marks(handle, name)?;
        if dir.attr_whiteouts && marks.whiteout && stat.size == 0 {
            return Ok(None);
        }
        if dir.devices && marks.device {
            stat.kind = Kind::Char;
            let stat = self.shown_lower(dir.layer, stat, marks.stored.as_ref());
            return Ok(Some(Lower::Other { pos, data: None, stat }));
        }
        let mut data = None;
        if marks.newer {
            return Err(bad(dir, name, NEWER));
        }
        if marks.metacopy {
            let below = match &marks.redirect {
                Some(path) => self.redirected(dirs, name, path, fuel)?,
                None => self.step(&dirs[1..], name, fuel)?,
            };
            let Some(Lower::Other { pos, data: deeper, stat: below @ Stat { kind: Kind::File, .. } }) = below else {
                return Err(bad(dir, name, "its data is not in the layers below"));
            };
            stat.blocks = below.blocks;
            data = deeper.or(Some(pos));
        }
        let stat = self.shown_lower(dir.layer, stat, marks.stored.as_ref());
        Ok(Some(Lower::Other { pos, data, stat }))
    }

    /// Follows a redirect found on `name` in `dirs[0]`: a name beside it, in the directories that are merged with this
    /// one, or a path from the roots of the layers below.
    fn redirected(&self, dirs: &[Arc<LowerDir>], name: &[u8], path: &[u8], fuel: &Fuel) -> Result<Option<Lower>> {
        let dir = &dirs[0];
        let Some(left) = fuel.0.get().checked_sub(1) else { return Err(bad(dir, name, "too many redirects")) };
        fuel.0.set(left);
        match path.strip_prefix(b"/") {
            _ if !leads_inside(path) => Err(bad(dir, name, "its redirect is no path inside of a layer")),
            Some(_) => self.walk_from(path, dir.layer + 1, fuel),
            None if path.contains(&b'/') => Err(bad(dir, name, "its redirect is neither a name nor an absolute path")),
            None => self.step(&dirs[1..], path, fuel),
        }
    }

    /// What an absolute path is in the layers, merged. `EIO` for one that climbs.
    pub(super) fn walk(&self, path: &[u8]) -> Result<Option<Lower>> {
        if leads_inside(path) { self.walk_from(path, 0, &Fuel::new()) } else { Err(Errno::IO) }
    }

    fn walk_from(&self, path: &[u8], first: usize, fuel: &Fuel) -> Result<Option<Lower>> {
        let mut dirs: SmallVec<[Arc<LowerDir>; 2]> = self.layers.iter().skip(first).map(|l| l.root.clone()).collect();
        let mut names = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).peekable();
        while let Some(name) = names.next() {
            match self.step(&dirs, name, fuel)? {
                None => return Ok(None),
                found if names.peek().is_none() => return Ok(found),
                Some(Lower::Dir { dirs: next, .. }) => dirs = next,
                Some(Lower::Other { .. }) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A lower layer's stat as the view shows it.
    pub(super) fn shown_lower(&self, layer: usize, stat: Stat, stored: Option<&StoredStat>) -> Stat {
        let layer = &self.layers[layer];
        let stored = stored.filter(|_| layer.stored_owners);
        if layer.mapped && stored.is_none() { self.on_disk(stat, None) } else { self.shown(stat, stored) }
    }

    /// A layer's stat as the view shows it, but for inode and link numbers.
    pub(super) fn shown(&self, stat: Stat, stored: Option<&StoredStat>) -> Stat {
        let mut stat = self.on_disk(stat, stored);
        stat.uid = self.config.ids.uid.shown(stat.uid);
        stat.gid = self.config.ids.gid.shown(stat.gid);
        stat
    }

    /// The same with the ids that are stored: what the view's ids are mapped to.
    pub(super) fn on_disk(&self, mut stat: Stat, stored: Option<&StoredStat>) -> Stat {
        if let Some(stored) = stored {
            return stored.apply(stat);
        }
        if self.config.ours_as_root {
            stat.uid = if stat.uid == rustix::process::geteuid().as_raw() { 0 } else { stat.uid };
            stat.gid = if stat.gid == rustix::process::getegid().as_raw() { 0 } else { stat.gid };
        }
        if self.config.foreign_as_root {
            stat.uid = if stat.uid == OVERFLOW { 0 } else { stat.uid };
            stat.gid = if stat.gid == OVERFLOW { 0 } else { stat.gid };
        }
        stat
    }

    fn aufs_hides(&self, dir: &Handle, name: &[u8]) -> Result<bool> {
        match dir.stat(&dialect::aufs_whiteout(name)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn aufs_opaque(&self, dir: &Arc<LowerDir>) -> Result<bool> {
        match self.lower_handle(dir)?.stat(AUFS_OPAQUE) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The path of a lower directory in its own layer; the root's is empty.
pub(super) fn lower_path(dir: &Arc<LowerDir>) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = dir;
    while let LowerAt::Child(parent, name) = &at.at {
        names.push(name);
        at = parent;
    }
    names.iter().rev().flat_map(|n| [b"/", &n[..]].concat()).collect()
}

/// Whether a redirect names something, without a step upwards.
fn leads_inside(path: &[u8]) -> bool {
    let mut names = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).peekable();
    names.peek().is_some() && names.all(|n| n != b"." && n != b".." && !n.contains(&0))
}

/// Says what is wrong with an object of a layer: who reads it gets `EIO`.
fn bad(dir: &Arc<LowerDir>, name: &[u8], what: &str) -> Errno {
    let path = [&lower_path(dir), name].map(String::from_utf8_lossy).join("/");
    log::warn!("lower layer {}: {path}: {what}", dir.layer + 1);
    Errno::IO
}

/// `U+1`, `U-2`: what to add to the upper's link count. `L`, relative to the lower's, is what the kernel leaves when it
/// is interrupted: nothing to go by. `None`: none of these.
fn parse_nlink(value: &[u8]) -> Option<Option<i64>> {
    let (of, count) = value.split_first()?;
    let count = std::str::from_utf8(count).ok()?.parse().ok()?;
    match of {
        b'U' => Some(Some(count)),
        b'L' => Some(None),
        _ => None,
    }
}
