//! `onlay attach`.

use std::process::ExitCode;

use clap::ArgAction;

use super::containers::running;
use super::error::Error;
use super::run::journal::{Follow, show};
use super::run::{self, DETACH_KEYS, keys, recorded};
use super::store::StoreArgs;
use crate::runner::{self, Attach};
use crate::vocab::why;

/// Come back to a container that runs: what its command prints is printed here, what is typed here goes to it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It must have been started with --detach, or with --tty and left by its keys. What it has printed before
is in its log. Without a terminal of its own what it prints comes line by line.

Examples:
  onlay run -dit --name shell debian:12 bash
  onlay attach shell

The exit code is the command's, or 0 if it was left by keys.")]
pub(super) struct Args {
    /// Keys that leave it to itself again; an empty word: none do
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// What is typed here is not its
    #[arg(long)]
    no_stdin: bool,
    /// Send signals that would end us on to it
    #[arg(
        long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true"
    )]
    sig_proxy: bool,
    /// The container: its name, or its id or the first digits
    container: String,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    try_run(args, store).map_err(|e| e.or_code(run::FAILED))
}

fn try_run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let detach_keys = keys(&args.detach_keys)?;
    let store = store.open()?;
    let container = running(&store, &args.container)?;
    let made = recorded(&container)?.process;
    let how = Attach {
        terminal: made.tty,
        stdin: made.interactive && !args.no_stdin,
        detach_keys: &detach_keys,
        signals: args.sig_proxy,
    };
    let mut printed = Follow::from_here(container.dir())
        .map_err(|e| Error::new(format!("log of {}: {}", args.container, why(&e))))?;
    let code = runner::attach(container.dir(), how, &mut || show(&printed.lines()?, false))?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(run::FAILED)))
}
