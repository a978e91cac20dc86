//! `onlay mount`.

mod beside;
mod image;
mod watcher;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};

use super::daemon::{Ready, in_background};
use super::error::{Error, note};
use super::layers::{Given, Opened, prefix_without_upper};
use super::limits::raise_open_files;
use super::options::Settings;
use super::store::StoreArgs;
use crate::fuse::{Mount, Mountpoint, Session, Tuning, show_beside};
use crate::overlay::{Config, Overlay, build_index};
use crate::vocab::dialect::STORED_STAT;

/// Stack directories and mount the merged view
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  Look at an image, or work in it:
    onlay mount debian:12 /mnt
    onlay mount --upper upper --work work debian:12 /mnt
  Look at three layers as one, read only (the first is the top):
    onlay mount --lower top --lower middle --lower bottom /mnt
  Keep changes in `upper`:
    mkdir upper work merged
    onlay mount --lower base --upper upper --work work merged
  As mount(8) would say it; `\\:` and `\\,` stand for a colon and a comma in a name:
    onlay mount -o lowerdir=a:b,upperdir=upper,workdir=work merged

Options of -o:
  lowerdir=A:B  lowerdir+=A  upperdir=DIR  workdir=DIR  ro  image_index=FILE (the layers as one,
  built if it is not there: they must not change any more)  timeout=SECONDS (layers that change
  meanwhile)  userxattr (user.overlay.* marks though you are root)  allow_other  nosuid  nodev
  noexec  fsname=NAME
What saves requests, each on, off or auto; -v says what was chosen and why:
  negative_entries  no_open  dir_cache  killpriv  passthrough  writeback  absent_xattrs  readahead=KIB
  btime (on: statx(2) tells when files were born, at a request for each that somebody asks it of)
  transport=uring, device, fuser or auto: who carries requests (io_uring where the kernel allows it,
  /dev/fuse, the crate fuser)

Log more with ONLAY_LOG=debug and --foreground.")]
pub(super) struct Args {
    /// A read-only layer; the first one is the top
    #[arg(short, long, value_name = "DIR")]
    lower: Vec<PathBuf>,
    /// Where changes go; without it the view is read only
    #[arg(short, long, value_name = "DIR")]
    upper: Option<PathBuf>,
    /// An empty directory on the upper's file system
    #[arg(short, long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Options as of mount(8)
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<OsString>,
    /// Stay in the foreground; ^C unmounts
    #[arg(short, long)]
    foreground: bool,
    /// Say on stderr which mechanisms save requests here, and why not
    #[arg(short, long)]
    verbose: bool,
    /// An image of the store to show, if two words are given, and where the view appears
    #[arg(required = true, num_args = 1..=2, value_names = ["IMAGE", "MOUNTPOINT"])]
    words: Vec<PathBuf>,
}

pub(super) fn run(args: Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let mut settings = Settings::default();
    for words in &args.options {
        settings.take(words)?;
    }
    settings.given.lowers.splice(0..0, args.lower);
    settings.given.upper = args.upper.or(settings.given.upper);
    settings.given.work = args.work.or(settings.given.work);
    settings.verbose = args.verbose;
    match &args.words[..] {
        [image, mountpoint] => image::mount(settings, &image.to_string_lossy(), mountpoint, args.foreground, store),
        words => mount(&settings, words.last().map_or(Path::new(""), PathBuf::as_path), args.foreground),
    }
}

/// Mounts and serves; returns when it can be used, or in the foreground when it is over.
pub(super) fn mount(settings: &Settings, mountpoint: &Path, foreground: bool) -> Result<ExitCode, Error> {
    // Before a fork: it is about who called us.
    let beside = beside::token(settings);
    if let Some(token) = beside.as_ref().filter(|_| settings.given.upper.is_none() && !foreground)
        && show_beside(token, mountpoint)
    {
        return Ok(ExitCode::SUCCESS);
    }
    let tuning = Tuning { beside, ..settings.tuning.clone() };
    if foreground {
        serve(settings, &tuning, mountpoint, None)
    } else {
        in_background(|ready| serve(settings, &tuning, mountpoint, Some(ready)))
    }
}

