//! The table of inodes: by what they are in the layers, and by the number that the kernel knows them by.
//!
//! A shard's guard never outlives the statement that took it, no node is dropped under one (its `Drop` comes back here),
//! and a node whose last reference went is never revived: the weak reference fails and a new node takes its place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard, RwLock};
use smallvec::SmallVec;

use super::node::{Key, Node};
use crate::vocab::Kind;

/// The root directory's number (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// Numbers from here on are given out where a real one is taken.
const DYNAMIC: u64 = 1 << 63;
/// Both of the highest bits: of a view [beside](super::beside) another, in a range of its own for each.
pub(super) const BESIDE: u64 = 3 << 62;
pub(super) const NTH_SHIFT: u32 = 57;
/// Above the inode number on disk stands the number of its file system.
const FS_SHIFT: u32 = 48;

/// Parts of the table by number, each with a lock of its own.
const SHARDS: usize = 64;

/// Nodes by number: a pointer each for those that the kernel knows.
#[derive(Debug, Default)]
struct Shard {
    /// The kernel holds references to them.
    held: HashTable<Arc<Node>>,
    /// Somebody else does, or did a moment ago.
    known: HashMap<u64, Weak<Node>>,
}

/// Who has a number.
enum At {
    Nobody,
    Node(Arc<Node>),
    /// Its last reference went, and it is on its way out.
    Dying,
}

impl Shard {
    fn at(&self, ino: u64) -> At {
        match (self.held.find(mixed(ino), |n| n.ino == ino), self.known.get(&ino)) {
            (Some(node), _) => At::Node(node.clone()),
            (None, Some(weak)) => weak.upgrade().map_or(At::Dying, At::Node),
            (None, None) => At::Nobody,
        }
    }
}

