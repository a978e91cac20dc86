//! From an upper, or a whole tree, to a layer's blob: OCI image specification, layer.md.
//!
//! Entries are sorted, and nothing in the archive tells of who wrote it or when: the same upper gives the same bytes.
//!
//! | in the view | in the archive |
//! |---|---|
//! | what the upper has, a moved directory with all that is in it, a metacopy with its data | entries, as the view shows them |
//! | gone | `.wh.NAME`, without owner or time |
//! | a directory that nothing shows through | its entry, then `.wh..wh..opq` in it |
//! | hard links of one inode, of those that are told | the first by name, then links to it |
//! | a file with holes | the sparse format 1.0 of GNU tar, which Go's and Python's readers know, too |
//! | extended attributes | `SCHILY.xattr.` records, by name; none of the union's own |
//! | a socket | left out, as docker does: it is nothing without whoever listens; `.wh.NAME` where it covers something |
//! | a name that begins with `.wh.` | refused: in a layer it would say that something is gone |
//!
//! Names, ids, sizes and times that don't fit a header of ustar are in a PAX header. Memory: one piece of 256 KiB, the
//! compressor's window, names of the directories on the way, and a path for each hard link.

mod entry;
mod sink;

#[cfg(test)]
mod tests;

use std::io::Write;

use oci_spec::image::Digest;

use super::unpack::{Compression, Owners};
use super::{Error, Result};
use crate::layer::Handle;
use crate::overlay::{Config, Delta, Layers, Lower, Overlay, Said, Unread};
use crate::vocab::dialect::Prefix;
use entry::Entries;
use sink::Sink;

/// How to pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How to compress.
    pub compression: Compression,
    /// How hard, in the compressor's own terms; `None`: as it does by itself.
    pub level: Option<u32>,
    /// How the upper keeps owners.
    pub owners: Owners,
}

impl Default for Options {
    /// As every registry and tool takes it: gzip.
    fn default() -> Self {
        Self { compression: Compression::Gzip, level: None, owners: Owners::Real }
    }
}

/// A layer that was packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the archive uncompressed.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub blob: Digest,
    /// Bytes of it.
    pub blob_size: u64,
    /// Bytes of the archive uncompressed.
    pub tar_size: u64,
    /// Entries.
    pub entries: u64,
}

/// As [`pack_upper`], of an upper whose work directory is not at hand: hard links of lower layers that were changed by one
/// of their names fall apart.
///
/// # Errors
/// As [`pack_upper`].
pub fn pack_layer(upper: &Handle, lowers: &[Handle], options: Options, to: impl Write) -> Result<Packed> {
    pack_upper(upper, None, lowers, options, to)
}

/// Packs what `upper` changes in `lowers`, the top one first, into a layer. `work` is its work directory, with the inode
/// index. All have the marks of a store, `user.overlay.`. Nothing is written to any of them, and nothing may change the
/// upper meanwhile.
///
/// # Errors
/// What can't be read or written, or can't be said in a layer; the text names it.
pub fn pack_upper(
    upper: &Handle,
    work: Option<&Handle>,
    lowers: &[Handle],
    options: Options,
    to: impl Write,
) -> Result<Packed> {
    let stored = options.owners == Owners::Stored;
    let delta = Delta::new(upper, work, lowers, Prefix::User, stored).map_err(Error::bad)?;
    let mut entries = Entries::new(delta.view(), Sink::new(to, options)?);
    delta.walk::<Error>(&mut |path, said| entries.add(path, said))?;
    entries.finish()
}

/// Packs a whole view into one layer, to which nothing is below.
///
/// # Errors
/// As [`pack_layer`].
pub fn pack_tree(view: &Overlay, options: Options, to: impl Write) -> Result<Packed> {
    let mut entries = Entries::new(view, Sink::new(to, options)?);
    view.tell_all::<Error>(&mut |path, said: Said<'_>| entries.add(path, said))?;
    entries.finish()
}

/// Packs a directory that is no layer: its names mean themselves.
///
/// # Errors
/// As [`pack_layer`].
pub fn pack_dir(dir: &Handle, options: Options, to: impl Write) -> Result<Packed> {
    let config = Config {
        prefix: Some(Prefix::User),
        aufs: false,
        marked_bottom: false,
        close_pseudo: true,
        ours_as_root: options.owners == Owners::Stored,
        ..Config::default()
    };
    let layers = Layers { upper: None, lowers: vec![Lower { dir: dir.clone() }] };
    let view = Overlay::new(layers, config).map_err(Error::bad)?;
    pack_tree(&view, options, to)
}

impl From<Unread> for Error {
    fn from(e: Unread) -> Self {
        Self::io(format_args!("read /{}", String::from_utf8_lossy(&e.path)), &e.errno.into())
    }
}
