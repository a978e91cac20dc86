//! Which names the directories of lower layers have, as hashes: enough to know, without a system call, that one is not
//! there. A compiler looks for each of its headers in every directory of its path.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Overlay;
use super::cache::weighted;
use super::stack::LowerDir;
use crate::layer::Handle;
use crate::vocab::dialect::AUFS_PREFIX;
use crate::vocab::{Errno, Result};

/// So many names were looked for in vain: the next ones are worth a listing.
const ENOUGH: u8 = 4;
/// Not to be listed any more.
const NEVER: u8 = u8::MAX;
/// Names remembered in all.
const MAX_NAMES: u64 = 1 << 17;
/// Names of one directory: to list it must not cost more than looking for a few names in vain.
const MAX_OF_ONE: usize = 1 << 13;

/// The names of one directory.
#[derive(Debug)]
pub(super) struct Names {
    hashes: Box<[u64]>,
    /// Some hide others (`.wh.NAME`).
    aufs: bool,
}

impl Names {
    pub(super) fn may_have(&self, hash: u64) -> bool {
        self.hashes.binary_search(&hash).is_ok()
    }

    pub(super) fn may_hide(&self) -> bool {
        self.aufs
    }
}

/// What they count for in the cache.
#[derive(Clone, Debug)]
pub(super) struct ByCount;

impl quick_cache::Weighter<u64, Arc<Names>> for ByCount {
    fn weight(&self, _: &u64, names: &Arc<Names>) -> u64 {
        names.hashes.len() as u64 + 4
    }
}

/// A cache of names, by [`LowerDir::id`].
pub(super) fn cache() -> quick_cache::sync::Cache<u64, Arc<Names>, ByCount> {
    weighted(1024, MAX_NAMES, ByCount)
}

impl Overlay {
    pub(super) fn name_hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// What is known of a directory's names.
    pub(super) fn known_names(&self, dir: &LowerDir) -> Option<Arc<Names>> {
        self.names.get(&dir.id)
    }

    /// A name was looked for in vain. After a few of them the directory is listed.
    pub(super) fn missed(&self, dir: &LowerDir, handle: &Handle) {
        // In an image index all is in memory.
        let useless = self.config.live_lowers || matches!(handle, Handle::Index(_));
        if useless || dir.absent.load(Ordering::Relaxed) == NEVER {
            return;
        }
        if dir.absent.fetch_add(1, Ordering::Relaxed).saturating_add(1) < ENOUGH {
            return;
        }
        let mut names = Vec::new();
        match handle.list(&mut |e| names.push(e.name.to_vec())) {
            Ok(()) => self.learn(dir, handle, names.iter().map(Vec::as_slice)),
            Err(_) => dir.absent.store(NEVER, Ordering::Relaxed),
        }
    }

    /// Remembers all names of a directory.
    pub(super) fn learn<'a>(
        &self,
        dir: &LowerDir,
        handle: &Handle,
        names: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) {
        let useless = self.config.live_lowers || matches!(handle, Handle::Index(_));
        if useless || names.len() > MAX_OF_ONE || folds(handle, names.clone()).unwrap_or(true) {
            return dir.absent.store(NEVER, Ordering::Relaxed);
        }
        let aufs = names.clone().any(|n| n.starts_with(AUFS_PREFIX));
        let mut hashes: Box<[u64]> = names.map(|n| self.name_hash(n)).collect();
        hashes.sort_unstable();
        self.names.insert(dir.id, Arc::new(Names { hashes, aufs }));
        // What is too big a part of the cache is not kept: it would be listed again and again.
        let kept = self.names.contains_key(&dir.id);
        dir.absent.store(if kept { 0 } else { NEVER }, Ordering::Relaxed);
    }
}

/// Whether a directory has its names under other spellings, too (vfat, or ext4 with casefold). Tried with the first name
/// that has an ASCII letter; where none has, it may.
fn folds<'a>(dir: &Handle, mut names: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<bool> {
    if names.len() == 0 {
        return Ok(false);
    }
    let Some(name) = names.find(|n| n.iter().any(u8::is_ascii_alphabetic)) else { return Ok(true) };
    let swap = |b: &u8| if b.is_ascii_lowercase() { b.to_ascii_uppercase() } else { b.to_ascii_lowercase() };
    let other: Vec<u8> = name.iter().map(swap).collect();
    match dir.stat(&other) {
        Ok(found) => Ok(dir.stat(name)?.ino == found.ino),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}
