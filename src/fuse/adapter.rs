//! One short function per operation of the FUSE protocol.
//!
//! Some are left to the kernel by answering `ENOSYS` once: open, opendir, flush, create (no state is kept per open),
//! access (the kernel checks permissions), poll, bmap, and the locks of fcntl(2) and flock(2), which are local to the
//! mount as to any local file system.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::convert::{attr, errno, file_type, name_only, nothing, rdev, set_time};
use super::{Attrs, PID_ATTR, SYNC_ATTR, Tuning};
use crate::overlay::{Attr, Caller, Overlay, ROOT, SetAttr};
use crate::vocab::{Errno, Kind, Result};

const GENERATION: Generation = Generation(0);

/// `FS_IOC_GETFLAGS` of ioctl_iflags(2), whose argument is an `int` whatever its number says.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;

/// What we ask of the kernel where it can.
///
/// Not asked, because fuser 0.18 gets them wrong: `SETXATTR_EXT`, `HANDLE_KILLPRIV_V2`, `OVER_IO_URING`, `ALLOW_IDMAP`.
/// Not the writeback cache: it would make up times and sizes behind the union's back.
const WANTED: [InitFlags; 11] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_ASYNC_DIO,
];

/// Bytes in one WRITE; the kernel's limit for one request.
const MAX_WRITE: u32 = 1 << 20;

