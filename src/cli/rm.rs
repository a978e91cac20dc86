//! `onlay rm`.

use std::process::ExitCode;

use super::containers::{each, kill};
use super::error::Error;
use super::output::print;
use super::store::StoreArgs;
use crate::store::{ErrorKind, Status, Store};

/// Remove containers, with all that they wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A container that runs is only removed with --force: it is killed.

Example:
  onlay rm web")]
pub(super) struct Args {
    /// Kill those that run; those that are not there are no mistake
    #[arg(short, long)]
    force: bool,
    /// The containers: names, or ids or their first digits
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let (store, _) = store.open_files()?;
    each(&args.containers, |name| {
        remove(&store, name, args.force)?;
        print(format!("{name}\n").as_bytes())
    })
}

fn remove(store: &Store, name: &str, force: bool) -> Result<(), Error> {
    let container = match store.container(name) {
        // What is to be gone is gone.
        Err(e) if force && e.kind() == ErrorKind::NotFound => {
            log::warn!("{e}");
            return Ok(());
        }
        found => found?,
    };
    if force && container.status()? == Status::Running {
        kill(&container)?;
        if container.state()?.remove {
            // It has removed itself.
            return Ok(());
        }
    }
    let running = container.take()?;
    Ok(store.remove_container(&container, running)?)
}
