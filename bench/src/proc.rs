//! What /proc says about a process.

use std::fs;

/// What a daemon has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Seconds of CPU, user and system.
    pub(crate) cpu: f64,
    /// Most resident memory it ever had, in KiB.
    pub(crate) peak_rss: u64,
    /// Open descriptors.
    pub(crate) fds: usize,
}

impl Usage {
    /// `None` where there is no such process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // Its own user may not look where it can't be dumped; then 0.
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Some(Self { cpu: cpu(&stat)?, peak_rss: peak_rss(&status)?, fds })
    }
}

/// A child of ours, ended or not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kid {
    pub(crate) pid: u32,
    /// The first 15 bytes of its program's name.
    pub(crate) name: String,
    /// It waits to be reaped.
    pub(crate) ended: bool,
    /// Seconds of CPU, user and system.
    pub(crate) cpu: f64,
}

/// All children of this process, also those whose parent ended and that came to us.
pub(crate) fn kids() -> std::io::Result<Vec<Kid>> {
    let mut kids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        // One that has gone meanwhile is none of ours: those stay until we reap them.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        kids.extend(kid(pid, &stat, std::process::id()));
    }
    Ok(kids)
}

/// If its parent is this one.
fn kid(pid: u32, stat: &str, parent: u32) -> Option<Kid> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let ended = fields.next()? == "Z";
    let is_ours = fields.next()?.parse() == Ok(parent);
    let name = head.split_once('(')?.1.to_owned();
    is_ours.then_some(Kid { pid, name, ended, cpu: cpu(stat)? })
}

fn cpu(stat: &str) -> Option<f64> {
    // The name in brackets may hold anything; 11 fields lie between it and utime.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn peak_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 3 0 100 1000 10 18446744073709551615";
        let expected = 200.0 / rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu(stat), Some(expected));
        assert_eq!(peak_rss("VmPeak:\t  9 kB\nVmHWM:\t    4321 kB\nVmRSS:\t 1 kB\n"), Some(4321));
        assert_eq!(peak_rss("VmRSS:\t 1 kB\n"), None);
    }

    #[test]
    fn children_are_told_by_their_parent() {
        let stat = "12 (a) b (c) Z 7 12 12 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 3 0 100 1000 10 18446744073709551615";
        let found = kid(12, stat, 7).map(|k| (k.name, k.ended, k.cpu > 0.0));
        assert_eq!(found, Some(("a) b (c".to_owned(), true, true)));
        assert_eq!(kid(12, stat, 8), None);
    }

    #[test]
    fn we_are_a_process() {
        let me = Usage::of(std::process::id()).unwrap();
        assert!(me.peak_rss > 0 && me.fds >= 3);
    }
}
