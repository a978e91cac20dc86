//! Who takes a mount away when the daemon can't: in its user namespace it may neither unmount what was mounted outside, nor
//! has fusermount3 any power. A process that stays outside does it.

use std::io::{PipeWriter, Read};
use std::os::fd::AsRawFd;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use crate::cli::error::Error;
use crate::fuse::{Mount, Stopper};
use crate::runner::{Mapping, enter_user_namespace};
use crate::sys::process::{Fork, close_all_but, end_with, fork};

/// Ends a mount.
#[derive(Debug)]
pub(super) enum Stop {
    /// By ourselves.
    Directly(Stopper),
    /// By letting go of the watcher, which also happens when this process dies.
    ByWatcher(Mutex<Option<PipeWriter>>),
}

impl Stop {
    pub(super) fn stop(&self) {
        match self {
            Self::Directly(stopper) => stopper.stop(),
            Self::ByWatcher(writer) => drop(writer.lock().take()),
        }
    }
}

/// Leaves a watcher outside and goes on in a user namespace. One thread only.
pub(super) fn go_inside(mount: &Mount, mapping: &Mapping) -> Result<Stop, Error> {
    let (mut reader, writer) = std::io::pipe().map_err(|e| Error::new(format!("pipe: {e}")))?;
    let stopper = mount.stopper();
    match fork().map_err(|e| Error::new(format!("fork: {e}")))? {
        Fork::Child => end_with(move || {
            drop(writer);
            // Nothing of the daemon's may be kept open here: neither the mount's device nor the caller's terminal.
            let quiet = rustix::process::setsid().is_ok()
                && close_all_but(&[reader.as_raw_fd()]).is_ok()
                && rustix::process::chdir("/").is_ok()
                && silence().is_ok();
            let mut rest = Vec::new();
            let ended = reader.read_to_end(&mut rest);
            stopper.stop();
            i32::from(!quiet || ended.is_err())
        }),
        Fork::Parent(_) => drop(reader),
    }
    enter_user_namespace(mapping)?;
    Ok(Stop::ByWatcher(Mutex::new(Some(writer))))
}

fn silence() -> rustix::io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}
