//! Containers that outlive the terminal they were started from: a monitor in a session of its own runs them, and who
//! starts one only waits until the command is executed, or can't be.

use std::io::{Read, Write};

use super::image::start;
use super::journal::{Recorder, note};
use super::{Args, FAILED};
use crate::cli::error::Error;
use crate::runner::{Attended, Cgroup, Control};
use crate::store::{Container, Running, Store};
use crate::sys::process::{Fork, end_with, fork};
use crate::vocab::why;

/// Starts a container that this process has taken and returns once its command runs; `args` is without the image.
pub(in crate::cli) fn detached(
    store: &Store,
    container: &Container,
    running: Running,
    args: &Args,
) -> Result<(), Error> {
    let fail = |e: std::io::Error| Error::new(format!("start container {}: {}", container.record.name, why(&e)));
    let (mut told, tell) = std::io::pipe().map_err(fail)?;
    std::io::stdout().flush().map_err(fail)?;
    match fork().map_err(|e| fail(e.into()))? {
        Fork::Child => {
            drop(told);
            end_with(|| monitor(store, container, running, args, tell))
        }
        Fork::Parent(_) => {
            // The lock is held by the child's copy.
            drop((tell, running));
            let mut answer = [0; 4096];
            let len = told.read(&mut answer).map_err(fail)?;
            let answer = String::from_utf8_lossy(&answer[..len]);
            match answer.split('\0').collect::<Vec<_>>()[..] {
                [""] => Err(Error::new(format!("container {}: its monitor died", container.record.name))),
                [code, text, hint] => {
                    let error = Error::new(text).or_code(code.parse().unwrap_or(FAILED));
                    Err(if hint.is_empty() { error } else { error.hint(hint) })
                }
                _ => Ok(()),
            }
        }
    }
}

/// The monitor's life; returns its exit code, which nobody asks for.
fn monitor(store: &Store, container: &Container, running: Running, args: &Args, mut tell: std::io::PipeWriter) -> i32 {
    let mut teller = tell.try_clone().ok();
    // Now: what can't be limited is told to who asked for it.
    let cgroup = args.resources.resources().ok().and_then(|limits| Cgroup::limited(&limits, container.dir()));
    let ended = leave_the_terminal(container).and_then(|recorder| {
        let control = Some(Control::listen(container.dir())?);
        let tell_running = Box::new(move || {
            if let Some(mut tell) = teller.take() {
                // Who asked may be gone.
                tell.write_all(b"running").ok();
            }
        });
        start(
            store,
            container,
            args,
            Attended { control, cgroup, apart: true, running: Some(tell_running), ..Attended::default() },
            Some(recorder),
            None,
        )
    });
    if let Err(e) = &ended {
        note(container.dir(), &format!("onlay: {}", e.message()));
    }
    if !args.rm {
        drop(running);
    } else if let Err(e) = store.remove_container(container, running) {
        log::warn!("remove container {}: {e}", container.record.name);
    }
    // Last: who asked finds it as it stays, and nobody's.
    if let Err(e) = &ended {
        let answer = format!("{}\0{}\0{}", e.code().unwrap_or(FAILED), e.message(), e.hint_text().unwrap_or(""));
        tell.write_all(answer.as_bytes()).ok();
    }
    0
}

/// A session of its own, no input, and the outputs recorded.
fn leave_the_terminal(container: &Container) -> Result<Recorder, Error> {
    let fail = |what: &str, e: rustix::io::Errno| Error::new(format!("{what}: {}", why(&e)));
    rustix::process::setsid().map_err(|e| fail("setsid", e))?;
    let null = std::fs::File::open("/dev/null").map_err(|e| Error::new(format!("open /dev/null: {}", why(&e))))?;
    let (recorder, [out, err]) = Recorder::new(container.dir())?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| fail("standard input", e))?;
    rustix::stdio::dup2_stdout(&out).map_err(|e| fail("standard output", e))?;
    rustix::stdio::dup2_stderr(&err).map_err(|e| fail("standard error", e))?;
    Ok(recorder)
}
