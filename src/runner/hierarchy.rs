//! Where control groups can be made, and what runs have left there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::vocab::why;

/// How the names of groups for runs begin.
pub(super) const PREFIX: &str = "onlay-";

/// Removes the groups of runs that were killed with all that would have: wherever we could make one.
pub fn remove_left_groups() {
    let Some(top) = hierarchy(&read(Path::new("/proc/self/mountinfo"))) else { return };
    let own = own(&read(Path::new("/proc/self/cgroup")), &top);
    for place in places(&top.dir, own.as_deref(), nix::unistd::geteuid().is_root()) {
        sweep(&place);
    }
}

/// Removes what crashed runs have left.
pub(super) fn sweep(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)) {
        // Not ours to open, or locked: in use.
        if File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok()) {
            // Refused as long as anything runs in it, or is just about to.
            fs::remove_dir(entry.path()).ok();
        }
    }
}

/// Where version 2 is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) dir: PathBuf,
    /// The group that is seen there.
    root: PathBuf,
}

pub(super) fn hierarchy(mountinfo: &str) -> Option<Top> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut words = left.split(' ').skip(3);
        let (root, dir) = (words.next()?, words.next()?);
        (right.split(' ').next()? == "cgroup2").then(|| Top { dir: dir.into(), root: root.into() })
    })
}

/// The directory of the caller's group.
pub(super) fn own(cgroup: &str, top: &Top) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|l| l.strip_prefix("0::"))?;
    let below = Path::new(path).strip_prefix(&top.root).ok()?;
    (!below.components().any(|c| c == std::path::Component::ParentDir)).then(|| top.dir.join(below))
}

/// Where a group may be made, the best first: the caller's own holds processes, so it can't have limited children; init
/// can only be moved to where we may write in all that lies between.
pub(super) fn places(top: &Path, own: Option<&Path>, root: bool) -> Vec<PathBuf> {
    let ours = |dir: &Path| {
        let writable = |path: PathBuf| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        writable(dir.to_owned()) && writable(dir.join("cgroup.procs"))
    };
    let above = own.into_iter().flat_map(|own| own.ancestors().skip(1)).take_while(|dir| dir.starts_with(top));
    let mut places: Vec<PathBuf> = above.map(Path::to_owned).take_while(|dir| ours(dir)).collect();
    if root && ours(top) {
        places.retain(|dir| dir != top);
        places.insert(0, top.to_owned());
    }
    places
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), String> {
    // Made files would be none of the kernel's.
    let written =
        File::options().write(true).open(path).and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()));
    written.map_err(|e| format!("write {text:?} to {}: {}", path.display(), why(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_group_is_found() {
        let pure = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let top = hierarchy(pure).unwrap();
        assert_eq!(top, Top { dir: "/sys/fs/cgroup".into(), root: "/".into() });
        assert_eq!(own("0::/a/b.scope\n", &top), Some("/sys/fs/cgroup/a/b.scope".into()));
        // Of another namespace: out of sight.
        assert_eq!(own("0::/../x\n", &top), None);
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let top = hierarchy(hybrid).unwrap();
        assert_eq!(own("1:cpu:/\n0::/\n", &top), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(hierarchy("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn places_are_above_the_callers_group() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("a/b/own");
        fs::create_dir_all(&own).unwrap();
        for d in ["", "a", "a/b"] {
            fs::write(dir.path().join(d).join("cgroup.procs"), "").unwrap();
        }
        let found = |root| places(dir.path(), Some(&own), root);
        assert_eq!(found(false), [dir.path().join("a/b"), dir.path().join("a"), dir.path().to_owned()]);
        assert_eq!(found(true), [dir.path().to_owned(), dir.path().join("a/b"), dir.path().join("a")]);
        fs::remove_file(dir.path().join("a/cgroup.procs")).unwrap();
        assert_eq!(found(false), [dir.path().join("a/b")]);
        assert_eq!(places(dir.path(), None, false), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_crashed_runs_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["onlay-dead-1", "onlay-live-2", "onlay-full-3/x", "other"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let live = File::open(dir.path().join("onlay-live-2")).unwrap();
        live.lock().unwrap();
        sweep(dir.path());
        let there = |name: &str| dir.path().join(name).exists();
        assert!(!there("onlay-dead-1") && there("onlay-live-2") && there("onlay-full-3") && there("other"));
    }
}
