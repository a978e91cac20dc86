//! What a verb has to say on stdout.

use std::io::Write;

use super::error::Error;
use crate::vocab::why;

/// Prints it all. A reader that has seen enough and closed the pipe is no failure.
pub(super) fn print(text: &[u8]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(format!("standard output: {}", why(&e))))
        }
        _ => Ok(()),
    }
}
