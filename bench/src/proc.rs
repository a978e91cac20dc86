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
    fn we_are_a_process() {
        let me = Usage::of(std::process::id()).unwrap();
        assert!(me.peak_rss > 0 && me.fds >= 3);
    }
}
