//! Ownership and type kept in an attribute, where the file system or the id map can't hold them.
//!
//! The format is containers/storage's `user.containers.override_stat`: `uid:gid:mode:type`, mode in octal, type one of
//! `dir`, `file`, `symlink`, `pipe`, `socket`, `block-MAJ-MIN`, `char-MAJ-MIN`; older writers leave the type out.

use super::{Kind, Stat};

/// The ids that an id map shows for what it does not map (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW: u32 = 65534;

/// What the attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStat {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub mode: u32,
    /// Type, where the writer gave one.
    pub kind: Option<Kind>,
    /// Device number of a device node.
    pub rdev: u64,
}

impl StoredStat {
    /// What would be stored for an object with this metadata.
    pub fn of(st: &Stat) -> Self {
        Self { uid: st.uid, gid: st.gid, mode: st.mode, kind: Some(st.kind), rdev: st.rdev }
    }

    /// Reads the attribute's value; `None` if it is not of this form.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
        let mut fields = text.splitn(4, ':');
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()? & 0o7777;
        let (kind, rdev) = match fields.next() {
            None => (None, 0),
            Some(word) => {
                let (kind, rdev) = parse_type(word)?;
                (Some(kind), rdev)
            }
        };
        Some(Self { uid, gid, mode, kind, rdev })
    }

    /// The attribute's value.
    pub fn format(&self) -> Vec<u8> {
        let Self { uid, gid, mode, rdev, .. } = *self;
        let device = |word| format!("{word}-{}-{}", libc::major(rdev), libc::minor(rdev));
        let word = match self.kind {
            None => return format!("{uid}:{gid}:0{mode:o}").into_bytes(),
            Some(Kind::File) => "file".to_owned(),
            Some(Kind::Dir) => "dir".to_owned(),
            Some(Kind::Symlink) => "symlink".to_owned(),
            Some(Kind::Fifo) => "pipe".to_owned(),
            Some(Kind::Socket) => "socket".to_owned(),
            Some(Kind::Block) => device("block"),
            Some(Kind::Char) => device("char"),
        };
        format!("{uid}:{gid}:0{mode:o}:{word}").into_bytes()
    }

    /// The type of what is `on_disk`: a file may stand for anything but a directory, which stands for itself alone.
    pub fn kind_of(&self, on_disk: Kind) -> Kind {
        match self.kind {
            Some(kind) if on_disk == Kind::File && kind != Kind::Dir => kind,
            _ => on_disk,
        }
    }

    /// `st` with what is stored in place of what the file system says.
    pub fn apply(&self, mut st: Stat) -> Stat {
        st.uid = self.uid;
        st.gid = self.gid;
        st.mode = self.mode;
        if self.kind == Some(self.kind_of(st.kind)) {
            st.kind = self.kind_of(st.kind);
            st.rdev = self.rdev;
        }
        st
    }
}

fn parse_type(word: &str) -> Option<(Kind, u64)> {
    // `block-8-1`, or `block8:1` as others write it.
    let device = |rest: &str| {
        let (major, minor) = rest.trim_start_matches('-').split_once(['-', ':'])?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    Some(match word {
        "file" => (Kind::File, 0),
        "dir" => (Kind::Dir, 0),
        "symlink" => (Kind::Symlink, 0),
        "pipe" => (Kind::Fifo, 0),
        "socket" => (Kind::Socket, 0),
        _ => {
            if let Some(rest) = word.strip_prefix("block") {
                (Kind::Block, device(rest)?)
            } else {
                (Kind::Char, device(word.strip_prefix("char")?)?)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_container_tools_write() {
        for (text, uid, gid, mode, kind, rdev) in [
            ("0:0:0755:dir", 0, 0, 0o755, Some(Kind::Dir), 0),
            ("33:44:04755:file", 33, 44, 0o4755, Some(Kind::File), 0),
            ("1:2:0777:symlink", 1, 2, 0o777, Some(Kind::Symlink), 0),
            ("0:0:0600:block-8-1", 0, 0, 0o600, Some(Kind::Block), libc::makedev(8, 1)),
            ("0:5:0620:char-5-0", 0, 5, 0o620, Some(Kind::Char), libc::makedev(5, 0)),
            ("0:0:0644:pipe", 0, 0, 0o644, Some(Kind::Fifo), 0),
            ("0:0:0644:socket", 0, 0, 0o644, Some(Kind::Socket), 0),
            ("1000:1000:0644", 1000, 1000, 0o644, None, 0),
        ] {
            let parsed = StoredStat::parse(text.as_bytes()).expect(text);
            assert_eq!(parsed, StoredStat { uid, gid, mode, kind, rdev }, "{text}");
            assert_eq!(parsed.format(), text.as_bytes());
        }
        for (text, kind, rdev) in [
            ("0:6:0660:block8:1", Kind::Block, libc::makedev(8, 1)),
            ("0:6:0660:char5:0", Kind::Char, libc::makedev(5, 0)),
        ] {
            let parsed = StoredStat::parse(text.as_bytes()).expect(text);
            assert_eq!((parsed.kind, parsed.rdev), (Some(kind), rdev), "{text}");
        }
        for bad in ["", "0", "0:0", "x:0:0755", "0:0:9:dir", "0:0:0755:door", "0:0:0600:block-8"] {
            assert_eq!(StoredStat::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
