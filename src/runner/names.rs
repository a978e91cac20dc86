//! What names stand for inside: resolv.conf(5) and hosts(5).

use std::net::{IpAddr, Ipv4Addr};

use super::Network;

/// Of what the machine's files say, what is another inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The servers to ask, for those of the machine.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried behind a name, for those of the machine; one that is `.`: none are.
    pub search: Vec<String>,
    /// Options of resolv.conf(5), for those of the machine.
    pub options: Vec<String>,
    /// Names and their addresses beside those of the machine; `None` stands for the machine, as seen from inside.
    pub hosts: Vec<(String, Option<IpAddr>)>,
    /// What the machine is seen at, where that is asked for: found out when the run begins.
    pub machine: Option<IpAddr>,
}

/// Where slirp4netns(1) answers.
const SLIRP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
/// Where pasta(1) sends questions on to the machine's server: what lies on the machine's loopback can't be reached otherwise.
pub(super) const FORWARDED: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

impl Names {
    /// Something is another in resolv.conf.
    pub(super) fn changes_resolver(&self) -> bool {
        !(self.servers.is_empty() && self.search.is_empty() && self.options.is_empty())
    }

    /// The text of resolv.conf inside by that of the machine.
    pub(super) fn resolver(&self, machine: &str, network: Network) -> String {
        let word = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let named = machine.lines().filter(|l| word(l) == "nameserver");
        let named: Vec<IpAddr> = named.filter_map(|l| l.split_whitespace().nth(1)?.parse().ok()).collect();
        let mut servers = self.servers.clone();
        if servers.is_empty() {
            let reached = |s: &IpAddr| if s.is_ipv4() && s.is_loopback() { FORWARDED.into() } else { *s };
            servers = match network {
                Network::Slirp4netns => vec![SLIRP],
                Network::Pasta => named.iter().map(reached).collect(),
                Network::Host | Network::None => named.clone(),
            };
        }
        if servers == named && !self.changes_resolver() {
            return machine.to_owned();
        }
        servers.dedup();
        let kept = |line: &&str| match word(line).as_str() {
            "nameserver" => false,
            "search" | "domain" => self.search.is_empty(),
            "options" => self.options.is_empty(),
            _ => true,
        };
        let mut lines: Vec<String> = machine.lines().filter(kept).map(str::to_owned).collect();
        if !self.search.is_empty() && self.search != ["."] {
            lines.push(format!("search {}", self.search.join(" ")));
        }
        lines.extend(servers.iter().map(|s| format!("nameserver {s}")));
        if !self.options.is_empty() {
            lines.push(format!("options {}", self.options.join(" ")));
        }
        lines.iter().map(|l| format!("{l}\n")).collect()
    }

    /// One of the names stands for the machine.
    pub fn names_machine(&self) -> bool {
        self.hosts.iter().any(|(_, address)| address.is_none())
    }

    /// Lines of hosts.
    pub(super) fn hosts(&self) -> String {
        let known = self.hosts.iter().filter_map(|(name, address)| Some((name, address.or(self.machine)?)));
        known.map(|(name, address)| format!("{address}\t{name}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "# ours\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.1\noptions edns0\n";

    #[test]
    fn the_machines_is_adapted_to_the_network() {
        let of = |network| Names::default().resolver(MACHINE, network);
        assert_eq!(of(Network::Host), MACHINE);
        assert!(of(Network::Pasta).ends_with("nameserver 169.254.1.1\nnameserver 192.0.2.1\n"));
        assert!(of(Network::Slirp4netns).ends_with("options edns0\nnameserver 10.0.2.3\n"));
        assert_eq!(Names::default().resolver("", Network::Host), "");
    }

    #[test]
    fn what_is_given_comes_instead() {
        let words = |w: &[&str]| w.iter().map(|w| (*w).to_owned()).collect();
        let names = Names {
            servers: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            search: words(&["a.example", "b.example"]),
            options: words(&["ndots:2"]),
            hosts: vec![("db".to_owned(), Some(SLIRP)), ("outside".to_owned(), None)],
            machine: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        let want = "# ours\nsearch a.example b.example\nnameserver 127.0.0.1\noptions ndots:2\n";
        assert_eq!(names.resolver(MACHINE, Network::Slirp4netns), want);
        assert_eq!(names.hosts(), "10.0.2.3\tdb\n127.0.0.1\toutside\n");
        let none = Names { search: words(&["."]), ..Names::default() };
        assert!(!none.resolver(MACHINE, Network::Host).contains("search") && none.changes_resolver());
    }
}
