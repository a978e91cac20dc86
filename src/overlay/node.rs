//! One inode of the view.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::inodes::Inodes;
use super::stack::{LowerDir, LowerPos, new_id};
use crate::layer::Handle;
use crate::vocab::{Kind, Stat};

/// Device and inode number of an object in a layer.
pub(super) type Key = (u64, u64);

/// A name the node is known by.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) parent: Arc<Node>,
    pub(super) name: Box<[u8]>,
}

impl Link {
    pub(super) fn is(&self, parent: &Arc<Node>, name: &[u8]) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
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
    Dirs(SmallVec<[Arc<LowerDir>; 2]>),
    /// Anything else. `data` is where its data is; the stat is what the view shows but for the inode number.
    Other {
        pos: LowerPos,
        data: Option<LowerPos>,
        stat: Stat,
    },
}

/// What changes in a node.
#[derive(Debug)]
pub(super) struct State {
    /// Names it is known by; a directory has exactly one until it is removed.
    pub(super) links: SmallVec<[Link; 1]>,
    pub(super) upper: Option<Upper>,
    pub(super) below: Below,
    /// In the inode index: link count in the view.
    pub(super) nlink: Option<u32>,
    /// Directories: whether the upper has a default ACL, once asked.
    pub(super) default_acl: Option<bool>,
}

/// One inode of the view.
#[derive(Debug)]
pub(super) struct Node {
    /// Never used twice: key of caches.
    pub(super) id: u64,
    /// What programs see.
    pub(super) ino: u64,
    pub(super) kind: Kind,
    pub(super) state: Mutex<State>,
    /// Held while data is copied up.
    pub(super) copy_up: Mutex<()>,
    /// Directories: shared while a name in it is resolved, exclusive while its names change. The flag tells that it was
    /// removed.
    pub(super) names: RwLock<bool>,
    pub(super) table: Arc<Inodes>,
}

impl Node {
    pub(super) fn new(ino: u64, kind: Kind, state: State, table: Arc<Inodes>) -> Self {
        Self {
            id: new_id(),
            ino,
            kind,
            state: Mutex::new(state),
            copy_up: Mutex::new(()),
            names: RwLock::new(false),
            table,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// The layers' directories below, top first.
    pub(super) fn lower_dirs(&self) -> SmallVec<[Arc<LowerDir>; 2]> {
        match &self.state.lock().below {
            Below::Dirs(dirs) => dirs.clone(),
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
        if !state.links.iter().any(|l| l.is(parent, name)) {
            state.links.push(Link { parent: parent.clone(), name: name.into() });
        }
    }

    /// Forgets a name. The link is handed back so that its parent is dropped outside of the lock.
    pub(super) fn remove_link(&self, parent: &Arc<Node>, name: &[u8]) -> Option<Link> {
        let mut state = self.state.lock();
        let i = state.links.iter().position(|l| l.is(parent, name))?;
        Some(state.links.remove(i))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.table.dropped(self);
    }
}
