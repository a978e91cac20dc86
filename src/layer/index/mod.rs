//! The image index: the merged tree of some lower layers in one file that is mapped into memory, so that what a name is,
//! what a directory holds, metadata, links' targets and attributes cost no system call.
//!
//! ```text
//! preamble | records of 120 bytes | names | extras | header with a checksum of each block
//! ```
//!
//! `FORMAT.md` beside this file draws it byte by byte. [`Writer`] writes it, [`Index::open`] reads it; which objects are
//! in it is for the union to say, which walks the layers once. To the union an index is **one lower layer** in which
//! whiteouts, opaque directories, redirects and metacopies are resolved already; data is opened where it is, in the
//! layers' own directories.
//!
//! # What is believed
//! Nothing without a look. Mounting checks the preamble and the header (their checksum, and that the layers are those it
//! was built from); each block of 64 KiB is checked when it is touched first, so that mounting takes as long for a
//! million files as for one. Offsets are checked at each use. What does not fit is `EIO`, and one warning.
//!
//! The file is replaced by rename and never written to in place. Who cuts it under a live mount kills the mount
//! (`SIGBUS`), as with any program that is cut while it runs; so it is readable by its owner alone.

mod codec;
mod format;
mod object;
mod write;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use codec::{Extra, Header};
use format::{BLOCK, PREAMBLE, Preamble, RECORD, Record, VERSION};

use super::Handle;
use crate::sys::map::Map;
use crate::vocab::dialect::Prefix;
use crate::vocab::ids::IdMap;
use crate::vocab::owner::OVERFLOW;
use crate::vocab::{Errno, Result, Stat, why};

pub use object::Object;
pub use write::{Entry, Source, Writer};

/// The last component of a path that is none.
const NO_NAMES: [&[u8]; 3] = [b"", b".", b".."];

/// Why there is no index: of which file, and what is the matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    path: PathBuf,
    why: String,
}

impl Error {
    /// The index at `path` can't be used: why.
    pub fn new(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.into(), why: why.into() }
    }

    fn io(path: &Path, what: &str, e: io::Error) -> Self {
        Self::new(path, format!("{what}: {}", why(&e)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image index {}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for Error {}

/// Where the bytes are.
#[derive(Debug)]
enum Bytes {
    Map(Map),
    #[cfg(test)]
    Own(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            #[cfg(test)]
            Self::Own(bytes) => bytes,
        }
    }
}

/// The ids and attributes that a process can see: of who builds an index, and of who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reader {
    uids: String,
    gids: String,
    trusted: bool,
}

impl Reader {
    /// This process.
    fn here() -> Self {
        let map = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
            // "inside outside count" a line.
            let numbers: Vec<&str> = text.split_whitespace().collect();
            let ranges: Vec<_> = numbers.chunks_exact(3).map(|n| format!("{}:{}:{}", n[1], n[0], n[2])).collect();
            ranges.join(":")
        };
        let uids = map("uid_map");
        // `trusted.*` is for who may administer the machine (xattr(7)).
        let admin = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
        Self { trusted: admin && uids == "0:0:4294967295", uids, gids: map("gid_map") }
    }
}

/// From the ids of the builder's namespace to ours.
#[derive(Debug)]
struct Translation {
    theirs: IdMap,
    ours: IdMap,
}

impl Translation {
    fn of(theirs: &str, ours: &str) -> std::result::Result<Self, String> {
        Ok(Self { theirs: IdMap::parse(theirs)?, ours: IdMap::parse(ours)? })
    }

    fn id(&self, id: u32) -> u32 {
        self.theirs.stored(id).map_or(OVERFLOW, |outside| self.ours.shown(outside))
    }
}

/// An image index, open over its layers.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
    /// The layers, and the device number of each.
    roots: Vec<(Handle, u64)>,
    /// Blocks whose checksum is right, a bit each.
    right: Box<[AtomicU64]>,
    /// Something was wrong, and was told.
    told: AtomicBool,
    /// Users' and groups', where the builder's are not ours.
    ids: Option<(Translation, Translation)>,
    shows_trusted: bool,
}

