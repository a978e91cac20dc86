//! Images and containers on disk.
//!
//! An image is a stack of layers, each only the difference to the one below, named by its digest. A container is an image
//! with a writable layer. `LAYOUT.md` beside this file draws what is where, and says which lock is for what.
//!
//! | room | what it does |
//! |---|---|
//! | [`blobs`] | content-addressed files: manifests, configs, layers as they came |
//! | [`layers`] | layers unpacked, once each |
//! | [`names`] | references to images: `index.json` |
//! | [`image`] | an image, read |
//! | [`container`] | containers and their records |
//! | [`either`] | a name that may be a container's or an image's |
//! | [`commit`] | a container becomes an image, a view an archive |
//! | [`compare`] | what differs |
//! | [`usage`] | how much it is |
//! | [`gc`] | what nothing refers to goes |
//! | [`unpack`], [`pack`] | from a layer's blob to its directory, and back |
//! | [`load`], [`save`] | archives in and out |
//! | [`install`] | an image whose blobs have come: checked, unpacked, named |
//! | [`import`] | a root file system becomes an image |
//! | [`change`] | what `--change` says |
//! | [`compose`] | an image of new layers |
//! | [`files`], [`lock`] | in one step, or not at all; one after the other |

mod blobs;
mod change;
mod commit;
mod compare;
mod compose;
mod container;
mod either;
mod error;
mod files;
mod gc;
mod image;
mod import;
mod install;
mod layer_index;
mod layers;
mod load;
mod lock;
mod names;
pub mod pack;
mod save;
mod spare;
pub mod unpack;
mod usage;

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use blobs::BlobWriter;
pub use change::Change;
pub use commit::Commit;
pub use compose::{NewLayer, history, layer_type};
pub use container::{Container, NewContainer, Process, Record, Running, State, Status, Turn};
pub use either::Either;
pub use error::{Error, ErrorKind, Result};
pub use files::to_json;
pub use gc::Freed;
pub use image::Image;
pub use install::{Progress, Quiet};
pub use layers::{Layer, LayerInfo};
pub use load::{Loaded, Wanted};
pub use lock::Adding;
pub use names::{Found, familiar, familiar_name, parse_name};
pub use save::Format;
pub use spare::is_untouched;
pub use usage::{Usage, Used};

/// What `oci-layout` says (OCI image specification, image-layout.md).
const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The version of all that is not an OCI image layout.
const VERSION: &str = "1\n";
/// `tmp` tells a store that is being made, by us or by who was killed, from a directory of somebody else's: it is first.
const DIRS: [&str; 5] = ["tmp", "blobs/sha256", "layers", "containers", "partial"];

/// A store: a directory of one user's.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    held: lock::Held,
}

impl Store {
    /// Opens the store at `root`; makes it if there is none.
    ///
    /// # Errors
    /// It can't be made, or was made by a later version.
    pub fn open(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(Error::at("store", root))?;
        let store = Self { root, held: lock::Held::default() };
        let version = store.path("version");
        match fs::read_to_string(&version) {
            Ok(found) if found == VERSION => return Ok(store),
            Ok(found) => {
                let text = format_args!("store {}: version {:?} is not ours", store.root.display(), found.trim());
                return Err(Error::bad(text).with_hint("use the onlay that made it, or another --root"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::at("open the store", &version)(e)),
        }
        store.make()?;
        Ok(store)
    }

    fn make(&self) -> Result<()> {
        let fail = |e| Error::io(format_args!("make a store in {}", self.root.display()), &e);
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        if self.is_somebody_elses() {
            let text = format_args!("{}: neither empty nor a store", self.root.display());
            return Err(Error::bad(text).with_hint("name an empty directory, or one that is not there yet"));
        }
        for dir in DIRS {
            private.create(self.root.join(dir)).map_err(fail)?;
        }
        let _adding = self.adding()?;
        let _naming = self.naming()?;
        // Whoever was faster has made it.
        if !self.path("index.json").exists() {
            self.write_file(&self.path("oci-layout"), OCI_LAYOUT.as_bytes())?;
            self.write_json(&self.path("index.json"), &names::empty_index()?)?;
        }
        self.write_file(&self.path("version"), VERSION.as_bytes())
    }

    /// Whether there is something in its directory that no store has, or no `tmp` beside it. Like that is a store too whose
    /// making was interrupted.
    fn is_somebody_elses(&self) -> bool {
        // The last one, should another process be done with it by now.
        const FILES: [&str; 6] = ["lock", "gate.lock", "names.lock", "oci-layout", "index.json", "version"];
        let Ok(entries) = fs::read_dir(&self.root) else { return false };
        let names: Vec<_> = entries.flatten().map(|e| e.file_name()).filter(|n| n != "lost+found").collect();
        let ours = |name: &std::ffi::OsString| {
            FILES.iter().any(|f| name == f) || DIRS.iter().any(|d| d.split('/').next().is_some_and(|d| name == d))
        };
        !names.is_empty() && (!self.root.join("tmp").is_dir() || !names.iter().all(ours))
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
