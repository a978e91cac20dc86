//! Work ahead: who walks a tree lists the directories of a directory next. A thread that looks out for that request
//! reads them meanwhile, from the layers below, of which nothing changes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Overlay;
use super::node::Node;
use super::stack::Lower;
use crate::layer::Handle;
use crate::vocab::Result;

/// Steps that wait; of those that came first the first are forgotten.
const MAX_STEPS: usize = 4096;
/// What was read and not asked for yet. When there is more, the guess was wrong.
const MAX_KEPT: usize = 2048;
/// A bigger directory is not read ahead: it would be the whole of what is kept.
const MAX_ENTRIES: usize = 512;

/// What to do, and what was done.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Somebody does it.
    on: AtomicBool,
    todo: Mutex<Todo>,
    /// By [`Node::id`] of the directory, and name.
    kept: Mutex<HashMap<u64, HashMap<Box<[u8]>, Lower>>>,
    /// How many.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Todo {
    /// A walk goes down first, so the last one comes first.
    steps: Vec<Step>,
    /// Directories, by inode number, that nobody has listed yet; steps for others are void.
    awaited: HashSet<u64>,
}

#[derive(Debug)]
enum Step {
    /// List the directory with this inode number.
    List(u64),
    /// Look for a name of it in the layers.
    Look(u64, Box<[u8]>),
}

impl Step {
    fn of(&self) -> u64 {
        match self {
            Self::List(ino) | Self::Look(ino, _) => *ino,
        }
    }
}

impl Ahead {
    /// A directory is being listed, so what was left to do for it is done now.
    pub(super) fn comes(&self, node: &Node) {
        if self.on.load(Ordering::Relaxed) {
            self.todo.lock().awaited.remove(&node.ino);
        }
    }

    /// These directories were just told of, in this order.
    pub(super) fn expect(&self, dirs: &[u64]) {
        if !dirs.is_empty() && self.on.load(Ordering::Relaxed) {
            let mut todo = self.todo.lock();
            todo.awaited.extend(dirs);
            todo.add(dirs.iter().map(|ino| Step::List(*ino)));
        }
    }

    /// An inode went.
    pub(super) fn forget(&self, id: u64) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(names) = self.kept.lock().remove(&id)
        {
            self.count.fetch_sub(names.len(), Ordering::Relaxed);
        }
    }

    /// What the layers were found to have under a name of this directory; it is told once.
    pub(super) fn take(&self, dir: &Node, name: &[u8]) -> Option<Lower> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut kept = self.kept.lock();
        let names = kept.get_mut(&dir.id)?;
        let found = names.remove(name)?;
        if names.is_empty() {
            kept.remove(&dir.id);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(found)
    }

    fn keep(&self, dir: &Node, name: &[u8], found: Lower) {
        let mut kept = self.kept.lock();
        if self.count.load(Ordering::Relaxed) >= MAX_KEPT {
            kept.clear();
            self.count.store(0, Ordering::Relaxed);
        }
        if kept.entry(dir.id).or_default().insert(name.into(), found).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Todo {
    /// Adds steps, the first of which is to be the next.
    fn add(&mut self, new: impl DoubleEndedIterator<Item = Step>) {
        self.steps.extend(new.rev());
        let over = self.steps.len().saturating_sub(MAX_STEPS);
        for step in self.steps.drain(..over) {
            self.awaited.remove(&step.of());
        }
    }

    fn next(&mut self) -> Option<Step> {
        loop {
            let step = self.steps.pop()?;
            if self.awaited.contains(&step.of()) {
                return Some(step);
            }
        }
    }
}

impl Overlay {
    /// From now on somebody calls [`work_ahead`](Self::work_ahead) when there is time.
    pub fn expect_work_ahead(&self) {
        // What may change is not to be read before it is asked for.
        self.ahead.on.store(!self.config.live_lowers, Ordering::Relaxed);
    }

    /// Does a little of what will probably be asked for next: a listing, or a look at one name. Whether there was any.
    pub fn work_ahead(&self) -> bool {
        let Some(step) = self.ahead.todo.lock().next() else { return false };
        let done = match &step {
            Step::List(ino) => self.list_ahead(*ino),
            Step::Look(ino, name) => self.look_ahead(*ino, name),
        };
        if let Err(e) = done {
            // Whoever asks is told.
            log::debug!("reading ahead: {e}");
        }
        true
    }

    fn list_ahead(&self, ino: u64) -> Result<()> {
        let Some(node) = self.inodes.get(ino) else { return Ok(()) };
        let dirs = node.lower_dirs();
        let indexed = dirs.first().is_some_and(|d| matches!(self.lower_handle(d), Ok(Handle::Index(_))));
        if node.has_upper() || indexed {
            return Ok(());
        }
        let names = node.names();
        if names.removed {
            return Ok(());
        }
        let listing = self.listing(&node)?;
        drop(names);
        self.ahead.todo.lock().add(listing.names(MAX_ENTRIES).into_iter().map(|name| Step::Look(ino, name)));
        Ok(())
    }

    fn look_ahead(&self, ino: u64, name: &[u8]) -> Result<()> {
        let Some(dir) = self.inodes.get(ino) else { return Ok(()) };
        if let Some(found) = self.step_lower(&dir.lower_dirs(), name)? {
            self.ahead.keep(&dir, name, found);
        }
        Ok(())
    }
}
