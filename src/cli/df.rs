//! `onlay df`.

use std::process::ExitCode;

use serde::Serialize;

use super::error::Error;
use super::store::{Format, StoreArgs, print_rows, size};
use crate::store::Usage;

/// Print how much the store holds, and how much of it nothing needs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    count: u64,
    bytes: u64,
    reclaimable: u64,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let (store, _) = store.open_files()?;
    let Usage { layers, blobs, containers } = store.usage()?;
    let rows: Vec<_> = [("layers", layers), ("blobs", blobs), ("containers", containers)]
        .map(|(kind, used)| Row { kind, count: used.count, bytes: used.bytes, reclaimable: used.unneeded })
        .into();
    print_rows(args.format, &rows, &["TYPE", "COUNT", "SIZE", "RECLAIMABLE"], |row| {
        vec![row.kind.to_owned(), row.count.to_string(), size(row.bytes), size(row.reclaimable)]
    })?;
    Ok(ExitCode::SUCCESS)
}
