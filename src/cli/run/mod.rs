//! `onlay run`: where the union, its service and the runner meet.

mod args;
mod container;
mod detach;
mod image;
pub(super) mod journal;
mod names;
mod process;
mod resources;
mod security;
mod values;
mod view;
mod volumes;

use std::path::Path;
use std::process::ExitCode;

use args::{Caller, Defaults};
pub(super) use args::{RunArgs, RunArgs as Args};
pub(super) use image::{create, extra_process, own_process, recorded, start_again};
pub(super) use process::{DETACH_KEYS, ProcessArgs, keys};
use view::View;

use super::error::Error;
use super::layers::{Given, open_one};
use super::output::print;
use super::store::StoreArgs;
use crate::overlay::{Config, marked_prefix};
use crate::runner::{self, Attended, Cgroup, Mapping};
use crate::vocab::dialect::Prefix;
use crate::vocab::ids::IdMaps;
use crate::vocab::why;

/// Exit code of a failure of ours, as docker's.
pub(super) const FAILED: u8 = 125;

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    if !args.detach && !args.dry_run {
        args.process.refuse_no_terminal()?;
    }
    let done = if args.is_image() { image::run(args, store) } else { try_run(args) };
    done.map_err(|e| e.or_code(FAILED))
}

fn try_run(args: &Args) -> Result<ExitCode, Error> {
    let mapping = Mapping::of_caller()?;
    let given = Given {
        lowers: if args.host {
            vec!["/".into()]
        } else {
            args.rootfs.iter().chain(&args.lower).map(|p| absolute(p)).collect::<Result<_, _>>()?
        },
        upper: args.upper.as_deref().map(absolute).transpose()?,
        work: args.work.as_deref().map(absolute).transpose()?,
    };
    given.check(args.host)?;
    refuse_trusted(&given)?;
    let config = Config {
        stored_owners: mapping.is_single(),
        ids: if mapping.is_single() { IdMaps::all_root() } else { IdMaps::default() },
        foreign_as_root: !rustix::process::geteuid().is_root(),
        close_pseudo: args.host,
        aufs: !args.host,
        // What is thrown away anyway need not survive a crash.
        volatile: args.upper.is_none(),
        thrown_away: args.upper.is_none(),
        ..Config::default()
    };
    let base = tempfile::Builder::new()
        .prefix("onlay-")
        .tempdir_in(scratch())
        .map_err(|e| Error::new(format!("directory for the run in {}: {}", scratch().display(), why(&e))))?;
    let spec = args.spec(mapping, &Caller::here(), &Defaults::default(), base.path(), &[])?;
    if args.dry_run {
        print(format!("{}\n", runner::plan(&spec)).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut view = View::new(given, args.host, config, base.path());
    let attended = Attended { cgroup: Cgroup::limited(&spec.resources, base.path()), ..Attended::default() };
    let ended = runner::run_attended(&spec, &mut view, attended);
    // The supervisor has removed it, unless it was killed or could not.
    let path = base.keep();
    if let Err(e) = std::fs::remove_dir_all(&path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("{} is left over: {}", path.display(), why(&e));
    }
    Ok(ExitCode::from(u8::try_from(ended?).unwrap_or(FAILED)))
}

/// The view is served from a user namespace, where the kernel shows no `trusted.` attributes: a layer that is marked with
/// them would look wrong.
fn refuse_trusted(given: &Given) -> Result<(), Error> {
    for (what, path) in given.lowers.iter().map(|p| ("lower layer", p)).chain(given.upper.iter().map(|p| ("upper", p)))
    {
        // A layer that can't be opened here may be, or is told about, in the namespace.
        let Ok(root) = open_one(what, path) else { continue };
        if marked_prefix(&root).is_ok_and(|found| found == Some(Prefix::Trusted)) {
            return Err(Error::new(format!(
                "{what} {} has trusted.overlay.* marks, which run can't read",
                path.display()
            ))
            .hint("mount it and run in the view: onlay mount .. MNT, onlay run --rootfs MNT .."));
        }
    }
    Ok(())
}

/// Where throw-away uppers are made: on disk, unless the user says otherwise.
fn scratch() -> std::path::PathBuf {
    std::env::var_os("TMPDIR").filter(|d| !d.is_empty()).map_or_else(|| "/var/tmp".into(), Into::into)
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, Error> {
    std::path::absolute(path).map_err(|e| Error::new(format!("{}: {}", path.display(), why(&e))))
}
