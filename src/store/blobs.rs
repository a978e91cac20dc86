//! Blobs: files named by the digest of what is in them, as in an OCI image layout. They are never changed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::{Digest, DigestAlgorithm};
use tempfile::NamedTempFile;

use super::files::sync_parent;
use super::{Error, ErrorKind, Result, Store};
use crate::vocab::digest::{Digester, of};

/// Manifests and configs are read into memory; a registry takes no larger ones (OCI distribution specification, "Pushing
/// Manifests": 4 MiB; configs have no limit of their own).
const MAX_READ: u64 = 16 << 20;

/// So much can be read in a moment.
const MAX_CHECKED: u64 = 1 << 20;

impl Store {
    /// Where a blob is, or would be.
    ///
    /// # Errors
    /// Another algorithm than SHA-256.
    pub fn blob_path(&self, digest: &Digest) -> Result<PathBuf> {
        Ok(self.path("blobs/sha256").join(sha256_hex(digest)?))
    }

    /// Whether the blob is here. A small one, as manifests and configs are, is read: if it is damaged it is not here, and can
    /// be had again.
    ///
    /// # Errors
    /// Another algorithm than SHA-256.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let path = self.blob_path(digest)?;
        let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= MAX_CHECKED);
        Ok(if small { fs::read(&path).is_ok_and(|bytes| of(&bytes) == *digest) } else { path.is_file() })
    }

    /// Opens a blob to read; what is read is not checked.
    ///
    /// # Errors
    /// It is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest)?;
        File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format_args!("blob {digest}: not in the store"))
            }
            _ => Error::at("open", &path)(e),
        })
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// It is not here.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64> {
        let file = self.open_blob(digest)?;
        Ok(file.metadata().map_err(|e| Error::io(format_args!("blob {digest}"), &e))?.len())
    }

    /// Reads a small blob, a manifest or a config, and checks it.
    ///
    /// # Errors
    /// It is not here, is larger than 16 MiB, or is not what its name says.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open_blob(digest)?;
        file.take(MAX_READ + 1).read_to_end(&mut bytes).map_err(|e| Error::io(format_args!("blob {digest}"), &e))?;
        if bytes.len() as u64 > MAX_READ {
            return Err(Error::bad(format_args!("blob {digest}: larger than 16 MiB, no manifest or config")));
        }
        if of(&bytes) != *digest {
            return Err(Error::bad(format_args!("blob {digest}: damaged on disk"))
                .with_hint("load, pull or import the image again"));
        }
        Ok(bytes)
    }

    /// Adds a small blob.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = of(bytes);
        if !self.has_blob(&digest)? {
            let mut writer = self.new_blob()?;
            writer.write_all(bytes).map_err(|e| Error::io(format_args!("blob {digest}"), &e))?;
            writer.finish(Some(&digest))?;
        }
        Ok(digest)
    }

    /// Begins a blob of unknown digest.
    ///
    /// # Errors
    /// The disk's.
    pub fn new_blob(&self) -> Result<BlobWriter> {
        Ok(BlobWriter { to: To::Temp(self.temp_file()?), digester: Digester::new(), size: 0, store: self.clone() })
    }

    /// Begins a blob, or goes on where an interrupted one ended: see [`BlobWriter::size`]. Waits while another process
    /// does the same; `None`: it is whole by then.
    ///
    /// # Errors
    /// The disk's.
    pub fn resume_blob(&self, digest: &Digest) -> Result<Option<BlobWriter>> {
        let path = self.path("partial").join(sha256_hex(digest)?);
        let fail = |e| Error::at("open", &path)(e);
        let mut file = loop {
            let file = File::options().read(true).append(true).create(true).open(&path).map_err(fail)?;
            file.lock().map_err(fail)?;
            // Whoever had it may have finished it, and moved it away.
            let same = fs::File::open(&path).and_then(|now| same_file(&now, &file));
            if same.unwrap_or(false) {
                break file;
            }
        };
        if self.has_blob(digest)? {
            fs::remove_file(&path).map_err(Error::at("remove", &path))?;
            return Ok(None);
        }
        let mut digester = Digester::new();
        let size = std::io::copy(&mut file, &mut digester).map_err(fail)?;
        Ok(Some(BlobWriter { to: To::Partial(file, path), digester, size, store: self.clone() }))
    }

    /// The digests of all blobs here.
    pub(super) fn blobs(&self) -> Result<Vec<(Digest, PathBuf, u64)>> {
        let dir = self.path("blobs/sha256");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::at("read", &dir))? {
            let entry = entry.map_err(Error::at("read", &dir))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok()) else { continue };
            let size = entry.metadata().map_err(Error::at("read", &dir))?.len();
            found.push((digest, entry.path(), size));
        }
        Ok(found)
    }
}

