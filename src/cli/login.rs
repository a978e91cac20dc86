//! `onlay login` and `onlay logout`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::error::Error;
use super::output::print;
use super::registry::{RegistryArgs, credentials};
use crate::registry::{Secret, log_in, log_out};
use crate::vocab::why;

/// Log in to a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The login is tried, then written to the file of containers-auth.json(5), which podman, skopeo and
buildah read, too: $REGISTRY_AUTH_FILE, or containers/auth.json in $XDG_RUNTIME_DIR, or in ~/.config
where there is none.

Examples:
  onlay login registry.example
  pass show registry | onlay login --username me --password-stdin registry.example")]
pub(super) struct Args {
    /// The name to log in with [default: asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY")]
    host: String,
}

/// Forget a login
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onlay logout registry.example
  onlay logout --all")]
pub(super) struct LogoutArgs {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", required_unless_present = "all", conflicts_with = "all")]
    host: Option<String>,
    /// All logins there are
    #[arg(short, long)]
    all: bool,
    /// The file with logins [default: where podman keeps them]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

/// More than that is no password.
const LONGEST: u64 = 64 << 10;

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let (user, password) = match (&args.username, args.password_stdin) {
        (Some(user), true) => (user.clone(), from_stdin()?),
        (None, true) => {
            return Err(Error::new("whose password is it?").hint("--password-stdin goes with --username NAME"));
        }
        (user, false) => {
            let mut terminal = Terminal::open()?;
            let user = match user {
                Some(user) => user.clone(),
                None => terminal.ask("Username: ")?,
            };
            let password = terminal.ask_hidden("Password: ")?;
            (user, password)
        }
    };
    if user.is_empty() || user.contains(':') {
        return Err(Error::new(format!("user name {user:?} is none")).hint("it is not empty and has no colon"));
    }
    if password.is_empty() {
        return Err(Error::new("the password is empty").hint("nothing was changed"));
    }
    let file = log_in(&args.host, &Secret::Password { user, password }, &args.registry.options())?;
    print(format!("Logged in to {} ({})\n", args.host, file.display()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run_logout(args: &LogoutArgs) -> Result<ExitCode, Error> {
    let forgotten = log_out(args.host.as_deref(), &credentials(args.authfile.as_ref()))?;
    match &args.host {
        Some(host) if forgotten == 0 => Err(Error::new(format!("there is no login to {host}"))),
        Some(host) => print(format!("Logged out of {host}\n").as_bytes()).map(|()| ExitCode::SUCCESS),
        None => print(format!("Logged out ({forgotten} logins)\n").as_bytes()).map(|()| ExitCode::SUCCESS),
    }
}

/// All of standard input but the line's end.
fn from_stdin() -> Result<String, Error> {
    let mut password = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_string(&mut password)
        .map_err(|e| Error::new(format!("password on standard input: {}", why(&e))))?;
    let end = password.trim_end_matches(['\r', '\n']).len();
    password.truncate(end);
    Ok(password)
}

/// The controlling terminal, wherever standard input comes from.
struct Terminal {
    reader: BufReader<File>,
    /// How it was before its echo was taken away.
    before: Option<Termios>,
}

impl Terminal {
    fn open() -> Result<Self, Error> {
        let file = File::options().read(true).write(true).open("/dev/tty").map_err(|e| {
            Error::new(format!("no terminal to ask for the password: {}", why(&e)))
                .hint("give it with --username NAME --password-stdin")
        })?;
        Ok(Self { reader: BufReader::new(file), before: None })
    }

    fn ask(&mut self, question: &str) -> Result<String, Error> {
        let failed = |e: std::io::Error| Error::new(format!("terminal: {}", why(&e)));
        self.reader.get_mut().write_all(question.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer).map_err(failed)?;
        Ok(answer.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn ask_hidden(&mut self, question: &str) -> Result<String, Error> {
        let failed = |e: rustix::io::Errno| Error::new(format!("terminal: {}", why(&e)));
        let before = tcgetattr(self.reader.get_ref()).map_err(failed)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(self.reader.get_ref(), OptionalActions::Flush, &hidden).map_err(failed)?;
        self.before = Some(before);
        self.ask(question)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(e) = tcsetattr(self.reader.get_ref(), OptionalActions::Now, before)
        {
            log::warn!("the terminal does not show what is typed: {}; try: stty sane", why(&e));
        }
    }
}
