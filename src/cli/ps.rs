//! `onlay ps`.

use std::process::ExitCode;

use serde::Serialize;

use super::error::Error;
use super::output::print;
use super::store::{ListArgs, StoreArgs, ago, print_rows};
use crate::store::{Container, State, Status};

/// List containers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onlay ps -a
  onlay ps -aq | xargs onlay rm")]
pub(super) struct Args {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    image: String,
    command: Vec<String>,
    created: String,
    status: Status,
    #[serde(flatten)]
    state: State,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let mut rows = Vec::new();
    for container in store.containers()? {
        let status = container.status()?;
        if args.all || status == Status::Running {
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
        state,
    })
}
