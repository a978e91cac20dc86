//! Signal dispositions: sigaction(2).

use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::io::Errno;

/// sigaction(2) with `SIG_DFL`. <https://man7.org/linux/man-pages/man2/sigaction.2.html>
///
/// # Errors
/// `EINVAL` for a signal whose disposition cannot be set.
pub fn set_default(which: Signal) -> Result<(), Errno> {
    // SAFETY: the default disposition runs no code of ours.
    match unsafe { signal(which, SigHandler::SigDfl) } {
        Ok(_) => Ok(()),
        Err(e) => Err(Errno::from_raw_os_error(e as i32)),
    }
}
