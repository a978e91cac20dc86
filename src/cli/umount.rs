//! `onlay umount`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::error::Error;
use crate::fuse::{self, FS_TYPE, PID_ATTR, SYNC_ATTR};
use crate::vocab::why;

/// Unmount a merged view, once everything is written
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onlay umount /mnt
  onlay umount --lazy /mnt     take it away although somebody still uses it

Returns when the daemon has written everything and is gone.")]
pub(super) struct Args {
    /// Detach it now; its last users are served until they let go
    #[arg(short, long)]
    lazy: bool,
    /// Where it is mounted
    mountpoint: PathBuf,
}

/// How long a daemon may take to end. What it had is written before.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let path = resolve(&args.mountpoint)?;
    let mounted = fuse::type_on(&path).map_err(|e| Error::new(format!("/proc/self/mountinfo: {}", why(&e))))?;
    match mounted {
        Some(kind) if kind == FS_TYPE => {}
        Some(kind) => {
            return Err(Error::new(format!("{} is not an onlay mount but {kind}", path.display()))
                .hint(format!("unmount it with: umount {}", path.display())));
        }
        None => {
            return Err(Error::new(format!("{} is not a mountpoint", path.display()))
                .hint("list the mounts with: findmnt -t fuse.onlay"));
        }
    }
    let daemon = daemon_of(&path);
    sync(&path)?;
    fuse::mount::unmount(&path, args.lazy)?;
    if let Some(daemon) = daemon.filter(|_| !args.lazy) {
        wait_for(&daemon)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The mountpoint's name as the kernel knows it. Only its directory is looked up: its daemon may be dead.
fn resolve(given: &Path) -> Result<PathBuf, Error> {
    let fail = |e: std::io::Error| Error::new(format!("mountpoint {}: {}", given.display(), why(&e)));
    match given.canonicalize() {
        Ok(real) => Ok(real),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => match (given.parent(), given.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                Ok(parent.canonicalize().map_err(fail)?.join(name))
            }
            _ => Err(fail(e)),
        },
        Err(e) => Err(fail(e).hint("list the mounts with: findmnt -t fuse.onlay")),
    }
}

/// The process that serves the mount, where it answers and we can see it.
fn daemon_of(path: &Path) -> Option<OwnedFd> {
    let mut value = [0; 16];
    let n = rustix::fs::getxattr(path, PID_ATTR, &mut value).ok()?;
    let pid = std::str::from_utf8(&value[..n]).ok()?.parse().ok()?;
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Pushes out what the kernel still has to write, and then what the daemon has. A mount of a dead daemon has nothing.
fn sync(path: &Path) -> Result<(), Error> {
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let synced = opened.and_then(rustix::fs::syncfs).and_then(|()| rustix::fs::getxattr(path, SYNC_ATTR, &mut [0; 16]));
    match synced {
        Ok(_) | Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::ACCESS) => Ok(()),
        // A view that can't be written to, of which the kernel knows that nothing has attributes.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(Error::new(format!("sync {}: {}", path.display(), why(&e))).hint(
            "it is still mounted: make room and try again; but what was written through a mapping (mmap) may be lost",
        )),
    }
}

fn wait_for(daemon: &OwnedFd) -> Result<(), Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(daemon, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                log::warn!("unmounted here and written; its daemon still serves another mount namespace");
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new(format!("wait for the daemon: {e}"))),
        }
    }
}
