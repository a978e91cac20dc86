//! `onlay top`, `onlay stats`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::containers::running;
use super::error::Error;
use super::store::{Format, StoreArgs, print_rows, size};
use crate::runner;
use crate::store::{Container, Status};

/// List the processes of a container, with their ids outside
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  onlay top web")]
pub(super) struct TopArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The container: its name, or its id or the first digits
    container: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Process {
    pid: i32,
    ppid: i32,
    user: u32,
    state: String,
    /// Bytes resident.
    memory: u64,
    /// Clock ticks in user and system mode.
    #[serde(skip)]
    ticks: u64,
    command: String,
}

pub(super) fn run_top(args: &TopArgs, store: &StoreArgs) -> Result<ExitCode, Error> {
    let container = running(&store.open()?, &args.container)?;
    let processes = inside(&container)?;
    print_rows(args.format, &processes, &["PID", "PPID", "UID", "S", "MEMORY", "COMMAND"], |p| {
        vec![
            p.pid.to_string(),
            p.ppid.to_string(),
            p.user.to_string(),
            p.state.clone(),
            size(p.memory),
            p.command.clone(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Print what containers use: processes, memory, processor
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What --memory and --pids-limit grant stands behind a slash. The service of the files is counted in SERVICE, what runs inside in the rest.

Example:
  onlay stats")]
pub(super) struct StatsArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Once, which it always is
    #[arg(long)]
    no_stream: bool,
    /// The containers [default: all that run]
    containers: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Usage {
    id: String,
    name: String,
    /// Of one processor, in percent.
    cpu: f64,
    memory: u64,
    memory_limit: Option<u64>,
    service: u64,
    processes: usize,
    processes_limit: Option<u64>,
}

/// How long the processor is watched.
const WATCH: Duration = Duration::from_millis(300);

pub(super) fn run_stats(args: &StatsArgs, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let mut containers = Vec::new();
    if args.containers.is_empty() {
        for container in store.containers()? {
            if container.status()? == Status::Running {
                containers.push(container);
            }
        }
    }
    for name in &args.containers {
        containers.push(running(&store, name)?);
    }
    let ticks = |c: &Container| Ok::<_, Error>(inside(c)?.iter().map(|p| p.ticks).sum::<u64>());
    let before = containers.iter().map(ticks).collect::<Result<Vec<_>, _>>()?;
    let from = Instant::now();
    std::thread::sleep(WATCH);
    let mut rows = Vec::new();
    for (container, before) in containers.iter().zip(before) {
        let processes = inside(container)?;
        let spent = processes.iter().map(|p| p.ticks).sum::<u64>().saturating_sub(before);
        let seconds = spent as f64 / rustix::param::clock_ticks_per_second() as f64;
        let init = ours(container)?.get(2).copied();
        let (memory_limit, processes_limit) = init.map_or((None, None), runner::limits_of);
        rows.push(Usage {
            id: container.short_id().to_owned(),
            name: container.record.name.clone(),
            cpu: (1000.0 * seconds / from.elapsed().as_secs_f64()).round() / 10.0,
            memory: processes.iter().map(|p| p.memory).sum(),
            memory_limit,
            service: ours(container)?.iter().filter_map(|pid| read(*pid)).map(|p| p.memory).sum(),
            processes: processes.len(),
            processes_limit,
        });
    }
    print_rows(args.format, &rows, &["CONTAINER ID", "NAME", "CPU %", "MEMORY", "SERVICE", "PROCESSES"], |u| {
        let of = |limit: Option<String>| limit.map_or(String::new(), |limit| format!(" / {limit}"));
        vec![
            u.id.clone(),
            u.name.clone(),
            format!("{:.1}", u.cpu),
            size(u.memory) + &of(u.memory_limit.map(size)),
            size(u.service),
            u.processes.to_string() + &of(u.processes_limit.map(|n| n.to_string())),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Monitor, supervisor and init: those of our processes that are there, in this order.
fn ours(container: &Container) -> Result<Vec<i32>, Error> {
    let state = container.state()?;
    let mut pids: Vec<i32> = state.pid.into_iter().chain(state.supervisor).collect();
    while let Some(last) = pids.last().filter(|_| pids.len() < 3) {
        match children(*last).first() {
            Some(child) => pids.push(*child),
            None => break,
        }
    }
    Ok(pids)
}

/// What runs in a container, beside its init.
fn inside(container: &Container) -> Result<Vec<Process>, Error> {
    let mut found = Vec::new();
    let mut next: Vec<i32> = ours(container)?.into_iter().skip(2).collect();
    while let Some(pid) = next.pop() {
        for child in children(pid) {
            next.push(child);
            // Ended meanwhile.
            found.extend(read(child));
        }
    }
    found.sort_by_key(|p| p.pid);
    Ok(found)
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|w| w.parse().ok()).collect::<Vec<_>>()).collect()
}

/// proc(5): stat, status and cmdline of a process.
fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next());
    let (head, tail) = stat.rsplit_once(')')?;
    let words: Vec<&str> = tail.split_whitespace().collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut command = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
    if command.is_empty() {
        command = format!("[{}]", head.split_once('(')?.1);
    }
    Some(Process {
        pid,
        ppid: words.get(1)?.parse().ok()?,
        user: field("Uid:")?.parse().ok()?,
        state: (*words.first()?).to_owned(),
        memory: field("VmRSS:").and_then(|w| w.parse::<u64>().ok()).unwrap_or(0) * 1024,
        ticks: number(11)? + number(12)?,
        command,
    })
}
