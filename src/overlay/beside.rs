//! The lower layers alone, as a view of their own beside one that has them under an upper, both on one device. Whoever
//! compares the two may then trust numbers: **what is the same object, unchanged, has the same number in both, and nothing
//! else has**. So a tool that leaves out what has the same device and number (as engines do that commit a layer) looks
//! only into directories in which something was changed.
//!
//! An object that was copied up keeps its number in the view with the upper; so it is the other view that shows a different
//! one, its own. Numbers of inodes, which the kernel knows them by, are never shared: they lie in a range for each such view.

use std::sync::Arc;

use super::inodes::{BESIDE, NTH_SHIFT};
use super::node::Node;
use super::stack::Lower;
use super::{Config, Error, Layers, Overlay, readdir};
use crate::vocab::{Errno, Result};

/// So many views there can be beside one.
pub const MAX_BESIDE: u8 = 8;

/// Open handles of such a view: it is walked once.
const OPEN_FILES: usize = 64;

/// Which of the views beside the main one an inode belongs to; `None`: to the main one.
pub fn beside(ino: u64) -> Option<u8> {
    (ino & BESIDE == BESIDE).then_some((ino >> NTH_SHIFT) as u8 & 31)
}

/// What a directory of a view of the lower layers is in the view with the upper.
#[derive(Debug)]
pub struct Twin {
    /// The one of the same path, if there is one.
    dir: Option<Arc<Node>>,
    /// An unchanged directory holds what is unchanged. Not where lower hard links were copied up: other names of theirs
    /// may be anywhere.
    by_tree: bool,
}

impl Overlay {
    /// The layers below the upper as a view of their own, the `nth` one.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the layers may change or are read in an index; what they answer.
    pub fn below(&self, nth: u8) -> std::result::Result<Self, Error> {
        let fail = |e| Error::new("a view of the lower layers", e);
        let upper = self.upper.is_some() && self.config.beside.is_none();
        if !upper || nth >= MAX_BESIDE || self.config.live_lowers || self.config.index.is_some() {
            return Err(fail(Errno::OPNOTSUPP));
        }
        let lowers = self.layers.iter().map(|layer| Ok(super::Lower { dir: self.lower_handle(&layer.root)? }));
        let lowers = lowers.collect::<Result<Vec<_>>>().map_err(fail)?;
        let config = Config {
            prefix: Some(self.prefix),
            volatile: false,
            thrown_away: false,
            open_files: OPEN_FILES.min(self.config.open_files),
            beside: Some(nth),
            ..self.config.clone()
        };
        Self::new(Layers { upper: None, lowers }, config)
    }

    /// The root's number, by which the kernel knows it.
    pub fn root(&self) -> u64 {
        self.root.ino
    }

    /// What `dir` of `below` is here.
    ///
    /// # Errors
    /// What the layers answer.
    pub fn twin(&self, below: &Self, dir: u64) -> Result<Twin> {
        let mut path = Vec::new();
        let mut at = below.dir_node(dir)?;
        while let Some(link) = at.first_link() {
            path.push(link.name);
            at = link.parent;
        }
        let mut here = Some(self.root.clone());
        while let (Some(dir), Some(name)) = (&here, path.pop()) {
            let names = dir.names();
            let found = if names.removed { None } else { self.peek(dir, &name)? };
            drop(names);
            here = found.filter(|node| node.is_dir());
        }
        let by_tree = match self.upper.as_ref().and_then(|u| u.index.as_ref()) {
            Some(index) => readdir::entries(index)?.is_empty(),
            None => true,
        };
        Ok(Twin { dir: here, by_tree })
    }

    /// The number of `name` in `twin` here, if that is the object which is `ino` in `below`, and nothing changed it.
    pub fn number_if_same(&self, twin: &Twin, name: &[u8], below: &Self, ino: u64) -> Option<u64> {
        let dir = twin.dir.as_ref()?;
        let names = dir.names();
        if names.removed {
            return None;
        }
        // What can't be told is not the same: the caller then looks for himself.
        let found = self.resolve(dir, name).ok()??;
        let key = match (&found.upper, &found.lower) {
            (None, Some(Lower::Dir { dirs, .. })) if twin.by_tree => dirs.first().map(|d| (d.dev, d.ino))?,
            (None, Some(Lower::Other { stat, .. })) => (stat.dev, stat.ino),
            _ => return None,
        };
        // It may have been copied up under another name.
        let number = self.inodes.number(key);
        let same = self.inodes.find(key).is_none_or(|node| node.ino == number && !node.has_upper());
        (same && below.inodes.number(key) == ino).then_some(number)
    }

    /// The same for an inode of `below`, by the first of its names.
    ///
    /// # Errors
    /// What the layers answer.
    pub fn number_of(&self, below: &Self, ino: u64) -> Result<Option<u64>> {
        let Some(link) = below.node(ino)?.first_link() else { return Ok(None) };
        let twin = self.twin(below, link.parent.ino)?;
        Ok(self.number_if_same(&twin, &link.name, below, ino))
    }
}
