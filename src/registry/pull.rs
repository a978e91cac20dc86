//! An image out of a registry: only what is not here.

use std::io;

use oci_spec::image::{Descriptor, Digest, ImageManifest, MediaType};

use super::blob::Part;
use super::error::{Error, Kind};
use super::manifest::{Content, Manifest, blobs};
use super::platform::Platform;
use super::session::Session;
use super::{Moved, Progress, parallel};

/// Where blobs go. Called from several threads.
pub trait Sink: Sync {
    /// Whether it is here, whole.
    fn has(&self, digest: &Digest) -> io::Result<bool>;
    /// Begins a blob, or goes on with what an earlier attempt has left of it. Nobody else writes it meanwhile: this
    /// waits, and there is nothing to do (`None`) if it is whole then.
    fn begin(&self, digest: &Digest) -> io::Result<Option<Box<dyn Part + '_>>>;
}

/// An image whose blobs are all in the sink.
#[derive(Debug)]
pub struct Pulled {
    /// The manifest as it came; its digest is the image's name.
    pub bytes: Vec<u8>,
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest.
    pub media_type: MediaType,
    /// The manifest as it is understood.
    pub manifest: ImageManifest,
    /// The digest that the registry knows the reference by, where that is an index of several platforms.
    pub index: Option<Digest>,
    /// How many blobs were fetched.
    pub fetched: usize,
}

impl Session {
    /// Fetches the image for `platform`: manifest, configuration and layers, each checked against its digest and size.
    pub fn pull(&self, platform: &Platform, sink: &dyn Sink, progress: &dyn Progress) -> Result<Pulled, Error> {
        let (manifest, index) = self.image_manifest(platform)?;
        let Content::Image(image) = manifest.content else {
            let text = format!("{}: an index in an index", self.reference);
            return Err(Error::new(Kind::Malformed, text));
        };
        let mut missing: Vec<&Descriptor> = Vec::new();
        for blob in blobs(&image) {
            if sink.has(blob.digest()).map_err(|e| Error::local(format_args!("blob {}", blob.digest()), &e))? {
                progress.end(blob, Moved::Already);
            } else {
                missing.push(blob);
            }
        }
        parallel::each(self.jobs, &missing, |blob, stop| {
            let how = self.fetch(blob, sink, progress, stop)?;
            progress.end(blob, how);
            Ok(())
        })?;
        let fetched = missing.len();
        let Manifest { bytes, digest, media_type, .. } = manifest;
        Ok(Pulled { bytes, digest, media_type, manifest: *image, index, fetched })
    }

    /// The manifest for `platform`, and the digest of the index it was chosen from.
    fn image_manifest(&self, platform: &Platform) -> Result<(Manifest, Option<Digest>), Error> {
        let manifest = self.manifest(&self.reference)?;
        let Content::Index(index) = &manifest.content else { return Ok((manifest, None)) };
        let what = self.reference.to_string();
        let chosen = platform.choose(&what, index)?;
        let reference = self.reference.clone_with_digest(chosen.digest().to_string());
        let image = self.manifest(&reference)?;
        if image.bytes.len() as u64 != chosen.size() {
            let text = format!("{reference}: {} bytes by the index, {} came", chosen.size(), image.bytes.len());
            return Err(Error::new(Kind::Content, text).hint("one of the two lies: do not trust this image"));
        }
        Ok((image, Some(manifest.digest)))
    }
}
