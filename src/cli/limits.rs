//! How many files may be open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More would gain nothing.
const ENOUGH: u64 = 1 << 16;

/// Raises this process's limit (`RLIMIT_NOFILE`) as far as it may; how many handles and files the union should keep
/// open, so that three quarters are left for files that were unlinked while open, and for whatever else comes.
pub(super) fn raise_open_files() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    let mut now = current.unwrap_or(ENOUGH);
    if now < most && setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).is_ok() {
        now = most;
    }
    // There are two such caches.
    usize::try_from(now / 8).unwrap_or(512)
}
