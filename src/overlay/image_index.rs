//! Building an image index: the lower layers are walked once, as the union shows them, and what is found is written
//! down. To a union over the index that is one lower layer, in which all is said that its layers say together.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use smallvec::SmallVec;

use super::stack::{Layer, Lower as Found, LowerAt, LowerDir, face, lower_path, new_id};
use super::{Config, Error, Layers, Lower, Overlay};
use crate::layer::Handle;
use crate::layer::index::{self, Entry, Source, Writer};
use crate::vocab::dialect::{self, Prefix, STORED_STATS};
use crate::vocab::{Errno, Kind, Result, Stat, why};

/// A directory whose entries are still to be written: its record, what it is in the layers, its path in the view.
type Todo = (u32, SmallVec<[Arc<LowerDir>; 2]>, Vec<u8>);

/// Builds the image index of `lowers`, the top one first, at `to`. Marks are read in the spelling of `prefix`, AUFS's
/// names with `aufs`; a union uses the index only if it reads them the same way. The layers must stay as they are from
/// here on. Held in memory are the entries of one directory, and which directories are still to come.
///
/// # Errors
/// What can't be read or written; something else mounted in a layer; what makes no sense in one. Nothing is left at `to`
/// but what was there.
pub fn build_index(lowers: Vec<Lower>, prefix: Prefix, aufs: bool, to: &Path) -> std::result::Result<(), Error> {
    let config = Config { prefix: Some(prefix), aufs, ..Config::default() };
    let mut view = Overlay::new(Layers { upper: None, lowers }, config)?;
    let stored: Vec<_> = view.layers.iter().map(|l| l.stored_owners).collect();
    // What is stored is for the union over the index to apply: here all is to be as it is on disk.
    view.layers.iter_mut().for_each(|l| l.stored_owners = false);
    let roots = view.layers.iter().map(|l| view.lower_handle(&l.root)?.stat(b"")).collect::<Result<Vec<_>>>();
    let roots = roots.map_err(|e| Error::new("a layer's root", e))?;
    let mut builder = Builder { view, stored, roots, marked: false };
    let mut writer = Writer::new(to).map_err(refused)?;
    builder.walk(&mut writer)?;
    let Builder { roots, marked, .. } = builder;
    writer.finish(&Source { roots, prefix, aufs, marked }).map_err(refused)
}

fn refused(e: index::Error) -> Error {
    Error::refused(e.to_string(), "without an index the layers' directories are read")
}

struct Builder {
    view: Overlay,
    /// Layers whose objects carry their owners in an attribute.
    stored: Vec<bool>,
    roots: Vec<Stat>,
    /// A mark was met, in either spelling.
    marked: bool,
}

