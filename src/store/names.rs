//! Names of images: `index.json`, as of an OCI image layout, whose entries carry the whole reference.

use std::collections::HashMap;

use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageIndexBuilder, MediaType};

use super::files::read_json;
use super::{Error, ErrorKind, Image, Result, Store};
use crate::registry::parse_reference;
use crate::vocab::digest::short;

/// The annotation that names a manifest (OCI image specification, annotations.md).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An index of nothing.
pub(super) fn empty_index() -> Result<ImageIndex> {
    ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(Vec::new())
        .build()
        .map_err(|e| Error::bad(format_args!("index: {e}")))
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub struct Found {
    /// The image.
    pub image: Image,
    /// The reference, if the name was one; `None` for an id.
    pub reference: Option<Reference>,
}

/// Reads a name as people write it: `debian`, `debian:12`, `registry.example/team/app@sha256:..`.
///
/// # Errors
/// Why it is none.
pub fn parse_name(name: &str) -> Result<Reference> {
    let reference = parse_reference(name).map_err(|e| {
        let error = Error::new(ErrorKind::Bad, &e);
        e.what_helps().map_or(error.clone(), |hint| error.with_hint(hint))
    })?;
    // As docker refuses it: it would be taken for an id.
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(
            Error::bad(format_args!("image name {name:?}: 64 hex digits are an id")).with_hint("choose another")
        );
    }
    Ok(reference)
}

/// A reference as people write it: repository without the default registry, and tag; `None` for one by digest.
pub fn familiar(reference: &Reference) -> (String, Option<String>) {
    let repository = match reference.registry() {
        "docker.io" => reference.repository().strip_prefix("library/").unwrap_or(reference.repository()).to_owned(),
        registry => format!("{registry}/{}", reference.repository()),
    };
    let tag = match (reference.tag(), reference.digest()) {
        (_, Some(_)) => None,
        (tag, None) => Some(tag.unwrap_or("latest").to_owned()),
    };
    (repository, tag)
}

/// The same as one word, which names the same image again: `debian:12`, `team/app@sha256:..`.
pub fn familiar_name(reference: &Reference) -> String {
    match (familiar(reference), reference.digest()) {
        ((repository, Some(tag)), _) => format!("{repository}:{tag}"),
        ((repository, None), digest) => format!("{repository}@{}", digest.unwrap_or_default()),
    }
}

fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

fn name(entry: &Descriptor) -> Option<Reference> {
    parse_reference(name_of(entry)?).ok()
}

