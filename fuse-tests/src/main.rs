//! Drives the onlay binary on real mounts, and the same cases on a plain directory and on the kernel's union, which
//! know what is right.

mod case;
mod cases;
mod ctx;
/// A base system, for bench and for cases alike.
#[path = "../../bench/src/debian.rs"]
mod debian;
mod dns;
mod docker_registry;
mod manifest;
mod on_disk;
/// Counts requests, for bench and for cases alike.
#[path = "../../bench/src/requests.rs"]
mod requests;
mod supervise;
mod sys;
mod tools;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use case::{Fs, Skip, User};
use supervise::{Job, SKIPPED, Site};

/// Runs the cases and says how each went; fails if one did.
#[derive(Parser, Debug)]
struct Args {
    /// What to run on; all by default.
    #[arg(long)]
    fs: Vec<Fs>,
    /// As whom; all by default.
    #[arg(long)]
    user: Vec<User>,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
    /// Without cases whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    except: Vec<String>,
    /// Say what would be run.
    #[arg(long)]
    list: bool,
    /// Mount onlay with these options of `-o`, too.
    #[arg(long, value_name = "OPTIONS")]
    options: Option<String>,
    /// How many cases at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Where to make layers and mounts: a directory on a real file system.
    #[arg(long, default_value = "/var/tmp")]
    parent: PathBuf,
    /// A user with a subordinate id range.
    #[arg(long, default_value = "onlay-tester")]
    ordinary: String,
    /// A user without one.
    #[arg(long, default_value = "onlay-norange")]
    norange: String,
    #[command(subcommand)]
    one: Option<One>,
}

#[derive(Subcommand, Debug)]
enum One {
    /// Run one case in this process.
    #[command(hide = true, name = "one")]
    Case {
        name: String,
        #[arg(long)]
        fs: Fs,
        #[arg(long)]
        user: User,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        onlay: PathBuf,
        #[arg(long)]
        options: Option<String>,
    },
    /// Answer questions for names at an address.
    #[command(hide = true)]
    Dns { address: std::net::IpAddr },
    /// Print the manifest of a tree, as seen in a view: path, tab, what it is, NUL.
    #[command(hide = true)]
    Manifest { tree: PathBuf },
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    match args.one {
        Some(One::Case { name, fs, user, dir, onlay, options }) => {
            return one(&name, ctx::Ctx::new(fs, user, &dir, onlay)?.with_options(options));
        }
        Some(One::Dns { address }) => {
            dns::serve(address)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(One::Manifest { tree }) => {
            use std::io::Write as _;
            let mut out = std::io::stdout().lock();
            for (path, line) in manifest::Manifest::of(&tree, manifest::What::VIEW)?.iter() {
                write!(out, "{}\t{line}\0", path.display())?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let all = |given: &[Fs]| if given.is_empty() { vec![Fs::Plain, Fs::Overlayfs, Fs::Onlay] } else { given.to_vec() };
    let users = if args.user.is_empty() {
        vec![User::Root, User::Ordinary, User::Userns, User::Norange]
    } else {
        args.user.clone()
    };
    let mut jobs = Vec::new();
    for fs in all(&args.fs) {
        for case in cases::all() {
            let wanted = args.only.is_empty() || args.only.iter().any(|s| case.name.contains(s));
            if !wanted || args.except.iter().any(|s| case.name.contains(s)) {
                continue;
            }
            jobs.extend(users.iter().filter(|u| case.applies(fs, **u)).map(|u| Job { case, fs, user: *u }));
        }
    }
    if args.list {
        for Job { case, fs, user } in jobs {
            println!("{} ({fs}, {user})", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    // The long ones first, so that nothing waits for them in the end.
    jobs.sort_by_key(|j| std::cmp::Reverse(j.case.limit));
    let site = Site::new(&args.parent, &args.ordinary, &args.norange)?;
    let tally = site.with_options(args.options).run(jobs, args.jobs)?;
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    // Nothing run at all is no success.
    Ok(if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(name: &str, mut cx: ctx::Ctx) -> Result<ExitCode> {
    let case = cases::all().find(|c| c.name == name).with_context(|| format!("no case {name}"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let ran = (case.run)(&mut cx);
    let finished = cx.finish();
    if let Some(Skip(why)) = ran.as_ref().err().and_then(|e| e.downcast_ref()) {
        println!("{why}");
        return Ok(ExitCode::from(SKIPPED));
    }
    for (what, result) in [("", ran), ("afterwards: ", finished)] {
        if let Err(e) = result {
            println!("{what}{e:#}");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
