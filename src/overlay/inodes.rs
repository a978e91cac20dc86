//! The table of inodes: by what they are in the layers, and by the number that the kernel knows them by.
//!
//! A shard's guard never outlives the statement that took it, no node is dropped under one (its `Drop` comes back here),
//! and a node whose last reference went is never revived: the weak reference fails and a new node takes its place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::RwLock;
use smallvec::SmallVec;

use super::node::{Key, Node};
use crate::vocab::Kind;

/// The root directory's number (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// Numbers from here on are given out where a real one is taken.
const DYNAMIC: u64 = 1 << 63;
/// Above the inode number on disk stands the number of its file system.
const FS_SHIFT: u32 = 48;

#[derive(Debug)]
struct Slot {
    node: Weak<Node>,
    /// Held while the kernel knows the number.
    held: Option<Arc<Node>>,
    count: u64,
}

/// When the last node of each set of keys went.
#[derive(Debug)]
struct Passed([AtomicU64; 1024]);

impl Default for Passed {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Passed {
    fn of(&self, (dev, ino): Key) -> &AtomicU64 {
        let mixed = (dev.rotate_left(32) ^ ino).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.0[(mixed >> 54) as usize]
    }
}

/// All inodes that anybody refers to.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    /// No number is written down at copy-up.
    unmarked: bool,
    by_key: DashMap<Key, Weak<Node>>,
    by_ino: DashMap<u64, Slot>,
    systems: RwLock<Vec<u64>>,
    dynamic: AtomicU64,
    /// Counts nodes that went; and for each of a few sets of keys, the count when the last one with such a key went.
    passed: AtomicU64,
    last_passed: Passed,
    /// Hooks of caches that are keyed by node: told when one is gone.
    gone: parking_lot::Mutex<Vec<u64>>,
}

impl Inodes {
    /// An empty table; `unmarked` if the upper keeps no numbers from before a copy-up.
    pub(super) fn new(unmarked: bool) -> Self {
        Self { unmarked, ..Self::default() }
    }

    /// The number the view gives to an object: its own on the first file system, with that of the file system above it
    /// on others.
    pub(super) fn number(&self, (dev, ino): Key) -> u64 {
        let known = self.systems.read().iter().position(|d| *d == dev);
        let fs = known.unwrap_or_else(|| {
            let mut systems = self.systems.write();
            systems.iter().position(|d| *d == dev).unwrap_or_else(|| {
                systems.push(dev);
                systems.len() - 1
            })
        }) as u64;
        if ino >> FS_SHIFT != 0 || fs >> 14 != 0 {
            // Too big to share a word with its file system: mixed, with the bit that says so.
            return (ino ^ fs.wrapping_mul(0x9e37_79b9_7f4a_7c15)) & !DYNAMIC | 1 << 62;
        }
        match fs << FS_SHIFT | ino {
            // 0 and 1 have a meaning of their own.
            n @ (0 | ROOT) => n | 1 << 62,
            n => n,
        }
    }

    /// The node that is this object of a layer, if anybody refers to it.
    pub(super) fn find(&self, key: Key) -> Option<Arc<Node>> {
        self.by_key.get(&key).and_then(|w| w.upgrade())
    }

