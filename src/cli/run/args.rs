//! `onlay run`: a command in the merged view.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};

use crate::runner::{Mapping, Network, Spec};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const EXAMPLES: &str = "\
Examples:
  A shell on this machine that changes nothing:
    onlay run --host
  Try anything:
    onlay run --host -- sh -c 'rm -rf /usr/share/doc'
  In an unpacked root, with the machine's network; what changes is thrown away:
    onlay run --rootfs ./debian --network host -- apt-get update
  Two layers; what changes stays in ./up, and `onlay diff ./up` lists it:
    onlay run --lower ./app --lower ./debian --upper ./up --work ./work -- make install

The exit code is the command's; 128 + n if signal n ended it; 125 if onlay failed, 126 if the
command can't be executed, 127 if it is not there.";

/// Run a command in the merged view, in namespaces of its own
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
#[group(skip)]
#[command(group(ArgGroup::new("view").required(true).args(["rootfs", "lower", "host"])))]
pub(in crate::cli) struct RunArgs {
    /// The one lower layer: an unpacked root
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) rootfs: Option<PathBuf>,

    /// A lower layer; repeat it, the top one first
    #[arg(long, value_name = "DIR", action = clap::ArgAction::Append)]
    pub(in crate::cli) lower: Vec<PathBuf>,

    /// The machine's own root as the lower layer: nothing of it is changed
    #[arg(long)]
    pub(in crate::cli) host: bool,

    /// Where changes go [default: a directory that is removed in the end]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) upper: Option<PathBuf>,

    /// An empty directory on the file system of the upper
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) work: Option<PathBuf>,

    /// The network inside [default: none, with --host: host]
    #[arg(long, value_name = "NET")]
    pub(in crate::cli) network: Option<NetworkArg>,

    /// Set a variable; without a value, take it over from here
    #[arg(short, long, value_name = "NAME[=VALUE]", action = clap::ArgAction::Append)]
    pub(in crate::cli) env: Vec<OsString>,

    /// The working directory inside [default: /, with --host: this one]
    #[arg(short, long, value_name = "DIR")]
    pub(in crate::cli) workdir: Option<PathBuf>,

    /// The host name inside [default: onlay, with --host: the machine's]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) hostname: Option<String>,

    /// Print what would be done
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,

    /// The command and its arguments [default with --host: $SHELL]
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "host"
    )]
    pub(in crate::cli) command: Vec<OsString>,
}

/// The value of `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum NetworkArg {
    /// The machine's
    Host,
    /// Nothing but loopback
    None,
}

/// What of the arguments makes no sense, one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum ArgError {
    /// `--workdir`.
    #[error("--workdir {0}: not an absolute path")]
    Workdir(PathBuf),
    /// `--env`.
    #[error("--env {0:?}: a variable needs a name")]
    Env(OsString),
    /// `--hostname`.
    #[error("--hostname {0:?}: a host name has 1 to 64 letters, digits, '-' and '.'")]
    Hostname(String),
}

/// What a run takes over from where it is called.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Caller {
    /// The environment.
    pub(in crate::cli) env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub(in crate::cli) cwd: Option<PathBuf>,
}

impl Caller {
    /// This process's.
    pub(in crate::cli) fn here() -> Self {
        Self { env: std::env::vars_os().collect(), cwd: std::env::current_dir().ok() }
    }

    fn get(&self, name: &str) -> Option<&OsString> {
        self.env.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

impl RunArgs {
    /// The runner's spec: no input but the arguments. `base` is a directory for the mountpoint, `hide` what is not to be
    /// seen inside.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub(in crate::cli) fn spec(
        &self,
        mapping: Mapping,
        caller: &Caller,
        base: &Path,
        hide: &[PathBuf],
    ) -> Result<Spec, ArgError> {
        let workdir = match (&self.workdir, self.host) {
            (Some(dir), _) if dir.is_absolute() => Some(dir.clone()),
            (Some(dir), _) => return Err(ArgError::Workdir(dir.clone())),
            (None, true) => caller.cwd.clone(),
            (None, false) => None,
        };
        let hostname = match (&self.hostname, self.host) {
            (Some(name), _) if is_host_name(name) => Some(name.clone()),
            (Some(name), _) => return Err(ArgError::Hostname(name.clone())),
            (None, true) => None,
            (None, false) => Some("onlay".to_owned()),
        };
        let network = match (self.network, self.host) {
            (Some(NetworkArg::Host), _) | (None, true) => Network::Host,
            (Some(NetworkArg::None), _) | (None, false) => Network::None,
        };
        Ok(Spec {
            command: self.command(caller),
            env: self.environment(caller, hostname.as_deref())?,
            workdir,
            hostname,
            network,
            mapping,
            base: base.to_owned(),
            host: self.host,
            hide: hide.to_owned(),
            no_new_privs: true,
        })
    }

    fn command(&self, caller: &Caller) -> Vec<OsString> {
        if !self.command.is_empty() {
            return self.command.clone();
        }
        let shell = caller.get("SHELL").filter(|s| !s.is_empty());
        vec![shell.cloned().unwrap_or_else(|| OsString::from("sh"))]
    }

    fn environment(&self, caller: &Caller, hostname: Option<&str>) -> Result<Vec<(OsString, OsString)>, ArgError> {
        let mut env: Vec<(OsString, OsString)> = Vec::new();
        if self.host {
            env.clone_from(&caller.env);
        } else {
            env.push(("PATH".into(), PATH.into()));
            env.push(("HOME".into(), "/root".into()));
            env.extend(caller.get("TERM").map(|term| ("TERM".into(), term.clone())));
        }
        env.extend(hostname.map(|name| ("HOSTNAME".into(), name.into())));
        env.push(("container".into(), "onlay".into()));
        for word in &self.env {
            env.extend(variable(word, caller)?);
        }
        // A later value wins.
        let mut seen = std::collections::HashSet::new();
        env.reverse();
        env.retain(|(name, _)| seen.insert(name.clone()));
        env.reverse();
        Ok(env)
    }
}

fn variable(word: &OsString, caller: &Caller) -> Result<Option<(OsString, OsString)>, ArgError> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = word.as_bytes();
    let (name, value) = match bytes.iter().position(|b| *b == b'=') {
        Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        None => (bytes, None),
    };
    if name.is_empty() {
        return Err(ArgError::Env(word.clone()));
    }
    let name = OsString::from_vec(name.to_vec());
    let value = value.or_else(|| caller.env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()));
    Ok(value.map(|v| (name, v)))
}

fn is_host_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests;
