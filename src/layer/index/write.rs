//! Writing an image index: records as they come, names and extras aside, put together at the end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::codec::{self, Extra, Header, LayerId};
use super::format::{BLOCK, PREAMBLE, Preamble, RECORD, Record, VERSION};
use super::{Error, Reader};
use crate::vocab::Stat;
use crate::vocab::dialect::Prefix;

/// Distinct extras remembered, so that the same attributes are written once: bounds what a writer holds.
const REMEMBERED: usize = 1 << 12;
/// Where a record says which are its entries.
const RANGE_AT: usize = 12;

/// One object to write.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name; the root's is empty.
    pub name: Vec<u8>,
    /// Its metadata, as its layer tells it.
    pub stat: Stat,
    /// Which layer it is from, 0 for the top one.
    pub layer: usize,
    /// A symbolic link's target.
    pub target: Option<Vec<u8>>,
    /// Its path in its layer, if it is not that in the view.
    pub path: Option<Vec<u8>>,
    /// Layer and path of a metacopy's data.
    pub data: Option<(usize, Vec<u8>)>,
    /// Its extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a whole index is of.
#[derive(Clone, Debug)]
pub struct Source {
    /// The roots of the layers, the top one first.
    pub roots: Vec<Stat>,
    /// The spelling of marks.
    pub prefix: Prefix,
    /// Whether AUFS's names were read.
    pub aufs: bool,
    /// Whether there were any marks.
    pub marked: bool,
}

/// Writes one index. Nothing is at its path until [`finish`](Self::finish). In memory it holds what is on its way to the
/// disk, and a few thousand extras.
#[derive(Debug)]
pub struct Writer {
    to: PathBuf,
    file: tempfile::NamedTempFile,
    records: BufWriter<File>,
    names: BufWriter<File>,
    extras: BufWriter<File>,
    count: u64,
    names_len: u64,
    extras_len: u64,
    known: HashMap<Vec<u8>, (u32, u32)>,
    /// Directories' entries, written over their records: (directory, first, count).
    ranges: BufWriter<File>,
}

impl Writer {
    /// Begins an index that will be at `to`, in whose directory the temporary file is.
    ///
    /// # Errors
    /// The directory can't be written to.
    pub fn new(to: &Path) -> Result<Self, Error> {
        let fail = |e| Error::io(to, "write", e);
        let dir = to.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(".index-").tempfile_in(dir).map_err(fail)?;
        let aside = || tempfile::tempfile_in(dir).map(BufWriter::new).map_err(fail);
        let mut records = BufWriter::new(file.as_file().try_clone().map_err(fail)?);
        records.write_all(&[0; PREAMBLE]).map_err(fail)?;
        Ok(Self {
            to: to.into(),
            records,
            file,
            names: aside()?,
            extras: aside()?,
            count: 0,
            names_len: 0,
            extras_len: 0,
            known: HashMap::new(),
            ranges: aside()?,
        })
    }

    /// Writes the root.
    ///
    /// # Errors
    /// No space, ..
    pub fn root(&mut self, root: &Entry) -> Result<(), Error> {
        self.put(root, 0)
    }

    /// Writes what is in the directory `dir` (its record), sorted by name; the first one's record. Each directory once,
    /// in the order of their records.
    ///
    /// # Errors
    /// No space; more of something than the format can count.
    pub fn children(&mut self, dir: u32, entries: &[Entry]) -> Result<u32, Error> {
        let first = u32::try_from(self.count).map_err(|_| self.too_much("objects"))?;
        for entry in entries {
            self.put(entry, dir)?;
        }
        if !entries.is_empty() {
            let count = u32::try_from(entries.len()).map_err(|_| self.too_much("objects"))?;
            for n in [dir, first, count] {
                self.ranges.write_all(&n.to_le_bytes()).map_err(|e| Error::io(&self.to, "write", e))?;
            }
        }
        Ok(first)
    }

    fn too_much(&self, what: &str) -> Error {
        Error::new(&self.to, format!("too many {what} for one index"))
    }

    fn put(&mut self, entry: &Entry, parent: u32) -> Result<(), Error> {
        let small = |n: usize| u16::try_from(n).map_err(|_| Error::new(&self.to, "too many layers for one index"));
        let data = match &entry.data {
            Some((layer, path)) => Some((small(*layer)?, path.clone())),
            None => None,
        };
        let layer = small(entry.layer)?;
        let extra =
            Extra { target: entry.target.clone(), path: entry.path.clone(), data, xattrs: entry.xattrs.clone() };
        let (extra_at, extra_len) = self.extra(&extra)?;
        let name_at = u32::try_from(self.names_len).map_err(|_| self.too_much("names"))?;
        let name_len = u8::try_from(entry.name.len()).map_err(|_| self.too_much("bytes in a name"))?;
        let record = Record {
            name_at,
            name_len,
            kind: entry.stat.kind,
            layer,
            parent,
            first: 0,
            count: 0,
            extra_at,
            extra_len,
            stat: entry.stat,
        };
        self.names.write_all(&entry.name).map_err(|e| Error::io(&self.to, "write", e))?;
        self.records.write_all(&record.to_bytes()).map_err(|e| Error::io(&self.to, "write", e))?;
        self.names_len += u64::from(name_len);
        self.count += 1;
        Ok(())
    }

