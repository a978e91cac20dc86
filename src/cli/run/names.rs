//! Flags about names inside.

use std::net::IpAddr;

use clap::{ArgAction, Args};

use super::values::ArgError;
use crate::runner::{Names, Network};

#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(in crate::cli) struct NameArgs {
    /// Ask this server for names, and none of the machine's
    #[arg(long, value_name = "ADDR", action = ArgAction::Append, help_heading = "Network")]
    pub(in crate::cli) dns: Vec<String>,

    /// Try this domain behind names, and none of the machine's; . is none
    #[arg(long, value_name = "DOMAIN", action = ArgAction::Append, help_heading = "Network")]
    pub(in crate::cli) dns_search: Vec<String>,

    /// An option of resolv.conf(5), instead of the machine's
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", action = ArgAction::Append, help_heading = "Network")]
    pub(in crate::cli) dns_option: Vec<String>,

    /// One more name inside, and what it stands for; host-gateway is this machine
    #[arg(long, value_name = "NAME:ADDR", action = ArgAction::Append, help_heading = "Network")]
    pub(in crate::cli) add_host: Vec<String>,
}

impl NameArgs {
    pub(super) fn names(&self, network: Network) -> Result<Names, ArgError> {
        let servers = self.dns.iter().map(|text| {
            text.parse::<IpAddr>()
                .map_err(|_| ArgError::value("dns", text, "not an address").hint("the server's number: 192.0.2.53"))
        });
        let hosts = self.add_host.iter().map(|text| host(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some((name, _)) = hosts.iter().find(|(_, address)| address.is_none() && network == Network::None) {
            return Err(ArgError::value(
                "add-host",
                format!("{name}:{GATEWAY}"),
                "without a network there is no machine",
            )
            .hint("--network pasta, slirp4netns or host"));
        }
        Ok(Names {
            servers: servers.collect::<Result<_, _>>()?,
            search: words("dns-search", &self.dns_search)?,
            options: words("dns-option", &self.dns_option)?,
            hosts,
            machine: None,
        })
    }
}

/// Each is one word: a line of its own would say something else.
fn words(flag: &'static str, given: &[String]) -> Result<Vec<String>, ArgError> {
    match given.iter().find(|w| w.is_empty() || w.contains(|c: char| c.is_whitespace() || c.is_control())) {
        Some(bad) => Err(ArgError::value(flag, bad, "not one word").hint("repeat the flag for more")),
        None => Ok(given.to_vec()),
    }
}

/// What docker calls the machine.
const GATEWAY: &str = "host-gateway";

/// `NAME:ADDR` or `NAME=ADDR`, as docker's; the address may stand in brackets, and be that of the machine.
fn host(text: &str) -> Result<(String, Option<IpAddr>), ArgError> {
    let bad = |why: &str| ArgError::value("add-host", text, why);
    let shape = || bad("not NAME:ADDR").hint("db:192.0.2.7, db:[fd00::7]");
    let (name, address) = text.split_once(['=', ':']).ok_or_else(shape)?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(shape());
    }
    if address == GATEWAY {
        return Ok((name.to_owned(), None));
    }
    let plain = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    Ok((name.to_owned(), Some(plain.parse().map_err(|_| shape())?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_addresses() {
        for (text, want) in [
            ("db:192.0.2.7", "192.0.2.7"),
            ("db=192.0.2.7", "192.0.2.7"),
            ("db:fd00::7", "fd00::7"),
            ("db:[::1]", "::1"),
        ] {
            assert_eq!(host(text).unwrap(), ("db".to_owned(), Some(want.parse().unwrap())));
        }
        for bad in ["db", "db:", ":1.2.3.4", "db:web", "a b:1.2.3.4", "a\nb:1.2.3.4"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let of = |flag: &str, text: &str| {
            let pick = |name: &str| if flag == name { vec![text.to_owned()] } else { Vec::new() };
            NameArgs {
                dns: pick("dns"),
                dns_search: pick("search"),
                dns_option: pick("option"),
                add_host: pick("host"),
            }
            .names(Network::Host)
        };
        for (flag, good, bad) in [
            ("dns", "::1", "one"),
            ("search", "a.example", "a b"),
            ("option", "ndots:1", "a\nnameserver 1"),
            ("host", "a:::1", "a"),
        ] {
            assert!(of(flag, good).is_ok() && of(flag, bad).is_err(), "{flag}");
        }
    }
}
