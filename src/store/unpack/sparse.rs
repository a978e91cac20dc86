//! Where the data of a file with holes is: maps as GNU tar writes them.

use tar::GnuSparseHeader;

use super::archive::{MAX_EXTENSION, field};
use super::error::Error;
use super::pax::digits;

/// Some bytes of data in a file; all that is between two of them is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where in the file.
    pub(crate) at: u64,
    /// How many bytes.
    pub(crate) len: u64,
}

/// As many segments as any map may have: what fits in a map's lines, about.
const MAX_SEGMENTS: usize = (MAX_EXTENSION / 8) as usize;

/// Whether a map is in order, inside of the file, and has as much data as is stored.
pub(super) fn check(map: &[Segment], real: u64, stored: u64) -> Result<(), Error> {
    let (mut end, mut total) = (0, 0_u64);
    for segment in map {
        let stop = segment.at.checked_add(segment.len);
        match stop {
            Some(stop) if segment.at >= end && stop <= real => end = stop,
            _ => return Err(Error::malformed("the map of its holes contradicts itself")),
        }
        total += segment.len;
    }
    if total != stored {
        let words = format!("the map of its holes says {total} bytes, and {stored} are stored");
        return Err(Error::malformed(words));
    }
    Ok(())
}

fn push(map: &mut Vec<Segment>, at: u64, len: u64) -> Result<(), Error> {
    if map.len() >= MAX_SEGMENTS {
        return Err(Error::limit("it has too many holes", MAX_SEGMENTS as u64, "pieces"));
    }
    map.push(Segment { at, len });
    Ok(())
}

/// The map in the headers of GNU tar's own format.
#[derive(Default)]
pub(super) struct Old(Vec<Segment>);

impl Old {
    pub(super) fn add(&mut self, some: &[GnuSparseHeader]) -> Result<(), Error> {
        for one in some.iter().filter(|one| one.offset[0] != 0 || one.numbytes[0] != 0) {
            let part = |bytes: &[u8]| {
                u64::try_from(field(bytes, "map of holes")?).map_err(|_| Error::malformed("a hole has a negative size"))
            };
            push(&mut self.0, part(&one.offset)?, part(&one.numbytes)?)?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Segment> {
        self.0
    }
}

/// The map in the lines before the data: the number of segments, then offset and length of each.
#[derive(Default)]
pub(super) struct Lines {
    count: Option<u64>,
    first: Option<u64>,
    line: Vec<u8>,
    map: Vec<Segment>,
}

impl Lines {
    /// Reads one more block; what follows the last line is padding.
    pub(super) fn add(&mut self, block: &[u8]) -> Result<(), Error> {
        for byte in block {
            if self.is_whole() {
                return Ok(());
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let damaged = || Error::malformed("the map of its holes is damaged");
            let number = digits(&self.line).ok_or_else(damaged)?;
            self.line.clear();
            match (self.count, self.first.take()) {
                (None, _) => self.count = Some(number),
                (Some(_), None) => self.first = Some(number),
                (Some(_), Some(at)) => push(&mut self.map, at, number)?,
            }
        }
        Ok(())
    }

    pub(super) fn is_whole(&self) -> bool {
        self.count.is_some_and(|count| self.map.len() as u64 >= count)
    }

    pub(super) fn finish(self) -> Vec<Segment> {
        self.map
    }
}
