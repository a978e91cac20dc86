//! Our own transport: requests are read from `/dev/fuse` and replies written to it, one at a time in each thread.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::abi::{Header, OUT_HEADER, Out, Request};
use super::handshake::MAX_REQUEST;
use super::ops::{MAX_WRITE, Ops};
use super::wire::answer;
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::vocab::{Errno, Result};

/// Where requests come from.
const DEVICE: &str = "/dev/fuse";

/// What one read of the device brought.
pub(super) enum Received {
    Request(usize),
    /// The mount is gone.
    End,
}

/// What a thread is about to do.
#[derive(Clone, Copy)]
pub(super) enum Turn<'a> {
    /// Answer this request.
    Busy(&'a [u8]),
    /// Wait for the next one.
    Waits,
}

/// Reads one request.
///
/// # Errors
/// What read(2) answers, but for what only means to try again.
pub(super) fn receive(device: BorrowedFd<'_>, buf: &mut [u8]) -> Result<Received> {
    loop {
        match rustix::io::read(device, &mut *buf) {
            Ok(n) => return Ok(Received::Request(n)),
            // ENOENT: it was taken back while it was read.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
            Err(Errno::NODEV) => return Ok(Received::End),
            Err(e) => return Err(e),
        }
    }
}

/// Writes one reply.
///
/// # Errors
/// What write(2) answers, but for a request that nobody waits for any more.
pub(super) fn send(device: BorrowedFd<'_>, reply: &[u8]) -> Result<()> {
    sent(rustix::io::write(device, reply))
}

fn sent(written: Result<usize>) -> Result<()> {
    match written {
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(e) => Err(e),
    }
}

/// One more descriptor of the connection, for a thread of its own; the same one where there can be none.
pub(super) fn another(device: &Arc<OwnedFd>) -> Arc<OwnedFd> {
    let fresh = File::options().read(true).write(true).open(DEVICE).map(OwnedFd::from);
    match fresh.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)) {
        Ok(fresh) => match sys::fuse_dev::clone_into(device.as_fd(), &fresh) {
            Ok(()) => return Arc::new(fresh),
            Err(e) => log::debug!("one descriptor for all threads: {e}"),
        },
        Err(e) => log::debug!("one descriptor for all threads: {DEVICE}: {e}"),
    }
    device.clone()
}

/// Buffers for replies, each as big as the biggest; the last one that was used comes first: what one thread has touched, the
/// next need not.
#[derive(Debug, Default)]
pub(super) struct Replies(Mutex<Vec<Buffer>>);

impl Replies {
    fn take(&self) -> Result<Buffer> {
        let left = self.0.lock().pop();
        left.map_or_else(|| room(MAX_WRITE as usize), Ok)
    }

    fn give_back(&self, reply: Buffer) {
        self.0.lock().push(reply);
    }
}

fn room(n: usize) -> Result<Buffer> {
    Buffer::new(n).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::NOMEM))
}

/// Answers what comes from this descriptor, until the mount is gone; `tell` is told of each turn. It begins as one who waits.
///
/// # Errors
/// What the device answers.
pub(super) fn serve(
    device: BorrowedFd<'_>,
    ops: &Ops,
    replies: &Replies,
    tell: &mut dyn FnMut(Turn<'_>),
) -> Result<()> {
    let mut requests = room(MAX_REQUEST)?;
    loop {
        let n = match receive(device, &mut requests)? {
            Received::Request(n) => n,
            Received::End => return Ok(()),
        };
        tell(Turn::Busy(&requests[..n]));
        match replies.take() {
            Ok(mut reply) => {
                respond(device, ops, &requests[..n], &mut reply)?;
                replies.give_back(reply);
            }
            Err(e) => refuse(device, Header::parse(&requests[..n])?.unique, e)?,
        }
        // More like it are likely to follow.
        requests.expect(n);
        tell(Turn::Waits);
    }
}

fn respond(device: BorrowedFd<'_>, ops: &Ops, request: &[u8], reply: &mut Buffer) -> Result<()> {
    let (unique, done) = match Request::parse(request) {
        Ok(parsed) => {
            reply.expect(parsed.reads());
            (parsed.header.unique, answer(ops, &parsed, reply))
        }
        Err(e) => match Header::parse(request) {
            Ok(header) => (header.unique, Some(Err(e))),
            Err(_) => {
                log::error!("the kernel sent {} bytes that are no request", request.len());
                return Ok(());
            }
        },
    };
    let Some(done) = done else { return Ok(()) };
    let mut header = [0; OUT_HEADER];
    Out::new(&mut header).header(unique, done)?;
    let sent = match done {
        Ok(n) if n > 0 => {
            let parts = [IoSlice::new(&header), IoSlice::new(&reply[..n])];
            sent(rustix::io::writev(device, &parts))
        }
        _ => send(device, &header),
    };
    if let Err(e) = sent {
        log::error!("a reply was not taken: {e}");
        refuse(device, unique, Errno::IO)?;
    }
    Ok(())
}

/// Answers with an error alone: nobody may wait for ever.
fn refuse(device: BorrowedFd<'_>, unique: u64, why: Errno) -> Result<()> {
    let mut header = [0; OUT_HEADER];
    Out::new(&mut header).header(unique, Err(why))?;
    if let Err(e) = send(device, &header) {
        log::error!("an error was not taken for a reply: {e}");
    }
    Ok(())
}
