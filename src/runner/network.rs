//! A network without root: a program of this machine's that stands between the new network namespace and the machine's
//! sockets. pasta(1) of package passt, or slirp4netns(1).
//!
//! It runs beside the parent, outside of every namespace of the run, and is ended when the run is over.

use std::fmt;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::names::FORWARDED;
use super::{Error, Network};

/// A port of the machine's that leads to one inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The machine's address it is bound to.
    pub address: Ipv4Addr,
    /// The machine's port.
    pub machine: u16,
    /// The one inside.
    pub inside: u16,
    /// UDP, not TCP.
    pub udp: bool,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.udp { "udp" } else { "tcp" };
        write!(f, "{}:{}:{}/{protocol}", self.address, self.machine, self.inside)
    }
}

/// The program at work.
#[derive(Debug)]
pub(super) struct Connection(Child);

/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

impl Connection {
    /// Connects the network namespace of process `pid`, and waits until it is. `dir` is for files the program wants.
    pub(super) fn new(network: Network, ports: &[Port], pid: Pid, dir: &Path) -> Result<Self, Error> {
        match network {
            Network::Pasta => pasta(ports, pid, dir),
            Network::Slirp4netns => slirp4netns(ports, pid, dir),
            Network::Host | Network::None => Err(Error::new("network", "needs no program")),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It may have ended with the namespace.
        if let Err(e) = self.0.kill().and_then(|()| self.0.wait()) {
            log::debug!("network: {e}");
        }
    }
}

fn package(network: Network) -> (&'static str, &'static str) {
    match network {
        Network::Slirp4netns => ("slirp4netns", "slirp4netns"),
        _ => ("pasta", "passt"),
    }
}

/// Whether the program of this network is installed.
pub(super) fn check(network: Network) -> Result<(), Error> {
    let (program, package) = package(network);
    let found = find(program).is_some();
    if found || matches!(network, Network::Host | Network::None) {
        return Ok(());
    }
    Err(Error::new(format_args!("network {program}"), "the program is not installed")
        .hinted(format!("install the package {package}, or --network host or none")))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// `program`, to be killed when we are: it is of no use to anybody then.
fn command(program: &str) -> Command {
    let mut command = match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--", program]);
            command
        }
        None => Command::new(program),
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn spawn(command: &mut Command, what: &str) -> Result<Child, Error> {
    command.spawn().map_err(|e| Error::new(format_args!("network {what}"), e))
}

/// What it said on its way out.
fn failed(what: &str, mut child: Child) -> Error {
    child.kill().ok();
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).ok();
    }
    child.wait().ok();
    let last = said.lines().rev().find(|l| !l.trim().is_empty() && !l.contains("syslog")).unwrap_or("ended").to_owned();
    let error = Error::new(format_args!("network {what}"), last.trim());
    if last.contains("tun") || last.contains("Operation not permitted") {
        return error.hinted("/dev/net/tun must be yours to open: chmod 666 /dev/net/tun");
    }
    error.hinted("is a port taken already, or below 1024?")
}

fn pasta(ports: &[Port], pid: Pid, dir: &Path) -> Result<Connection, Error> {
    let note = dir.join("pasta.pid");
    let mut command = command("pasta");
    if nix::unistd::geteuid().is_root() {
        // Nobody, whom it would become, may not look at our namespaces.
        command.args(["--runas", "0:0"]);
    }
    command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw", "--pid"]).arg(&note);
    for (flag, udp) in [("--tcp-ports", false), ("--udp-ports", true)] {
        let chosen: Vec<_> = ports.iter().filter(|p| p.udp == udp).collect();
        if chosen.is_empty() {
            command.args([flag, "none"]);
        }
        for port in chosen {
            let address = if port.address.is_unspecified() { String::new() } else { format!("{}/", port.address) };
            command.arg(flag).arg(format!("{address}{}:{}", port.machine, port.inside));
        }
    }
    command.arg("--dns-forward").arg(FORWARDED.to_string());
    // Towards the machine's own loopback nothing is open but its server of names.
    command.args(["--tcp-ns", "none", "--udp-ns", "none"]).arg(pid.to_string());
    let mut child = spawn(&mut command, "pasta")?;
    let until = Instant::now() + PATIENCE;
    // It writes its process id there once everything is set up.
    while !std::fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n')) {
        let ended = !matches!(child.try_wait(), Ok(None));
        if ended || Instant::now() > until {
            return Err(failed("pasta", child));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::fs::remove_file(&note).map_err(|e| Error::new(format_args!("remove {}", note.display()), e))?;
    Ok(Connection(child))
}

fn slirp4netns(ports: &[Port], pid: Pid, dir: &Path) -> Result<Connection, Error> {
    let socket = dir.join("slirp");
    let mut command = command("slirp4netns");
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd=1"]);
    if !ports.is_empty() {
        command.arg("--api-socket").arg(&socket);
    }
    command.arg(pid.to_string()).arg("tap0").stdout(Stdio::piped());
    let mut child = spawn(&mut command, "slirp4netns")?;
    let ready = child.stdout.take().is_some_and(|mut out| matches!(out.read(&mut [0]), Ok(1)));
    if !ready {
        return Err(failed("slirp4netns", child));
    }
    let connection = Connection(child);
    for port in ports {
        forward(&socket, port)?;
    }
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(format_args!("remove {}", socket.display()), e))
        }
        _ => Ok(connection),
    }
}

/// One request of slirp4netns's API.
fn forward(socket: &Path, port: &Port) -> Result<(), Error> {
    let fail = |why: String| Error::new(format_args!("publish port {port}"), why).hinted("is the port taken already?");
    let request = serde_json::json!({ "execute": "add_hostfwd", "arguments": {
        "proto": if port.udp { "udp" } else { "tcp" }, "host_addr": port.address.to_string(),
        "host_port": port.machine, "guest_port": port.inside } });
    let mut stream = std::os::unix::net::UnixStream::connect(socket).map_err(|e| fail(e.to_string()))?;
    let mut answer = String::new();
    let asked = stream.write_all(request.to_string().as_bytes());
    let asked = asked.and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    asked.and_then(|()| stream.read_to_string(&mut answer)).map_err(|e| fail(e.to_string()))?;
    if answer.contains("\"error\"") { Err(fail(answer.trim().to_owned())) } else { Ok(()) }
}
