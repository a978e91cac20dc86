//! Images to an archive: an OCI image layout as tar, or what `docker load` takes.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest, ImageIndex};
use serde_json::json;

use super::names::{REF_NAME, empty_index};
use super::{Error, Image, OCI_LAYOUT, Progress, Result, Store, familiar_name, to_json};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout. Of several images with a `manifest.json`, too: podman reads several from that only.
    Oci,
    /// The same with the `manifest.json` that docker and its tools read.
    Docker,
}

impl Store {
    /// Writes images, each with the names it is to have there. The same images are the same bytes.
    ///
    /// # Errors
    /// A blob is not here; what `to` says.
    pub fn save(
        &self,
        images: &[(Image, Vec<Reference>)],
        format: Format,
        to: impl Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let _adding = self.adding()?;
        let mut archive = tar::Builder::new(to);
        let mut written = HashSet::new();
        self.small(&mut archive, "oci-layout", OCI_LAYOUT.as_bytes())?;
        self.small(&mut archive, "index.json", &to_json(&self.index_of(images)?)?)?;
        if format == Format::Docker || images.len() > 1 {
            self.small(&mut archive, "manifest.json", &to_json(&docker_manifest(images))?)?;
        }
        for (image, _) in images {
            let manifest = image.manifest();
            let blobs = std::iter::once(image.digest()).chain(std::iter::once(manifest.config().digest()));
            for digest in blobs.chain(manifest.layers().iter().map(Descriptor::digest)) {
                if written.insert(digest.clone()) {
                    self.save_blob(&mut archive, digest, progress)?;
                }
            }
        }
        archive.into_inner().and_then(|mut to| to.flush()).map_err(|e| writing(&e))
    }

    fn index_of(&self, images: &[(Image, Vec<Reference>)]) -> Result<ImageIndex> {
        let mut entries = Vec::new();
        for (image, names) in images {
            let plain = Descriptor::new(image.media_type(), self.blob_size(image.digest())?, image.digest().clone());
            if names.is_empty() {
                entries.push(plain.clone());
            }
            for name in names {
                let mut entry = plain.clone();
                // Under both names: some tools look for the one, some for the other.
                let named = [(REF_NAME, name.whole()), ("io.containerd.image.name", name.whole())];
                entry.set_annotations(Some(named.map(|(k, v)| (k.to_owned(), v)).into()));
                entries.push(entry);
            }
        }
        let mut index = empty_index()?;
        index.set_manifests(entries);
        Ok(index)
    }

    fn small(&self, archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
        archive.append_data(&mut header(bytes.len() as u64), name, bytes).map_err(|e| writing(&e))
    }

    fn save_blob(
        &self,
        archive: &mut tar::Builder<impl Write>,
        digest: &Digest,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (size, file) = (self.blob_size(digest)?, self.open_blob(digest)?);
        progress.begin("saving", digest, Some(size));
        let told = Told { file, digest, progress };
        archive
            .append_data(&mut header(size), format!("blobs/sha256/{}", digest.digest()), told)
            .map_err(|e| writing(&e))?;
        progress.end(digest);
        Ok(())
    }
}

fn writing(e: &std::io::Error) -> Error {
    Error::io("write the archive", e)
}

/// Nobody's, of the beginning of time: the same images are the same archive.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

/// `manifest.json`, which names files of the archive; and docker takes compressed layers.
fn docker_manifest(images: &[(Image, Vec<Reference>)]) -> serde_json::Value {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.digest());
    let one = |(image, names): &(Image, Vec<Reference>)| {
        // A digest is no tag.
        let tags: Vec<String> = names.iter().filter(|n| n.digest().is_none()).map(familiar_name).collect();
        let layers: Vec<String> = image.manifest().layers().iter().map(|l| path(l.digest())).collect();
        BTreeMap::from([("Config", json!(path(image.id()))), ("RepoTags", json!(tags)), ("Layers", json!(layers))])
    };
    json!(images.iter().map(one).collect::<Vec<_>>())
}

/// Tells how much of a blob was read.
struct Told<'a> {
    file: std::fs::File,
    digest: &'a Digest,
    progress: &'a dyn Progress,
}

impl std::io::Read for Told<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buf)?;
        self.progress.more(self.digest, n as u64);
        Ok(n)
    }
}
