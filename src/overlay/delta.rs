//! What a layer would have to say: an upper's changes, each as the merged view shows it, or a whole view.
//!
//! Where [`changes`](super::changes()) answers a user, this answers a writer of layers: a directory that was moved here is
//! told with all that is in it, and what nothing of the layers below shows through is told to be so.

use std::collections::BTreeSet;

use super::stack::read_marks;
use super::whiteout::was_plain;
use super::{Attr, Config, Error, Layers, Lower, Overlay, ROOT, Upper};
use crate::layer::Handle;
use crate::vocab::dialect::{AUFS_OPAQUE, Prefix, aufs_whiteout};
use crate::vocab::{Errno, Kind, Result};

/// What is to be said of a path.
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// It is this, in the view.
    Here(&'a Attr),
    /// What the layers below have there is gone. A socket that covers something is told after this: an archive has no
    /// sockets.
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
    /// The inode index has something: names that the upper lacks may show its objects.
    linked: bool,
}

impl Delta {
    /// Of `upper` to `lowers`, the top one first. `prefix` is the spelling of the marks in all of them. With
    /// `stored_owners` the upper keeps owners in attributes, and what has none there is root's if it is ours.
    ///
    /// `work` is the upper's work directory: its inode index tells of hard links that were changed by another name.
    /// Without it they fall apart.
    ///
    /// # Errors
    /// As [`Overlay::new`].
    pub fn new(
        upper: &Handle,
        work: Option<&Handle>,
        lowers: &[Handle],
        prefix: Prefix,
        stored_owners: bool,
    ) -> std::result::Result<Self, Error> {
        let plain = was_plain(upper).map_err(|e| Error::new("read the upper directory", e))?;
        let stack = |upper: Option<Upper>| {
            let config = Config {
                prefix: Some(prefix),
                aufs: false,
                stored_owners: stored_owners && upper.is_some(),
                ours_as_root: stored_owners,
                frozen: true,
                ..Config::default()
            };
            let lowers = lowers.iter().map(|dir| Lower { dir: dir.clone() }).collect();
            Overlay::new(Layers { upper, lowers }, config)
        };
        let below = if lowers.is_empty() { None } else { Some(stack(None)?) };
        // Something has to be there, though nothing is made in it.
        let dir = upper.clone();
        let mut view = stack(Some(Upper { dir, work: work.unwrap_or(upper).clone() }))?;
        if let (None, Some(upper)) = (work, &mut view.upper) {
            upper.index = None;
        }
        let mut linked = false;
        if let Some(index) = view.upper.as_ref().and_then(|u| u.index.as_ref()) {
            index.list(&mut |_| linked = true).map_err(|e| Error::new("read the inode index", e))?;
        }
        Ok(Self { view, below, upper: upper.clone(), plain, linked })
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
    /// The names in a directory, but `.` and `..`, sorted by their bytes.
    ///
    /// # Errors
    /// As readdir.
    pub fn names_in(&self, dir: u64) -> Result<BTreeSet<Vec<u8>>> {
        let mut all = BTreeSet::new();
        self.readdir(dir, 0, &mut |e| {
            if !matches!(e.name, b"." | b"..") {
                all.insert(e.name.to_vec());
            }
            false
        })?;
        Ok(all)
    }

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
    /// Itself, until it is told: it is as below, and only needed if something in it is told.
    untold: Option<Attr>,
    /// What is told of it is what differs from this one; all of it where there is none.
    below: Option<Below>,
    names: std::collections::btree_set::IntoIter<Vec<u8>>,
}

/// A directory of the layers below, and the upper's own.
struct Below {
    ino: u64,
    upper: Option<Handle>,
}

impl<E: From<Unread>> Walk<'_, E> {
    fn run(&mut self) -> std::result::Result<(), E> {
        let root = self.view.getattr(ROOT).map_err(unread(b""))?;
        (self.each)(b"", Said::Here(&root))?;
        let below = self.delta.map(|(delta, _)| Below { ino: ROOT, upper: Some(delta.upper.clone()) });
        let mut open = vec![self.place(Vec::new(), ROOT, below)?];
        while let Some(at) = open.last_mut() {
            match at.names.next() {
                None => {
                    self.leave(at.view, at.below.as_ref().map(|b| b.ino));
                    open.pop();
                }
                Some(name) => {
                    let deeper = self.step(&mut open, &name)?;
                    open.extend(deeper);
                }
            }
        }
        Ok(())
    }

