//! `onlay logs`.

use std::fs::File;
use std::io::{BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::Duration;

use super::error::Error;
use super::run::journal::{Line, files, read_lines};
use super::store::StoreArgs;
use crate::store::{Container, Status};
use crate::vocab::why;

/// Print what a detached container has printed: its output to ours, its errors to our errors
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The last 10 to 20 MiB are kept.

Example:
  onlay logs -f --tail 20 web")]
pub(super) struct Args {
    /// Go on with what comes, until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
    /// When each line was printed
    #[arg(short, long)]
    timestamps: bool,
    /// The container: its name, or its id or the first digits
    container: String,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let container = store.open()?.container(&args.container)?;
    let fail = |e: std::io::Error| Error::new(format!("log of {}: {}", args.container, why(&e)));
    let [before, now] = files(container.dir());
    let mut lines = Vec::new();
    if let Some(mut file) = open(&before).map_err(fail)? {
        lines.extend(read_lines(&mut file, &mut Vec::new()).map_err(fail)?);
    }
    let mut file = open(&now).map_err(fail)?;
    let mut rest = Vec::new();
    if let Some(file) = &mut file {
        lines.extend(read_lines(file, &mut rest).map_err(fail)?);
    }
    let from = args.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    show(&lines[from..], args.timestamps).map_err(fail)?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        // Asked before the last look: what was printed before the end is seen.
        let running = is_running(&container);
        if let Some(file) = &mut file {
            show(&read_lines(file, &mut rest).map_err(fail)?, args.timestamps).map_err(fail)?;
        }
        if let Some(next) = replaced(file.as_ref(), &now).map_err(fail)? {
            file = Some(next);
            rest.clear();
        } else if running {
            std::thread::sleep(Duration::from_millis(30));
        } else {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Removed meanwhile is ended, too.
fn is_running(container: &Container) -> bool {
    container.status().is_ok_and(|status| status == Status::Running)
}

fn open(path: &std::path::Path) -> std::io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The file of this name, if it is another one by now.
fn replaced(file: Option<&BufReader<File>>, path: &std::path::Path) -> std::io::Result<Option<BufReader<File>>> {
    let Some(next) = open(path)? else { return Ok(None) };
    let same = match file {
        Some(file) => file.get_ref().metadata()?.ino() == next.get_ref().metadata()?.ino(),
        None => false,
    };
    Ok((!same).then_some(next))
}

fn show(lines: &[Line], timestamps: bool) -> std::io::Result<()> {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    for line in lines {
        let to: &mut dyn Write = if line.stream == "stderr" { &mut err } else { &mut out };
        if timestamps {
            write!(to, "{} ", line.time)?;
        }
        to.write_all(line.log.as_bytes())?;
    }
    out.flush()
}
