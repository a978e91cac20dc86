//! Measures onlay side by side with other union filesystems.

mod args;
mod base;
mod build;
mod competitor;
mod debian;
mod elsewhere;
mod enter;
mod fixture;
mod machine;
mod map;
mod mounted;
mod proc;
mod random;
mod report;
mod requests;
mod run;
mod start;
mod stats;
mod tools;
mod unpack;
mod walk;
mod watch;
mod workload;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;

use args::Args;
use competitor::{Competitor, Kind, Missing};
use elsewhere::{Disk, Elsewhere};
use fixture::Fixtures;
use report::{Cell, Report};
use requests::Counter;
use run::Plan;
use tools::Tools;
use watch::Watch;
use workload::Workload;

/// As shells have it for a program ended by SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    match bench(&args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<ExitCode> {
    let rounds = args.rounds()?;
    let scale = args.scale();
    let mut workloads: Vec<Workload> = workload::all(&scale);
    workloads.retain(|w| args.workload.is_empty() || args.workload.iter().any(|part| w.name.contains(part)));
    ensure!(!workloads.is_empty(), "no workload has such a name; --list names them");
    if args.list {
        return say(&workloads.iter().map(|w| format!("{}\n", w.name)).collect::<String>());
    }
    let user = enter::enter(args)?;
    // Before anything is made: from here on, Ctrl-C cleans up.
    let watch = Watch::start()?;
    let (competitors, mut missing) = competitor::find(&args.against)?;
    for m in &missing {
        eprintln!("not there: {} ({})", m.name, m.hint);
    }
    ensure!(!competitors.is_empty(), "nobody to measure");
    if args.start {
        return starts(args, rounds, &competitors, &user, &watch);
    }
    if args.build {
        return build(args, &competitors, &watch);
    }
    if args.unpack {
        let site = tempfile::Builder::new().prefix("onlay-bench-").tempdir_in(&args.dir)?;
        let (competitors, base) = (&*competitors, args.base.as_deref());
        let unpack = unpack::Unpack { competitors, rounds, base, site: site.path(), rootless: args.rootless };
        let table = unpack.run(&watch);
        run::remove(site.path());
        return say(&table?);
    }
    let tools = Tools::find();
    missing.extend(without_tools(&mut workloads, &tools));
    ensure!(!workloads.is_empty(), "nothing left to measure");

    let dir = args.dir.canonicalize().with_context(|| args.dir.display().to_string())?;
    ensure!(!dir.as_os_str().to_string_lossy().contains([':', ',', '\\']), "--dir: no colon, comma or backslash");
    let site = tempfile::Builder::new().prefix("onlay-bench-").tempdir_in(&dir)?;
    let mut machine = machine::describe(site.path(), &user);
    let cold = !args.quick && !args.warm && run::can_drop();
    let counter = Counter::new(site.path());
    let plan = Plan {
        competitors: &competitors,
        workloads: &workloads,
        rounds,
        scale,
        tools: &tools,
        cold,
        dir: site.path(),
        counter: counter.as_ref().ok(),
    };
    let mut fixtures = Fixtures::new(site.path(), scale, &args.layers, &tools, &watch);
    let here: Vec<Workload> = plan.workloads.iter().filter(|w| w.on.is_none()).cloned().collect();
    let mut rows = run::run(&Plan { workloads: &here, ..plan }, &mut fixtures, &watch);
    drop(fixtures);
    for disk in Disk::ALL {
        let there: Vec<Workload> = plan.workloads.iter().filter(|w| w.on == Some(disk)).cloned().collect();
        if there.is_empty() || watch.interrupted() {
            continue;
        }
        match Elsewhere::new(disk, site.path(), scale.big, &tools) {
            Ok(elsewhere) => {
                let mut fixtures = Fixtures::new(elsewhere.path(), scale, &args.layers, &tools, &watch);
                let plan = Plan { workloads: &there, dir: elsewhere.path(), ..plan };
                rows.extend(run::run(&plan, &mut fixtures, &watch));
            }
            Err(e) => there.iter().for_each(|w| skipped(w, &format!("{e:#}"), &mut missing)),
        }
    }
    let uncounted = counter.err().map(|e| format!("{e:#}"));
    run::remove(site.path());
    machine::finish(&mut machine);

    let baseline = Report::baseline_of(&competitors);
    let notes = notes(cold, rounds, uncounted);
    let report = Report { machine, baseline, competitors, missing, rows, notes };
    if watch.interrupted() {
        eprintln!("interrupted; complete rows follow");
    }
    say(&report::markdown::render(&report)?)?;
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.svg {
        write(path, &report::svg::render(&report)?)?;
    }
    let failed = report.rows.iter().flat_map(|r| &r.cells).any(|c| matches!(c, Cell::Failed { .. }));
    Ok(match (watch.interrupted(), failed) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::from(2),
        (false, false) => ExitCode::SUCCESS,
    })
}

