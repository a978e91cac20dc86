//! `onlay stop`, `onlay kill`, `onlay wait`.

use std::process::ExitCode;

use super::containers::{Manner, each, kill, running, send, signal, stop, wait};
use super::error::Error;
use super::output::print;
use super::store::StoreArgs;

/// End containers: a signal to the command (TERM, if nobody says otherwise), and after a while SIGKILL to all that is left
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  onlay stop -t 30 database")]
pub(super) struct StopArgs {
    #[command(flatten)]
    manner: Manner,
    /// The containers: names, or ids or their first digits
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(super) fn run_stop(args: &StopArgs, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    // Side by side: each may take as long as it was given.
    let mut stopped = std::thread::scope(|scope| {
        let store = &store;
        let all: Vec<_> =
            (args.containers.iter()).map(|name| scope.spawn(move || stop_one(store, name, &args.manner))).collect();
        let died = || Err(Error::new("a thread panicked; please report it"));
        all.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect::<Vec<_>>().into_iter()
    });
    each(&args.containers, |name| {
        // One that has ended already is as it should be.
        stopped.next().unwrap_or(Ok(()))?;
        print(format!("{name}\n").as_bytes())
    })
}

/// Stops a container if it runs.
pub(super) fn stop_one(store: &crate::store::Store, name: &str, manner: &Manner) -> Result<(), Error> {
    let container = store.container(name)?;
    if container.status()? == crate::store::Status::Running {
        stop(&container, manner)?;
    }
    Ok(())
}

/// Send a signal to the command of containers; KILL ends all that runs in them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  onlay kill -s HUP web")]
pub(super) struct KillArgs {
    /// Its name or number
    #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
    signal: String,
    /// The containers: names, or ids or their first digits
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(super) fn run_kill(args: &KillArgs, store: &StoreArgs) -> Result<ExitCode, Error> {
    let signal = signal(&args.signal)?;
    let store = store.open()?;
    each(&args.containers, |name| {
        let container = running(&store, name)?;
        if signal == nix::sys::signal::Signal::SIGKILL {
            kill(&container)?
        } else {
            send(&container, signal)?
        }
        print(format!("{name}\n").as_bytes())
    })
}

/// Wait until containers have ended, and print their exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  onlay wait job")]
pub(super) struct WaitArgs {
    /// The containers: names, or ids or their first digits
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(super) fn run_wait(args: &WaitArgs, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    each(&args.containers, |name| {
        let container = store.container(name)?;
        wait(&container, None)?;
        match container.state()?.exit_code {
            Some(code) => print(format!("{code}\n").as_bytes()),
            None => Err(Error::new(format!("container {name} has no exit code"))
                .hint("it never ran, or was killed with all that served it")),
        }
    })
}
