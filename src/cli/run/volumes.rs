//! Flags about what is mounted inside.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};

use super::values::{ArgError, bytes};
use crate::runner::{Source, Volume};
use crate::vocab::why;

#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub(in crate::cli) struct VolumeArgs {
    /// Show a directory or file of the machine inside; options: ro, rw, nosuid, nodev, noexec (z and Z are ignored)
    #[arg(short, long, value_name = "SRC:DST[:OPTS]", action = ArgAction::Append, help_heading = "Files")]
    pub(in crate::cli) volume: Vec<String>,

    /// The same in words: type=bind,src=DIR,dst=DIR[,ro] or type=tmpfs,dst=DIR[,tmpfs-size=N][,tmpfs-mode=N]
    #[arg(long, value_name = "WORDS", action = ArgAction::Append, help_heading = "Files")]
    pub(in crate::cli) mount: Vec<String>,

    /// An empty directory in memory; options as tmpfs(5) takes them (size=64m, mode=700), ro, exec, suid
    #[arg(long, value_name = "DST[:OPTS]", action = ArgAction::Append, help_heading = "Files")]
    pub(in crate::cli) tmpfs: Vec<String>,

    /// Nothing can be written to but volumes and tmpfs
    #[arg(long, help_heading = "Files")]
    pub(in crate::cli) read_only: bool,
}

impl VolumeArgs {
    /// All of them: parents before what lies in them, else in the order given.
    pub(super) fn volumes(&self, cwd: Option<&Path>) -> Result<Vec<Volume>, ArgError> {
        let mut volumes = Vec::new();
        for text in &self.volume {
            volumes.push(volume(text, cwd)?);
        }
        for text in &self.mount {
            volumes.push(mount(text, cwd)?);
        }
        for text in &self.tmpfs {
            volumes.push(tmpfs(text)?);
        }
        volumes.sort_by_key(|v| v.target.components().count());
        Ok(volumes)
    }
}

fn bind(source: PathBuf, target: PathBuf) -> Volume {
    // A device of the machine's is no file to share: --device is not there.
    Volume { source: Source::Machine(source), target, read_only: false, no_exec: false, no_suid: false, no_dev: true }
}

fn absolute(flag: &'static str, text: &str, target: &str) -> Result<PathBuf, ArgError> {
    let path = PathBuf::from(target);
    if !path.is_absolute() || path.components().all(|c| c == std::path::Component::RootDir) {
        return Err(ArgError::value(flag, text, "where it is shown must be an absolute path inside, and not /"));
    }
    if path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(ArgError::value(flag, text, "where it is shown must have no .. in it"));
    }
    Ok(path)
}

fn there(flag: &'static str, text: &str, source: &str, cwd: Option<&Path>) -> Result<PathBuf, ArgError> {
    if !source.contains('/') && source != "." && source != ".." {
        return Err(ArgError::value(flag, text, "volumes by name are not kept")
            .hint(format!("name a directory: ./{source}:..")));
    }
    let path = cwd.unwrap_or(Path::new("/")).join(source);
    path.canonicalize().map_err(|e| {
        ArgError::value(flag, text, format_args!("{source}: {}", why(&e))).hint("the source must be there: mkdir it")
    })
}

fn volume(text: &str, cwd: Option<&Path>) -> Result<Volume, ArgError> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(ArgError::value("volume", text, "not SRC:DST[:OPTS]")),
    };
    let mut volume = bind(there("volume", text, source, cwd)?, absolute("volume", text, target)?);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "noexec" => volume.no_exec = true,
            "nosuid" => volume.no_suid = true,
            // SELinux labels and propagation: there is nothing to do for them.
            "rw" | "z" | "Z" | "rbind" | "bind" | "private" | "rprivate" | "nodev" | "exec" | "suid" => {}
            other => {
                return Err(ArgError::value("volume", text, format_args!("no such option: {other}"))
                    .hint("ro, rw, nosuid, nodev, noexec, z, Z"));
            }
        }
    }
    Ok(volume)
}

