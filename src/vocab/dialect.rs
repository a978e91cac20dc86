//! Every spelling of "not here" and "nothing from below" that container tools write into layers.
//!
//! Native is kernel overlayfs's own (Documentation/filesystems/overlayfs.rst): a whiteout is a character device 0:0, or,
//! in a directory whose `opaque` is `x`, an empty file with the attribute `whiteout`. AUFS's is a file `.wh.NAME`, and
//! `.wh..wh..opq` for an opaque directory.

use super::Timestamp;

/// Where the union's own attributes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// `trusted.overlay.`: for the machine's root.
    Trusted,
    /// `user.overlay.`: for everybody else (the kernel's `userxattr`).
    User,
}

/// `y`: nothing shows through from below. `x`: there may be attribute whiteouts inside.
pub const OPAQUE: &str = "opaque";
/// Where the layers below have what this directory (or the data of this metacopy) was made from.
pub const REDIRECT: &str = "redirect";
/// The object holds metadata only; its data is below.
pub const METACOPY: &str = "metacopy";
/// File handle of the lower object that was copied up.
pub const ORIGIN: &str = "origin";
/// The directory holds objects that were copied up: their inode numbers are not those on disk.
pub const IMPURE: &str = "impure";
/// On an empty file in a directory with `opaque` = `x`: a whiteout.
pub const WHITEOUT: &str = "whiteout";
/// Link count in the union of an object in the inode index, relative to the upper's own: `U+1`, `U-1`.
pub const NLINK: &str = "nlink";
/// Ours: what the object was before it was copied up: its inode number, and when it was born, if that was known
/// ([`identity`]).
pub const INO: &str = "onlay.ino";
/// Ours: the empty file stands for a character device 0:0, which on disk would be a whiteout; the value is `0:0`.
pub const DEVICE: &str = "onlay.device";
/// Ours: the directory has such files in it.
pub const DEVICES: &str = "onlay.devices";
/// Ours: the layer says nothing of the directory but what is in it: attributes are those of the layers below.
pub const IMPLIED: &str = "onlay.implied";

/// Ownership and type as container tools store them where the file system can't, the first that is there counts:
/// containers/storage's, fuse-overlayfs's for root of the machine, and its old one.
pub const STORED_STATS: [&[u8]; 3] = [STORED_STAT, PRIVILEGED_STORED_STAT, b"user.fuseoverlayfs.override_stat"];
/// The one that everybody may write.
pub const STORED_STAT: &[u8] = b"user.containers.override_stat";
/// The one that the files' owner can't forge.
pub const PRIVILEGED_STORED_STAT: &[u8] = b"security.fuseoverlayfs.override_stat";
/// fuse-overlayfs's own spelling of an opaque directory.
pub const FUSE_OVERLAYFS_OPAQUE: &[u8] = b"user.fuseoverlayfs.opaque";

/// SELinux's label: the machine's, not the layer's. docker, podman and containerd leave it out of images, too.
pub const LABEL: &[u8] = b"security.selinux";

/// Before the name of what an AUFS whiteout hides.
pub const AUFS_PREFIX: &[u8] = b".wh.";
/// The file that makes its directory opaque in AUFS.
pub const AUFS_OPAQUE: &[u8] = b".wh..wh..opq";
/// The file in a layer's root that says that AUFS's dialect is in use there (AUFS makes its whiteouts links of it).
pub const AUFS_MARK: &[u8] = b".wh..wh.aufs";

/// Put after the prefix once more for each level of nesting.
const ESCAPE: &[u8] = b"overlay.";

/// Whether a value of [`METACOPY`] is one of Linux 6.18 or before: nothing, or the version (0), its own length, flags, and
/// what algorithm the digest of the data that follows is by (`struct ovl_metacopy`).
pub fn is_known_metacopy(value: &[u8]) -> bool {
    match value {
        [] => true,
        [version, len, _, _, ..] => *version == 0 && usize::from(*len) == value.len(),
        _ => false,
    }
}

/// The value of [`INO`]: the number, then seconds and nanoseconds, 8, 8 and 4 bytes little-endian.
pub fn identity(ino: u64, born: Option<Timestamp>) -> Vec<u8> {
    let mut value = ino.to_le_bytes().to_vec();
    if let Some(born) = born {
        value.extend_from_slice(&born.sec.to_le_bytes());
        value.extend_from_slice(&born.nsec.to_le_bytes());
    }
    value
}

/// What a value of [`INO`] says; `None` for one that says nothing.
pub fn parse_identity(value: &[u8]) -> Option<(u64, Option<Timestamp>)> {
    let (ino, rest) = value.split_first_chunk()?;
    let born = match (rest.first_chunk(), rest.last_chunk(), rest.len()) {
        (Some(sec), Some(nsec), 12) => {
            let born = Timestamp { sec: i64::from_le_bytes(*sec), nsec: u32::from_le_bytes(*nsec) };
            Some(born).filter(|t| t.nsec < 1_000_000_000)
        }
        (_, _, 0) => None,
        _ => return None,
    };
    Some((u64::from_le_bytes(*ino), born))
}

