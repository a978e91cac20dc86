//! What a layer would have to say: an upper's changes, each as the merged view shows it, or a whole view.
//!
//! Where [`changes`](super::changes()) answers a user, this answers a writer of layers: a directory that was moved here is
//! told with all that is in it, and what nothing of the layers below shows through is told to be so.

use std::collections::BTreeSet;

use super::stack::read_marks;
use super::whiteout::was_plain;
use super::{Attr, Config, Error, Layers, Lower, Overlay, ROOT};
use crate::layer::Handle;
use crate::vocab::dialect::{AUFS_OPAQUE, Prefix, aufs_whiteout};
use crate::vocab::{Errno, Kind, Result};

/// What is to be said of a path.
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// It is this, in the view.
    Here(&'a Attr),
    /// What the layers below have there is gone.
    Gone,
    /// What the layers below have in this directory, which was told just before, is gone.
    Opaque,
}

/// A path that can't be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Without a slash at its start; the root is empty.
    pub path: Vec<u8>,
    /// The answer of the layer.
    pub errno: Errno,
}

/// An upper beside the layers that it changes; nothing is written to any of them.
#[derive(Debug)]
pub struct Delta {
    view: Overlay,
    below: Option<Overlay>,
    upper: Handle,
    plain: bool,
}

impl Delta {
    /// Of `upper` to `lowers`, the top one first. `prefix` is the spelling of the marks in all of them. With
    /// `stored_owners` the upper keeps owners in attributes, and what has none there is root's if it is ours.
    ///
    /// # Errors
    /// As [`Overlay::new`].
    pub fn new(
        upper: &Handle,
        lowers: &[Handle],
        prefix: Prefix,
        stored_owners: bool,
    ) -> std::result::Result<Self, Error> {
        let plain = was_plain(upper).map_err(|e| Error::new("read the upper directory", e))?;
        let stack = |layers: Vec<Handle>, stored: bool| {
            let config = Config {
                prefix: Some(prefix),
                aufs: plain,
                stored_lowers: if stored { vec![0] } else { Vec::new() },
                ours_as_root: stored_owners,
                ..Config::default()
            };
            let lowers = layers.into_iter().map(|dir| Lower { dir }).collect();
            Overlay::new(Layers { upper: None, lowers }, config)
        };
        let below = if lowers.is_empty() { None } else { Some(stack(lowers.to_vec(), false)?) };
        let all = std::iter::once(upper).chain(lowers).cloned().collect();
        Ok(Self { view: stack(all, stored_owners)?, below, upper: upper.clone(), plain })
    }

    /// What all layers together look like: where the content of what is told is to be read.
    pub fn view(&self) -> &Overlay {
        &self.view
    }

    /// Tells all that the upper changes, in order: a directory before what is in it, names sorted by their bytes. The
    /// root comes first, changed or not. The inode of what is told is known as long as `each` takes.
    ///
    /// # Errors
    /// The first of `each`, or what can't be read.
    pub fn walk<E: From<Unread>>(
        &self,
        each: &mut dyn FnMut(&[u8], Said<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        Walk { view: &self.view, delta: self.below.as_ref().map(|below| (self, below)), each }.run()
    }
}

impl Overlay {
    /// Tells all that is in the view, as [`Delta::walk`] does.
    ///
    /// # Errors
    /// The first of `each`, or what can't be read.
    pub fn tell_all<E: From<Unread>>(
        &self,
        each: &mut dyn FnMut(&[u8], Said<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        Walk { view: self, delta: None, each }.run()
    }
}

struct Walk<'a, E> {
    view: &'a Overlay,
    /// What of the view is to be told: what differs from another one. Else everything.
    delta: Option<(&'a Delta, &'a Overlay)>,
    each: &'a mut dyn FnMut(&[u8], Said<'_>) -> std::result::Result<(), E>,
}

/// A directory on the way.
struct Place {
    path: Vec<u8>,
    view: u64,
    /// What is told of it is what differs from this one; all of it where there is none.
    below: Option<Below>,
    names: std::collections::btree_set::IntoIter<Vec<u8>>,
}

/// A directory of the layers below, and the upper's own.
struct Below {
    ino: u64,
    upper: Handle,
}

