//! A tree on disk, worked on by file descriptor and name.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dashmap::DashMap;
use rustix::fs::{
    self as rfs, AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom,
    StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};

mod unnamed;

use super::{Listed, Rename};
use crate::sys;
use crate::vocab::handle::FileHandle;
use crate::vocab::{Access, Errno, Kind, Result, SetTime, Space, Stat, Timestamp};

const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

/// A path that stays where it is meant to be.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// An object on disk, held by a descriptor: with `O_PATH`, but for what was made [without a name](unnamed).
#[derive(Clone, Debug)]
pub struct Object {
    fd: Arc<OwnedFd>,
    /// Whether changes are allowed; every descendant inherits it. A lower layer's handles refuse them with `EROFS`.
    writable: bool,
    /// The descriptor is open for data, too: calls on descriptors take it.
    open: bool,
}

/// A regular file on disk, opened for its data.
#[derive(Debug)]
pub struct Data {
    fd: Arc<OwnedFd>,
}

impl Object {
    /// Opens the directory at `path` (links are followed) as the root of a tree. A writable tree clears the process's
    /// umask, because modes given to it are final.
    ///
    /// # Errors
    /// Those of open(2) with `O_PATH|O_DIRECTORY`.
    pub fn open(path: &Path, writable: bool) -> Result<Self> {
        if writable {
            sys::mode::clear_umask();
        }
        let fd = rfs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd: Arc::new(fd), writable, open: false })
    }

    /// The descriptor (`O_PATH`).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn child(&self, fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd), writable: self.writable, open: false }
    }

    fn may_change(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// Runs a change of this directory's entries. A daemon without `CAP_DAC_OVERRIDE` lends itself the directory's
    /// owner bits for the moment: whether the *caller* may do this was decided before we were asked.
    fn changing<T>(&self, f: impl Fn() -> Result<T>) -> Result<T> {
        self.may_change()?;
        match f() {
            Err(Errno::ACCESS) => self.lend(b"", 0o700, f),
            r => r,
        }
    }

    /// Runs `f` again with the owner bits `bits` lent to `name`, if it is ours and lacks them.
    fn lend<T>(&self, name: &[u8], bits: u32, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let st = self.stat(name)?;
        let ours = st.uid == rustix::process::geteuid().as_raw();
        if !self.writable || !ours || st.kind == Kind::Symlink || st.mode & bits == bits {
            return Err(Errno::ACCESS);
        }
        self.chmod(name, st.mode | bits)?;
        let r = f();
        self.chmod(name, st.mode)?;
        r
    }

    pub(super) fn open_dir(&self, name: &[u8]) -> Result<Self> {
        let name = if name.is_empty() { b"." } else { name };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rfs::openat(&*self.fd, os(name), flags, Mode::empty());
        let fd = match open() {
            Err(Errno::ACCESS) => self.lend(b"", 0o700, open)?,
            r => r?,
        };
        Ok(self.child(fd))
    }

    pub(super) fn pin(&self, name: &[u8]) -> Result<Self> {
        if name.is_empty() {
            return Ok(self.clone());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rfs::openat(&*self.fd, os(name), flags, Mode::empty());
        let fd = match open() {
            Err(Errno::ACCESS) => self.lend(b"", 0o700, open)?,
            r => r?,
        };
        Ok(self.child(fd))
    }

    pub(super) fn open_file(&self, name: &[u8], access: Access) -> Result<Data> {
        self.open_data(name, access, |flags| match name {
            b"" => rfs::open(self.proc_path(), flags, Mode::empty()),
            name => rfs::openat(&*self.fd, os(name), flags | OFlags::NOFOLLOW, Mode::empty()),
        })
    }

    /// Opens the regular file at `path`, which must lie beneath this directory, to read; no link is followed.
    pub(super) fn open_file_beneath(&self, path: &[u8]) -> Result<Data> {
        let open = |flags| rfs::openat2(&*self.fd, os(path), flags, Mode::empty(), BENEATH);
        self.open_data(path, Access::Read, open)
    }

    fn open_data(&self, name: &[u8], access: Access, open: impl Fn(OFlags) -> Result<OwnedFd>) -> Result<Data> {
        let (flags, bits) = match access {
            Access::Read => (OFlags::RDONLY, 0o400),
            Access::ReadWrite => {
                self.may_change()?;
                (OFlags::RDWR, 0o600)
            }
        };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        // Reading must not move the access times of a layer; O_NOATIME is for owners only.
        let quiet = || match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            r => r,
        };
        let fd = match quiet() {
            Err(Errno::ACCESS) => self.lend(name, bits, quiet)?,
            r => r?,
        };
        Ok(Data { fd: Arc::new(fd) })
    }

    pub(super) fn create(&self, name: &[u8], mode: u32) -> Result<Data> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.changing(|| rfs::openat(&*self.fd, os(name), flags, Mode::from_raw_mode(mode & 0o7777)))?;
        Ok(Data { fd: Arc::new(fd) })
    }

    fn statx(&self, name: &[u8], what: StatxFlags) -> Result<rfs::Statx> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
        let call = || rfs::statx(&*self.fd, os(name), flags, what);
        match call() {
            Err(Errno::ACCESS) if !name.is_empty() => self.lend(b"", 0o700, call),
            r => r,
        }
    }

    pub(super) fn stat(&self, name: &[u8]) -> Result<Stat> {
        stat_of(&self.statx(name, StatxFlags::BASIC_STATS)?)
    }

    pub(super) fn birth(&self, name: &[u8]) -> Result<Option<Timestamp>> {
        let st = self.statx(name, StatxFlags::BTIME)?;
        let known = StatxFlags::from_bits_retain(st.stx_mask).contains(StatxFlags::BTIME);
        Ok(known.then_some(timestamp(st.stx_btime)))
    }

    pub(super) fn list(&self, each: &mut dyn FnMut(Listed<'_>)) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let quiet = || match rfs::openat(&*self.fd, ".", flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rfs::openat(&*self.fd, ".", flags, Mode::empty()),
            r => r,
        };
        let fd = match quiet() {
            Err(Errno::ACCESS) => self.lend(b"", 0o700, quiet)?,
            r => r?,
        };
        let mut buf = Box::<[MaybeUninit<u8>]>::new_uninit_slice(32 << 10)
            .into_iter()
            .map(|_| MaybeUninit::uninit())
            .collect::<Vec<_>>();
        let mut dir = RawDir::new(&fd, &mut buf);
        while let Some(entry) = dir.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(Listed { name, ino: entry.ino(), kind: kind_of(entry.file_type()), dev: None });
            }
        }
        Ok(())
    }

    pub(super) fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        Ok(rfs::readlinkat(&*self.fd, os(name), Vec::new())?.into_bytes())
    }

    pub(super) fn mkdir(&self, name: &[u8], mode: u32) -> Result<()> {
        self.changing(|| rfs::mkdirat(&*self.fd, os(name), Mode::from_raw_mode(mode & 0o7777)))?;
        // mkdir(2) takes no set-id bits from its mode.
        if mode & 0o6000 != 0 { self.chmod(name, mode | (self.stat(name)?.mode & 0o2000)) } else { Ok(()) }
    }

    pub(super) fn mknod(&self, name: &[u8], kind: Kind, mode: u32, rdev: u64) -> Result<()> {
        let file_type = FileType::from_raw_mode(kind.mode_bits());
        self.changing(|| rfs::mknodat(&*self.fd, os(name), file_type, Mode::from_raw_mode(mode & 0o7777), rdev))
    }

    pub(super) fn symlink(&self, target: &[u8], name: &[u8]) -> Result<()> {
        self.changing(|| rfs::symlinkat(os(target), &*self.fd, os(name)))
    }

    pub(super) fn link(&self, name: &[u8], to: &Self, new_name: &[u8]) -> Result<()> {
        if name.is_empty()
            && let Some(linked) = self.link_open(to, new_name)
        {
            return linked;
        }
        to.changing(|| {
            if name.is_empty() {
                let flags = AtFlags::SYMLINK_FOLLOW;
                rfs::linkat(rfs::CWD, self.proc_path(), &*to.fd, os(new_name), flags)
            } else {
                rfs::linkat(&*self.fd, os(name), &*to.fd, os(new_name), AtFlags::empty())
            }
        })
    }

    pub(super) fn rename(&self, name: &[u8], to: &Self, new_name: &[u8], how: Rename) -> Result<()> {
        let flags = match how {
            Rename::Replace => RenameFlags::empty(),
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
            Rename::Whiteout => RenameFlags::WHITEOUT,
        };
        let call = || rfs::renameat_with(&*self.fd, os(name), &*to.fd, os(new_name), flags);
        // A directory that gets another parent must itself be writable, for its `..`.
        let moving = |dir: &Self, name: &[u8], call: &dyn Fn() -> Result<()>| match call() {
            // Pinned, because it has another name afterwards.
            Err(Errno::ACCESS) if dir.stat(name)?.kind == Kind::Dir => dir.pin(name)?.lend(b"", 0o200, call),
            r => r,
        };
        let both = || match how {
            Rename::Exchange => moving(self, name, &|| moving(to, new_name, &call)),
            _ => moving(self, name, &call),
        };
        self.changing(|| to.changing(both))
    }

    pub(super) fn unlink(&self, name: &[u8]) -> Result<()> {
        self.changing(|| rfs::unlinkat(&*self.fd, os(name), AtFlags::empty()))
    }

    pub(super) fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.changing(|| rfs::unlinkat(&*self.fd, os(name), AtFlags::REMOVEDIR))
    }

    pub(super) fn chown(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.may_change()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        rfs::chownat(&*self.fd, os(name), uid.map(Uid::from_raw), gid.map(Gid::from_raw), flags)
    }

    pub(super) fn chmod(&self, name: &[u8], mode: u32) -> Result<()> {
        self.may_change()?;
        sys::mode::fchmodat2(self.fd(), name, mode & 0o7777)
    }

    pub(super) fn utimens(&self, name: &[u8], atime: SetTime, mtime: SetTime) -> Result<()> {
        self.may_change()?;
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        rfs::utimensat(&*self.fd, os(name), &times, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)
    }

    pub(super) fn getxattr(&self, name: &[u8], attr: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut buf = [0; 256];
        let get = |buf: &mut [u8]| sys::xattr_at::get(self.fd(), name, attr, buf);
        let read = |buf: &mut [u8]| match get(buf) {
            // A user.* attribute wants the read bit.
            Err(Errno::ACCESS) => self.lend(name, 0o400, || get(buf)),
            r => r,
        };
        match read(&mut buf) {
            Ok(n) => Ok(Some(buf[..n].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::RANGE) => grow(|b| read(b)).map(Some),
            Err(e) => Err(e),
        }
    }

    pub(super) fn listxattr(&self, name: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut buf = [0; 512];
        let read = |buf: &mut [u8]| sys::xattr_at::list(self.fd(), name, buf);
        let list = match read(&mut buf) {
            Ok(n) => buf[..n].to_vec(),
            Err(Errno::OPNOTSUPP) => Vec::new(),
            Err(Errno::RANGE) => grow(|b| read(b))?,
            Err(e) => return Err(e),
        };
        Ok(list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
    }

    pub(super) fn setxattr(&self, name: &[u8], attr: &[u8], value: &[u8], flags: i32) -> Result<()> {
        self.may_change()?;
        if let Some(set) = self.setxattr_open(name, attr, value, flags) {
            return set;
        }
        let call = || sys::xattr_at::set(self.fd(), name, attr, value, flags);
        match call() {
            // A user.* attribute wants the write bit.
            Err(Errno::ACCESS) => self.lend(name, 0o600, call),
            r => r,
        }
    }

    pub(super) fn removexattr(&self, name: &[u8], attr: &[u8]) -> Result<()> {
        self.may_change()?;
        let call = || sys::xattr_at::remove(self.fd(), name, attr);
        match call() {
            Err(Errno::ACCESS) => self.lend(name, 0o600, call),
            r => r,
        }
    }

    pub(super) fn file_handle(&self, name: &[u8]) -> Result<Option<FileHandle>> {
        match sys::handle_at::name_to_handle_at(self.fd(), name) {
            Ok((kind, bytes, mount)) => {
                let Ok(kind) = u8::try_from(kind) else { return Ok(None) };
                Ok(FileHandle::new(self.uuid(mount), kind, &bytes))
            }
            Err(Errno::OPNOTSUPP | Errno::OVERFLOW | Errno::NOSYS) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The UUID of the file system, asked once for each mount; zeros where it has none, as kernel overlayfs writes then.
    fn uuid(&self, mount: i32) -> [u8; 16] {
        static KNOWN: std::sync::LazyLock<DashMap<i32, [u8; 16]>> =
            std::sync::LazyLock::new(|| DashMap::with_shard_amount(2));
        let ask = || self.reopen().and_then(|fd| sys::handle_at::fs_uuid(fd.as_fd())).unwrap_or([0; 16]);
        KNOWN.get(&mount).map(|uuid| *uuid).unwrap_or_else(|| *KNOWN.entry(mount).or_insert_with(ask))
    }

    /// The same directory, opened so that it can be read and synced.
    fn reopen(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rfs::openat(&*self.fd, ".", flags, Mode::empty())
    }

    pub(super) fn space(&self) -> Result<Space> {
        let s = rfs::fstatfs(&*self.fd)?;
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Space {
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            bsize: small(s.f_bsize as u64),
            namelen: small(s.f_namelen as u64),
            frsize: small(s.f_frsize as u64),
        })
    }

    pub(super) fn is_pseudo(&self) -> Result<bool> {
        // linux/magic.h: proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs, securityfs, selinux, bpf, mqueue, autofs,
        // configfs, pstore, efivarfs, binfmt_misc, fusectl, rpc_pipefs, nsfs.
        const MAGIC: [u32; 19] = [
            0x9fa0,
            0x6265_6572,
            0x0027_e0eb,
            0x6367_7270,
            0x1cd1,
            0x6462_6720,
            0x7472_6163,
            0x7363_6673,
            0xf97c_ff8c,
            0xcafe_4a11,
            0x1980_0202,
            0x0187,
            0x6265_6570,
            0x6165_676c,
            0xde5e_81e4,
            0x4249_4e4d,
            0x6573_5543,
            0x6759_6969,
            0x6e73_6673,
        ];
        self.is_of(&MAGIC)
    }

    pub(super) fn is_remote(&self) -> Result<bool> {
        // linux/magic.h: nfs, smb, cifs, smb2, fuse, ceph, 9p, afs (two), coda, ocfs2, gfs2, lustre.
        const MAGIC: [u32; 13] = [
            0x6969,
            0x517b,
            0xff53_4d42,
            0xfe53_4d42,
            0x6573_5546,
            0x00c3_6400,
            0x0102_1997,
            0x5346_414f,
            0x6b41_4653,
            0x7375_7245,
            0x7461_636f,
            0x0116_1970,
            0x0bd0_0bd0,
        ];
        self.is_of(&MAGIC)
    }

    fn is_of(&self, kinds: &[u32]) -> Result<bool> {
        Ok(kinds.contains(&(rfs::fstatfs(&*self.fd)?.f_type as u32)))
    }

    pub(super) fn sync(&self) -> Result<()> {
        rfs::fsync(self.reopen()?)
    }

    pub(super) fn sync_all(&self) -> Result<()> {
        rfs::syncfs(self.reopen()?)
    }

    /// Opens the directory at `path`, which must lie beneath this one; no link is followed, magic or not.
    ///
    /// # Errors
    /// Those of openat2(2); `ELOOP` for a link, `EXDEV` for a path that climbs out.
    pub fn open_beneath(&self, path: &[u8]) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        Ok(self.child(rfs::openat2(&*self.fd, os(path), flags, Mode::empty(), BENEATH)?))
    }

    /// Where it is by the kernel, for messages; `None` where there is no /proc.
    pub fn whereabouts(&self) -> Option<PathBuf> {
        std::fs::read_link(self.proc_path()).ok()
    }

    fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl Data {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&*self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    pub(super) fn write_at(&self, data: &[u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            match rustix::io::pwrite(&*self.fd, &data[done..], offset + done as u64) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    pub(super) fn truncate(&self, size: u64) -> Result<()> {
        rfs::ftruncate(&*self.fd, size)
    }

    pub(super) fn fallocate(&self, mode: i32, offset: u64, len: u64) -> Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        rfs::fallocate(&*self.fd, mode, offset, len)
    }

    pub(super) fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        let from = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        rfs::seek(&*self.fd, from)
    }

    pub(super) fn sync(&self, data_only: bool) -> Result<()> {
        if data_only { rfs::fdatasync(&*self.fd) } else { rfs::fsync(&*self.fd) }
    }

    pub(super) fn stat(&self) -> Result<Stat> {
        stat_of(&rfs::statx(&*self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?)
    }

    /// copy_file_range(2); `None` where the kernel can't between these two.
    pub(super) fn copy_range(&self, offset: u64, to: &Self, to_offset: u64, len: u64) -> Result<Option<u64>> {
        let (mut from, mut dest) = (offset, to_offset);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        match rfs::copy_file_range(&*self.fd, Some(&mut from), &*to.fd, Some(&mut dest), len) {
            Ok(n) => Ok(Some(n as u64)),
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn clone_into(&self, to: &Self) -> Result<bool> {
        match rfs::ioctl_ficlone(&*to.fd, &*self.fd) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn flags(&self) -> Result<u32> {
        rfs::ioctl_getflags(&*self.fd).map(|f| f.bits())
    }
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// Reads an answer of unknown size: asks for the size, then for the data, again if it grew meanwhile.
fn grow(read: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    loop {
        let mut buf = vec![0; read(&mut [])? + 64];
        match read(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
    }
}

fn kind_of(t: FileType) -> Option<Kind> {
    match t {
        FileType::Unknown => None,
        t => Kind::of_mode(t.as_raw_mode()),
    }
}

fn timestamp(t: rfs::StatxTimestamp) -> Timestamp {
    Timestamp { sec: t.tv_sec, nsec: t.tv_nsec }
}

fn stat_of(st: &rfs::Statx) -> Result<Stat> {
    let time = timestamp;
    let mode = u32::from(st.stx_mode);
    Ok(Stat {
        dev: rfs::makedev(st.stx_dev_major, st.stx_dev_minor),
        ino: st.stx_ino,
        kind: Kind::of_mode(mode).ok_or(Errno::IO)?,
        mode: mode & 0o7777,
        nlink: st.stx_nlink,
        uid: st.stx_uid,
        gid: st.stx_gid,
        rdev: rfs::makedev(st.stx_rdev_major, st.stx_rdev_minor),
        size: st.stx_size,
        blocks: st.stx_blocks,
        blksize: st.stx_blksize,
        atime: time(st.stx_atime),
        mtime: time(st.stx_mtime),
        ctime: time(st.stx_ctime),
        mount_root: st.stx_attributes.bits() & STATX_ATTR_MOUNT_ROOT != 0,
    })
}

fn timespec(t: SetTime) -> Timespec {
    match t {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ },
        SetTime::To(t) => Timespec { tv_sec: t.sec, tv_nsec: t.nsec as _ },
    }
}