fn mount(text: &str, cwd: Option<&Path>) -> Result<Volume, ArgError> {
    let (mut kind, mut source, mut target) = ("bind", None, None);
    let (mut read_only, mut options) = (false, Vec::new());
    for word in text.split(',') {
        let (key, value) = word.split_once('=').unwrap_or((word, "true"));
        match key {
            "type" => kind = value,
            "src" | "source" => source = Some(value),
            "dst" | "destination" | "target" => target = Some(value),
            "ro" | "readonly" | "read-only" => read_only = value != "false",
            "rw" => read_only = value == "false",
            "tmpfs-size" => options.push(size("mount", text, value)?),
            "tmpfs-mode" => options.push(("mode".to_owned(), value.to_owned())),
            "bind-propagation" | "consistency" | "relabel" => {}
            other => return Err(ArgError::value("mount", text, format_args!("no such word: {other}"))),
        }
    }
    let target = target.ok_or_else(|| ArgError::value("mount", text, "no dst="))?;
    let target = absolute("mount", text, target)?;
    match (kind, source) {
        ("bind", Some(source)) => Ok(Volume { read_only, ..bind(there("mount", text, source, cwd)?, target) }),
        ("bind", None) => Err(ArgError::value("mount", text, "no src=")),
        ("tmpfs", None) => Ok(Volume { read_only, ..memory(target, options) }),
        ("tmpfs", Some(_)) => Err(ArgError::value("mount", text, "a tmpfs has no source")),
        (other, _) => {
            Err(ArgError::value("mount", text, format_args!("type {other} is not there")).hint("bind, tmpfs"))
        }
    }
}

fn memory(target: PathBuf, options: Vec<(String, String)>) -> Volume {
    Volume { source: Source::Tmpfs(options), target, read_only: false, no_exec: true, no_suid: true, no_dev: true }
}

fn size(flag: &'static str, text: &str, value: &str) -> Result<(String, String), ArgError> {
    let percent = value.strip_suffix('%').is_some_and(|n| n.parse::<u8>().is_ok());
    match bytes(value) {
        _ if percent => Ok(("size".to_owned(), value.to_owned())),
        Some(n) => Ok(("size".to_owned(), n.to_string())),
        None => Err(ArgError::value(flag, text, format_args!("{value:?} is no size"))),
    }
}

fn tmpfs(text: &str) -> Result<Volume, ArgError> {
    let (target, words) = text.split_once(':').unwrap_or((text, ""));
    let mut volume = memory(absolute("tmpfs", text, target)?, Vec::new());
    let mut options = Vec::new();
    for word in words.split(',').filter(|w| !w.is_empty()) {
        match word.split_once('=') {
            None => match word {
                "ro" => volume.read_only = true,
                "exec" => volume.no_exec = false,
                "suid" => volume.no_suid = false,
                "rw" | "noexec" | "nosuid" | "nodev" => {}
                other => return Err(ArgError::value("tmpfs", text, format_args!("no such option: {other}"))),
            },
            Some(("size", value)) => options.push(size("tmpfs", text, value)?),
            Some((key @ ("mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks"), value)) => {
                options.push((key.to_owned(), value.to_owned()));
            }
            Some((other, _)) => return Err(ArgError::value("tmpfs", text, format_args!("no such option: {other}"))),
        }
    }
    volume.source = Source::Tmpfs(options);
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(flags: &[(&str, &str)]) -> Result<Vec<Volume>, ArgError> {
        let pick = |name: &str| flags.iter().filter(|(f, _)| *f == name).map(|(_, v)| (*v).to_owned()).collect();
        let args = VolumeArgs { volume: pick("v"), mount: pick("m"), tmpfs: pick("t"), read_only: false };
        args.volumes(Some(Path::new("/usr")))
    }

    #[test]
    fn sources_are_found_from_here() {
        let v = of(&[("v", "./bin:/b:ro,z"), ("v", "/etc/passwd:/p")]).unwrap();
        assert_eq!(v[0].source, Source::Machine("/usr/bin".into()));
        assert!(v[0].read_only && v[0].no_dev && !v[1].read_only);
        let v = of(&[("m", "type=bind,src=/usr,dst=/u,ro")]).unwrap();
        assert_eq!((v[0].read_only, v[0].target.as_path()), (true, Path::new("/u")));
    }

    #[test]
    fn parents_come_first() {
        let v = of(&[("v", "/usr:/a/b/c"), ("t", "/a:size=1m,mode=700,exec")]).unwrap();
        assert_eq!(v[0].target, Path::new("/a"));
        let want = [("size", "1048576"), ("mode", "700")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(v[0].source, Source::Tmpfs(want.to_vec()));
        assert!(!v[0].no_exec && v[0].no_suid);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (flag, bad) in [
            ("v", "/usr"),
            ("v", "/usr:x"),
            ("v", "/usr:/"),
            ("v", "/usr:/a/../b"),
            ("v", "/usr:/x:rx"),
            ("v", "name:/x"),
            ("v", "/no/such:/x"),
            ("v", "/a:/b:/c:/d"),
            ("m", "src=/usr"),
            ("m", "type=volume,src=/usr,dst=/x"),
            ("m", "dst=/x"),
            ("m", "type=tmpfs,src=/usr,dst=/x"),
            ("m", "type=tmpfs,dst=/x,tmpfs-size=big"),
            ("t", "x"),
            ("t", "/x:size=-1"),
            ("t", "/x:loud"),
        ] {
            assert!(of(&[(flag, bad)]).is_err(), "{bad}");
        }
    }
}
