//! Names that go: unlink and rmdir. What a lower still has is hidden by a whiteout; nothing is copied up for it.

use std::sync::Arc;

use super::Overlay;
use super::copy_up::Want;
use super::lookup::Found;
use super::node::{Node, UpperAt};
use super::whiteout::clear_whiteouts;
use crate::layer::Handle;
use crate::vocab::{Errno, Result};

const TRIES: u32 = 100;

fn no_dir(node: &Node) -> Result<()> {
    if node.is_dir() { Err(Errno::ISDIR) } else { Ok(()) }
}

fn a_dir(node: &Node) -> Result<()> {
    if node.is_dir() { Ok(()) } else { Err(Errno::NOTDIR) }
}

impl Overlay {
    /// unlink(2).
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        let parent = self.dir_node(parent)?;
        self.tree()?;
        for _ in 0..TRIES {
            self.copy_up_around(&parent, name, no_dir)?;
            let names = parent.names_mut();
            let (found, node) = self.going(&parent, names.removed(), name, no_dir)?;
            if self.wants_index(&node) {
                drop(names);
                self.copy_up_to_index(&node)?;
                continue;
            }
            let hidden = self.is_hidden_below(&parent, name, &found)?;
            let dir = self.upper_dir(&parent)?;
            let pin = self.pin_if_last(&parent, &dir, name, &node, &found)?;
            let counted = self.count_down(&node, &found)?;
            let done = match (found.named, hidden) {
                (true, true) => self.put_whiteout(&dir, name),
                (true, false) => dir.unlink(name),
                (false, _) => self.new_whiteout(&dir, name),
            };
            self.count_back_unless(done, &node, counted)?;
            let gone = self.unlinked(&parent, name, &node, pin, counted);
            self.unlisted(&parent, name);
            drop(names);
            return gone;
        }
        Err(Errno::STALE)
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        let parent = self.dir_node(parent)?;
        self.tree()?;
        self.copy_up_around(&parent, name, a_dir)?;
        let names = parent.names_mut();
        let (found, node) = self.going(&parent, names.removed(), name, a_dir)?;
        let inside = node.names_mut();
        let hidden = self.is_hidden_below(&parent, name, &found)?;
        // Where nothing is below, the disk knows whether it is empty.
        let merged = hidden || !node.lower_dirs().is_empty();
        if merged && !self.is_empty(&node)? {
            return Err(Errno::NOTEMPTY);
        }
        let dir = self.upper_dir(&parent)?;
        let open = || self.dirs.get(&node.id).map_or_else(|| dir.open_dir(name), Ok);
        let pin = if found.named { Some(open()?) } else { None };
        match &pin {
            None => self.new_whiteout(&dir, name)?,
            Some(own) if hidden => self.swap_for_whiteout(&dir, name, own)?,
            Some(own) => match dir.rmdir(name) {
                Err(Errno::NOTEMPTY) if !merged && !self.is_empty(&node)? => return Err(Errno::NOTEMPTY),
                // Whiteouts that hide nothing any more.
                Err(Errno::NOTEMPTY) => {
                    clear_whiteouts(own)?;
                    dir.rmdir(name)?;
                }
                r => r?,
            },
        }
        self.buried(&parent, name, &node, pin);
        inside.remove();
        self.unlisted(&parent, name);
        Ok(())
    }

    /// Gives a directory an upper before a name in it goes; not for the sake of one that is not there, or not `fit`.
    fn copy_up_around(&self, parent: &Arc<Node>, name: &[u8], fit: fn(&Node) -> Result<()>) -> Result<()> {
        if parent.has_upper() {
            return Ok(());
        }
        fit(&*self.found_node(parent, name)?)?;
        self.copy_up(parent, Want::Metadata)
    }

    /// What goes, if it is `fit`. The caller holds the directory's names alone; `removed`: it went itself.
    fn going(
        &self,
        parent: &Arc<Node>,
        removed: bool,
        name: &[u8],
        fit: fn(&Node) -> Result<()>,
    ) -> Result<(Found, Arc<Node>)> {
        if removed {
            return Err(Errno::NOENT);
        }
        let found = self.resolve(parent, name)?.ok_or(Errno::NOENT)?;
        let node = self.node_of(parent, name, &found)?;
        fit(&node)?;
        Ok((found, node))
    }

    /// The node of a name that is there.
    pub(super) fn found_node(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Arc<Node>> {
        let names = parent.names();
        if names.removed {
            return Err(Errno::NOENT);
        }
        self.peek(parent, name)?.ok_or(Errno::NOENT)
    }

    /// What a name is, now that its directory is locked; `None` if it is not this node any more.
    pub(super) fn still(
        &self,
        parent: &Arc<Node>,
        removed: bool,
        name: &[u8],
        node: &Arc<Node>,
    ) -> Result<Option<Found>> {
        if removed {
            return Err(Errno::NOENT);
        }
        let found = self.resolve(parent, name)?.ok_or(Errno::NOENT)?;
        let same = Arc::ptr_eq(&self.node_of(parent, name, &found)?, node);
        Ok(same.then_some(found))
    }

    /// Whether a lower would show through once the upper's own object is gone.
    pub(super) fn is_hidden_below(&self, parent: &Arc<Node>, name: &[u8], found: &Found) -> Result<bool> {
        if !found.named {
            return Ok(true);
        }
        Ok(self.in_lower(parent, name)?.is_some())
    }

    /// Opens an object whose last known name goes, so that those who have it open keep it.
    pub(super) fn pin_if_last(
        &self,
        parent: &Arc<Node>,
        dir: &Handle,
        name: &[u8],
        node: &Node,
        found: &Found,
    ) -> Result<Option<Handle>> {
        let last = {
            let state = node.state.lock();
            let by_name = state.upper.as_ref().is_some_and(|u| matches!(u.at, UpperAt::Name));
            by_name && !state.links().iter().any(|l| !l.is(parent, name))
        };
        if found.named && last { dir.pin(name).map(Some) } else { Ok(None) }
    }

    /// Writes down that an indexed object is about to lose a name that the upper does not have: nothing else counts it.
    /// Whether there was anything to write; its last name takes it out of the index instead.
    pub(super) fn count_down(&self, node: &Node, found: &Found) -> Result<bool> {
        let (index, nlink) = {
            let state = node.state.lock();
            match (state.upper.as_ref().map(|u| &u.at), state.nlink) {
                (Some(UpperAt::Index(index)), Some(n)) if !found.named && n > 1 => (index.clone(), n),
                _ => return Ok(false),
            }
        };
        self.set_nlink(node, &index, Some(nlink - 1))?;
        Ok(true)
    }

    /// Passes `done` on; after a failure a name that was counted down is counted again.
    pub(super) fn count_back_unless(&self, done: Result<()>, node: &Node, counted: bool) -> Result<()> {
        if done.is_err() && counted {
            let (index, nlink) = {
                let state = node.state.lock();
                match (state.upper.as_ref().map(|u| &u.at), state.nlink) {
                    (Some(UpperAt::Index(index)), Some(n)) => (index.clone(), n),
                    _ => return done,
                }
            };
            if let Err(e) = self.set_nlink(node, &index, Some(nlink + 1)) {
                log::warn!("inode {}: its link count is one too low: {e}", node.ino);
            }
        }
        done
    }

    /// A non-directory has lost this name; `counted` if its link count knows already.
    pub(super) fn unlinked(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        node: &Arc<Node>,
        pin: Option<Handle>,
        counted: bool,
    ) -> Result<()> {
        let link = node.remove_link(parent, name);
        let index = {
            let mut state = node.state.lock();
            if let (Some(handle), Some(upper)) = (pin, &mut state.upper) {
                upper.at = UpperAt::Pinned(handle);
            }
            match (state.upper.as_ref().map(|u| &u.at), state.below.nlink()) {
                (Some(UpperAt::Index(index)), _) => Some((index.clone(), state.nlink)),
                // The lower does not know that it lost one.
                (None, Some(lower)) => {
                    state.nlink = Some(state.nlink.unwrap_or(lower).saturating_sub(1));
                    None
                }
                _ => None,
            }
        };
        drop(link);
        let Some((index, Some(before))) = index else { return Ok(()) };
        let nlink = before.saturating_sub(u32::from(!counted));
        node.state.lock().nlink = Some(nlink);
        if nlink > 0 {
            // With a name in the upper gone, the difference stays as it was.
            return Ok(());
        }
        let dir = self.index()?;
        let pinned = dir.pin(&index)?;
        dir.unlink(&index)?;
        if let Some(upper) = &mut node.state.lock().upper {
            upper.at = UpperAt::Pinned(pinned);
        }
        Ok(())
    }

    /// A directory has lost its name; those who are in it keep its handle.
    pub(super) fn buried(&self, parent: &Arc<Node>, name: &[u8], node: &Arc<Node>, pin: Option<Handle>) {
        let link = node.remove_link(parent, name);
        {
            let mut state = node.state.lock();
            state.nlink = Some(0);
            if let (Some(handle), Some(upper)) = (pin, &mut state.upper) {
                upper.at = UpperAt::Pinned(handle);
            }
        }
        drop(link);
        self.dirs.remove(&node.id);
        self.listings.remove(&node.id);
    }
}
