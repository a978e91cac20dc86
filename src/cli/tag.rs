//! `onlay tag`.

use std::process::ExitCode;

use super::error::Error;
use super::store::StoreArgs;
use crate::store::parse_name;

/// Give an image one more name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  onlay tag debian:12 registry.example/team/base:1

An image that had the name before stays, without it.")]
pub(super) struct Args {
    /// The image: a name, or an id or its first digits
    image: String,
    /// The new name
    name: String,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let name = parse_name(&args.name)?;
    if name.digest().is_some() {
        return Err(Error::new(format!("name {}: a digest is nothing to choose", args.name)).hint("NAME[:TAG]"));
    }
    let _adding = store.adding()?;
    let image = store.image(&args.image)?.image;
    store.add_image(image.digest(), Some(&name))?;
    Ok(ExitCode::SUCCESS)
}
