//! Layers unpacked: one read-only tree per diff-id, shared by every image that has it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

use super::blobs::sha256_hex;
use super::files::{read_json, sync_tree};
use super::lock::Lock;
use super::{Error, ErrorKind, Result, Store};

/// What is known of a layer: `layer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerInfo {
    /// Bytes of the files in it.
    pub size: u64,
    /// How many entries it has.
    pub entries: u64,
}

/// A layer that is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its plain tar.
    pub diff_id: Digest,
    /// Its tree, in the `user.overlay.` dialect.
    pub tree: PathBuf,
    /// What is known of it.
    pub info: LayerInfo,
}

impl Store {
    /// `layers/HEX`: the tree `diff`, `layer.json`, and whatever is made of it (an image index).
    ///
    /// # Errors
    /// Another algorithm than SHA-256.
    pub fn layer_dir(&self, diff_id: &Digest) -> Result<PathBuf> {
        Ok(self.path("layers").join(sha256_hex(diff_id)?))
    }

    /// The layer, if it is unpacked.
    ///
    /// # Errors
    /// It is there and can't be read.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>> {
        let dir = self.layer_dir(diff_id)?;
        match read_json(&dir.join("layer.json")) {
            Ok(info) => Ok(Some(Layer { diff_id: diff_id.clone(), tree: dir.join("diff"), info })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The layers of these diff-ids, all unpacked.
    ///
    /// # Errors
    /// One is not here.
    pub fn layers(&self, diff_ids: &[Digest]) -> Result<Vec<Layer>> {
        let one = |id: &Digest| {
            self.layer(id)?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format_args!("layer {id}: not in the store"))
                    .with_hint("load, pull or import the image again")
            })
        };
        diff_ids.iter().map(one).collect()
    }

    /// Unpacks a layer unless it is there: `build` fills an empty directory. Of several processes one does it, the others
    /// wait. The caller holds [`adding`](Self::adding).
    ///
    /// # Errors
    /// What `build` says; nothing is left then.
    pub fn add_layer(&self, diff_id: &Digest, build: impl FnOnce(&Path) -> Result<LayerInfo>) -> Result<Layer> {
        let to = self.layer_dir(diff_id)?;
        let _one_at_a_time = Lock::exclusive(&self.path(format!("tmp/layer-{}.lock", sha256_hex(diff_id)?)))?;
        if let Some(layer) = self.layer(diff_id)? {
            return Ok(layer);
        }
        let temp = self.temp_layer()?;
        let info = build(&temp.path().join("diff"))?;
        self.publish_layer(temp, &to, &info)?;
        Ok(Layer { diff_id: diff_id.clone(), tree: to.join("diff"), info })
    }

    /// A directory in `tmp` with an empty `diff`.
    pub(super) fn temp_layer(&self) -> Result<tempfile::TempDir> {
        let temp = self.temp_dir()?;
        let tree = temp.path().join("diff");
        fs::create_dir(&tree).map_err(Error::at("make", &tree))?;
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&tree, readable).map_err(Error::at("chmod", &tree))?;
        Ok(temp)
    }

    /// Moves it to its place. Somebody who was faster has left the same there.
    pub(super) fn publish_layer(&self, temp: tempfile::TempDir, to: &Path, info: &LayerInfo) -> Result<()> {
        self.write_json(&temp.path().join("layer.json"), info)?;
        sync_tree(temp.path())?;
        if to.exists() {
            // Without a readable `layer.json`: not a layer.
            self.remove_tree(to)?;
        }
        self.publish(temp, to).map(|_| ())
    }

    /// Keeps layers from being removed for as long as the files live, in whatever process. Take them while holding
    /// [`adding`](Self::adding).
    ///
    /// # Errors
    /// One is not here.
    pub fn hold_layers(&self, layers: &[Layer]) -> Result<Vec<File>> {
        let hold = |layer: &Layer| {
            let dir = self.layer_dir(&layer.diff_id)?;
            let file = File::open(&dir).map_err(Error::at("open", &dir))?;
            file.lock_shared().map_err(Error::at("lock", &dir))?;
            Ok(file)
        };
        layers.iter().map(hold).collect()
    }

    /// The diff-ids of all layers here.
    pub(super) fn all_layers(&self) -> Result<Vec<Digest>> {
        let dir = self.path("layers");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::at("read", &dir))? {
            let name = entry.map_err(Error::at("read", &dir))?.file_name();
            found.extend(name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok()));
        }
        Ok(found)
    }
}
