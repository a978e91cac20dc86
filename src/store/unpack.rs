//! From a layer's blob to a directory: OCI image specification, layer.md.
//!
//! Whoever made the blob is not trusted. An entry is named by its components only, each opened by descriptor from the
//! layer's root without the kernel following a link of any kind, so that nothing outside can be reached; what would forge
//! the union's own marks is refused, left out or escaped; sizes are limited before they are believed.
//!
//! # What becomes of an entry
//! | in the archive | in the layer |
//! |---|---|
//! | `.wh.NAME` | character device 0:0; a directory of that name in this layer is opaque instead |
//! | `.wh..wh..opq` | `user.overlay.opaque` = `y` on its directory |
//! | other names of AUFS's (`.wh..wh.plnk`) | left out |
//! | character device 0:0 | empty file with `user.overlay.onlay.device`, as the union writes it |
//! | other devices | devices; left out where mknod(2) is refused, as podman does in a user namespace, and told, the first one by name |
//! | attribute `user.overlay.X` | `user.overlay.overlay.X`: nested unions keep theirs |
//! | attribute `trusted.overlay.X`, stored owners, `security.selinux` | left out, told in [`Unpacked::skipped`] |
//! | an attribute that the file system, or our privilege, does not allow | left out, told likewise |
//! | an object where there is one | replaces it; a directory over a directory keeps what is in it |
//! | a directory that has no entry, the root included | made, 0755 of root, and marked: over a layer that has it, it is as it is there |
//! | a parent that is a symbolic link of this layer | followed, with the layer as the root; what is missing there is made |
//! | a parent that is no directory | refused; a whiteout or opaque mark there says nothing new |
//!
//! The union's marks are always `user.overlay.`: every user namespace can read them.
//!
//! # Memory
//! Nothing grows with the layer but a path and times for each directory ([`Limits::dir_names`]). Apart from that: six
//! pieces of 256 KiB on the way from thread to thread, 128 KiB of the blob, the decompressor's window (gzip 32 KiB; zstd
//! at most 128 MiB, 8 MiB for the levels in use), and one extended header of at most 1 MiB.

mod archive;
mod error;
mod name;
mod pax;
mod sparse;
mod stream;
mod tree;

#[cfg(test)]
mod tests;

use std::io::Read;

use oci_spec::image::Digest;

use crate::layer::Handle;

pub use error::{Error, Reason};
pub(super) use pax::{XATTR, encode_key};
pub(super) use sparse::Segment;
pub(super) use tree::is_private;

/// How owners are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// By chown(2): for root, and in a user namespace with a range of ids.
    #[default]
    Real,
    /// In `user.containers.override_stat`, with mode and type: where there is one id only. Devices, pipes and links that
    /// are not root's are files.
    Stored,
}

/// What is more than this is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive uncompressed, and of all files together, holes included.
    pub bytes: u64,
    /// How many times as long as the blob the archive may be..
    pub ratio: u64,
    /// ..once it has more than this many bytes.
    pub ratio_from: u64,
    /// Entries, extended headers included.
    pub entries: u64,
    /// Bytes of an entry's name.
    pub path: usize,
    /// Bytes of an attribute's value. (An entry's attributes together fit in its extended header: 1 MiB.)
    pub xattr: usize,
    /// Bytes of the names of all directories together, which are kept in memory to the end.
    pub dir_names: u64,
}

impl Default for Limits {
    /// An honest image of 10 GiB passes, and so does one layer of 64; 10 GiB of zeros in a few KiB do not.
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            ratio: 200,
            ratio_from: 256 << 20,
            entries: 999_999,
            // PATH_MAX, with its NUL.
            path: 4095,
            // XATTR_SIZE_MAX.
            xattr: 64 << 10,
            dir_names: 64 << 20,
        }
    }
}

/// How to unpack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whose the files are.
    pub owners: Owners,
    /// How much is too much.
    pub limits: Limits,
}

/// How a blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, one member or several.
    Gzip,
    /// RFC 8878, one frame or several, skippable ones included.
    Zstd,
}

impl Compression {
    /// How many of the first bytes tell.
    const MAGIC: u64 = 4;

    /// What the first bytes of a blob tell.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Its name in media types; `tar` for none.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// A layer that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the archive uncompressed.
    pub diff_id: Digest,
    /// Digest of the blob as it was read, to its end.
    pub blob: Digest,
    /// Bytes of it.
    pub blob_size: u64,
    /// How it was compressed.
    pub compression: Compression,
    /// Bytes of the archive uncompressed.
    pub tar_size: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of all files together, without holes.
    pub bytes: u64,
    /// What was left out, each once: `security.selinux`; `device dev/null`, the first of them.
    pub skipped: Vec<String>,
}

/// The diff-id of `blob` and its own digest, without unpacking it. Arguments and errors as of [`unpack`].
///
/// # Errors
/// It can't be read or decompressed, or is too much.
pub fn digests(
    blob: impl Read + Send,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Digest, Digest), Error> {
    std::thread::scope(|scope| {
        let sums = stream::start(scope, blob, &options.limits, progress).finish()?;
        Ok((sums.diff_id, sums.blob))
    })
}

/// Unpacks `blob` into the empty directory `into`, and tells both digests.
///
/// `progress` is told, from another thread, of every few bytes of the blob that were read. Digests are for the caller to
/// compare; `into` holds half a layer after an error.
///
/// # Errors
/// [`Error`]: what is wrong with which entry.
pub fn unpack(
    blob: impl Read + Send,
    into: &Handle,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Unpacked, Error> {
    std::thread::scope(|scope| {
        let pieces = stream::start(scope, blob, &options.limits, progress);
        let mut archive = archive::Archive::new(pieces, &options.limits);
        let mut tree = tree::Tree::new(into.clone(), options);
        tree.begin()?;
        let mut entries = 0;
        while let Some(entry) = archive.next()? {
            entries += 1;
            tree.add(&entry, &mut archive).map_err(|e| e.of(&entry.path))?;
        }
        let (bytes, skipped) = tree.finish()?;
        let sums = archive.finish()?;
        Ok(Unpacked {
            diff_id: sums.diff_id,
            blob: sums.blob,
            blob_size: sums.blob_size,
            compression: sums.compression,
            tar_size: sums.tar_size,
            entries,
            bytes,
            skipped,
        })
    })
}