    /// The node with this number.
    pub(super) fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.by_ino.get(&ino).and_then(|s| s.node.upgrade())
    }

    /// A moment, for [`intern_read`](Self::intern_read).
    pub(super) fn moment(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// As `intern`, for a node that is made of what was read in the layers after `since`. `None` if another node of the
    /// object went meanwhile: through it the object may have been changed after it was read.
    pub(super) fn intern_read(
        &self,
        keys: &[Key],
        want: u64,
        since: Option<u64>,
        make: impl Fn(u64) -> Node,
    ) -> Option<Arc<Node>> {
        for key in keys {
            if let Some(node) = self.find(*key) {
                return Some(node);
            }
        }
        if let (Some(since), Some(key)) = (since, keys.first()) {
            match self.by_key.entry(*key) {
                Entry::Occupied(e) => {
                    let node = e.get().upgrade();
                    drop(e);
                    return node;
                }
                Entry::Vacant(_) if self.last_passed.of(*key).load(Ordering::SeqCst) > since => return None,
                Entry::Vacant(e) => {
                    let node = self.number_node(want, &make);
                    e.insert(Arc::downgrade(&node));
                    self.add_keys(&node, &keys[1..]);
                    return Some(node);
                }
            }
        }
        Some(self.intern(keys, want, make))
    }

    /// The node for the object known by `keys` (the first counts), made by `make` with its final number where there is
    /// none yet.
    pub(super) fn intern(&self, keys: &[Key], want: u64, make: impl Fn(u64) -> Node) -> Arc<Node> {
        for key in keys {
            if let Some(node) = self.find(*key) {
                return node;
            }
        }
        let Some(key) = keys.first() else { return self.number_node(want, &make) };
        let node = match self.by_key.entry(*key) {
            Entry::Occupied(mut e) => {
                if let Some(node) = e.get().upgrade() {
                    return node;
                }
                let node = self.number_node(want, &make);
                e.insert(Arc::downgrade(&node));
                node
            }
            Entry::Vacant(e) => {
                let node = self.number_node(want, &make);
                e.insert(Arc::downgrade(&node));
                node
            }
        };
        self.add_keys(&node, &keys[1..]);
        node
    }

    /// Gives the node a number: the wanted one unless another node has it.
    fn number_node(&self, want: u64, make: &impl Fn(u64) -> Node) -> Arc<Node> {
        let mut ino = want;
        loop {
            match self.by_ino.entry(ino) {
                Entry::Occupied(e) if e.get().node.strong_count() > 0 => {
                    ino = DYNAMIC | self.dynamic.fetch_add(1, Ordering::Relaxed);
                }
                Entry::Occupied(mut e) => {
                    let node = Arc::new(make(ino));
                    e.insert(Slot { node: Arc::downgrade(&node), held: None, count: 0 });
                    return node;
                }
                Entry::Vacant(e) => {
                    let node = Arc::new(make(ino));
                    e.insert(Slot { node: Arc::downgrade(&node), held: None, count: 0 });
                    return node;
                }
            }
        }
    }

    fn add_keys(&self, node: &Arc<Node>, keys: &[Key]) {
        for key in keys {
            self.by_key.insert(*key, Arc::downgrade(node));
        }
    }

    /// Makes the node known by another object as well: what it was copied up to.
    pub(super) fn add_key(&self, node: &Arc<Node>, key: Key) {
        self.add_keys(node, &[key]);
    }

    /// Lets go of a key of this node.
    pub(super) fn remove_key(&self, node: &Node, key: Key) {
        self.by_key.remove_if(&key, |_, w| std::ptr::eq(w.as_ptr(), node));
    }

    /// The kernel learns of the node once more.
    pub(super) fn claim(&self, node: &Arc<Node>) {
        if let Some(mut slot) = self.by_ino.get_mut(&node.ino)
            && std::ptr::eq(slot.node.as_ptr(), Arc::as_ptr(node))
        {
            slot.count += 1;
            slot.held.get_or_insert_with(|| node.clone());
        }
    }

    /// The kernel forgets `count` of its references.
    pub(super) fn forget(&self, ino: u64, count: u64) {
        // Taken out of the slot before it is dropped: dropping comes back to this table.
        let held = self.by_ino.get_mut(&ino).and_then(|mut slot| {
            slot.count = slot.count.saturating_sub(count);
            if slot.count == 0 { slot.held.take() } else { None }
        });
        drop(held);
    }

    /// A node's last reference went.
    pub(super) fn dropped(&self, node: &Node) {
        let state = node.state.lock();
        let mut keys: SmallVec<[Key; 2]> = SmallVec::new();
        keys.extend(state.upper.as_ref().map(|u| u.key));
        // Its number may go with it, if it could not be written down: listings that tell it are made anew.
        let listings: SmallVec<[u64; 1]> = match state.upper.as_ref() {
            Some(u)
                if (self.unmarked || !matches!(node.kind, Kind::File | Kind::Dir))
                    && self.number(u.key) != node.ino =>
            {
                state.links.iter().map(|l| l.parent.id).collect()
            }
            _ => SmallVec::new(),
        };
        match &state.below {
            super::node::Below::Dirs(dirs) => keys.extend(dirs.first().map(|d| (d.dev, d.ino))),
            super::node::Below::Other { stat, .. } => keys.push((stat.dev, stat.ino)),
            super::node::Below::Nothing => {}
        }
        drop(state);
        let now = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        for key in keys {
            // Before the key goes: whoever finds it gone is to know that.
            self.last_passed.of(key).fetch_max(now, Ordering::SeqCst);
            self.remove_key(node, key);
        }
        self.by_ino.remove_if(&node.ino, |_, slot| std::ptr::eq(slot.node.as_ptr(), node));
        let mut gone = self.gone.lock();
        gone.push(node.id);
        gone.extend(listings);
    }

    /// The ids of nodes that went since the last call, for caches to let go of them.
    pub(super) fn take_gone(&self) -> Vec<u64> {
        std::mem::take(&mut *self.gone.lock())
    }

    /// Makes the tables as small as what is in them.
    pub(super) fn shrink(&self) {
        self.by_key.shrink_to_fit();
        self.by_ino.shrink_to_fit();
    }

    /// How many numbers are in use.
    pub(super) fn len(&self) -> usize {
        self.by_ino.len()
    }
}
