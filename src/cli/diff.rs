//! `onlay diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::error::Error;
use super::layers::{open_one, prefix_without_upper};
use super::output::print;
use crate::overlay::{Change, How, changes};

/// List what an upper directory changes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line is a letter and a path: A added, C changed, D deleted.

Examples:
  onlay diff upper
  onlay diff upper --lower base            exact, also for what was renamed or replaced
  onlay diff upper --format json | jq -r '.[] | select(.change == \"deleted\") | .path'

Without --lower, what is marked as copied up counts as changed and all else as added: a file that
replaces one from below shows as A.")]
pub(super) struct Args {
    /// The upper directory
    upper: PathBuf,
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

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let upper = open_one("upper directory", &args.upper)?;
    let lowers: Vec<_> = args.lower.iter().map(|p| open_one("lower layer", p)).collect::<Result<_, _>>()?;
    let found = changes(&upper, &lowers, prefix_without_upper())
        .map_err(|e| Error::new(format!("{}: {e}", args.upper.display())).hint("run it as the user who owns it"))?;
    let text = match args.format {
        Format::Text => found.iter().flat_map(text).collect(),
        Format::Json => json(&found)?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
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