thread_local! {
    /// One buffer for each thread that answers, as big as the biggest read so far: a new one of more than 128 KiB would
    /// be mapped, faulted in and unmapped each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The union as fuser wants it.
#[derive(Debug)]
pub(super) struct Adapter {
    overlay: Arc<Overlay>,
    ttl: Duration,
    attrs: Attrs,
    static_nlink: bool,
}

impl Adapter {
    pub(super) fn new(overlay: Arc<Overlay>, tuning: &Tuning) -> Self {
        Self { overlay, ttl: tuning.ttl, attrs: tuning.attrs, static_nlink: tuning.static_nlink }
    }

    /// What the kernel is told of an inode.
    fn told(&self, a: &Attr) -> FileAttr {
        let mut told = attr(a);
        if self.static_nlink && told.kind == FileType::Directory {
            told.nlink = 1;
        }
        told
    }

    fn allowed(&self, name: &OsStr) -> Result<()> {
        if self.attrs.allow(name.as_bytes()) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
    }

    fn entry(&self, found: Result<Attr>, reply: ReplyEntry) {
        match found {
            Ok(a) => reply.entry(&self.ttl, &self.told(&a), GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn attr(&self, found: Result<Attr>, reply: ReplyAttr) {
        match found {
            Ok(a) => reply.attr(&self.ttl, &self.told(&a)),
            Err(e) => reply.error(errno(e)),
        }
    }
}

/// A panic ends one request with `EIO` (a reply that is dropped says so), not the mount.
fn guarded(name: &str, f: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(f)).is_err() {
        log::error!("a bug in onlay ended a {name} request; please report it");
    }
}

fn empty(done: Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

/// An attribute's value, or its size where `size` is 0 (getxattr(2)).
fn sized(found: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match found.and_then(|v| u32::try_from(v.len()).map(|n| (v, n)).map_err(|_| Errno::TOOBIG)) {
        Ok((_, n)) if size == 0 => reply.size(n),
        Ok((_, n)) if n > size => reply.error(errno(Errno::RANGE)),
        Ok((v, _)) => reply.data(&v),
        Err(e) => reply.error(errno(e)),
    }
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in WANTED {
            if flag == InitFlags::FUSE_POSIX_ACL && self.attrs != Attrs::All {
                continue;
            }
            if config.add_capabilities(flag).is_err() {
                log::debug!("the kernel has no {flag:?}");
            }
        }
        for (what, refused) in [
            ("requests of 1 MiB", config.set_max_write(MAX_WRITE).err()),
            ("readahead of 1 MiB", config.set_max_readahead(MAX_WRITE).err()),
        ] {
            if let Some(limit) = refused {
                log::debug!("no {what}: the limit is {limit}");
            }
        }
        if config.set_max_background(64).is_err() {
            log::debug!("the kernel keeps its number of background requests");
        }
        Ok(())
    }

    fn destroy(&mut self) {
        if let Err(e) = self.overlay.sync_all() {
            log::error!("sync of the upper layer: {e}");
        }
        if let Err(e) = self.overlay.end() {
            log::warn!("the mark of a volatile upper is left in the work directory: {e}");
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("lookup", || match self.overlay.lookup(parent.0, name.as_bytes()) {
            Err(Errno::NOENT) => reply.entry(&self.ttl, &nothing(), GENERATION),
            found => self.entry(found, reply),
        });
    }

    // batch_forget: fuser takes it apart and calls this one.
    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        guarded("forget", || self.overlay.forget(ino.0, count));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || self.attr(self.overlay.getattr(ino.0), reply));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        guarded("setattr", || self.attr(self.overlay.setattr(ino.0, &set), reply));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        guarded("readlink", || match self.overlay.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, dev: u32, reply: ReplyEntry) {
        guarded("mknod", || {
            let made = Kind::of_mode(mode).ok_or(Errno::INVAL).and_then(|kind| {
                self.overlay.mknod(&caller(req, umask), parent.0, name.as_bytes(), kind, mode & 0o7777, rdev(dev))
            });
            self.entry(made, reply);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        guarded("mkdir", || {
            let made = self.overlay.mkdir(&caller(req, umask), parent.0, name.as_bytes(), mode & 0o7777);
            self.entry(made, reply);
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("unlink", || empty(self.overlay.unlink(parent.0, name.as_bytes()), reply));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("rmdir", || empty(self.overlay.rmdir(parent.0, name.as_bytes()), reply));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guarded("symlink", || {
            let target = target.as_os_str().as_bytes();
            self.entry(self.overlay.symlink(&caller(req, 0), parent.0, name.as_bytes(), target), reply);
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded("rename", || {
            let (from, to) = (name.as_bytes(), new_name.as_bytes());
            empty(self.overlay.rename(parent.0, from, new_parent.0, to, flags.bits()), reply);
        });
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("link", || self.entry(self.overlay.link(ino.0, parent.0, name.as_bytes()), reply));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded("read", || {
            let size = size as usize;
            BUFFER.with_borrow_mut(|buf| {
                if buf.len() < size {
                    buf.resize(size, 0);
                }
                match self.overlay.read(ino.0, offset, &mut buf[..size]) {
                    Ok(n) => reply.data(&buf[..n]),
                    Err(e) => reply.error(errno(e)),
                }
            });
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded("write", || match self.overlay.write(ino.0, offset, data) {
            // No more than was given, which came in one request.
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        guarded("fsync", || empty(self.overlay.fsync(ino.0, data_only), reply));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded("readdir", || {
            let listed = self.overlay.readdir(ino.0, offset, &mut |e| {
                reply.add(INodeNo(e.ino), e.cookie, file_type(e.kind), OsStr::from_bytes(e.name))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        guarded("readdirplus", || {
            let listed = self.overlay.readdir_plus(ino.0, offset, &mut |e, found| {
                // The kernel makes no inode of `.` and `..`, nor of what it can't believe.
                let mut shown = found.map_or_else(|| name_only(e.kind), |a| self.told(a));
                if matches!(e.name, b"." | b"..") {
                    shown.ino = INodeNo(e.ino);
                    shown.kind = file_type(e.kind);
                }
                reply.add(shown.ino, e.cookie, OsStr::from_bytes(e.name), &self.ttl, &shown, GENERATION)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        guarded("fsyncdir", || empty(self.overlay.fsyncdir(ino.0), reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        guarded("statfs", || match self.overlay.statfs() {
            Ok(s) => reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        guarded("setxattr", || {
            let set = |()| self.overlay.setxattr(ino.0, name.as_bytes(), value, flags);
            empty(self.allowed(name).and_then(set), reply);
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded("getxattr", || {
            if ino.0 == ROOT && name == PID_ATTR {
                return sized(Ok(std::process::id().to_string().into_bytes()), size, reply);
            }
            // fuser carries no SYNCFS.
            if ino.0 == ROOT && name == SYNC_ATTR {
                return sized(self.overlay.sync_all().map(|()| b"done".to_vec()), size, reply);
            }
            sized(self.allowed(name).and_then(|()| self.overlay.getxattr(ino.0, name.as_bytes())), size, reply);
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded("listxattr", || {
            // Each name ends with a 0 byte (listxattr(2)).
            let names = self.overlay.listxattr(ino.0).map(|all| {
                all.into_iter().filter(|name| self.attrs.allow(name)).flat_map(|mut name| {
                    name.push(0);
                    name
                })
            });
            sized(names.map(Iterator::collect), size, reply);
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("removexattr", || {
            empty(self.allowed(name).and_then(|()| self.overlay.removexattr(ino.0, name.as_bytes())), reply);
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: fuser::ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::PollNotifier,
        _: fuser::PollEvents,
        _: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        _: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        guarded("ioctl", || match (cmd, out_size) {
            (FS_IOC_GETFLAGS, 4..) => match self.overlay.flags(ino.0) {
                Ok(flags) => reply.ioctl(0, &flags.to_ne_bytes()),
                Err(e) => reply.error(errno(e)),
            },
            _ => reply.error(fuser::Errno::ENOTTY),
        });
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        guarded("fallocate", || empty(self.overlay.fallocate(ino.0, mode, offset, len), reply));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        guarded("lseek", || {
            let found = u64::try_from(offset)
                .map_err(|_| Errno::NXIO)
                .and_then(|at| self.overlay.seek(ino.0, at, whence))
                .and_then(|at| i64::try_from(at).map_err(|_| Errno::OVERFLOW));
            match found {
                Ok(at) => reply.offset(at),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        guarded("copy_file_range", || {
            // The reply counts in 32 bits; whoever wants more asks again.
            let len = len.min(1 << 30);
            match self.overlay.copy_range(from.0, from_offset, to.0, to_offset, len) {
                Ok(n) => reply.written(n as u32),
                Err(e) => reply.error(errno(e)),
            }
        });
    }
}