/// The hex digits of a SHA-256 digest.
pub(super) fn sha256_hex(digest: &Digest) -> Result<&str> {
    if *digest.algorithm() == DigestAlgorithm::Sha256 {
        return Ok(digest.digest());
    }
    Err(Error::bad(format_args!("digest {digest}: only sha256 is supported")))
}

fn same_file(a: &File, b: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// A blob on its way; nobody sees it until it is finished.
#[derive(Debug)]
pub struct BlobWriter {
    to: To,
    digester: Digester,
    size: u64,
    store: Store,
}

#[derive(Debug)]
enum To {
    /// Removed if it is not finished.
    Temp(NamedTempFile),
    /// Kept if it is not finished; locked.
    Partial(File, PathBuf),
}

impl To {
    fn file(&self) -> &File {
        match self {
            Self::Temp(file) => file.as_file(),
            Self::Partial(file, _) => file,
        }
    }

    /// Syncs it and moves it to where it is to be.
    fn place(self, path: &Path) -> std::io::Result<()> {
        let file = self.file();
        let synced = file.set_permissions(fs::Permissions::from_mode(0o444)).and_then(|()| file.sync_all());
        match self {
            Self::Temp(file) => synced.and_then(|()| file.persist(path).map(drop).map_err(|e| e.error)),
            Self::Partial(_, from) => {
                let placed = synced.and_then(|()| fs::rename(&from, path));
                let full = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded];
                if placed.as_ref().is_err_and(|e| full.contains(&e.kind())) {
                    // Others need the room.
                    fs::remove_file(&from)?;
                }
                placed
            }
        }
    }
}

impl BlobWriter {
    /// How many bytes are there.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Throws away what is there: the other side can't go on in the middle.
    ///
    /// # Errors
    /// The disk's.
    pub fn restart(&mut self) -> Result<()> {
        let file = self.to.file();
        file.set_len(0).map_err(|e| Error::io("truncate a blob", &e))?;
        let mut at: &File = file;
        at.seek(SeekFrom::Start(0)).map_err(|e| Error::io("seek in a blob", &e))?;
        self.digester = Digester::new();
        self.size = 0;
        Ok(())
    }

    /// Throws it away altogether.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard(self) -> Result<()> {
        match &self.to {
            To::Temp(_) => Ok(()),
            To::Partial(_, path) => fs::remove_file(path).map_err(Error::at("remove", path)),
        }
    }

    /// Syncs it and gives it its name; its digest.
    ///
    /// # Errors
    /// What came is not `expected` (it is thrown away then); the disk's.
    pub fn finish(self, expected: Option<&Digest>) -> Result<Digest> {
        let digest = self.digester.finish();
        if let Some(expected) = expected.filter(|e| **e != digest) {
            if let To::Partial(_, path) = &self.to {
                fs::remove_file(path).map_err(Error::at("remove", path))?;
            }
            return Err(Error::bad(format_args!("blob {expected}: what came is {digest} ({} bytes)", self.size))
                .with_hint("it was damaged on the way or where it comes from; try again"));
        }
        self.to.place(&self.store.blob_path(&digest)?).map_err(|e| Error::io(format_args!("blob {digest}"), &e))?;
        sync_parent(&self.store.blob_path(&digest)?)?;
        Ok(digest)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut file = self.to.file();
        let n = file.write(bytes)?;
        self.digester.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.file().flush()
    }
}
