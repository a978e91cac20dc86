//! What an upper changes: added, changed, deleted.

use super::readdir::entries;
use super::stack::{Marks, read_marks};
use super::whiteout::was_plain;
use super::{Config, Error, Layers, Lower, Overlay, ROOT};
use crate::layer::Handle;
use crate::vocab::dialect::{self, Aufs, Prefix};
use crate::vocab::{Errno, Kind, Result};

/// How a path differs from the layers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It is new.
    Added,
    /// It exists below, with other content or metadata; or, a directory, something in it differs.
    Changed,
    /// It exists below only.
    Deleted,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute in the view, as bytes: `/etc/motd`.
    pub path: Vec<u8>,
    /// How it differs.
    pub how: How,
}

/// What `upper` changes, sorted by path.
///
/// With `lowers` (the top one first) the answer is exact. Without, what is marked as copied up counts as changed, and
/// all else as added. `prefix` is the spelling of marks to read where the upper has none of either.
///
/// # Errors
/// A directory that can't be read.
pub fn changes(upper: &Handle, lowers: &[Handle], prefix: Prefix) -> std::result::Result<Vec<Change>, Error> {
    let fail = |e| Error::new("read the upper directory", e);
    let plain = was_plain(upper).map_err(fail)?;
    let overlay = |layers: &[&Handle], prefix| overlay(layers, prefix, plain);
    let alone = Marked { view: overlay(&[upper], prefix)?, plain, seen: None, changes: Vec::new() };
    let (mut all, seen) = alone.walk(upper).map_err(fail)?;
    if !lowers.is_empty() {
        let prefix = seen.unwrap_or(prefix);
        let below: Vec<_> = lowers.iter().collect();
        let merged: Vec<_> = std::iter::once(upper).chain(lowers).collect();
        let exact = Compared { view: overlay(&merged, prefix)?, below: overlay(&below, prefix)?, changes: Vec::new() };
        all = exact.walk(upper).map_err(fail)?;
    }
    all.sort();
    Ok(all)
}

fn overlay(layers: &[&Handle], prefix: Prefix, aufs: bool) -> std::result::Result<Overlay, Error> {
    let lowers = layers.iter().map(|h| Lower { dir: (*h).clone() }).collect();
    Overlay::new(Layers { upper: None, lowers }, Config { prefix: Some(prefix), aufs, ..Config::default() })
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}

/// The upper alone, judged by its marks.
struct Marked {
    /// The upper as the only layer.
    view: Overlay,
    /// Its whiteouts are files.
    plain: bool,
    /// The spelling of the first mark that was seen.
    seen: Option<Prefix>,
    changes: Vec<Change>,
}

impl Marked {
    fn walk(mut self, root: &Handle) -> Result<(Vec<Change>, Option<Prefix>)> {
        let mut todo = vec![(Vec::new(), root.clone(), self.marks(root, b"")?.attr_whiteouts)];
        while let Some((at, dir, attr_whiteouts)) = todo.pop() {
            for (name, _, kind) in entries(&dir)? {
                let path = join(&at, &name);
                match dialect::aufs(&name) {
                    Aufs::Hides(other) if self.plain => {
                        // What is there again was not deleted.
                        if dir.stat(other) == Err(Errno::NOENT) {
                            self.changes.push(Change { path: join(&at, other), how: How::Deleted });
                        }
                        continue;
                    }
                    Aufs::Private if self.plain => continue,
                    _ => {}
                }
                let Some(kind) = self.view.kind_unless_whiteout(&dir, &name, kind, attr_whiteouts)? else {
                    self.changes.push(Change { path, how: How::Deleted });
                    continue;
                };
                let marks = self.marks(&dir, &name)?;
                let renamed = kind == Kind::Dir && marks.redirect.is_some();
                let from_below = marks.origin.is_some() || marks.metacopy || marks.opaque;
                let how = if from_below && !renamed { How::Changed } else { How::Added };
                self.changes.push(Change { path: path.clone(), how });
                if kind == Kind::Dir {
                    todo.push((path, dir.open_dir(&name)?, marks.attr_whiteouts));
                }
            }
        }
        Ok((self.changes, self.seen))
    }

    fn marks(&mut self, dir: &Handle, name: &[u8]) -> Result<Marks> {
        let ours = self.seen.unwrap_or(self.view.prefix);
        let marks = read_marks(dir, name, ours)?;
        if self.seen.is_some() {
            return Ok(marks);
        }
        let nothing = Marks { stored: marks.stored, ..Marks::default() };
        if marks != nothing {
            self.seen = Some(ours);
            return Ok(marks);
        }
        let other = if ours == Prefix::User { Prefix::Trusted } else { Prefix::User };
        let marks = read_marks(dir, name, other)?;
        if marks != nothing {
            self.seen = Some(other);
        }
        Ok(marks)
    }
}

/// The view with the upper beside the view without.
struct Compared {
    view: Overlay,
    below: Overlay,
    changes: Vec<Change>,
}

/// A directory of the view, in each of the trees that have it.
struct Place {
    path: Vec<u8>,
    view: u64,
    below: Option<u64>,
    upper: Option<Handle>,
    /// What is below here came from elsewhere.
    moved: bool,
}

impl Compared {
    fn walk(mut self, upper: &Handle) -> Result<Vec<Change>> {
        let root = Place { path: Vec::new(), view: ROOT, below: Some(ROOT), upper: Some(upper.clone()), moved: false };
        let mut todo = vec![root];
        while let Some(at) = todo.pop() {
            let mut all = self.view.names_in(at.view)?;
            if let Some(below) = at.below {
                all.extend(self.below.names_in(below)?);
            }
            for name in all {
                todo.extend(self.compare(&at, &name)?);
            }
        }
        Ok(self.changes)
    }

    /// Judges one name; the directory to go on with.
    fn compare(&mut self, at: &Place, name: &[u8]) -> Result<Option<Place>> {
        let path = join(&at.path, name);
        let below = at.below.map(|dir| found(&self.below, dir, name)).transpose()?.flatten();
        let Some((view, kind)) = found(&self.view, at.view, name)? else {
            self.changes.push(Change { path, how: How::Deleted });
            return Ok(None);
        };
        let upper = match &at.upper {
            Some(dir) => match dir.stat(name) {
                Ok(_) => Some(dir),
                Err(Errno::NOENT) => None,
                Err(e) => return Err(e),
            },
            None => None,
        };
        if upper.is_none() && below.is_some() && !at.moved {
            return Ok(None);
        }
        let how = if below.is_some() { How::Changed } else { How::Added };
        self.changes.push(Change { path: path.clone(), how });
        if kind != Kind::Dir {
            return Ok(None);
        }
        let moved = at.moved
            || match upper {
                Some(dir) => read_marks(dir, name, self.view.prefix)?.redirect.is_some(),
                None => true,
            };
        Ok(Some(Place {
            path,
            view,
            below: below.filter(|(_, kind)| *kind == Kind::Dir).map(|(ino, _)| ino),
            upper: upper.map(|dir| dir.open_dir(name)).transpose()?,
            moved,
        }))
    }
}

fn found(view: &Overlay, dir: u64, name: &[u8]) -> Result<Option<(u64, Kind)>> {
    match view.lookup(dir, name) {
        Ok(attr) => Ok(Some((attr.ino, attr.stat.kind))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}
