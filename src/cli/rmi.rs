//! `onlay rmi`.

use std::process::ExitCode;

use oci_spec::image::Digest;

use super::error::{Error, each};
use super::output::print;
use super::store::StoreArgs;
use crate::store::{self, ErrorKind, Store, familiar_name, parse_name};
use crate::vocab::digest::short;

/// Remove names of images; with its last name an image goes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Layers that other images share stay, and so does what a mount shows.

Examples:
  onlay rmi app:old
  onlay rmi --force 3f1a")]
pub(super) struct Args {
    /// The images: names, or ids or their first digits
    #[arg(required = true)]
    images: Vec<String>,
    /// Also if it has several names, or containers are made of it (they keep its layers)
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let (store, _) = store.open_files()?;
    let done = each(&args.images, |name| print(remove(&store, name, args.force)?.as_bytes()));
    // Somebody who adds keeps this away; then the next one does it.
    if store.sweep(false)?.is_none() {
        log::info!("another command is adding something: onlay gc frees the space later");
    }
    done
}

fn remove(store: &Store, name: &str, force: bool) -> Result<String, Error> {
    let found = match store.image(name) {
        Ok(found) => found,
        Err(e) if matches!(e.kind(), ErrorKind::Bad | ErrorKind::NotFound) => {
            return forget_broken(store, name, force, e);
        }
        Err(e) => return Err(e.into()),
    };
    let image = found.image;
    let names = store.images()?.into_iter().find(|(other, _)| *other == image).map(|(_, n)| n).unwrap_or_default();
    let last = names.len() <= 1;
    if let Some(reference) = &found.reference
        && !last
    {
        store.remove_name(reference)?;
        return Ok(format!("Untagged: {}\n", familiar_name(reference)));
    }
    if found.reference.is_none() && !last && !force {
        let all: Vec<_> = names.iter().map(familiar_name).collect();
        return Err(Error::new(format!("image {} has several names: {}", short(image.id()), all.join(", ")))
            .hint("remove one of the names, or all with --force"));
    }
    refuse_used(store, name, image.digest(), force)?;
    store.forget_image(image.digest(), &names)?;
    let untagged: String = names.iter().map(|name| format!("Untagged: {}\n", familiar_name(name))).collect();
    Ok(format!("{untagged}Deleted: {}\n", image.id()))
}

/// An image that can't be read can still lose its name.
fn forget_broken(store: &Store, name: &str, force: bool, why: store::Error) -> Result<String, Error> {
    let Ok(reference) = parse_name(name) else { return Err(why.into()) };
    let Some(manifest) = store.manifest_named(&reference)? else { return Err(why.into()) };
    refuse_used(store, name, &manifest, force)?;
    store.remove_name(&reference)?;
    log::warn!("{why}");
    Ok(format!("Untagged: {}\n", familiar_name(&reference)))
}

/// Containers need their image.
fn refuse_used(store: &Store, name: &str, manifest: &Digest, force: bool) -> Result<(), Error> {
    match store.containers()?.into_iter().find(|c| c.record.manifest == *manifest) {
        Some(container) if !force => Err(Error::new(format!(
            "image {name} is used by container {}",
            container.record.name
        ))
        .hint(format!("remove that first (onlay rm {}), or take the name away with --force", container.record.name))),
        _ => Ok(()),
    }
}
