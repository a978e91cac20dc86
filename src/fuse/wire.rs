//! A request in the kernel's bytes, answered in the kernel's bytes: between [`abi`](super::abi) and [`ops`](super::ops),
//! the same for every transport of ours.

use super::abi::{Fields, Out, Request, at_and_size, op, rdev, set_attr};
use super::ops::{Ops, Sized, guarded, nothing};
use crate::overlay::{Attr, Caller, ROOT};
use crate::vocab::{Errno, Result};

/// The kernel keeps what it has of a file when it is opened again.
const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// It goes straight to the file on disk.
const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// Answers a request: the bytes of the reply's payload in `out`, or the errno; `None` where the kernel wants no reply.
pub(super) fn answer(ops: &Ops, request: &Request<'_>, out: &mut [u8]) -> Option<Result<usize>> {
    let forget = matches!(request.header.opcode, op::FORGET | op::BATCH_FORGET);
    let done = guarded("FUSE", || {
        let mut out = Out::new(out);
        dispatch(ops, request, &mut out)?;
        Ok(out.len())
    });
    if let Err(Errno::IO) = done {
        log::debug!("answered with EIO: {:?}", request.header);
    }
    if forget { None } else { Some(done) }
}

fn dispatch(ops: &Ops, request: &Request<'_>, out: &mut Out<'_>) -> Result<()> {
    let ino = request.header.ino;
    if let Some(other) = ops.beside(ino) {
        return dispatch(&other, request, out);
    }
    let mut f = request.fields();
    let entry = |out: &mut Out<'_>, attr: Attr| out.entry_out(&attr, ops.ttl(attr.ino));
    match request.header.opcode {
        op::LOOKUP => entry(out, ops.lookup(ino, request.name()?)?.unwrap_or_else(nothing)),
        op::FORGET => {
            ops.forget(ino, f.u64()?);
            Ok(())
        }
        op::BATCH_FORGET => forget_many(ops, f.u32()?, Fields(request.data)),
        op::GETATTR => out.attr_out(&ops.getattr(ino)?, ops.ttl(ino)),
        op::STATX => {
            let (attr, born) = ops.statx(ino)?;
            out.statx_out(&attr, born, ops.ttl(ino))
        }
        op::SETATTR => {
            let (set, takes) = set_attr(f)?;
            out.attr_out(&ops.setattr(|| !takes, request.header.uid, ino, &set)?, ops.ttl(ino))
        }
        op::READLINK => out.bytes(&ops.readlink(ino)?),
        op::SYMLINK => {
            let target = Request { data: request.words()?.1, ..*request }.words()?.0;
            entry(out, ops.symlink(&caller(request, 0), ino, request.name()?, target)?)
        }
        op::MKNOD => {
            let (mode, dev, umask) = (f.u32()?, f.u32()?, f.u32()?);
            entry(out, ops.mknod(&caller(request, umask), ino, request.name()?, mode, rdev(dev))?)
        }
        op::MKDIR => {
            let (mode, umask) = (f.u32()?, f.u32()?);
            entry(out, ops.mkdir(&caller(request, umask), ino, request.name()?, mode)?)
        }
        op::TMPFILE => {
            let (flags, mode, umask) = (f.u32()?, f.u32()?, f.u32()?);
            let attr = ops.tmpfile(&caller(request, umask), ino, mode)?;
            // It is open from here on; who learns of an error will not forget it.
            let backing = ops.open(attr.ino, flags).inspect_err(|_| ops.forget(attr.ino, 1))?;
            entry(out, attr)?;
            opened(out, backing)
        }
        op::UNLINK => ops.unlink(ino, request.name()?),
        op::RMDIR => ops.rmdir(ino, request.name()?),
        op::RENAME | op::RENAME2 => {
            let to = f.u64()?;
            let flags = if request.header.opcode == op::RENAME2 { f.u32()? } else { 0 };
            let (name, new_name) = request.two_names()?;
            ops.rename(ino, name, to, new_name, flags)
        }
        op::LINK => entry(out, ops.link(f.u64()?, ino, request.name()?)?),
        op::READ => {
            let (offset, size) = at_and_size(f)?;
            let n = ops.read(ino, offset, out.room(size)?)?;
            out.filled(n);
            Ok(())
        }
        op::WRITE => {
            let (offset, size) = at_and_size(f)?;
            let n = ops.write(ino, offset, request.data.get(..size).ok_or(Errno::IO)?)?;
            out.count(n)
        }
        op::STATFS => out.statfs_out(&ops.statfs()?),
        op::FSYNC => {
            f.skip(8)?;
            ops.fsync(ino, f.u32()? & 1 != 0)
        }
        op::FSYNCDIR => ops.fsyncdir(ino),
        op::SETXATTR => {
            let (size, flags) = (f.u32()?, f.u32()?);
            let (name, value) = request.words()?;
            ops.setxattr(ino, name, value.get(..size as usize).ok_or(Errno::IO)?, flags as i32)
        }
        op::GETXATTR => {
            let (size, name) = (f.u32()?, request.words()?.0);
            match if ino == ROOT && size > 0 { ops.offer(request.header.uid, name)? } else { None } {
                Some(view) => sized(out, Sized::Value(view)),
                None => sized(out, ops.getxattr(ino, name, size)?),
            }
        }
        op::LISTXATTR => sized(out, ops.listxattr(ino, f.u32()?)?),
        op::REMOVEXATTR => ops.removexattr(ino, request.words()?.0),
        op::READDIR => {
            let (cookie, size) = at_and_size(f)?;
            let mut bad = Ok(());
            ops.readdir(ino, cookie, &mut |ino, cookie, kind, name| {
                full(out.dirent(size, ino, cookie, kind, name), &mut bad) //
            })?;
            bad
        }
        op::READDIRPLUS => {
            let (cookie, size) = at_and_size(f)?;
            let mut bad = Ok(());
            ops.readdirplus(ino, cookie, &mut |e| {
                full(out.direntplus(size, &e.attr, e.cookie, e.name, ops.ttl(e.attr.ino)), &mut bad)
            })?;
            bad
        }
        op::IOCTL => {
            f.skip(8 + 4)?;
            let cmd = f.u32()?;
            f.skip(8 + 4)?;
            let answer = ops.ioctl(ino, cmd, f.u32()?)?;
            // struct fuse_ioctl_out: result, flags, two counts.
            out.u64(0)?;
            out.u64(0)?;
            out.bytes(&answer)
        }
        op::FALLOCATE => {
            f.skip(8)?;
            let (offset, len, mode) = (f.u64()?, f.u64()?, f.u32()?);
            ops.fallocate(ino, mode as i32, offset, len)
        }
        op::LSEEK => {
            f.skip(8)?;
            let (offset, whence) = (f.u64()?, f.u32()?);
            out.u64(ops.lseek(ino, offset as i64, whence as i32)? as u64)
        }
        op::COPY_FILE_RANGE => {
            f.skip(8)?;
            let (from, to) = (f.u64()?, f.u64()?);
            f.skip(8)?;
            let (to_offset, len) = (f.u64()?, f.u64()?);
            out.count(ops.copy_file_range((ino, from), (to, to_offset), len)?)
        }
        op::OPEN if ops.answers_open() => opened(out, ops.open(ino, f.u32()?)?),
        op::OPENDIR if ops.answers_opendir() => out.open_out(0, 0),
        op::RELEASE => {
            ops.release(ino);
            Ok(())
        }
        // Only of those that were opened before the kernel knew that it need not ask.
        op::RELEASEDIR | op::DESTROY => Ok(()),
        _ => Err(Errno::NOSYS),
    }
}

fn opened(out: &mut Out<'_>, backing: Option<u32>) -> Result<()> {
    match backing {
        Some(backing) => out.open_out(FOPEN_PASSTHROUGH, backing),
        None => out.open_out(FOPEN_KEEP_CACHE, 0),
    }
}

fn caller(request: &Request<'_>, umask: u32) -> Caller {
    Caller { uid: request.header.uid, gid: request.header.gid, umask }
}

fn sized(out: &mut Out<'_>, found: Sized) -> Result<()> {
    match found {
        Sized::Size(n) => out.count(n),
        Sized::Value(v) => out.bytes(&v),
    }
}

/// Whether a listing ends here.
fn full(added: Result<bool>, bad: &mut Result<()>) -> bool {
    added.unwrap_or_else(|e| {
        *bad = Err(e);
        true
    })
}

fn forget_many(ops: &Ops, count: u32, mut each: Fields<'_>) -> Result<()> {
    for _ in 0..count {
        ops.forget(each.u64()?, each.u64()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
