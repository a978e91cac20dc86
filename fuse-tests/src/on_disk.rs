//! A store as it lies on disk: what it names is there, whole, and nothing else is. `src/store/LAYOUT.md` draws it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::manifest::{Manifest, What};
use crate::tree::{Tree, holds, same};

/// A store, and what its layers looked like when they were first seen.
#[derive(Debug)]
pub(crate) struct OnDisk {
    root: Tree,
    trees: BTreeMap<String, Manifest>,
}

/// What images and containers need, in hex.
#[derive(Debug, Default)]
struct Needs {
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
    /// `LAYER/index-CHAIN`
    indexes: BTreeSet<String>,
}

fn hex(digest: &Value) -> Result<String> {
    let text = digest.as_str().context("a digest")?;
    Ok(text.strip_prefix("sha256:").context("sha256")?.to_owned())
}

/// In hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Needs {
    fn add_stack(&mut self, diff_ids: &Value) -> Result<()> {
        let ids = diff_ids.as_array().context("diff-ids")?.iter().map(hex).collect::<Result<Vec<_>>>()?;
        if let Some((bottom, above)) = ids.split_first() {
            let chain =
                above.iter().fold(bottom.clone(), |chain, id| sha256(format!("sha256:{chain} sha256:{id}").as_bytes()));
            self.indexes.insert(format!("{}/index-{chain}", above.last().unwrap_or(bottom)));
        }
        self.layers.extend(ids);
        Ok(())
    }
}

impl OnDisk {
    pub(crate) fn new(root: Tree) -> Self {
        Self { root, trees: BTreeMap::new() }
    }

    fn json(&self, path: &str) -> Result<Value> {
        serde_json::from_slice(&fs::read(self.root.p(path)).context(path.to_owned())?).context(path.to_owned())
    }

    /// Checks that every image is whole, blob by blob and tree by tree; their names.
    pub(crate) fn images(&mut self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in self.json("index.json")?["manifests"].as_array().context("manifests")? {
            let name =
                entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or("<none>").to_owned();
            self.image(entry).with_context(|| format!("image {name} {}", entry["digest"]))?;
            names.insert(name);
        }
        names.remove("<none>");
        Ok(names)
    }

    fn blob(&self, descriptor: &Value) -> Result<Vec<u8>> {
        let name = hex(&descriptor["digest"])?;
        let bytes = fs::read(self.root.p(format!("blobs/sha256/{name}"))).with_context(|| format!("blob {name}"))?;
        ensure!(sha256(&bytes) == name, "blob {name} is not what its name says");
        ensure!(descriptor["size"].as_u64() == Some(bytes.len() as u64), "blob {name} has {} bytes", bytes.len());
        Ok(bytes)
    }

    fn image(&mut self, entry: &Value) -> Result<()> {
        let manifest: Value = serde_json::from_slice(&self.blob(entry)?)?;
        let config: Value = serde_json::from_slice(&self.blob(&manifest["config"])?)?;
        for layer in manifest["layers"].as_array().context("layers")? {
            self.blob(layer)?;
        }
        for id in config["rootfs"]["diff_ids"].as_array().context("diff-ids")? {
            let id = hex(id)?;
            self.json(&format!("layers/{id}/layer.json"))?;
            let tree = Manifest::of(&self.root.p(format!("layers/{id}/diff")), What::UNPACKED)?;
            let first = self.trees.entry(id.clone()).or_insert_with(|| tree.clone());
            first.check(&tree, &format!("layer {id}"))?;
        }
        Ok(())
    }

    fn needs(&self) -> Result<Needs> {
        let mut needs = Needs::default();
        let mut manifests = Vec::new();
        for entry in self.json("index.json")?["manifests"].as_array().context("manifests")? {
            manifests.push(hex(&entry["digest"])?);
        }
        for id in self.names("containers")? {
            let record = self.json(&format!("containers/{id}/record.json"))?;
            manifests.push(hex(&record["manifest"])?);
            needs.add_stack(&record["layers"])?;
        }
        for manifest in manifests {
            let json = self.json(&format!("blobs/sha256/{manifest}"))?;
            let config = hex(&json["config"]["digest"])?;
            needs.add_stack(&self.json(&format!("blobs/sha256/{config}"))?["rootfs"]["diff_ids"])?;
            for layer in json["layers"].as_array().context("layers")? {
                needs.blobs.insert(hex(&layer["digest"])?);
            }
            needs.blobs.extend([manifest, config]);
        }
        Ok(needs)
    }

    fn names(&self, dir: &str) -> Result<BTreeSet<String>> {
        let entries = fs::read_dir(self.root.p(dir)).with_context(|| dir.to_owned())?;
        entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// What is on its way, or left over. Locks are not.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for dir in ["tmp", "partial"] {
            left.extend(self.names(dir)?.into_iter().filter(|n| !n.ends_with(".lock")).map(|n| format!("{dir}/{n}")));
        }
        Ok(left)
    }

    /// Checks that there is nothing that no image and no container needs: after `gc`.
    pub(crate) fn nothing_else(&self) -> Result<()> {
        const TOP: [&str; 11] = [
            "blobs",
            "containers",
            "gate.lock",
            "index.json",
            "layers",
            "lock",
            "names.lock",
            "oci-layout",
            "partial",
            "tmp",
            "version",
        ];
        let needs = self.needs()?;
        same!(self.names("blobs/sha256")?, needs.blobs);
        same!(self.names("layers")?, needs.layers);
        let mut indexes = BTreeSet::new();
        for layer in &needs.layers {
            let mut names = self.names(&format!("layers/{layer}"))?;
            holds!(names.remove("diff") && names.remove("layer.json"), "{layer}: {names:?}");
            indexes.extend(names.into_iter().map(|n| format!("{layer}/{n}")));
        }
        same!(indexes, needs.indexes);
        same!((self.names("tmp")?, self.names("partial")?), (BTreeSet::new(), BTreeSet::new()));
        same!(self.names("blobs")?, BTreeSet::from(["sha256".to_owned()]));
        let more: Vec<_> = self.names("")?.into_iter().filter(|n| !TOP.contains(&n.as_str())).collect();
        same!(more, Vec::<String>::new());
        Ok(())
    }
}
