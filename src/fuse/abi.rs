//! The kernel's side of FUSE, byte for byte: `include/uapi/linux/fuse.h`, protocol 7.31 and up, in the machine's own byte
//! order. All that is read is checked against its end; nothing here trusts a length.

use std::time::Duration;

use crate::overlay::{Attr, SetAttr};
use crate::vocab::{Errno, Kind, Result, SetTime, Space, Timestamp};

/// `FUSE_KERNEL_VERSION`, and the minor one that this file is written by.
pub(super) const VERSION: (u32, u32) = (7, 42);
/// Size of `struct fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;
/// Size of `struct fuse_out_header`.
pub(super) const OUT_HEADER: usize = 16;
/// The most that stands before the data of a WRITE.
pub(super) const MAX_HEADERS: usize = 4096;

/// `enum fuse_opcode`.
pub(super) mod op {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const OPENDIR: u32 = 27;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const RELEASEDIR: u32 = 29;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const INTERRUPT: u32 = 36;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const IOCTL: u32 = 39;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
    pub(in crate::fuse) const TMPFILE: u32 = 51;
    pub(in crate::fuse) const STATX: u32 = 52;

    /// Whether nothing is copied up or written for it; as little is for what we do not know.
    pub(in crate::fuse) fn only_looks(opcode: u32) -> bool {
        !matches!(
            opcode,
            SETATTR
                | SYMLINK
                | MKNOD
                | MKDIR
                | UNLINK
                | RMDIR
                | RENAME
                | RENAME2
                | LINK
                | WRITE
                | FSYNC
                | FSYNCDIR
                | SETXATTR
                | REMOVEXATTR
                | IOCTL
                | FALLOCATE
                | COPY_FILE_RANGE
                | TMPFILE
        )
    }

    /// Size of the struct that a request begins with, behind its header; `None` for what we do not know.
    pub(in crate::fuse) fn arg_size(opcode: u32) -> Option<usize> {
        Some(match opcode {
            LOOKUP | UNLINK | RMDIR | SYMLINK | REMOVEXATTR | READLINK | STATFS | DESTROY => 0,
            FORGET | INTERRUPT | OPEN | OPENDIR | MKDIR | RENAME | LINK | SETXATTR | GETXATTR | LISTXATTR
            | BATCH_FORGET => 8,
            GETATTR | MKNOD | FSYNC | FSYNCDIR | RENAME2 | TMPFILE => 16,
            RELEASE | RELEASEDIR | LSEEK | STATX => 24,
            FALLOCATE | IOCTL => 32,
            READ | READDIR | READDIRPLUS | WRITE => 40,
            COPY_FILE_RANGE => 56,
            SETATTR => 88,
            // The kernel's grows; the part we know.
            INIT => 16,
            _ => return None,
        })
    }
}

/// One request, wherever its parts came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) header: Header,
    /// The struct that belongs to the operation.
    pub(super) arg: &'a [u8],
    /// Names and data behind it.
    pub(super) data: &'a [u8],
}

/// `struct fuse_in_header`, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) len: u32,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) ino: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut f = Fields(bytes);
        Ok(Self {
            len: f.u32()?,
            opcode: f.u32()?,
            unique: f.u64()?,
            ino: f.u64()?,
            uid: f.u32()?,
            gid: f.u32()?, //
        })
    }
}

