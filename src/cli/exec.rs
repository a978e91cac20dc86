//! `onlay exec`.

use std::ffi::OsString;
use std::process::ExitCode;

use super::containers::running;
use super::error::Error;
use super::run::{self, ProcessArgs};
use super::store::StoreArgs;
use crate::runner;

/// Run one more command in a container that runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It is confined as the container's own command.

Examples:
  onlay exec -it web sh
  onlay exec -u www -e LANG=C web id

The exit code is the command's; 125 if onlay failed, 126 if the command can't be executed, 127 if it
is not there.")]
pub(super) struct Args {
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    process: ProcessArgs,
    /// The container: its name, or its id or the first digits
    container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    try_run(args, store).map_err(|e| e.or_code(run::FAILED))
}

fn try_run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    if !args.detach {
        args.process.refuse_no_terminal()?;
    }
    let store = store.open()?;
    let container = running(&store, &args.container)?;
    let process = run::extra_process(&store, &container, &args.process, args.command.clone())?;
    let code = runner::exec(container.dir(), &process, !args.detach)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(run::FAILED)))
}
