//! `onlay diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::error::Error;
use super::layers::{open_one, prefix_without_upper};
use super::output::print;
use super::store::StoreArgs;
use crate::overlay::{Change, How, changes};
use crate::store::ErrorKind;

/// List what a container, an image or an upper directory changes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line is a letter and a path: A added, C changed, D deleted.

Examples:
  onlay diff web                           what the container web has changed
  onlay diff debian:12..app:1              what the image app:1 has other than debian:12
  onlay diff upper
  onlay diff upper --lower base            exact, also for what was renamed or replaced
  onlay diff upper --format json | jq -r '.[] | select(.change == \"deleted\") | .path'

Without --lower, what is marked as copied up counts as changed and all else as added: a file that
replaces one from below shows as A.")]
pub(super) struct Args {
    /// A container (name or id), two images with .. between them, or an upper directory
    #[arg(value_name = "CONTAINER|IMAGE..IMAGE|DIR")]
    what: PathBuf,
    /// The layers below it, the top one first
    #[arg(short, long, value_name = "DIR")]
    lower: Vec<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A letter and a path on each line; a line break in a name is printed as \n, a backslash as \\
    Text,
    /// An array of objects with `change` and `path`
    Json,
}

/// One change as JSON. A path that is not UTF-8 has its bytes in `path_bytes`.
#[derive(Serialize)]
struct Row<'a> {
    change: &'static str,
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let found = match in_store(args, store)? {
        Some(found) => found,
        None => {
            let upper = open_one("upper directory", &args.what)?;
            let lowers: Vec<_> = args.lower.iter().map(|p| open_one("lower layer", p)).collect::<Result<_, _>>()?;
            changes(&upper, &lowers, prefix_without_upper()).map_err(|e| {
                Error::new(format!("{}: {e}", args.what.display())).hint("run it as the user who owns it")
            })?
        }
    };
    let text = match args.format {
        Format::Text => found.iter().flat_map(text).collect(),
        Format::Json => json(&found)?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The changes of a container or between images; `None`: a directory is meant.
fn in_store(args: &Args, store: &StoreArgs) -> Result<Option<Vec<Change>>, Error> {
    let Some(what) = args.what.to_str().filter(|_| args.lower.is_empty()) else { return Ok(None) };
    if let Some((old, new)) = what.split_once("..").filter(|(old, new)| !old.is_empty() && !new.is_empty()) {
        // A path such as a/../b.
        if !args.what.exists() {
            let (store, _) = store.open_files()?;
            let (old, new) = (store.image(old)?.image, store.image(new)?.image);
            return Ok(Some(store.image_changes(&old, &new)?));
        }
    }
    if what.contains('/') || (!store.exists() && args.what.exists()) {
        return Ok(None);
    }
    // Names first: our ids change only if the files of a container are looked at.
    let opened = store.open()?;
    match opened.container(what) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound && args.what.exists() => return Ok(None),
        Err(e) if e.kind() == ErrorKind::NotFound && opened.image(what).is_ok() => {
            return Err(Error::new(format!("{what} is an image, and nothing to compare it with was named"))
                .hint(format!("onlay diff OTHER..{what}")));
        }
        Err(e) => return Err(e.into()),
    }
    let (store, _) = store.open_files()?;
    Ok(Some(store.container_changes(&store.container(what)?)?))
}

fn text(change: &Change) -> Vec<u8> {
    let letter = match change.how {
        How::Added => b"A ",
        How::Changed => b"C ",
        How::Deleted => b"D ",
    };
    let mut line = letter.to_vec();
    for &b in &change.path {
        match b {
            b'\n' => line.extend(b"\\n"),
            b'\\' => line.extend(b"\\\\"),
            b => line.push(b),
        }
    }
    line.push(b'\n');
    line
}

fn json(found: &[Change]) -> Result<Vec<u8>, Error> {
    let rows: Vec<_> = found
        .iter()
        .map(|c| Row {
            change: match c.how {
                How::Added => "added",
                How::Changed => "changed",
                How::Deleted => "deleted",
            },
            path: String::from_utf8_lossy(&c.path),
            path_bytes: std::str::from_utf8(&c.path).is_err().then_some(&c.path),
        })
        .collect();
    let mut text = serde_json::to_vec_pretty(&rows).map_err(|e| Error::new(format!("write JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