impl Prefix {
    /// The bytes that every private attribute begins with.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The full name of the private attribute `name`.
    pub fn attr(self, name: &str) -> Vec<u8> {
        [self.as_bytes(), name.as_bytes()].concat()
    }

    /// The name under which a layer keeps what a program in the view calls `attr`: private names get one more
    /// `overlay.`, so that a union inside the union keeps its own.
    pub fn escape(self, attr: &[u8]) -> Vec<u8> {
        match attr.strip_prefix(self.as_bytes()) {
            Some(rest) => [self.as_bytes(), ESCAPE, rest].concat(),
            None => attr.to_vec(),
        }
    }

    /// What a program in the view calls the attribute `stored`; `None` for a private one.
    pub fn unescape(self, stored: &[u8]) -> Option<Vec<u8>> {
        match stored.strip_prefix(self.as_bytes()) {
            None => Some(stored.to_vec()),
            Some(rest) => rest.strip_prefix(ESCAPE).map(|rest| [self.as_bytes(), rest].concat()),
        }
    }
}

/// What a name means in a layer of the AUFS dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aufs<'a> {
    /// An ordinary name.
    Plain,
    /// It hides this name in the layers below.
    Hides(&'a [u8]),
    /// It makes its directory opaque, or is AUFS's own: never shown.
    Private,
}

/// The name of the file that hides `name` in the AUFS dialect.
pub fn aufs_whiteout(name: &[u8]) -> Vec<u8> {
    [AUFS_PREFIX, name].concat()
}

/// Reads a name in the AUFS dialect.
pub fn aufs(name: &[u8]) -> Aufs<'_> {
    match name.strip_prefix(AUFS_PREFIX) {
        None => Aufs::Plain,
        Some(rest) if rest.is_empty() || rest.starts_with(AUFS_PREFIX) => Aufs::Private,
        Some(rest) => Aufs::Hides(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_both_ways() {
        for born in [None, Some(Timestamp { sec: -5, nsec: 999_999_999 }), Some(Timestamp { sec: 1 << 40, nsec: 0 })] {
            assert_eq!(parse_identity(&identity(u64::MAX - 7, born)), Some((u64::MAX - 7, born)));
        }
        // Whole or nothing; a time that can't be is none.
        let whole = identity(3, Some(Timestamp { sec: 1, nsec: 2 }));
        for n in (0..8).chain(9..whole.len()) {
            assert_eq!(parse_identity(&whole[..n]), None, "{n} bytes");
        }
        let impossible = identity(3, Some(Timestamp { sec: 1, nsec: 1_000_000_000 }));
        assert_eq!(parse_identity(&impossible), Some((3, None)));
    }

    #[test]
    fn a_metacopy_of_another_format() {
        for known in [&b""[..], &[0, 4, 0, 0], &[0, 6, 0, 1, 9, 9]] {
            assert!(is_known_metacopy(known), "{known:?}");
        }
        for other in [&b"y"[..], &[0, 4, 0], &[1, 4, 0, 0], &[0, 5, 0, 0], b"garbage"] {
            assert!(!is_known_metacopy(other), "{other:?}");
        }
    }

    #[test]
    fn every_spelling() {
        for (name, meaning) in [
            (&b"a"[..], Aufs::Plain),
            (b".wh.a", Aufs::Hides(b"a")),
            (b".wh.", Aufs::Private),
            (b".wh..wh..opq", Aufs::Private),
            (b".wh..wh.plnk", Aufs::Private),
            (b".wh", Aufs::Plain),
            (b"x.wh.a", Aufs::Plain),
        ] {
            assert_eq!(aufs(name), meaning, "{}", String::from_utf8_lossy(name));
        }
        assert_eq!((aufs(AUFS_MARK), aufs(AUFS_OPAQUE)), (Aufs::Private, Aufs::Private));
        assert_eq!(aufs(&aufs_whiteout(b"a")), Aufs::Hides(b"a"));
        assert_eq!(Prefix::Trusted.attr(OPAQUE), b"trusted.overlay.opaque");
        assert_eq!(Prefix::User.attr(INO), b"user.overlay.onlay.ino");
    }

    #[test]
    fn nested_names_are_escaped_and_private_ones_hidden() {
        for p in [Prefix::Trusted, Prefix::User] {
            let inner = p.attr(OPAQUE);
            let stored = p.escape(&inner);
            assert_ne!(stored, inner);
            assert_eq!(p.unescape(&stored).as_deref(), Some(&inner[..]));
            assert_eq!(p.unescape(&inner), None);
            let twice = p.escape(&stored);
            assert_eq!(p.unescape(&twice), Some(stored));
        }
        assert_eq!(Prefix::User.escape(b"user.x"), b"user.x");
        assert_eq!(Prefix::User.unescape(b"trusted.overlay.opaque").as_deref(), Some(&b"trusted.overlay.opaque"[..]));
    }
}
