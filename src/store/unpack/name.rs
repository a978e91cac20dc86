//! Names in an archive: what leads into the layer, and what tries to lead out of it.

use super::Limits;
use super::error::Error;
use crate::vocab::dialect::{AUFS_OPAQUE, AUFS_PREFIX};

/// As many bytes as one component may have on every file system that holds layers.
const NAME_MAX: usize = 255;

/// What an entry's name asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// The object at this path; the layer's root where it is empty.
    Object(Vec<&'a [u8]>),
    /// `.wh.NAME`: what lower layers have at this path is gone.
    Whiteout(Vec<&'a [u8]>),
    /// `.wh..wh..opq`: what lower layers have in this directory is gone.
    Opaque(Vec<&'a [u8]>),
    /// AUFS's own bookkeeping (`.wh..wh.plnk` and the like), which docker and containerd leave out, too.
    Private,
}

/// The components of a path in the archive.
pub(super) fn components<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, Error> {
    if path.is_empty() {
        return Err(Error::malformed("it has no name"));
    }
    if path.len() > limits.path {
        return Err(Error::limit(format!("its name has {} bytes", path.len()), limits.path as u64, "bytes"));
    }
    if path.contains(&0) {
        return Err(Error::refused("there is a NUL in its name"));
    }
    if path.starts_with(b"/") {
        return Err(Error::refused("its name is absolute"));
    }
    let mut all = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Error::refused("its name climbs out of its directory (\"..\")")),
            _ if name.len() > NAME_MAX => {
                return Err(Error::limit(format!("a part of its name has {} bytes", name.len()), 255, "bytes"));
            }
            _ => all.push(name),
        }
    }
    Ok(all)
}

/// Reads an entry's name in the dialect of layers: OCI image specification, layer.md, "Whiteouts".
pub(super) fn named<'a>(path: &'a [u8], limits: &Limits) -> Result<Named<'a>, Error> {
    let mut all = components(path, limits)?;
    let special = all.iter().position(|name| name.starts_with(AUFS_PREFIX));
    let Some(i) = special else { return Ok(Named::Object(all)) };
    let name = all[i];
    let last = i + 1 == all.len();
    if last && name == AUFS_OPAQUE {
        all.truncate(i);
        return Ok(Named::Opaque(all));
    }
    match &name[AUFS_PREFIX.len()..] {
        hidden if hidden.starts_with(AUFS_PREFIX) => Ok(Named::Private),
        b"" | b"." | b".." => Err(Error::refused("it is a whiteout of no name (\"\", \".\" or \"..\")")),
        _ if !last => Err(Error::refused("it is in a directory whose name is that of a whiteout")),
        hidden => {
            all[i] = hidden;
            Ok(Named::Whiteout(all))
        }
    }
}

/// The path that a hard link's target names: an object of the same layer.
pub(super) fn link_target<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, Error> {
    let shown = String::from_utf8_lossy(path);
    match named(path, limits) {
        Ok(Named::Object(all)) if !all.is_empty() => Ok(all),
        Ok(Named::Object(_)) => Err(Error::refused("it is a hard link to the layer's root")),
        Ok(_) => Err(Error::refused(format!("it is a hard link to a whiteout: {shown:?}"))),
        Err(e) => Err(Error::refused(format!("it is a hard link to {shown:?}: {}", e.reason()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Option<(char, String)> {
        let join = |all: Vec<&[u8]>| String::from_utf8_lossy(&all.join(&b'/')).into_owned();
        Some(match named(path.as_bytes(), &Limits::default()).ok()? {
            Named::Object(all) => ('o', join(all)),
            Named::Whiteout(all) => ('w', join(all)),
            Named::Opaque(all) => ('q', join(all)),
            Named::Private => ('p', String::new()),
        })
    }

    #[test]
    fn every_kind_of_name() {
        for (path, want) in [
            ("a", Some(('o', "a"))),
            ("./a//b/./c/", Some(('o', "a/b/c"))),
            ("./", Some(('o', ""))),
            (".", Some(('o', ""))),
            ("a/...", Some(('o', "a/..."))),
            ("..a/b..", Some(('o', "..a/b.."))),
            ("a/.wh.b", Some(('w', "a/b"))),
            (".wh.b/", Some(('w', "b"))),
            (".wh....", Some(('w', "..."))),
            (".wh..b", Some(('w', ".b"))),
            (".wh..wh..opq", Some(('q', ""))),
            ("a/.wh..wh..opq", Some(('q', "a"))),
            (".wh..wh.plnk/12.34", Some(('p', ""))),
            (".wh..wh..opq/a", Some(('p', ""))),
            ("", None),
            ("/", None),
            ("/a", None),
            ("..", None),
            ("a/..", None),
            ("a/../b", None),
            ("./../b", None),
            ("a\0b", None),
            (".wh.", None),
            (".wh..", None),
            (".wh...", None),
            ("a/.wh...", None),
            (".wh.a/b", None),
        ] {
            assert_eq!(read(path), want.map(|(c, s)| (c, s.to_owned())), "{path:?}");
        }
        assert!(read(&"a".repeat(255)).is_some());
        assert!(read(&"a".repeat(256)).is_none());
        assert!(read(&"a/".repeat(2047)).is_some());
        assert!(read(&"a/".repeat(2048)).is_none());
    }

    #[test]
    fn hard_links_lead_to_objects_of_the_layer() {
        let to = |path: &str| link_target(path.as_bytes(), &Limits::default()).is_ok();
        assert!(to("a/b") && to("./a"));
        for bad in ["", ".", "/etc/passwd", "../a", "a/../../b", ".wh.a", "a/.wh..wh..opq", "a\0"] {
            assert!(!to(bad), "{bad:?}");
        }
    }
}
