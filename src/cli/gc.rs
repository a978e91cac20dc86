//! `onlay gc`.

use std::process::ExitCode;

use serde::Serialize;

use super::error::Error;
use super::output::print;
use super::store::{Format, StoreArgs, print_json, size};

/// Remove what no image and no container needs, and what interrupted commands left
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Waits for commands that are adding something; what begins meanwhile is kept waiting for 10 seconds at
the most. What a mount shows stays until it is unmounted.

Example:
  onlay gc --untagged")]
pub(super) struct Args {
    /// Images without a name, too, unless a container is made of them
    #[arg(long)]
    untagged: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row {
    images: u64,
    blobs: u64,
    layers: u64,
    leftovers: u64,
    bytes: u64,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let (store, _) = store.open_files()?;
    let mut images = 0;
    if args.untagged {
        let containers = store.containers()?;
        for (image, names) in store.images()? {
            if names.is_empty() && !containers.iter().any(|c| c.record.manifest == *image.digest()) {
                store.forget_image(image.digest(), &names)?;
                images += 1;
            }
        }
    }
    crate::runner::remove_left_groups();
    let freed = store.sweep(true)?.unwrap_or_default();
    let row = Row {
        images,
        blobs: freed.blobs,
        layers: freed.layers,
        leftovers: freed.leftovers,
        bytes: freed.blob_bytes + freed.layer_bytes,
    };
    match args.format {
        Format::Json => print_json(&row)?,
        Format::Table => print(
            format!(
                "removed {} images, {} layers, {} blobs, {} leftovers: {}\n",
                row.images,
                row.layers,
                row.blobs,
                row.leftovers,
                size(row.bytes)
            )
            .as_bytes(),
        )?,
    }
    Ok(ExitCode::SUCCESS)
}
