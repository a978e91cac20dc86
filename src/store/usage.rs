//! How much the store holds.

use std::path::Path;

use super::{Error, Result, Status, Store};

/// One kind of things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that a sweep, or removing what does not run, would free.
    pub unneeded: u64,
}

/// All kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Unpacked.
    pub layers: Used,
    /// As they came, manifests and configs.
    pub blobs: Used,
    /// Their writable layers.
    pub containers: Used,
}

impl Store {
    /// Adds up what is here.
    ///
    /// # Errors
    /// An image or a directory can't be read.
    pub fn usage(&self) -> Result<Usage> {
        let _adding = self.adding()?;
        let live = self.mark()?;
        let mut usage = Usage::default();
        for id in self.all_layers()? {
            let Some(layer) = self.layer(&id)? else { continue };
            usage.layers.add(layer.info.size, !live.layers.contains(&id));
        }
        for (digest, _, size) in self.blobs()? {
            usage.blobs.add(size, !live.blobs.contains(&digest));
        }
        for container in self.containers()? {
            usage.containers.add(tree_size(&container.upper())?, container.status()? != Status::Running);
        }
        Ok(usage)
    }
}

impl Used {
    fn add(&mut self, bytes: u64, unneeded: bool) {
        self.count += 1;
        self.bytes += bytes;
        self.unneeded += if unneeded { bytes } else { 0 };
    }
}

/// The bytes of all files in a tree; what goes meanwhile is not counted.
fn tree_size(root: &Path) -> Result<u64> {
    let mut todo = vec![root.to_owned()];
    let mut sum = 0;
    while let Some(dir) = todo.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.map_err(Error::at("read", &dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::at("read", &dir))?;
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => todo.push(entry.path()),
                Ok(meta) => sum += meta.len(),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::at("stat", &entry.path())(e)),
            }
        }
    }
    Ok(sum)
}
