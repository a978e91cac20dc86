//! A view over FUSE, as small as can be: empty `/proc`, `/sys`, `/dev`, the program `/busybox`, and `/slow`, of which
//! nobody ever hears.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEntry, Request, Session, SessionACL,
};
use onlay::runner::{Root, RootError};

const TTL: Duration = Duration::from_secs(1);

pub(crate) struct Served {
    view: Option<OwnedFd>,
    session: Option<Session<Tiny>>,
    background: Option<BackgroundSession>,
}

struct Tiny {
    program: Vec<u8>,
    unanswered: Mutex<Vec<ReplyEntry>>,
}

impl Tiny {
    fn attr(&self, ino: u64) -> FileAttr {
        let (kind, size) =
            if ino == 5 { (FileType::RegularFile, self.program.len()) } else { (FileType::Directory, 0) };
        FileAttr {
            ino: INodeNo(ino),
            size: size as u64,
            blocks: 1,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Tiny {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some("proc") => 2,
            Some("sys") => 3,
            Some("dev") => 4,
            Some("busybox") => 5,
            Some("slow") => return self.unanswered.lock().unwrap().push(reply),
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&TTL, &self.attr(ino), Generation(0));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino.0));
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let from = (offset as usize).min(self.program.len());
        let to = (from + size as usize).min(self.program.len());
        reply.data(&self.program[from..to]);
    }
}

impl Served {
    pub(crate) fn new() -> Self {
        Self { view: None, session: None, background: None }
    }
}

impl Root for Served {
    fn mount(&mut self) -> Result<(), RootError> {
        use rustix::mount::{
            FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
            fsmount, fsopen,
        };
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse")?;
        let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&device).to_string();
        for (name, value) in [("fd", fd.as_str()), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
            fsconfig_set_string(&fs, name, value)?;
        }
        for name in ["allow_other", "default_permissions"] {
            fsconfig_set_flag(&fs, name)?;
        }
        fsconfig_create(&fs)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        self.view = Some(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?);
        let tiny = Tiny { program: std::fs::read("/usr/bin/busybox")?, unanswered: Mutex::default() };
        self.session = Some(Session::from_fd(tiny, device.into(), SessionACL::All, fuser::Config::default())?);
        Ok(())
    }

    fn serve(&mut self) -> Result<OwnedFd, RootError> {
        self.background = self.session.take().map(Session::spawn).transpose()?;
        Ok(self.view.take().ok_or_else(|| std::io::Error::other("no view"))?)
    }

    fn finish(&mut self) -> Result<(), RootError> {
        Ok(self.background.take().map_or(Ok(()), BackgroundSession::join)?)
    }
}
