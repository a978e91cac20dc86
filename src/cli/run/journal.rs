//! What a detached container prints, kept in its directory: one JSON object a line, in the form of docker's json-file.
//! A file holds about 10 MiB; then it becomes the one before, and what that held is gone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use crate::cli::error::Error;
use crate::vocab::why;

const MAX_FILE: u64 = 10 << 20;
/// A line longer than this is kept in pieces.
const MAX_LINE: usize = 16 * 1024;

/// One line, or a piece of one: without a line feed in the end it goes on in the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Line {
    pub(in crate::cli) log: String,
    /// `stdout` or `stderr`.
    pub(in crate::cli) stream: String,
    /// RFC 3339.
    pub(in crate::cli) time: String,
}

/// Whether what a container prints is recorded in its directory, or has been.
pub(in crate::cli) fn is_kept(dir: &Path) -> bool {
    files(dir).iter().any(|file| file.exists())
}

/// The file being written, and the one before.
fn files(dir: &Path) -> [PathBuf; 2] {
    [dir.join("log.1.json"), dir.join("log.json")]
}

/// Reads what is recorded as it comes.
#[derive(Debug)]
pub(in crate::cli) struct Follow {
    path: PathBuf,
    file: Option<BufReader<File>>,
    rest: Vec<u8>,
}

impl Follow {
    /// From the beginning of the present file on.
    pub(in crate::cli) fn new(dir: &Path) -> std::io::Result<Self> {
        let [_, path] = files(dir);
        Ok(Self { file: open(&path)?, path, rest: Vec::new() })
    }

    /// From now on.
    pub(in crate::cli) fn from_here(dir: &Path) -> std::io::Result<Self> {
        let mut follow = Self::new(dir)?;
        if let Some(file) = &mut follow.file {
            file.seek(SeekFrom::End(0))?;
        }
        Ok(follow)
    }

    /// What came since the last time.
    pub(in crate::cli) fn lines(&mut self) -> std::io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        loop {
            if let Some(file) = &mut self.file {
                lines.extend(read_lines(file, &mut self.rest)?);
            }
            let Some(next) = open(&self.path)? else { return Ok(lines) };
            if let Some(file) = &self.file
                && file.get_ref().metadata()?.ino() == next.get_ref().metadata()?.ino()
            {
                return Ok(lines);
            }
            // Another one by now.
            self.file = Some(next);
            self.rest.clear();
        }
    }
}

/// What was recorded before the present file.
pub(in crate::cli) fn before(dir: &Path) -> std::io::Result<Vec<Line>> {
    open(&files(dir)[0])?.map_or(Ok(Vec::new()), |mut file| read_lines(&mut file, &mut Vec::new()))
}

fn open(path: &Path) -> std::io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Output to output, errors to errors.
pub(in crate::cli) fn show(lines: &[Line], timestamps: bool) -> std::io::Result<()> {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    for line in lines {
        let to: &mut dyn Write = if line.stream == "stderr" { &mut err } else { &mut out };
        if timestamps {
            write!(to, "{} ", line.time)?;
        }
        to.write_all(line.log.as_bytes())?;
    }
    out.flush()
}

/// Reads the lines of an open file on from where it stands. What is not whole yet is left for the next time.
fn read_lines(file: &mut BufReader<File>, rest: &mut Vec<u8>) -> std::io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    while file.read_until(b'\n', rest)? > 0 && rest.last() == Some(&b'\n') {
        // After a crash of the machine a line may be nonsense: it is left out.
        lines.extend(serde_json::from_slice(rest));
        rest.clear();
    }
    Ok(lines)
}

/// The writing end.
#[derive(Debug)]
struct Journal {
    dir: PathBuf,
    file: File,
    size: u64,
}

impl Journal {
    fn open(dir: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(&files(dir)[1])?;
        let size = file.metadata()?.len();
        Ok(Self { dir: dir.to_owned(), file, size })
    }

    fn write(&mut self, stream: &str, text: &[u8]) -> std::io::Result<()> {
        let line = Line {
            log: String::from_utf8_lossy(text).into_owned(),
            stream: stream.to_owned(),
            time: jiff::Timestamp::now().to_string(),
        };
        let mut packet = serde_json::to_vec(&line)?;
        packet.push(b'\n');
        if self.size + packet.len() as u64 > MAX_FILE {
            let [before, now] = files(&self.dir);
            std::fs::rename(now, before)?;
            *self = Self::open(&self.dir)?;
        }
        self.file.write_all(&packet)?;
        self.size += packet.len() as u64;
        Ok(())
    }
}

