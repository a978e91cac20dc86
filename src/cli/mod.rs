//! The command line: one file per verb.

mod attach;
mod commit;
mod completions;
mod containers;
mod cp;
mod create;
mod daemon;
mod df;
mod diff;
mod dropin;
mod error;
mod exec;
mod export;
mod gc;
mod history;
mod images;
mod import;
mod inspect;
mod layers;
mod limits;
mod load;
mod login;
mod logs;
mod mount;
mod options;
mod output;
mod progress;
mod ps;
mod pull;
mod push;
mod registry;
mod rm;
mod rmi;
mod run;
mod save;
mod start;
mod stop;
mod store;
mod tag;
mod top;
mod umount;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use error::Error;

/// A union filesystem in userspace, and processes that live in it: no root needed.
#[derive(Debug, Parser)]
#[command(name = "onlay", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Each command has examples: onlay COMMAND --help")]
struct Onlay {
    #[command(flatten)]
    store: store::StoreArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Stack directories and mount the merged view
    Mount(mount::Args),
    /// Unmount a merged view, once everything is written
    #[command(visible_alias = "unmount")]
    Umount(umount::Args),
    /// Run a command in the merged view, in namespaces of its own
    Run(Box<run::Args>),
    /// List what a container, an image or an upper directory changes
    Diff(diff::Args),
    /// Make a container without running it
    Create(Box<create::Args>),
    /// List containers
    Ps(ps::Args),
    /// Run one more command in a container
    Exec(Box<exec::Args>),
    /// Come back to a container that runs
    Attach(attach::Args),
    /// Copy files between a container and here
    Cp(cp::Args),
    /// Print what a detached container has printed
    Logs(logs::Args),
    /// Start containers again
    Start(start::StartArgs),
    /// End containers in order
    Stop(stop::StopArgs),
    /// Stop containers and start them again
    Restart(start::RestartArgs),
    /// Send a signal to containers
    Kill(stop::KillArgs),
    /// Wait for the end of containers
    Wait(stop::WaitArgs),
    /// List the processes of a container
    Top(top::TopArgs),
    /// Print what containers use
    Stats(top::StatsArgs),
    /// Remove containers
    Rm(rm::Args),
    /// Make an image of a container
    Commit(commit::Args),
    /// Write the files of a container or an image to an archive
    Export(export::Args),
    /// List images
    Images(images::Args),
    /// List the layers of an image
    History(history::Args),
    /// Print all that is known of images and containers
    Inspect(inspect::Args),
    /// Fetch an image from a registry
    Pull(pull::Args),
    /// Send an image to a registry
    Push(push::Args),
    /// Give an image one more name
    Tag(tag::Args),
    /// Remove images
    Rmi(rmi::Args),
    /// Load images from an archive
    Load(load::Args),
    /// Write images to an archive
    Save(save::Args),
    /// Make an image of a root file system
    Import(import::Args),
    /// Print how much the store holds
    Df(df::Args),
    /// Remove what nothing needs
    Gc(gc::Args),
    /// Log in to a registry
    Login(login::Args),
    /// Forget a login to a registry
    Logout(login::LogoutArgs),
    /// Print completions for a shell
    Completions(completions::Args),
}

/// The same of one verb alone: it is called by programs, over and over, and the words of all the others take longer to put
/// together than to read.
#[derive(Debug, Parser)]
#[command(name = "onlay", version, disable_help_subcommand = true)]
struct OnlayRun {
    #[command(flatten)]
    store: store::StoreArgs,
    #[command(subcommand)]
    verb: RunVerb,
}

#[derive(Debug, Subcommand)]
enum RunVerb {
    /// Run a command in the merged view, in namespaces of its own
    Run(Box<run::Args>),
}

/// Parses a command line. What is wrong with it, and help, is told as of one of all verbs.
fn parse(args: &[OsString]) -> Result<Onlay, clap::Error> {
    let verb = match args {
        [_, root, _, verb, ..] if root == "--root" => Some(verb),
        [_, verb, ..] => Some(verb),
        _ => None,
    };
    if verb.is_some_and(|verb| verb == "run")
        && let Ok(OnlayRun { store, verb: RunVerb::Run(args) }) = OnlayRun::try_parse_from(args)
    {
        return Ok(Onlay { store, verb: Verb::Run(args) });
    }
    Onlay::try_parse_from(args)
}

/// Exit code for a command line that makes no sense.
const USAGE: u8 = 2;

