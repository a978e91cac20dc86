//! Descriptors that came as numbers.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A descriptor that the kernel has just put into this process by a message (unix(7), `SCM_RIGHTS`), and that nothing owns
/// yet.
pub fn own(received: RawFd) -> OwnedFd {
    // SAFETY: the caller has it from recvmsg(2), which makes a new descriptor for each one it hands out.
    unsafe { OwnedFd::from_raw_fd(received) }
}
