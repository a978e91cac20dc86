//! Random operations, each with everything that a program learns from it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::{Errno, Result};

/// One operation; paths are relative to the tree's root.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Create(String, u32),
    Write(String, u64, u8),
    Truncate(String, u64),
    Read(String),
    Unlink(String),
    Mkdir(String),
    Rmdir(String),
    Rename(String, String, u32),
    Link(String, String),
    Symlink(String),
    Fifo(String),
    Chmod(String, u32),
    Chown(String, u32),
    SetXattr(String, u8),
    RemoveXattr(String),
    Times(String),
    Stat(String),
    List(String),
    Open(usize, String, bool),
    OpenNameless(usize, String),
    FdLink(usize, String),
    FdRead(usize),
    FdWrite(usize, u64, u8),
    FdTruncate(usize, u64),
    FdPunch(usize),
    FdStat(usize),
    FdCopy(usize, usize),
    Close(usize),
    DirOpen(usize, String),
    DirStep(usize),
    DirEnd(usize),
}

/// xorshift64*: the same numbers everywhere, from a seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn path(&mut self) -> String {
        let depth = [1, 1, 2, 2, 2, 3][self.below(6) as usize];
        (0..depth).map(|_| ["a", "b", "c", "h"][self.below(4) as usize]).collect::<Vec<_>>().join("/")
    }

    /// The next operation; `links` allows hard links.
    pub(super) fn op(&mut self, links: bool) -> Op {
        let p = self.path();
        let slot = self.below(3) as usize;
        let (at, byte) = (self.below(9000), self.below(256) as u8);
        match self.below(62) {
            0..=3 => Op::Create(p, [0o644, 0o600, 0o755][self.below(3) as usize]),
            4..=6 => Op::Write(p, at, byte),
            7..=8 => Op::Truncate(p, at),
            9..=11 => Op::Read(p),
            12..=15 => Op::Unlink(p),
            16..=18 => Op::Mkdir(p),
            19..=20 => Op::Rmdir(p),
            21..=27 => {
                let to = self.path();
                Op::Rename(p, to, [0, 0, 0, 1, 2, 2][self.below(6) as usize])
            }
            28..=30 if links => {
                let to = self.path();
                Op::Link(p, to)
            }
            28..=30 => Op::Stat(p),
            31 => Op::Symlink(p),
            32 => Op::Fifo(p),
            33..=34 => Op::Chmod(p, [0o600, 0o644, 0o4711, 0o1777][self.below(4) as usize]),
            35 => Op::Chown(p, 1 + self.below(3) as u32),
            36..=37 => Op::SetXattr(p, byte),
            38 => Op::RemoveXattr(p),
            39 => Op::Times(p),
            40..=42 => Op::Stat(p),
            43..=44 => Op::List(p),
            45..=47 => Op::Open(slot, p, byte & 1 == 0),
            48..=49 => Op::FdRead(slot),
            50..=51 => Op::FdWrite(slot, at, byte),
            52 => Op::FdTruncate(slot, at),
            53 => Op::FdPunch(slot),
            54 => Op::FdStat(slot),
            55 => Op::FdCopy(slot, self.below(3) as usize),
            56 => Op::Close(slot),
            57 => Op::DirOpen(slot, p),
            58 => Op::DirStep(slot),
            60 => Op::OpenNameless(slot, p),
            61 if links => Op::FdLink(slot, p),
            _ => Op::DirEnd(slot),
        }
    }
}

/// A listing that goes on while names change.
struct Walk {
    dir: Dir,
    /// Names that were there all the time.
    stayed: BTreeSet<String>,
    seen: Vec<String>,
}

/// A tree that operations are done on.
pub(super) struct World {
    root: OwnedFd,
    files: [Option<OwnedFd>; 3],
    walks: [Option<Walk>; 3],
}

const ATTR: &str = "user.attr";

