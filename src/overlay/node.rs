//! One inode of the view. The kernel may remember hundreds of thousands, so a node is small: what a layer can be asked
//! again is not kept, what few have is in boxes, and names that are not long stand in place.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use smallvec::SmallVec;

use super::inodes::Inodes;
use super::links::{Link, Links};
use super::stack::{LowerDir, LowerPos, new_id};
use crate::layer::Handle;
use crate::vocab::{Kind, Stat};

/// Device and inode number of an object in a layer.
pub(super) type Key = (u64, u64);

/// The longest name that needs no memory of its own.
const SHORT: usize = 22;

/// A name in a directory.
#[derive(Clone)]
pub(super) enum Name {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl From<&[u8]> for Name {
    fn from(name: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match short.get_mut(..name.len()) {
            Some(place) => {
                place.copy_from_slice(name);
                Self::Short(name.len() as u8, short)
            }
            None => Self::Long(name.into()),
        }
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self))
    }
}

/// Where the upper object of a node is.
#[derive(Clone, Debug)]
pub(super) enum UpperAt {
    /// Under the first of the node's names (a directory: at its path; the root: the upper itself).
    Name,
    /// In the inode index.
    Index(Box<[u8]>),
    /// It has no name that we know of: held open.
    Pinned(Handle),
}

/// The upper object of a node.
#[derive(Clone, Debug)]
pub(super) struct Upper {
    pub(super) key: Key,
    pub(super) at: UpperAt,
    /// Data still in the lower.
    pub(super) metacopy: bool,
    /// Path in the lowers that its merged content (or its data) comes from, once it was moved.
    pub(super) redirect: Option<Box<[u8]>>,
    /// Directories: marked as holding copied-up objects.
    pub(super) impure: bool,
    /// Directories: may hold attribute whiteouts.
    pub(super) attr_whiteouts: bool,
    /// An empty file that stands for a device 0:0.
    pub(super) device: bool,
    /// Directories: marked as holding such files.
    pub(super) devices: bool,
}

/// What the lower layers have of a node.
#[derive(Clone, Debug)]
pub(super) enum Below {
    Nothing,
    /// A directory in one or more layers.
    Dirs(Box<[Arc<LowerDir>]>),
    /// Anything else, under the first of the node's names in this directory and on its file system.
    Here {
        dir: Arc<LowerDir>,
        ino: u64,
        nlink: u32,
        device: bool,
    },
    /// Anything else, anywhere.
    There(Box<Other>),
}

/// What the lower layers have of a node that is no directory.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) pos: LowerPos,
    /// Where its data is, if that is elsewhere.
    pub(super) data: Option<LowerPos>,
    pub(super) key: Key,
    /// Its names in its layer.
    pub(super) nlink: u32,
    /// A character device 0:0, which in the upper would be a whiteout.
    pub(super) device: bool,
}

impl Below {
    /// What `pos` is, for a node whose first name is `name`.
    pub(super) fn other(pos: &LowerPos, data: Option<&LowerPos>, stat: &Stat, name: &[u8]) -> Self {
        let device = stat.is_whiteout();
        if data.is_none() && *pos.name == *name && pos.dir.dev == stat.dev {
            return Self::Here { dir: pos.dir.clone(), ino: stat.ino, nlink: stat.nlink, device };
        }
        Self::There(Box::new(Other {
            pos: pos.clone(),
            data: data.cloned(),
            key: (stat.dev, stat.ino),
            nlink: stat.nlink,
            device,
        }))
    }

    /// How many names it has in its layer, if it is no directory.
    pub(super) fn nlink(&self) -> Option<u32> {
        match self {
            Self::Nothing | Self::Dirs(_) => None,
            Self::Here { nlink, .. } => Some(*nlink),
            Self::There(other) => Some(other.nlink),
        }
    }

    /// Whether it is a character device 0:0, which in the upper would be a whiteout.
    pub(super) fn is_device(&self) -> bool {
        match self {
            Self::Nothing | Self::Dirs(_) => false,
            Self::Here { device, .. } => *device,
            Self::There(other) => other.device,
        }
    }

    /// The object's device and inode number.
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Self::Nothing => None,
            Self::Dirs(dirs) => dirs.first().map(|d| (d.dev, d.ino)),
            Self::Here { dir, ino, .. } => Some((dir.dev, *ino)),
            Self::There(other) => Some(other.key),
        }
    }
}

