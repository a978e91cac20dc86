//! `onlay push`.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::process::ExitCode;

use oci_spec::distribution::Reference;
use oci_spec::image::Digest;

use super::error::Error;
use super::output::print;
use super::progress::Bars;
use super::registry::{RegistryArgs, Transfer};
use super::store::StoreArgs;
use crate::registry::{Access, Outgoing, Session, Source};
use crate::store::{Store, familiar_name, parse_name};

/// Send an image to a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Only the layers that the registry lacks are sent; what another of its repositories has is taken from
there.

Examples:
  onlay push localhost:5000/team/app:1
  onlay push app registry.example/team/app:2")]
pub(super) struct Args {
    /// The image: a name, or an id or its first digits
    image: String,
    /// Where to: [HOST[:PORT]/]NAME[:TAG] [default: by the image's name]
    #[arg(value_name = "REF")]
    to: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// No progress, only the digest
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    // Nothing of it goes away meanwhile.
    let _adding = store.adding()?;
    let found = store.image(&args.image)?;
    let reference = match (&args.to, found.reference) {
        (Some(to), _) => parse_name(to)?,
        (None, Some(reference)) => reference,
        (None, None) => {
            let hint = format!("onlay push {} [HOST[:PORT]/]NAME[:TAG]", args.image);
            return Err(Error::new(format!("image {}: where is it to go?", args.image)).hint(hint));
        }
    };
    let origins = origins(&store, &reference)?;
    let mut others: Vec<String> = origins.values().cloned().collect();
    others.sort();
    others.dedup();
    let bars = Bars::new(args.quiet);
    let options = args.registry.options_for(&reference)?;
    let session = Session::open(&reference, &Access::Push(others), &options)?;
    let outgoing = Outgoing { manifest: store.read_blob(found.image.digest())?, media_type: found.image.media_type() };
    let source = FromStore { store: &store, origins };
    let pushed = session.push(&outgoing, &source, &Transfer { bars: &bars, what: "sending" })?;
    let text = if args.quiet {
        format!("{}\n", pushed.digest)
    } else {
        format!("Pushed image: {}\nDigest: {}\n", familiar_name(&reference), pushed.digest)
    };
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Other repositories on the registry of `reference`, by the blobs of images here that have their names.
fn origins(store: &Store, reference: &Reference) -> Result<HashMap<Digest, String>, Error> {
    let mut origins = HashMap::new();
    for (image, names) in store.images()? {
        let other = names
            .iter()
            .find(|name| name.registry() == reference.registry() && name.repository() != reference.repository());
        let Some(other) = other else { continue };
        for blob in std::iter::once(image.manifest().config()).chain(image.manifest().layers()) {
            origins.insert(blob.digest().clone(), other.repository().to_owned());
        }
    }
    Ok(origins)
}

/// The store, as the registry sees it.
struct FromStore<'a> {
    store: &'a Store,
    origins: HashMap<Digest, String>,
}

impl Source for FromStore<'_> {
    fn open(&self, digest: &Digest) -> io::Result<File> {
        self.store.open_blob(digest).map_err(io::Error::other)
    }

    fn origin(&self, digest: &Digest) -> Option<String> {
        self.origins.get(digest).cloned()
    }
}