impl Builder {
    fn walk(&mut self, writer: &mut Writer) -> std::result::Result<(), Error> {
        let at = |path: &[u8], e| Error::new(format!("index of /{}", String::from_utf8_lossy(path)), e);
        let dirs: SmallVec<_> = self.view.layers.iter().map(|l| l.root.clone()).collect();
        let root = self.root(&dirs).map_err(|e| at(b"", e))?;
        writer.root(&root).map_err(refused)?;
        let mut todo: VecDeque<Todo> = VecDeque::from([(0, dirs, Vec::new())]);
        while let Some((record, dirs, path)) = todo.pop_front() {
            let names = self.view.lower_names(&dirs).map_err(|e| at(&path, e))?;
            let (mut entries, mut below) = (Vec::new(), Vec::new());
            for name in names {
                let inside = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], &name].concat() };
                let Some((entry, more)) = self.entry(&dirs, &name, &inside).map_err(|e| at(&inside, e))? else {
                    continue;
                };
                if let Some(more) = more {
                    below.push((entries.len() as u32, more, inside));
                }
                entries.push(entry);
            }
            let first = writer.children(record, &entries).map_err(refused)?;
            todo.extend(below.into_iter().map(|(i, dirs, path)| (first + i, dirs, path)));
        }
        Ok(())
    }

    fn root(&mut self, dirs: &[Arc<LowerDir>]) -> Result<Entry> {
        let shown = face(dirs).ok_or(Errno::NOENT)?.layer;
        self.dir(dirs, b"", self.roots[shown])
    }

    /// One name of the view; with what it is in the layers if it is a directory.
    #[allow(clippy::type_complexity, reason = "two things come of one look")]
    fn entry(
        &mut self,
        dirs: &[Arc<LowerDir>],
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<(Entry, Option<SmallVec<[Arc<LowerDir>; 2]>>)>> {
        let entry = match self.view.step_lower(dirs, name)? {
            None => return Ok(None),
            Some(Found::Dir { dirs, stat }) => {
                let mut entry = self.dir(&dirs, name, stat)?;
                self.keep_path(&mut entry, &lower_path(face(&dirs).ok_or(Errno::IO)?), path);
                return Ok(Some((entry, Some(dirs))));
            }
            Some(Found::Other { pos, data, stat }) => {
                let dir = self.view.lower_handle(&pos.dir)?;
                let mut xattrs = self.xattrs(&dir, &pos.name, pos.dir.layer)?;
                let mut stat = self.on_its_disk(stat, pos.dir.layer)?;
                if stat.is_whiteout() {
                    // A file that stands for a device, which is for the union to know.
                    stat.kind = Kind::File;
                    xattrs.push((self.view.prefix.attr(dialect::DEVICE), b"0:0".to_vec()));
                }
                let target = if stat.kind == Kind::Symlink { Some(dir.readlink(&pos.name)?) } else { None };
                let full = |dir: &Arc<LowerDir>, name: &[u8]| [&lower_path(dir)[..], b"/", name].concat();
                let data = data.map(|d| (d.dir.layer, full(&d.dir, &d.name)[1..].to_vec()));
                let mut entry =
                    Entry { name: name.to_vec(), stat, layer: pos.dir.layer, target, path: None, data, xattrs };
                self.keep_path(&mut entry, &full(&pos.dir, &pos.name), path);
                entry
            }
        };
        Ok(Some((entry, None)))
    }

    fn dir(&mut self, dirs: &[Arc<LowerDir>], name: &[u8], mut stat: Stat) -> Result<Entry> {
        let top = face(dirs).ok_or(Errno::IO)?.clone();
        stat = self.on_its_disk(stat, top.layer)?;
        if dirs.len() > 1 {
            // Nobody counts the subdirectories of all layers.
            stat.nlink = 1;
        }
        let mut xattrs = Vec::new();
        for dir in dirs {
            let handle = self.view.lower_handle(dir)?;
            let all = self.xattrs(&handle, b"", dir.layer)?;
            if Arc::ptr_eq(dir, &top) {
                xattrs = all;
            }
        }
        if dirs.iter().any(|d| d.devices) {
            xattrs.push((self.view.prefix.attr(dialect::DEVICES), b"y".to_vec()));
        }
        Ok(Entry { name: name.to_vec(), stat, layer: top.layer, target: None, path: None, data: None, xattrs })
    }

    /// All attributes but the marks, which are followed here.
    fn xattrs(&mut self, dir: &Handle, name: &[u8], layer: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        let any_stored = self.stored.contains(&true);
        for attr in dir.listxattr(name)? {
            self.marked |= [Prefix::Trusted, Prefix::User].iter().any(|p| attr.starts_with(p.as_bytes()));
            if self.view.prefix.unescape(&attr).is_none() {
                continue;
            }
            // Of a layer that does not store owners they say nothing; hidden they are in all.
            if any_stored && !self.stored[layer] && STORED_STATS.contains(&&attr[..]) {
                continue;
            }
            if let Some(value) = dir.getxattr(name, &attr)? {
                all.push((attr, value));
            }
        }
        Ok(all)
    }

    /// Refuses what is of another file system than its layer: device numbers are told by layer.
    fn on_its_disk(&self, stat: Stat, layer: usize) -> Result<Stat> {
        if stat.dev == self.roots[layer].dev { Ok(stat) } else { Err(Errno::XDEV) }
    }

    fn keep_path(&self, entry: &mut Entry, in_layer: &[u8], in_view: &[u8]) {
        let in_layer = in_layer.strip_prefix(b"/").unwrap_or(in_layer);
        if in_layer != in_view {
            entry.path = Some(in_layer.to_vec());
        }
    }
}

impl Overlay {
    /// Whether an image index stands for the lower layers.
    pub fn uses_index(&self) -> bool {
        self.layers.first().is_some_and(|l| matches!(l.root.at, LowerAt::Held(Handle::Index(_))))
    }
}

/// What stands for `layers` where the index at `path` is theirs.
///
/// # Errors
/// It is not, or not there, or damaged.
pub(super) fn indexed(
    path: &Path,
    layers: &[Layer],
    config: &Config,
    prefix: Prefix,
) -> std::result::Result<Layer, index::Error> {
    let roots: Vec<_> = layers
        .iter()
        .filter_map(|l| match &l.root.at {
            LowerAt::Held(handle) => Some(handle.clone()),
            LowerAt::Child(..) => None,
        })
        .collect();
    if layers.iter().any(|l| l.mapped) {
        return Err(index::Error::new(path, "a layer is on an idmapped mount"));
    }
    let root = Handle::Index(index::Index::open(path, &roots, prefix, config.aufs)?.root());
    let damaged = |e| index::Error::new(path, format!("its root: {}", why(&e)));
    let st = root.stat(b"").map_err(damaged)?;
    let devices = root.getxattr(b"", &prefix.attr(dialect::DEVICES)).map_err(damaged)?.is_some();
    let root = LowerDir {
        id: new_id(),
        layer: 0,
        at: LowerAt::Held(root),
        dev: st.dev,
        ino: st.ino,
        attr_whiteouts: false,
        devices,
        implied: false,
        closed: false,
        absent: 0.into(),
    };
    Ok(Layer { root: Arc::new(root), stored_owners: layers.iter().any(|l| l.stored_owners), mapped: false })
}