/// Adds a line of ours.
pub(in crate::cli) fn note(dir: &Path, text: &str) {
    let done = Journal::open(dir).and_then(|mut journal| journal.write("stderr", format!("{text}\n").as_bytes()));
    if let Err(e) = done {
        log::warn!("log in {}: {}", dir.display(), why(&e));
    }
}

/// Takes what is printed; made before the processes of the run are.
#[derive(Debug)]
pub(in crate::cli) struct Recorder {
    dir: PathBuf,
    streams: [OwnedFd; 2],
}

/// A recorder at work.
#[derive(Debug)]
pub(in crate::cli) struct Recording {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// A recorder into `dir`, and what is to be standard output and error.
    pub(in crate::cli) fn new(dir: &Path) -> Result<(Self, [OwnedFd; 2]), Error> {
        let pipe = || {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&read, true)?;
            Ok((read, write))
        };
        let fail = |e: rustix::io::Errno| Error::new(format!("pipe for the log: {}", why(&e)));
        let (out, err) = (pipe().map_err(fail)?, pipe().map_err(fail)?);
        Ok((Self { dir: dir.to_owned(), streams: [out.0, err.0] }, [out.1, err.1]))
    }

    /// Begins to write, in a thread.
    pub(in crate::cli) fn start(self) -> Result<Recording, Error> {
        let fail = |e: std::io::Error| Error::new(format!("log in {}: {}", self.dir.display(), why(&e)));
        let journal = Journal::open(&self.dir).map_err(fail)?;
        let (read, stop) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
        let streams = self.streams;
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || record(journal, streams, &read));
        Ok(Recording { stop, thread: thread.map_err(|e| Error::new(format!("thread for the log: {}", why(&e))))? })
    }
}

impl Recording {
    /// Nothing prints any more: writes what is left.
    pub(in crate::cli) fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            log::warn!("the log's thread panicked; please report it");
        }
    }
}

fn record(mut journal: Journal, streams: [OwnedFd; 2], stop: &OwnedFd) {
    let mut pending = [Vec::new(), Vec::new()];
    let mut files = streams.map(File::from);
    let mut stopped = false;
    while !stopped {
        let sources = [files[0].as_fd(), files[1].as_fd(), stop.as_fd()];
        let mut fds = sources.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        if poll(&mut fds, None).is_err_and(|e| e != rustix::io::Errno::INTR) {
            break;
        }
        stopped = !fds[2].revents().is_empty();
        for (i, name) in ["stdout", "stderr"].into_iter().enumerate() {
            let mut buf = [0; 16 * 1024];
            // Would block, or the end: the next round tells.
            while let Ok(n @ 1..) = files[i].read(&mut buf) {
                pending[i].extend_from_slice(&buf[..n]);
                write_lines(&mut journal, name, &mut pending[i], false);
            }
            write_lines(&mut journal, name, &mut pending[i], stopped);
        }
    }
}

fn write_lines(journal: &mut Journal, stream: &str, pending: &mut Vec<u8>, all: bool) {
    loop {
        let end = match pending.iter().position(|b| *b == b'\n') {
            Some(at) if at < MAX_LINE => at + 1,
            _ if pending.len() >= MAX_LINE => MAX_LINE,
            _ if all && !pending.is_empty() => pending.len(),
            _ => return,
        };
        let line: Vec<u8> = pending.drain(..end).collect();
        // A full disk must not stop what is logged.
        if let Err(e) = journal.write(stream, &line) {
            log::debug!("log: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let (recorder, [out, err]) = Recorder::new(dir.path()).unwrap();
        let recording = recorder.start().unwrap();
        File::from(out).write_all(b"one\ntw").unwrap();
        File::from(err).write_all(&vec![b'x'; MAX_LINE + 1]).unwrap();
        recording.end();
        note(dir.path(), "ours");
        let mut file = BufReader::new(File::open(&files(dir.path())[1]).unwrap());
        let lines = read_lines(&mut file, &mut Vec::new()).unwrap();
        let of = |stream: &str| lines.iter().filter(|l| l.stream == stream).map(|l| l.log.len()).collect::<Vec<_>>();
        assert_eq!((of("stdout"), of("stderr")), (vec![4, 2], vec![MAX_LINE, 1, 5]));
        let mut journal = Journal::open(dir.path()).unwrap();
        for _ in 0..3 * MAX_FILE / MAX_LINE as u64 {
            journal.write("stdout", &[b'y'; MAX_LINE]).unwrap();
        }
        for file in files(dir.path()) {
            assert!(file.metadata().unwrap().len() <= MAX_FILE);
        }
    }
}
