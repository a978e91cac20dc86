//! One blob, fetched and checked as it comes in. An interrupted one goes on where it stopped (RFC 9110, ranges).

use std::io::{self, Read, Write};
use std::sync::atomic::AtomicBool;

use oci_spec::image::{Descriptor, Digest};
use ureq::http::{Method, header};

use super::error::{Error, Kind, tame};
use super::http::{Answer, Ask, broken};
use super::parallel;
use super::pull::Sink;
use super::session::Session;
use super::trouble::{Trouble, wait};
use super::{Moved, Progress};

/// A blob on its way in. What was written is kept when it is dropped, for the next attempt.
pub trait Part: Write + Send {
    /// How many bytes are there, of this attempt and earlier ones.
    fn size(&self) -> u64;
    /// Throws away what is there.
    fn restart(&mut self) -> io::Result<()>;
    /// All is there: if it is what the digest says, the blob gets its name, else it is thrown away.
    fn finish(self: Box<Self>, digest: &Digest) -> io::Result<Finished>;
    /// Throws it away.
    fn discard(self: Box<Self>, digest: &Digest) -> io::Result<()>;
}

/// Whether what came is what was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It is.
    Whole,
    /// It has another digest.
    Differs,
}

/// Bytes that pass at a time.
const CHUNK: usize = 128 << 10;
/// With so many new bytes an attempt was worth it, and the next one is the first again.
const ENOUGH: u64 = 1 << 20;

impl Session {
    /// Fetches a blob into `sink`, unless somebody else does meanwhile.
    pub(super) fn fetch(
        &self,
        blob: &Descriptor,
        sink: &dyn Sink,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<Moved, Error> {
        let what = format!("blob {} of {}", blob.digest(), self.name());
        let local = |e| Error::local(&what, &e);
        loop {
            let Some(mut part) = sink.begin(blob.digest()).map_err(local)? else { return Ok(Moved::Already) };
            if part.size() > blob.size() {
                part.restart().map_err(local)?;
            }
            let resumed = part.size() > 0;
            progress.start(blob, part.size());
            if let Err(e) = self.fill(&what, blob, &mut *part, progress, stop) {
                // What is wrong is no beginning of what is right, nothing is none, and a full disk needs the room.
                if matches!(e.kind(), Kind::Content | Kind::Full) || part.size() == 0 {
                    part.discard(blob.digest()).map_err(local)?;
                }
                return Err(e);
            }
            match part.finish(blob.digest()).map_err(local)? {
                Finished::Whole => return Ok(Moved::Sent),
                // What an earlier attempt has left may be to blame: once more, all of it.
                Finished::Differs if resumed => {}
                Finished::Differs => {
                    let text = format!("{what}: what came is not what its digest says");
                    let hint = "it is damaged in the registry or was on the way; nothing of it is kept";
                    return Err(Error::new(Kind::Content, text).hint(hint));
                }
            }
        }
    }

    fn fill(
        &self,
        what: &str,
        blob: &Descriptor,
        part: &mut dyn Part,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let mut tries = 1;
        loop {
            let before = part.size();
            let Err(trouble) = self.stream(what, blob, part, progress, stop) else { return Ok(()) };
            if part.size() >= before + ENOUGH {
                tries = 1;
            }
            wait(trouble, &self.web.patience, tries)?;
            tries += 1;
        }
    }

    /// One request for what is missing.
    fn stream(
        &self,
        what: &str,
        blob: &Descriptor,
        part: &mut dyn Part,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        let local = |e| Error::local(what, &e);
        parallel::check(stop)?;
        let from = part.size();
        if from == blob.size() {
            return Ok(());
        }
        let mut ask = Ask::new(Method::GET, self.url_in(&format!("blobs/{}", blob.digest()))?);
        if from > 0 {
            ask = ask.header(header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.call(what, ask)?;
        match answer.status().as_u16() {
            // The whole of it, asked or not.
            200 if from > 0 => part.restart().map_err(local)?,
            200 => {}
            206 if from > 0 => check_range(what, &answer, from, blob.size())?,
            // Perhaps it has become another one.
            416 if from > 0 => {
                part.restart().map_err(local)?;
                return Err(Trouble::passing(Error::new(
                    Kind::Server,
                    format!("{what}: the registry can't go on in it"),
                )));
            }
            _ => return Err(self.fault(what, answer)),
        }
        let missing = blob.size() - part.size();
        if let Some(length) = answer.text(header::CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok())
            && length != missing
        {
            return Err(lies(what, blob, part.size() + length).into());
        }
        let mut reader = answer.response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            parallel::check(stop)?;
            let n = reader.read(&mut buffer).map_err(|e| broken(what, &self.web.patience, e))?;
            if n == 0 {
                break;
            }
            if part.size() + n as u64 > blob.size() {
                return Err(lies(what, blob, part.size() + n as u64).into());
            }
            part.write_all(&buffer[..n]).map_err(local)?;
            progress.at(blob, part.size());
        }
        if part.size() < blob.size() {
            let text = format!("{what}: it breaks off after {} of {} bytes", part.size(), blob.size());
            let hint = "the same command goes on where this one stopped";
            return Err(Trouble::passing(Error::new(Kind::Unreachable, text).hint(hint)));
        }
        Ok(())
    }
}

fn lies(what: &str, blob: &Descriptor, came: u64) -> Error {
    let text = format!("{what}: {} bytes by the manifest, at least {came} from the registry", blob.size());
    Error::new(Kind::Content, text).hint("one of the two lies: do not trust this image")
}

/// Whether a partial answer is what was asked for: `bytes FROM-LAST/SIZE`.
fn check_range(what: &str, answer: &Answer, from: u64, size: u64) -> Result<(), Error> {
    let said = answer.text(header::CONTENT_RANGE).unwrap_or_default();
    let parsed = said.strip_prefix("bytes ").and_then(|s| {
        let (range, whole) = s.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let whole = if whole == "*" { Some(size) } else { whole.parse().ok() };
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, whole?))
    });
    if parsed == Some((from, size - 1, size)) {
        return Ok(());
    }
    let text = format!("{what}: asked for bytes {from} to {} of {size}, the registry sends {:?}", size - 1, tame(said));
    Err(Error::new(Kind::Content, text).hint("what was there is thrown away; the next attempt fetches all of it"))
}
