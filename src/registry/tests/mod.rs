//! Conversations with registries that are not as they should be, and with one that is.

mod auth;
mod bad;
mod credentials;
mod pull;
mod push;
mod server;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek as _, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use oci_spec::image::{Descriptor, Digest, MediaType};
use tempfile::TempDir;

use super::*;
use crate::vocab::digest;
use server::{Call, Reply, Server};

/// Files named by their digests; what is not whole ends in `.part`.
struct Dir {
    at: TempDir,
    origin: Option<String>,
}

impl Dir {
    fn new() -> Self {
        Self { at: tempfile::tempdir().unwrap(), origin: None }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.at.path().join(digest.digest())
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(self.path(&digest::of(bytes)), bytes).unwrap();
    }

    /// What an interrupted pull has left.
    fn put_part(&self, of: &[u8], left: &[u8]) {
        fs::write(self.path(&digest::of(of)).with_extension("part"), left).unwrap();
    }

    /// Whether something half-made of it is left.
    fn has_part(&self, bytes: &[u8]) -> bool {
        self.path(&digest::of(bytes)).with_extension("part").exists()
    }

    /// Names and contents.
    fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.at.path()).unwrap().map(|e| e.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
    }
}

struct FilePart {
    file: File,
    path: PathBuf,
}

impl Sink for Dir {
    fn has(&self, digest: &Digest) -> io::Result<bool> {
        Ok(self.path(digest).exists())
    }

    fn begin(&self, digest: &Digest) -> io::Result<Option<Box<dyn Part + '_>>> {
        let path = self.path(digest).with_extension("part");
        let file = File::options().create(true).append(true).open(&path)?;
        Ok(Some(Box::new(FilePart { file, path })))
    }
}

impl Source for Dir {
    fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    fn origin(&self, _: &Digest) -> Option<String> {
        self.origin.clone()
    }
}

impl Write for FilePart {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Part for FilePart {
    fn size(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn finish(self: Box<Self>, digest: &Digest) -> io::Result<Finished> {
        if digest::of(&fs::read(&self.path)?) == *digest {
            fs::rename(&self.path, self.path.with_extension(""))?;
            return Ok(Finished::Whole);
        }
        fs::remove_file(&self.path)?;
        Ok(Finished::Differs)
    }

    fn discard(self: Box<Self>, _: &Digest) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

/// An image, and a registry that has it.
#[derive(Clone)]
struct Image {
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
    manifest: Vec<u8>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Image {
    fn new(layers: &[&[u8]]) -> Self {
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
        let mut image = Self { config, layers: layers.iter().map(|l| l.to_vec()).collect(), manifest: Vec::new() };
        image.manifest = image.manifest_with(|_| {});
        image
    }

    /// Its manifest, after a change.
    fn manifest_with(&self, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let blob = |kind: &str, bytes: &[u8]| {
            serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "size": bytes.len(),
                "digest": digest::of(bytes).to_string()})
        };
        let layers: Vec<_> = self.layers.iter().map(|l| blob("layer.v1.tar", l)).collect();
        let config = blob("config.v1+json", &self.config);
        let mut json =
            serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        change(&mut json);
        serde_json::to_vec(&json).unwrap()
    }

    /// What a good registry answers.
    fn answer(&self, call: &Call) -> Reply {
        if call.is("GET", "/manifests/") {
            return Reply::new(200, self.manifest.clone()).with("Content-Type", MANIFEST);
        }
        if call.path == "/v2/" {
            return Reply::new(200, "{}");
        }
        let mut all = self.layers.iter().chain([&self.config]);
        match all.find(|b| call.path.ends_with(digest::of(b).as_ref())) {
            Some(blob) => Reply::blob(call, blob),
            None => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
        }
    }

    /// What the sink has to have in the end.
    fn blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let all = self.layers.iter().chain([&self.config]);
        all.map(|b| (digest::of(b).digest().to_owned(), b.clone())).collect()
    }

    fn layer(&self, n: usize) -> String {
        digest::of(&self.layers[n]).to_string()
    }

    fn outgoing(&self) -> Outgoing {
        Outgoing { manifest: self.manifest.clone(), media_type: MediaType::from(MANIFEST) }
    }
}

/// A registry that has this image.
fn serving(image: &Image) -> Server {
    serving_but(image, |_, good| good)
}

/// The same, where what it would answer is changed.
fn serving_but(image: &Image, change: impl Fn(&Call, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let image = image.clone();
    Server::start(move |call| change(call, image.answer(call)))
}

/// Bytes that do not repeat.
fn bytes(n: usize, seed: u32) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[0]
    };
    (0..n).map(|_| next()).collect()
}

/// Impatient, and without any secret.
fn options() -> Options {
    let ms = Duration::from_millis;
    let patience = Patience { connect: ms(2000), stall: ms(300), tries: 3, pause: ms(1), longest_pause: ms(1500) };
    Options { patience, ..Options::default() }
}

fn pull_with(server: &Server, options: &Options, dir: &Dir) -> Result<Pulled, Error> {
    let reference = parse_reference(&format!("{}/app:1", server.host()))?;
    Session::open(&reference, &Access::Pull, options)?.pull(&"linux/amd64".parse().unwrap(), dir, &Quiet)
}

fn pull(server: &Server, dir: &Dir) -> Result<Pulled, Error> {
    pull_with(server, &options(), dir)
}

fn push(server: &Server, dir: &Dir, image: &Image, from: &[&str]) -> Result<Pushed, Error> {
    let reference = parse_reference(&format!("{}/app:1", server.host()))?;
    let access = Access::Push(from.iter().map(|f| (*f).to_owned()).collect());
    Session::open(&reference, &access, &options())?.push(&image.outgoing(), dir, &Quiet)
}

/// Writes down what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Progress for Told {
    fn start(&self, blob: &Descriptor, done: u64) {
        self.0.lock().unwrap().push(format!("start {} {done}", blob.size()));
    }

    fn at(&self, blob: &Descriptor, done: u64) {
        assert!(done <= blob.size());
    }

    fn end(&self, blob: &Descriptor, how: Moved) {
        self.0.lock().unwrap().push(format!("end {} {how:?}", blob.size()));
    }
}
