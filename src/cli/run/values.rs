//! Values of flags, and what is wrong with them.

use std::ffi::OsStr;
use std::fmt::Display;

use crate::cli::error::Error;
use crate::runner::{Limit, LimitName, Port};

/// What of the arguments makes no sense, one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} {value}: {why}")]
pub(in crate::cli) struct ArgError {
    flag: &'static str,
    value: String,
    why: String,
    hint: Option<String>,
}

impl ArgError {
    /// A value of `--flag`, and what is wrong with it.
    pub(in crate::cli) fn value(flag: &'static str, value: impl AsRef<OsStr>, why: impl Display) -> Self {
        let value = value.as_ref().to_string_lossy().into_owned();
        Self { flag, value, why: why.to_string(), hint: None }
    }

    /// The same, with something that may help.
    pub(in crate::cli) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ArgError> for Error {
    fn from(e: ArgError) -> Self {
        let help = || format!("onlay run --help tells what --{} takes", e.flag);
        Self::new(&e).hint(e.hint.clone().unwrap_or_else(help))
    }
}

/// A number of bytes: digits, and b, k, m, g or t behind them, as docker and podman take it.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 10),
        (at, 'm') => (&text[..at], 20),
        (at, 'g') => (&text[..at], 30),
        (at, 't') => (&text[..at], 40),
        _ => (text, 0),
    };
    match digits.parse::<u64>() {
        Ok(n) => n.checked_mul(1 << shift),
        // 1.5g: to the 1024th of a unit.
        Err(_) => {
            let (whole, part) = digits.split_once('.')?;
            let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
            let part = format!("0.{part}").parse::<f64>().ok().filter(|n| (0.0..1.0).contains(n))?;
            whole.checked_add(((part * 1024.0) as u64) << shift >> 10)
        }
    }
}

/// `[ADDR:]HOST:CONTAINER[/tcp|/udp]`.
pub(super) fn port(text: &str) -> Result<Port, ArgError> {
    let bad = |why: &str| ArgError::value("publish", text, why).hint("8080:80, 127.0.0.1:8080:80, 53:53/udp");
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        _ => return Err(bad("tcp and udp are the protocols")),
    };
    let number = |word: &str| match word.parse::<u16>() {
        Ok(n @ 1..) => Ok(n),
        _ if word.contains('-') => Err(bad("no ranges: give -p for each port")),
        _ => Err(bad("not a port, 1 to 65535")),
    };
    let words: Vec<_> = numbers.split(':').collect();
    let (address, machine, inside) = match words[..] {
        // docker chooses a free one outside then: nobody expects this one.
        [_] => return Err(bad("which port of the machine's leads there? HOST:CONTAINER")),
        [machine, inside] => ("", machine, inside),
        [address, machine, inside] => (address, machine, inside),
        _ => return Err(bad("not [ADDR:]HOST:CONTAINER")),
    };
    let address = if address.is_empty() { "0.0.0.0" } else { address };
    let address = address.parse().map_err(|_| bad("not an IPv4 address"))?;
    Ok(Port { address, machine: number(machine)?, inside: number(inside)?, udp })
}

/// `NAME=SOFT[:HARD]`, -1 for no limit.
pub(super) fn limit(text: &str) -> Result<Limit, ArgError> {
    let known = || LimitName::ALL.map(|(name, _)| name).join(", ");
    let Some((name, values)) = text.split_once('=') else {
        return Err(ArgError::value("ulimit", text, "not NAME=SOFT[:HARD]"));
    };
    let Some((_, name)) = LimitName::ALL.into_iter().find(|(known, _)| *known == name) else {
        return Err(ArgError::value("ulimit", text, "no such limit").hint(known()));
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |word: &str| match word {
        "-1" | "unlimited" => Ok(None),
        word => word.parse().map(Some).map_err(|_| ArgError::value("ulimit", text, format!("{word:?} is no number"))),
    };
    let limit = Limit { name, soft: number(soft)?, hard: number(hard)? };
    if limit.soft.unwrap_or(u64::MAX) > limit.hard.unwrap_or(u64::MAX) {
        return Err(ArgError::value("ulimit", text, "the soft limit is above the hard one"));
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, want) in
            [("0", 0), ("12", 12), ("1k", 1024), ("2KB", 2048), ("64m", 64 << 20), ("1.5g", 3 << 29), ("1Gib", 1 << 30)]
        {
            assert_eq!(bytes(text), Some(want), "{text}");
        }
        for text in ["", "m", "-1", "1x", "99999999999999999999", "18446744073709551615t"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn ports_lead_inside() {
        assert_eq!(port("8080:80").unwrap().to_string(), "0.0.0.0:8080:80/tcp");
        assert_eq!(port("127.0.0.1:53:54/udp").unwrap().to_string(), "127.0.0.1:53:54/udp");
        for bad in ["", "9", "1-2:1-2", "0:1", "1:70000", "a:1:1", "1:2:3:4", "1:1/sctp"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_have_two_values() {
        let nofile = |soft, hard| Limit { name: LimitName::Nofile, soft, hard };
        assert_eq!(limit("nofile=10:20"), Ok(nofile(Some(10), Some(20))));
        assert_eq!(limit("nofile=10"), Ok(nofile(Some(10), Some(10))));
        assert_eq!(limit("nofile=10:-1"), Ok(nofile(Some(10), None)));
        for bad in ["nofile", "files=1", "nofile=x", "nofile=2:1", "nofile=-1:5"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