/// Parses `args` (the program's name first), runs the verb, returns the exit code. What goes wrong is told on stderr.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.collect();
    start_log();
    if let Some(args) = dropin::called(&args) {
        return dropin::run(args).unwrap_or_else(|e| e.report());
    }
    let onlay = match parse(&args) {
        Ok(onlay) => onlay,
        Err(e) => {
            // Help and version go to stdout and are no failure.
            if !e.use_stderr() {
                return e.print().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
            }
            return Error::usage(&e).or_code(usage_code(&args)).report();
        }
    };
    let done = match onlay.verb {
        Verb::Mount(args) => mount::run(args, &onlay.store),
        Verb::Umount(args) => umount::run(&args),
        Verb::Run(args) => run::run(&args, &onlay.store),
        Verb::Diff(args) => diff::run(&args, &onlay.store),
        Verb::Create(args) => create::run(&args, &onlay.store),
        Verb::Ps(args) => ps::run(&args, &onlay.store),
        Verb::Exec(args) => exec::run(&args, &onlay.store),
        Verb::Attach(args) => attach::run(&args, &onlay.store),
        Verb::Cp(args) => cp::run(&args, &onlay.store),
        Verb::Logs(args) => logs::run(&args, &onlay.store),
        Verb::Start(args) => start::run_start(&args, &onlay.store),
        Verb::Stop(args) => stop::run_stop(&args, &onlay.store),
        Verb::Restart(args) => start::run_restart(&args, &onlay.store),
        Verb::Kill(args) => stop::run_kill(&args, &onlay.store),
        Verb::Wait(args) => stop::run_wait(&args, &onlay.store),
        Verb::Top(args) => top::run_top(&args, &onlay.store),
        Verb::Stats(args) => top::run_stats(&args, &onlay.store),
        Verb::Rm(args) => rm::run(&args, &onlay.store),
        Verb::Df(args) => df::run(&args, &onlay.store),
        Verb::Commit(args) => commit::run(args, &onlay.store),
        Verb::Export(args) => export::run(&args, &onlay.store),
        Verb::Images(args) => images::run(&args, &onlay.store),
        Verb::History(args) => history::run(&args, &onlay.store),
        Verb::Inspect(args) => inspect::run(&args, &onlay.store),
        Verb::Pull(args) => pull::run(&args, &onlay.store),
        Verb::Push(args) => push::run(&args, &onlay.store),
        Verb::Tag(args) => tag::run(&args, &onlay.store),
        Verb::Rmi(args) => rmi::run(&args, &onlay.store),
        Verb::Load(args) => load::run(&args, &onlay.store),
        Verb::Save(args) => save::run(&args, &onlay.store),
        Verb::Import(args) => import::run(args, &onlay.store),
        Verb::Gc(args) => gc::run(&args, &onlay.store),
        Verb::Login(args) => login::run(&args),
        Verb::Logout(args) => login::run_logout(&args),
        Verb::Completions(args) => completions::run(&args, Onlay::command()),
    };
    match done {
        Ok(code) => code,
        Err(e) => e.report(),
    }
}

/// As docker's where there is a command: 2 could be its own.
fn usage_code(args: &[OsString]) -> u8 {
    let read = Onlay::command().ignore_errors(true).try_get_matches_from(args);
    match read.as_ref().ok().and_then(clap::ArgMatches::subcommand_name) {
        Some("run" | "exec" | "create" | "attach") => run::FAILED,
        _ => USAGE,
    }
}

/// What the daemon logs goes to stderr, in our words; `ONLAY_LOG` says how much.
fn start_log() {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("ONLAY_LOG", "warn"))
        // It is in the error, too.
        .filter_module("rustls_platform_verifier", log::LevelFilter::Off)
        .format(|_, record| {
            error::log(record.level(), record.args());
            Ok(())
        })
        .init();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Words after `.It Cm` or `.Cm` in a part of the manual page, which separates them by commas or bars.
    fn words<'a>(part: &'a str, start: &'a str) -> BTreeSet<&'a str> {
        let lines = part.lines().filter_map(|line| line.strip_prefix(start));
        lines.flat_map(|line| line.split([',', '|', ' '])).filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn the_manual_page_has_every_verb_and_no_other() {
        let page = include_str!("../../contrib/onlay.1");
        let part = |from: &str, to: &str| page.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|p| p.0);
        let onlay = Onlay::command();
        let verbs: BTreeSet<&str> = onlay.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(words(part(".Sh SYNOPSIS", ".Sh").unwrap(), ".Cm "), verbs);
        assert_eq!(words(part(".Sh DESCRIPTION", ".Sh").unwrap(), ".It Cm "), verbs);
    }

    #[test]
    fn run_is_read_alone_as_among_the_others() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in [
            "onlay run --rm --root /s app:1 /bin/true",
            "onlay run -it -e A=1 -v /a:/b:ro --name web app:1 sh -c -x",
            "onlay run --host",
        ] {
            let alone = OnlayRun::try_parse_from(words(line)).unwrap();
            let among = Onlay::try_parse_from(words(line)).unwrap();
            assert_eq!(format!("{:?}", alone.store), format!("{:?}", among.store), "{line}");
            assert_eq!(format!("{:?}", alone.verb), format!("{:?}", among.verb), "{line}");
        }
        for line in ["onlay run", "onlay run --help", "onlay run --no-such-flag app:1", "onlay run --rm --name"] {
            let among = Onlay::try_parse_from(words(line)).unwrap_err().to_string();
            assert_eq!(parse(&words(line)).unwrap_err().to_string(), among, "{line}");
        }
    }

    #[test]
    fn every_verb_has_words_and_most_have_examples() {
        let mut onlay = Onlay::command();
        onlay.build();
        for verb in onlay.get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            let without = ["df", "gc"].contains(&verb.get_name());
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(without || help.contains("Example"), "{}: {help}", verb.get_name());
        }
    }
}
