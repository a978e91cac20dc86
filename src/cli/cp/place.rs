//! Where a copy goes: docker's rules.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::cli::error::Error;
use crate::vocab::why;

/// What the command line says of it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// The source's last name.
    pub(super) base: OsString,
    /// Only what is in the source, a directory, is copied.
    pub(super) contents: bool,
}

/// A directory, and the name in it that becomes the copy.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
}

/// Whether a path says: what is in it.
pub(super) fn is_contents(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes == b"." || bytes.ends_with(b"/.")
}

/// The last name of a path; of one without (`/`, `..`) a dot.
pub(super) fn base(path: &Path) -> OsString {
    match path.components().next_back() {
        Some(Component::Normal(name)) => name.to_owned(),
        _ => ".".into(),
    }
}

/// Opens a directory to reach others from.
pub(super) fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| {
        Error::new(format!("{}: {}", path.display(), why(&e))).hint("the directory to copy to must be there")
    })
}

impl Place {
    /// Where a directory, or something else, goes.
    pub(super) fn spot(&self, source_is_dir: bool) -> Result<Spot, Error> {
        let shown = self.path.display();
        let slash = self.path.as_os_str().as_bytes().ends_with(b"/") || is_contents(&self.path);
        let there = std::fs::metadata(&self.path);
        match there {
            Ok(found) if found.is_dir() => {
                if source_is_dir && (self.contents || self.base == ".") {
                    return Ok(Spot { dir: open_dir(&self.path)?, name: ".".into() });
                }
                Ok(Spot { dir: open_dir(&self.path)?, name: self.base.clone() })
            }
            Ok(_) if source_is_dir || slash => Err(Error::new(format!("{shown}: is no directory"))
                .hint("a directory can't replace a file: name another place")),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(format!("{shown}: {}", why(&e))).hint("the directory to copy to must be there"))
            }
            Err(_) if slash && !source_is_dir => {
                Err(Error::new(format!("{shown}: no such directory")).hint("make it, or leave the slash out"))
            }
            Ok(_) | Err(_) => {
                let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Ok(Spot { dir: open_dir(parent)?, name: base(&self.path) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_is_meant() {
        assert!(is_contents(Path::new("a/.")) && is_contents(Path::new(".")) && !is_contents(Path::new("a/")));
        for (path, want) in [("/a/b/", "b"), ("a/.", "a"), ("/", "."), ("..", "."), ("x", "x")] {
            assert_eq!(base(Path::new(path)), want, "{path}");
        }
    }

    #[test]
    fn dockers_rules() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        let top = dir.path().canonicalize().unwrap();
        let spot = |path: &str, contents, is_dir| {
            let place = Place { path: at(path), base: "src".into(), contents };
            place.spot(is_dir).ok().map(|Spot { dir, name }| {
                let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
                let dir = std::fs::read_link(link).unwrap();
                format!("{}:{}", dir.strip_prefix(&top).unwrap().display(), name.display())
            })
        };
        for (path, contents, is_dir, want) in [
            ("dir", false, false, Some("dir:src")),
            ("dir", false, true, Some("dir:src")),
            ("dir", true, true, Some("dir:.")),
            ("new", false, false, Some(":new")),
            ("new", false, true, Some(":new")),
            ("new/", false, true, Some(":new")),
            ("new/", false, false, None),
            ("file", false, false, Some(":file")),
            ("file", false, true, None),
            ("file/", false, false, None),
            ("none/new", false, false, None),
        ] {
            assert_eq!(spot(path, contents, is_dir).as_deref(), want, "{path} {contents} {is_dir}");
        }
    }
}
