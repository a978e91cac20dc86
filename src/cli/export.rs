//! `onlay export`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::error::Error;
use super::save::{to_file, to_stdout};
use super::store::StoreArgs;
use crate::store::Either;

/// Write the files of a container or an image to an archive
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One archive of the whole view, as onlay import takes it.

Examples:
  onlay export -o web.tar web
  onlay export debian:12 | tar -t")]
pub(super) struct Args {
    /// Where to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A container or an image: a name, or an id or its first digits
    what: String,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let out: Option<PathBuf> = args.output.clone().filter(|o| o.as_os_str() != "-");
    let (store, owners) = store.open_files()?;
    let write = |to: &mut dyn Write| -> Result<(), Error> {
        match store.container_or_image(&args.what)? {
            Either::Container(container) => store.export_container(&container, owners, to)?,
            Either::Image(image) => store.export_image(&image, to)?,
        }
        Ok(())
    };
    match out {
        Some(path) => to_file(&path, write)?,
        None => {
            let mut out = to_stdout()?;
            write(&mut out)?;
            out.flush().map_err(|e| Error::new(format!("standard output: {e}")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
