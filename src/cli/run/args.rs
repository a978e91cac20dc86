//! `onlay run`: a command in the merged view.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};

use super::container::ContainerArgs;
use super::names::NameArgs;
use super::process::ProcessArgs;
use super::resources::ResourceArgs;
use super::security::SecurityArgs;
use super::values::{ArgError, port};
use super::volumes::VolumeArgs;
use crate::runner::{Mapping, Network, Process, Spec};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const EXAMPLES: &str = "\
Examples:
  A container of an image; `onlay ps -a` lists it afterwards, `onlay commit` keeps what it wrote:
    onlay run --name web debian:12 apt-get install nginx
  A server that is told to end as it wants to, and is found again:
    onlay run -d --name web -l team=a --stop-signal QUIT --memory 256m -p 8080:80 registry.example/nginx
  One that is gone when it ends:
    onlay run --rm -it debian:12 bash
  A shell on this machine that changes nothing:
    onlay run --host
  Try anything:
    onlay run --host -- sh -c 'rm -rf /usr/share/doc'
  In an unpacked root, with the machine's network; what changes is thrown away:
    onlay run --rootfs ./debian --network host -- apt-get update
  A shell with a terminal of its own and a directory of yours, as user 1000:
    onlay run -it --rootfs ./debian -v ./src:/src -w /src -u 1000 -- bash
  Nothing can be written but /tmp, no capabilities:
    onlay run --rootfs ./debian --read-only --tmpfs /tmp --cap-drop ALL -- ./server
  Two layers; what changes stays in ./up, and `onlay diff ./up` lists it:
    onlay run --lower ./app --lower ./debian --upper ./up --work ./work -- make install

The exit code is the command's; 128 + n if signal n ended it; 125 if onlay failed, 126 if the
command can't be executed, 127 if it is not there.";

/// Run a command in the merged view, in namespaces of its own
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
#[group(skip)]
#[command(group(ArgGroup::new("view").args(["rootfs", "lower", "host"])))]
pub(in crate::cli) struct RunArgs {
    /// The one lower layer: an unpacked root
    #[arg(long, value_name = "DIR", help_heading = "View")]
    pub(in crate::cli) rootfs: Option<PathBuf>,

    /// A lower layer; repeat it, the top one first
    #[arg(long, value_name = "DIR", action = clap::ArgAction::Append, help_heading = "View")]
    pub(in crate::cli) lower: Vec<PathBuf>,

    /// The machine's own root as the lower layer: nothing of it is changed
    #[arg(long, help_heading = "View")]
    pub(in crate::cli) host: bool,

    /// Where changes go [default: a directory that is removed in the end]
    #[arg(long, value_name = "DIR", help_heading = "View")]
    pub(in crate::cli) upper: Option<PathBuf>,

    /// An empty directory on the file system of the upper
    #[arg(long, value_name = "DIR", help_heading = "View")]
    pub(in crate::cli) work: Option<PathBuf>,

    /// A name for the container [default: one is made up]
    #[arg(long, value_name = "NAME", conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) name: Option<String>,

    /// Do not wait for it: it goes on without this terminal, `onlay logs` shows what it prints
    #[arg(short, long, conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) detach: bool,

    /// Remove the container when it ends
    #[arg(long, conflicts_with = "view", help_heading = "Container")]
    pub(in crate::cli) rm: bool,

    #[command(flatten)]
    pub(in crate::cli) container: ContainerArgs,

    #[command(flatten)]
    pub(in crate::cli) process: ProcessArgs,

    /// The program to run, whatever the image says; the command is its arguments
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub(in crate::cli) entrypoint: Option<OsString>,

    /// An init as process 1: there always is one
    #[arg(long, help_heading = "Process")]
    pub(in crate::cli) init: bool,

    #[command(flatten)]
    pub(in crate::cli) resources: ResourceArgs,

    #[command(flatten)]
    pub(in crate::cli) volumes: VolumeArgs,

