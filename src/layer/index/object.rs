//! An object of an image index, by handle and name, with the answers that its layer's directory would give.

use std::sync::Arc;

use super::Index;
use super::codec::Extra;
use super::format::Record;
use crate::layer::{File, Handle, Listed};
use crate::vocab::handle::FileHandle;
use crate::vocab::{Access, Errno, Kind, Result, Space, Stat, Timestamp};

/// An object of an image index; it can't be changed.
#[derive(Clone, Debug)]
pub struct Object {
    index: Arc<Index>,
    at: u32,
}

impl Object {
    pub(super) fn new(index: Arc<Index>, at: u32) -> Self {
        Self { index, at }
    }

    /// The index it is in.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The record of `name`.
    pub(super) fn find(&self, name: &[u8]) -> Result<(u32, Record)> {
        let own = self.index.record(self.at)?;
        if name.is_empty() {
            return Ok((self.at, own));
        }
        if own.kind != Kind::Dir {
            return Err(Errno::NOTDIR);
        }
        self.index.find(self.at, name)?.ok_or(Errno::NOENT)
    }

    pub(super) fn extra(&self, name: &[u8]) -> Result<Extra> {
        self.index.extra(&self.find(name)?.1)
    }

    /// Where its layer has an object: the layer's root and a path.
    pub(super) fn place(&self, i: u32, record: &Record, extra: &Extra) -> Result<(&Handle, Vec<u8>)> {
        let path = match &extra.path {
            Some(path) => path.clone(),
            None => self.index.path_of(i)?,
        };
        self.layer(record.layer).map(|root| (root, path))
    }

    fn layer(&self, i: u16) -> Result<&Handle> {
        self.index.roots.get(usize::from(i)).map(|(root, _)| root).ok_or(Errno::IO)
    }

    /// Asks the layer's own directory.
    fn in_layer<T>(&self, name: &[u8], ask: impl FnOnce(&Handle, &[u8]) -> Result<T>) -> Result<T> {
        let (i, record) = self.find(name)?;
        let (root, path) = self.place(i, &record, &self.index.extra(&record)?)?;
        match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => ask(&root.beneath(&path[..slash])?, &path[slash + 1..]),
            None => ask(root, &path),
        }
    }

    pub(in crate::layer) fn open_dir(&self, name: &[u8]) -> Result<Self> {
        match self.find(name)? {
            (at, Record { kind: Kind::Dir, .. }) => Ok(Self { at, index: self.index.clone() }),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(in crate::layer) fn pin(&self, name: &[u8]) -> Result<Self> {
        Ok(Self { at: self.find(name)?.0, index: self.index.clone() })
    }

    pub(in crate::layer) fn open_file(&self, name: &[u8], access: Access) -> Result<File> {
        if access == Access::ReadWrite {
            return Err(Errno::ROFS);
        }
        let (i, record) = self.find(name)?;
        let extra = self.index.extra(&record)?;
        match &extra.data {
            Some((layer, path)) => self.layer(*layer)?.open_beneath(path),
            None => {
                let (root, path) = self.place(i, &record, &extra)?;
                root.open_beneath(&path)
            }
        }
    }

    pub(in crate::layer) fn stat(&self, name: &[u8]) -> Result<Stat> {
        Ok(self.index.stat(&self.find(name)?.1))
    }

    pub(in crate::layer) fn list(&self, each: &mut dyn FnMut(Listed<'_>)) -> Result<()> {
        let own = self.index.record(self.at)?;
        if own.kind != Kind::Dir {
            return Err(Errno::NOTDIR);
        }
        for i in self.index.entries(self.at, &own)? {
            let record = self.index.entry(self.at, i)?;
            let Stat { dev, ino, kind, .. } = self.index.stat(&record);
            each(Listed { name: self.index.name(&record)?, ino, kind: Some(kind), dev: Some(dev) });
        }
        Ok(())
    }

    pub(in crate::layer) fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        let (_, record) = self.find(name)?;
        match record.kind {
            Kind::Symlink => self.index.extra(&record)?.target.ok_or(Errno::IO),
            _ => Err(Errno::INVAL),
        }
    }

    pub(in crate::layer) fn getxattr(&self, name: &[u8], attr: &[u8]) -> Result<Option<Vec<u8>>> {
        if !self.shows(attr) {
            return Ok(None);
        }
        let found = self.extra(name)?.xattrs.into_iter().find(|(a, _)| a == attr);
        match found {
            // Ids in it are the builder's; the kernel tells them as ours.
            Some(_) if self.index.ids.is_some() && has_ids(attr) => {
                self.in_layer(name, |dir, name| dir.getxattr(name, attr))
            }
            found => Ok(found.map(|(_, value)| value)),
        }
    }

    pub(in crate::layer) fn listxattr(&self, name: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.extra(name)?.xattrs.into_iter();
        Ok(all.map(|(attr, _)| attr).filter(|attr| self.shows(attr)).collect())
    }

    fn shows(&self, attr: &[u8]) -> bool {
        self.index.shows_trusted || !attr.starts_with(b"trusted.")
    }

    pub(in crate::layer) fn birth(&self, name: &[u8]) -> Result<Option<Timestamp>> {
        self.in_layer(name, |dir, name| dir.birth(name))
    }

    pub(in crate::layer) fn file_handle(&self, name: &[u8]) -> Result<Option<FileHandle>> {
        self.in_layer(name, |dir, name| dir.file_handle(name))
    }

    pub(in crate::layer) fn space(&self) -> Result<Space> {
        self.layer(0)?.space()
    }
}

fn has_ids(attr: &[u8]) -> bool {
    attr.starts_with(b"system.posix_acl_") || attr == b"security.capability"
}
