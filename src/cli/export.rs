//! `onlay export`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::error::Error;
use super::save::{to_file, to_stdout};
use super::store::StoreArgs;
use crate::store::ErrorKind;

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
        match store.container(&args.what) {
            Ok(container) => Ok(store.export_container(&container, owners, to)?),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let image = store.image(&args.what)?.image;
                Ok(store.export_image(&image, to)?)
            }
            Err(e) => Err(e.into()),
        }
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