    /// The network inside [default: none, with --host: host]
    #[arg(long, visible_alias = "net", value_name = "NET", help_heading = "Network")]
    pub(in crate::cli) network: Option<NetworkArg>,

    /// Let a port of the machine lead to one inside [default address: all of the machine's]
    #[arg(short, long, value_name = "[ADDR:]HOST:CONTAINER[/udp]", action = clap::ArgAction::Append, help_heading = "Network")]
    pub(in crate::cli) publish: Vec<String>,

    /// The host name inside [default: the container's id, onlay where there is none, with --host: the machine's]
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Network")]
    pub(in crate::cli) hostname: Option<String>,

    #[command(flatten)]
    pub(in crate::cli) names: NameArgs,

    #[command(flatten)]
    pub(in crate::cli) security: SecurityArgs,

    /// Print what would be done
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(in crate::cli) help: Option<bool>,

    /// The image, unless a view is named, then the command and its arguments [default: as the image says, with --host:
    /// $SHELL]
    #[arg(
        value_name = "IMAGE|COMMAND",
        trailing_var_arg = true,
        required_unless_present_any = ["host", "entrypoint"]
    )]
    pub(in crate::cli) command: Vec<OsString>,
}

/// The host name where there is neither a container nor a wish.
pub(super) const NAMELESS: &str = "onlay";

/// The value of `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum NetworkArg {
    /// The machine's
    Host,
    /// Nothing but loopback
    None,
    /// Its own, connected without root by pasta (package passt)
    Pasta,
    /// Its own, connected without root by slirp4netns
    Slirp4netns,
}

