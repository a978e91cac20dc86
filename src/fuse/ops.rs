//! The operations of FUSE over the union: one short function each, in types of ours, whatever carries them.
//!
//! A transport parses a request, calls one of these, and sends what it returned or the errno. Not here, because every
//! transport answers them with `ENOSYS`, which the kernel remembers: open, opendir, flush and create (no state is kept
//! per open), access (the kernel checks permissions), poll, bmap, and the locks of fcntl(2) and flock(2), which are local
//! to the mount as to any local file system.

mod xattr;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::bare::Bare;
use super::beside::Beside;
use super::mechanisms::{Chosen, Wish, Wishes, why};
use super::straight::Straight;
use super::{Attrs, Tuning, capability};
use crate::layer::File;
use crate::overlay::{self, Attr, Caller, Overlay, ROOT, SetAttr};
use crate::vocab::set_id;
use crate::vocab::{Errno, Kind, Result, Space, Stat, Timestamp};

pub(super) use xattr::Sized;

/// `FS_IOC_GETFLAGS` of ioctl_iflags(2), whose argument is an `int` whatever its number says.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;

/// The reply to copy_file_range counts in 32 bits; whoever wants more asks again.
const MAX_COPY: u64 = 1 << 30;

/// Somebody else than the owner may write: the group (or whom an ACL names), others.
const OTHERS_WRITE: u32 = 0o022;

/// Bytes in one WRITE, and in one READ; the kernel's limit for one request.
pub(super) const MAX_WRITE: u32 = 1 << 20;

/// Requests that the kernel sends without anybody waiting for the answer (readahead), at most, at a time.
pub(super) const MAX_BACKGROUND: u16 = 64;

/// Bits of INIT's flags (`FUSE_*` in linux/fuse.h).
pub(super) mod feature {
    pub(in crate::fuse) const ASYNC_READ: u64 = 1 << 0;
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    pub(in crate::fuse) const DONT_MASK: u64 = 1 << 6;
    pub(in crate::fuse) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    pub(in crate::fuse) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(in crate::fuse) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(in crate::fuse) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in crate::fuse) const POSIX_ACL: u64 = 1 << 20;
    pub(in crate::fuse) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in crate::fuse) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(in crate::fuse) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in crate::fuse) const PASSTHROUGH: u64 = 1 << 37;
    pub(in crate::fuse) const OVER_IO_URING: u64 = 1 << 41;
}

/// What we ask of the kernel where it can, unless it is [not wanted](Ops::features).
const WANTED: u64 = feature::ASYNC_READ
    | feature::BIG_WRITES
    | feature::DONT_MASK
    | feature::POSIX_ACL
    | feature::PARALLEL_DIROPS
    | feature::DO_READDIRPLUS
    | feature::CACHE_SYMLINKS
    | feature::NO_OPEN_SUPPORT
    | feature::NO_OPENDIR_SUPPORT
    | feature::HANDLE_KILLPRIV_V2
    | feature::PASSTHROUGH
    | feature::WRITEBACK_CACHE
    | feature::ASYNC_DIO;

/// One name of a listing with all that is known of its inode.
#[derive(Debug)]
pub(super) struct Plus<'a> {
    pub(super) name: &'a [u8],
    /// Where to go on after it.
    pub(super) cookie: u64,
    pub(super) attr: Attr,
}

/// The union as the kernel asks for it.
#[derive(Debug)]
pub(super) struct Ops {
    overlay: Arc<Overlay>,
    ttl: Duration,
    attrs: Attrs,
    static_nlink: bool,
    wishes: Wishes,
    /// The [features](feature) that both sides know.
    agreed: AtomicU64,
    /// Inodes whose attributes may change without anybody being told.
    unstable: Mutex<HashSet<u64>>,
    bare: Arc<Bare>,
    beside: Beside,
    /// In a view beside another: that one.
    main: Option<Arc<Overlay>>,
    /// Of a transport that has no such thing itself.
    opens: OnceLock<Straight>,
    /// What keeps others from the upper.
    locks: Mutex<Vec<OwnedFd>>,
}

/// Whether the kernel lets us hand it files: it asks for `CAP_SYS_ADMIN` in the first user namespace.
fn may_pass_through() -> bool {
    capability::has(std::process::id(), capability::SYS_ADMIN)
}