impl<'a> Request<'a> {
    /// A request that came in one piece.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let header = Header::parse(bytes)?;
        let (Some(body), true) = (bytes.get(IN_HEADER..), header.len as usize == bytes.len()) else {
            return Err(Errno::IO);
        };
        let (arg, data) = body.split_at_checked(op::arg_size(header.opcode).unwrap_or(0)).ok_or(Errno::IO)?;
        Ok(Self { header, arg, data })
    }

    /// Its struct, field by field.
    pub(super) fn fields(&self) -> Fields<'a> {
        Fields(self.arg)
    }

    /// Bytes that it asks to read of a file; 0 if it is about something else.
    pub(super) fn reads(&self) -> usize {
        if self.header.opcode == op::READ { at_and_size(self.fields()).map_or(0, |(_, size)| size) } else { 0 }
    }

    /// It keeps what had been written before, to mapped pages or to the cache (`FUSE_WRITE_CACHE`).
    pub(super) fn writes_back(&self) -> bool {
        let mut f = self.fields();
        self.header.opcode == op::WRITE && f.skip(8 + 8 + 4).and_then(|()| f.u32()).is_ok_and(|flags| flags & 1 != 0)
    }

    /// The name in a directory that it begins with.
    pub(super) fn name(&self) -> Result<&'a [u8]> {
        component(self.words()?.0)
    }

    /// The two such names that it has.
    pub(super) fn two_names(&self) -> Result<(&'a [u8], &'a [u8])> {
        let (first, rest) = self.words()?;
        Ok((component(first)?, component(split(rest)?.0)?))
    }

    /// What stands before its first 0 byte, and behind it.
    pub(super) fn words(&self) -> Result<(&'a [u8], &'a [u8])> {
        split(self.data)
    }
}

/// `struct fuse_read_in` and `fuse_write_in`: offset and size behind the file handle.
pub(super) fn at_and_size(mut f: Fields<'_>) -> Result<(u64, usize)> {
    f.skip(8)?;
    Ok((f.u64()?, f.u32()? as usize))
}

/// A name as a directory can have it: the union takes an empty one for the directory itself.
fn component(name: &[u8]) -> Result<&[u8]> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') { Err(Errno::IO) } else { Ok(name) }
}

fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == 0).ok_or(Errno::IO)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

/// Takes the fields of a struct one after the other; `EIO` at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn u32(&mut self) -> Result<u32> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Errno::IO)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*field))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Errno::IO)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*field))
    }

    pub(super) fn skip(&mut self, bytes: usize) -> Result<()> {
        self.0 = self.0.get(bytes..).ok_or(Errno::IO)?;
        Ok(())
    }
}

