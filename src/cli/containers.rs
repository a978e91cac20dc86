//! What the verbs about running containers share.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::error::{self, Error};
use crate::runner;
use crate::store::{Container, ErrorKind, Status, Store};

/// How often it is looked whether a container has ended.
const GLANCE: Duration = Duration::from_millis(10);

/// The container of this name, which must run.
pub(super) fn running(store: &Store, name: &str) -> Result<Container, Error> {
    let container = store.container(name)?;
    if container.status()? == Status::Running {
        return Ok(container);
    }
    Err(Error::new(format!("container {name} is not running")).hint(format!("onlay start {name}")))
}

/// Waits for the end of a container, so long at most; whether it has ended.
pub(super) fn wait(container: &Container, patience: Option<Duration>) -> Result<bool, Error> {
    let until = patience.map(|p| Instant::now() + p);
    let runs = || match container.status() {
        // It has removed itself.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        status => status.map(|s| s == Status::Running),
    };
    while runs()? {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(false);
        }
        std::thread::sleep(GLANCE);
    }
    Ok(true)
}

/// How long a monitor may take from its start until it listens, and from then to its end.
const LISTENING: Duration = Duration::from_secs(5);

/// How long a container may take to end, unless it says otherwise.
const PATIENCE: u64 = 10;

/// How to end a container: what is said here, or when it was made, or by its image.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Manner {
    /// Seconds until it is killed [default: as --stop-timeout said, or 10]
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<u64>,
    /// The signal that asks it to end [default: as --stop-signal or the image said, or TERM]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

/// Ends a container in order: a signal to its command, and after a while everything in it is killed.
pub(super) fn stop(container: &Container, manner: &Manner) -> Result<(), Error> {
    let record = &container.record.process;
    let wanted = match &manner.signal {
        Some(word) => signal(word)?,
        None => record.stop_signal.as_deref().and_then(signal_named).unwrap_or(Signal::SIGTERM),
    };
    let patience = Duration::from_secs(manner.time.or(record.stop_timeout).unwrap_or(PATIENCE));
    send(container, wanted)?;
    if wait(container, Some(patience))? {
        return Ok(());
    }
    kill(container)
}

/// Kills everything in a container and waits until it is gone.
pub(super) fn kill(container: &Container) -> Result<(), Error> {
    send(container, Signal::SIGKILL)?;
    if wait(container, Some(Duration::from_secs(10)))? {
        return Ok(());
    }
    Err(Error::new(format!("container {} does not end", container.record.name))
        .hint("its monitor may hang on a disk: look at the processes of `onlay top`"))
}

/// Sends a signal to a container's command. One that has just ended got what it was sent for.
pub(super) fn send(container: &Container, signal: Signal) -> Result<(), Error> {
    let until = Instant::now() + LISTENING;
    while let Err(e) = runner::signal(container.dir(), signal) {
        // Nobody listens: it is about to start, or to end.
        if wait(container, Some(GLANCE))? {
            break;
        }
        if Instant::now() >= until {
            return Err(e.into());
        }
    }
    Ok(())
}

/// A signal by its name, with or without SIG, or its number.
pub(super) fn signal(word: &str) -> Result<Signal, Error> {
    signal_named(word).ok_or_else(|| {
        Error::new(format!("--signal {word}: no such signal")).hint("TERM, KILL, HUP, INT, USR1, 15, ..")
    })
}

/// The same, if there is one.
pub(super) fn signal_named(word: &str) -> Option<Signal> {
    let upper = word.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    match word.parse::<i32>() {
        Ok(number) => Signal::try_from(number).ok(),
        Err(_) => name.parse().ok(),
    }
}

/// Does the same to [each](error::each) container. Control groups of those that were killed with all that would have removed
/// them go as well.
pub(super) fn each(names: &[String], act: impl FnMut(&str) -> Result<(), Error>) -> Result<ExitCode, Error> {
    let done = error::each(names, act);
    runner::remove_left_groups();
    done
}
