//! Flags about all processes inside together.

use clap::Args;

use super::values::{ArgError, bytes};
use crate::runner::{Processors, Resources, Swap};

#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(in crate::cli) struct ResourceArgs {
    /// How much memory all processes may have: whoever wants more is killed (64m, 1.5g)
    #[arg(short, long, value_name = "BYTES", help_heading = "Limits")]
    pub(in crate::cli) memory: Option<String>,

    /// Memory and swap space together; -1 is all swap space there is [default: twice --memory]
    #[arg(long, value_name = "BYTES", requires = "memory", allow_hyphen_values = true, help_heading = "Limits")]
    pub(in crate::cli) memory_swap: Option<String>,

    /// How many processors' time they may take (1.5)
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub(in crate::cli) cpus: Option<String>,

    /// Which processors they run on, and the service of the files with them (0-2,4)
    #[arg(long, value_name = "NUMBERS", help_heading = "Limits")]
    pub(in crate::cli) cpuset_cpus: Option<String>,

    /// How many processes and threads there may be; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = "Limits")]
    pub(in crate::cli) pids_limit: Option<String>,
}

/// Less than this no program starts in.
const LEAST_MEMORY: u64 = 1 << 20;

impl ResourceArgs {
    pub(super) fn resources(&self) -> Result<Resources, ArgError> {
        let memory = self.memory.as_deref().map(memory).transpose()?;
        let swap = match (memory, &self.memory_swap) {
            (Some(memory), Some(text)) => Some(swap(memory, text)?),
            (memory, _) => memory.map(Swap::Usual),
        };
        Ok(Resources {
            memory,
            swap,
            cpu: self.cpus.as_deref().map(cpus).transpose()?,
            pids: self.pids_limit.as_deref().map(pids).transpose()?.flatten(),
            processors: self.cpuset_cpus.as_deref().map(processors).transpose()?,
        })
    }
}

fn memory(text: &str) -> Result<u64, ArgError> {
    match bytes(text) {
        Some(n) if n >= LEAST_MEMORY => Ok(n),
        Some(_) => Err(ArgError::value("memory", text, "nothing runs in less than 1m").hint("64m, 1.5g")),
        None => Err(ArgError::value("memory", text, "not a number of bytes").hint("64m, 1.5g")),
    }
}

fn swap(memory: u64, text: &str) -> Result<Swap, ArgError> {
    if text == "-1" {
        return Ok(Swap::Unlimited);
    }
    let bad =
        |why: &str| ArgError::value("memory-swap", text, why).hint("memory and swap space together: 128m, 3g, or -1");
    let both = bytes(text).ok_or_else(|| bad("not a number of bytes"))?;
    both.checked_sub(memory).map(Swap::Bytes).ok_or_else(|| bad("less than --memory alone"))
}

fn processors(text: &str) -> Result<Processors, ArgError> {
    let bad = || ArgError::value("cpuset-cpus", text, "not a list of processors").hint("numbers and ranges: 0, 0-2,4");
    Processors::parse(text).ok_or_else(bad)
}

/// In millionths.
fn cpus(text: &str) -> Result<u64, ArgError> {
    match text.parse::<f64>() {
        Ok(n) if (0.01..=8192.0).contains(&n) => Ok((n * 1e6) as u64),
        _ => Err(ArgError::value("cpus", text, "not a number of processors").hint("0.5, 2; 0.01 is the least")),
    }
}

fn pids(text: &str) -> Result<Option<u64>, ArgError> {
    match text.parse::<i64>() {
        // As docker's.
        Ok(-1 | 0) => Ok(None),
        Ok(n @ 1..) => Ok(Some(n.unsigned_abs())),
        _ => Err(ArgError::value("pids-limit", text, "not a number of processes").hint("100, or -1 for no limit")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: [Option<&str>; 4]) -> Result<Resources, ArgError> {
        let [memory, memory_swap, cpus, pids_limit] = words.map(|w| w.map(str::to_owned));
        ResourceArgs { memory, memory_swap, cpus, pids_limit, cpuset_cpus: None }.resources()
    }

    #[test]
    fn limits_are_read_as_dockers() {
        let got = args([Some("64m"), None, Some("1.5"), Some("20")]).unwrap();
        let (memory, cpu) = (Some(64 << 20), Some(1_500_000));
        assert_eq!(got, Resources { memory, swap: Some(Swap::Usual(64 << 20)), cpu, pids: Some(20), processors: None });
        assert_eq!(args([Some("64m"), Some("-1"), None, None]).unwrap().swap, Some(Swap::Unlimited));
        assert_eq!(args([Some("64m"), Some("96m"), None, None]).unwrap().swap, Some(Swap::Bytes(32 << 20)));
        assert!(args([None, None, None, Some("-1")]).unwrap().is_empty());
        for bad in [
            [Some("x"), None, None, None],
            [Some("10k"), None, None, None],
            [Some("2m"), Some("1m"), None, None],
            [None, None, Some("0"), None],
            [None, None, Some("nan"), None],
            [None, None, None, Some("-2")],
        ] {
            assert!(args(bad).is_err(), "{bad:?}");
        }
    }
}
