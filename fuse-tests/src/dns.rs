//! A server of names that knows one answer.

use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};

use anyhow::{Context as _, Result};

/// What every name stands for.
pub(crate) const ANSWER: [u8; 4] = [203, 0, 113, 7];

/// Answers questions for A records until it is killed; prints a line once it listens, and each name it is asked for.
pub(crate) fn serve(address: IpAddr) -> Result<()> {
    let socket = UdpSocket::bind((address, 53)).context("port 53")?;
    let mut out = std::io::stdout();
    writeln!(out, "up")?;
    loop {
        let mut packet = [0; 512];
        let (len, asker) = socket.recv_from(&mut packet)?;
        let question = packet.get(12..len).unwrap_or_default();
        let Some(end) = question.iter().position(|b| *b == 0) else { continue };
        let (name, Some(kind)) = (&question[..end], question.get(end + 1..end + 5)) else { continue };
        writeln!(
            out,
            "{}",
            name.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect::<String>()
        )?;
        // Class IN, type A; of the others there is nothing.
        let known = kind == [0, 1, 0, 1];
        let mut reply = packet[..2].to_vec();
        // An answer, to one question, that is ours to give.
        reply.extend([0x85, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
        reply.extend(&question[..end + 5]);
        if known {
            // Of the name above, for a second.
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            reply.extend(ANSWER);
        }
        socket.send_to(&reply, asker)?;
    }
}
