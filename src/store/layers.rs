//! Layers unpacked: one read-only tree per diff-id, shared by every image that has it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::blobs::sha256_hex;
use super::files::{read_json, rename_new, sync_dir, sync_tree, to_json};
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

/// Layers that are ours to build, by diff-id, with their locks.
#[derive(Debug)]
pub(super) struct Claim(BTreeMap<String, Lock>);

impl Claim {
    /// Whether it is not in the store.
    pub(super) fn lacks(&self, diff_id: &Digest) -> bool {
        self.0.contains_key(diff_id.as_ref())
    }
}

/// A layer in `tmp`, removed unless it is published.
#[derive(Debug)]
pub(super) struct Built {
    temp: TempDir,
    pub(super) diff_id: Digest,
}

fn not_here(diff_id: &Digest) -> Error {
    Error::new(ErrorKind::NotFound, format_args!("layer {diff_id}: not in the store"))
        .with_hint("load, pull or import the image again")
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
        let one = |id: &Digest| self.layer(id)?.ok_or_else(|| not_here(id));
        diff_ids.iter().map(one).collect()
    }

    /// Unpacks a layer unless it is there: `build` fills an empty directory. Of several processes one does it, the others
    /// wait. The caller holds [`adding`](Self::adding).
    ///
    /// # Errors
    /// What `build` says; nothing is left then.
    pub fn add_layer(&self, diff_id: &Digest, build: impl FnOnce(&Path) -> Result<LayerInfo>) -> Result<Layer> {
        let claim = self.claim_layers(std::slice::from_ref(diff_id))?;
        if claim.lacks(diff_id) {
            let built = self.build_layer(|tree| Ok((diff_id.clone(), build(tree)?)))?;
            self.publish_layers(&claim, vec![built])?;
        }
        self.layer(diff_id)?.ok_or_else(|| not_here(diff_id))
    }

    /// Those of these layers that are not here are ours to build: whoever else wants one waits until this is dropped. The
    /// caller holds [`adding`](Self::adding), and no other claim.
    pub(super) fn claim_layers(&self, diff_ids: &[Digest]) -> Result<Claim> {
        let mut claim = Claim(BTreeMap::new());
        // Everybody in the same order: nobody waits for one who waits for him.
        let mut sorted: Vec<&Digest> = diff_ids.iter().collect();
        sorted.sort_by(|a, b| a.digest().cmp(b.digest()));
        sorted.dedup();
        for id in sorted {
            if self.layer(id)?.is_some() {
                continue;
            }
            let lock = Lock::exclusive(&self.path(format!("tmp/layer-{}.lock", sha256_hex(id)?)))?;
            // Whom we have waited for has built it.
            if self.layer(id)?.is_none() {
                claim.0.insert(id.to_string(), lock);
            }
        }
        Ok(claim)
    }

    /// Builds a layer in `tmp`: `build` fills an empty directory and tells what it is then.
    pub(super) fn build_layer(&self, build: impl FnOnce(&Path) -> Result<(Digest, LayerInfo)>) -> Result<Built> {
        let temp = self.temp_dir()?;
        let tree = temp.path().join("diff");
        fs::create_dir(&tree).map_err(Error::at("make", &tree))?;
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&tree, readable).map_err(Error::at("chmod", &tree))?;
        let (diff_id, info) = build(&tree)?;
        let at = temp.path().join("layer.json");
        fs::write(&at, to_json(&info)?).map_err(Error::at("write", &at))?;
        Ok(Built { temp, diff_id })
    }

    /// Syncs what was built, all of it at once, and moves it to its place. It was claimed before.
    pub(super) fn publish_layers(&self, claim: &Claim, built: Vec<Built>) -> Result<()> {
        let built: Vec<_> = built.into_iter().filter(|b| claim.lacks(&b.diff_id)).collect();
        if built.is_empty() {
            return Ok(());
        }
        sync_tree(&self.path("tmp"))?;
        for Built { temp, diff_id } in built {
            let to = self.layer_dir(&diff_id)?;
            if to.exists() {
                // Without `layer.json`: not a layer.
                self.remove_tree(&to)?;
            }
            rename_new(temp.into(), &to)?;
        }
        sync_dir(&self.path("layers"))
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
