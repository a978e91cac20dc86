//! `onlay save`.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use oci_spec::distribution::Reference;

use super::error::Error;
use super::progress::Bars;
use super::store::StoreArgs;
use crate::store::{Format, Image};
use crate::vocab::why;

/// Write images to an archive
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The layers are written as they came, with the digests they have in a registry.

Examples:
  onlay save -o app.tar app:1
  onlay save --format docker app:1 | docker load
  onlay save app:1 | zstd > app.tar.zst")]
pub(super) struct Args {
    /// Where to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What kind of archive
    #[arg(long, value_enum, default_value_t = FormatArg::Oci)]
    format: FormatArg,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    /// The images: names, or ids or their first digits
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// An OCI image layout
    Oci,
    /// What docker load takes
    Docker,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let mut images: Vec<(Image, Vec<Reference>)> = Vec::new();
    for name in &args.images {
        let found = store.image(name)?;
        match images.iter_mut().find(|(image, _)| *image == found.image) {
            Some((_, names)) => names.extend(found.reference),
            None => images.push((found.image, found.reference.into_iter().collect())),
        }
    }
    let format = match args.format {
        FormatArg::Oci => Format::Oci,
        FormatArg::Docker => Format::Docker,
    };
    let bars = Bars::new(args.quiet);
    match args.output.as_deref().filter(|o| o.as_os_str() != "-") {
        Some(path) => to_file(path, |file| Ok(store.save(&images, format, file, &bars)?))?,
        None => {
            let out = to_stdout()?;
            store.save(&images, format, out, &bars)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Standard output, unless a person would have to read it.
pub(super) fn to_stdout() -> Result<impl Write, Error> {
    let out = std::io::stdout();
    if out.is_terminal() {
        return Err(Error::new("an archive is nothing for a terminal").hint("name a file: --output FILE"));
    }
    Ok(BufWriter::with_capacity(1 << 20, out))
}

/// A file that is there whole or not at all.
pub(super) fn to_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<(), Error> {
    let fail = |e: std::io::Error| Error::new(format!("{}: {}", path.display(), why(&e)));
    // A pipe or a device is written as it is.
    if path.symlink_metadata().is_ok_and(|m| !m.is_file()) {
        let mut file = BufWriter::with_capacity(1 << 20, File::options().write(true).open(path).map_err(fail)?);
        write(&mut file)?;
        return file.flush().map_err(fail);
    }
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temp = tempfile::Builder::new().prefix(".onlay-").tempfile_in(dir).map_err(fail)?;
    {
        let mut file = BufWriter::with_capacity(1 << 20, temp.as_file_mut());
        write(&mut file)?;
        file.flush().map_err(fail)?;
    }
    use std::os::unix::fs::PermissionsExt;
    temp.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(fail)?;
    temp.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
