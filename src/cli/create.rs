//! `onlay create`.

use std::process::ExitCode;

use super::error::Error;
use super::output::print;
use super::run::{self, RunArgs};
use super::store::StoreArgs;

/// Make a container of an image without running it
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    try_run(args, store).map_err(|e| e.or_code(run::FAILED))
}

fn try_run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    if !args.run.is_image() {
        return Err(Error::new("a container is made of an image").hint("onlay create [--name NAME] IMAGE [COMMAND..]"));
    }
    let store = store.open()?;
    let (container, _running) = run::create(&store, &args.run)?;
    print(format!("{}\n", container.record.id).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
