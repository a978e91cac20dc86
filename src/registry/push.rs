//! An image into a registry: only what it lacks.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use oci_spec::image::{Descriptor, Digest, MediaType};
use ureq::http::{HeaderName, Method, Uri, header};

use super::auth::encode;
use super::error::{Error, Kind, tame};
use super::http::{Ask, Payload, location};
use super::manifest::{Content, Manifest, blobs};
use super::session::Session;
use super::trouble::{Trouble, persist};
use super::{Moved, Progress, parallel, reference};

/// Where blobs come from. Called from several threads.
pub trait Source: Sync {
    /// Opens one at its beginning.
    fn open(&self, digest: &Digest) -> io::Result<File>;
    /// A repository of the same registry that may have it, too.
    fn origin(&self, digest: &Digest) -> Option<String>;
}

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// An image's manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// Its media type.
    pub media_type: MediaType,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: Digest,
    /// Blobs that were sent.
    pub sent: usize,
    /// Blobs that the registry took from other repositories.
    pub mounted: usize,
}

impl Session {
    /// Sends the image: each blob that the repository lacks, then the manifest under the session's reference.
    pub fn push(&self, image: &Outgoing, source: &dyn Source, progress: &dyn Progress) -> Result<Pushed, Error> {
        let what = self.reference.to_string();
        let manifest = Manifest::read(&what, image.manifest.clone(), Some(image.media_type.as_ref()))?;
        let Content::Image(content) = &manifest.content else {
            return Err(Error::new(Kind::Malformed, format!("{what}: an index of images can't be pushed")));
        };
        if let Some(named) = self.reference.digest().filter(|d| *d != manifest.digest.as_ref()) {
            let text = format!("{what}: the image is {}, not {named}", manifest.digest);
            return Err(Error::new(Kind::Reference, text).hint("push it to a tag"));
        }
        let all = blobs(content);
        let (sent, mounted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        parallel::each(self.jobs, &all, |blob, stop| {
            let how = self.send_blob(blob, source, progress, stop)?;
            match how {
                Moved::Sent => drop(sent.fetch_add(1, Ordering::Relaxed)),
                Moved::Mounted => drop(mounted.fetch_add(1, Ordering::Relaxed)),
                Moved::Already => {}
            }
            progress.end(blob, how);
            Ok(())
        })?;
        self.send_manifest(&what, &manifest)?;
        let (sent, mounted) = (sent.into_inner(), mounted.into_inner());
        Ok(Pushed { digest: manifest.digest, sent, mounted })
    }

    fn send_blob(
        &self,
        blob: &Descriptor,
        source: &dyn Source,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<Moved, Error> {
        let what = format!("blob {} of {}", blob.digest(), self.name());
        persist(&self.web.patience, || {
            parallel::check(stop)?;
            if self.has_blob(&what, blob)? {
                return Ok(Moved::Already);
            }
            let origin = source.origin(blob.digest()).filter(|o| o != self.reference.repository());
            let Some(upload) = self.begin_upload(&what, blob, origin.as_deref())? else { return Ok(Moved::Mounted) };
            self.upload(&what, blob, upload, source, progress, stop)?;
            Ok(Moved::Sent)
        })
    }

    fn has_blob(&self, what: &str, blob: &Descriptor) -> Result<bool, Trouble> {
        let answer = self.call(what, Ask::new(Method::HEAD, self.url_in(&format!("blobs/{}", blob.digest()))?))?;
        match answer.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.fault(what, answer)),
        }
    }

    /// Where to send the bytes; nowhere if the registry has taken them from the repository `origin`.
    fn begin_upload(&self, what: &str, blob: &Descriptor, origin: Option<&str>) -> Result<Option<Uri>, Trouble> {
        let query = origin.map(|from| format!("?mount={}&from={}", blob.digest(), encode(from))).unwrap_or_default();
        let url = self.url_in(&format!("blobs/uploads/{query}"))?;
        let answered = self.call(what, Ask::new(Method::POST, url)).and_then(|answer| match answer.status().as_u16() {
            201 if origin.is_some() => Ok(None),
            202 => Ok(Some(location(what, &answer.url, answer.response.headers().get(header::LOCATION))?)),
            _ => Err(self.fault(what, answer)),
        });
        match answered {
            // The other repository may be one that we must not read.
            Err(trouble)
                if origin.is_some()
                    && matches!(trouble.error.kind(), Kind::Unauthorized | Kind::Denied | Kind::NotFound) =>
            {
                self.begin_upload(what, blob, None)
            }
            answered => answered,
        }
    }

    /// Sends all bytes in one request (OCI distribution specification, pushing a blob monolithically).
    fn upload(
        &self,
        what: &str,
        blob: &Descriptor,
        to: Uri,
        source: &dyn Source,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        let local = |e: io::Error| Error::local(what, &e);
        let file = source.open(blob.digest()).map_err(local)?;
        let size = file.metadata().map_err(local)?.len();
        if size != blob.size() {
            let text = format!("{what}: {} bytes by the manifest, {size} here", blob.size());
            return Err(Error::new(Kind::Local, text).hint("the image is damaged: pull or load it again").into());
        }
        let joint = if to.query().is_some() { '&' } else { '?' };
        let address = format!("{to}{joint}digest={}", encode(blob.digest().as_ref()));
        let to: Uri = address.parse().map_err(|_| {
            Error::new(Kind::Redirect, format!("{what}: the registry sends us to {:?}", tame(&address)))
        })?;
        progress.start(blob, 0);
        let mut reader = Outflow { file, blob, done: 0, failed: None, progress, stop };
        let ask = Ask::new(Method::PUT, to)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .payload(Payload::Stream(&mut reader, size));
        let answered = self.call(what, ask);
        // A disk that can't be read is not the registry's fault, nor one to try again.
        if let Some(e) = reader.failed {
            return Err(Error::local(what, &e).into());
        }
        parallel::check(stop)?;
        let answer = answered?;
        match answer.status().as_u16() {
            201 | 204 => Ok(()),
            _ => Err(self.fault(what, answer)),
        }
    }

    fn send_manifest(&self, what: &str, manifest: &Manifest) -> Result<(), Error> {
        let name = reference::tag_or_digest(&self.reference);
        let told = persist(&self.web.patience, || {
            let ask = Ask::new(Method::PUT, self.url_in(&format!("manifests/{name}"))?)
                .header(header::CONTENT_TYPE, manifest.media_type.as_ref())
                .payload(Payload::Bytes(&manifest.bytes));
            let answer = self.call(what, ask)?;
            match answer.status().as_u16() {
                200 | 201 => Ok(answer.text(HeaderName::from_static("docker-content-digest")).map(str::to_owned)),
                _ => Err(self.fault(what, answer)),
            }
        })?;
        match told.filter(|d| d != manifest.digest.as_ref()) {
            Some(other) => {
                let text =
                    format!("{what}: the registry keeps the image as {}, it is {}", tame(&other), manifest.digest);
                Err(Error::new(Kind::Content, text))
            }
            None => Ok(()),
        }
    }
}

/// A blob on its way out.
struct Outflow<'a> {
    file: File,
    blob: &'a Descriptor,
    done: u64,
    failed: Option<io::Error>,
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
}

impl Read for Outflow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            // Not Interrupted: that would be tried again.
            return Err(io::Error::other("another transfer has failed"));
        }
        match self.file.read(buffer) {
            Ok(n) => {
                self.done += n as u64;
                self.progress.at(self.blob, self.done);
                Ok(n)
            }
            Err(e) => {
                let kind = e.kind();
                self.failed = Some(e);
                Err(kind.into())
            }
        }
    }
}
