//! `onlay ps`.

use std::process::ExitCode;

use serde::Serialize;

use super::error::Error;
use super::output::print;
use super::store::{ListArgs, StoreArgs, ago, print_rows};
use crate::store::{Container, ErrorKind, State, Status};

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
    /// Only those with a label, a name (or part of it), a status (created, running, exited), of an image
    #[arg(short, long, value_name = "label=NAME[=VALUE]|name=..|status=..|ancestor=..", action = clap::ArgAction::Append)]
    filter: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// What a container must be like.
#[derive(Debug)]
enum Filter {
    Label(String, Option<String>),
    Name(String),
    Status(Status),
    Image(String),
}

impl Filter {
    fn read(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::new(format!("--filter {text}: {why}"))
                .hint("label=NAME, label=NAME=VALUE, name=PART, status=running, ancestor=IMAGE")
        };
        let (key, value) = text.split_once('=').ok_or_else(|| bad("not KEY=VALUE"))?;
        Ok(match (key, value) {
            (_, "") => return Err(bad("nothing behind the =")),
            ("label", value) => match value.split_once('=') {
                Some((name, value)) => Self::Label(name.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            },
            ("name", value) => Self::Name(value.to_owned()),
            ("status", "created") => Self::Status(Status::Created),
            ("status", "running") => Self::Status(Status::Running),
            ("status", "exited") => Self::Status(Status::Exited),
            ("status", _) => return Err(bad("no such status")),
            ("ancestor", value) => Self::Image(value.to_owned()),
            _ => return Err(bad("no such key")),
        })
    }

    fn passes(&self, container: &Container, status: Status) -> bool {
        let record = &container.record;
        match self {
            Self::Label(name, None) => record.process.labels.contains_key(name),
            Self::Label(name, Some(value)) => record.process.labels.get(name) == Some(value),
            Self::Name(part) => record.name.contains(part),
            Self::Status(wanted) => status == *wanted,
            Self::Image(name) => record.image_name == *name || record.image_name.split(':').next() == Some(name),
        }
    }
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
    let filters = args.filter.iter().map(|text| Filter::read(text)).collect::<Result<Vec<_>, _>>()?;
    let store = store.open()?;
    // Those of a status are asked for whether they run or not.
    let all = args.all || filters.iter().any(|f| matches!(f, Filter::Status(_)));
    let mut rows = Vec::new();
    for container in store.containers()? {
        let status = match container.status() {
            // Removed since it was found.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            status => status?,
        };
        if (all || status == Status::Running) && filters.iter().all(|f| f.passes(&container, status)) {
            rows.push(row(container, status)?);
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

fn row(container: Container, status: Status) -> Result<Row, Error> {
    let state = container.state()?;
    let record = container.record;
    Ok(Row {
        id: record.id,
        name: record.name,
        image: record.image_name,
        command: record.process.args,
        created: record.created,
        status,
        labels: record.process.labels,
        state,
    })
}
