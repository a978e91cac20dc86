//! Going to the background once the work can be done.

use std::io::{Read, Write};
use std::process::ExitCode;

use nix::sys::wait::{WaitStatus, waitpid};
use rustix::fs::{Mode, OFlags};

use super::error::Error;
use crate::sys::process::{Fork, close_inherited, fork};

/// Tells the waiting parent that all is well; without it, the parent takes over the child's failure.
#[derive(Debug)]
pub(super) struct Ready(std::io::PipeWriter);

/// Runs `serve` in a new process and waits until that is ready, or has failed.
pub(super) fn in_background(serve: impl FnOnce(Ready) -> Result<ExitCode, Error>) -> Result<ExitCode, Error> {
    // What our caller left open (a pipe, a lock) is not ours to keep open.
    close_inherited(3).map_err(|e| Error::new(format!("close_range: {e}")))?;
    let (mut reader, writer) = std::io::pipe().map_err(|e| Error::new(format!("pipe: {e}")))?;
    match fork().map_err(|e| Error::new(format!("fork: {e}")))? {
        Fork::Child => {
            drop(reader);
            serve(Ready(writer))
        }
        Fork::Parent(child) => {
            drop(writer);
            let mut told = [0];
            if reader.read(&mut told).is_ok_and(|n| n == 1) {
                return Ok(ExitCode::SUCCESS);
            }
            // It has said on stderr what is wrong.
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1).max(1))),
                Ok(how) => Err(Error::new(format!("the daemon died before it was ready ({how:?})"))),
                Err(e) => Err(Error::new(format!("wait for the daemon: {e}"))),
            }
        }
    }
}

impl Ready {
    /// Lets go of terminal, working directory and standard streams, then of the parent.
    pub(super) fn tell(mut self) -> Result<(), Error> {
        let fail = |what: &'static str| move |e: rustix::io::Errno| Error::new(format!("{what}: {e}"));
        rustix::process::setsid().map_err(fail("setsid"))?;
        rustix::process::chdir("/").map_err(fail("chdir to /"))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(fail("open /dev/null"))?;
        rustix::stdio::dup2_stdin(&null).map_err(fail("dup2"))?;
        rustix::stdio::dup2_stdout(&null).map_err(fail("dup2"))?;
        rustix::stdio::dup2_stderr(&null).map_err(fail("dup2"))?;
        self.0.write_all(b"y").map_err(|e| Error::new(format!("tell the parent: {e}")))
    }
}