impl World {
    pub(super) fn new(root: &std::path::Path) -> Result<Self> {
        let root = rustix::fs::openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, files: [const { None }; 3], walks: [const { None }; 3] })
    }

    /// Does it, and says what a program learns; an error by its name.
    pub(super) fn run(&mut self, op: &Op) -> String {
        let said = self.try_run(op).unwrap_or_else(|e| format!("{:?}", nix::errno::Errno::from_raw(e.raw_os_error())));
        for walk in self.walks.iter_mut().flatten() {
            // A name that went, if only for this moment, may be told or not.
            let now = walk.dir.fd().and_then(names).unwrap_or_default();
            walk.stayed.retain(|n| now.contains(n));
        }
        said
    }

    fn open(&self, path: &str, flags: OFlags, mode: u32) -> Result<OwnedFd> {
        // A fifo must not make us wait.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(&self.root, path, flags, Mode::from_raw_mode(mode))
    }

    /// Something to change attributes of: by /proc, as there is no such call with a directory descriptor.
    fn by_proc(&self, path: &str) -> Result<(OwnedFd, String)> {
        let fd = self.open(path, OFlags::PATH, 0)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        Ok((fd, proc))
    }

    fn file(&self, slot: usize) -> Result<&OwnedFd> {
        self.files[slot].as_ref().ok_or(Errno::BADF)
    }

    fn try_run(&mut self, op: &Op) -> Result<String> {
        let root = self.root.as_fd();
        let mut said = String::new();
        match op {
            Op::Create(p, mode) => drop(self.open(p, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, *mode)?),
            Op::Write(p, at, byte) => {
                said = rustix::io::pwrite(self.open(p, OFlags::WRONLY, 0)?, &[*byte; 700], *at)?.to_string();
            }
            Op::Truncate(p, len) => rustix::fs::ftruncate(self.open(p, OFlags::RDWR, 0)?, *len)?,
            Op::Read(p) => said = content(self.open(p, OFlags::RDONLY, 0)?.as_fd())?,
            Op::Unlink(p) => rustix::fs::unlinkat(root, p, AtFlags::empty())?,
            Op::Mkdir(p) => rustix::fs::mkdirat(root, p, Mode::from_raw_mode(0o755))?,
            Op::Rmdir(p) => rustix::fs::unlinkat(root, p, AtFlags::REMOVEDIR)?,
            Op::Rename(p, q, flags) => {
                rustix::fs::renameat_with(root, p, root, q, RenameFlags::from_bits_retain(*flags))?;
            }
            Op::Link(p, q) => rustix::fs::linkat(root, p, root, q, AtFlags::empty())?,
            Op::Symlink(p) => rustix::fs::symlinkat("target", root, p)?,
            Op::Fifo(p) => rustix::fs::mknodat(root, p, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?,
            Op::Chmod(p, mode) => {
                let (_fd, proc) = self.by_proc(p)?;
                rustix::fs::chmod(proc, Mode::from_raw_mode(*mode))?;
            }
            Op::Chown(p, id) => {
                let (uid, gid) = (Uid::from_raw(*id), Gid::from_raw(*id));
                rustix::fs::chownat(root, p, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::SetXattr(p, byte) => {
                let (_fd, proc) = self.by_proc(p)?;
                rustix::fs::setxattr(proc, ATTR, &[*byte], XattrFlags::empty())?;
            }
            Op::RemoveXattr(p) => {
                let (_fd, proc) = self.by_proc(p)?;
                rustix::fs::removexattr(proc, ATTR)?;
            }
            Op::Times(p) => {
                let at = Timespec { tv_sec: -77, tv_nsec: 5 };
                let times = Timestamps { last_access: at, last_modification: at };
                rustix::fs::utimensat(root, p, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                said = rustix::fs::statat(root, p, AtFlags::SYMLINK_NOFOLLOW)?.st_mtime.to_string();
            }
            Op::Stat(p) => {
                said = facts(&rustix::fs::statat(root, p, AtFlags::SYMLINK_NOFOLLOW)?);
                if let Ok((_fd, proc)) = self.by_proc(p) {
                    let mut buf = [0; 16];
                    let value = rustix::fs::getxattr(proc, ATTR, &mut buf[..]).map(|n| buf[..n].to_vec());
                    said += &format!(" {value:?}");
                }
            }
            Op::List(p) => said = format!("{:?}", names(self.open(p, OFlags::DIRECTORY, 0)?.as_fd())?),
            Op::Open(slot, p, write) => {
                let flags = if *write { OFlags::RDWR } else { OFlags::RDONLY };
                self.files[*slot] = None;
                self.files[*slot] = Some(self.open(p, flags, 0)?);
            }
            Op::OpenNameless(slot, p) => {
                self.files[*slot] = None;
                let file = self.open(p, OFlags::TMPFILE | OFlags::RDWR, 0o640)?;
                said = facts(&rustix::fs::fstat(&file)?);
                self.files[*slot] = Some(file);
            }
            Op::FdLink(slot, p) => {
                let fd = std::os::fd::AsRawFd::as_raw_fd(self.file(*slot)?);
                rustix::fs::linkat(CWD, format!("/proc/self/fd/{fd}"), root, p, AtFlags::SYMLINK_FOLLOW)?;
            }
            Op::FdRead(slot) => said = content(self.file(*slot)?.as_fd())?,
            Op::FdWrite(slot, at, byte) => {
                said = rustix::io::pwrite(self.file(*slot)?, &[*byte; 300], *at)?.to_string();
            }
            Op::FdTruncate(slot, len) => rustix::fs::ftruncate(self.file(*slot)?, *len)?,
            Op::FdPunch(slot) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(self.file(*slot)?, flags, 100, 4000)?;
            }
            Op::FdStat(slot) => said = facts(&rustix::fs::fstat(self.file(*slot)?)?),
            Op::FdCopy(from, to) => {
                let (mut i, mut o) = (50, 5000);
                let (from, to) = (self.file(*from)?, self.file(*to)?);
                said = rustix::fs::copy_file_range(from, Some(&mut i), to, Some(&mut o), 1000)?.to_string();
            }
            Op::Close(slot) => self.files[*slot] = None,
            Op::DirOpen(slot, p) => {
                let fd = self.open(p, OFlags::DIRECTORY, 0)?;
                let stayed = names(fd.as_fd())?;
                self.walks[*slot] = Some(Walk { dir: Dir::new(fd)?, stayed, seen: Vec::new() });
            }
            Op::DirStep(slot) => {
                if let Some(walk) = &mut self.walks[*slot] {
                    walk.step(2)?;
                }
            }
            Op::DirEnd(slot) => {
                if let Some(mut walk) = self.walks[*slot].take() {
                    walk.step(usize::MAX)?;
                    said = walk.verdict();
                }
            }
        }
        Ok(said)
    }
}

impl Walk {
    fn step(&mut self, most: usize) -> Result<()> {
        for _ in 0..most {
            let Some(entry) = self.dir.read() else { break };
            self.seen.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(())
    }

    /// Nothing to say if what stayed was told exactly once.
    fn verdict(&self) -> String {
        let times = |n: &String| self.seen.iter().filter(|s| *s == n).count();
        let wrong: Vec<_> = self.stayed.iter().filter(|n| times(n) != 1).map(|n| format!("{n}: {}", times(n))).collect();
        wrong.join(", ")
    }
}

fn names(dir: BorrowedFd<'_>) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    // A fresh description: the position of `dir` is not ours.
    for entry in Dir::read_from(dir)? {
        all.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(all)
}

fn content(fd: BorrowedFd<'_>) -> Result<String> {
    let mut buf = vec![0; 20_000];
    let n = rustix::io::pread(fd, &mut buf[..], 0)?;
    Ok(blake3::hash(&buf[..n]).to_hex()[..16].to_owned() + &format!(" {n}"))
}

fn facts(st: &Stat) -> String {
    let dir = FileType::from_raw_mode(st.st_mode) == FileType::Directory;
    // Sizes and link counts of directories are the storage's business.
    let (size, nlink) = if dir { (0, 0) } else { (st.st_size, st.st_nlink) };
    format!("{:o} {}:{} {size} x{nlink}", st.st_mode, st.st_uid, st.st_gid)
}
