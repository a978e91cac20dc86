//! `onlay cp`. One of two ends is in the container: a fork of its init, confined as the container's command, packs or
//! unpacks there, so that a symbolic link leads nowhere but into the view. The other end, here, takes what comes for the
//! stranger's archive that it is.

mod pack;
mod place;
mod unpack;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::wait::{WaitStatus, waitpid};

use super::error::Error;
use super::run::own_process;
use super::save::to_stdout;
use super::store::StoreArgs;
use crate::runner::{Giver, Mapping};
use crate::store::{Container, Store};
use crate::sys::process::{Fork, end_with, fork};
use crate::vocab::why;
use pack::Owners;
use place::Place;
use unpack::Keep;

/// Copy files between a container and here
#[derive(Debug, clap::Args)]
#[command(after_help = "\
As docker's: into a directory that is there, a directory's contents with /. behind its name. What is
copied in becomes root's, what is copied out yours, without set-user-id bits; --archive keeps both.
Devices and sockets are left out. The container may run or not.

Examples:
  onlay cp web:/etc/nginx/nginx.conf .
  onlay cp ./site/. web:/var/www
  onlay cp web:/var/log - | tar -t")]
pub(super) struct Args {
    /// Keep owners and all mode bits
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link that SRC is
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, or a path here, or - for an archive on standard input
    #[arg(value_name = "SRC")]
    source: OsString,
    /// CONTAINER:PATH, or a path here, or - for an archive on standard output
    #[arg(value_name = "DST")]
    target: OsString,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Inside(String, PathBuf),
    Here(PathBuf),
    Stream,
}

impl End {
    fn of(word: &OsStr) -> Self {
        let bytes = word.as_bytes();
        match bytes.iter().position(|b| *b == b':') {
            _ if bytes == b"-" => Self::Stream,
            _ if bytes.starts_with(b"/") || bytes.starts_with(b".") => Self::Here(word.into()),
            Some(at @ 1..) if !bytes[..at].contains(&b'/') => {
                let path = [b"/", &bytes[at + 1..]].concat();
                Self::Inside(String::from_utf8_lossy(&bytes[..at]).into_owned(), OsString::from_vec(path).into())
            }
            _ => Self::Here(word.into()),
        }
    }
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let flag = |on: bool, name: &str| OsString::from(if on { name } else { "" });
    let (keep, follow) = (flag(args.archive, KEEP), flag(args.follow_link, FOLLOW));
    match (End::of(&args.source), End::of(&args.target)) {
        (End::Inside(name, from), to @ (End::Here(_) | End::Stream)) => {
            let inside = Inside { store: &store, container: store.container(&name)? };
            // Where there is one id only, every owner is shown as root.
            let owners = flag(Mapping::of_caller()?.is_single(), REMEMBERED);
            let End::Here(to) = to else {
                // The archive is whoever's reads it: all that is known is in it.
                let words = ["pack".into(), from.into_os_string(), follow, "named".into(), owners];
                to_stdout()?.flush().map_err(|e| Error::new(format!("standard output: {}", why(&e))))?;
                return inside.work(words.to_vec()).map(code);
            };
            let words = vec!["pack".into(), from.clone().into_os_string(), follow, OsString::new(), owners];
            let keep = if args.archive { Keep::Shown } else { Keep::Nothing };
            inside.beside(words, Towards::Here, |pipe| {
                let contents = place::is_contents(&from);
                unpack::unpack(pipe, &Place { path: to.clone(), base: place::base(&from), contents }, keep)
            })
        }
        (from @ (End::Here(_) | End::Stream), End::Inside(name, to)) => {
            let inside = Inside { store: &store, container: store.container(&name)? };
            let End::Here(from) = from else {
                let words = vec!["unpack-all".into(), to.into_os_string(), OsString::from(KEEP)];
                return inside.work(words).map(code);
            };
            // Before anything is started.
            let source = pack::Source::open(&from, args.follow_link)?;
            let contents = flag(place::is_contents(&from), CONTENTS);
            let words = vec!["unpack".into(), to.into_os_string(), keep, place::base(&from), contents];
            inside.beside(words, Towards::Container, |pipe| pack::pack(&source, pipe, None, Owners::Shown))
        }
        (End::Inside(..), End::Inside(..)) => Err(Error::new("cp from container to container")
            .hint("in two steps, or: onlay cp A:PATH - | onlay cp - B:PATH")),
        _ => {
            Err(Error::new("neither end is in a container").hint("onlay cp CONTAINER:PATH DST, or SRC CONTAINER:PATH"))
        }
    }
}

