//! What nothing refers to goes: mark what images and containers need, sweep the rest.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;

use super::container::{State, THROW_AWAY, lock_in};
use super::files::read_json;
use super::lock::{open, try_lock};
use super::{Error, Result, Store};

/// What a sweep has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// The bytes of their files.
    pub layer_bytes: u64,
    /// Left over by what was interrupted.
    pub leftovers: u64,
}

/// What images and containers need.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) blobs: HashSet<Digest>,
    pub(super) layers: HashSet<Digest>,
    /// Image indexes of whole stacks.
    indexes: HashSet<PathBuf>,
}

impl Live {
    fn add_stack(&mut self, store: &Store, diff_ids: &[Digest]) -> Result<()> {
        self.layers.extend(diff_ids.iter().cloned());
        self.indexes.extend(store.index_of_stack(diff_ids)?);
        Ok(())
    }
}

impl Store {
    /// Removes blobs and layers that no image and no container needs, and what was left over by interrupted commands.
    /// Layers that are mounted stay. Waits for those who are adding something; `None`: it may not wait, and somebody is.
    ///
    /// # Errors
    /// An image or a container can't be read: then nothing is removed. The disk's.
    pub fn sweep(&self, wait: bool) -> Result<Option<Freed>> {
        let Some(_alone) = self.sweeping(wait)? else { return Ok(None) };
        let mut freed = Freed { leftovers: self.sweep_containers()?, ..Freed::default() };
        let live = self.mark()?;
        for id in self.all_layers()? {
            self.sweep_layer(&id, &live, &mut freed)?;
        }
        for (digest, path, size) in self.blobs()? {
            if !live.blobs.contains(&digest) {
                fs::remove_file(&path).map_err(Error::at("remove", &path))?;
                freed.blobs += 1;
                freed.blob_bytes += size;
            }
        }
        self.sweep_leftovers(&mut freed)?;
        Ok(Some(freed))
    }

    /// Containers that were to go when they ended, and whose end nobody has seen. What a crash has left of them may be
    /// unreadable. How many there were.
    fn sweep_containers(&self) -> Result<u64> {
        let mut gone = 0;
        let dir = self.path("containers");
        for entry in fs::read_dir(&dir).map_err(Error::at("read", &dir))? {
            let dir = entry.map_err(Error::at("read", &dir))?.path();
            let lock = lock_in(&dir);
            // Those of earlier versions have a state only.
            let goes = dir.join(THROW_AWAY).exists()
                || read_json::<State>(&dir.join("state.json")).is_ok_and(|state| state.remove);
            if goes && try_lock(&open(&lock)?, &lock)? {
                self.remove_tree(&dir)?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    pub(super) fn mark(&self) -> Result<Live> {
        let mut live = Live::default();
        let broken = |e: Error, what_helps| Error::bad(format_args!("{e} (nothing was removed)")).with_hint(what_helps);
        // Whose record can't be read may need anything.
        let containers = self.each_container()?.into_iter().collect::<Result<Vec<_>>>();
        let containers = containers
            .map_err(|e| broken(e, "put the container's record right, or move its directory out of the store"))?;
        let known = self.known()?;
        let held = containers.iter().map(|c| &c.record.manifest);
        for manifest in known.iter().map(|(digest, _)| digest).chain(held) {
            if !live.blobs.insert(manifest.clone()) {
                continue;
            }
            let image = self
                .read_image(manifest)
                .map_err(|e| broken(e, "remove the image that is broken, or load it again: onlay rmi"))?;
            live.blobs.insert(image.id().clone());
            live.blobs.extend(image.manifest().layers().iter().map(|l| l.digest().clone()));
            live.add_stack(self, image.diff_ids())?;
        }
        for container in &containers {
            live.add_stack(self, &container.record.layers)?;
        }
        Ok(live)
    }

    /// Removes a layer that nothing needs, or those of its image indexes that nothing does.
    fn sweep_layer(&self, id: &Digest, live: &Live, freed: &mut Freed) -> Result<()> {
        let dir = self.layer_dir(id)?;
        let file = fs::File::open(&dir).map_err(Error::at("open", &dir))?;
        if !try_lock(&file, &dir)? {
            log::info!("layer {id} is mounted, and stays");
            return Ok(());
        }
        if !live.layers.contains(id) {
            freed.layer_bytes += self.layer(id).ok().flatten().map_or(0, |layer| layer.info.size);
            freed.layers += 1;
            return self.remove_tree(&dir);
        }
        for entry in fs::read_dir(&dir).map_err(Error::at("read", &dir))? {
            let path = entry.map_err(Error::at("read", &dir))?.path();
            let index = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"index-"));
            if index && !live.indexes.contains(&path) && remove_any(&path)? {
                freed.leftovers += 1;
            }
        }
        Ok(())
    }

    /// Nobody adds: what lies in `tmp` and `partial` is nobody's.
    fn sweep_leftovers(&self, freed: &mut Freed) -> Result<()> {
        for dir in ["tmp", "partial"].map(|d| self.path(d)) {
            for entry in fs::read_dir(&dir).map_err(Error::at("read", &dir))? {
                let path = entry.map_err(Error::at("read", &dir))?.path();
                let kept = path.extension().is_some_and(|e| e == "lock") || self.is_spare(&path);
                if remove_any(&path)? && !kept {
                    freed.leftovers += 1;
                }
            }
        }
        Ok(())
    }
}

/// Removes a file or a tree that nobody uses; a container that was half removed may still be served for a moment.
fn remove_any(path: &Path) -> Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        meta => meta.map_err(Error::at("stat", path))?,
    };
    let removed = if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        removed => removed.map_err(Error::at("remove", path)).map(|()| true),
    }
}
