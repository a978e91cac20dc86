//! flock(2) and fcntl(2) locks.

use anyhow::Result;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::ctx::Ctx;
use crate::sys::in_child;
use crate::tree::{cases, fails, same};

cases!("locks":
    flock_excludes, posix_excludes_other_process, ranges, released_on_close, open_file_description, on_lower,
);

fn flock_excludes(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "")?;
    let (a, b) = (m.rw("f")?, m.rw("f")?);
    flock(&a, FlockOperation::LockExclusive)?;
    fails!(flock(&b, FlockOperation::NonBlockingLockShared), EAGAIN);
    flock(&a, FlockOperation::Unlock)?;
    flock(&b, FlockOperation::NonBlockingLockShared)?;
    flock(&a, FlockOperation::NonBlockingLockShared)?;
    Ok(())
}

fn posix_excludes_other_process(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "")?;
    let f = m.rw("f")?;
    fcntl_lock(&f, FlockOperation::LockExclusive)?;
    let try_it = |errno| {
        in_child(|| {
            let other = m.rw("f")?;
            same!(fcntl_lock(&other, FlockOperation::NonBlockingLockExclusive).err().map(|e| e.raw_os_error()), errno);
            Ok(())
        })
    };
    same!(try_it(Some(libc::EAGAIN))?, 0);
    fcntl_lock(&f, FlockOperation::Unlock)?;
    same!(try_it(None)?, 0);
    Ok(())
}

fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn ranges(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "0123456789")?;
    let f = m.rw("f")?;
    fcntl(&f, FcntlArg::F_SETLK(&range(libc::F_WRLCK, 0, 5)))?;
    let pid = std::process::id().cast_signed();
    let code = in_child(|| {
        let other = m.rw("f")?;
        fcntl(&other, FcntlArg::F_SETLK(&range(libc::F_WRLCK, 5, 5)))?;
        fails!(fcntl(&other, FcntlArg::F_SETLK(&range(libc::F_RDLCK, 4, 2))), EAGAIN | EACCES);
        let mut asked = range(libc::F_WRLCK, 0, 1);
        fcntl(&other, FcntlArg::F_GETLK(&mut asked))?;
        same!((i32::from(asked.l_type), asked.l_start, asked.l_len, asked.l_pid), (libc::F_WRLCK, 0, 5, pid));
        Ok(())
    })?;
    same!(code, 0);
    Ok(())
}

fn released_on_close(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "")?;
    let other = m.rw("f")?;
    let code = in_child(|| {
        let f = m.rw("f")?;
        flock(&f, FlockOperation::LockExclusive)?;
        fcntl_lock(&f, FlockOperation::LockExclusive)?;
        // It dies with both.
        Ok(())
    })?;
    same!(code, 0);
    flock(&other, FlockOperation::NonBlockingLockExclusive)?;
    fcntl_lock(&other, FlockOperation::NonBlockingLockExclusive)?;
    Ok(())
}

fn open_file_description(cx: &mut Ctx) -> Result<()> {
    let m = cx.mount()?;
    m.file("f", "0123456789")?;
    let (a, b) = (m.rw("f")?, m.rw("f")?);
    fcntl(&a, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 0, 5)))?;
    fails!(fcntl(&b, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 0, 5))), EAGAIN | EACCES);
    drop(a);
    fcntl(&b, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 0, 5)))?;
    Ok(())
}

fn on_lower(cx: &mut Ctx) -> Result<()> {
    cx.lower()?.file("f", "x")?;
    let m = cx.mount()?;
    // A lock taken on a file that is still below holds against one who opens it after the copy-up.
    let before = m.rw("f")?;
    flock(&before, FlockOperation::LockExclusive)?;
    m.append("f", "y")?;
    let after = m.rw("f")?;
    fails!(flock(&after, FlockOperation::NonBlockingLockExclusive), EAGAIN);
    Ok(())
}