const KEEP: &str = "keep";
const REMEMBERED: &str = "remembered";
const FOLLOW: &str = "follow";
const CONTENTS: &str = "contents";

/// What is done inside: the life of a process there, by its words.
pub(super) fn inside(words: &[OsString], giver: &Giver<'_>) -> i32 {
    let whom = |keep: &OsString| if *keep == KEEP { Keep::Remembered(giver) } else { Keep::Nothing };
    let done = match words {
        [verb, path, follow, named, owners] if verb == "pack" => {
            let path = Path::new(path);
            let source = pack::Source::open(path, follow == FOLLOW);
            let name = (named == "named").then(|| place::base(path));
            let owners = if owners == REMEMBERED { Owners::Remembered } else { Owners::Shown };
            source.and_then(|source| pack::pack(&source, std::io::stdout().lock(), name, owners))
        }
        [verb, path, keep, base, contents] if verb == "unpack" => {
            let place = Place { path: path.into(), base: base.clone(), contents: contents == CONTENTS };
            unpack::unpack(std::io::stdin().lock(), &place, whom(keep))
        }
        [verb, path, keep] if verb == "unpack-all" => {
            unpack::unpack_all(std::io::stdin().lock(), Path::new(path), whom(keep))
        }
        _ => Err(Error::new("cp: words that make no sense")),
    };
    match done {
        Ok(()) => 0,
        Err(e) => {
            e.report();
            1
        }
    }
}

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Here,
    Container,
}

/// The container's end.
struct Inside<'a> {
    store: &'a Store,
    container: Container,
}

impl Inside<'_> {
    /// Does its part with this process's standard input and output: the exit code.
    fn work(&self, words: Vec<OsString>) -> Result<i32, Error> {
        own_process(self.store, &self.container, words)
    }

    /// The same in a process of its own, with a pipe to what is done here meanwhile.
    fn beside<R>(
        &self,
        words: Vec<OsString>,
        towards: Towards,
        here: impl FnOnce(Pipe) -> Result<R, Error>,
    ) -> Result<ExitCode, Error> {
        let fail = |e: std::io::Error| Error::new(format!("cp: {}", why(&e)));
        let (read, write) = std::io::pipe().map_err(fail)?;
        let child = match fork().map_err(|e| fail(e.into()))? {
            Fork::Child => end_with(|| {
                let joined = match towards {
                    Towards::Here => rustix::stdio::dup2_stdout(&write),
                    Towards::Container => rustix::stdio::dup2_stdin(&read),
                };
                // The copies would keep the other end waiting.
                drop((read, write));
                match joined.map_err(|e| fail(e.into())).and_then(|()| self.work(words)) {
                    Ok(code) => code,
                    Err(e) => {
                        e.report();
                        1
                    }
                }
            }),
            Fork::Parent(child) => child,
        };
        let done = match towards {
            Towards::Here => {
                drop(write);
                here(Pipe::Read(read))
            }
            Towards::Container => {
                drop(read);
                here(Pipe::Write(write))
            }
        };
        let status = loop {
            match waitpid(child, None) {
                Err(nix::errno::Errno::EINTR) => {}
                done => break done.map_err(|e| fail(e.into()))?,
            }
        };
        match status {
            // What is wrong there, it has told; that we then miss something is no news.
            WaitStatus::Exited(_, code @ 1..) if code != BROKEN_PIPE => Ok(self::code(code)),
            _ => done.map(|_| ExitCode::SUCCESS),
        }
    }
}

/// Nobody wanted any more of it: why, is known here.
const BROKEN_PIPE: i32 = 128 + libc::SIGPIPE;

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The end of a pipe that is ours.
enum Pipe {
    Read(std::io::PipeReader),
    Write(std::io::PipeWriter),
}

impl std::io::Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Read(pipe) => pipe.read(buf),
            Self::Write(_) => Ok(0),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Write(pipe) => pipe.write(buf),
            Self::Read(_) => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let inside = |name: &str, path: &str| End::Inside(name.to_owned(), path.into());
        for (word, want) in [
            ("web:/etc", inside("web", "//etc")),
            ("web:etc/", inside("web", "/etc/")),
            ("web:", inside("web", "/")),
            ("-", End::Stream),
            ("./a:b", End::Here("./a:b".into())),
            ("/a:b", End::Here("/a:b".into())),
            ("a/b:c", End::Here("a/b:c".into())),
            ("file", End::Here("file".into())),
        ] {
            assert_eq!(End::of(OsStr::new(word)), want, "{word}");
        }
    }
}