/// What an image says of how it is run (OCI image specification, config). Empty where there is no image.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Defaults {
    /// Comes before the command.
    pub(in crate::cli) entrypoint: Vec<OsString>,
    /// The command if the user names none.
    pub(in crate::cli) command: Vec<OsString>,
    /// Variables, before the user's.
    pub(in crate::cli) env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub(in crate::cli) workdir: Option<PathBuf>,
    /// `USER[:GROUP]`.
    pub(in crate::cli) user: Option<String>,
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

    pub(super) fn get(&self, name: &str) -> Option<&OsString> {
        self.env.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

impl RunArgs {
    /// The arguments as they were given once, the words behind the verb.
    pub(in crate::cli) fn of_words(words: &[String]) -> Result<Self, clap::Error> {
        use clap::FromArgMatches as _;
        let command = Self::augment_args(clap::Command::new("run").no_binary_name(true));
        Self::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    /// The view is an image of the store: the first word of the command names it.
    pub(in crate::cli) fn is_image(&self) -> bool {
        self.rootfs.is_none() && self.lower.is_empty() && !self.host
    }

    /// The runner's spec: no input but the arguments, and the files they name. `image` is what the image says, `base` a
    /// directory for the mountpoint, `hide` what is not to be seen inside.
    ///
    /// # Errors
    /// A value that makes no sense, a file that is not there.
    pub(in crate::cli) fn spec(
        &self,
        mapping: Mapping,
        caller: &Caller,
        image: &Defaults,
        base: &Path,
        hide: &[PathBuf],
    ) -> Result<Spec, ArgError> {
        let hostname = match (&self.hostname, self.host) {
            (Some(name), _) if is_host_name(name) => Some(name.clone()),
            (Some(name), _) => {
                return Err(ArgError::value("hostname", name, "a host name has 1 to 64 letters, digits, '-' and '.'"));
            }
            (None, true) => None,
            (None, false) => Some(NAMELESS.to_owned()),
        };
        let network = match (self.network, self.host) {
            (Some(NetworkArg::Host), _) | (None, true) => Network::Host,
            (Some(NetworkArg::Pasta), _) => Network::Pasta,
            (Some(NetworkArg::Slirp4netns), _) => Network::Slirp4netns,
            // A port leads nowhere without.
            (None, false) if !self.publish.is_empty() => Network::Pasta,
            (Some(NetworkArg::None), _) | (None, false) => Network::None,
        };
        let ports = self.publish.iter().map(|text| port(text)).collect::<Result<Vec<_>, _>>()?;
        if !ports.is_empty() && matches!(network, Network::Host | Network::None) {
            let text = self.publish.join(" ");
            return Err(ArgError::value("publish", text, "this network publishes no ports").hint("--network pasta"));
        }
        // The image's is made if it is not there; one that is given here may be a slip of the pen.
        let (workdir, make_workdir) = match (self.process.workdir()?, self.host) {
            (Some(dir), _) => (Some(dir), false),
            (None, true) => (caller.cwd.clone(), false),
            (None, false) => (image.workdir.clone(), true),
        };
        let user = self.process.user.clone().or_else(|| image.user.clone().filter(|u| !u.is_empty()));
        let process = Process {
            env: self.environment(caller, image, hostname.as_deref(), user.is_some())?,
            workdir,
            user,
            capabilities: self.security.capabilities()?,
            no_new_privs: self.security.no_new_privs()?,
            seccomp: self.security.seccomp()?,
            limits: self.process.limits()?,
            terminal: self.process.tty,
            detach_keys: self.process.detach_keys()?,
            // The machine's own root is used like a shell's child; the rest as docker's containers.
            stdin: self.process.interactive || self.host,
            ..Process::new(self.command(caller, image))
        };
        Ok(Spec {
            hostname,
            network,
            ports,
            names: self.names.names(network)?,
            resources: self.resources.resources()?,
            host: self.host,
            hide: hide.to_owned(),
            volumes: self.volumes.volumes(caller.cwd.as_deref())?,
            make_workdir,
            read_only: self.volumes.read_only,
            mask: self.security.masked()?,
            unmask: self.security.unmasked()?,
            ..Spec::new(process, mapping, base.to_owned())
        })
    }

    fn command(&self, caller: &Caller, image: &Defaults) -> Vec<OsString> {
        let mut words = Vec::new();
        match &self.entrypoint {
            Some(program) => words.extend((!program.is_empty()).then(|| program.clone())),
            None => words.extend(image.entrypoint.iter().cloned()),
        }
        if !self.command.is_empty() {
            words.extend(self.command.iter().cloned());
        } else if self.entrypoint.is_none() {
            words.extend(image.command.iter().cloned());
        }
        if words.is_empty() && self.host {
            let shell = caller.get("SHELL").filter(|s| !s.is_empty());
            words.push(shell.cloned().unwrap_or_else(|| OsString::from("sh")));
        }
        words
    }

    fn environment(
        &self,
        caller: &Caller,
        image: &Defaults,
        hostname: Option<&str>,
        other_user: bool,
    ) -> Result<Vec<(OsString, OsString)>, ArgError> {
        let mut env: Vec<(OsString, OsString)> = Vec::new();
        if self.host {
            env.clone_from(&caller.env);
        } else {
            env.push(("PATH".into(), PATH.into()));
            if !other_user {
                env.push(("HOME".into(), "/root".into()));
            }
            if self.process.tty {
                env.push(("TERM".into(), "xterm".into()));
            }
            env.extend(caller.get("TERM").map(|term| ("TERM".into(), term.clone())));
        }
        env.extend(hostname.map(|name| ("HOSTNAME".into(), name.into())));
        env.push(("container".into(), "onlay".into()));
        env.extend(image.env.iter().cloned());
        env.extend(self.process.variables(caller)?);
        Ok(last_wins(env))
    }
}

/// Of each name the last value, where that stood.
pub(super) fn last_wins(mut env: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let mut seen = std::collections::HashSet::new();
    env.reverse();
    env.retain(|(name, _)| seen.insert(name.clone()));
    env.reverse();
    env
}

fn is_host_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests;
