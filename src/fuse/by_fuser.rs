//! Carried by fuser: its types to ours and back, one request at a time.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    BackingId, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, Notifier, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::abi::rdev;
use super::capability;
use super::convert::{attr, errno, file_type, set_time};
use super::opens::Opens;
use super::ops::{MAX_BACKGROUND, MAX_WRITE, Ops, Sized, guarded, nothing};
use crate::overlay::{Attr, Caller, SetAttr};
use crate::vocab::{Errno, Result};

const GENERATION: Generation = Generation(0);

/// Offered by the kernel, and wrong in fuser 0.18: a panic, requests that never come, and ids that are not mapped.
const BROKEN: InitFlags =
    InitFlags::FUSE_SETXATTR_EXT.union(InitFlags::FUSE_OVER_IO_URING).union(InitFlags::FUSE_ALLOW_IDMAP);

thread_local! {
    /// One buffer for each thread that answers, as big as the biggest read so far: a new one of more than 128 KiB would
    /// be mapped, faulted in and unmapped each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The union as fuser wants it.
#[derive(Debug)]
pub(super) struct Shim(pub(super) Arc<Ops>, Opens<BackingId>, Arc<OnceLock<Notifier>>);

impl Shim {
    /// What is to be told the notifier before the first request comes.
    pub(super) fn new(ops: Arc<Ops>, notifier: Arc<OnceLock<Notifier>>) -> Self {
        Self(ops, Opens::new(), notifier)
    }

    /// Opens a file straight where that is possible.
    fn open_straight(&self, ino: u64, flags: OpenFlags, reply: &ReplyOpen) -> Result<Option<Arc<BackingId>>> {
        let straight = || {
            let Some(file) = self.0.straight(ino)? else { return Ok(None) };
            let Some(fd) = file.fd() else { return Ok(None) };
            match reply.open_backing(fd) {
                Ok(backing) => Ok(Some(backing)),
                // A layer that is itself stacked; it always is.
                Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Ok(None),
                Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
            }
        };
        let opened = self.1.open(ino, straight)?;
        let writes_maps = flags.acc_mode() == OpenAccMode::O_RDWR;
        if opened.is_some() && writes_maps && self.0.may_be_mapped(ino) {
            // What the kernel was told of it before, for ever.
            if let Some(notifier) = self.2.get()
                && let Err(e) = notifier.inval_inode(INodeNo(ino), -1, 0)
            {
                log::debug!("inode {ino}: attributes stay: {e}");
            }
        }
        Ok(opened)
    }

    fn entry(&self, found: Result<Attr>, reply: ReplyEntry) {
        match found {
            Ok(a) => reply.entry(&self.0.ttl(a.ino), &attr(&a), GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn attr(&self, found: Result<Attr>, reply: ReplyAttr) {
        match found {
            Ok(a) => reply.attr(&self.0.ttl(a.ino), &attr(&a)),
            Err(e) => reply.error(errno(e)),
        }
    }
}

fn empty(done: Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

fn written(done: Result<u32>, reply: ReplyWrite) {
    match done {
        Ok(n) => reply.written(n),
        Err(e) => reply.error(errno(e)),
    }
}

fn sized(found: Result<Sized>, reply: ReplyXattr) {
    match found {
        Ok(Sized::Size(n)) => reply.size(n),
        Ok(Sized::Value(v)) => reply.data(&v),
        Err(e) => reply.error(errno(e)),
    }
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask }
}

impl Filesystem for Shim {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let offered = config.capabilities() - BROKEN;
        let wanted = InitFlags::from_bits_retain(self.0.features(offered.bits()));
        let straight = self.0.passes_through();
        for (what, refused) in [
            ("requests of 1 MiB", config.set_max_write(MAX_WRITE).err()),
            ("readahead of 1 MiB", config.set_max_readahead(MAX_WRITE).err()),
            ("such number of background requests", config.set_max_background(MAX_BACKGROUND).err().map(u32::from)),
            ("files handed to the kernel", straight.then(|| config.set_max_stack_depth(1).err()).flatten()),
            ("such features", config.add_capabilities(wanted).err().map(|f| f.bits() as u32)),
        ] {
            if let Some(limit) = refused {
                log::debug!("no {what}: the limit is {limit}");
            }
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.0.destroy();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = guarded("lookup", || self.0.lookup(parent.0, name.as_bytes()));
        self.entry(found.map(|a| a.unwrap_or_else(nothing)), reply);
    }

    // batch_forget: fuser takes it apart and calls this one.
    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        let forget = || {
            self.0.forget(ino.0, count);
            Ok(())
        };
        if let Err(e) = guarded("forget", forget) {
            log::debug!("inode {ino:?} is remembered: {e}");
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(guarded("getattr", || self.0.getattr(ino.0)), reply);
    }

    fn setattr(
        &self,
        req: &Request,
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
        let may_keep = || capability::has(req.pid(), capability::FSETID);
        self.attr(guarded("setattr", || self.0.setattr(may_keep, req.uid(), ino.0, &set)), reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match guarded("readlink", || self.0.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, dev: u32, reply: ReplyEntry) {
        let (caller, name) = (caller(req, umask), name.as_bytes());
        self.entry(guarded("mknod", || self.0.mknod(&caller, parent.0, name, mode, rdev(dev))), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (caller, name) = (caller(req, umask), name.as_bytes());
        self.entry(guarded("mkdir", || self.0.mkdir(&caller, parent.0, name, mode)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(guarded("unlink", || self.0.unlink(parent.0, name.as_bytes())), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(guarded("rmdir", || self.0.rmdir(parent.0, name.as_bytes())), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, target) = (caller(req, 0), target.as_os_str().as_bytes());
        self.entry(guarded("symlink", || self.0.symlink(&caller, parent.0, name.as_bytes(), target)), reply);
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
        let (from, to) = (name.as_bytes(), new_name.as_bytes());
        empty(guarded("rename", || self.0.rename(parent.0, from, new_parent.0, to, flags.bits())), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(guarded("link", || self.0.link(ino.0, parent.0, name.as_bytes())), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if !self.0.answers_open() {
            return reply.error(fuser::Errno::ENOSYS);
        }
        match guarded("open", || self.open_straight(ino.0, flags, &reply)) {
            Ok(Some(backing)) => reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), &backing),
            Ok(None) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.1.release(ino.0);
        reply.ok();
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
        let size = size as usize;
        BUFFER.with_borrow_mut(|buf| {
            if buf.len() < size {
                buf.resize(size, 0);
            }
            match guarded("read", || self.0.read(ino.0, offset, &mut buf[..size])) {
                Ok(n) => reply.data(&buf[..n]),
                Err(e) => reply.error(errno(e)),
            }
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
        written(guarded("write", || self.0.write(ino.0, offset, data)), reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        empty(guarded("fsync", || self.0.fsync(ino.0, data_only)), reply);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.0.answers_opendir() {
            reply.opened(FileHandle(0), FopenFlags::empty());
        } else {
            reply.error(fuser::Errno::ENOSYS);
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut each = |ino, cookie, kind, name: &[u8]| {
            reply.add(INodeNo(ino), cookie, file_type(kind), OsStr::from_bytes(name)) //
        };
        match guarded("readdir", || self.0.readdir(ino.0, offset, &mut each)) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut each = |e: &super::ops::Plus<'_>| {
            let shown = attr(&e.attr);
            reply.add(shown.ino, e.cookie, OsStr::from_bytes(e.name), &self.0.ttl(e.attr.ino), &shown, GENERATION)
        };
        match guarded("readdirplus", || self.0.readdirplus(ino.0, offset, &mut each)) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(guarded("fsyncdir", || self.0.fsyncdir(ino.0)), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match guarded("statfs", || self.0.statfs()) {
            Ok(s) => reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        empty(guarded("setxattr", || self.0.setxattr(ino.0, name.as_bytes(), value, flags)), reply);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(guarded("getxattr", || self.0.getxattr(ino.0, name.as_bytes(), size)), reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        sized(guarded("listxattr", || self.0.listxattr(ino.0, size)), reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(guarded("removexattr", || self.0.removexattr(ino.0, name.as_bytes())), reply);
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
        match guarded("ioctl", || self.0.ioctl(ino.0, cmd, out_size)) {
            Ok(out) => reply.ioctl(0, &out),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        empty(guarded("fallocate", || self.0.fallocate(ino.0, mode, offset, len)), reply);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match guarded("lseek", || self.0.lseek(ino.0, offset, whence)) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(errno(e)),
        }
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
        let copy = || self.0.copy_file_range((from.0, from_offset), (to.0, to_offset), len);
        written(guarded("copy_file_range", copy), reply);
    }
}
