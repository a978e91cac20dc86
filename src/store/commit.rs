//! A container becomes an image; a view becomes an archive.

use std::io::Write;

use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest};

use super::compare::{handle, open, view};
use super::compose::{NewLayer, history, layer_type};
use super::pack::{self, Packed, pack_dir, pack_tree, pack_upper};
use super::unpack::{Compression, Owners};
use super::{BlobWriter, Change, Container, Error, Image, Progress, Result, Store};
use crate::overlay::{Delta, Overlay};
use crate::vocab::dialect::Prefix;
use crate::vocab::digest::of;

/// What is said of a commit.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Changes to the config.
    pub changes: Vec<Change>,
    /// A comment for the history.
    pub message: Option<String>,
    /// Who made it.
    pub author: Option<String>,
}

impl Store {
    /// Makes an image of a container: what it wrote becomes one more layer, with history and config carried on. The same
    /// upper gives the same layer.
    ///
    /// # Errors
    /// The container is in use; its upper can't be read, or said in a layer; the disk's.
    pub fn commit(
        &self,
        container: &Container,
        name: &Reference,
        commit: Commit,
        owners: Owners,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let _adding = self.adding()?;
        let _ours = container.take()?;
        let base = self.read_image(&container.record.manifest)?;
        let lowers = self.layers(&container.record.layers)?;
        let lowers: Vec<_> = lowers.iter().rev().map(handle).collect::<Result<_>>()?;
        let (upper, work) = (open(&container.upper())?, open(&container.work())?);
        let options = pack::Options { owners, ..pack::Options::default() };
        let packed = self.pack("packing", &container.record.name, progress, |to| {
            pack_upper(&upper, Some(&work), &lowers, options, to)
        })?;
        let mut layers: Vec<NewLayer> = (base.manifest().layers().iter().zip(base.diff_ids()))
            .map(|(blob, diff_id)| NewLayer { blob: blob.clone(), diff_id: diff_id.clone() })
            .collect();
        layers.push(new_layer(&packed, options.compression));
        let mut config = base.config().clone();
        let created = jiff::Timestamp::now().to_string();
        let mut lines = config.history().clone().unwrap_or_default();
        let command = container.record.process.args.join(" ");
        lines.push(history(&created, &command, commit.message.as_deref(), false)?);
        config.set_created(Some(created));
        config.set_history(Some(lines));
        if commit.author.is_some() {
            config.set_author(commit.author);
        }
        let mut run = config.config().clone().unwrap_or_default();
        commit.changes.into_iter().for_each(|change| change.apply(&mut run));
        config.set_config(Some(run));
        let before = serde_json::from_slice(&self.read_blob(base.id())?)
            .map_err(|e| Error::bad(format_args!("config {}: {e}", base.id())))?;
        let manifest = self.compose(config, Some(&before), &layers)?;
        self.install(&manifest, Some(name), owners, progress)
    }

    /// Packs something into a new blob.
    pub(super) fn pack(
        &self,
        what: &'static str,
        of_what: &str,
        progress: &dyn Progress,
        pack: impl FnOnce(&mut dyn Write) -> Result<Packed>,
    ) -> Result<Packed> {
        let key = of(of_what.as_bytes());
        progress.begin_named(what, &key, of_what, None);
        let mut to = Told { to: self.new_blob()?, key: &key, progress };
        let packed = pack(&mut to)?;
        to.to.finish(Some(&packed.blob))?;
        progress.end(&key);
        Ok(packed)
    }

    /// Writes the whole view of an image as one archive, uncompressed.
    ///
    /// # Errors
    /// A layer can't be read; what `to` says.
    pub fn export_image(&self, image: &Image, to: &mut dyn Write) -> Result<()> {
        let adding = self.adding()?;
        let layers = self.image_layers(image)?;
        let _held = self.hold_layers(&layers)?;
        drop(adding);
        export(&view(&layers)?, to)
    }

    /// Writes the whole view of a container as one archive, uncompressed.
    ///
    /// # Errors
    /// The container is in use; as [`export_image`](Self::export_image).
    pub fn export_container(&self, container: &Container, owners: Owners, to: &mut dyn Write) -> Result<()> {
        let _ours = container.take()?;
        let lowers = self.layers(&container.record.layers)?;
        let lowers: Vec<_> = lowers.iter().rev().map(handle).collect::<Result<_>>()?;
        let (upper, work) = (open(&container.upper())?, open(&container.work())?);
        let delta = Delta::new(&upper, Some(&work), &lowers, Prefix::User, owners == Owners::Stored)
            .map_err(|e| Error::bad(format_args!("container {}: {e}", container.record.name)))?;
        export(delta.view(), to)
    }

    /// Packs a directory.
    pub(super) fn pack_dir(&self, dir: &std::path::Path, owners: Owners, progress: &dyn Progress) -> Result<NewLayer> {
        let options = pack::Options { owners, ..pack::Options::default() };
        let tree = open(dir)?;
        let packed = self.pack("packing", &dir.to_string_lossy(), progress, |to| pack_dir(&tree, options, to))?;
        Ok(new_layer(&packed, options.compression))
    }
}

fn export(view: &Overlay, to: &mut dyn Write) -> Result<()> {
    let options = pack::Options { compression: Compression::None, ..pack::Options::default() };
    pack_tree(view, options, to).map(|_| ())
}

fn new_layer(packed: &Packed, compression: Compression) -> NewLayer {
    let blob = Descriptor::new(layer_type(compression), packed.blob_size, packed.blob.clone());
    NewLayer { blob, diff_id: packed.diff_id.clone() }
}

/// Tells how much was written.
struct Told<'a> {
    to: BlobWriter,
    key: &'a Digest,
    progress: &'a dyn Progress,
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.progress.more(self.key, n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
