//! The caller's side of the command's own terminal: what is typed goes in, what is printed comes out, the window's size
//! follows, and the caller's terminal is raw meanwhile: every key is the command's.

use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::attach::Watcher;
use crate::sys::process::{Fork, fork};

/// Where what the command prints is read.
#[derive(Debug)]
enum Prints {
    /// From the master.
    Master,
    /// Somebody else reads from that, and sends it on.
    SentOn(OwnedFd),
    /// Not here: it has no terminal, and what it is typed into is its standard input.
    Elsewhere,
}

/// Between the caller's standard input and output and the command's terminal.
#[derive(Debug)]
pub(super) struct Relay {
    master: OwnedFd,
    prints: Prints,
    /// Others who look at it.
    watchers: Vec<Watcher>,
    /// Standard input is passed on, and has not ended.
    input: bool,
    /// Read, and not yet taken by the terminal.
    pending: Vec<u8>,
    /// The command's end is closed.
    over: bool,
    /// How the caller's terminal was.
    before: Option<Termios>,
    keys: Keys,
}

/// Keys that, typed one after the other, are not the command's: they ask to be let go.
#[derive(Debug, Default)]
struct Keys {
    /// Empty: there are none.
    keys: Vec<u8>,
    /// So many of them were typed last, and are held back.
    typed: usize,
    /// All of them were.
    done: bool,
}

impl Keys {
    /// What of `bytes` is the command's, with what was held back for nothing.
    fn filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.done || self.keys.is_empty() {
                passed.push(*byte);
                continue;
            }
            if *byte != self.keys[self.typed] {
                passed.extend_from_slice(&self.keys[..self.typed]);
                self.typed = 0;
            }
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                self.done = self.typed == self.keys.len();
            } else {
                passed.push(*byte);
            }
        }
        passed
    }
}

type Done = Result<(), rustix::io::Errno>;

impl Relay {
    /// Takes the master; the caller's terminal becomes raw if `input` is passed on from one.
    pub(super) fn new(master: OwnedFd, input: bool, keys: &[u8]) -> Result<Self, rustix::io::Errno> {
        Self::between(master, Prints::Master, input, keys)
    }

    /// The same for a command that somebody else holds the terminal of, who sends on what it `prints`; or for one without:
    /// `to` is its standard input.
    pub(super) fn back(
        to: OwnedFd,
        prints: Option<OwnedFd>,
        input: bool,
        keys: &[u8],
    ) -> Result<Self, rustix::io::Errno> {
        if let Some(prints) = &prints {
            rustix::io::ioctl_fionbio(prints, true)?;
        }
        Self::between(to, prints.map_or(Prints::Elsewhere, Prints::SentOn), input, keys)
    }

    fn between(master: OwnedFd, prints: Prints, input: bool, keys: &[u8]) -> Result<Self, rustix::io::Errno> {
        // A command that does not read must not keep what it prints from being seen.
        rustix::io::ioctl_fionbio(&master, true)?;
        let mut relay = Self {
            master,
            prints,
            watchers: Vec::new(),
            input,
            pending: Vec::new(),
            over: false,
            before: None,
            keys: Keys::default(),
        };
        relay.resize()?;
        if input && !matches!(relay.prints, Prints::Elsewhere) && stdin().is_terminal() {
            let before = tcgetattr(stdin())?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
            relay.before = Some(before);
            relay.keys.keys = keys.to_vec();
        }
        Ok(relay)
    }

