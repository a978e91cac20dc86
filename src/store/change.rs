//! What `--change` says: some instructions of a Dockerfile, which change the config of an image.

use std::collections::HashMap;
use std::str::FromStr;

use oci_spec::image::Config;

use super::{Error, Result};

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `CMD ["a", "b"]`, or `CMD a b` for a shell.
    Cmd(Vec<String>),
    /// `ENTRYPOINT`, likewise.
    Entrypoint(Vec<String>),
    /// `ENV A=1 B="two words"`, or `ENV A the rest`.
    Env(Vec<(String, String)>),
    /// `LABEL`, likewise.
    Label(Vec<(String, String)>),
    /// `WORKDIR /path`.
    Workdir(String),
    /// `USER name[:group]`.
    User(String),
    /// `STOPSIGNAL SIGQUIT`.
    StopSignal(String),
    /// `EXPOSE 80 443/tcp`.
    Expose(Vec<String>),
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let bad = |why: &str| {
            Err(Error::bad(format_args!("--change {line:?}: {why}")).with_hint(
                "CMD, ENTRYPOINT, ENV, LABEL, WORKDIR, USER, STOPSIGNAL or EXPOSE, as in a Dockerfile: --change 'CMD [\"sh\"]'",
            ))
        };
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return bad("nothing behind the instruction");
        }
        let pairs = |rest: &str| pairs(rest).ok_or("no NAME=VALUE");
        Ok(match word.to_ascii_uppercase().as_str() {
            "CMD" => Self::Cmd(command(rest)),
            "ENTRYPOINT" => Self::Entrypoint(command(rest)),
            "ENV" => match pairs(rest) {
                Ok(pairs) => Self::Env(pairs),
                Err(why) => return bad(why),
            },
            "LABEL" => match pairs(rest) {
                Ok(pairs) => Self::Label(pairs),
                Err(why) => return bad(why),
            },
            "WORKDIR" => Self::Workdir(unquoted(rest)),
            "USER" => Self::User(unquoted(rest)),
            "STOPSIGNAL" => Self::StopSignal(unquoted(rest)),
            "EXPOSE" => {
                let ports: Option<Vec<_>> = rest.split_whitespace().map(port).collect();
                match ports {
                    Some(ports) => Self::Expose(ports),
                    None => return bad("no PORT or PORT/tcp, udp, sctp"),
                }
            }
            _ => return bad("no such instruction"),
        })
    }
}

impl Change {
    /// Carries it out.
    pub fn apply(self, config: &mut Config) {
        match self {
            Self::Cmd(words) => drop(config.set_cmd(Some(words))),
            Self::Entrypoint(words) => drop(config.set_entrypoint(Some(words))),
            Self::Env(pairs) => {
                let mut env = config.env().clone().unwrap_or_default();
                for (name, value) in pairs {
                    let line = format!("{name}={value}");
                    match env.iter_mut().find(|e| e.split_once('=').is_some_and(|(n, _)| n == name)) {
                        Some(old) => *old = line,
                        None => env.push(line),
                    }
                }
                config.set_env(Some(env));
            }
            Self::Label(pairs) => {
                let mut labels: HashMap<_, _> = config.labels().clone().unwrap_or_default();
                labels.extend(pairs);
                config.set_labels(Some(labels));
            }
            Self::Workdir(dir) => {
                // A relative one is below the one before.
                let base = config.working_dir().as_deref().unwrap_or("/");
                let dir = std::path::Path::new(base).join(dir).to_string_lossy().into_owned();
                config.set_working_dir(Some(if dir.starts_with('/') { dir } else { format!("/{dir}") }));
            }
            Self::User(user) => drop(config.set_user(Some(user))),
            Self::StopSignal(signal) => drop(config.set_stop_signal(Some(signal))),
            Self::Expose(ports) => {
                let mut all = config.exposed_ports().clone().unwrap_or_default();
                all.extend(ports);
                all.sort();
                all.dedup();
                config.set_exposed_ports(Some(all));
            }
        }
    }
}

/// A JSON array of words, or a line for a shell.
fn command(rest: &str) -> Vec<String> {
    serde_json::from_str(rest).unwrap_or_else(|_| vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()])
}

fn unquoted(word: &str) -> String {
    words(word).map_or_else(|| word.to_owned(), |words| words.join(" "))
}

/// `A=1 B="2 3"`, or `A the rest`.
fn pairs(rest: &str) -> Option<Vec<(String, String)>> {
    let words = words(rest)?;
    let pair = |word: &String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    if words.first()?.contains('=') {
        return words.iter().map(pair).collect();
    }
    let (name, value) = rest.split_once(char::is_whitespace)?;
    Some(vec![(name.to_owned(), value.trim().to_owned())])
}

/// Words, with quotes and backslashes as in a Dockerfile; `None`: a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote, mut chars) = (Vec::new(), None::<String>, None, line.chars());
    while let Some(c) = chars.next() {
        match (c, quote) {
            (q, Some(open)) if q == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next()?),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn port(word: &str) -> Option<String> {
    let (number, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let number: u16 = number.parse().ok()?;
    matches!(protocol, "tcp" | "udp" | "sctp").then(|| format!("{number}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Change {
        line.parse().unwrap()
    }

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn instructions_are_read_as_in_a_dockerfile() {
        assert_eq!(parse(r#"CMD ["a", "b c"]"#), Change::Cmd(strings(&["a", "b c"])));
        assert_eq!(parse("cmd a  b"), Change::Cmd(strings(&["/bin/sh", "-c", "a  b"])));
        let pairs = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(
            parse(r#"ENV A=1 B="two words" C=a\ b"#),
            Change::Env(pairs(&[("A", "1"), ("B", "two words"), ("C", "a b")]))
        );
        assert_eq!(parse("ENV A the rest = it"), Change::Env(pairs(&[("A", "the rest = it")])));
        assert_eq!(parse("LABEL a.b='c=d'"), Change::Label(pairs(&[("a.b", "c=d")])));
        assert_eq!(parse("EXPOSE 80 53/udp"), Change::Expose(strings(&["80/tcp", "53/udp"])));
        for bad in
            ["", "CMD", "ENV", "ENV A", "ENV A=1 B", "ENV A='1", "EXPOSE x", "EXPOSE 70000", "RUN x", "EXPOSE 1/x"]
        {
            assert!(bad.parse::<Change>().is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_add_to_what_is_there() {
        let mut config = Config::default();
        for line in [
            "ENV A=1 B=2",
            "ENV A=3",
            "WORKDIR /a",
            "WORKDIR b",
            "EXPOSE 80",
            "EXPOSE 80/tcp 22",
            "LABEL x=1",
            "LABEL y=2",
            "USER u:g",
            "ENTRYPOINT [\"e\"]",
        ] {
            parse(line).apply(&mut config);
        }
        assert_eq!(config.env(), &Some(strings(&["A=3", "B=2"])));
        assert_eq!(config.working_dir().as_deref(), Some("/a/b"));
        assert_eq!(config.exposed_ports(), &Some(strings(&["22/tcp", "80/tcp"])));
        assert_eq!(config.labels().as_ref().map(HashMap::len), Some(2));
        assert_eq!((config.user().as_deref(), config.entrypoint()), (Some("u:g"), &Some(strings(&["e"]))));
    }
}
