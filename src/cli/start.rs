//! `onlay start`, `onlay restart`.

use std::process::ExitCode;

use super::containers::{Manner, each};
use super::error::Error;
use super::output::print;
use super::run;
use super::stop::stop_one;
use super::store::StoreArgs;
use crate::store::{Status, Store};

/// Start containers again, with all that they wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onlay start web
  onlay start -ai shell")]
pub(super) struct StartArgs {
    /// Stay here: its outputs are ours, and its exit code
    #[arg(short, long)]
    attach: bool,
    /// Its input is ours, too
    #[arg(short, long, requires = "attach")]
    interactive: bool,
    /// The containers: names, or ids or their first digits
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(super) fn run_start(args: &StartArgs, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    if args.attach {
        let [name] = &args.containers[..] else {
            return Err(Error::new("--attach: one container at a time"));
        };
        return run::start_again(&store, name, Some(args.interactive)).map_err(|e| e.or_code(run::FAILED));
    }
    each(&args.containers, |name| start_one(&store, name))
}

fn start_one(store: &Store, name: &str) -> Result<(), Error> {
    // As docker's: one that runs is as it should be.
    if store.container(name)?.status()? != Status::Running {
        run::start_again(store, name, None)?;
    }
    print(format!("{name}\n").as_bytes())
}

/// Stop containers and start them again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  onlay restart web")]
pub(super) struct RestartArgs {
    #[command(flatten)]
    manner: Manner,
    /// The containers: names, or ids or their first digits
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(super) fn run_restart(args: &RestartArgs, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    each(&args.containers, |name| {
        // Else one that another has started again would be taken for one that does not end.
        let _turn = store.container(name)?.in_turn()?;
        stop_one(&store, name, &args.manner)?;
        start_one(&store, name)
    })
}