/// What changes in a node.
#[derive(Debug)]
pub(super) struct State {
    /// Names it is known by; a directory has exactly one until it is removed.
    links: Links,
    pub(super) upper: Option<Box<Upper>>,
    pub(super) below: Below,
    /// In the inode index: link count in the view.
    pub(super) nlink: Option<u32>,
}

impl State {
    pub(super) fn new(link: Option<Link>, upper: Option<Upper>, below: Below, nlink: Option<u32>) -> Self {
        let links = link.map_or(Links::NONE, Links::One);
        Self { links, upper: upper.map(Box::new), below, nlink }
    }

    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// What the lowers have, if that is no directory.
    pub(super) fn other(&self) -> Option<Other> {
        match &self.below {
            Below::Nothing | Below::Dirs(_) => None,
            Below::There(other) => Some((**other).clone()),
            Below::Here { dir, ino, nlink, device } => {
                let name = self.links.first().map_or_else(Box::default, |l| Box::from(&l.name[..]));
                let pos = LowerPos { dir: dir.clone(), name };
                Some(Other { pos, data: None, key: (dir.dev, *ino), nlink: *nlink, device: *device })
            }
        }
    }

    /// Whether an object of a layer is this one.
    pub(super) fn has_key(&self, key: Key) -> bool {
        self.below.key() == Some(key) || self.upper.as_ref().is_some_and(|u| u.key == key)
    }

    /// Changes the names. The lower object keeps the one it is known by.
    fn change_links<T>(&mut self, f: impl FnOnce(&mut Links) -> T) -> T {
        let here = if let Below::Here { .. } = &self.below { self.other() } else { None };
        let r = f(&mut self.links);
        if let Some(other) = here
            && self.links.first().is_none_or(|l| *l.name != *other.pos.name)
        {
            self.below = Below::There(Box::new(other));
        }
        r
    }

    /// One name in the place of another; the one that went, so that its parent is dropped outside of the lock. `from`
    /// need not be known.
    pub(super) fn replace_link(&mut self, from: (&Arc<Node>, &[u8]), to: Link) -> Option<Link> {
        self.change_links(|links| match (links.find(from.0, from.1), links.find(&to.parent, &to.name)) {
            (Some(i), None) => links.put(i, to),
            (Some(i), Some(_)) => links.take(i),
            (None, None) => {
                links.push(to);
                None
            }
            // Not dropped here, either.
            (None, Some(_)) => Some(to),
        })
    }

    /// No names but this one; those that went, for their parents' sake.
    pub(super) fn keep_link(&mut self, parent: &Arc<Node>, name: &[u8]) -> Links {
        self.change_links(|links| {
            let kept = links.find(parent, name).and_then(|i| links.take(i));
            std::mem::replace(links, kept.map_or(Links::NONE, Links::One))
        })
    }
}

/// One inode of the view.
#[derive(Debug)]
pub(super) struct Node {
    /// Never used twice: key of caches.
    pub(super) id: u64,
    /// What programs see.
    pub(super) ino: u64,
    pub(super) table: Arc<Inodes>,
    names: RwLock<()>,
    /// References that the kernel holds; `Inodes` counts them.
    pub(super) count: AtomicU32,
    pub(super) kind: Kind,
    /// Directories: it was removed.
    removed: AtomicBool,
    /// Directories: whether the topmost one has a default ACL (1) or not (2); 0 until somebody asked.
    default_acl: AtomicU8,
    /// Held while data is copied up.
    pub(super) copy_up: Mutex<()>,
    pub(super) state: Mutex<State>,
}

/// The names in a directory stay as they are.
#[derive(Debug)]
pub(super) struct Names<'a> {
    _held: RwLockReadGuard<'a, ()>,
    /// The directory was removed.
    pub(super) removed: bool,
}

/// The names in a directory are ours to change.
#[derive(Debug)]
pub(super) struct NamesMut<'a> {
    _held: RwLockWriteGuard<'a, ()>,
    removed: &'a AtomicBool,
}

impl NamesMut<'_> {
    /// Whether the directory was removed.
    pub(super) fn removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// The directory was removed.
    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }
}

