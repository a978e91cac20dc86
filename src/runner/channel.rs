//! Words between the processes of a run: one message per packet of a unix(7) socket pair. Parent and supervisor hold an
//! end each; init and the command inherit the supervisor's and only send.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, sendmsg,
    setsockopt, socketpair,
};
use nix::unistd::Pid;

use super::Error;
use crate::sys::fd::own;

/// A packet may be as long as the kernel's default for a socket's buffer allows (net.core.wmem_default, less overhead).
pub(super) const MAX_PACKET: usize = 160 * 1024;

/// As many descriptors come along at most.
const MAX_FDS: usize = 4;

/// What one process tells another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// Supervisor: the user namespace is there, write its maps.
    NeedMaps,
    /// Parent: they are written.
    MapsWritten,
    /// Init: it has no child yet, move it into its control group.
    NeedLimits,
    /// Supervisor, to init: the view is mounted and served.
    Mounted,
    /// Parent, by way of the supervisor: it is there, or has to do without.
    Limited,
    /// Init: its network namespace is there, connect it.
    NeedNetwork,
    /// Init, to the supervisor: who listens for chown(2) comes along.
    Chown,
    /// A process of ours inside, to the supervisor: the file that comes along is to belong to this user and group from now
    /// on, whatever is shown. Where to answer comes along, too.
    Give(u32, u32),
    /// The supervisor, to that one: it does.
    Given,
    /// Parent, by way of the supervisor: it is connected.
    Connected,
    /// Parent: send this signal on.
    Signal(i32),
    /// Init: the master of the command's new terminal comes along.
    Terminal,
    /// Command: about to be executed; the packet carries its process id.
    Starting,
    /// Who asks for it: start this process (JSON). Its reply channel, standard input, output and error come along.
    Exec(String),
    /// Who asks for it: come back to the command. A reply channel comes along, and a pipe for what it prints.
    Attach,
    /// Parent, to who asked: here it is. The master of its terminal comes along, or its standard input, if there is one.
    Attached,
    /// Init: the command was executed.
    Running,
    /// Init: the command was stopped.
    Stopped,
    /// Anyone: the user should know.
    Warning(String),
    /// Anyone: this is why it failed.
    Failed(Error),
    /// Supervisor: everything is over, with this exit code.
    Ended(u8),
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// A received message.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: Message,
    /// The sender, in the receiver's pid namespace.
    pub(super) sender: Option<Pid>,
    /// Descriptors that came along.
    pub(super) fds: Vec<OwnedFd>,
}

/// The parent's end and the supervisor's.
pub(super) fn pair() -> Result<(Channel, Channel), Errno> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    setsockopt(&ours, PassCred, &true)?;
    Ok((Channel(ours), Channel(theirs)))
}

impl Channel {
    /// The end that came as a descriptor.
    pub(super) fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends; false if nobody is there to hear it.
    pub(super) fn send(&self, message: &Message) -> bool {
        self.send_packet(message, &[])
    }

