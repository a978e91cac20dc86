//! The door of a running container: a socket that its monitor (the parent) listens on, for who may write to the
//! container's directory. A request is one packet; what follows of an `exec` goes on between the one who asks and init.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen, socket, sockopt,
};
use rustix::fs::{Mode, OFlags};

use super::channel::{self, Channel, Message, Received};
use super::parent::poll_all;
use super::relay::Relay;
use super::signals::Signals;
use super::{Error, Process};

/// Its name in the container's directory.
const NAME: &str = "control";

/// The listening end.
#[derive(Debug)]
pub struct Control(OwnedFd);

/// The address of the socket in a directory, however long the directory's name is: unix(7) has 108 bytes for it.
fn address(dir: &Path) -> Result<(OwnedFd, UnixAddr), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    let path = format!("/proc/self/fd/{}/{NAME}", fd.as_raw_fd());
    Ok((fd, UnixAddr::new(path.as_str())?))
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

impl Control {
    /// Listens in `dir`, the container's, which the caller has to themselves. What an earlier run left is replaced.
    ///
    /// # Errors
    /// The socket can't be made there.
    pub fn listen(dir: &Path) -> Result<Self, Error> {
        let fail = |e: Errno| Error::new(format_args!("listen in {}", dir.display()), e);
        match std::fs::remove_file(dir.join(NAME)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::new(format_args!("remove {}/{NAME}", dir.display()), e));
            }
            _ => {}
        }
        let (_dir, address) = address(dir).map_err(fail)?;
        let socket = new_socket().map_err(fail)?;
        // Nobody else ever gets in, not even for an instant.
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = bind(socket.as_raw_fd(), &address);
        rustix::process::umask(before);
        bound.and_then(|()| listen(&socket, Backlog::new(16)?)).map_err(fail)?;
        Ok(Self(socket))
    }

    /// The next request, from one who is the same user or root; `None` if there was none that made sense.
    pub(super) fn accept(&self) -> Result<Option<Received>, Errno> {
        let connection = match accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => crate::sys::fd::own(fd),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => return Ok(None),
            Err(e) => return Err(e),
        };
        let peer = getsockopt(&connection, sockopt::PeerCredentials)?;
        let own = nix::unistd::geteuid().as_raw();
        if peer.uid() != own && peer.uid() != 0 {
            return Ok(None);
        }
        // One who says nothing keeps nobody waiting.
        nix::sys::socket::setsockopt(&connection, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(1, 0))?;
        match Channel::of(connection).receive() {
            Ok(request) => Ok(request),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::EBADMSG) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn ask(dir: &Path, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let fail = |e: Errno| Error::new("the container's monitor", e).hinted("it is about to start or to end: try again");
    let (opened, address) = address(dir).map_err(fail)?;
    let socket = new_socket().map_err(fail)?;
    connect(socket.as_raw_fd(), &address).map_err(fail)?;
    // A directory may be handed on to the next container: who listens in it is ours if it has its place still.
    let same = |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let here = rustix::fs::stat(dir).and_then(|now| Ok(same(now, rustix::fs::fstat(&opened)?)));
    if !here.unwrap_or(false) {
        return Err(fail(Errno::ECONNREFUSED));
    }
    if Channel::of(socket).send_with(message, fds) { Ok(()) } else { Err(fail(Errno::EPIPE)) }
}

/// Sends `signal` to the command of the container in `dir`; `SIGKILL` ends all that runs in it.
///
/// # Errors
/// Nobody listens there.
pub fn signal(dir: &Path, signal: Signal) -> Result<(), Error> {
    ask(dir, &Message::Signal(signal as i32), &[])
}

/// Starts one more process in the running container in `dir`, with the caller's standard input, output and error (or a
/// terminal of its own), and waits for its end: the exit code. With `wait` off it is only started.
///
/// # Errors
/// Nobody listens there; the process can't be started: [`Error::exit_code`] is 125, 126 or 127.
pub fn exec(dir: &Path, process: &Process, wait: bool) -> Result<i32, Error> {
    let (ours, theirs) = channel::pair().map_err(|e| Error::new("socketpair", e))?;
    let json = serde_json::to_string(process).map_err(|e| Error::new("exec", e))?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Error::new("open /dev/null", e))?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let fds = [
        theirs.as_fd(),
        if wait && process.stdin { stdin.as_fd() } else { null.as_fd() },
        if wait { stdout.as_fd() } else { null.as_fd() },
        if wait { stderr.as_fd() } else { null.as_fd() },
    ];
    let message = Message::Exec(json);
    if message.len() > channel::MAX_PACKET {
        return Err(Error::new("exec", "the command and its environment are too long"));
    }
    ask(dir, &message, &fds)?;
    drop(theirs);
    let talked = Talk {
        stdin: process.stdin && wait,
        detach_keys: &process.detach_keys,
        wait,
        prints: None,
        attached: None,
        follow: None,
    };
    talk(&ours, talked)
}

