//! `onlay logs`.

use std::process::ExitCode;
use std::time::Duration;

use super::error::Error;
use super::run::journal::{Follow, before, is_kept, show};
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
    let mut follow = Follow::new(container.dir()).map_err(fail)?;
    let mut lines = before(container.dir()).map_err(fail)?;
    lines.extend(follow.lines().map_err(fail)?);
    let from = args.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    show(&lines[from..], args.timestamps).map_err(fail)?;
    if lines.is_empty() && !is_kept(container.dir()) && container.state()?.started.is_some() {
        log::warn!("nothing was kept of what {} has printed: it was not detached (run -d)", args.container);
    }
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        // Asked before the last look: what was printed before the end is seen.
        let goes_on = is_running(&container);
        let lines = follow.lines().map_err(fail)?;
        show(&lines, args.timestamps).map_err(fail)?;
        if !goes_on {
            return Ok(ExitCode::SUCCESS);
        }
        if lines.is_empty() {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

/// Removed meanwhile is ended, too.
fn is_running(container: &Container) -> bool {
    container.status().is_ok_and(|status| status == Status::Running)
}