/// Where a reply is written.
#[derive(Debug)]
pub(super) struct Out<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> Out<'a> {
    pub(super) fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The free part, `size` bytes of it.
    pub(super) fn room(&mut self, size: usize) -> Result<&mut [u8]> {
        self.buf[self.len..].get_mut(..size).ok_or(Errno::IO)
    }

    /// So much of the [room](Self::room) was filled.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.len += bytes;
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.room(bytes.len())?.copy_from_slice(bytes);
        self.filled(bytes.len());
        Ok(())
    }

    pub(super) fn u16(&mut self, v: u16) -> Result<()> {
        self.bytes(&v.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, v: u32) -> Result<()> {
        self.bytes(&v.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, v: u64) -> Result<()> {
        self.bytes(&v.to_ne_bytes())
    }

    /// A number in a struct of its own (`fuse_write_out`, `fuse_getxattr_out`), which is padded.
    pub(super) fn count(&mut self, n: u32) -> Result<()> {
        self.u32(n)?;
        self.u32(0)
    }

    pub(super) fn zeros(&mut self, bytes: usize) -> Result<()> {
        self.room(bytes)?.fill(0);
        self.filled(bytes);
        Ok(())
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) -> Result<()> {
        let st = &attr.stat;
        for n in [st.ino, st.size, st.blocks, st.atime.sec as u64, st.mtime.sec as u64, st.ctime.sec as u64] {
            self.u64(n)?;
        }
        let mode = st.kind.mode_bits() | st.mode & 0o7777;
        let times = [st.atime.nsec, st.mtime.nsec, st.ctime.nsec];
        for n in times.into_iter().chain([mode, st.nlink, st.uid, st.gid, device(st.rdev), st.blksize, 0]) {
            self.u32(n)?;
        }
        Ok(())
    }

    /// `struct fuse_attr_out`.
    pub(super) fn attr_out(&mut self, attr: &Attr, ttl: Duration) -> Result<()> {
        self.u64(ttl.as_secs())?;
        self.u32(ttl.subsec_nanos())?;
        self.u32(0)?;
        self.attr(attr)
    }

    /// `struct fuse_statx_out`.
    pub(super) fn statx_out(&mut self, attr: &Attr, born: Option<Timestamp>, ttl: Duration) -> Result<()> {
        self.u64(ttl.as_secs())?;
        self.u32(ttl.subsec_nanos())?;
        self.zeros(4 + 16)?;
        // struct fuse_statx.
        let st = &attr.stat;
        let mask = libc::STATX_BASIC_STATS | if born.is_some() { libc::STATX_BTIME } else { 0 };
        self.u32(mask)?;
        self.u32(st.blksize)?;
        self.u64(0)?;
        for n in [st.nlink, st.uid, st.gid] {
            self.u32(n)?;
        }
        self.u16((st.kind.mode_bits() | st.mode & 0o7777) as u16)?;
        self.u16(0)?;
        for n in [st.ino, st.size, st.blocks, 0] {
            self.u64(n)?;
        }
        for t in [st.atime, born.unwrap_or_default(), st.ctime, st.mtime] {
            self.u64(t.sec as u64)?;
            self.u32(t.nsec)?;
            self.u32(0)?;
        }
        for n in [libc::major(st.rdev), libc::minor(st.rdev), 0, 0] {
            self.u32(n)?;
        }
        self.zeros(14 * 8)
    }

    /// `struct fuse_entry_out`.
    pub(super) fn entry_out(&mut self, attr: &Attr, ttl: Duration) -> Result<()> {
        // Number and generation.
        self.u64(attr.ino)?;
        self.u64(0)?;
        self.u64(ttl.as_secs())?;
        self.u64(ttl.as_secs())?;
        self.u32(ttl.subsec_nanos())?;
        self.u32(ttl.subsec_nanos())?;
        self.attr(attr)
    }

    /// `struct fuse_dirent`, padded; whether it found no room any more.
    pub(super) fn dirent(&mut self, limit: usize, ino: u64, cookie: u64, kind: Kind, name: &[u8]) -> Result<bool> {
        let size = 24 + name.len();
        let padded = size.next_multiple_of(8);
        if self.len + padded > limit.min(self.buf.len()) {
            return Ok(true);
        }
        self.u64(ino)?;
        self.u64(cookie)?;
        self.u32(name.len() as u32)?;
        // DT_*: the type bits, further down.
        self.u32(kind.mode_bits() >> 12)?;
        self.bytes(name)?;
        self.zeros(padded - size)?;
        Ok(false)
    }

    /// `struct fuse_direntplus`, padded; whether it found no room any more.
    pub(super) fn direntplus(
        &mut self,
        limit: usize,
        attr: &Attr,
        cookie: u64,
        name: &[u8],
        ttl: Duration,
    ) -> Result<bool> {
        let before = self.len;
        if self.len + ENTRY_OUT > limit.min(self.buf.len()) {
            return Ok(true);
        }
        self.entry_out(attr, ttl)?;
        let full = self.dirent(limit, attr.stat.ino, cookie, attr.stat.kind, name)?;
        if full {
            self.len = before;
        }
        Ok(full)
    }

    /// `struct fuse_open_out`; there is never a file handle. `backing` is the number of the file to go straight to.
    pub(super) fn open_out(&mut self, flags: u32, backing: u32) -> Result<()> {
        self.u64(0)?;
        self.u32(flags)?;
        self.u32(backing)
    }

    /// `struct fuse_statfs_out`.
    pub(super) fn statfs_out(&mut self, s: &Space) -> Result<()> {
        for n in [s.blocks, s.bfree, s.bavail, s.files, s.ffree] {
            self.u64(n)?;
        }
        for n in [s.bsize, s.namelen, s.frsize] {
            self.u32(n)?;
        }
        self.zeros(28)
    }

    /// `struct fuse_out_header`.
    pub(super) fn header(&mut self, unique: u64, done: Result<usize>) -> Result<()> {
        let payload = done.unwrap_or(0);
        self.u32((OUT_HEADER + payload) as u32)?;
        self.u32(done.err().map_or(0, |e| -e.raw_os_error()) as u32)?;
        self.u64(unique)
    }
}

/// Size of `struct fuse_entry_out`.
const ENTRY_OUT: usize = 40 + 88;

/// What `struct fuse_setattr_in` says, and whether it is to take set-id bits.
pub(super) fn set_attr(mut f: Fields<'_>) -> Result<(SetAttr, bool)> {
    const MODE: u32 = 1 << 0;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const KILL_SUIDGID: u32 = 1 << 11;
    let valid = f.u32()?;
    f.skip(4 + 8)?;
    let size = f.u64()?;
    f.skip(8)?;
    let (atime, mtime) = (f.u64()? as i64, f.u64()? as i64);
    f.skip(8)?;
    let (atime_nsec, mtime_nsec) = (f.u32()?, f.u32()?);
    f.skip(4)?;
    let mode = f.u32()?;
    f.skip(4)?;
    let (uid, gid) = (f.u32()?, f.u32()?);
    let has = |bit| valid & bit != 0;
    let time = |set, now, sec, nsec| match (has(set), has(now)) {
        (false, _) => SetTime::Keep,
        (true, true) => SetTime::Now,
        (true, false) => SetTime::To(Timestamp { sec, nsec }),
    };
    let set = SetAttr {
        mode: has(MODE).then_some(mode),
        uid: has(UID).then_some(uid),
        gid: has(GID).then_some(gid),
        size: has(SIZE).then_some(size),
        atime: time(ATIME, ATIME_NOW, atime, atime_nsec),
        mtime: time(MTIME, MTIME_NOW, mtime, mtime_nsec),
    };
    Ok((set, has(KILL_SUIDGID)))
}

/// The kernel's 32 bits of a device number (`new_encode_dev`), from makedev(3)'s 64.
pub(super) fn device(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// makedev(3)'s 64 bits of a device number, from the kernel's 32.
pub(super) fn rdev(device: u32) -> u64 {
    libc::makedev((device & 0x000f_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0x000f_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        all.extend_from_slice(&((IN_HEADER + body.len()) as u32).to_ne_bytes());
        all.extend_from_slice(&opcode.to_ne_bytes());
        all.extend_from_slice(&7u64.to_ne_bytes());
        all.extend_from_slice(&1u64.to_ne_bytes());
        all.resize(IN_HEADER, 0);
        all.extend_from_slice(body);
        all
    }

    #[test]
    fn a_request_is_taken_apart() {
        let bytes = request(op::RENAME, b"\x05\0\0\0\0\0\0\0from\0to\0");
        let r = Request::parse(&bytes).unwrap();
        assert_eq!((r.header.unique, r.header.ino), (7, 1));
        assert_eq!(r.fields().u64(), Ok(5));
        assert_eq!(r.two_names(), Ok((&b"from"[..], &b"to"[..])));
    }

    #[test]
    fn what_is_too_short_is_an_error() {
        let whole = request(op::RENAME, b"\x05\0\0\0\0\0\0\0from\0to");
        for n in 0..whole.len() {
            let mut bytes = whole[..n].to_vec();
            assert!(Request::parse(&bytes).is_err(), "{n} bytes with the length of all");
            if let Some(len) = bytes.get_mut(..4) {
                len.copy_from_slice(&(n as u32).to_ne_bytes());
            }
            let parsed = Request::parse(&bytes);
            assert!(parsed.and_then(|r| r.two_names().map(|_| ())).is_err(), "{n} bytes");
        }
    }

    #[test]
    fn an_entry_that_does_not_fit_leaves_no_trace() {
        let mut buf = [0; 64];
        let mut out = Out::new(&mut buf);
        assert_eq!(out.dirent(64, 2, 3, Kind::File, b"name"), Ok(false));
        assert_eq!(out.len(), 32);
        assert_eq!(out.dirent(64, 2, 3, Kind::File, b"longer than that"), Ok(true));
        assert_eq!(out.len(), 32);
    }

    #[test]
    fn device_numbers_survive_both_ways() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 70_000), (4095, 1_048_575)] {
            let dev = libc::makedev(major, minor);
            assert_eq!(rdev(device(dev)), dev, "{major}:{minor}");
        }
    }
}