impl<E: From<Unread>> Walk<'_, E> {
    fn run(&mut self) -> std::result::Result<(), E> {
        let root = self.view.getattr(ROOT).map_err(unread(b""))?;
        (self.each)(b"", Said::Here(&root))?;
        let below = self.delta.map(|(delta, _)| Below { ino: ROOT, upper: delta.upper.clone() });
        let mut open = vec![self.place(Vec::new(), ROOT, below)?];
        while let Some(at) = open.last_mut() {
            match at.names.next() {
                None => {
                    self.leave(at.view, at.below.as_ref().map(|b| b.ino));
                    open.pop();
                }
                Some(name) => {
                    let deeper = self.step(at, &name)?;
                    open.extend(deeper);
                }
            }
        }
        Ok(())
    }

    /// The directory at `path`, about to be read.
    fn place(&self, path: Vec<u8>, view: u64, below: Option<Below>) -> std::result::Result<Place, E> {
        let mut all = names(self.view, view).map_err(unread(&path))?;
        if let (Some((_, overlay)), Some(below)) = (self.delta, &below) {
            all.extend(names(overlay, below.ino).map_err(unread(&path))?);
        }
        Ok(Place { path, view, below, names: all.into_iter() })
    }

    fn leave(&self, view: u64, below: Option<u64>) {
        if view != ROOT {
            self.view.forget(view, 1);
        }
        if let (Some((_, overlay)), Some(below)) = (self.delta, below)
            && below != ROOT
        {
            overlay.forget(below, 1);
        }
    }

    /// Tells of one name; the directory to go on with.
    fn step(&mut self, at: &Place, name: &[u8]) -> std::result::Result<Option<Place>, E> {
        let path = if at.path.is_empty() { name.to_vec() } else { [&at.path[..], b"/", name].concat() };
        let fail = unread(&path);
        let Some(attr) = found(self.view, at.view, name).map_err(&fail)? else {
            // It is below only, or went meanwhile.
            if at.below.is_some() {
                (self.each)(&path, Said::Gone)?;
            }
            return Ok(None);
        };
        let same = match &at.below {
            None => false,
            Some(below) => !has(&below.upper, name).map_err(&fail)?,
        };
        if same {
            self.view.forget(attr.ino, 1);
            return Ok(None);
        }
        (self.each)(&path, Said::Here(&attr))?;
        if attr.stat.kind != Kind::Dir {
            self.view.forget(attr.ino, 1);
            return Ok(None);
        }
        let below = match (self.delta, &at.below) {
            (Some((delta, overlay)), Some(above)) => {
                let under = found(overlay, above.ino, name).map_err(&fail)?;
                match under {
                    Some(under) if under.stat.kind != Kind::Dir => {
                        overlay.forget(under.ino, 1);
                        None
                    }
                    Some(under) if delta.cuts(&above.upper, name, &path).map_err(&fail)? => {
                        overlay.forget(under.ino, 1);
                        (self.each)(&path, Said::Opaque)?;
                        None
                    }
                    Some(under) => {
                        let upper = above.upper.open_dir(name).map_err(&fail)?;
                        Some(Below { ino: under.ino, upper })
                    }
                    None => None,
                }
            }
            _ => None,
        };
        self.place(path, attr.ino, below).map(Some)
    }
}

impl Delta {
    /// Whether nothing of what the layers below have at `path` shows through this directory of the upper.
    fn cuts(&self, dir: &Handle, name: &[u8], path: &[u8]) -> Result<bool> {
        let marks = read_marks(dir, name, self.view.prefix)?;
        // It may have been moved, and back.
        let elsewhere = marks.redirect.is_some_and(|to| to != name && to.strip_prefix(b"/") != Some(path));
        let plain = self.plain && (has(dir, &aufs_whiteout(name))? || has(&dir.open_dir(name)?, AUFS_OPAQUE)?);
        Ok(marks.opaque || elsewhere || plain)
    }
}

fn unread(path: &[u8]) -> impl Fn(Errno) -> Unread + use<> {
    let path = path.to_vec();
    move |errno| Unread { path: path.clone(), errno }
}

fn has(dir: &Handle, name: &[u8]) -> Result<bool> {
    match dir.stat(name) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(false),
        Err(e) => Err(e),
    }
}

pub(super) fn names(view: &Overlay, dir: u64) -> Result<BTreeSet<Vec<u8>>> {
    let mut all = BTreeSet::new();
    view.readdir(dir, 0, &mut |e| {
        if !matches!(e.name, b"." | b"..") {
            all.insert(e.name.to_vec());
        }
        false
    })?;
    Ok(all)
}

/// What a name is, with a reference to it.
fn found(view: &Overlay, dir: u64, name: &[u8]) -> Result<Option<Attr>> {
    match view.lookup(dir, name) {
        Ok(attr) => Ok(Some(attr)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}