    /// The window of the caller's has another size.
    pub(super) fn resize(&self) -> Done {
        match tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin())) {
            Ok(size) if !matches!(self.prints, Prints::Elsewhere) => tcsetwinsize(&self.master, size),
            // Neither is a terminal.
            _ => Ok(()),
        }
    }

    /// Who looks at it from now on, too.
    pub(super) fn show_to(&mut self, watcher: Watcher) {
        self.watchers.push(watcher);
    }

    /// What to wait for beside standard input: the terminal to be read or written, those who look to have read.
    pub(super) fn wants(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut wants: Vec<_> = self.watchers.iter().filter_map(Watcher::wants).collect();
        if self.over {
            return wants;
        }
        let write = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let read = if self.is_held_up() { PollFlags::empty() } else { PollFlags::POLLIN };
        match &self.prints {
            Prints::Master => wants.push((self.master.as_fd(), read | write)),
            Prints::SentOn(prints) => wants.extend([(prints.as_fd(), read), (self.master.as_fd(), write)]),
            Prints::Elsewhere => wants.push((self.master.as_fd(), write)),
        }
        wants.retain(|(_, events)| !events.is_empty());
        wants
    }

    /// Standard input is waited for.
    pub(super) fn wants_input(&self) -> bool {
        self.input && !self.over && self.pending.is_empty()
    }

    fn is_held_up(&self) -> bool {
        self.watchers.iter().any(Watcher::is_full)
    }

    pub(super) fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Passes on what is there, in both directions.
    pub(super) fn pass(&mut self, input_ready: bool) -> Done {
        if input_ready && self.input {
            let mut buf = [0; 4096];
            match read(stdin(), &mut buf) {
                Ok(0) => {
                    self.input = false;
                    // Others may still type into what is not ours.
                    if self.before.is_none() && matches!(self.prints, Prints::Master) {
                        // The end of a file is the key that says so, at the beginning of a line.
                        self.pending.push(END_OF_FILE);
                    }
                }
                Ok(n) => self.pending.extend(self.keys.filter(&buf[..n])),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                // The caller's terminal has hung up.
                Err(_) => self.input = false,
            }
        }
        if !self.pending.is_empty() && !self.over {
            match write(&self.master, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => self.over = true,
            }
        }
        self.print()
    }

    fn print(&mut self) -> Done {
        let mut buf = [0; 16 * 1024];
        self.watchers.retain_mut(|w| w.show(&[]));
        while !self.over && !self.is_held_up() {
            let from = match &self.prints {
                Prints::Master => &self.master,
                Prints::SentOn(prints) => prints,
                Prints::Elsewhere => return Ok(()),
            };
            match read(from, &mut buf) {
                Ok(n) if n > 0 => {
                    self.watchers.retain_mut(|w| w.show(&buf[..n]));
                    write_all(&buf[..n])?;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // EIO: nobody has the other end open any more.
                Ok(_) | Err(_) => self.over = true,
            }
        }
        Ok(())
    }

    /// Whether the keys that ask for it were typed.
    pub(super) fn is_left(&self) -> bool {
        self.keys.done
    }

    /// They are not obeyed: from now on everything is the command's.
    pub(super) fn stay(&mut self) {
        self.keys = Keys::default();
    }

    /// Gives the caller's terminal back and goes on without it, in a new process of a session of its own: this one is
    /// that, or (true) the one the caller waits for.
    pub(super) fn leave(&mut self) -> Result<bool, rustix::io::Errno> {
        self.print()?;
        self.restore()?;
        if !matches!(self.prints, Prints::Master) {
            // It is held by somebody else.
            return Ok(true);
        }
        self.input = false;
        self.stay();
        let (gone, going) = pipe_with(PipeFlags::CLOEXEC)?;
        if fork()? != Fork::Child {
            drop(going);
            // Until it has gone: with our end the terminal may hang up, which it must not take for its own.
            while read(&gone, &mut [0; 1]) == Err(rustix::io::Errno::INTR) {}
            return Ok(true);
        }
        rustix::process::setsid()?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        Ok(false)
    }

    /// Everything is over: prints what is left, and gives the caller's terminal back as it was.
    pub(super) fn end(mut self) -> Done {
        let printed = self.print();
        self.watchers.drain(..).for_each(Watcher::end);
        self.restore().and(printed)
    }

    fn restore(&mut self) -> Done {
        match self.before.take() {
            Some(before) => tcsetattr(stdin(), OptionalActions::Drain, &before),
            None => Ok(()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Err(e) = self.restore() {
            log::warn!("the terminal could not be set back: {e}");
        }
    }
}

/// ^D, termios(3).
const END_OF_FILE: u8 = 4;

fn write_all(mut bytes: &[u8]) -> Done {
    while !bytes.is_empty() {
        match write(stdout(), bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let stdout = stdout();
                let mut fds = [rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut fds, None)?;
            }
            // Whoever closed it does not want to know.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::IO) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_held_back_until_they_are_another_word() {
        let keys = |keys: &[u8]| Keys { keys: keys.to_vec(), ..Keys::default() };
        let mut k = keys(&[16, 17]);
        assert_eq!((k.filter(b"a\x10"), k.done), (b"a".to_vec(), false));
        assert_eq!((k.filter(b"b"), k.done), (b"\x10b".to_vec(), false));
        // The first one twice: the second may be the beginning.
        assert_eq!((k.filter(b"\x10\x10\x11x"), k.done), (b"\x10x".to_vec(), true));
        assert_eq!((keys(&[]).filter(b"\x10\x11"), keys(b"q").filter(b"q")), (b"\x10\x11".to_vec(), Vec::new()));
    }
}
