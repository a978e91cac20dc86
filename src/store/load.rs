//! Images from a file or a directory: OCI image layout, as directory or archive, and what `docker save` writes.
//!
//! An archive is read once, from front to end, so that it may come through a pipe: every file in it becomes a blob by its
//! digest, and what the archive is, its small files tell in the end. What no image needs goes with the next sweep.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use oci_spec::distribution::Reference;
use oci_spec::image::{Arch, Descriptor, Digest, ImageIndex, MediaType, Os};
use serde::Deserialize;

use super::compose::layer_type;
use super::files::read_json;
use super::unpack::{Compression, Owners};
use super::{Error, Image, Progress, Result, Store, names, parse_name};

/// More files than this no image has.
const MAX_FILES: usize = 100_000;
/// As long as PATH_MAX.
const MAX_NAME: usize = 4096;
/// What an archive may hold in bytes, uncompressed.
const MAX_BYTES: u64 = 1 << 40;
/// As of layers: how many times as long as the compressed archive its content may be, once it is larger than this.
const MAX_RATIO: u64 = 200;
const RATIO_FROM: u64 = 256 << 20;

/// The image of which machines is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Operating system.
    pub os: Os,
    /// Processor.
    pub arch: Arch,
}

impl Default for Wanted {
    /// This machine's.
    fn default() -> Self {
        Self { os: Os::default(), arch: Arch::default() }
    }
}

/// An image that was loaded, and a name it has now.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The image.
    pub image: Image,
    /// `None`: the archive names none.
    pub name: Option<Reference>,
}

/// A line of the `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Files of an archive that are blobs now, by their names there.
#[derive(Debug, Default)]
struct Files(HashMap<String, Entry>);

#[derive(Clone, Debug)]
enum Entry {
    Blob(Digest, u64),
    Link(String),
}

impl Files {
    fn get(&self, name: &str) -> Option<(&Digest, u64)> {
        let mut name = name.to_owned();
        // Old `docker save` links layers that are the same.
        for _ in 0..8 {
            match self.0.get(&name)? {
                Entry::Blob(digest, size) => return Some((digest, *size)),
                Entry::Link(to) => name.clone_from(to),
            }
        }
        None
    }
}

impl Store {
    /// Loads all images of an OCI image layout directory.
    ///
    /// # Errors
    /// It is none, lacks something, or something in it is not what it says it is.
    pub fn load_dir(&self, dir: &Path, wanted: &Wanted, owners: Owners, p: &dyn Progress) -> Result<Vec<Loaded>> {
        let _adding = self.adding()?;
        if !dir.join("oci-layout").is_file() {
            return Err(Error::bad("no OCI image layout")
                .with_hint("it has no file oci-layout; a root file system is taken by onlay import"));
        }
        let index: ImageIndex = read_json(&dir.join("index.json"))?;
        let fetch = |blob: &Descriptor| {
            if self.has_blob(blob.digest())? {
                return Ok(());
            }
            let path = dir.join("blobs").join(blob.digest().algorithm().as_ref()).join(blob.digest().digest());
            let mut from = File::open(&path).map_err(Error::at("open", &path))?;
            p.begin("copying", blob.digest(), Some(blob.size()));
            self.copy_blob(&mut from, Some(blob.digest()), p).map(|_| p.end(blob.digest()))
        };
        self.load_index(index, &fetch, wanted, owners, p)
    }

    /// Loads all images of an archive, plain or compressed.
    ///
    /// # Errors
    /// As [`load_dir`](Self::load_dir).
    pub fn load_archive(
        &self,
        archive: impl Read,
        wanted: &Wanted,
        owners: Owners,
        p: &dyn Progress,
    ) -> Result<Vec<Loaded>> {
        let _adding = self.adding()?;
        let files = self.take_files(archive, p)?;
        let small = |name: &str| files.get(name).map(|(digest, _)| self.read_blob(digest)).transpose();
        if let (Some(_), Some(index)) = (small("oci-layout")?, small("index.json")?) {
            let index = serde_json::from_slice(&index).map_err(|e| Error::bad(format_args!("index.json: {e}")))?;
            let fetch = |blob: &Descriptor| match self.has_blob(blob.digest())? {
                true => Ok(()),
                false => Err(missing(blob.digest())),
            };
            return self.load_index(index, &fetch, wanted, owners, p);
        }
        if let Some(manifest) = small("manifest.json")? {
            let saved = serde_json::from_slice(&manifest)
                .map_err(|e| Error::bad(format_args!("manifest.json of the archive: {e}")))?;
            return self.load_saved(saved, &files, owners, p);
        }
        Err(Error::bad("the archive has neither index.json nor manifest.json: no image of OCI's or docker's")
            .with_hint("a root file system is taken by onlay import"))
    }