impl Store {
    fn index(&self) -> Result<ImageIndex> {
        read_json(&self.path("index.json"))
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>) -> Result<()>) -> Result<()> {
        let _adding = self.adding()?;
        let _naming = self.naming()?;
        let mut index = self.index()?;
        let mut entries = index.manifests().clone();
        change(&mut entries)?;
        if *index.manifests() == entries {
            return Ok(());
        }
        index.set_manifests(entries);
        self.write_json(&self.path("index.json"), &index)
    }

    /// Makes an image known, by a name or (`None`) by its id alone. Its manifest, config and layers are here; the caller
    /// holds [`adding`](Self::adding). An image that had the name before stays, without it.
    ///
    /// # Errors
    /// The manifest is not here or names what is not; the disk's.
    pub fn add_image(&self, manifest: &Digest, name: Option<&Reference>) -> Result<Image> {
        let image = self.read_image(manifest)?;
        // An image without an index is shown all the same, only slower.
        if let Err(e) = self.index_layers(&self.layers(image.diff_ids())?) {
            log::warn!("no image index for {}: {e}", short(image.id()));
        }
        for blob in std::iter::once(image.manifest().config()).chain(image.manifest().layers()) {
            self.blob_size(blob.digest())?;
        }
        let mut descriptor = Descriptor::new(image.media_type(), self.blob_size(manifest)?, manifest.clone());
        let name = name.map(Reference::whole);
        self.change_index(|entries| {
            if let Some(name) = &name {
                take_name(entries, name);
            }
            let known = entries.iter().any(|e| e.digest() == manifest);
            if name.is_some() || !known {
                entries.retain(|e| e.digest() != manifest || name_of(e).is_some());
                descriptor.set_annotations(name.map(|n| HashMap::from([(REF_NAME.to_owned(), n)])));
                entries.push(descriptor);
            }
            Ok(())
        })?;
        Ok(image)
    }

    /// Takes one name away. The image stays while it has others, or else goes with the next
    /// [`sweep`](Self::sweep) unless a container needs it.
    ///
    /// # Errors
    /// Nothing has that name.
    pub fn remove_name(&self, reference: &Reference) -> Result<()> {
        let whole = reference.whole();
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|e| name_of(e) != Some(&whole));
            if entries.len() == before { Err(no_image(&whole)) } else { Ok(()) }
        })
    }

    /// Forgets an image with these names of it, all that it had when they were looked up. One that it got meanwhile stays,
    /// and the image with it.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget_image(&self, manifest: &Digest, names: &[Reference]) -> Result<()> {
        let names: Vec<_> = names.iter().map(Reference::whole).collect();
        self.change_index(|entries| {
            let known = |entry: &Descriptor| name(entry).is_none_or(|name| names.contains(&name.whole()));
            entries.retain(|e| e.digest() != manifest || !known(e));
            Ok(())
        })
    }

    /// The manifests of all images with their names, each once, in the order they came.
    pub(super) fn known(&self) -> Result<Vec<(Digest, Vec<Reference>)>> {
        let mut known: Vec<(Digest, Vec<Reference>)> = Vec::new();
        for entry in self.index()?.manifests() {
            let names = name(entry);
            match known.iter_mut().find(|(digest, _)| digest == entry.digest()) {
                Some((_, all)) => all.extend(names),
                None => known.push((entry.digest().clone(), names.into_iter().collect())),
            }
        }
        Ok(known)
    }

    /// The manifest of the image that has this name.
    ///
    /// # Errors
    /// The index can't be read.
    pub fn manifest_named(&self, reference: &Reference) -> Result<Option<Digest>> {
        Ok(named(&self.known()?, reference).cloned())
    }

    /// All images, with their names. One that can't be read is told about and left out.
    ///
    /// # Errors
    /// The index can't be read.
    pub fn images(&self) -> Result<Vec<(Image, Vec<Reference>)>> {
        let mut images = Vec::new();
        for (manifest, names) in self.known()? {
            match self.read_image(&manifest) {
                Ok(image) => images.push((image, names)),
                Err(e) => log::warn!("image {manifest}: {e}"),
            }
        }
        Ok(images)
    }

    /// The image of this name, digest, or id (12 hex digits or any unique prefix).
    ///
    /// # Errors
    /// There is none, or several.
    pub fn image(&self, name: &str) -> Result<Found> {
        // A name is looked up without reading all images.
        if let Ok(reference) = parse_name(name) {
            let known = self.known()?;
            if let Some(manifest) = named(&known, &reference) {
                return Ok(Found { image: self.read_image(manifest)?, reference: Some(reference) });
            }
            if let Some(digest) = reference.digest()
                && let Some((manifest, _)) = known.iter().find(|(manifest, _)| manifest.as_ref() == digest)
            {
                return Ok(Found { image: self.read_image(manifest)?, reference: None });
            }
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(no_image(name));
        }
        let images = self.images()?;
        let mut found: Vec<&Image> =
            images.iter().map(|(i, _)| i).filter(|i| i.id().digest().starts_with(hex)).collect();
        if found.is_empty() {
            found = images.iter().map(|(i, _)| i).filter(|i| i.digest().digest().starts_with(hex)).collect();
        }
        // Two manifests may share one config: the same image, packed twice.
        found.dedup_by(|a, b| a.id() == b.id());
        match found[..] {
            [] => Err(no_image(name)),
            [image] => Ok(Found { image: image.clone(), reference: None }),
            _ => Err(Error::new(ErrorKind::Conflict, format_args!("image id {name}: {} images begin so", found.len()))
                .with_hint("give more digits of the id: onlay images")),
        }
    }
}

/// The manifest of those known that has this name.
fn named<'a>(known: &'a [(Digest, Vec<Reference>)], reference: &Reference) -> Option<&'a Digest> {
    let wanted = reference.whole();
    let found = known.iter().find(|(_, names)| names.iter().any(|n| n.whole() == wanted));
    found.map(|(manifest, _)| manifest)
}

/// What had the name loses it; an image keeps one entry.
fn take_name(entries: &mut Vec<Descriptor>, name: &str) {
    let Some(at) = entries.iter().position(|e| name_of(e) == Some(name)) else { return };
    let mut entry = entries.remove(at);
    if !entries.iter().any(|e| e.digest() == entry.digest()) {
        entry.set_annotations(None);
        entries.push(entry);
    }
}

pub(super) fn no_image(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format_args!("no such image: {name}"))
        .with_hint("onlay images lists those that are here; onlay pull fetches others")
}
