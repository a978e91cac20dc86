//! Who may do what in the first user namespace, where the capabilities count that the kernel asks for.

use std::path::Path;

/// The numbers of capabilities(7).
pub(super) const FSETID: u32 = 4;
pub(super) const SYS_ADMIN: u32 = 21;

/// The inode number of the first user namespace (`PROC_USER_INIT_INO`).
const FIRST_NAMESPACE: &str = "user:[4026531837]";

/// Whether the thread `pid`, which waits for our answer or is ours, has a capability there. Whoever can't be looked at
/// has not.
pub(super) fn has(pid: u32, capability: u32) -> bool {
    // Numbers of threads mean something in the /proc of our own pid namespace only.
    let ours = std::fs::read_link("/proc/self").is_ok_and(|me| me == Path::new(&std::process::id().to_string()));
    if !ours || pid == 0 {
        return false;
    }
    in_first_namespace(&pid.to_string())
        && std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| in_effect(&status, capability))
}

/// Whether a process, by its name in /proc, is in the first user namespace.
pub(super) fn in_first_namespace(pid: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/ns/user")).is_ok_and(|ns| ns == Path::new(FIRST_NAMESPACE))
}

fn in_effect(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> capability & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_among_others() {
        assert!(in_effect("Name:\tx\nCapEff:\t000001ffffffffff\n", FSETID));
        assert!(in_effect("CapEff:\t0000000000000010\n", FSETID));
        assert!(!in_effect("CapEff:\t0000000000000010\n", SYS_ADMIN));
        assert!(!in_effect("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n", FSETID));
        assert!(!in_effect("", FSETID));
        assert!(!has(0, FSETID));
    }
}
