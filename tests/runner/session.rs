//! Programs on a terminal.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A shell on a terminal of its own.
pub(super) struct Session {
    child: std::process::Child,
    pub(super) terminal: std::fs::File,
    pub(super) seen: String,
}

impl Session {
    pub(super) fn start(command: &Command) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut c = Command::new("setsid");
        c.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env("PS1", "$ ");
        c.stdin(slave()).stdout(slave()).stderr(slave());
        let child = c.spawn().unwrap();
        Self { child, terminal: pty.master.into(), seen: String::new() }
    }

    pub(super) fn expect(&mut self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.seen.contains(what) {
            use std::os::fd::AsFd;
            let mut fds = [nix::poll::PollFd::new(self.terminal.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, 200u16).unwrap();
            if fds[0].any().unwrap() {
                let mut buf = [0; 4096];
                let n = self.terminal.read(&mut buf).unwrap_or(0);
                self.seen.push_str(&String::from_utf8_lossy(&buf[..n]));
            }
            assert!(Instant::now() < deadline, "no {what:?} in {:?}", self.seen);
        }
        let at = self.seen.find(what).unwrap() + what.len();
        self.seen.drain(..at);
    }

    pub(super) fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(super) fn say(&mut self, what: &str) {
        self.terminal.write_all(what.as_bytes()).unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
