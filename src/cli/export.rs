//! `onlay export`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::image::Digest;

use super::error::Error;
use super::progress::Bars;
use super::save::{to_file, to_stdout};
use super::store::StoreArgs;
use crate::store::{Either, Progress as _};
use crate::vocab::digest;

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
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    /// A container or an image: a name, or an id or its first digits
    what: String,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let out: Option<PathBuf> = args.output.clone().filter(|o| o.as_os_str() != "-");
    let (store, owners) = store.open_files()?;
    let bars = Bars::new(args.quiet);
    let write = |to: &mut dyn Write| -> Result<(), Error> {
        let what = store.container_or_image(&args.what)?;
        let key = digest::of(args.what.as_bytes());
        // Nobody knows how much there is before it was all read.
        bars.begin_named("exporting", &key, &args.what, None);
        let mut to = Counted { to, bars: &bars, key: &key };
        match what {
            Either::Container(container) => store.export_container(&container, owners, &mut to)?,
            Either::Image(image) => store.export_image(&image, &mut to)?,
        }
        bars.end(&key);
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

/// Tells how much was written.
struct Counted<'a> {
    to: &'a mut dyn Write,
    bars: &'a Bars,
    key: &'a Digest,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.bars.more(self.key, n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
