//! An image: manifest and config, as the OCI image specification has them (Docker's schema 2 says the same with other
//! media types).

use oci_spec::image::{Digest, ImageConfiguration, ImageManifest, MediaType};

use super::{Error, Layer, Result, Store};
use crate::vocab::MAX_LAYERS;

/// Docker's media type of a manifest.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// An image whose manifest and config are here.
#[derive(Clone, Debug)]
pub struct Image {
    digest: Digest,
    manifest: ImageManifest,
    config: ImageConfiguration,
    diff_ids: Vec<Digest>,
}

/// The digest tells all. (What is a set in a config comes in another order each time it is read.)
impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Image {}

impl Image {
    /// The digest of the manifest: what registries know it by.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The image id, as docker's: the digest of the config.
    pub fn id(&self) -> &Digest {
        self.manifest.config().digest()
    }

    /// The manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// The config.
    pub fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// The layers, bottom first, by the digests of their plain tars.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// The media type of the manifest.
    pub fn media_type(&self) -> MediaType {
        match self.manifest.media_type() {
            Some(kind) => kind.clone(),
            None if self.manifest.config().media_type().to_string().contains("docker") => {
                MediaType::Other(DOCKER_MANIFEST.to_owned())
            }
            None => MediaType::ImageManifest,
        }
    }

    /// Reads manifest and config from bytes.
    ///
    /// # Errors
    /// They are no such thing, or do not fit each other.
    pub fn parse(digest: Digest, manifest: &[u8], config: &[u8]) -> Result<Self> {
        let bad = |what: &str, e: &dyn std::fmt::Display| Error::bad(format_args!("{what} of image {digest}: {e}"));
        let manifest: ImageManifest = serde_json::from_slice(manifest).map_err(|e| bad("manifest", &e))?;
        let config: ImageConfiguration = serde_json::from_slice(config).map_err(|e| bad("config", &e))?;
        let diff_ids: Vec<Digest> = (config.rootfs().diff_ids().iter())
            .map(|id| id.parse().map_err(|e| bad("config", &format_args!("diff-id {id:?}: {e}"))))
            .collect::<Result<_>>()?;
        let (layers, ids) = (manifest.layers().len(), diff_ids.len());
        if layers != ids {
            return Err(bad("config", &format_args!("{ids} diff-ids for {layers} layers in the manifest")));
        }
        if layers > MAX_LAYERS {
            return Err(bad("manifest", &format_args!("{layers} layers are more than {MAX_LAYERS}")));
        }
        Ok(Self { digest, manifest, config, diff_ids })
    }
}

impl Store {
    /// Reads the image whose manifest has this digest.
    ///
    /// # Errors
    /// Its manifest or config is not here, damaged, or nonsense.
    pub fn read_image(&self, manifest: &Digest) -> Result<Image> {
        let bytes = self.read_blob(manifest)?;
        let config = parse_manifest(manifest, &bytes)?;
        Image::parse(manifest.clone(), &bytes, &self.read_blob(config.config().digest())?)
    }

    /// The layers of an image, bottom first.
    ///
    /// # Errors
    /// One is not unpacked.
    pub fn image_layers(&self, image: &Image) -> Result<Vec<Layer>> {
        self.layers(image.diff_ids())
    }
}

/// A manifest, of which nothing else is here yet.
pub(super) fn parse_manifest(digest: &Digest, bytes: &[u8]) -> Result<ImageManifest> {
    serde_json::from_slice(bytes).map_err(|e| Error::bad(format_args!("manifest {digest}: {e}")))
}
