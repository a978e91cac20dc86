//! The parts of no fixed length: the header, and what only some objects have. The one place that knows bincode (2.x with
//! fixed integers: what it writes is drawn in FORMAT.md and does not depend on it).

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// More than a header (4 bytes for 64 KiB of index) or an object's attributes (64 KiB of names and of values) need.
const MOST: usize = 16 << 20;

/// What holds for the whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Header {
    /// How many records there are.
    pub(super) records: u64,
    /// Bytes of names, right behind the records.
    pub(super) names: u64,
    /// Bytes of extras, right behind the names.
    pub(super) extras: u64,
    /// CRC-32 of each block between preamble and header.
    pub(super) blocks: Vec<u32>,
    /// What it was built from, the top one first.
    pub(super) layers: Vec<LayerId>,
    /// Marks were read as `trusted.overlay.*` (0) or `user.overlay.*` (1).
    pub(super) prefix: u8,
    /// AUFS's names were read.
    pub(super) aufs: bool,
    /// There were marks in either spelling.
    pub(super) marked: bool,
    /// `trusted.*` attributes could be seen.
    pub(super) trusted: bool,
    /// Whose ids are written: the builder's maps, as `OUTSIDE:INSIDE:COUNT` joined by colons.
    pub(super) uids: String,
    pub(super) gids: String,
}

/// Tells one layer's directory from another, and from itself after a change of its root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct LayerId {
    pub(super) ino: u64,
    pub(super) ctime: i64,
    pub(super) ctime_nsec: u32,
}

/// What only some objects have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Extra {
    /// A symbolic link's.
    pub(super) target: Option<Vec<u8>>,
    /// Where its layer has it, if that is not where the view has it.
    pub(super) path: Option<Vec<u8>>,
    /// Layer and path of a metacopy's data.
    pub(super) data: Option<(u16, Vec<u8>)>,
    /// Extended attributes, without the marks that were followed.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn config() -> Configuration<LittleEndian, Fixint, Limit<MOST>> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MOST>()
}

/// The bytes of a value; `None` if they are too many.
pub(super) fn encode<T: Encode>(value: &T) -> Option<Vec<u8>> {
    bincode::encode_to_vec(value, config()).ok()
}

/// The value that these bytes, all of them, say.
pub(super) fn decode<T: Decode<()>>(bytes: &[u8]) -> Option<T> {
    let (value, used) = bincode::decode_from_slice(bytes, config()).ok()?;
    (used == bytes.len()).then_some(value)
}
