//! Set-id bits go when a file is written, cut or given away, unless by somebody who may set them (`CAP_FSETID`).
//!
//! With `FUSE_HANDLE_KILLPRIV_V2` this is ours to do; the kernel in turn asks only once, and not before each write, for
//! `security.capability`. It tells us by a SETATTR that sets nothing (what `file_remove_privs` becomes), before writes of
//! any kind, fallocate and copy_file_range; and by a flag of a SETATTR that cuts, which fuser 0.18 does not pass on.

use std::path::Path;

/// capabilities(7)
const CAP_FSETID: u32 = 4;
/// The inode number of the first user namespace (`PROC_USER_INIT_INO`), whose capabilities count.
const FIRST_NAMESPACE: &str = "user:[4026531837]";

/// The mode without what a write takes from it; `None` where it takes nothing.
pub(super) fn without(mode: u32) -> Option<u32> {
    // A group bit without execution means something else (chmod(2): mandatory locking).
    let set_group = if mode & 0o2010 == 0o2010 { 0o2000 } else { 0 };
    let gone = mode & 0o4000 | set_group;
    (gone != 0).then_some(mode & !gone)
}

/// Whether the thread `pid`, which waits for our answer, has `CAP_FSETID` in the first user namespace. Whoever can't be
/// looked at has not.
pub(super) fn may_keep(pid: u32) -> bool {
    // Numbers of threads mean something in the /proc of our own pid namespace only.
    let ours = std::fs::read_link("/proc/self").is_ok_and(|me| me == Path::new(&std::process::id().to_string()));
    if !ours || pid == 0 {
        return false;
    }
    let first = std::fs::read_link(format!("/proc/{pid}/ns/user")).is_ok_and(|ns| ns == Path::new(FIRST_NAMESPACE));
    first && std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_fsetid(&status))
}

fn has_fsetid(status: &str) -> bool {
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> CAP_FSETID & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_write_takes() {
        for (mode, left) in [
            (0o644, None),
            (0o4755, Some(0o755)),
            (0o6775, Some(0o775)),
            (0o2755, Some(0o755)),
            (0o2745, None),
            (0o1777, None),
        ] {
            assert_eq!(without(mode), left, "{mode:o}");
        }
    }

    #[test]
    fn a_capability_among_others() {
        assert!(has_fsetid("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(has_fsetid("CapEff:\t0000000000000010\n"));
        assert!(!has_fsetid("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n"));
        assert!(!has_fsetid(""));
        assert!(!may_keep(0));
    }
}
