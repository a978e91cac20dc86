//! The ids of the new user namespace: user_namespaces(7), subuid(5), newuidmap(1).

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::{Pid, User, getegid, geteuid};

use super::Error;

/// `count` ids from `inside` on stand for as many from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Who may write the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// We, with `CAP_SETUID` and `CAP_SETGID`.
    Privileged,
    /// newuidmap(1) and newgidmap(1), by what /etc/subuid and /etc/subgid grant.
    Tools,
    /// We, but only our own id, and setgroups(2) is denied for it.
    Single,
}

/// Which ids there are inside, and whose they are outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    uids: Vec<Range>,
    gids: Vec<Range>,
    writer: Writer,
    setgroups: bool,
}

impl Mapping {
    /// The best map the caller can have: root maps every id to itself; a user maps root to itself and the ids from 1
    /// on to the subordinate ranges; without ranges, only root is there.
    ///
    /// # Errors
    /// `/proc`, `/etc/subuid` or `/etc/subgid` is there but cannot be read.
    pub fn of_caller() -> Result<Self, Error> {
        let (uid, gid) = (geteuid(), getegid());
        if uid.is_root() {
            let uids = identity(&read(Path::new("/proc/self/uid_map"))?);
            let gids = identity(&read(Path::new("/proc/self/gid_map"))?);
            // Denied once, it is denied in every user namespace below.
            let setgroups = read(Path::new("/proc/self/setgroups"))?.trim() != "deny";
            return Ok(Self { uids, gids, writer: Writer::Privileged, setgroups });
        }
        let name = User::from_uid(uid).ok().flatten().map(|u| u.name);
        let subuid = read(Path::new("/etc/subuid"))?;
        let subgid = read(Path::new("/etc/subgid"))?;
        Ok(Self::of_user((uid.as_raw(), gid.as_raw()), name.as_deref(), (&subuid, &subgid)))
    }

    /// The map of one ordinary user, by the text of subuid(5) and subgid(5).
    fn of_user((uid, gid): (u32, u32), name: Option<&str>, (subuid, subgid): (&str, &str)) -> Self {
        let (uids, gids) = (granted(subuid, name, uid), granted(subgid, name, uid));
        let own = |id| Range { inside: 0, outside: id, count: 1 };
        if uids.is_empty() || gids.is_empty() {
            let (uids, gids) = (vec![own(uid)], vec![own(gid)]);
            return Self { uids, gids, writer: Writer::Single, setgroups: false };
        }
        let uids = std::iter::once(own(uid)).chain(uids).collect();
        let gids = std::iter::once(own(gid)).chain(gids).collect();
        Self { uids, gids, writer: Writer::Tools, setgroups: true }
    }

    /// The user ids.
    pub fn uids(&self) -> &[Range] {
        &self.uids
    }

    /// The group ids.
    pub fn gids(&self) -> &[Range] {
        &self.gids
    }

    /// Only one user is there inside, root.
    pub fn is_single(&self) -> bool {
        matches!(self.uids[..], [Range { count: 1, .. }])
    }

    /// Whether setgroups(2) works inside.
    pub fn has_setgroups(&self) -> bool {
        self.setgroups
    }

    /// Whether group `id` is there inside.
    pub(super) fn has_group(&self, id: u32) -> bool {
        self.gids.iter().any(|r| id >= r.inside && id - r.inside < r.count)
    }

    /// Writes the maps of the user namespace that process `pid` has just made. In the parent: its ids are still those
    /// the maps speak of.
    pub(super) fn write(&self, pid: Pid) -> Result<(), Error> {
        match self.writer {
            Writer::Tools => {
                // Side by side: neither needs the other's.
                let uids = Tool::start("newuidmap", pid, &self.uids, "/etc/subuid")?;
                let gids = Tool::start("newgidmap", pid, &self.gids, "/etc/subgid");
                uids.finish().and(gids?.finish())
            }
            Writer::Single => {
                write_proc(pid, "setgroups", "deny")?;
                write_proc(pid, "uid_map", &lines(&self.uids))?;
                write_proc(pid, "gid_map", &lines(&self.gids))
            }
            Writer::Privileged => {
                write_proc(pid, "uid_map", &lines(&self.uids))?;
                write_proc(pid, "gid_map", &lines(&self.gids))
            }
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ranges: &[Range]| {
            let one = |r: &Range| format!("{}:{}:{}", r.inside, r.outside, r.count);
            ranges.iter().map(one).collect::<Vec<_>>().join(",")
        };
        write!(f, "uids {} gids {}", list(&self.uids), list(&self.gids))
    }
}

fn read(path: &Path) -> Result<String, Error> {
    match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Error::new(format_args!("read {}", path.display()), e)),
    }
}

