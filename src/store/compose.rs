//! New images: manifests and configs put together.

use oci_spec::image::{
    Descriptor, Digest, History, HistoryBuilder, ImageConfiguration, ImageManifestBuilder, MediaType, RootFsBuilder,
};

use super::unpack::Compression;
use super::{Error, Result, Store, to_json};

/// One layer of an image to be: its blob, which is here, and the digest of its plain tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLayer {
    /// Blob, size and media type.
    pub blob: Descriptor,
    /// Of the plain tar.
    pub diff_id: Digest,
}

/// The media type of a layer.
pub fn layer_type(compression: Compression) -> MediaType {
    match compression {
        Compression::None => MediaType::ImageLayer,
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    }
}

/// A line of an image's history.
pub fn history(created: &str, created_by: &str, comment: Option<&str>, empty: bool) -> Result<History> {
    let mut line = HistoryBuilder::default().created(created).created_by(created_by);
    if let Some(comment) = comment {
        line = line.comment(comment);
    }
    if empty {
        line = line.empty_layer(true);
    }
    line.build().map_err(|e| Error::bad(format_args!("history: {e}")))
}

impl Store {
    /// Writes a config and a manifest over these layers (bottom first); the manifest's digest. `config` says everything
    /// but the layers; `base` is the config of the image it goes back to: what it has and OCI does not know stays.
    ///
    /// # Errors
    /// The disk's.
    pub fn compose(
        &self,
        mut config: ImageConfiguration,
        base: Option<&serde_json::Value>,
        layers: &[NewLayer],
    ) -> Result<Digest> {
        let bad = |e: &dyn std::fmt::Display| Error::bad(format_args!("new image: {e}"));
        let ids: Vec<String> = layers.iter().map(|l| l.diff_id.to_string()).collect();
        config.set_rootfs(RootFsBuilder::default().typ("layers").diff_ids(ids).build().map_err(|e| bad(&e))?);
        let mut value = serde_json::to_value(&config).map_err(|e| bad(&e))?;
        if let Some(base) = base {
            keep_unknown(&mut value, base);
        }
        let blob = self.put_blob(&to_json(&value)?)?;
        self.manifest_of(blob, layers.iter().map(|l| l.blob.clone()).collect())
    }

    /// Writes an OCI manifest over a config and layers that are here.
    pub(super) fn manifest_of(&self, config: Digest, layers: Vec<Descriptor>) -> Result<Digest> {
        let config = Descriptor::new(MediaType::ImageConfig, self.blob_size(&config)?, config);
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers)
            .build()
            .map_err(|e| Error::bad(format_args!("manifest: {e}")))?;
        self.put_blob(&to_json(&manifest)?)
    }
}

/// Takes over what `base` has and the new value does not know of: Docker's `Healthcheck`, `OnBuild`, ..
fn keep_unknown(value: &mut serde_json::Value, base: &serde_json::Value) {
    /// They are about the container that the base was made in, or are said anew.
    const LEFT: [&str; 7] = ["container", "container_config", "docker_version", "id", "parent", "history", "rootfs"];
    /// Known to OCI: not being there says that they were taken away.
    const KNOWN: [&str; 10] =
        ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "author"];
    let (Some(to), Some(from)) = (value.as_object_mut(), base.as_object()) else { return };
    for (key, old) in from {
        match to.get_mut(key) {
            Some(new) if key == "config" => keep_unknown(new, old),
            Some(_) => {}
            None if LEFT.contains(&key.as_str()) || KNOWN.contains(&key.as_str()) || old.is_null() => {}
            None => drop(to.insert(key.clone(), old.clone())),
        }
    }
}
