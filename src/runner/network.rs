//! A network without root: a program of this machine's that stands between the new network namespace and the machine's
//! sockets. pasta(1) of package passt, or slirp4netns(1).
//!
//! It runs beside the parent, outside of every namespace of the run, and is ended when the run is over.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
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
    /// `machine` is what the machine is to be reached at, if it is.
    pub(super) fn new(
        network: Network,
        ports: &[Port],
        machine: Option<IpAddr>,
        pid: Pid,
        dir: &Path,
    ) -> Result<Self, Error> {
        match network {
            Network::Pasta => pasta(ports, machine, pid, dir),
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
    if matches!(network, Network::Host | Network::None) || find(program).is_some() {
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

/// Where the machine is reached from a network inside, as docker's `host-gateway`.
pub(super) fn machine_from(network: Network) -> Result<IpAddr, Error> {
    let lost = |why: &str| Error::new("host-gateway", why).hinted("name the address: --add-host NAME:ADDR");
    match network {
        Network::None => Err(lost("there is no network inside").hinted("--network pasta, slirp4netns or host")),
        Network::Host => Ok(own_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        // Its own way to the machine leads to the loopback, which stays closed.
        Network::Slirp4netns => own_address().ok_or_else(|| lost("the machine has no address that others reach")),
        Network::Pasta if maps_machine() => Ok(MACHINE),
        Network::Pasta => {
            let routes = std::fs::read_to_string("/proc/net/route").map_err(|e| Error::new("/proc/net/route", e))?;
            gateway(&routes)
                .map(IpAddr::V4)
                .ok_or_else(|| lost("the machine has no gateway, whose address it could have"))
        }
    }
}

/// Where pasta(1) shows the machine's own address, which is that of the inside, too.
const MACHINE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 2));

/// Whether pasta can; an old one has nothing but the gateway's address, which leads to the machine's loopback.
fn maps_machine() -> bool {
    Command::new("pasta").arg("--help").stdin(Stdio::null()).output().is_ok_and(|out| {
        [out.stdout, out.stderr].iter().any(|said| String::from_utf8_lossy(said).contains("--map-guest-addr"))
    })
}

/// The address that the machine speaks to others from. Nothing is sent for that.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// The gateway of the default route, as proc_net(5) has it.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (to, by) = (words.next()?, words.next()?);
        let by = u32::from_str_radix(by, 16).ok()?;
        (to == "00000000" && by != 0).then(|| Ipv4Addr::from(by.to_ne_bytes()))
    })
}

fn pasta(ports: &[Port], machine: Option<IpAddr>, pid: Pid, dir: &Path) -> Result<Connection, Error> {
    let note = dir.join("pasta.pid");
    let mut command = command("pasta");
    if nix::unistd::geteuid().is_root() {
        // Nobody, whom it would become, may not look at our namespaces.
        command.args(["--runas", "0:0"]);
    }
    command.args(["--foreground", "--quiet", "--config-net"]);
    match machine {
        None => drop(command.arg("--no-map-gw")),
        Some(MACHINE) => drop(command.args(["--no-map-gw", "--map-guest-addr"]).arg(MACHINE.to_string())),
        // The gateway's address, which it maps by itself.
        Some(_) => {}
    }
    command.arg("--pid").arg(&note);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_routes_gateway() {
        let head = "Iface\tDestination\tGateway \tFlags\n";
        let table = format!("{head}eth0\t000200C0\t00000000\t0001\neth0\t00000000\t010200C0\t0003\n");
        let want = Ipv4Addr::from(0x0102_00c0_u32.to_ne_bytes());
        assert_eq!((gateway(&table), gateway(head)), (Some(want), None));
    }
}