/// Every id of a uid_map(5) text, mapped to itself.
fn identity(map: &str) -> Vec<Range> {
    let line = |l: &str| {
        let mut numbers = l.split_whitespace().map(str::parse);
        let (Some(Ok(inside)), Some(_), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return None;
        };
        Some(Range { inside, outside: inside, count })
    };
    map.lines().filter_map(line).collect()
}

/// The ranges of a subuid(5) text that are `name`'s or `uid`'s, one after the other from 1 on inside.
fn granted(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let mut next = 1u32;
    let mut ranges = Vec::new();
    for line in text.lines() {
        let mut words = line.trim().split(':');
        let (Some(who), Some(outside), Some(count)) = (words.next(), words.next(), words.next()) else { continue };
        if Some(who) != name && who.parse() != Ok(uid) {
            continue;
        }
        let (Ok(outside), Ok(count)) = (outside.parse(), count.parse::<u32>()) else { continue };
        let Some(end) = next.checked_add(count) else { break };
        if count > 0 {
            ranges.push(Range { inside: next, outside, count });
        }
        next = end;
    }
    ranges
}

/// One of the programs that write maps, which runs.
struct Tool {
    program: &'static str,
    /// The file that tells it what is allowed.
    grants: &'static str,
    child: Child,
}

impl Tool {
    fn start(program: &'static str, pid: Pid, ranges: &[Range], grants: &'static str) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for r in ranges {
            command.args([r.inside.to_string(), r.outside.to_string(), r.count.to_string()]);
        }
        let child = command
            .spawn()
            .map_err(|e| Error::new(program, e).hinted("install the uidmap package (newuidmap and newgidmap)"))?;
        Ok(Self { program, grants, child })
    }

    fn finish(self) -> Result<(), Error> {
        let Self { program, grants, child } = self;
        let out = child.wait_with_output().map_err(|e| Error::new(program, e))?;
        if out.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&out.stderr);
        let said = words.trim().strip_prefix(program).map_or(words.trim(), |s| s.trim_start_matches([':', ' ']));
        // Which a seccomp filter around us wants, say.
        let hint = if nix::sys::prctl::get_no_new_privs().unwrap_or(false) {
            format!("no_new_privs is set here, so that {program} gains no rights: run it outside of this sandbox")
        } else {
            format!("look at {grants}, and that {program} is set-user-id root (or has its file capability)")
        };
        Err(Error::new(program, if said.is_empty() { out.status.to_string() } else { said.to_owned() }).hinted(hint))
    }
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
}

fn write_proc(pid: Pid, file: &str, text: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{file}");
    fs::write(&path, text).map_err(|e| {
        Error::new(format_args!("write {path}"), e)
            .hinted("the kernel or its security module (AppArmor, SELinux) restricts user namespaces here")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(inside: u32, outside: u32, count: u32) -> Range {
        Range { inside, outside, count }
    }

    #[test]
    fn ranges_follow_one_another_by_name_and_by_number() {
        let subuid = "other:1:5\nann:100000:65536\n1001:300000:10\nbad:x:y\nann:7\nann:500000:0\n";
        let subgid = "ann:200000:65536\n";
        let m = Mapping::of_user((1001, 1002), Some("ann"), (subuid, subgid));
        assert_eq!(m.uids(), [r(0, 1001, 1), r(1, 100_000, 65536), r(65537, 300_000, 10)]);
        assert_eq!(m.gids(), [r(0, 1002, 1), r(1, 200_000, 65536)]);
        assert!(!m.is_single() && m.has_setgroups());
        assert!(m.has_group(5) && m.has_group(65536) && !m.has_group(65537));
    }

    #[test]
    fn without_a_range_one_id() {
        let m = Mapping::of_user((1003, 1003), Some("bob"), ("ann:1:2\n", ""));
        assert_eq!((m.uids(), m.gids()), (&[r(0, 1003, 1)][..], &[r(0, 1003, 1)][..]));
        assert!(m.is_single() && !m.has_setgroups() && !m.has_group(5));
    }

    #[test]
    fn root_maps_every_id_to_itself() {
        assert_eq!(identity("         0          0 4294967295\n"), [r(0, 0, 4_294_967_295)]);
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), [r(0, 0, 1), r(1, 1, 65536)]);
    }

    #[test]
    fn a_range_that_overflows_is_left_out() {
        assert_eq!(granted("a:1:4294967290\na:9:100\n", Some("a"), 1), [r(1, 1, 4_294_967_290)]);
    }
}
