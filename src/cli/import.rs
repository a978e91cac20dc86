//! `onlay import`.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::image::{Config, ImageConfiguration};

use super::error::Error;
use super::output::print;
use super::progress::Bars;
use super::store::StoreArgs;
use crate::store::{Change, parse_name};
use crate::vocab::why;

/// Make an image of a root file system
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The archive may be compressed with gzip, zstd or not at all.

Examples:
  mmdebstrap --variant=minbase bookworm debian.tar
  onlay import debian.tar debian:12 --change 'CMD [\"bash\"]'
  onlay import ./rootfs app --change 'ENV LANG=C.UTF-8' --change 'USER app'")]
pub(super) struct Args {
    /// An archive (- for standard input) or a directory
    from: PathBuf,
    /// The image's name
    name: String,
    /// An instruction as in a Dockerfile: CMD, ENTRYPOINT, ENV, LABEL, WORKDIR, USER, STOPSIGNAL, EXPOSE
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<Change>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let name = parse_name(&args.name)?;
    let whence = args.from.display().to_string();
    let fail = |e: std::io::Error| {
        Error::new(format!("{whence}: {}", why(&e))).hint("name an archive of a root file system, or a directory")
    };
    let mut config = Config::default();
    for change in args.change {
        change.apply(&mut config);
    }
    let mut image = ImageConfiguration::default();
    image.set_config(Some(config));
    // Before our ids change.
    let stdin = args.from.as_os_str() == "-";
    let file = if stdin { None } else { Some(File::open(&args.from).map_err(fail)?) };
    let (store, owners) = store.open_files()?;
    let bars = Bars::new(args.quiet);
    let made = match file {
        Some(_) if args.from.is_dir() => store.import_dir(&args.from, (image, &whence), &name, owners, &bars)?,
        Some(file) => {
            // Of a pipe nobody knows.
            let bytes = file.metadata().ok().filter(|m| m.is_file()).map(|m| m.len());
            store.import((file, bytes), (image, &whence), &name, owners, &bars)?
        }
        None => store.import((std::io::stdin(), None), (image, "standard input"), &name, owners, &bars)?,
    };
    print(format!("{}\n", made.id()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
