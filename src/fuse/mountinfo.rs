//! What is mounted where: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug)]
pub(super) struct Mounted {
    /// What of its file system is shown.
    pub(super) root: PathBuf,
    /// Where.
    pub(super) path: PathBuf,
    pub(super) kind: String,
}

/// All mounts, the newest last.
///
/// # Errors
/// `/proc` can't be read.
pub(super) fn mounted() -> io::Result<Vec<Mounted>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let parse = |line: &[u8]| {
        let mut words = line.split(|&b| b == b' ');
        let (root, path) = (unescape(words.nth(3)?), unescape(words.next()?));
        let kind = String::from_utf8_lossy(words.skip_while(|w| *w != b"-").nth(1)?).into_owned();
        Some(Mounted { root, path, kind })
    };
    Ok(table.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// The type of the topmost mount on `path`, an absolute name without links; `None` where nothing is mounted.
///
/// # Errors
/// `/proc` can't be read.
pub fn type_on(path: &Path) -> io::Result<Option<String>> {
    Ok(mounted()?.into_iter().rev().find(|m| m.path == path).map(|m| m.kind))
}

/// Whether the ids of what is open are mapped by its mount (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
///
/// # Errors
/// `/proc` can't be read.
pub fn is_idmapped(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = info.lines().find_map(|l| l.strip_prefix("mnt_id:")).map(str::trim).unwrap_or_default();
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut lines = table.split(|&b| b == b'\n').map(|l| l.split(|&b| b == b' '));
    let options = lines.find(|l| l.clone().next() == Some(id.as_bytes())).and_then(|mut l| l.nth(5));
    Ok(options.is_some_and(|o| o.split(|&b| b == b',').any(|o| o == b"idmapped")))
}

/// A field of mountinfo: `\040` and the like stand for blanks.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::new();
    let mut rest = field;
    while let Some((&b, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|c| std::str::from_utf8(c).ok()).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code {
            Some(code) if b == b'\\' => {
                plain.push(code);
                rest = &after[3..];
            }
            _ => {
                plain.push(b);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_mountinfo_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c\011"), PathBuf::from("/a b\\c\t"));
        assert_eq!(unescape(br"/plain\"), PathBuf::from("/plain\\"));
    }

    #[test]
    fn the_root_is_a_mount_and_a_file_is_none() {
        assert!(type_on(Path::new("/proc")).unwrap().is_some_and(|kind| kind == "proc"));
        assert_eq!(type_on(Path::new("/proc/self/mountinfo")).unwrap(), None);
    }
}
