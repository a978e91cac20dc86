//! Which processors everything inside may run on: sched_setaffinity(2), and `cpuset` of cgroups(7) where that is to be had.

use std::fmt;

use rustix::thread::{CpuSet, sched_setaffinity};

use super::Error;

/// Some processors, by their numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processors([u64; CpuSet::MAX_CPU / 64]);

impl Processors {
    /// Reads numbers and ranges with commas between: `0-2,4`. `None`: that is no such list, or an empty one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first > last || last >= CpuSet::MAX_CPU {
                return None;
            }
            (first..=last).for_each(|n| all.0[n / 64] |= 1 << (n % 64));
        }
        Some(all)
    }

    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    /// Binds this thread, and all that it starts from now on, to them.
    pub(super) fn bind(&self) -> Result<(), Error> {
        let mut set = CpuSet::new();
        (0..CpuSet::MAX_CPU).filter(|n| self.has(*n)).for_each(|n| set.set(n));
        sched_setaffinity(None, &set).map_err(|e| {
            Error::new(format_args!("processors {self}"), e)
                .hinted("name some that are there, and are the caller's: taskset -p $$; nproc")
        })
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut at, mut comma) = (0, "");
        while at < CpuSet::MAX_CPU {
            if self.has(at) {
                let last = (at..CpuSet::MAX_CPU).take_while(|n| self.has(*n)).last().unwrap_or(at);
                write!(f, "{comma}{at}")?;
                if last > at {
                    write!(f, "-{last}")?;
                }
                (at, comma) = (last, ",");
            }
            at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, want) in [("0", "0"), ("3,1,0", "0-1,3"), ("0-2,4", "0-2,4"), ("63-65", "63-65"), ("1,1", "1")] {
            assert_eq!(Processors::parse(text).unwrap().to_string(), want);
        }
        for bad in ["", ",", "a", "1-", "2-1", "-1", "1024", "0,"] {
            assert_eq!(Processors::parse(bad), None, "{bad}");
        }
    }
}
