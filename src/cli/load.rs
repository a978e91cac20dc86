//! `onlay load`.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::image::{Arch, Os};

use super::error::Error;
use super::output::print;
use super::progress::Bars;
use super::store::StoreArgs;
use crate::store::{Wanted, familiar_name, parse_name};
use crate::vocab::{digest::short, why};

/// Load images from an archive or an OCI image layout
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Takes what docker save, podman save, skopeo and umoci write: OCI image layouts as directory or
archive, and docker's archives; compressed with gzip, zstd or not at all.

Examples:
  onlay load --input debian.tar
  docker save debian:12 | onlay load
  onlay load -i ./layout")]
pub(super) struct Args {
    /// An archive or a directory [default: an archive on standard input]
    #[arg(short, long, value_name = "FILE|DIR")]
    input: Option<PathBuf>,
    /// A name for the image, where there is only one
    #[arg(short, long, value_name = "NAME")]
    tag: Option<String>,
    /// The image for other machines: OS/ARCH [default: this one's]
    #[arg(long, value_name = "OS/ARCH", value_parser = platform)]
    platform: Option<(Os, Arch)>,
    /// No progress, only ids
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn platform(words: &str) -> Result<(Os, Arch), String> {
    match words.split('/').collect::<Vec<_>>()[..] {
        [os, arch] | [os, arch, _] if !os.is_empty() && !arch.is_empty() => Ok((Os::from(os), Arch::from(arch))),
        _ => Err("OS/ARCH, as linux/amd64".to_owned()),
    }
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let tag = args.tag.as_deref().map(parse_name).transpose()?;
    let wanted = args.platform.clone().map_or_else(Wanted::default, |(os, arch)| Wanted { os, arch });
    // Before our ids change.
    let input = args.input.as_deref().filter(|i| i.as_os_str() != "-");
    let file = match input {
        Some(path) => Some(File::open(path).map_err(|e| {
            Error::new(format!("{}: {}", path.display(), why(&e))).hint("name an archive or an OCI image layout")
        })?),
        None => None,
    };
    let (store, owners) = store.open_files()?;
    let bars = Bars::new(args.quiet);
    let named = |e: crate::store::Error| {
        let hint = e.hint().unwrap_or("save or fetch it again; a root file system is taken by onlay import").to_owned();
        match input {
            Some(path) => Error::new(format!("{}: {e}", path.display())).hint(hint),
            None => Error::new(e).hint(hint),
        }
    };
    let _adding = store.adding()?;
    let loaded = match (input, file) {
        (Some(path), _) if path.is_dir() => store.load_dir(path, &wanted, owners, &bars),
        (_, Some(file)) => store.load_archive(file, &wanted, owners, &bars),
        (_, None) => store.load_archive(std::io::stdin().lock(), &wanted, owners, &bars),
    }
    .map_err(named)?;
    if let Some(tag) = &tag {
        let [one] = &loaded[..] else {
            return Err(
                Error::new(format!("--tag: there are {} images in it", loaded.len())).hint("onlay tag names them")
            );
        };
        store.add_image(one.image.digest(), Some(tag))?;
    }
    let mut text = String::new();
    for one in &loaded {
        let id = short(one.image.id());
        text += &match tag.as_ref().or(one.name.as_ref()).map(familiar_name) {
            _ if args.quiet => format!("{id}\n"),
            Some(name) => format!("Loaded image: {name} ({id})\n"),
            None => format!("Loaded image: {id}\n"),
        };
    }
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
