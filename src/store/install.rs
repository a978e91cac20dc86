//! An image whose blobs have arrived: checked, unpacked, named.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest};
use parking_lot::Mutex;

use super::layers::Built;
use super::unpack::{self, Options, Owners, unpack};
use super::{Error, Image, LayerInfo, Result, Store};
use crate::layer::{Handle, disk};
use crate::vocab::digest::short;

/// Told how far long work is; called from several threads.
pub trait Progress: Sync {
    /// Work on a blob begins: what (`unpacking`), which, how many bytes it has.
    fn begin(&self, what: &'static str, blob: &Digest, bytes: Option<u64>);
    /// The same of what is no blob yet: a name for people, and a key to tell of it by.
    fn begin_named(&self, what: &'static str, key: &Digest, _name: &str, bytes: Option<u64>) {
        self.begin(what, key, bytes);
    }
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
        self.unpack_all(&image, owners, progress)?;
        self.add_image(manifest, name)
    }

    /// Unpacks what is not here, and shows it when all of it is whole.
    fn unpack_all(&self, image: &Image, owners: Owners, progress: &dyn Progress) -> Result<()> {
        let claim = self.claim_layers(image.diff_ids())?;
        let mut seen = HashSet::new();
        let pairs = image.manifest().layers().iter().zip(image.diff_ids());
        let (todo, here): (Vec<_>, Vec<_>) =
            pairs.partition(|(_, diff_id)| claim.lacks(diff_id) && seen.insert(*diff_id));
        self.check_blobs(&here, progress)?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(todo.len());
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Ok(Vec::new())));
        let work = || {
            while let Some((blob, diff_id)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                let built = self.unpack_blob(blob, diff_id, owners, progress);
                let mut done = done.lock();
                match (&mut *done, built) {
                    (Ok(all), Ok(built)) => all.push(built),
                    (Err(_), _) => {}
                    (done, Err(e)) => {
                        // The others end after what they are at.
                        next.store(todo.len(), Ordering::Relaxed);
                        *done = Err(e);
                    }
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
        self.publish_layers(&claim, done.into_inner()?)
    }

    /// Checks the blobs of layers that are unpacked already, where no image here has them: what goes out with this image
    /// is to be what its config says.
    fn check_blobs(&self, pairs: &[(&Descriptor, &Digest)], progress: &dyn Progress) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        let mut known = HashSet::new();
        for (manifest, _) in self.known()? {
            let Ok(image) = self.read_image(&manifest) else { continue };
            let blobs = image.manifest().layers().iter().map(|blob| blob.digest().clone());
            known.extend(blobs.zip(image.diff_ids().iter().cloned()));
        }
        for (blob, diff_id) in pairs {
            let blob = blob.digest();
            if known.insert((blob.clone(), (*diff_id).clone())) {
                progress.begin("checking", blob, Some(self.blob_size(blob)?));
                let more = |n| progress.more(blob, n);
                let (came, own) = unpack::digests(self.open_blob(blob)?, &Options::default(), &more)
                    .map_err(|e| of_unpack(blob, &e))?;
                progress.end(blob);
                is_said(blob, diff_id, (&own, &came))?;
            }
        }
        Ok(())
    }

    fn unpack_blob(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        owners: Owners,
        progress: &dyn Progress,
    ) -> Result<Built> {
        self.build_layer(|tree| {
            progress.begin("unpacking", blob.digest(), Some(blob.size()));
            let into = Handle::Disk(
                disk::Object::open(tree, true).map_err(|e| Error::io(format_args!("{}", tree.display()), &e.into()))?,
            );
            let file = self.open_blob(blob.digest())?;
            let options = Options { owners, ..Options::default() };
            let done = unpack(file, &into, &options, &|n| progress.more(blob.digest(), n))
                .map_err(|e| of_unpack(blob.digest(), &e))?;
            progress.end(blob.digest());
            is_said(blob.digest(), diff_id, (&done.blob, &done.diff_id))?;
            for what in &done.skipped {
                // Files that are missing; attributes of another machine are not missed.
                let level = if what.starts_with("device ") { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, "layer {}: {what} left out", short(diff_id));
            }
            Ok((done.diff_id, LayerInfo { size: done.bytes, entries: done.entries }))
        })
    }
}

/// Compares what a blob has turned out to be, itself and its archive, with what is said of it.
fn is_said(blob: &Digest, diff_id: &Digest, (own, came): (&Digest, &Digest)) -> Result<()> {
    if own != blob {
        return Err(Error::bad(format_args!("blob {blob}: damaged on disk"))
            .with_hint("remove it and load the image again: onlay gc"));
    }
    if came != diff_id {
        return Err(Error::bad(format_args!("blob {blob}: its diff-id is {came}, and {diff_id} by the config"))
            .with_hint("the config is wrong: do not trust this image"));
    }
    Ok(())
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