/// Spreads numbers.
fn mixed(ino: u64) -> u64 {
    let n = ino.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n ^ n >> 32
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
#[derive(Debug)]
pub(super) struct Inodes {
    /// No number is written down at copy-up.
    unmarked: bool,
    /// The bits that all numbers begin with, and how many those are.
    range: (u64, u32),
    /// By object, where that does not give the number: see [`find`](Inodes::find).
    by_key: DashMap<Key, Weak<Node>>,
    by_ino: Box<[Mutex<Shard>]>,
    systems: RwLock<Vec<u64>>,
    dynamic: AtomicU64,
    /// Counts nodes that went; and for each of a few sets of keys, the count when the last one with such a key went.
    passed: AtomicU64,
    last_passed: Passed,
    /// Hooks of caches that are keyed by node: told when one is gone.
    gone: Mutex<Vec<u64>>,
}

impl Default for Inodes {
    fn default() -> Self {
        Self {
            unmarked: false,
            range: (0, 0),
            by_key: DashMap::with_shard_amount(SHARDS),
            by_ino: (0..SHARDS).map(|_| Mutex::default()).collect(),
            systems: RwLock::default(),
            dynamic: AtomicU64::default(),
            passed: AtomicU64::default(),
            last_passed: Passed::default(),
            gone: Mutex::default(),
        }
    }
}

impl Inodes {
    /// An empty table; `unmarked` if the upper keeps no numbers from before a copy-up; of the view that is the so many-th
    /// `beside` another.
    pub(super) fn new(unmarked: bool, beside: Option<u8>) -> Self {
        let range = beside.map_or((0, 0), |nth| (BESIDE | u64::from(nth) << NTH_SHIFT, u64::BITS - NTH_SHIFT));
        Self { unmarked, range, ..Self::default() }
    }

    /// A number as one of this table's: where two come to be the same, one node gets another.
    fn ours(&self, n: u64) -> u64 {
        let (first, bits) = self.range;
        first | n << bits >> bits
    }

    /// The root's number.
    pub(super) fn root(&self) -> u64 {
        self.ours(ROOT)
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
            return self.ours((ino ^ fs.wrapping_mul(0x9e37_79b9_7f4a_7c15)) & !DYNAMIC | 1 << 62);
        }
        self.ours(match fs << FS_SHIFT | ino {
            // 0 and 1 have a meaning of their own.
            n @ (0 | ROOT) => n | 1 << 62,
            n => n,
        })
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, Shard> {
        self.by_ino[(mixed(ino) >> 40) as usize % SHARDS].lock()
    }

    fn at(&self, ino: u64) -> At {
        self.shard(ino).at(ino)
    }

    /// The node that is this object of a layer, if anybody refers to it. Most have the number that their object gives
    /// them, and are found by that; the others are in a table of their own.
    pub(super) fn find(&self, key: Key) -> Option<Arc<Node>> {
        let other = self.by_key.get(&key).and_then(|w| w.upgrade());
        other.or_else(|| self.get(self.number(key)).filter(|node| node.state.lock().has_key(key)))
    }

    /// The node with this number.
    pub(super) fn get(&self, ino: u64) -> Option<Arc<Node>> {
        match self.at(ino) {
            At::Node(node) => Some(node),
            At::Dying | At::Nobody => None,
        }
    }

    /// A moment, for [`intern`](Self::intern).
    pub(super) fn moment(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// The node for the object known by `keys` (the first counts), made by `make` with its final number where there is
    /// none yet, of what was read in the layers after `since`. `None` if another node of the object went meanwhile:
    /// through it the object may have been changed after it was read.
    pub(super) fn intern(
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
        let Some(key) = keys.first() else { return Some(self.number_node(want, &make)) };
        // Whoever has the number: dropped after the guard of the entry, for that may come back here.
        let mut stray = At::Nobody;
        let entry = self.by_key.entry(*key);
        match &entry {
            Entry::Occupied(e) => {
                let node = e.get().upgrade();
                if node.is_some() || since.is_some() {
                    drop(entry);
                    return node;
                }
            }
            Entry::Vacant(_) => {
                if self.number(*key) == want {
                    stray = self.at(want);
                }
                let since = since.unwrap_or(u64::MAX);
                match &stray {
                    At::Node(node) if node.state.lock().has_key(*key) => {
                        drop(entry);
                        return if let At::Node(node) = stray { Some(node) } else { None };
                    }
                    At::Dying if since != u64::MAX => return None,
                    _ if self.last_passed.of(*key).load(Ordering::SeqCst) > since => return None,
                    _ => {}
                }
            }
        }
        let node = self.number_node(want, &make);
        match entry {
            Entry::Occupied(mut e) => {
                e.insert(Arc::downgrade(&node));
            }
            Entry::Vacant(e) if self.number(*key) != node.ino => {
                e.insert(Arc::downgrade(&node));
            }
            Entry::Vacant(_) => {}
        }
        drop(stray);
        self.add_keys(&node, &keys[1..]);
        Some(node)
    }

    /// A node that is no object of a layer alone: the root.
    pub(super) fn add(&self, ino: u64, make: impl Fn(u64) -> Node) -> Arc<Node> {
        self.number_node(ino, &make)
    }

    /// Gives the node a number: the wanted one unless another node has it.
    fn number_node(&self, want: u64, make: &impl Fn(u64) -> Node) -> Arc<Node> {
        let mut ino = want;
        loop {
            let mut shard = self.shard(ino);
            let held = shard.held.find(mixed(ino), |n| n.ino == ino).is_some();
            if held || shard.known.get(&ino).is_some_and(|n| n.strong_count() > 0) {
                let (first, bits) = self.range;
                ino = first | DYNAMIC >> bits | self.dynamic.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let node = Arc::new(make(ino));
            shard.known.insert(ino, Arc::downgrade(&node));
            return node;
        }
    }

    fn add_keys(&self, node: &Arc<Node>, keys: &[Key]) {
        for key in keys.iter().filter(|key| self.number(**key) != node.ino) {
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
        let mut shard = self.shard(node.ino);
        let count = node.count.load(Ordering::Relaxed);
        // One that can't be counted any more stays for ever.
        node.count.store(count.saturating_add(1), Ordering::Relaxed);
        if count == 0 {
            shard.known.remove(&node.ino);
            shard.held.insert_unique(mixed(node.ino), node.clone(), |n| mixed(n.ino));
        }
    }

    /// The kernel forgets `count` of its references. Whether it has more.
    pub(super) fn forget(&self, ino: u64, count: u64) -> bool {
        let mut shard = self.shard(ino);
        let Ok(held) = shard.held.find_entry(mixed(ino), |n| n.ino == ino) else { return false };
        let before = held.get().count.load(Ordering::Relaxed);
        if before == u32::MAX {
            return true;
        }
        let left = u64::from(before).saturating_sub(count) as u32;
        held.get().count.store(left, Ordering::Relaxed);
        if left == 0 {
            let (node, _) = held.remove();
            shard.known.insert(ino, Arc::downgrade(&node));
            // Dropping comes back to this table.
            drop(shard);
            drop(node);
        }
        left > 0
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
                state.links().iter().map(|l| l.parent.id).collect()
            }
            _ => SmallVec::new(),
        };
        keys.extend(state.below.key());
        drop(state);
        let now = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        for key in keys {
            // Before the key goes: whoever finds it gone is to know that.
            self.last_passed.of(key).fetch_max(now, Ordering::SeqCst);
            self.remove_key(node, key);
        }
        {
            let mut shard = self.shard(node.ino);
            if shard.known.get(&node.ino).is_some_and(|n| std::ptr::eq(n.as_ptr(), node)) {
                shard.known.remove(&node.ino);
            }
        }
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
        for shard in &self.by_ino {
            let mut shard = shard.lock();
            shard.held.shrink_to_fit(|n| mixed(n.ino));
            shard.known.shrink_to_fit();
        }
    }

    /// How many numbers are in use.
    pub(super) fn len(&self) -> usize {
        self.by_ino.iter().map(|shard| shard.lock()).map(|shard| shard.held.len() + shard.known.len()).sum()
    }
}