impl Ops {
    pub(super) fn new(overlay: Arc<Overlay>, tuning: &Tuning) -> Self {
        let bare = Bare::new(tuning.wishes.absent_xattrs.or(false) && overlay.is_fixed());
        Self {
            bare,
            overlay,
            beside: Beside::new(tuning),
            main: None,
            ttl: tuning.ttl,
            attrs: tuning.attrs,
            static_nlink: tuning.static_nlink,
            wishes: tuning.wishes,
            agreed: AtomicU64::new(0),
            unstable: Mutex::default(),
            opens: OnceLock::new(),
            locks: Mutex::default(),
        }
    }

    /// The [features](feature) to ask of a kernel that offers these.
    pub(super) fn features(&self, offered: u64) -> u64 {
        let w = &self.wishes;
        let passthrough = w.passthrough.or(false) && offered & feature::PASSTHROUGH != 0 && may_pass_through();
        let mut unwanted = 0;
        for (feature, wanted) in [
            (feature::POSIX_ACL, self.attrs == Attrs::All),
            (feature::HANDLE_KILLPRIV_V2, w.killpriv.or(true)),
            (feature::PASSTHROUGH, passthrough),
            // The kernel has not both.
            (feature::WRITEBACK_CACHE, w.writeback.or(false) && !passthrough),
            (feature::NO_OPEN_SUPPORT, w.no_open.or(true) && !passthrough),
            (feature::NO_OPENDIR_SUPPORT, w.dir_cache.or(true)),
        ] {
            unwanted |= if wanted { 0 } else { feature };
        }
        let agreed = WANTED & offered & !unwanted;
        self.agreed.store(agreed, Ordering::Relaxed);
        agreed
    }

    fn uses(&self, feature: u64) -> bool {
        self.agreed.load(Ordering::Relaxed) & feature != 0
    }

    /// Whether all layers are on this machine's disks.
    pub(super) fn is_local(&self) -> bool {
        self.overlay.is_local()
    }

    /// Whether opening a file is answered: else not at all (`ENOSYS`), and the kernel never asks again.
    pub(super) fn answers_open(&self) -> bool {
        !self.uses(feature::NO_OPEN_SUPPORT)
    }

    /// The same for directories.
    pub(super) fn answers_opendir(&self) -> bool {
        !self.uses(feature::NO_OPENDIR_SUPPORT)
    }

    /// Whether opened files may be handed to the kernel.
    pub(super) fn passes_through(&self) -> bool {
        self.uses(feature::PASSTHROUGH)
    }

    /// What was chosen, once the first request has been answered.
    pub(super) fn mechanisms(&self) -> Vec<Chosen> {
        let w = &self.wishes;
        let line = |name, wish: Wish, feature, hindered: Option<&str>, best| {
            let on = self.uses(feature);
            let lacking = if on || !wish.or(true) {
                None
            } else {
                hindered.or(Some("the kernel or the transport does not offer it"))
            };
            Chosen::new(name, on, why(wish, lacking, best))
        };
        let straight = self.passes_through();
        let asks = straight.then_some("passthrough needs to be told of each open");
        let not_both = straight.then_some("the kernel has not both this and passthrough");
        let unable = (!may_pass_through()).then_some("it takes CAP_SYS_ADMIN outside of user namespaces");
        let unless = |wish, line: Chosen, best: &str| match wish {
            Wish::Auto => Chosen::new(line.name, false, best),
            _ => line,
        };
        let all_ours = "all change goes through this mount";
        vec![
            Chosen::new("negative_entries", self.keeps_absent(), why(w.negative_entries, None, all_ours)),
            line("no_open", w.no_open, feature::NO_OPEN_SUPPORT, asks, "opening and closing a file cost no request"),
            line(
                "dir_cache",
                w.dir_cache,
                feature::NO_OPENDIR_SUPPORT,
                None,
                "listing a directory again costs no request",
            ),
            line(
                "killpriv",
                w.killpriv,
                feature::HANDLE_KILLPRIV_V2,
                None,
                "no question about capabilities before each write",
            ),
            Chosen::new("absent_xattrs", self.bare.is_wanted(), self.why_bare()),
            unless(
                w.passthrough,
                line("passthrough", w.passthrough, feature::PASSTHROUGH, unable, ""),
                "each open would cost a request",
            ),
            unless(
                w.writeback,
                line("writeback", w.writeback, feature::WRITEBACK_CACHE, not_both, ""),
                "holes of files would not be told",
            ),
        ]
    }

