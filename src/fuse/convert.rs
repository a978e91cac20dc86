//! Types of fuser to types of ours, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use super::abi::device;
use crate::overlay::Attr;
use crate::vocab::{Errno, Kind, SetTime, Timestamp};

pub(super) fn errno(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e.raw_os_error())
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    let st = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.ino),
        size: st.size,
        blocks: st.blocks,
        atime: system_time(st.atime),
        mtime: system_time(st.mtime),
        ctime: system_time(st.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(st.kind),
        // Both are 12 bits wide.
        perm: (st.mode & 0o7777) as u16,
        nlink: st.nlink,
        uid: st.uid,
        gid: st.gid,
        rdev: device(st.rdev),
        blksize: st.blksize,
        flags: 0,
    }
}

/// What the range of `SystemTime` can't hold is cut to the epoch: no file system of Linux stores such a time.
fn system_time(t: Timestamp) -> SystemTime {
    let nsec = Duration::from_nanos(t.nsec.into());
    let whole = Duration::from_secs(t.sec.unsigned_abs());
    let at = if t.sec >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
    at.and_then(|at| at.checked_add(nsec)).unwrap_or(UNIX_EPOCH)
}

pub(super) fn set_time(t: Option<TimeOrNow>) -> SetTime {
    match t {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(t)) => SetTime::To(received(t)),
    }
}

/// Undoes what fuser 0.18 does to a time before the epoch: from `-s` seconds and `ns` nanoseconds *after* that it
/// makes `EPOCH - (s + ns)`, though `EPOCH - s + ns` was meant.
fn received(t: SystemTime) -> Timestamp {
    let (sign, d) = match t.duration_since(UNIX_EPOCH) {
        Ok(d) => (1, d),
        Err(e) => (-1, e.duration()),
    };
    let sec = i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    Timestamp { sec: sign * sec, nsec: d.subsec_nanos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_survive_both_ways() {
        // As fuser 0.18's system_time_from_time makes it of (-2, 700_000_000).
        let broken = UNIX_EPOCH - Duration::new(2, 700_000_000);
        assert_eq!(received(broken), Timestamp { sec: -2, nsec: 700_000_000 });
        assert_eq!(received(UNIX_EPOCH + Duration::new(5, 6)), Timestamp { sec: 5, nsec: 6 });
        let t = system_time(Timestamp { sec: -2, nsec: 700_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(t).unwrap(), Duration::new(1, 300_000_000));
    }
}
