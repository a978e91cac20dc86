//! An image whose blobs have arrived: checked, unpacked, named.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest};

use super::unpack::{self, Options, Owners, unpack};
use super::{Error, Image, LayerInfo, Result, Store};
use crate::layer::{Handle, disk};
use crate::vocab::digest::short;

/// Told how far long work is; called from several threads.
pub trait Progress: Sync {
    /// Work on a blob begins: what (`unpacking`), which, how many bytes it has.
    fn begin(&self, what: &'static str, blob: &Digest, bytes: Option<u64>);
    /// So many more bytes are done.
    fn more(&self, blob: &Digest, bytes: u64);
    /// It is done.
    fn end(&self, blob: &Digest);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: &'static str, _: &Digest, _: Option<u64>) {}
    fn more(&self, _: &Digest, _: u64) {}
    fn end(&self, _: &Digest) {}
}

impl Store {
    /// Makes an image of blobs that are all here: checks sizes and digests, unpacks the layers that are not unpacked yet,
    /// several at a time, and names it. The caller holds [`adding`](Self::adding) since before the first blob came.
    ///
    /// # Errors
    /// A manifest or config that is not one, a blob that is missing or is not what the manifest or config says, a layer
    /// that can't be unpacked. The image is not there then; nor is a layer by halves.
    pub fn install(
        &self,
        manifest: &Digest,
        name: Option<&Reference>,
        owners: Owners,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let image = self.read_image(manifest)?;
        for blob in std::iter::once(image.manifest().config()).chain(image.manifest().layers()) {
            let size = self.blob_size(blob.digest())?;
            if size != blob.size() {
                return Err(Error::bad(format_args!(
                    "blob {}: has {size} bytes, and {} by the manifest",
                    blob.digest(),
                    blob.size()
                ))
                .with_hint("the manifest is wrong: ask who made the image"));
            }
        }
        let todo: Vec<_> = image.manifest().layers().iter().zip(image.diff_ids()).collect();
        self.unpack_all(&todo, owners, progress)?;
        self.add_image(manifest, name)
    }

    fn unpack_all(&self, todo: &[(&Descriptor, &Digest)], owners: Owners, progress: &dyn Progress) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(todo.len());
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some((blob, diff_id)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(e) = self.unpack_blob(blob, diff_id, owners, progress) {
                    // The others end after what they are at.
                    next.store(todo.len(), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
                }
            }
        };
        if threads <= 1 {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(work);
                }
            });
        }
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn unpack_blob(&self, blob: &Descriptor, diff_id: &Digest, owners: Owners, progress: &dyn Progress) -> Result<()> {
        let build = |tree: &std::path::Path| {
            progress.begin("unpacking", blob.digest(), Some(blob.size()));
            let into = Handle::Disk(
                disk::Object::open(tree, true).map_err(|e| Error::io(format_args!("{}", tree.display()), &e.into()))?,
            );
            let file = self.open_blob(blob.digest())?;
            let options = Options { owners, ..Options::default() };
            let done = unpack(file, &into, &options, &|n| progress.more(blob.digest(), n))
                .map_err(|e| of_unpack(blob.digest(), &e))?;
            progress.end(blob.digest());
            if done.blob != *blob.digest() {
                return Err(Error::bad(format_args!("blob {}: damaged on disk", blob.digest()))
                    .with_hint("remove it and load the image again: onlay gc"));
            }
            if done.diff_id != *diff_id {
                return Err(Error::bad(format_args!(
                    "blob {}: its diff-id is {}, and {diff_id} by the config",
                    blob.digest(),
                    done.diff_id
                ))
                .with_hint("the config is wrong: do not trust this image"));
            }
            for what in &done.skipped {
                log::debug!("layer {}: {what} left out", short(diff_id));
            }
            Ok(LayerInfo { size: done.bytes, entries: done.entries })
        };
        self.add_layer(diff_id, build).map(|_| ())
    }
}

/// What unpacking says, of which blob.
pub(super) fn of_unpack(blob: &Digest, e: &unpack::Error) -> Error {
    let full = matches!(e.reason(), unpack::Reason::Write { errno, .. }
        if matches!(*errno, crate::vocab::Errno::NOSPC | crate::vocab::Errno::DQUOT));
    if let unpack::Reason::Write { what, errno } = e.reason()
        && full
    {
        return Error::io(format_args!("blob {blob}: {what}"), &(*errno).into());
    }
    let error = Error::bad(format_args!("blob {blob}: {e}"));
    match e.hint() {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