    fn why_bare(&self) -> String {
        match self.wishes.absent_xattrs {
            Wish::Auto => "for engines that compare trees, which call us fuse-overlayfs".into(),
            wish => why(wish, (wish == Wish::On && !self.bare.is_wanted()).then_some("the view may change"), ""),
        }
    }

    fn keeps_absent(&self) -> bool {
        self.wishes.negative_entries.or(!self.ttl.is_zero())
    }

    /// Locks to let go of when nothing is asked any more.
    pub(super) fn hold(&self, locks: Vec<OwnedFd>) {
        *self.locks.lock() = locks;
    }

    /// The last words: nothing is asked any more.
    pub(super) fn destroy(&self) {
        self.bare.give_up();
        if let Err(e) = self.overlay.end() {
            log::warn!("the mark of a volatile upper is left in the work directory: {e}");
        }
        // Nothing is written any more. A disk may be busy for longer than the next mount of the upper waits.
        self.locks.lock().clear();
        if let Err(e) = self.overlay.sync_all() {
            log::error!("sync of the upper layer: {e}");
        }
    }

    /// The view that an inode belongs to, if that is not this one but one beside it.
    pub(super) fn beside(&self, ino: u64) -> Option<Arc<Self>> {
        self.beside.of(ino)
    }

    /// What the kernel is told of an inode.
    fn told(&self, mut attr: Attr) -> Result<Attr> {
        if let Some(main) = &self.main {
            attr.stat.ino = main.number_of(&self.overlay, attr.ino)?.unwrap_or(attr.ino);
        }
        Ok(self.linked(attr))
    }

    fn linked(&self, mut attr: Attr) -> Attr {
        if self.static_nlink && attr.stat.kind == Kind::Dir {
            attr.stat.nlink = 1;
        }
        attr
    }

