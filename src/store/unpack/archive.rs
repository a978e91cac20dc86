//! The entries of a tar archive: ustar, GNU and PAX (tar(5), POSIX pax), each field checked before it is believed.
//!
//! What long headers and sparse maps take in memory is bounded by [`MAX_EXTENSION`].

use tar::Header;

use super::Limits;
use super::error::Error;
use super::pax::{self, Pax};
use super::sparse::{self, Segment};
use super::stream::{Pieces, Sums};
use crate::vocab::{Kind, Timestamp};

const BLOCK: usize = 512;
/// The bytes that one PAX header, long name or sparse map may have.
pub(super) const MAX_EXTENSION: u64 = 1 << 20;
/// What the octal size field of a header can say at most.
const MAX_OCTAL_SIZE: i64 = 0o77_777_777_777;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// An object of this kind.
    Object(Kind),
    /// Another name of one.
    HardLink,
}

/// One entry, without its data.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) what: What,
    /// Target of a link, of either kind.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the file.
    pub(super) size: u64,
    /// Where its data is, for a file with holes.
    pub(super) sparse: Option<Vec<Segment>>,
}

/// The archive as it is read.
pub(super) struct Archive<'a> {
    pieces: Pieces,
    limits: &'a Limits,
    /// Data of the last entry that was not taken yet, and what fills its last block.
    left: u64,
    padding: u64,
    headers: u64,
    /// The last entry's name, for errors where the next one has none yet.
    last: Vec<u8>,
    ended: bool,
}

/// What came in headers before an entry's own.
#[derive(Default)]
struct Before {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Pax,
}

impl<'a> Archive<'a> {
    pub(super) fn new(pieces: Pieces, limits: &'a Limits) -> Self {
        Self { pieces, limits, left: 0, padding: 0, headers: 0, last: Vec::new(), ended: false }
    }

