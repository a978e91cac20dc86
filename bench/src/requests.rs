//! FUSE requests by type. The connection counts none, but the kernel can be asked to trace them
//! (`fuse:fuse_request_send`, Linux 6.10 and later).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// How many of which.
pub(crate) type Requests = BTreeMap<String, u64>;

const EVENT: &str = "events/fuse/fuse_request_send";
/// For each CPU; an event takes 40 bytes.
const BUFFER_KIB: &str = "32768";

/// An instance of tracing of our own, which is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    instance: PathBuf,
    /// Where we mounted tracefs.
    mounted: PathBuf,
}

impl Counter {
    /// Needs root and a kernel with that event. `dir` is a place of ours.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let mounted = dir.join("tracefs");
        fs::create_dir(&mounted)?;
        mount("tracefs", &mounted, "tracefs", MountFlags::empty(), None).context("mount tracefs")?;
        let instance = mounted.join(format!("instances/onlay-bench-{}", std::process::id()));
        let counter = Self { instance, mounted };
        fs::create_dir(&counter.instance).context("an instance of tracing")?;
        fs::metadata(counter.instance.join(EVENT)).context("no event fuse:fuse_request_send")?;
        counter.set("buffer_size_kb", BUFFER_KIB)?;
        Ok(counter)
    }

    /// What a mount is asked while `f` runs; an error of its own is kept apart from that of `f`.
    pub(crate) fn count(&self, merged: &Path, f: impl FnOnce() -> Result<()>) -> Result<Result<Requests>> {
        let started = self.start(merged);
        f()?;
        Ok(started.and_then(|()| self.stop()))
    }

    /// What all mounts of the machine are asked while `f` runs.
    #[allow(dead_code, reason = "fuse-tests shares this file, and counts one mount at a time")]
    pub(crate) fn count_everything(&self, f: impl FnOnce() -> Result<()>) -> Result<Result<Requests>> {
        let started = self.start_with("connection!=0");
        f()?;
        Ok(started.and_then(|()| self.stop()))
    }

    fn start(&self, merged: &Path) -> Result<()> {
        let device = rustix::fs::minor(fs::metadata(merged)?.dev());
        self.start_with(&format!("connection=={device}"))
    }

    fn start_with(&self, filter: &str) -> Result<()> {
        self.set(&format!("{EVENT}/filter"), filter)?;
        self.set("trace", "")?;
        self.set(&format!("{EVENT}/enable"), "1")
    }

    fn stop(&self) -> Result<Requests> {
        self.set(&format!("{EVENT}/enable"), "0")?;
        for cpu in fs::read_dir(self.instance.join("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            ensure!(stats.lines().any(|l| l == "overrun: 0"), "more requests than the trace can hold");
        }
        let mut requests = Requests::new();
        for line in BufReader::new(File::open(self.instance.join("trace"))?).lines() {
            if let Some(name) = opcode(&line?) {
                *requests.entry(name.to_owned()).or_default() += 1;
            }
        }
        Ok(requests)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.instance.join(file), value).with_context(|| format!("tracing: {file}"))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        match fs::remove_dir(&self.instance) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => eprintln!("{}: {e}", self.instance.display()),
            _ => {}
        }
        if let Err(e) = unmount(&self.mounted, UnmountFlags::empty()) {
            eprintln!("{}: {e}", self.mounted.display());
        }
    }
}

/// The name in `.. fuse_request_send: connection 52 req 8 opcode 3 (FUSE_GETATTR) len 56`.
fn opcode(line: &str) -> Option<&str> {
    let name = line.split_once(" fuse_request_send: ")?.1.split_once(" opcode ")?.1.split_once('(')?.1;
    Some(name.split_once(')')?.0.trim_start_matches("FUSE_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        let line = "  tar-12  [001] .....  9.7: fuse_request_send: connection 52 req 8 opcode 3 (FUSE_GETATTR) len 56 ";
        assert_eq!(opcode(line), Some("GETATTR"));
        assert_eq!(opcode("# tracer: nop"), None);
    }
}