    /// `None` for a name that is not there, to be remembered as long as any other.
    pub(super) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Attr>> {
        match self.overlay.lookup(parent, name) {
            Ok(attr) => self.told(attr).map(Some),
            Err(Errno::NOENT)
                if parent == ROOT
                    && let Some(other) = self.beside.found(name) =>
            {
                other.overlay.getattr(other.overlay.root()).map(Some)
            }
            Err(Errno::NOENT) if self.keeps_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn forget(&self, ino: u64, count: u64) {
        if let Some(other) = self.beside(ino) {
            return other.forget(ino, count);
        }
        if !self.overlay.forget(ino, count) {
            self.unstable.lock().remove(&ino);
        }
    }

    /// How long the kernel may trust what it is told of an inode.
    pub(super) fn ttl(&self, ino: u64) -> Duration {
        // The name of a view beside this one is good for once.
        if self.main.is_none() && overlay::beside(ino).is_some() {
            return Duration::ZERO;
        }
        let unstable = self.passes_through() && self.unstable.lock().contains(&ino);
        if unstable { Duration::ZERO } else { self.ttl }
    }

    /// The file that the kernel may read and write without us; `None` if it must ask.
    pub(super) fn straight(&self, ino: u64) -> Result<Option<Arc<File>>> {
        if self.passes_through() { self.overlay.straight(ino) } else { Ok(None) }
    }

    /// Files can be handed to the kernel on this connection.
    pub(super) fn hand_over_by(&self, straight: Straight) {
        self.opens.get_or_init(|| straight);
    }

    /// Opens a file, to read and write as open(2)'s `flags` say; the number of the file on disk that the kernel is to go
    /// straight to.
    pub(super) fn open(&self, ino: u64, flags: u32) -> Result<Option<u32>> {
        self.opens.get().map_or(Ok(None), |opens| opens.open(self, ino, flags))
    }

    pub(super) fn release(&self, ino: u64) {
        if let Some(opens) = self.opens.get() {
            opens.release(ino);
        }
    }

    /// An inode is open straight to read and write: it may be mapped, and then changed without anybody being told, even
    /// after it was closed. Whether that is new.
    pub(super) fn may_be_mapped(&self, ino: u64) -> bool {
        self.unstable.lock().insert(ino)
    }

    pub(super) fn getattr(&self, ino: u64) -> Result<Attr> {
        self.overlay.getattr(ino).and_then(|a| self.told(a))
    }

    /// The same, and when it was born; `ENOSYS` where that is not to be told, and the kernel never asks again.
    pub(super) fn statx(&self, ino: u64) -> Result<(Attr, Option<Timestamp>)> {
        if !self.tells_birth() {
            return Err(Errno::NOSYS);
        }
        Ok((self.getattr(ino)?, self.overlay.birth(ino)?))
    }

    /// Whether times of birth are told where the transport can.
    pub(super) fn tells_birth(&self) -> bool {
        self.wishes.btime.or(false)
    }

    /// `may_keep` tells whether the caller `uid` may cut a file without taking its set-id bits.
    pub(super) fn setattr(&self, may_keep: impl FnOnce() -> bool, uid: u32, ino: u64, set: &SetAttr) -> Result<Attr> {
        let mut set = *set;
        let nothing = set == SetAttr::default();
        if self.uses(feature::HANDLE_KILLPRIV_V2) && (nothing || set.size.is_some()) {
            let now = self.overlay.getattr(ino)?;
            let left = if now.stat.kind == Kind::File { set_id::without(now.stat.mode) } else { None };
            match left {
                Some(_) if !nothing && may_keep() => {}
                // Before a write, or chown(2) to nobody: the kernel leaves the bits to us, and has not asked whose the file is.
                // Who may write may also take them so; who certainly may not only calls chown.
                Some(_) if nothing && ![0, now.stat.uid].contains(&uid) && now.stat.mode & OTHERS_WRITE == 0 => {
                    return Err(Errno::PERM);
                }
                Some(mode) => set.mode = Some(mode),
                None if nothing => return self.told(now),
                None => {}
            }
        }
        self.overlay.setattr(ino, &set).and_then(|a| self.told(a))
    }

    pub(super) fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        self.overlay.readlink(ino)
    }

    /// `mode` with its type bits, `rdev` as makedev(3) encodes it.
    pub(super) fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, rdev: u64) -> Result<Attr> {
        let kind = Kind::of_mode(mode).ok_or(Errno::INVAL)?;
        self.overlay.mknod(caller, parent, name, kind, mode & 0o7777, rdev).map(|a| self.linked(a))
    }

    /// A file without a name, for `O_TMPFILE`.
    pub(super) fn tmpfile(&self, caller: &Caller, dir: u64, mode: u32) -> Result<Attr> {
        self.overlay.tmpfile(caller, dir, mode & 0o7777).map(|a| self.linked(a))
    }

    pub(super) fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr> {
        self.overlay.mkdir(caller, parent, name, mode & 0o7777).map(|a| self.linked(a))
    }

    pub(super) fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr> {
        self.overlay.symlink(caller, parent, name, target)
    }