impl Node {
    pub(super) fn new(ino: u64, kind: Kind, state: State, table: Arc<Inodes>) -> Self {
        Self {
            id: new_id(),
            ino,
            kind,
            state: Mutex::new(state),
            copy_up: Mutex::new(()),
            names: RwLock::new(()),
            removed: AtomicBool::new(false),
            default_acl: AtomicU8::new(0),
            count: AtomicU32::new(0),
            table,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Directories: held while a name in it is resolved.
    pub(super) fn names(&self) -> Names<'_> {
        let held = self.names.read();
        Names { _held: held, removed: self.removed.load(Ordering::Relaxed) }
    }

    /// Directories: held while its names change.
    pub(super) fn names_mut(&self) -> NamesMut<'_> {
        NamesMut { _held: self.names.write(), removed: &self.removed }
    }

    /// Directories: whether there is a default ACL, once somebody asked.
    pub(super) fn default_acl(&self) -> Option<bool> {
        match self.default_acl.load(Ordering::Relaxed) {
            0 => None,
            answer => Some(answer == 1),
        }
    }

    /// Directories: whether there is a default ACL; `None`: ask again.
    pub(super) fn set_default_acl(&self, answer: Option<bool>) {
        self.default_acl.store(answer.map_or(0, |has| if has { 1 } else { 2 }), Ordering::Relaxed);
    }

    /// The layers' directories below, top first.
    pub(super) fn lower_dirs(&self) -> SmallVec<[Arc<LowerDir>; 2]> {
        match &self.state.lock().below {
            Below::Dirs(dirs) => dirs.iter().cloned().collect(),
            _ => SmallVec::new(),
        }
    }

    pub(super) fn has_upper(&self) -> bool {
        self.state.lock().upper.is_some()
    }

    /// A directory whose content is not merely the upper's own: names in it must be looked for below, or carry marks.
    pub(super) fn is_mixed(&self) -> bool {
        let state = self.state.lock();
        let merged = matches!(&state.below, Below::Dirs(d) if !d.is_empty());
        merged || state.upper.as_ref().is_some_and(|u| u.impure || u.attr_whiteouts || u.devices)
    }

    pub(super) fn first_link(&self) -> Option<Link> {
        self.state.lock().links.first().cloned()
    }

    /// Notes that the node has this name, too.
    pub(super) fn add_link(&self, parent: &Arc<Node>, name: &[u8]) {
        let mut state = self.state.lock();
        if state.links.find(parent, name).is_none() {
            state.change_links(|links| links.push(Link { parent: parent.clone(), name: name.into() }));
        }
    }

    /// Forgets a name. The link is handed back so that its parent is dropped outside of the lock.
    pub(super) fn remove_link(&self, parent: &Arc<Node>, name: &[u8]) -> Option<Link> {
        let mut state = self.state.lock();
        let i = state.links.find(parent, name)?;
        state.change_links(|links| links.take(i))
    }
}

thread_local! {
    /// Names of nodes that went, whose parents may go with them: one after the other, not one inside the other, however
    /// deep the tree. `None`: nobody is at it.
    static LEAVING: RefCell<Option<Vec<Links>>> = const { RefCell::new(None) };
}

impl Drop for Node {
    fn drop(&mut self) {
        self.table.dropped(self);
        let links = std::mem::replace(&mut self.state.get_mut().links, Links::NONE);
        let first = LEAVING.try_with(|leaving| match &mut *leaving.borrow_mut() {
            Some(others) => {
                others.push(links);
                false
            }
            none => {
                *none = Some(vec![links]);
                true
            }
        });
        while first == Ok(true) {
            match LEAVING.with_borrow_mut(|leaving| leaving.as_mut().and_then(Vec::pop)) {
                Some(links) => drop(links),
                None => return LEAVING.set(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel remembers one for every file that was looked at: 200 bytes in all, with its place in the table, what
    /// the allocator adds, and its share of directories.
    #[test]
    fn a_node_is_small() {
        assert!(
            size_of::<Node>() <= 120,
            "{} bytes, of which its state takes {}",
            size_of::<Node>(),
            size_of::<State>()
        );
    }

    #[test]
    fn names_of_any_length() {
        for len in [0, 1, SHORT - 1, SHORT, SHORT + 1, 255] {
            let name = vec![b'n'; len];
            assert_eq!(*Name::from(&name[..]), name[..]);
        }
    }
}