/// Builds the image index of the lower layers where there is none.
fn build(settings: &Settings, index: &Path) -> Result<(), Error> {
    let lowers = Given { upper: None, work: None, ..settings.given.clone() };
    let Opened { layers, .. } = lowers.open(false, settings.patience)?;
    let prefix = settings.prefix.unwrap_or_else(prefix_without_upper);
    build_index(layers.lowers, prefix, settings.aufs, index).map_err(|e| settings.given.explain(e))
}

fn serve(settings: &Settings, tuning: &Tuning, mountpoint: &Path, ready: Option<Ready>) -> Result<ExitCode, Error> {
    if settings.given.lowers.is_empty() && settings.given.upper.is_none() {
        return Err(Error::new(format!("no layer to show on {}", mountpoint.display()))
            .hint("name the layers with --lower DIR, the top one first, or an image before the directory"));
    }
    settings.given.refuse_inside(mountpoint)?;
    // All that can be refused is, before anything is made.
    let checked = Mountpoint::new(mountpoint)?;
    let Opened { layers, locks, .. } = settings.given.open(false, settings.patience)?;
    let mut options = settings.mount.clone();
    options.read_only |= layers.upper.is_none();
    if let Some(index) = settings.index.as_ref().filter(|index| !index.exists()) {
        build(settings, index)?;
    }
    let prefix = match layers.upper {
        Some(_) => settings.prefix,
        None => settings.prefix.or_else(|| Some(prefix_without_upper())),
    };
    let config = Config {
        prefix,
        default_prefix: prefix_without_upper(),
        plain: settings.plain,
        stored_owners: settings.stored_owners.is_some(),
        stored_attr: settings.stored_owners.unwrap_or(STORED_STAT),
        mapped_lowers: if settings.ids.is_identity() { Vec::new() } else { settings.given.idmapped()? },
        ids: settings.ids.clone(),
        aufs: settings.aufs,
        open_files: raise_open_files(),
        volatile: settings.volatile,
        index: settings.index.clone(),
        live_lowers: tuning.ttl != Tuning::default().ttl,
        ..Config::default()
    };

    // Before any thread starts, so that all of them leave the signals to the one that waits.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]);
    // Others mean something to other daemons (fuse-overlayfs prints statistics), and are no reason to end a view.
    let ignored = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM]);
    let blocked: SigSet = signals.iter().chain(ignored.iter()).collect();
    blocked.thread_block().map_err(|e| Error::new(format!("block signals: {e}")))?;
    // Mounted first: when that is refused, nothing has been made in the work directory.
    let mount = Mount::aside(checked, &options)?;
    let inside = match &settings.inside {
        Some(mapping) => Some(watcher::go_inside(&mount, mapping)?),
        None => None,
    };
    let overlay = match Overlay::new(layers, config) {
        Ok(overlay) => Arc::new(overlay),
        Err(e) => {
            mount.abandon();
            return Err(settings.given.explain(e));
        }
    };
    if let Some(why) = overlay.plain() {
        settings.given.say_plain(why);
    }
    let session = Session::new(mount, overlay.clone(), tuning, locks)?;
    if settings.verbose {
        for chosen in session.mechanisms() {
            note(chosen);
        }
    }
    let stopper = inside.unwrap_or_else(|| watcher::Stop::Directly(session.stopper()));
    let served = session.spawn()?;
    if let Some(ready) = ready
        && let Err(e) = ready.tell()
    {
        stopper.stop();
        return Err(e);
    }
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // The first detaches the mount, and whoever still uses it is served; the second does not wait for them.
            for last in [false, true] {
                if signals.wait().is_ok() && last {
                    std::process::exit(i32::from(overlay.sync_all().is_err()));
                }
                stopper.stop();
            }
        })
        .map_err(|e| Error::new(format!("start a thread: {e}")))?;
    Ok(served.join().map(|()| ExitCode::SUCCESS)?)
}
