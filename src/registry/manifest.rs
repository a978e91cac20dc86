//! Manifests: of one image or of several (OCI image specification, and Docker's image manifest version 2 schema 2).

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm, ImageIndex, ImageManifest, MediaType};

use super::error::{Error, Kind, tame};
use crate::vocab::{MAX_LAYERS, digest};

/// The longest manifest, as registries have it, too (OCI distribution specification, pushing manifests).
pub(super) const LARGEST: u64 = 4 << 20;
/// The longest configuration of an image: it is read into memory.
const LARGEST_CONFIG: u64 = 8 << 20;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// What we can read.
pub(super) const ACCEPT: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// A manifest, as it came and as it is understood.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) media_type: MediaType,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Image(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

impl Manifest {
    /// Reads one. `said` is its media type by the header of the answer, `what` it is is for messages.
    pub(super) fn read(what: &str, bytes: Vec<u8>, said: Option<&str>) -> Result<Self, Error> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kinds {
            schema_version: Option<u32>,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let wrong =
            |why: &str| Error::new(Kind::Malformed, format!("{what}: not a manifest we can read: {}", tame(why)));
        let kinds: Kinds = serde_json::from_slice(&bytes).map_err(|e| wrong(&e.to_string()))?;
        let said = said.and_then(|s| s.split(';').next()).map(str::trim).filter(|s| ACCEPT.contains(s));
        if kinds.schema_version == Some(1) {
            return Err(
                wrong(DOCKER_SCHEMA_1).hint("the image is of 2016 or before; push it again with a tool of today")
            );
        }
        let (image, index) = (kinds.layers.is_some() || kinds.config.is_some(), kinds.manifests.is_some());
        let media_type = match kinds.media_type.as_deref().or(said) {
            Some(named) => named,
            None if index => OCI_INDEX,
            None => OCI_MANIFEST,
        };
        // One that could be read as either is what it is for nobody else (CVE-2021-41190).
        let content = match media_type {
            OCI_MANIFEST | DOCKER_MANIFEST if image && !index => {
                Content::Image(serde_json::from_slice(&bytes).map_err(|e| wrong(&e.to_string()))?)
            }
            OCI_INDEX | DOCKER_LIST if index && !image => {
                Content::Index(serde_json::from_slice(&bytes).map_err(|e| wrong(&e.to_string()))?)
            }
            OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_LIST => return Err(wrong("of two minds what it is")),
            other => return Err(wrong(other)),
        };
        if let Content::Image(manifest) = &content {
            check_image(what, manifest)?;
        }
        Ok(Self { digest: digest::of(&bytes), media_type: MediaType::from(media_type), bytes, content })
    }
}

fn check_image(what: &str, manifest: &ImageManifest) -> Result<(), Error> {
    for blob in blobs(manifest) {
        if *blob.digest().algorithm() != DigestAlgorithm::Sha256 {
            let text = format!("{what}: blob {}: only sha256 can be checked", tame(blob.digest().as_ref()));
            return Err(Error::new(Kind::Malformed, text));
        }
    }
    let layers = manifest.layers().len();
    if layers > MAX_LAYERS {
        return Err(Error::new(Kind::Content, format!("{what}: {layers} layers are more than {MAX_LAYERS}"))
            .hint("it can't be mounted; ask for one with fewer"));
    }
    let config = manifest.config();
    if config.size() > LARGEST_CONFIG {
        let text = format!("{what}: configuration {}: {} bytes, which is refused", config.digest(), config.size());
        return Err(Error::new(Kind::Content, text));
    }
    Ok(())
}

/// The blobs of an image, each once: the configuration, then the layers from the bottom up.
pub(super) fn blobs(manifest: &ImageManifest) -> Vec<&Descriptor> {
    let mut seen = std::collections::HashSet::new();
    std::iter::once(manifest.config()).chain(manifest.layers()).filter(|b| seen.insert(b.digest().as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, said: Option<&str>) -> Result<Manifest, Error> {
        Manifest::read("r:1", json.as_bytes().to_vec(), said)
    }

    fn descriptor(size: u64) -> String {
        format!(r#"{{"mediaType":"a/b","size":{size},"digest":"sha256:{}"}}"#, "0".repeat(64))
    }

    #[test]
    fn images_and_indexes_of_both_kinds() {
        let d = descriptor(1);
        let image = format!(r#""config":{d},"layers":[{d},{d}]"#);
        let index = format!(r#""manifests":[{d}]"#);
        for (body, media_type, is_index) in [
            (&image, OCI_MANIFEST, false),
            (&image, DOCKER_MANIFEST, false),
            (&index, OCI_INDEX, true),
            (&index, DOCKER_LIST, true),
        ] {
            let json = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}",{body}}}"#);
            let m = read(&json, None).unwrap();
            assert_eq!((matches!(m.content, Content::Index(_)), m.media_type.as_ref()), (is_index, media_type));
            let m = read(&format!(r#"{{"schemaVersion":2,{body}}}"#), Some(&format!("{media_type}; charset=utf-8")))
                .unwrap();
            assert_eq!(m.media_type.as_ref(), media_type);
        }
        let m = read(&format!(r#"{{"schemaVersion":2,{image}}}"#), Some("text/plain")).unwrap();
        assert_eq!(m.media_type.as_ref(), OCI_MANIFEST);
        let Content::Image(m) = &m.content else { panic!() };
        assert_eq!(blobs(m).len(), 1, "the same blob thrice");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let d = descriptor(1);
        let huge = descriptor(9 << 20);
        let sha512 = format!(r#"{{"mediaType":"a/b","size":1,"digest":"sha512:{}"}}"#, "0".repeat(128));
        for (json, says) in [
            ("<html>".to_owned(), "expected value"),
            ("[]".to_owned(), "not a manifest"),
            ("{}".to_owned(), "two minds"),
            (format!(r#"{{"schemaVersion":1,"manifests":[{d}]}}"#), "manifest.v1"),
            (format!(r#"{{"schemaVersion":2,"manifests":[{d}],"layers":[],"config":{d}}}"#), "two minds"),
            (format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","layers":[],"config":{d}}}"#), "two minds"),
            (format!(r#"{{"schemaVersion":2,"mediaType":"x/y","layers":[],"config":{d}}}"#), "x/y"),
            (format!(r#"{{"schemaVersion":2,"layers":[],"config":{huge}}}"#), "9437184 bytes"),
            (format!(r#"{{"schemaVersion":2,"layers":[{sha512}],"config":{d}}}"#), "only sha256"),
            (format!(r#"{{"schemaVersion":2,"layers":[{}],"config":{d}}}"#, vec![&*d; 501].join(",")), "501 layers"),
            (
                r#"{"schemaVersion":2,"layers":[],"config":{"mediaType":"a/b","size":1,"digest":"sha256:../../x"}}"#
                    .to_owned(),
                "not a manifest",
            ),
            (
                r#"{"schemaVersion":2,"layers":[],"config":{"mediaType":"a/b","size":-1,"digest":"sha256:0"}}"#
                    .to_owned(),
                "not a manifest",
            ),
        ] {
            let e = read(&json, None).unwrap_err().to_string();
            assert!(e.starts_with("r:1: ") && e.contains(says), "{json}: {e}");
        }
    }
}
