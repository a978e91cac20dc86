//! The image index of a stack of layers: built when an image becomes known, used by whoever shows it.

use std::fs;
use std::path::PathBuf;

use oci_spec::image::Digest;

use super::blobs::sha256_hex;
use super::files::sync_parent;
use super::{Error, Layer, Result, Store};
use crate::layer::{Handle, disk};
use crate::overlay::{Lower, build_index};
use crate::vocab::dialect::Prefix;
use crate::vocab::digest::of;

impl Store {
    /// Where the image index of these layers, bottom first, is or would be.
    ///
    /// # Errors
    /// A layer with a digest of another algorithm than SHA-256.
    pub fn index_of_layers(&self, layers: &[Layer]) -> Result<Option<PathBuf>> {
        self.index_of_stack(&layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>())
    }

    /// The same, of layers that may not be here: with the top one, by the chain-id of the stack (OCI image specification,
    /// config.md, "Layer ChainID"). `None` for no layers.
    pub(super) fn index_of_stack(&self, diff_ids: &[Digest]) -> Result<Option<PathBuf>> {
        let Some((bottom, above)) = diff_ids.split_first() else { return Ok(None) };
        let chain = above.iter().fold(bottom.clone(), |chain, id| of(format!("{chain} {id}").as_bytes()));
        let top = above.last().unwrap_or(bottom);
        Ok(Some(self.layer_dir(top)?.join(format!("index-{}", sha256_hex(&chain)?))))
    }

    /// Builds the image index of these layers unless it is there. The caller holds [`adding`](Self::adding).
    ///
    /// # Errors
    /// A layer that can't be read, or of which no index can be made; it can be shown all the same.
    pub fn index_layers(&self, layers: &[Layer]) -> Result<()> {
        let Some(to) = self.index_of_layers(layers)? else { return Ok(()) };
        if to.exists() {
            return Ok(());
        }
        let open = |layer: &Layer| match disk::Object::open(&layer.tree, false) {
            Ok(dir) => Ok(Lower { dir: Handle::Disk(dir) }),
            Err(e) => Err(Error::at("open", &layer.tree)(e.into())),
        };
        let lowers = layers.iter().rev().map(open).collect::<Result<_>>()?;
        let temp = self.temp_dir()?;
        let file = temp.path().join("index");
        build_index(lowers, Prefix::User, false, &file).map_err(|e| Error::bad(format_args!("{e}")))?;
        fs::rename(&file, &to).map_err(Error::at("rename to", &to))?;
        sync_parent(&to)
    }
}