impl Index {
    /// Opens the index at `path`, which must be of these layers (their roots, the top one first), read with the marks of
    /// `prefix`, and with AUFS's names or without.
    ///
    /// # Errors
    /// There is none, it is damaged, or it is of other layers or of another reading of them.
    pub fn open(path: &Path, layers: &[Handle], prefix: Prefix, aufs: bool) -> std::result::Result<Arc<Self>, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let map = Map::read(&file).map_err(|e| Error::io(path, "map", e))?;
        Self::new(path, Bytes::Map(map), layers, prefix, aufs).map(Arc::new)
    }

    fn new(
        path: &Path,
        bytes: Bytes,
        layers: &[Handle],
        prefix: Prefix,
        aufs: bool,
    ) -> std::result::Result<Self, Error> {
        let fail = |why: &str| Error::new(path, why);
        let header = read_header(&bytes).map_err(|why| Error::new(path, why))?;
        let mut roots = Vec::new();
        if header.layers.len() != layers.len() {
            return Err(Error::new(path, format!("it is of {} layers, not of {}", header.layers.len(), layers.len())));
        }
        for (i, (layer, known)) in layers.iter().zip(&header.layers).enumerate() {
            let st = layer.stat(b"").map_err(|e| Error::new(path, format!("layer {}: {}", i + 1, why(&e))))?;
            if (st.ino, st.ctime.sec, st.ctime.nsec) != (known.ino, known.ctime, known.ctime_nsec) {
                return Err(Error::new(path, format!("layer {} is not the one it was built from", i + 1)));
            }
            roots.push((layer.clone(), st.dev));
        }
        if header.aufs != aufs {
            return Err(fail("it was built with another reading of .wh. names"));
        }
        if header.marked && header.prefix != u8::from(prefix == Prefix::User) {
            return Err(fail("it was built with marks in the other spelling (trusted.overlay, user.overlay)"));
        }
        let here = Reader::here();
        if here.trusted && !header.trusted {
            return Err(fail("who built it could not see trusted.* attributes"));
        }
        let ids = if (&header.uids, &header.gids) == (&here.uids, &here.gids) {
            None
        } else {
            let of = |theirs: &str, ours: &str| Translation::of(theirs, ours).map_err(|why| Error::new(path, why));
            Some((of(&header.uids, &here.uids)?, of(&header.gids, &here.gids)?))
        };
        Ok(Self { ids, shows_trusted: here.trusted, ..Self::over(path, bytes, header, roots) })
    }

    /// The bytes of an index with this header, over these layers as if they were those it was built from.
    fn over(path: &Path, bytes: Bytes, header: Header, roots: Vec<(Handle, u64)>) -> Self {
        let words = header.blocks.len().div_ceil(64);
        Self {
            path: path.into(),
            bytes,
            header,
            roots,
            right: (0..words).map(|_| AtomicU64::new(0)).collect(),
            told: AtomicBool::new(false),
            ids: None,
            shows_trusted: true,
        }
    }

    /// The root of the merged tree.
    pub fn root(self: &Arc<Self>) -> Object {
        Object::new(self.clone(), 0)
    }

    /// The roots of the layers, the top one first.
    pub fn layers(&self) -> impl Iterator<Item = &Handle> {
        self.roots.iter().map(|(root, _)| root)
    }

    /// How many objects are in it, each name counted.
    pub fn len(&self) -> u64 {
        self.header.records
    }

    /// Whether there is not even a root.
    pub fn is_empty(&self) -> bool {
        self.header.records == 0
    }

    /// Checks every block; for who wants to know now rather than when it is touched.
    ///
    /// # Errors
    /// `EIO` if one is damaged.
    pub fn verify(&self) -> Result<()> {
        let end = PREAMBLE as u64 + self.body();
        self.slice(PREAMBLE as u64, (end - PREAMBLE as u64) as usize).map(drop)
    }

    /// Bytes between preamble and header.
    fn body(&self) -> u64 {
        self.header.records * RECORD as u64 + self.header.names + self.header.extras
    }

    /// Something does not fit: said once, `EIO` each time.
    fn damaged(&self, what: &str) -> Errno {
        if !self.told.swap(true, Ordering::Relaxed) {
            log::warn!("image index {}: damaged: {what}; remove it, and it will be built anew", self.path.display());
        }
        Errno::IO
    }

    /// Some of the bytes before the header, whose blocks are right.
    fn slice(&self, at: u64, len: usize) -> Result<&[u8]> {
        let range = usize::try_from(at).ok().and_then(|at| Some(at..at.checked_add(len)?));
        let range = range.filter(|r| r.start >= PREAMBLE && r.end <= PREAMBLE + self.body() as usize);
        let Some(range) = range else { return Err(self.damaged("an offset leads outside")) };
        if len > 0 {
            for block in (range.start - PREAMBLE) / BLOCK..=(range.end - 1 - PREAMBLE) / BLOCK {
                self.check(block)?;
            }
        }
        self.bytes.get(range).ok_or_else(|| self.damaged("it was cut"))
    }

    fn check(&self, block: usize) -> Result<()> {
        let (Some(word), bit) = (self.right.get(block / 64), 1 << (block % 64)) else {
            return Err(self.damaged("an offset leads outside"));
        };
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let start = PREAMBLE + block * BLOCK;
        let end = (start + BLOCK).min(PREAMBLE + self.body() as usize);
        let known = self.bytes.get(start..end).map(crc32fast::hash);
        if known.is_none() || known.as_ref() != self.header.blocks.get(block) {
            return Err(self.damaged("a block has a wrong checksum"));
        }
        word.fetch_or(bit, Ordering::Relaxed);
        Ok(())
    }

    fn record(&self, i: u32) -> Result<Record> {
        if u64::from(i) >= self.header.records {
            return Err(self.damaged("a record leads outside"));
        }
        let bytes = self.slice(PREAMBLE as u64 + u64::from(i) * RECORD as u64, RECORD)?;
        let record = Record::read(bytes).filter(|r| usize::from(r.layer) < self.roots.len());
        // What is above has a lower number: so every way up or down ends.
        let record = record.filter(|r| i == 0 || r.parent < i);
        record.ok_or_else(|| self.damaged("a record makes no sense"))
    }

    fn name(&self, record: &Record) -> Result<&[u8]> {
        let (at, len) = (u64::from(record.name_at), usize::from(record.name_len));
        if at + len as u64 > self.header.names {
            return Err(self.damaged("a name leads outside"));
        }
        let name = self.slice(PREAMBLE as u64 + self.header.records * RECORD as u64 + at, len)?;
        if NO_NAMES.contains(&name) || name.contains(&b'/') || name.contains(&0) {
            return Err(self.damaged("a name makes no sense"));
        }
        Ok(name)
    }

    /// The records of a directory's entries.
    fn entries(&self, i: u32, dir: &Record) -> Result<Range<u32>> {
        let end = dir.first.checked_add(dir.count).filter(|end| u64::from(*end) <= self.header.records);
        match end {
            _ if dir.count == 0 => Ok(0..0),
            Some(end) if dir.first > i => Ok(dir.first..end),
            _ => Err(self.damaged("a directory makes no sense")),
        }
    }

    /// One entry of the directory `dir`.
    fn entry(&self, dir: u32, i: u32) -> Result<Record> {
        let record = self.record(i)?;
        if record.parent == dir { Ok(record) } else { Err(self.damaged("an entry is in two directories")) }
    }

    /// The entry with this name.
    fn find(&self, dir: u32, name: &[u8]) -> Result<Option<(u32, Record)>> {
        let Range { mut start, mut end } = self.entries(dir, &self.record(dir)?)?;
        while start < end {
            let middle = start + (end - start) / 2;
            let record = self.entry(dir, middle)?;
            match self.name(&record)?.cmp(name) {
                std::cmp::Ordering::Equal => return Ok(Some((middle, record))),
                std::cmp::Ordering::Less => start = middle + 1,
                std::cmp::Ordering::Greater => end = middle,
            }
        }
        Ok(None)
    }

    fn extra(&self, record: &Record) -> Result<Extra> {
        let (at, len) = (u64::from(record.extra_at), record.extra_len as usize);
        if len == 0 {
            return Ok(Extra::default());
        }
        if at + len as u64 > self.header.extras {
            return Err(self.damaged("attributes lead outside"));
        }
        let from = PREAMBLE as u64 + self.header.records * RECORD as u64 + self.header.names;
        let extra = codec::decode::<Extra>(self.slice(from + at, len)?);
        let extra = extra.filter(|e| e.data.as_ref().is_none_or(|d| usize::from(d.0) < self.roots.len()));
        extra.ok_or_else(|| self.damaged("attributes make no sense"))
    }

    fn stat(&self, record: &Record) -> Stat {
        let mut stat = record.stat;
        stat.dev = self.roots.get(usize::from(record.layer)).map_or(0, |(_, dev)| *dev);
        if let Some((uids, gids)) = &self.ids {
            (stat.uid, stat.gid) = (uids.id(stat.uid), gids.id(stat.gid));
        }
        stat
    }

    /// The path of a record in the view; the root's is empty.
    fn path_of(&self, mut i: u32) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        while i != 0 {
            let record = self.record(i)?;
            names.push(self.name(&record)?);
            i = record.parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }
}