/// What the caller's side of a process has to know.
pub(super) struct Talk<'a> {
    /// Standard input is passed on.
    pub(super) stdin: bool,
    /// Leave it, from the caller's terminal.
    pub(super) detach_keys: &'a [u8],
    /// Until its end, not only until it runs.
    pub(super) wait: bool,
    /// What its terminal prints, where others read from that.
    pub(super) prints: Option<OwnedFd>,
    /// The container whose command gets the signals that would end us.
    pub(super) attached: Option<&'a Path>,
    /// Prints what is kept elsewhere.
    pub(super) follow: Option<&'a mut dyn FnMut() -> std::io::Result<()>>,
}

/// How often it is looked for what is kept elsewhere, milliseconds.
const GLANCE: u8 = 30;

/// The caller's side of a process started by [`exec`], or come back to.
pub(super) fn talk(channel: &Channel, mut how: Talk<'_>) -> Result<i32, Error> {
    let signals = Signals::block().map_err(|e| Error::new("signalfd", e))?;
    let mut relay: Option<Relay> = None;
    let mut outcome = None;
    while outcome.is_none() {
        let patience = if how.follow.is_some() { PollTimeout::from(GLANCE) } else { PollTimeout::NONE };
        let ready =
            poll_all(&signals, Some(channel), relay.as_ref(), None, patience).map_err(|e| Error::call("poll", e))?;
        if let Some(follow) = &mut how.follow {
            follow().map_err(|e| Error::call("log", e))?;
        }
        while let Some(signal) = signals.next().map_err(|e| Error::new("signalfd", e))? {
            match (signal, &relay) {
                (Signal::SIGWINCH, Some(relay)) => relay.resize().map_err(|e| Error::new("window size", e))?,
                (Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT | Signal::SIGUSR1 | Signal::SIGUSR2, _)
                    if let Some(dir) = how.attached =>
                {
                    self::signal(dir, signal)?;
                }
                // As docker's: the process inside is not ours to signal. Nor does it end with our terminal.
                (Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT, _) => {
                    outcome = Some(Ok(128 + signal as i32));
                }
                _ => {}
            }
        }
        if let Some(relay) = relay.as_mut().filter(|_| ready.relayed || ready.input) {
            relay.pass(ready.input).map_err(|e| Error::new("terminal", e))?;
        }
        // Somebody has to hold the terminal of what goes on.
        if let Some(relay) = relay.as_mut().filter(|r| r.is_left())
            && relay.leave().map_err(|e| Error::new("detach", e))?
        {
            return Ok(0);
        }
        if !ready.message {
            continue;
        }
        let Some(received) = channel.receive().map_err(|e| Error::new("receive", e))? else {
            outcome = outcome.or_else(|| Some(Err(Error::new("exec", "the container has ended"))));
            continue;
        };
        match received.message {
            Message::Terminal => {
                let master = received.fds.into_iter().next();
                let master = master.ok_or_else(|| Error::new("new terminal", "did not come along"))?;
                let made = Relay::new(master, how.stdin, how.detach_keys);
                relay = Some(made.map_err(|e| Error::new("terminal", e))?);
            }
            Message::Attached => {
                if let Some(to) = received.fds.into_iter().next() {
                    let made = Relay::back(to, how.prints.take(), how.stdin, how.detach_keys);
                    relay = Some(made.map_err(|e| Error::new("terminal", e))?);
                }
            }
            Message::Running if !how.wait => outcome = Some(Ok(0)),
            Message::Failed(e) => outcome = Some(Err(e)),
            Message::Ended(code) => outcome = Some(Ok(i32::from(code))),
            _ => {}
        }
    }
    if let Some(follow) = &mut how.follow {
        follow().map_err(|e| Error::call("log", e))?;
    }
    if let Some(relay) = relay {
        relay.end().map_err(|e| Error::new("terminal", e))?;
    }
    signals.restore().map_err(|e| Error::new("sigprocmask", e))?;
    outcome.unwrap_or(Ok(0))
}