    fn extra(&mut self, extra: &Extra) -> Result<(u32, u32), Error> {
        if *extra == Extra::default() {
            return Ok((0, 0));
        }
        let bytes = codec::encode(extra).ok_or_else(|| self.too_much("attributes"))?;
        if let Some(known) = self.known.get(&bytes) {
            return Ok(*known);
        }
        let at = u32::try_from(self.extras_len).map_err(|_| self.too_much("attributes"))?;
        let len = u32::try_from(bytes.len()).map_err(|_| self.too_much("attributes"))?;
        self.extras.write_all(&bytes).map_err(|e| Error::io(&self.to, "write", e))?;
        self.extras_len += u64::from(len);
        // Big ones, and targets of links, are rarely the same.
        if self.known.len() < REMEMBERED && bytes.len() < 1024 && extra.target.is_none() {
            self.known.insert(bytes, (at, len));
        }
        Ok((at, len))
    }

    /// Puts it together, syncs it and gives it its name, in the place of an older one. It can be read by its owner only,
    /// as the attributes in it may be.
    ///
    /// # Errors
    /// No space, ..
    pub fn finish(self, source: &Source) -> Result<(), Error> {
        self.finish_as(source, Reader::here())
    }

    pub(super) fn finish_as(mut self, source: &Source, reader: Reader) -> Result<(), Error> {
        let to = self.to.clone();
        let fail = |e| Error::io(&to, "write", e);
        self.records.flush().map_err(fail)?;
        self.set_ranges().map_err(fail)?;
        let mut file = self.file.as_file().try_clone().map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        for part in [&mut self.names, &mut self.extras] {
            part.flush().map_err(fail)?;
            let from = part.get_mut();
            from.rewind().map_err(fail)?;
            io::copy(from, &mut file).map_err(fail)?;
        }
        let layer = |st: &Stat| LayerId { ino: st.ino, ctime: st.ctime.sec, ctime_nsec: st.ctime.nsec };
        let header = Header {
            records: self.count,
            names: self.names_len,
            extras: self.extras_len,
            blocks: checksums(&mut file).map_err(fail)?,
            layers: source.roots.iter().map(layer).collect(),
            prefix: u8::from(source.prefix == Prefix::User),
            aufs: source.aufs,
            marked: source.marked,
            trusted: reader.trusted,
            uids: reader.uids,
            gids: reader.gids,
        };
        let header = codec::encode(&header).ok_or_else(|| self.too_much("objects"))?;
        let header_at = file.seek(SeekFrom::End(0)).map_err(fail)?;
        let preamble = Preamble { version: VERSION, checksum: 0, header_at, header_len: header.len() as u64 };
        let preamble = Preamble { checksum: preamble.checksum_with(&header), ..preamble };
        file.write_all(&header).map_err(fail)?;
        file.write_all_at(&preamble.to_bytes(), 0).map_err(fail)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o400)).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        self.file.persist(&to).map_err(|e| fail(e.error))?;
        let dir = to.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|d| d.sync_all()).map_err(fail)
    }

    /// Writes into each directory's record which are its entries.
    fn set_ranges(&mut self) -> io::Result<()> {
        self.ranges.flush()?;
        let ranges = self.ranges.get_mut();
        ranges.rewind()?;
        let mut ranges = io::BufReader::new(ranges);
        let mut range = [0; 12];
        let len = ranges.seek(SeekFrom::End(0))?;
        ranges.rewind()?;
        for _ in 0..len / 12 {
            ranges.read_exact(&mut range)?;
            let [a, b, c, d, entries @ ..] = range;
            let at = PREAMBLE + u32::from_le_bytes([a, b, c, d]) as usize * RECORD + RANGE_AT;
            self.file.as_file().write_all_at(&entries, at as u64)?;
        }
        Ok(())
    }
}

/// Of each block from the end of the preamble to the end of the file.
fn checksums(file: &mut File) -> io::Result<Vec<u32>> {
    file.seek(SeekFrom::Start(PREAMBLE as u64))?;
    let mut all = Vec::new();
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        block.clear();
        if Read::by_ref(file).take(BLOCK as u64).read_to_end(&mut block)? == 0 {
            return Ok(all);
        }
        all.push(crc32fast::hash(&block));
    }
}
