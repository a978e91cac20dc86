//! `onlay completions`.

use std::process::ExitCode;

use clap_complete::Shell;

use super::error::Error;
use super::output::print;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onlay completions bash > /etc/bash_completion.d/onlay
  onlay completions zsh > /usr/local/share/zsh/site-functions/_onlay
  onlay completions fish > ~/.config/fish/completions/onlay.fish")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, mut onlay: clap::Command) -> Result<ExitCode, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut onlay, "onlay", &mut script);
    print(&script)?;
    Ok(ExitCode::SUCCESS)
}