    /// The directory at `path`, about to be read.
    fn place(&self, path: Vec<u8>, view: u64, below: Option<Below>) -> std::result::Result<Place, E> {
        let mut all = self.view.names_in(view).map_err(unread(&path))?;
        if let (Some((_, overlay)), Some(below)) = (self.delta, &below) {
            all.extend(overlay.names_in(below.ino).map_err(unread(&path))?);
        }
        Ok(Place { path, view, untold: None, below, names: all.into_iter() })
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

    /// Tells of one name in the last of the directories on the way; the directory to go on with.
    fn step(&mut self, open: &mut [Place], name: &[u8]) -> std::result::Result<Option<Place>, E> {
        let Some(at) = open.last() else { return Ok(None) };
        let path = if at.path.is_empty() { name.to_vec() } else { [&at.path[..], b"/", name].concat() };
        let fail = unread(&path);
        let Some(attr) = found(self.view, at.view, name).map_err(&fail)? else {
            // It is below only, or went meanwhile.
            if at.below.is_some() {
                (self.each)(&path, Said::Gone)?;
            }
            return Ok(None);
        };
        let is_dir = attr.stat.kind == Kind::Dir;
        let same = match &at.below {
            None => false,
            Some(Below { upper: Some(upper), .. }) => !has(upper, name).map_err(&fail)?,
            Some(_) => true,
        };
        let linked = self.delta.is_some_and(|(delta, _)| delta.linked);
        // By another name it was changed all the same.
        let same = same && !(linked && self.view.node(attr.ino).map_err(&fail)?.has_upper());
        if same && !(linked && is_dir) {
            self.view.forget(attr.ino, 1);
            return Ok(None);
        }
        if !same {
            for above in open.iter_mut() {
                if let Some(attr) = above.untold.take() {
                    (self.each)(&above.path, Said::Here(&attr))?;
                }
            }
            if attr.stat.kind == Kind::Socket && self.covers(open.last(), name, &path)? {
                (self.each)(&path, Said::Gone)?;
            }
            (self.each)(&path, Said::Here(&attr))?;
        }
        if !is_dir {
            self.view.forget(attr.ino, 1);
            return Ok(None);
        }
        let below = open.last().and_then(|at| at.below.as_ref());
        let below = self.below(below, name, &path, same)?;
        let place = self.place(path, attr.ino, below)?;
        Ok(Some(Place { untold: same.then_some(attr), ..place }))
    }

    /// Whether the layers below have something of this name.
    fn covers(&self, above: Option<&Place>, name: &[u8], path: &[u8]) -> std::result::Result<bool, E> {
        let below = above.and_then(|above| above.below.as_ref());
        let (Some((_, overlay)), Some(below)) = (self.delta, below) else { return Ok(false) };
        let Some(under) = found(overlay, below.ino, name).map_err(unread(path))? else { return Ok(false) };
        overlay.forget(under.ino, 1);
        Ok(true)
    }

    /// What the layers below have under a directory that is told, or looked through.
    fn below(
        &mut self,
        above: Option<&Below>,
        name: &[u8],
        path: &[u8],
        same: bool,
    ) -> std::result::Result<Option<Below>, E> {
        let fail = unread(path);
        let (Some((delta, overlay)), Some(above)) = (self.delta, above) else { return Ok(None) };
        let Some(under) = found(overlay, above.ino, name).map_err(&fail)? else { return Ok(None) };
        let cut = match &above.upper {
            _ if under.stat.kind != Kind::Dir => None,
            Some(upper) if !same => Some(delta.cuts(upper, name, path).map_err(&fail)?),
            _ => Some(false),
        };
        if cut == Some(false) {
            let upper = match &above.upper {
                Some(upper) if !same => Some(upper.open_dir(name).map_err(&fail)?),
                _ => None,
            };
            return Ok(Some(Below { ino: under.ino, upper }));
        }
        overlay.forget(under.ino, 1);
        if cut.is_some() {
            (self.each)(path, Said::Opaque)?;
        }
        Ok(None)
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

/// What a name is, with a reference to it.
fn found(view: &Overlay, dir: u64, name: &[u8]) -> Result<Option<Attr>> {
    match view.lookup(dir, name) {
        Ok(attr) => Ok(Some(attr)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}