    /// Makes a blob of every file in an archive.
    fn take_files(&self, archive: impl Read, p: &dyn Progress) -> Result<Files> {
        let bad = |e: &std::io::Error| {
            // What follows the first words is bytes of the archive.
            let text = e.to_string();
            let words = text.split(" when getting").next().unwrap_or_default();
            Error::bad(format_args!("read the archive: {}", words.lines().next().unwrap_or_default()))
        };
        let mut files = Files::default();
        let mut archive = tar::Archive::new(plain(archive)?);
        for (count, entry) in archive.entries().map_err(|e| bad(&e))?.enumerate() {
            let mut entry = entry.map_err(|e| bad(&e))?;
            let path = entry.path_bytes();
            if count >= MAX_FILES || path.len() > MAX_NAME {
                return Err(Error::bad("the archive has too many files, or too long names, for an image"));
            }
            let name = normal(&String::from_utf8_lossy(&path));
            let kind = entry.header().entry_type();
            let found = if kind.is_file() {
                let size = entry.size();
                // The archive names it so; what it is named elsewhere must be the same.
                let expected: Option<Digest> =
                    name.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok());
                if let Some(digest) = &expected {
                    p.begin("copying", digest, Some(size));
                }
                let (digest, copied) = self.copy_blob(&mut entry, expected.as_ref(), p)?;
                p.end(&digest);
                if copied != size {
                    return Err(Error::bad(format_args!("the archive ends in {name:?}: {copied} of {size} bytes"))
                        .with_hint("it was cut off; fetch or save it again"));
                }
                Entry::Blob(digest, size)
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().map(|t| String::from_utf8_lossy(&t).into_owned());
                let base = if kind.is_symlink() { name.rsplit_once('/').map_or("", |(dir, _)| dir) } else { "" };
                Entry::Link(normal(&format!("{base}/{}", target.unwrap_or_default())))
            } else {
                continue;
            };
            files.0.insert(name, found);
        }
        Ok(files)
    }

    /// Copies what comes into a blob.
    pub(super) fn copy_blob(
        &self,
        from: &mut impl Read,
        expected: Option<&Digest>,
        p: &dyn Progress,
    ) -> Result<(Digest, u64)> {
        let mut blob = self.new_blob()?;
        let mut piece = vec![0; 256 << 10];
        loop {
            let n = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::bad(format_args!("read {}: {e}", naming(expected)))),
            };
            blob.write_all(&piece[..n]).map_err(|e| Error::io(format_args!("write {}", naming(expected)), &e))?;
            if let Some(digest) = expected {
                p.more(digest, n as u64);
            }
        }
        let size = blob.size();
        Ok((blob.finish(expected)?, size))
    }

    fn load_index(
        &self,
        index: ImageIndex,
        fetch: &dyn Fn(&Descriptor) -> Result<()>,
        wanted: &Wanted,
        owners: Owners,
        p: &dyn Progress,
    ) -> Result<Vec<Loaded>> {
        let mut loaded = Vec::new();
        for entry in index.manifests() {
            let name = reference_of(entry).map(|n| parse_name(&n)).transpose()?;
            let Some(manifest) = self.choose(entry, fetch, wanted, 0)? else { continue };
            let bytes = self.read_blob(manifest.digest())?;
            let image = super::image::parse_manifest(manifest.digest(), &bytes)?;
            for blob in std::iter::once(image.config()).chain(image.layers()) {
                fetch(blob)?;
            }
            let image = self.install(manifest.digest(), name.as_ref(), owners, p)?;
            loaded.push(Loaded { image, name });
        }
        if loaded.is_empty() {
            let text = format!("no image for {}/{} in it", wanted.os, wanted.arch);
            return Err(Error::bad(text).with_hint("choose another --platform"));
        }
        Ok(loaded)
    }

    /// The manifest for the platform: the entry itself, or one of the index that it is.
    fn choose(
        &self,
        entry: &Descriptor,
        fetch: &dyn Fn(&Descriptor) -> Result<()>,
        wanted: &Wanted,
        depth: u32,
    ) -> Result<Option<Descriptor>> {
        let fits = entry.platform().as_ref().is_none_or(|p| *p.os() == wanted.os && *p.architecture() == wanted.arch);
        let kind = entry.media_type().to_string();
        let is_index = *entry.media_type() == MediaType::ImageIndex || kind.ends_with("manifest.list.v2+json");
        if !is_index {
            let is_image = *entry.media_type() == MediaType::ImageManifest || kind.ends_with("manifest.v2+json");
            if fits && is_image {
                fetch(entry)?;
                return Ok(Some(entry.clone()));
            }
            return Ok(None);
        }
        if depth > 2 {
            return Err(Error::bad(format_args!("index {}: indexes in indexes", entry.digest())));
        }
        fetch(entry)?;
        let index: ImageIndex = serde_json::from_slice(&self.read_blob(entry.digest())?)
            .map_err(|e| Error::bad(format_args!("index {}: {e}", entry.digest())))?;
        for below in index.manifests() {
            if let Some(found) = self.choose(below, fetch, wanted, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn load_saved(&self, saved: Vec<Saved>, files: &Files, owners: Owners, p: &dyn Progress) -> Result<Vec<Loaded>> {
        let find = |name: &str| {
            files.get(&normal(name)).ok_or_else(|| {
                Error::bad(format_args!("manifest.json names {name:?}, which is not in the archive"))
                    .with_hint("it was cut off or taken apart; save it again")
            })
        };
        let mut loaded = Vec::new();
        for image in saved {
            let mut layers = Vec::new();
            for layer in &image.layers {
                let (digest, size) = find(layer)?;
                let mut start = Vec::new();
                let opened = self.open_blob(digest)?;
                opened.take(4).read_to_end(&mut start).map_err(|e| Error::io(format_args!("blob {digest}"), &e))?;
                layers.push(Descriptor::new(layer_type(Compression::of(&start)), size, digest.clone()));
            }
            let manifest = self.manifest_of(find(&image.config)?.0.clone(), layers)?;
            let tags = image.repo_tags.unwrap_or_default();
            let tags: Vec<_> = tags.iter().map(|tag| parse_name(tag)).collect::<Result<_>>()?;
            let image = self.install(&manifest, tags.first(), owners, p)?;
            for more in tags.iter().skip(1) {
                self.add_image(&manifest, Some(more))?;
            }
            let names = if tags.is_empty() { vec![None] } else { tags.into_iter().map(Some).collect() };
            loaded.extend(names.into_iter().map(|name| Loaded { image: image.clone(), name }));
        }
        if loaded.is_empty() {
            return Err(Error::bad("manifest.json of the archive names no image"));
        }
        Ok(loaded)
    }
}

fn naming(digest: Option<&Digest>) -> String {
    digest.map_or_else(|| "a file of the archive".to_owned(), |d| format!("blob {d}"))
}

fn missing(digest: &Digest) -> Error {
    Error::bad(format_args!("blob {digest}: not in the archive")).with_hint("it was cut off; fetch or save it again")
}

/// What a manifest is called: containerd and docker write the whole name beside the tag.
fn reference_of(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations().as_ref()?;
    annotations.get("io.containerd.image.name").or_else(|| annotations.get(names::REF_NAME)).cloned()
}

/// A path of an archive without `.`, `..` and slashes at its ends: only compared, never opened.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The archive uncompressed, and not without end.
fn plain<'a>(archive: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut archive = BufReader::with_capacity(128 << 10, archive);
    let start = archive.fill_buf().map_err(|e| Error::bad(format_args!("read the archive: {e}")))?;
    let zstd = |e: std::io::Error| Error::bad(format_args!("read the archive: {e}"));
    let come = std::rc::Rc::new(std::cell::Cell::new(0));
    let compression = Compression::of(start);
    let counted = Counted { from: archive, come: come.clone() };
    let plain: Box<dyn Read> = match compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(counted)),
        Compression::Zstd => Box::new(zstd::Decoder::new(counted).map_err(zstd)?),
    };
    Ok(Box::new(Bounded { plain, come, gone: 0 }))
}

/// Counts what comes.
struct Counted<R> {
    from: R,
    come: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buf)?;
        self.come.set(self.come.get() + n as u64);
        Ok(n)
    }
}

/// Refuses too much, or much more than came.
struct Bounded<'a> {
    plain: Box<dyn Read + 'a>,
    come: std::rc::Rc<std::cell::Cell<u64>>,
    gone: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.plain.read(buf)?;
        self.gone += n as u64;
        if self.gone > MAX_BYTES || (self.gone > RATIO_FROM && self.gone / MAX_RATIO > self.come.get()) {
            return Err(std::io::Error::other("it grows without end; do not trust it"));
        }
        Ok(n)
    }
}