/// The header of an index, once it is clear that this is one, and whole.
fn read_header(bytes: &[u8]) -> std::result::Result<Header, String> {
    let Some(preamble) = Preamble::read(bytes) else { return Err("it is no image index".into()) };
    if preamble.version != VERSION {
        return Err(format!("it is of version {}; this onlay reads version {VERSION}", preamble.version));
    }
    let end = preamble.header_at.checked_add(preamble.header_len);
    if end != Some(bytes.len() as u64) || preamble.header_at < PREAMBLE as u64 {
        return Err("it was cut, or is damaged: its header is not where it should be".into());
    }
    let header = bytes.get(preamble.header_at as usize..).unwrap_or_default();
    if preamble.checksum_with(header) != preamble.checksum {
        return Err("it is damaged: the checksum of its header is wrong".into());
    }
    let header = codec::decode::<Header>(header).ok_or("it is damaged: its header makes no sense")?;
    let parts = header.records.checked_mul(RECORD as u64).and_then(|n| n.checked_add(header.names));
    let body = parts.and_then(|n| n.checked_add(header.extras)).filter(|_| header.records <= u64::from(u32::MAX));
    let blocks = preamble.header_at - PREAMBLE as u64;
    if body != Some(blocks) || header.blocks.len() as u64 != blocks.div_ceil(BLOCK as u64) || header.records == 0 {
        return Err("it is damaged: its parts do not fill it".into());
    }
    Ok(header)
}

#[cfg(test)]
mod tests;
