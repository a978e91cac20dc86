//! Who the command runs as: `USER[:GROUP]`, by the view's own passwd(5) and group(5).

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use super::inside::resolve;

/// The ids of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// The home directory, where `/etc/passwd` names one.
    pub(super) home: Option<String>,
}

/// A file as large as this is no `/etc/passwd`.
const MAX_FILE: u64 = 16 << 20;

/// The ids `wanted` stands for in the view. Names need their file; numbers do not.
pub(super) fn find(root: &OwnedFd, wanted: &str) -> Result<Ids, Error> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    look_up(wanted, &passwd, &group)
}

fn read(root: &OwnedFd, path: &str) -> Result<String, Error> {
    let fail = |e: Errno| Error::new(format_args!("read {path} inside"), e);
    let file = match resolve(root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        found => std::fs::File::from(found.map_err(fail)?),
    };
    let mut text = Vec::new();
    let mut limited = std::io::Read::take(file, MAX_FILE);
    std::io::Read::read_to_end(&mut limited, &mut text)
        .map_err(|e| Error::new(format_args!("read {path} inside"), e))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn look_up(wanted: &str, passwd: &str, group: &str) -> Result<Ids, Error> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok().filter(|n| *n != u32::MAX);
    // A name that looks like a number is a name first, as in chown(1).
    let entry = entries(passwd, 7)
        .find(|e| e[0] == user)
        .or_else(|| entries(passwd, 7).find(|e| number.is_some() && e[2].parse().ok() == number));
    let (name, uid, own_gid, home) = match (entry, number) {
        (Some(e), _) => {
            let (Ok(uid), Ok(gid)) = (e[2].parse(), e[3].parse()) else {
                return Err(Error::new(format_args!("user {user}"), "the view's /etc/passwd has no number for it"));
            };
            (Some(e[0]), uid, gid, Some(e[5].to_owned()).filter(|h| !h.is_empty()))
        }
        (None, Some(uid)) => (None, uid, 0, None),
        (None, None) => {
            return Err(Error::new(format_args!("user {user}"), "not in the view's /etc/passwd")
                .hinted("names are looked up inside; a number needs no entry: --user 1000"));
        }
    };
    let Some(wanted_group) = wanted_group else {
        let is_member = |e: &[&str]| name.is_some_and(|n| e[3].split(',').any(|m| m == n));
        let mut groups: Vec<u32> =
            entries(group, 4).filter(|e| is_member(e)).filter_map(|e| e[2].parse().ok()).collect();
        groups.retain(|g| *g != own_gid);
        groups.insert(0, own_gid);
        groups.dedup();
        return Ok(Ids { uid, gid: own_gid, groups, home });
    };
    let by_name = entries(group, 4).find(|e| e[0] == wanted_group).and_then(|e| e[2].parse().ok());
    let Some(gid) = by_name.or_else(|| wanted_group.parse().ok().filter(|n| *n != u32::MAX)) else {
        return Err(Error::new(format_args!("group {wanted_group}"), "not in the view's /etc/group")
            .hinted("names are looked up inside; a number needs no entry: --user 1000:1000"));
    };
    Ok(Ids { uid, gid, groups: vec![gid], home })
}

/// The lines of a file of colon-separated fields that have at least `fields` of them.
fn entries(text: &str, fields: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|l| l.split(':').collect::<Vec<_>>()).filter(move |e| e.len() >= fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/false\n7:x:70:70:::\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:40:ann,web\nadm:x:41:webmaster\n";

    fn ids(wanted: &str) -> (u32, u32, Vec<u32>) {
        let ids = look_up(wanted, PASSWD, GROUP).unwrap();
        (ids.uid, ids.gid, ids.groups)
    }

    #[test]
    fn a_name_brings_its_groups() {
        assert_eq!(ids("web"), (33, 34, vec![34, 40]));
        assert_eq!(ids("33"), (33, 34, vec![34, 40]));
        assert_eq!(look_up("web", PASSWD, GROUP).unwrap().home.as_deref(), Some("/var/www"));
    }

    #[test]
    fn a_group_given_is_the_only_one() {
        assert_eq!(ids("web:log"), (33, 40, vec![40]));
        assert_eq!(ids("web:99"), (33, 99, vec![99]));
        assert_eq!(ids(":log"), (0, 40, vec![40]));
        assert_eq!(ids("web:"), (33, 34, vec![34, 40]));
    }

    #[test]
    fn a_number_needs_no_entry_and_a_name_does() {
        assert_eq!(ids("1000"), (1000, 0, vec![0]));
        assert_eq!(ids("7"), (70, 70, vec![70]));
        for bad in ["nobody", "web:staff", "-1", "4294967295", "web:4294967295"] {
            assert!(look_up(bad, PASSWD, GROUP).is_err(), "{bad}");
        }
    }
}
