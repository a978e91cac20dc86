//! FUSE requests by type. The connection counts none, but the kernel can be asked to trace them
//! (`fuse:fuse_request_send`, Linux 6.10 and later).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
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

    /// What all mounts below `dir` are asked while `f` runs, however many come and go: it is counted as it comes.
    #[allow(dead_code, reason = "fuse-tests shares this file, and counts one mount at a time")]
    pub(crate) fn count_below<T>(&self, dir: &Path, f: impl FnOnce() -> Result<T>) -> Result<(T, Result<Requests>)> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let started = self.start_with("connection!=0");
            let counting = scope.spawn(|| self.drain(dir, &over));
            let done = f();
            over.store(true, Ordering::SeqCst);
            let counted = counting.join().unwrap_or_else(|_| bail!("the thread that counts panicked"));
            Ok((done?, started.and(counted)))
        })
    }

    /// Takes events out of the trace until it is over.
    fn drain(&self, dir: &Path, over: &AtomicBool) -> Result<Requests> {
        let path = self.instance.join("trace_pipe");
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut pipe = File::options().read(true).custom_flags(flags).open(path).context("trace_pipe")?;
        let (mut requests, mut buf, mut text) = (Requests::new(), vec![0; 1 << 16], Vec::new());
        loop {
            let last = over.load(Ordering::SeqCst);
            if last {
                self.set(&format!("{EVENT}/enable"), "0")?;
            }
            // Numbers of connections are given again: a mount counts while it is there.
            let mut ours = minors(dir)?;
            let mut events: Vec<(u32, String)> = Vec::new();
            loop {
                match pipe.read(&mut buf) {
                    Ok(0) => break,
                    Ok(n) => text.extend_from_slice(&buf[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).context("trace_pipe"),
                }
                let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
                let lines = String::from_utf8_lossy(&text[..whole]);
                events.extend(lines.lines().filter_map(|l| Some((connection(l)?, opcode(l)?.to_owned()))));
                text.drain(..whole);
            }
            ours.extend(minors(dir)?);
            for (_, name) in events.into_iter().filter(|(minor, _)| ours.contains(minor)) {
                *requests.entry(name).or_default() += 1;
            }
            if last {
                self.none_lost()?;
                return Ok(requests);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
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
        self.none_lost()?;
        let mut requests = Requests::new();
        for line in BufReader::new(File::open(self.instance.join("trace"))?).lines() {
            if let Some(name) = opcode(&line?) {
                *requests.entry(name.to_owned()).or_default() += 1;
            }
        }
        Ok(requests)
    }

    fn none_lost(&self) -> Result<()> {
        for cpu in fs::read_dir(self.instance.join("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            ensure!(stats.lines().any(|l| l == "overrun: 0"), "more requests than the trace can hold");
        }
        Ok(())
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

/// The number in the same.
fn connection(line: &str) -> Option<u32> {
    line.split_once(" fuse_request_send: connection ")?.1.split_once(' ')?.0.parse().ok()
}

/// The minor device numbers of all mounts below `dir`.
fn minors(dir: &Path) -> Result<BTreeSet<u32>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let minor = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let minor = fields.next()?.split_once(':')?.1.parse().ok();
        minor.filter(|_| fields.nth(1).is_some_and(|at| Path::new(at).starts_with(dir)))
    };
    Ok(mounts.lines().filter_map(minor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        let line = "  tar-12  [001] .....  9.7: fuse_request_send: connection 52 req 8 opcode 3 (FUSE_GETATTR) len 56 ";
        assert_eq!(opcode(line), Some("GETATTR"));
        assert_eq!((connection(line), connection("# tracer: nop")), (Some(52), None));
        assert_eq!(opcode("# tracer: nop"), None);
    }
}
