//! What is where in the file: the preamble and the records, all numbers little-endian. FORMAT.md draws it.

use crate::vocab::{Kind, Stat, Timestamp};

/// The first bytes of every image index.
pub(super) const MAGIC: [u8; 8] = *b"onlayidx";
/// Of the format. Another one is refused.
pub(super) const VERSION: u32 = 1;
/// Length of the preamble; records begin behind it.
pub(super) const PREAMBLE: usize = 32;
/// Length of one record.
pub(super) const RECORD: usize = 120;
/// The checksums in the header are of so many bytes each, counted from the end of the preamble.
pub(super) const BLOCK: usize = 1 << 16;

/// What the file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    pub(super) version: u32,
    /// Of the preamble with zeros in this place, then of the header.
    pub(super) checksum: u32,
    /// Where the header begins; it ends with the file.
    pub(super) header_at: u64,
    pub(super) header_len: u64,
}

/// One object of the tree: record 0 is the root, the entries of a directory stand together in the order of their names,
/// and behind the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Where the name is among the names.
    pub(super) name_at: u32,
    pub(super) name_len: u8,
    pub(super) kind: Kind,
    /// Which layer shows it, 0 for the top one.
    pub(super) layer: u16,
    /// The record of its directory.
    pub(super) parent: u32,
    /// Directories: the first entry's record, and how many there are.
    pub(super) first: u32,
    pub(super) count: u32,
    /// What only some have, among the extras; no length: nothing.
    pub(super) extra_at: u32,
    pub(super) extra_len: u32,
    /// The metadata as the layer tells it; device number and mount are not written.
    pub(super) stat: Stat,
}

/// Puts numbers one after the other.
struct Put<'a>(&'a mut Vec<u8>);

impl Put<'_> {
    fn u16(&mut self, n: u16) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn u64(&mut self, n: u64) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }
}

/// Takes numbers one after the other; zeros behind the end.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.0 = rest;
                *head
            }
            None => [0; N],
        }
    }

    fn u8(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

impl Preamble {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        Put(&mut out).u32(self.version).u32(self.checksum).u64(self.header_at).u64(self.header_len);
        out
    }

    /// `None` if it does not begin as an image index does.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes.get(..PREAMBLE)?.strip_prefix(&MAGIC)?);
        Some(Self { version: take.u32(), checksum: take.u32(), header_at: take.u64(), header_len: take.u64() })
    }

    /// The checksum that it should have over this header.
    pub(super) fn checksum_with(self, header: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&Self { checksum: 0, ..self }.to_bytes());
        crc.update(header);
        crc.finalize()
    }
}

impl Record {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let st = &self.stat;
        let mut out = Vec::with_capacity(RECORD);
        out.extend_from_slice(&self.name_at.to_le_bytes());
        out.extend_from_slice(&[self.name_len, code(self.kind)]);
        let mut put = Put(&mut out);
        put.u16(self.layer).u32(self.parent).u32(self.first).u32(self.count).u32(self.extra_at).u32(self.extra_len);
        put.u32(st.mode).u32(st.uid).u32(st.gid).u32(st.nlink).u32(st.blksize);
        put.u64(st.ino).u64(st.rdev).u64(st.size).u64(st.blocks);
        for time in [st.atime, st.mtime, st.ctime] {
            put.u64(time.sec as u64);
        }
        put.u32(st.atime.nsec).u32(st.mtime.nsec).u32(st.ctime.nsec).u32(0);
        out
    }

    /// `None` for bytes that no record has.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes.get(..RECORD)?);
        let (name_at, name_len, kind) = (take.u32(), take.u8(), kind(take.u8())?);
        let (layer, parent, first, count) = (take.u16(), take.u32(), take.u32(), take.u32());
        let (extra_at, extra_len) = (take.u32(), take.u32());
        let (mode, uid, gid, nlink, blksize) = (take.u32() & 0o7777, take.u32(), take.u32(), take.u32(), take.u32());
        let (ino, rdev, size, blocks) = (take.u64(), take.u64(), take.u64(), take.u64());
        let secs = [take.u64() as i64, take.u64() as i64, take.u64() as i64];
        let [atime, mtime, ctime] = secs.map(|sec| Timestamp { sec, nsec: take.u32().min(999_999_999) });
        let stat = Stat {
            dev: 0,
            ino,
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            size,
            blocks,
            blksize,
            atime,
            mtime,
            ctime,
            mount_root: false,
        };
        Some(Self { name_at, name_len, kind, layer, parent, first, count, extra_at, extra_len, stat })
    }
}

const KINDS: [Kind; 7] = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::Char, Kind::Block];

fn code(kind: Kind) -> u8 {
    KINDS.iter().position(|k| *k == kind).unwrap_or_default() as u8
}

fn kind(code: u8) -> Option<Kind> {
    KINDS.get(usize::from(code)).copied()
}
