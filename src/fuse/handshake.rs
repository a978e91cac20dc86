//! INIT: the first request, which says what both sides can do.

use std::os::fd::BorrowedFd;

use super::abi::{Fields, IN_HEADER, MAX_HEADERS, OUT_HEADER, Out, Request, VERSION, op};
use super::device::{Received, receive, send};
use super::ops::{MAX_BACKGROUND, MAX_WRITE, Ops, feature};
use crate::vocab::{Errno, Result};

/// Bits that are about INIT itself: more flags than 32, and requests of more than 32 pages.
const INIT_EXT: u64 = 1 << 30;
const MAX_PAGES: u64 = 1 << 22;

/// The oldest minor version whose structs are those of [`abi`](super::abi).
const OLDEST_MINOR: u32 = 31;

/// What `struct fuse_init_in` offers.
#[derive(Debug)]
struct Offer {
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u64,
}

/// Answers INIT; `extra` are the features to ask for beside those of the operations. Which ones are on from
/// now on.
///
/// # Errors
/// `EPROTO` for a kernel that is too old; what reading and writing the device answers.
pub(super) fn shake_hands(device: BorrowedFd<'_>, ops: &Ops, extra: u64) -> Result<u64> {
    let mut buf = vec![0; MAX_HEADERS.max(8192)];
    loop {
        let n = match receive(device, &mut buf)? {
            Received::Request(n) => n,
            Received::End => return Err(Errno::NOTCONN),
        };
        let request = Request::parse(&buf[..n])?;
        if request.header.opcode != op::INIT {
            return Err(Errno::PROTO);
        }
        let unique = request.header.unique;
        let offer = Offer::parse(&request)?;
        if offer.major > VERSION.0 {
            // It asks again, as an older one.
            send(device, &reply(unique, |out| out.u32(VERSION.0).and_then(|()| out.u32(VERSION.1)))?)?;
            continue;
        }
        if (offer.major, offer.minor) < (VERSION.0, OLDEST_MINOR) {
            let mut refused = [0; OUT_HEADER];
            Out::new(&mut refused).header(unique, Err(Errno::PROTO))?;
            send(device, &refused)?;
            return Err(Errno::PROTO);
        }
        let on = offer.flags & (ops.features(offer.flags) | extra | INIT_EXT | MAX_PAGES);
        send(device, &reply(unique, |out| init_out(out, &offer, on))?)?;
        log::debug!("FUSE {}.{}, features {on:#x} of {:#x}", offer.major, offer.minor, offer.flags);
        return Ok(on);
    }
}

impl Offer {
    fn parse(request: &Request<'_>) -> Result<Self> {
        let mut f = request.fields();
        let (major, minor, max_readahead, flags) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
        // Before 7.36 there are no more than those.
        let more = if u64::from(flags) & INIT_EXT != 0 { Fields(request.data).u32()? } else { 0 };
        Ok(Self { major, minor, max_readahead, flags: u64::from(more) << 32 | u64::from(flags) })
    }
}

/// `struct fuse_init_out`.
fn init_out(out: &mut Out<'_>, offer: &Offer, on: u64) -> Result<()> {
    out.u32(VERSION.0)?;
    out.u32(VERSION.1.min(offer.minor))?;
    out.u32(offer.max_readahead.min(MAX_WRITE))?;
    out.u32(on as u32)?;
    out.u16(MAX_BACKGROUND)?;
    out.u16(MAX_BACKGROUND / 4 * 3)?;
    out.u32(MAX_WRITE)?;
    // Times are exact to the nanosecond.
    out.u32(1)?;
    out.u16((MAX_WRITE / 4096) as u16)?;
    out.u16(0)?;
    out.u32((on >> 32) as u32)?;
    // How deep the file systems may be stacked that files are handed over from.
    out.u32(u32::from(on & feature::PASSTHROUGH != 0))?;
    out.zeros(24)
}

fn reply(unique: u64, fill: impl FnOnce(&mut Out<'_>) -> Result<()>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; OUT_HEADER + 64];
    let mut out = Out::new(&mut bytes[OUT_HEADER..]);
    fill(&mut out)?;
    let n = out.len();
    Out::new(&mut bytes).header(unique, Ok(n))?;
    bytes.truncate(OUT_HEADER + n);
    Ok(bytes)
}

/// The most bytes that a request has.
pub(super) const MAX_REQUEST: usize = IN_HEADER + MAX_HEADERS + MAX_WRITE as usize;