    /// The next entry; what was not taken of the last one's data is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut name = Vec::new();
        let next = self.read_entry(&mut name);
        next.map_err(|e| match (name.is_empty(), self.last.is_empty()) {
            (false, _) => e.of(&name),
            (true, false) => e.after(&self.last),
            (true, true) => e,
        })
        .inspect(|entry| {
            if let Some(entry) = entry {
                self.last.clone_from(&entry.path);
            }
        })
    }

    fn read_entry(&mut self, name: &mut Vec<u8>) -> Result<Option<Entry>, Error> {
        self.pass_data()?;
        let mut before = Before::default();
        let mut extended = false;
        loop {
            let Some(header) = self.header()? else {
                if extended {
                    return Err(Error::malformed("it ends after an extended header, without the entry it is for"));
                }
                return Ok(None);
            };
            let known = before.pax.path.as_ref().or(before.long_name.as_ref());
            *name = known.cloned().unwrap_or_else(|| header.path_bytes().into_owned());
            self.headers += 1;
            if self.headers > self.limits.entries {
                return Err(Error::limit("it is one entry too many", self.limits.entries, "entries"));
            }
            let size = field(&header.as_old().size, "size")?;
            match header.as_old().linkflag[0] {
                b'L' => before.long_name = Some(until_nul(self.extension(size)?)),
                b'K' => before.long_link = Some(until_nul(self.extension(size)?)),
                b'x' | b'X' => before.pax = pax::parse(&self.extension(size)?)?,
                // For all that follow; docker, podman and containerd take no notice, so neither do we.
                b'g' => drop(self.extension(size)?),
                _ => return self.entry(&header, before, size).map(Some),
            }
            extended = header.as_old().linkflag[0] != b'g';
        }
    }

    /// One header block; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut header = Header::new_old();
        let mut blank = false;
        loop {
            let n = self.read(header.as_mut_bytes())?;
            match n {
                // Many writers leave out one of the blank blocks, or both.
                0 => return Ok(self.end()),
                BLOCK if header.as_bytes().iter().all(|b| *b == 0) => {
                    if blank {
                        return Ok(self.end());
                    }
                    blank = true;
                }
                BLOCK if blank => return Err(Error::malformed("there is something after its end")),
                BLOCK => break,
                _ => return Err(Error::malformed("the archive ends within a header")),
            }
        }
        check_sum(&header)?;
        Ok(Some(header))
    }

    fn end(&mut self) -> Option<Header> {
        self.ended = true;
        None
    }

    fn entry(&mut self, header: &Header, before: Before, header_size: i64) -> Result<Entry, Error> {
        let old = header.as_old();
        let Before { long_name, long_link, mut pax } = before;
        let path = pax.path.take().or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.link.take().or(long_link).unwrap_or_else(|| until_nul(old.linkname.to_vec()));
        let size = match pax.size {
            None => header_size,
            // Readers that take one of the two for the length would see different entries from here on.
            Some(size) if header_size != size && header_size != 0 && header_size < MAX_OCTAL_SIZE => {
                let words = format!("it has {header_size} bytes by its header and {size} by its extended header");
                return Err(Error::malformed(words));
            }
            Some(size) => size,
        };
        let size = u64::try_from(size).map_err(|_| Error::malformed("its size is negative"))?;
        let kind = match old.linkflag[0] {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Dir,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::File,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                let shown = std::ascii::escape_default(other);
                return Err(Error::refused(format!("there is no such thing in a layer as an entry of type '{shown}'")));
            }
        };
        let what = if old.linkflag[0] == b'1' { What::HardLink } else { What::Object(kind) };
        if size > 0 && (what, kind) != (What::Object(Kind::File), Kind::File) {
            return Err(Error::malformed(format!("it has {size} bytes of data, which only a file can have")));
        }
        let rdev = match kind {
            Kind::Char | Kind::Block => device(header)?,
            _ => 0,
        };
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Timestamp { sec: field(&old.mtime, "time")?, nsec: 0 },
        };
        let mode = field(&old.mode, "mode")?;
        let mut entry = Entry {
            path,
            what,
            link,
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: id(pax.uid.map_or_else(|| field(&old.uid, "owner"), Ok)?)?,
            gid: id(pax.gid.map_or_else(|| field(&old.gid, "group"), Ok)?)?,
            rdev,
            atime: pax.atime.unwrap_or(mtime),
            mtime,
            xattrs: std::mem::take(&mut pax.xattrs),
            size,
            sparse: None,
        };
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        if what == What::Object(Kind::File) {
            self.sparse(header, pax, &mut entry)?;
        }
        Ok(entry)
    }

    /// Reads the map of a file with holes, in any of the four formats that GNU tar writes.
    fn sparse(&mut self, header: &Header, pax: Pax, entry: &mut Entry) -> Result<(), Error> {
        let stored = entry.size;
        let (map, real) = if header.as_old().linkflag[0] == b'S' {
            let gnu = header.as_gnu().ok_or_else(|| Error::malformed("it is sparse, and no header of GNU tar's"))?;
            let mut map = sparse::Old::default();
            map.add(&gnu.sparse)?;
            let mut more = gnu.is_extended();
            while more {
                let mut next = tar::GnuExtSparseHeader::new();
                if self.read(next.as_mut_bytes())? != BLOCK {
                    return Err(Error::malformed("the archive ends within the map of its holes"));
                }
                map.add(next.sparse())?;
                more = next.is_extended();
            }
            (map.finish(), field(&gnu.realsize, "size")?)
        } else {
            let Some((form, real)) = pax.sparse()? else { return Ok(()) };
            let map = match form {
                pax::Sparse::Map(map) => map,
                pax::Sparse::InData => self.map_in_data()?,
            };
            if let Some(name) = pax.sparse_name {
                entry.path = name;
            }
            (map, real)
        };
        let real = u64::try_from(real).map_err(|_| Error::malformed("its size is negative"))?;
        sparse::check(&map, real, self.left)?;
        (entry.size, entry.sparse) = (real, Some(map));
        log::trace!("{} of {real} bytes are stored", stored);
        Ok(())
    }

    /// Version 1.0: the map is at the start of the data, in lines, up to a whole block.
    fn map_in_data(&mut self) -> Result<Vec<Segment>, Error> {
        let mut lines = sparse::Lines::default();
        let mut block = [0; BLOCK];
        let mut read = 0;
        while !lines.is_whole() {
            if read >= MAX_EXTENSION || self.left < BLOCK as u64 || self.read(&mut block)? != BLOCK {
                return Err(Error::malformed("the map of its holes has no end"));
            }
            self.left -= BLOCK as u64;
            read += BLOCK as u64;
            lines.add(&block)?;
        }
        Ok(lines.finish())
    }

    /// Gives `each` the next `len` bytes of the entry's data, a piece at a time, and where in them each piece is.
    pub(super) fn data(
        &mut self,
        len: u64,
        mut each: impl FnMut(&[u8], u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < len {
            let at_hand = self.pieces.peek()?;
            if at_hand.is_empty() {
                return Err(Error::malformed(format!("the archive ends {} bytes before its data does", self.left)));
            }
            let n = at_hand.len().min(usize::try_from(len - done).unwrap_or(usize::MAX));
            each(&at_hand[..n], done)?;
            self.pieces.consume(n);
            done += n as u64;
            self.left = self.left.saturating_sub(n as u64);
        }
        Ok(())
    }

    fn pass_data(&mut self) -> Result<(), Error> {
        self.data(self.left, |_, _| Ok(()))?;
        let padding = std::mem::take(&mut self.padding);
        let mut block = [0; BLOCK];
        match self.read(&mut block[..padding as usize])? as u64 {
            // umoci insert leaves it out at the end; Go's readers, which all the others use, take no notice.
            0 => Ok(()),
            n if n == padding => Ok(()),
            _ => Err(Error::malformed("the archive ends within its last block")),
        }
    }

    /// The data of an extension: a name, or records.
    fn extension(&mut self, size: i64) -> Result<Vec<u8>, Error> {
        let size = u64::try_from(size).map_err(|_| Error::malformed("its size is negative"))?;
        if size > MAX_EXTENSION {
            return Err(Error::limit(format!("an extended header has {size} bytes"), MAX_EXTENSION, "bytes"));
        }
        let mut data = vec![0; size as usize];
        if self.read(&mut data)? != data.len() {
            return Err(Error::malformed("the archive ends within an extended header"));
        }
        self.padding = size.wrapping_neg() % BLOCK as u64;
        self.pass_data()?;
        Ok(data)
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        self.pieces.read(buf)
    }

    /// Reads the blob to its end.
    pub(super) fn finish(self) -> Result<Sums, Error> {
        self.pieces.finish()
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// A number of a header: octal, or base 256 in two's complement with the first bit set.
pub(super) fn field(bytes: &[u8], what: &str) -> Result<i64, Error> {
    let bad = || Error::malformed(format!("its {what} is no number: \"{}\"", bytes.escape_ascii()));
    match bytes.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            // Seven bits of the first byte, the highest of them the sign.
            let start = i64::from(((first << 1) as i8) >> 1);
            rest.iter().try_fold(start, |n, b| n.checked_mul(256)?.checked_add(i64::from(*b))).ok_or_else(bad)
        }
        _ => {
            let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
            let digits = text.trim_ascii();
            if digits.is_empty() {
                return Ok(0);
            }
            digits
                .iter()
                .try_fold(0_i64, |n, b| match b {
                    b'0'..=b'7' => n.checked_mul(8)?.checked_add(i64::from(b - b'0')),
                    _ => None,
                })
                .ok_or_else(bad)
        }
    }
}

fn id(number: i64) -> Result<u32, Error> {
    // The last one means "leave it" to chown(2).
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::malformed(format!("{number} is no id of a user or group")))
}

fn device(header: &Header) -> Result<u64, Error> {
    let Some(ustar) = header
        .as_ustar()
        .map(|h| (&h.dev_major, &h.dev_minor))
        .or_else(|| header.as_gnu().map(|h| (&h.dev_major, &h.dev_minor)))
    else {
        return Err(Error::malformed("it is a device without a number"));
    };
    let part = |bytes: &[u8]| {
        let number = field(bytes, "device number")?;
        u32::try_from(number).map_err(|_| Error::malformed(format!("{number} is no device number")))
    };
    Ok(libc::makedev(part(ustar.0)?, part(ustar.1)?))
}

/// The sum over all bytes of the header, its own field taken for spaces; old writers added signed bytes.
fn check_sum(header: &Header) -> Result<(), Error> {
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (i, byte) in header.as_bytes().iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    let told = field(&header.as_old().cksum, "checksum").unwrap_or(-1);
    if told == unsigned || told == signed {
        return Ok(());
    }
    Err(Error::malformed("this is no header of a tar archive: its checksum is wrong"))
}
