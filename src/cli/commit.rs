//! `onlay commit`.

use std::process::ExitCode;

use super::error::Error;
use super::output::print;
use super::progress::Bars;
use super::store::StoreArgs;
use crate::store::{Change, Commit, parse_name};

/// Make an image of a container: what it wrote becomes one new layer
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The container must not be running. The same changes make the same layer, whenever they are committed. The config is the
image's, with --change: command, variables and labels that the container was run with are not in it.

Examples:
  onlay commit web app:2
  onlay commit --change 'CMD [\"nginx\"]' --message 'nginx installed' web app:2")]
pub(super) struct Args {
    /// The container: a name, or an id or its first digits
    container: String,
    /// The new image's name
    name: String,
    /// An instruction as in a Dockerfile: CMD, ENTRYPOINT, ENV, LABEL, WORKDIR, USER, STOPSIGNAL, EXPOSE
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<Change>,
    /// A line for the history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let name = parse_name(&args.name)?;
    let (store, owners) = store.open_files()?;
    let container = store.container(&args.container)?;
    let commit = Commit { changes: args.change, message: args.message, author: args.author };
    let image = store.commit(&container, &name, commit, owners, &Bars::new(args.quiet))?;
    print(format!("{}\n", image.id()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