/// Says that a workload can't be run.
fn skipped(workload: &Workload, why: &str, missing: &mut Vec<Missing>) {
    eprintln!("skipped: {}: {why}", workload.name);
    missing.push(Missing { name: workload.name.clone(), hint: why.to_owned() });
}

/// `--build`.
fn build(args: &Args, competitors: &[competitor::Competitor], watch: &Watch) -> Result<ExitCode> {
    let site = tempfile::Builder::new().prefix("onlay-bench-").tempdir_in(&args.dir)?;
    let counter = Counter::new(site.path());
    if let Err(e) = &counter {
        eprintln!("FUSE requests are not counted: {e:#}");
    }
    let files = args.synthetic.unwrap_or(if args.quick { 2_000 } else { 50_000 });
    let (rounds, base) = (args.rounds.unwrap_or(if args.quick { 1 } else { 2 }), args.base.as_deref());
    let build = build::Build { competitors, rounds, files, base, site: site.path(), counter: counter.as_ref().ok() };
    let rows = build.run(watch);
    // It has a mount in there.
    drop(counter);
    build::clean(site.path());
    run::remove(site.path());
    if watch.interrupted() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let rows = rows?;
    say(&build::tables(&rows, files))?;
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(if build::all_done(&rows) { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// What starts cost.
fn starts(args: &Args, rounds: usize, all: &[Competitor], user: &str, watch: &Watch) -> Result<ExitCode> {
    let onlay = all.iter().find(|c| c.kind == Kind::Onlay).context("onlay is not there: `cargo build --release`")?;
    let site = tempfile::Builder::new().prefix("onlay-bench-").tempdir_in(&args.dir)?;
    let mut machine = machine::describe(site.path(), user);
    let many = args.many.unwrap_or(if args.quick { 10 } else { 100 });
    let base = args.base.as_deref();
    let start = start::Start { onlay: &onlay.program, rounds, many, base, site: site.path() };
    let tables = start.run(watch);
    start::clean_up(site.path());
    machine::finish(&mut machine);
    say(&format!("{}\n\n{}", report::markdown::machine(&machine), tables?))
}

/// Takes out what can't be run here, and says so.
fn without_tools(workloads: &mut Vec<Workload>, tools: &Tools) -> Vec<Missing> {
    let mut missing: Vec<Missing> = Vec::new();
    workloads.retain(|w| match w.needs.and_then(|tool| tools.lacks(tool)) {
        Some(m) => {
            eprintln!("skipped: {}: {} is not there ({})", w.name, m.name, m.hint);
            if !missing.contains(&m) {
                missing.push(m);
            }
            false
        }
        None => true,
    });
    missing
}

fn notes(cold: bool, rounds: usize, uncounted: Option<String>) -> Vec<String> {
    let caches = match cold {
        true => "The machine's caches were dropped before each round of a fresh row.",
        false => "No caches were dropped: in fresh rows the mount is new, the layers' own data may be cached.",
    };
    let requests = match uncounted {
        None => "FUSE requests were counted in one more round that is not in the times.".to_owned(),
        Some(why) => format!("FUSE requests are not counted: the kernel does so for root by tracing only ({why})."),
    };
    vec![format!("{rounds} rounds, interleaved, each on a fresh mount. {caches}"), requests]
}

/// To stdout; whoever stopped reading has had enough.
fn say(words: &str) -> Result<ExitCode> {
    match std::io::stdout().write_all(words.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
        done => done.context("stdout")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, words: &str) -> Result<()> {
    std::fs::write(path, words).with_context(|| path.display().to_string())
}