    /// The same, with descriptors.
    pub(super) fn send_with(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> bool {
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.send_packet(message, &[ControlMessage::ScmRights(&fds)])
    }

    fn send_packet(&self, message: &Message, control: &[ControlMessage<'_>]) -> bool {
        let packet = encode(message);
        let flags = MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&packet)], control, flags, None) {
                Err(Errno::EINTR) => {}
                sent => return sent.is_ok(),
            }
        }
    }

    /// The next message; `None` when the other end is closed.
    pub(super) fn receive(&self) -> Result<Option<Received>, Errno> {
        // Only as much as has come: most packets are two bytes long.
        let mut buf = vec![0; self.next_len()?];
        let mut space = nix::cmsg_space!(libc::ucred, [RawFd; MAX_FDS]);
        let (len, sender, fds) = loop {
            let mut iov = [IoSliceMut::new(&mut buf)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Ok(r) => {
                    let (mut sender, mut fds) = (None, Vec::new());
                    for c in r.cmsgs()? {
                        match c {
                            ControlMessageOwned::ScmCredentials(c) => sender = Some(Pid::from_raw(c.pid())),
                            ControlMessageOwned::ScmRights(came) => fds.extend(came.into_iter().map(own)),
                            _ => {}
                        }
                    }
                    break (r.bytes, sender, fds);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Ok(None),
                Err(e) => return Err(e),
            }
        };
        if len == 0 {
            return Ok(None);
        }
        Ok(Some(Received { message: decode(&buf[..len]).ok_or(Errno::EBADMSG)?, sender, fds }))
    }

    /// The length of the next packet, once it is there; 0 when the other end is closed.
    fn next_len(&self) -> Result<usize, Errno> {
        loop {
            match recv(self.0.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Ok(0),
                len => return len,
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Message {
    /// The length of its packet.
    pub(super) fn len(&self) -> usize {
        encode(self).len()
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let (kind, number, text) = match message {
        Message::NeedMaps => (b'n', 0, String::new()),
        Message::MapsWritten => (b'm', 0, String::new()),
        Message::Signal(s) => (b'k', *s as u8, String::new()),
        Message::Terminal => (b't', 0, String::new()),
        Message::Starting => (b's', 0, String::new()),
        Message::NeedNetwork => (b'N', 0, String::new()),
        Message::Connected => (b'C', 0, String::new()),
        Message::Chown => (b'o', 0, String::new()),
        Message::Mounted => (b'M', 0, String::new()),
        Message::NeedLimits => (b'L', 0, String::new()),
        Message::Limited => (b'l', 0, String::new()),
        Message::Give(uid, gid) => (b'g', 0, format!("{uid}:{gid}")),
        Message::Given => (b'G', 0, String::new()),
        Message::Exec(process) => (b'x', 0, process.clone()),
        Message::Attach => (b'a', 0, String::new()),
        Message::Attached => (b'A', 0, String::new()),
        Message::Running => (b'r', 0, String::new()),
        Message::Stopped => (b'z', 0, String::new()),
        Message::Warning(w) => (b'w', 0, w.clone()),
        Message::Failed(e) => (b'f', e.code, format!("{}\0{}", e.text, e.hint.as_deref().unwrap_or(""))),
        Message::Ended(code) => (b'e', *code, String::new()),
    };
    let mut packet = vec![kind, number];
    packet.extend_from_slice(text.as_bytes());
    packet.truncate(MAX_PACKET);
    packet
}

fn decode(packet: &[u8]) -> Option<Message> {
    let [kind, number, text @ ..] = packet else { return None };
    let text = String::from_utf8_lossy(text);
    Some(match kind {
        b'n' => Message::NeedMaps,
        b'm' => Message::MapsWritten,
        b'k' => Message::Signal(i32::from(*number)),
        b't' => Message::Terminal,
        b's' => Message::Starting,
        b'N' => Message::NeedNetwork,
        b'C' => Message::Connected,
        b'o' => Message::Chown,
        b'M' => Message::Mounted,
        b'L' => Message::NeedLimits,
        b'l' => Message::Limited,
        b'g' => {
            let (uid, gid) = text.split_once(':')?;
            Message::Give(uid.parse().ok()?, gid.parse().ok()?)
        }
        b'G' => Message::Given,
        b'x' => Message::Exec(text.into_owned()),
        b'a' => Message::Attach,
        b'A' => Message::Attached,
        b'r' => Message::Running,
        b'z' => Message::Stopped,
        b'w' => Message::Warning(text.into_owned()),
        b'f' => {
            let (text, hint) = text.split_once('\0').unwrap_or((&text, ""));
            let hint = (!hint.is_empty()).then(|| hint.to_owned());
            Message::Failed(Error { text: text.to_owned(), hint, code: *number })
        }
        b'e' => Message::Ended(*number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_as_it_was() {
        let (a, b) = pair().unwrap();
        let failed = Error::new("mount /proc", "EPERM").hinted("try").coded(126);
        for m in [
            Message::NeedMaps,
            Message::MapsWritten,
            Message::Signal(15),
            Message::Starting,
            Message::Terminal,
            Message::Exec("{}".into()),
            Message::Running,
            Message::Attach,
            Message::Attached,
            Message::NeedNetwork,
            Message::Connected,
            Message::Chown,
            Message::Give(33, u32::MAX),
            Message::Given,
            Message::Mounted,
            Message::NeedLimits,
            Message::Limited,
            Message::Stopped,
            Message::Warning("w".into()),
            Message::Failed(failed),
            Message::Failed(Error::new("a", "b")),
            Message::Ended(255),
        ] {
            assert!(b.send(&m));
            let got = a.receive().unwrap().unwrap();
            assert_eq!((got.message, got.sender), (m.clone(), Some(Pid::this())));
            assert!(a.send(&m));
            assert_eq!(b.receive().unwrap().unwrap().message, m);
        }
        assert!(b.send_with(&Message::Terminal, &[std::io::stderr().as_fd()]));
        assert_eq!(a.receive().unwrap().unwrap().fds.len(), 1);
        drop(b);
        assert!(a.receive().unwrap().is_none());
        assert!(!a.send(&Message::NeedMaps));
    }
}
