//! From the bytes of an archive to those of its blob, with both digests on the way.

use std::io::{self, Write};

use super::{Options, Packed};
use crate::store::unpack::Compression;
use crate::store::{Error, Result};
use crate::vocab::digest::Digester;

/// Takes the archive.
pub(super) struct Sink<W: Write> {
    digest: Digester,
    size: u64,
    to: Encoder<W>,
}

enum Encoder<W: Write> {
    None(Counted<W>),
    Gzip(flate2::write::GzEncoder<Counted<W>>),
    Zstd(zstd::stream::write::Encoder<'static, Counted<W>>),
}

/// The blob as it is written.
struct Counted<W> {
    to: W,
    digest: Digester,
    size: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Sink<W> {
    pub(super) fn new(to: W, options: Options) -> Result<Self> {
        let to = Counted { to, digest: Digester::new(), size: 0 };
        let to = match options.compression {
            Compression::None => Encoder::None(to),
            Compression::Gzip => {
                let level = options.level.map_or_else(flate2::Compression::default, flate2::Compression::new);
                // No name, no time, and always the same word for the system: the same bytes everywhere.
                let header = flate2::GzBuilder::new().mtime(0).operating_system(255);
                Encoder::Gzip(header.write(to, level))
            }
            Compression::Zstd => {
                let level = options.level.map_or(zstd::DEFAULT_COMPRESSION_LEVEL, |n| n.cast_signed());
                Encoder::Zstd(zstd::stream::write::Encoder::new(to, level).map_err(failed)?)
            }
        };
        Ok(Self { digest: Digester::new(), size: 0, to })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        match &mut self.to {
            Encoder::None(to) => to.write_all(bytes),
            Encoder::Gzip(to) => to.write_all(bytes),
            Encoder::Zstd(to) => to.write_all(bytes),
        }
        .map_err(failed)
    }

    /// Bytes up to here.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn finish(self, entries: u64) -> Result<Packed> {
        let mut blob = match self.to {
            Encoder::None(to) => to,
            Encoder::Gzip(to) => to.finish().map_err(failed)?,
            Encoder::Zstd(to) => to.finish().map_err(failed)?,
        };
        blob.flush().map_err(failed)?;
        Ok(Packed {
            diff_id: self.digest.finish(),
            blob: blob.digest.finish(),
            blob_size: blob.size,
            tar_size: self.size,
            entries,
        })
    }
}

fn failed(e: io::Error) -> Error {
    Error::io("write the layer", &e)
}
