//! Flags about one process: for `run`, and for what is started later in the same view.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::args::Caller;
use super::values::{ArgError, limit};
use crate::cli::error::Error;
use crate::runner::Limit;
use crate::vocab::why;

#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(in crate::cli) struct ProcessArgs {
    /// Keep standard input open
    #[arg(short, long, help_heading = "Process")]
    pub(in crate::cli) interactive: bool,

    /// A terminal of its own
    #[arg(short, long, help_heading = "Process")]
    pub(in crate::cli) tty: bool,

    /// Keys that leave it to itself, with -it; an empty word: none do
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS, help_heading = "Process")]
    pub(in crate::cli) detach_keys: String,

    /// Set a variable; without a value, take it over from here
    #[arg(short, long, value_name = "NAME[=VALUE]", action = ArgAction::Append, help_heading = "Process")]
    pub(in crate::cli) env: Vec<OsString>,

    /// Variables from a file, one a line; # begins a comment
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = "Process")]
    pub(in crate::cli) env_file: Vec<PathBuf>,

    /// The working directory inside [default: the image's, or /; with --host: this one]
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub(in crate::cli) workdir: Option<PathBuf>,

    /// Whom the command runs as: names of the view's /etc/passwd and /etc/group, or numbers [default: root]
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    pub(in crate::cli) user: Option<String>,

    /// Limit a resource of each process, as setrlimit(2) names them (nofile, nproc, core, ..)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", action = ArgAction::Append, help_heading = "Limits")]
    pub(in crate::cli) ulimit: Vec<String>,
}

type Variable = (OsString, OsString);

impl ProcessArgs {
    /// A terminal inside whose other end is no terminal never says that the input has ended: what waits for it there would
    /// wait for ever.
    ///
    /// # Errors
    /// Both are asked for, and standard input is none.
    pub(in crate::cli) fn refuse_no_terminal(&self) -> Result<(), Error> {
        if self.interactive && self.tty && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(Error::new("standard input is not a terminal")
                .or_code(1)
                .hint("leave -t out: -i alone passes it on"));
        }
        Ok(())
    }

    /// Those of the files, then those given one by one.
    pub(super) fn variables(&self, caller: &Caller) -> Result<Vec<Variable>, ArgError> {
        let mut env = Vec::new();
        for file in &self.env_file {
            let text = std::fs::read(file).map_err(|e| ArgError::value("env-file", file, why(&e)))?;
            for line in text.split(|b| *b == b'\n') {
                let line = line.trim_ascii();
                if !line.is_empty() && line[0] != b'#' {
                    env.extend(variable("env-file", OsStr::from_bytes(line), caller)?);
                }
            }
        }
        for word in &self.env {
            env.extend(variable("env", word, caller)?);
        }
        Ok(env)
    }

    pub(super) fn limits(&self) -> Result<Vec<Limit>, ArgError> {
        self.ulimit.iter().map(|text| limit(text)).collect()
    }

    pub(super) fn detach_keys(&self) -> Result<Vec<u8>, ArgError> {
        keys(&self.detach_keys)
    }

    pub(super) fn workdir(&self) -> Result<Option<PathBuf>, ArgError> {
        match &self.workdir {
            Some(dir) if !dir.is_absolute() => {
                Err(ArgError::value("workdir", dir, "not an absolute path").hint("it names a directory inside"))
            }
            dir => Ok(dir.clone()),
        }
    }
}

/// The value of `--detach-keys` unless somebody says otherwise.
pub(in crate::cli) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Keys, as bytes of a terminal.
pub(in crate::cli) fn keys(text: &str) -> Result<Vec<u8>, ArgError> {
    let key = |word: &str| match (word.strip_prefix("ctrl-").map(str::as_bytes), word.as_bytes()) {
        (Some([letter @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'['..=b'_')]), _) => {
            Ok(letter.to_ascii_uppercase() & 0x1f)
        }
        (None, [byte @ 0x21..=0x7e]) => Ok(*byte),
        _ => Err(ArgError::value("detach-keys", text, format!("{word:?} is no key"))
            .hint("letters and ctrl-LETTER, with commas between: ctrl-p,ctrl-q")),
    };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(key).collect()
}

fn variable(flag: &'static str, word: &OsStr, caller: &Caller) -> Result<Option<Variable>, ArgError> {
    let bytes = word.as_bytes();
    let (name, value) = match bytes.iter().position(|b| *b == b'=') {
        Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        None => (bytes, None),
    };
    if name.is_empty() {
        return Err(ArgError::value(flag, word, "a variable needs a name"));
    }
    let name = OsString::from_vec(name.to_vec());
    let value = value.or_else(|| caller.env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()));
    Ok(value.map(|v| (name, v)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bytes() {
        let read = |text: &str| ProcessArgs { detach_keys: text.to_owned(), ..ProcessArgs::default() }.detach_keys();
        assert_eq!(read("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(read("ctrl-@,x,ctrl-["), Ok(vec![0, b'x', 27]));
        assert_eq!(read(""), Ok(vec![]));
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", ","] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
