//! A root file system becomes a layer, and a layer an image.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use flate2::write::GzEncoder;
use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest, ImageConfiguration};

use super::compose::{NewLayer, history, layer_type};
use super::install::of_unpack;
use super::unpack::{Compression, Options, Owners, unpack};
use super::{BlobWriter, Error, Image, LayerInfo, Progress, Result, Store};
use crate::layer::{Handle, disk};
use crate::vocab::digest::of;

/// What packing is told to do about compression: what every tool reads.
pub(super) const LEVEL: flate2::Compression = flate2::Compression::new(6);

impl Store {
    /// Makes an image of one layer of the archive of a root file system. A compressed archive is kept as it came, a plain
    /// one compressed (gzip). Its length is for the progress. `config` says how to run it; `whence` is for the history.
    ///
    /// # Errors
    /// The archive can't be unpacked; the disk's. Nothing is left then.
    pub fn import(
        &self,
        (archive, bytes): (impl Read + Send, Option<u64>),
        (config, whence): (ImageConfiguration, &str),
        name: &Reference,
        owners: Owners,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let _adding = self.adding()?;
        let layer = self.take_layer((archive, bytes), whence, owners, progress)?;
        let manifest = self.compose_imported(config, whence, layer)?;
        self.add_image(&manifest, Some(name))
    }

    /// Makes an image of one layer of a directory.
    ///
    /// # Errors
    /// It can't be read; the disk's.
    pub fn import_dir(
        &self,
        dir: &Path,
        (config, whence): (ImageConfiguration, &str),
        name: &Reference,
        owners: Owners,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let _adding = self.adding()?;
        let layer = self.pack_dir(dir, owners, progress)?;
        let manifest = self.compose_imported(config, whence, layer)?;
        self.install(&manifest, Some(name), owners, progress)
    }

    fn compose_imported(&self, mut config: ImageConfiguration, whence: &str, layer: NewLayer) -> Result<Digest> {
        let created = jiff::Timestamp::now().to_string();
        config.set_created(Some(created.clone()));
        config.set_history(Some(vec![history(&created, "", Some(&format!("imported from {whence}")), false)?]));
        self.compose(config, None, &[layer])
    }

    /// Unpacks an archive and keeps it as a blob, in one go.
    fn take_layer(
        &self,
        (archive, bytes): (impl Read + Send, Option<u64>),
        whence: &str,
        owners: Owners,
        progress: &dyn Progress,
    ) -> Result<NewLayer> {
        let mut archive = BufReader::with_capacity(128 << 10, archive);
        let start = archive.fill_buf().map_err(|e| Error::bad(format_args!("read {whence}: {e}")))?;
        let came = Compression::of(start);
        let kept = if came == Compression::None { Compression::Gzip } else { came };
        let sink = match came {
            Compression::None => Sink::Packed(Box::new(GzEncoder::new(self.new_blob()?, LEVEL))),
            _ => Sink::AsIs(self.new_blob()?),
        };
        // Progress is told by what the work is about, and the digest is not known yet.
        let key = of(whence.as_bytes());
        progress.begin_named("importing", &key, whence, bytes);
        let mut tee = Tee { from: archive, to: sink, failed: None };
        let built = self.build_layer(|tree| {
            let into = Handle::Disk(disk::Object::open(tree, true).map_err(|e| Error::at("open", tree)(e.into()))?);
            let done = unpack(&mut tee, &into, &Options { owners, ..Options::default() }, &|n| progress.more(&key, n))
                .map_err(|e| {
                    if let Some(e) = tee.failed.take() {
                        return Error::io(format_args!("keep {whence} as a blob"), &e);
                    }
                    let e = of_unpack(&key, &e);
                    let text = e.to_string().replace(&format!("blob {key}"), whence);
                    let again = Error::new(e.kind(), text);
                    e.hint().map_or(again.clone(), |hint| again.with_hint(hint))
                })?;
            for what in &done.skipped {
                log::warn!("{whence}: {what} left out");
            }
            Ok((done.diff_id, LayerInfo { size: done.bytes, entries: done.entries }))
        })?;
        progress.end(&key);
        let diff_id = built.diff_id.clone();
        // One that is here already stays.
        self.publish_layers(&self.claim_layers(std::slice::from_ref(&diff_id))?, vec![built])?;
        let blob = tee.to.finish()?;
        let blob = Descriptor::new(layer_type(kept), self.blob_size(&blob)?, blob);
        Ok(NewLayer { blob, diff_id })
    }
}

/// Where the archive is kept.
enum Sink {
    AsIs(BlobWriter),
    Packed(Box<GzEncoder<BlobWriter>>),
}

impl Sink {
    fn finish(self) -> Result<Digest> {
        let blob = match self {
            Self::AsIs(blob) => blob,
            Self::Packed(encoder) => encoder.finish().map_err(|e| Error::io("compress", &e))?,
        };
        blob.finish(None)
    }
}

/// Keeps what is read.
struct Tee<R> {
    from: R,
    to: Sink,
    /// Why it could not be kept: nothing is wrong with what is read.
    failed: Option<std::io::Error>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buf)?;
        let kept = match &mut self.to {
            Sink::AsIs(blob) => blob.write_all(&buf[..n]),
            Sink::Packed(encoder) => encoder.write_all(&buf[..n]),
        };
        kept.inspect_err(|e| {
            let same = e.raw_os_error().map(std::io::Error::from_raw_os_error);
            self.failed = Some(same.unwrap_or_else(|| e.kind().into()));
        })?;
        Ok(n)
    }
}
