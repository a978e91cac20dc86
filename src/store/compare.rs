//! What differs: between a container and its image, between two images.

use super::{Container, Error, Image, Layer, Result, Store};
use crate::layer::{Handle, disk};
use crate::overlay::{Change, Config, How, Layers, Lower, Overlay, ROOT, changes};
use crate::vocab::dialect::Prefix;
use crate::vocab::{self, Errno, Kind};

impl Store {
    /// What a container changes, sorted by path.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn container_changes(&self, container: &Container) -> Result<Vec<Change>> {
        let lowers: Vec<_> = self.layers(&container.record.layers)?.iter().rev().map(handle).collect::<Result<_>>()?;
        let upper = open(&container.upper())?;
        changes(&upper, &lowers, Prefix::User)
            .map_err(|e| Error::bad(format_args!("container {}: {e}", container.record.name)))
    }

    /// What `new` has other than `old`, sorted by path.
    ///
    /// # Errors
    /// A layer is not here, or can't be read.
    pub fn image_changes(&self, old: &Image, new: &Image) -> Result<Vec<Change>> {
        let adding = self.adding()?;
        let (old, new) = (self.image_layers(old)?, self.image_layers(new)?);
        let _held = (self.hold_layers(&old)?, self.hold_layers(&new)?);
        drop(adding);
        let (old, new) = (view(&old)?, view(&new)?);
        let mut compared = Compared { old, new, found: Vec::new() };
        compared.dir(Vec::new(), ROOT, ROOT).map_err(|e| Error::bad(format_args!("compare: {}", vocab::why(&e))))?;
        compared.found.sort();
        Ok(compared.found)
    }
}

/// A directory, to read.
pub(super) fn open(path: &std::path::Path) -> Result<Handle> {
    disk::Object::open(path, false).map(Handle::Disk).map_err(|e| Error::at("open", path)(e.into()))
}

/// A layer's tree, to read.
pub(super) fn handle(layer: &Layer) -> Result<Handle> {
    open(&layer.tree)
}

/// The view of some layers, bottom first.
pub(super) fn view(layers: &[Layer]) -> Result<Overlay> {
    let lowers = layers.iter().rev().map(|l| Ok(Lower { dir: handle(l)? })).collect::<Result<_>>()?;
    let config = Config { prefix: Some(Prefix::User), ..Config::default() };
    Overlay::new(Layers { upper: None, lowers }, config).map_err(|e| Error::bad(format_args!("layers: {e}")))
}

/// Two views.
struct Compared {
    old: Overlay,
    new: Overlay,
    found: Vec<Change>,
}

impl Compared {
    /// Compares all below a directory that both have; whether anything differs.
    fn dir(&mut self, path: Vec<u8>, old: u64, new: u64) -> vocab::Result<bool> {
        let (before, after) = (self.old.names_in(old)?, self.new.names_in(new)?);
        let mut differs = false;
        for name in before.union(&after) {
            let path = [&path[..], b"/", name].concat();
            let (was, is) = (find(&self.old, old, name)?, find(&self.new, new, name)?);
            let how = match (was, is) {
                (None, None) => continue,
                (Some(_), None) => Some(How::Deleted),
                (None, Some((ino, kind))) => {
                    if kind == Kind::Dir {
                        self.all_added(&path, ino)?;
                    }
                    Some(How::Added)
                }
                (Some((was, Kind::Dir)), Some((is, Kind::Dir))) => {
                    let below = self.dir(path.clone(), was, is)?;
                    (below || !self.same_metadata(was, is)?).then_some(How::Changed)
                }
                (Some((was, was_kind)), Some((is, kind))) => {
                    if kind == Kind::Dir {
                        self.all_added(&path, is)?;
                    }
                    (was_kind != kind || !self.same(was, is, kind)?).then_some(How::Changed)
                }
            };
            if let Some(how) = how {
                self.found.push(Change { path, how });
                differs = true;
            }
        }
        Ok(differs)
    }

    fn all_added(&mut self, path: &[u8], dir: u64) -> vocab::Result<()> {
        let mut todo = vec![(path.to_vec(), dir)];
        while let Some((at, dir)) = todo.pop() {
            for name in self.new.names_in(dir)? {
                let Some((ino, kind)) = find(&self.new, dir, &name)? else { continue };
                let path = [&at[..], b"/", &name].concat();
                self.found.push(Change { path: path.clone(), how: How::Added });
                if kind == Kind::Dir {
                    todo.push((path, ino));
                }
            }
        }
        Ok(())
    }

    fn same_metadata(&self, old: u64, new: u64) -> vocab::Result<bool> {
        let (a, b) = (self.old.getattr(old)?.stat, self.new.getattr(new)?.stat);
        if (a.mode, a.uid, a.gid, a.rdev, a.mtime) != (b.mode, b.uid, b.gid, b.rdev, b.mtime) {
            return Ok(false);
        }
        let attrs = |view: &Overlay, ino| {
            let mut all = view.listxattr(ino)?;
            all.sort();
            all.into_iter().map(|name| Ok((view.getxattr(ino, &name)?, name))).collect::<vocab::Result<Vec<_>>>()
        };
        Ok(attrs(&self.old, old)? == attrs(&self.new, new)?)
    }

    fn same(&self, old: u64, new: u64, kind: Kind) -> vocab::Result<bool> {
        if !self.same_metadata(old, new)? {
            return Ok(false);
        }
        match kind {
            Kind::Symlink => Ok(self.old.readlink(old)? == self.new.readlink(new)?),
            Kind::File => self.same_content(old, new),
            _ => Ok(true),
        }
    }

    fn same_content(&self, old: u64, new: u64) -> vocab::Result<bool> {
        if self.old.getattr(old)?.stat.size != self.new.getattr(new)?.stat.size {
            return Ok(false);
        }
        let (mut a, mut b) = (vec![0; 256 << 10], vec![0; 256 << 10]);
        let mut at = 0;
        loop {
            let (n, m) = (self.old.read(old, at, &mut a)?, self.new.read(new, at, &mut b)?);
            if a[..n] != b[..m] {
                return Ok(false);
            }
            if n == 0 {
                return Ok(true);
            }
            at += n as u64;
        }
    }
}

fn find(view: &Overlay, dir: u64, name: &[u8]) -> vocab::Result<Option<(u64, Kind)>> {
    match view.lookup(dir, name) {
        Ok(attr) => Ok(Some((attr.ino, attr.stat.kind))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}
