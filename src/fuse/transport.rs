//! Who carries requests from the kernel and replies to it.

use std::fmt;

/// Whether the kernel offers io_uring to new mounts; root may write `Y` to it.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Who carries requests from the kernel and replies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The crate of that name.
    Fuser,
    /// Ourselves, by reading and writing `/dev/fuse`.
    Device,
    /// Ourselves, over io_uring, where the kernel allows it.
    Uring,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fuser => "fuser",
            Self::Device => "device",
            Self::Uring => "uring",
        })
    }
}

/// The one that was asked for, or the fastest of those that know all requests; and why.
///
/// fuser 0.18 carries them as fast as we do, but has no `O_TMPFILE` and no times of birth.
pub(super) fn choose(asked: Option<Transport>) -> (Transport, String) {
    if let Some(asked) = asked {
        return (asked, "as asked".into());
    }
    match std::fs::read_to_string(SWITCH).as_deref().map(str::trim) {
        Ok("Y" | "1") => (Transport::Uring, "each CPU's callers are answered where they run".into()),
        Ok(_) => (Transport::Device, format!("io_uring is faster; root switches it on: echo Y > {SWITCH}")),
        Err(_) => (Transport::Device, "this kernel has no FUSE over io_uring".into()),
    }
}