    pub(super) fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        self.overlay.link(ino, parent, name)
    }

    pub(super) fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.overlay.unlink(parent, name)
    }

    pub(super) fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.overlay.rmdir(parent, name)
    }

    pub(super) fn rename(&self, parent: u64, name: &[u8], to: u64, new_name: &[u8], flags: u32) -> Result<()> {
        self.overlay.rename(parent, name, to, new_name, flags)
    }

    /// Bytes read into `buf`.
    pub(super) fn read(&self, ino: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.overlay.read(ino, offset, buf)
    }

    /// Bytes written: no more than was given, which came in one request.
    pub(super) fn write(&self, ino: u64, offset: u64, data: &[u8]) -> Result<u32> {
        self.overlay.write(ino, offset, data).map(|n| n as u32)
    }

    pub(super) fn fsync(&self, ino: u64, data_only: bool) -> Result<()> {
        self.overlay.fsync(ino, data_only)
    }

    pub(super) fn fsyncdir(&self, ino: u64) -> Result<()> {
        self.overlay.fsyncdir(ino)
    }

    pub(super) fn fallocate(&self, ino: u64, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.overlay.fallocate(ino, mode, offset, len)
    }

    pub(super) fn lseek(&self, ino: u64, offset: i64, whence: i32) -> Result<i64> {
        // What the kernel has not passed on yet looks like a hole to us; it goes on without us then, and sees none.
        if self.uses(feature::WRITEBACK_CACHE) {
            return Err(Errno::NOSYS);
        }
        let at = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let found = self.overlay.seek(ino, at, whence)?;
        i64::try_from(found).map_err(|_| Errno::OVERFLOW)
    }

    /// From an inode and offset to another: bytes copied.
    pub(super) fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u32> {
        // The kernel copies by itself then.
        if overlay::beside(from.0) != overlay::beside(to.0) {
            return Err(Errno::XDEV);
        }
        self.overlay.copy_range(from.0, from.1, to.0, to.1, len.min(MAX_COPY)).map(|n| n as u32)
    }

    /// Calls `each` with inode number, cookie, kind and name, until it says that it is full.
    pub(super) fn readdir(
        &self,
        ino: u64,
        cookie: u64,
        each: &mut dyn FnMut(u64, u64, Kind, &[u8]) -> bool,
    ) -> Result<()> {
        let shown = self.shown_in(ino)?;
        self.overlay.readdir(ino, cookie, &mut |e| each(shown(e.name, e.ino), e.cookie, e.kind, e.name))
    }

    /// The same with attributes.
    pub(super) fn readdirplus(&self, ino: u64, cookie: u64, each: &mut dyn FnMut(&Plus<'_>) -> bool) -> Result<()> {
        let shown = self.shown_in(ino)?;
        self.overlay.readdir_plus(ino, cookie, &mut |e, found| {
            // The kernel makes no inode of `.` and `..`, nor of what it can't believe.
            let mut attr = found.map_or_else(|| name_only(e.kind), |a| self.linked(*a));
            if matches!(e.name, b"." | b"..") {
                attr.ino = e.ino;
                attr.stat.kind = e.kind;
                attr.stat.ino = e.ino;
            } else if found.is_some() {
                attr.stat.ino = shown(e.name, e.ino);
            }
            each(&Plus { name: e.name, cookie: e.cookie, attr })
        })
    }

    /// The numbers that programs see of what is in a directory, by name and the inode's.
    fn shown_in(&self, dir: u64) -> Result<impl Fn(&[u8], u64) -> u64> {
        let main = self.main.as_ref().map(|main| Ok((main, main.twin(&self.overlay, dir)?))).transpose()?;
        Ok(move |name: &[u8], ino| match &main {
            Some((main, twin)) => main.number_if_same(twin, name, &self.overlay, ino).unwrap_or(ino),
            None => ino,
        })
    }

    pub(super) fn statfs(&self) -> Result<Space> {
        self.overlay.statfs()
    }

    /// What an ioctl puts into its argument of `out_size` bytes.
    pub(super) fn ioctl(&self, ino: u64, cmd: u32, out_size: u32) -> Result<[u8; 4]> {
        match (cmd, out_size) {
            (FS_IOC_GETFLAGS, 4..) => self.overlay.flags(ino).map(u32::to_ne_bytes),
            _ => Err(Errno::NOTTY),
        }
    }
}

/// Runs one request; a panic ends it with `EIO`, not the mount.
pub(super) fn guarded<T>(name: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        log::error!("a bug in onlay ended a {name} request; please report it");
        Err(Errno::IO)
    })
}

/// An inode of which nothing is known but its kind.
fn blank(ino: u64, kind: Kind, size: u64) -> Attr {
    let never = Timestamp::default();
    let stat = Stat {
        dev: 0,
        ino,
        kind,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        blocks: 0,
        blksize: 0,
        atime: never,
        mtime: never,
        ctime: never,
        mount_root: false,
    };
    Attr { ino, stat }
}

/// A name that stands for no inode the kernel could use: ENOENT, remembered as long as any entry.
pub(super) fn nothing() -> Attr {
    blank(0, Kind::File, 0)
}

/// What readdirplus tells of a name whose inode can't be had: the size is impossible, so the kernel lists the name, makes
/// no inode of it and forgets the number again (`fuse_direntplus_link`). With the number 0, readdir(3) would hide it.
fn name_only(kind: Kind) -> Attr {
    blank(u64::MAX, kind, u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_one_request() {
        let r: Result<()> = guarded("test", || panic!("on purpose"));
        assert_eq!(r, Err(Errno::IO));
    }
}
