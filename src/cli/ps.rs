//! `onlay ps`.

use std::process::ExitCode;

use oci_spec::image::Digest;
use serde::Serialize;

use super::error::Error;
use super::output::print;
use super::store::{ListArgs, StoreArgs, ago, print_rows};
use crate::store::{Container, ErrorKind, State, Status, Store};

/// List containers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onlay ps -a
  onlay ps -aq | xargs onlay rm
  onlay ps --filter label=team=web")]
pub(super) struct Args {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Only those with a label, a name (part of it, or ^NAME$), an id, a status (created, running, exited, dead), an exit code,
    /// of an image; of several of one kind, but labels, one is enough
    #[arg(short, long, value_name = "label=NAME[=VALUE]|name=..|id=..|status=..|exited=..|ancestor=..",
        action = clap::ArgAction::Append)]
    filter: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// What a container must be like.
#[derive(Debug)]
enum Filter {
    Label(String, Option<String>),
    /// A part of its name between ^ and $, which no name has.
    Name(String),
    Id(String),
    Status(Shown),
    Exited(i32),
    /// What an image was called, and the one that is called so now.
    Image(String, Option<Digest>),
}

/// What a container is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Created,
    Running,
    Exited,
    Dead,
}

impl Shown {
    fn of(status: Status, state: &State) -> Self {
        match status {
            Status::Created => Self::Created,
            Status::Running => Self::Running,
            Status::Exited if state.exit_code.is_none() => Self::Dead,
            Status::Exited => Self::Exited,
        }
    }
}

impl Filter {
    fn read(text: &str, store: &Store) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::new(format!("--filter {text}: {why}")).hint(
                "label=NAME, label=NAME=VALUE, name=PART, id=DIGITS, status=created, running, exited or dead, exited=CODE, \
                 ancestor=IMAGE",
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(|| bad("not KEY=VALUE"))?;
        Ok(match (key, value) {
            (_, "") => return Err(bad("nothing behind the =")),
            ("label", value) => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            },
            // docker's are said to begin with a slash.
            ("name", value) => Self::Name(match value.strip_prefix("^/") {
                Some(rest) => format!("^{rest}"),
                None => value.strip_prefix('/').unwrap_or(value).to_owned(),
            }),
            ("id", value) => Self::Id(value.to_owned()),
            ("status", "created") => Self::Status(Shown::Created),
            ("status", "running") => Self::Status(Shown::Running),
            ("status", "exited") => Self::Status(Shown::Exited),
            ("status", "dead") => Self::Status(Shown::Dead),
            ("status", _) => return Err(bad("no such status")),
            ("exited", code) => Self::Exited(code.parse().map_err(|_| bad("not an exit code"))?),
            ("ancestor", value) => {
                Self::Image(value.to_owned(), store.image(value).ok().map(|found| found.image.id().clone()))
            }
            _ => return Err(bad("no such key")),
        })
    }

    fn passes(&self, container: &Container, shown: Shown, state: &State) -> bool {
        let record = &container.record;
        match self {
            Self::Label(name, None) => record.process.labels.contains_key(name),
            Self::Label(name, Some(value)) => record.process.labels.get(name) == Some(value),
            Self::Name(part) => format!("^{}$", record.name).contains(part),
            Self::Id(digits) => record.id.starts_with(digits),
            Self::Status(wanted) => shown == *wanted,
            Self::Exited(code) => shown == Shown::Exited && state.exit_code == Some(*code),
            Self::Image(name, id) => {
                let called = &record.image_name;
                id.as_ref() == Some(&record.image) || called == name || called.split(':').next() == Some(name)
            }
        }
    }

    /// Of those that ask for the same, but labels, one is enough.
    fn asks(&self) -> std::mem::Discriminant<Self> {
        std::mem::discriminant(self)
    }
}

/// Whether a container is as all of them want it.
fn passes(filters: &[Filter], container: &Container, shown: Shown, state: &State) -> bool {
    filters.iter().all(|filter| match filter {
        Filter::Label(..) => filter.passes(container, shown, state),
        _ => filters.iter().any(|f| f.asks() == filter.asks() && f.passes(container, shown, state)),
    })
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    image: String,
    command: Vec<String>,
    created: String,
    status: Status,
    labels: std::collections::BTreeMap<String, String>,
    #[serde(flatten)]
    state: State,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let filters = args.filter.iter().map(|text| Filter::read(text, &store)).collect::<Result<Vec<_>, _>>()?;
    // Those of a status are asked for whether they run or not.
    let all = args.all || filters.iter().any(|f| matches!(f, Filter::Status(_) | Filter::Exited(_)));
    let mut rows = Vec::new();
    for container in store.containers()? {
        let status = match container.status() {
            // Removed since it was found.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            status => status?,
        };
        let state = container.state()?;
        let shown = Shown::of(status, &state);
        if (all || status == Status::Running) && passes(&filters, &container, shown, &state) {
            rows.push(row(container, status, state));
        }
    }
    rows.reverse();
    let id = |row: &Row| row.id.get(..if args.list.no_trunc { 64 } else { 12 }).unwrap_or(&row.id).to_owned();
    if args.list.quiet {
        print(rows.iter().map(|row| id(row) + "\n").collect::<String>().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    print_rows(args.list.format, &rows, &["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"], |row| {
        let mut command = row.command.join(" ");
        if let Some((at, _)) = command.char_indices().nth(20).filter(|_| !args.list.no_trunc) {
            command.truncate(at);
            command.push('…');
        }
        let since = |time: &Option<String>| ago(time.as_deref());
        let status = match row.status {
            Status::Created => "Created".to_owned(),
            Status::Running => format!("Up, started {}", since(&row.state.started)),
            Status::Exited => match row.state.exit_code {
                Some(code) => format!("Exited ({code}) {}", since(&row.state.finished)),
                None => "Dead: killed with all that served it".to_owned(),
            },
        };
        vec![id(row), row.image.clone(), format!("{command:?}"), ago(Some(&row.created)), status, row.name.clone()]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(container: Container, status: Status, state: State) -> Row {
    let record = container.record;
    Row {
        id: record.id,
        name: record.name,
        image: record.image_name,
        command: record.process.args,
        created: record.created,
        status,
        labels: record.process.labels,
        state,
    }
}
