//! Random operations, and their run on the union and on the reference side by side.

use onlay::overlay::{Caller, SetAttr};
use onlay::vocab::{Errno, Kind, Result, SetTime, Timestamp};
use proptest::prelude::*;

use super::check::{Harness, same};
use super::model::{Id, New, ROOT};

/// Names from the root down.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Path(pub(crate) Vec<Vec<u8>>);

impl std::ops::Deref for Path {
    type Target = [Vec<u8>];

    fn deref(&self) -> &[Vec<u8>] {
        &self.0
    }
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.join(&b'/')))
    }
}

/// A path from its text.
pub(crate) fn at(path: &str) -> Path {
    Path(path.split('/').map(|n| n.as_bytes().to_vec()).collect())
}

/// What an operation works on.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Path(Path),
    /// Something that was kept open, whether it still has a name or not.
    Kept(u8),
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Lookup(Path),
    Make(Path, New),
    MakeInKept(u8, u8, New),
    Tmpfile(Target, u8, New),
    Link(Target, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, u32),
    Write(Target, u16, Data),
    Read(Target, u16, u16),
    Truncate(Target, u16),
    SetAttr(Target, SetAttr),
    SetXattr(Target, u8, u8, i32),
    RemoveXattr(Target, u8),
    GetXattr(Target, u8),
    Readdir(Target, u8, bool),
    Fallocate(Target, i32, u16, u16),
    CopyRange(Target, u16, Target, u16, u16),
    Readlink(Target),
    Fsync(Target),
    Keep(Path, u8),
    Release(u8),
    Forget,
    Remount,
}

pub(crate) const ATTRS: [&[u8]; 5] =
    [b"user.a", b"trusted.b", b"trusted.overlay.opaque", b"user.overlay.opaque", b"user.c"];

fn name() -> impl Strategy<Value = Vec<u8>> {
    (0..4_u8).prop_map(|n| vec![b'a' + n])
}

pub(crate) fn path() -> impl Strategy<Value = Path> {
    prop_oneof![
        4 => prop::collection::vec(name(), 1),
        4 => prop::collection::vec(name(), 2),
        2 => prop::collection::vec(name(), 3),
    ]
    .prop_map(Path)
}

/// Some bytes, all the same: a letter and how often it comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data(pub(crate) char, pub(crate) usize);

impl Data {
    pub(crate) fn bytes(self) -> Vec<u8> {
        vec![self.0 as u8; self.1]
    }
}

pub(crate) fn data() -> impl Strategy<Value = Data> {
    let len = prop_oneof![4 => 0..20_usize, 1 => 4000..9000_usize];
    (prop::char::range('a', 'z'), len).prop_map(|(c, n)| Data(c, n))
}

pub(crate) fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0o755), 4 => Just(0o644), 1 => Just(0o2775), 1 => Just(0o4755), 1 => Just(0o1777), 1 => Just(0)]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![4 => path().prop_map(Target::Path), 1 => (0..3_u8).prop_map(Target::Kept)]
}

fn offset() -> impl Strategy<Value = u16> {
    prop_oneof![3 => 0..30_u16, 1 => 0..10_000_u16]
}

fn time() -> impl Strategy<Value = SetTime> {
    let to = (-5_i64..1000, 0_u32..1_000_000_000).prop_map(|(sec, nsec)| SetTime::To(Timestamp { sec, nsec }));
    prop_oneof![2 => Just(SetTime::Keep), 1 => Just(SetTime::Now), 2 => to]
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    let id = || prop::option::weighted(0.3, 0..4_u32);
    let metadata = (prop::option::of(mode()), id(), id(), time()).prop_map(|(mode, uid, gid, mtime)| SetAttr {
        mode,
        uid,
        gid,
        mtime,
        ..SetAttr::default()
    });
    let one = prop_oneof![
        mode().prop_map(|m| SetAttr { mode: Some(m), ..SetAttr::default() }),
        (id(), id()).prop_map(|(uid, gid)| SetAttr { uid, gid, ..SetAttr::default() }),
        time().prop_map(|mtime| SetAttr { mtime, ..SetAttr::default() }),
    ];
    prop_oneof![metadata, one]
}

fn new() -> impl Strategy<Value = New> {
    let kind = prop_oneof![
        6 => Just((Kind::File, 0)),
        6 => Just((Kind::Dir, 0)),
        2 => Just((Kind::Symlink, 0)),
        1 => Just((Kind::Fifo, 0)),
        1 => Just((Kind::Socket, 0)),
        1 => Just((Kind::Char, libc::makedev(1, 3))),
        // On disk that is a whiteout.
        2 => Just((Kind::Char, 0)),
    ];
    (kind, mode(), 0..3_u32, 0..3_u32, prop_oneof![Just(0), Just(0o022), Just(0o077)]).prop_map(
        |((kind, rdev), mode, uid, gid, umask)| {
            let target = if kind == Kind::Symlink { b"there".to_vec() } else { Vec::new() };
            New { kind, mode, rdev, uid, gid, umask, target }
        },
    )
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let flags = prop_oneof![4 => Just(0), 1 => Just(1), 2 => Just(2)];
    prop_oneof![
        3 => path().prop_map(Op::Lookup),
        10 => (path(), new()).prop_map(|(p, n)| Op::Make(p, n)),
        1 => (0..3_u8, 0..4_u8, new()).prop_map(|(k, a, n)| Op::MakeInKept(k, a, n)),
        2 => (target(), 0..3_u8, new()).prop_map(|(t, k, n)| Op::Tmpfile(t, k, n)),
        5 => (target(), path()).prop_map(|(t, p)| Op::Link(t, p)),
        8 => path().prop_map(Op::Unlink),
        6 => path().prop_map(Op::Rmdir),
        14 => (path(), path(), flags).prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        5 => (target(), offset(), data()).prop_map(|(t, o, d)| Op::Write(t, o, d)),
        2 => (target(), offset(), offset()).prop_map(|(t, o, n)| Op::Read(t, o, n)),
        2 => (target(), offset()).prop_map(|(t, n)| Op::Truncate(t, n)),
        4 => (target(), set_attr()).prop_map(|(t, s)| Op::SetAttr(t, s)),
        3 => (target(), 0..5_u8, any::<u8>(), 0..3_i32).prop_map(|(t, n, v, f)| Op::SetXattr(t, n, v, f)),
        2 => (target(), 0..5_u8).prop_map(|(t, n)| Op::RemoveXattr(t, n)),
        1 => (target(), 0..5_u8).prop_map(|(t, n)| Op::GetXattr(t, n)),
        3 => (target(), 1..5_u8, any::<bool>()).prop_map(|(t, n, p)| Op::Readdir(t, n, p)),
        1 => (target(), prop_oneof![Just(0), Just(1), Just(3), Just(16), Just(17)], offset(), 1..99_u16)
            .prop_map(|(t, m, o, n)| Op::Fallocate(t, m, o, n)),
        1 => (target(), offset(), target(), offset(), offset())
            .prop_map(|(a, x, b, y, n)| Op::CopyRange(a, x, b, y, n)),
        1 => target().prop_map(Op::Readlink),
        1 => target().prop_map(Op::Fsync),
        4 => (path(), 0..3_u8).prop_map(|(p, k)| Op::Keep(p, k)),
        1 => (0..3_u8).prop_map(Op::Release),
        2 => Just(Op::Forget),
        1 => Just(Op::Remount),
    ]
}

impl Harness {
    /// Both numbers of the directory above a path, and the last name; `None` where it leads nowhere.
    fn above<'a>(&mut self, path: &'a [Vec<u8>]) -> Result<(Id, u64, &'a [u8])> {
        let (last, dirs) = path.split_last().expect("a name");
        let (id, ino) = self.walk(dirs)?;
        Ok((id, ino, last))
    }

    fn target(&mut self, target: &Target) -> Result<(Id, u64)> {
        match target {
            Target::Path(path) => self.walk(path),
            Target::Kept(n) => self.kept[usize::from(*n)].ok_or(Errno::NOENT),
        }
    }

    /// Runs `op` on both sides. A failure of the comparison panics.
    pub(crate) fn run(&mut self, op: &Op) {
        if self.step(op).is_err() {
            // It leads nowhere, which both sides agreed on.
        }
        self.forget_walked();
    }

    /// Runs `op` on the union with a fault on its way, and lets the reference follow what became of it.
    fn step(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Lookup(path) => self.walk(path).map(drop),
            Op::Make(path, new) => {
                let (dir, ino, name) = self.above(path)?;
                self.make(dir, ino, name, new);
                Ok(())
            }
            Op::MakeInKept(kept, name, new) => {
                let (dir, ino) = self.target(&Target::Kept(*kept))?;
                self.make(dir, ino, &[b'a' + name], new);
                Ok(())
            }
            Op::Tmpfile(dir, slot, new) => {
                let (dir, ino) = self.target(dir)?;
                let caller = Caller { uid: new.uid, gid: new.gid, umask: new.umask };
                if !self.has_unnamed() {
                    return Ok(());
                }
                let new = New { kind: Kind::File, rdev: 0, target: Vec::new(), ..new.clone() };
                let made = self.both(|o| o.tmpfile(&caller, ino, new.mode), |m| m.tmpfile(dir, &new).map(drop));
                if let Some(attr) = made {
                    self.release(*slot);
                    let id = self.model.nodes.len() - 1;
                    self.kept[usize::from(*slot)] = Some((id, attr.ino));
                    self.knows(id, attr.ino);
                    self.agrees(id, &attr);
                }
                Ok(())
            }
            Op::Link(target, path) => {
                let (id, ino) = self.target(target)?;
                let (dir, dir_ino, name) = self.above(path)?;
                let made = self.both(|o| o.link(ino, dir_ino, name), |m| m.link(id, dir, name));
                if let Some(attr) = made {
                    self.walked.push(attr.ino);
                    assert_eq!(attr.ino, ino, "a hard link has the number of the other name");
                    self.agrees(id, &attr);
                }
                Ok(())
            }
            Op::Unlink(path) => {
                let (dir, ino, name) = self.above(path)?;
                self.both(|o| o.unlink(ino, name), |m| m.unlink(dir, name));
                Ok(())
            }
            Op::Rmdir(path) => {
                let (dir, ino, name) = self.above(path)?;
                self.both(|o| o.rmdir(ino, name), |m| m.rmdir(dir, name));
                Ok(())
            }
            Op::Rename(from, to, flags) => {
                let (d1, i1, n1) = self.above(from)?;
                let (d2, i2, n2) = self.above(to)?;
                self.both(|o| o.rename(i1, n1, i2, n2, *flags), |m| m.rename(d1, n1, d2, n2, *flags));
                Ok(())
            }
            Op::Write(target, offset, data) => {
                let (id, ino) = self.target(target)?;
                let (offset, data) = (usize::from(*offset), data.bytes());
                self.both_same(|o| o.write(ino, offset as u64, &data), |m| m.write(id, offset, &data));
                Ok(())
            }
            Op::Read(target, offset, len) => {
                let (id, ino) = self.target(target)?;
                let (offset, len) = (usize::from(*offset), usize::from(*len));
                let read = |o: &onlay::overlay::Overlay| {
                    let mut buf = vec![0; len];
                    o.read(ino, offset as u64, &mut buf).map(|n| buf[..n].to_vec())
                };
                self.both_same(read, |m| m.read(id, offset, len));
                Ok(())
            }
            Op::Truncate(target, size) => {
                let (id, ino) = self.target(target)?;
                let set = SetAttr { size: Some(u64::from(*size)), ..SetAttr::default() };
                let attr = self.both(|o| o.setattr(ino, &set), |m| m.truncate(id, usize::from(*size)));
                if let Some(attr) = attr {
                    self.agrees(id, &attr);
                }
                Ok(())
            }
            Op::SetAttr(target, set) => {
                let (id, ino) = self.target(target)?;
                let mut set = *set;
                if self.model.nodes[id].kind == Kind::Symlink {
                    set.mode = None;
                }
                if !self.model.keeps_owner(self.model.nodes[id].kind, self.model.nodes[id].rdev) {
                    // With an owner that can't be kept, the mode is not set either.
                    (set.uid, set.gid) = (None, None);
                }
                if self.faulty {
                    // Several at once are several changes: each is all or nothing, together they are not.
                    if set.mode.is_some() {
                        set = SetAttr { mode: set.mode, ..SetAttr::default() };
                    } else if set.uid.is_some() || set.gid.is_some() {
                        set.mtime = SetTime::Keep;
                    }
                }
                let attr = self.both(
                    |o| o.setattr(ino, &set),
                    |m| {
                        if set.uid.is_some() || set.gid.is_some() {
                            m.chown(id, set.uid, set.gid);
                        }
                        if let Some(mode) = set.mode {
                            m.chmod(id, mode);
                        }
                        m.set_mtime(id, set.mtime);
                        Ok(())
                    },
                );
                if let Some(attr) = attr {
                    self.agrees(id, &attr);
                }
                Ok(())
            }
            Op::SetXattr(target, attr, value, flags) => {
                let (id, ino) = self.target(target)?;
                let (attr, value) = (ATTRS[usize::from(*attr)], [*value]);
                self.both(|o| o.setxattr(ino, attr, &value, *flags), |m| m.setxattr(id, attr, &value, *flags));
                Ok(())
            }
            Op::RemoveXattr(target, attr) => {
                let (id, ino) = self.target(target)?;
                let attr = ATTRS[usize::from(*attr)];
                self.both(|o| o.removexattr(ino, attr), |m| m.removexattr(id, attr));
                Ok(())
            }
            Op::GetXattr(target, attr) => {
                let (id, ino) = self.target(target)?;
                let attr = ATTRS[usize::from(*attr)];
                let want = self.model.nodes[id].xattrs.get(attr).cloned().ok_or(Errno::NODATA);
                assert_eq!(self.overlay().getxattr(ino, attr), want);
                Ok(())
            }
            Op::Readdir(target, slice, plus) => {
                let (id, ino) = self.target(target)?;
                self.check_listing(id, ino, usize::from(*slice), *plus);
                Ok(())
            }
            Op::Fallocate(target, mode, offset, len) => {
                let (id, ino) = self.target(target)?;
                let (offset, len) = (usize::from(*offset), usize::from(*len));
                self.both(
                    |o| o.fallocate(ino, *mode, offset as u64, len as u64),
                    |m| m.fallocate(id, *mode, offset, len),
                );
                Ok(())
            }
            Op::CopyRange(from, x, to, y, len) => {
                let ((a, i), (b, j)) = (self.target(from)?, self.target(to)?);
                if a == b {
                    return Ok(());
                }
                let (x, y, len) = (usize::from(*x), usize::from(*y), usize::from(*len));
                self.both_same(
                    |o| o.copy_range(i, x as u64, j, y as u64, len as u64).map(|n| n as usize),
                    |m| m.copy_range(a, x, b, y, len),
                );
                Ok(())
            }
            Op::Readlink(target) => {
                let (id, ino) = self.target(target)?;
                let node = &self.model.nodes[id];
                let want = if node.kind == Kind::Symlink { Ok(node.data.clone()) } else { Err(Errno::INVAL) };
                assert_eq!(self.overlay().readlink(ino), want);
                Ok(())
            }
            Op::Fsync(target) => {
                let (_, ino) = self.target(target)?;
                assert_eq!(self.overlay().fsync(ino, false), Ok(()));
                Ok(())
            }
            Op::Keep(path, slot) => {
                let (id, ino) = self.walk(path)?;
                self.release(*slot);
                // The reference of the walk goes over to the slot.
                let last = self.walked.pop();
                assert_eq!(last, Some(ino));
                self.kept[usize::from(*slot)] = Some((id, ino));
                Ok(())
            }
            Op::Release(slot) => {
                self.release(*slot);
                Ok(())
            }
            Op::Forget => {
                self.forget_held();
                Ok(())
            }
            Op::Remount => {
                self.remount();
                Ok(())
            }
        }
    }

    fn make(&mut self, dir: Id, ino: u64, name: &[u8], new: &New) {
        let caller = Caller { uid: new.uid, gid: new.gid, umask: new.umask };
        let made = self.both(
            |o| match new.kind {
                Kind::Dir => o.mkdir(&caller, ino, name, new.mode),
                Kind::Symlink => o.symlink(&caller, ino, name, &new.target),
                kind => o.mknod(&caller, ino, name, kind, new.mode, new.rdev),
            },
            |m| m.make(dir, name, new).map(drop),
        );
        if let Some(attr) = made {
            self.walked.push(attr.ino);
            let id = self.model.lookup(dir, name).expect("just made");
            self.knows(id, attr.ino);
            self.agrees(id, &attr);
        }
    }

    /// As `both`, for operations whose answers are to be the same as well.
    fn both_same<T: PartialEq + std::fmt::Debug>(
        &mut self,
        real: impl FnOnce(&onlay::overlay::Overlay) -> Result<T>,
        reference: impl FnOnce(&mut super::model::Model) -> Result<T>,
    ) {
        let mut want = None;
        let got = self.both(real, |m| {
            want = Some(reference(m)?);
            Ok(())
        });
        if let Some(got) = got {
            same(&got, &want.expect("it ran"), "answer");
        }
    }

    /// Walks a path on both sides.
    fn walk(&mut self, path: &[Vec<u8>]) -> Result<(Id, u64)> {
        let mut at = (ROOT, onlay::overlay::ROOT);
        for name in path {
            let want = self.model.lookup(at.0, name);
            let got = self.overlay().lookup(at.1, name);
            let (id, attr) = match (want, got) {
                (Ok(id), Ok(attr)) => (id, attr),
                (want, got) => {
                    assert_eq!(
                        got.map(|a| a.stat.kind),
                        want.map(|id| self.model.nodes[id].kind),
                        "lookup of {path:?}"
                    );
                    return Err(want.err().unwrap_or(Errno::NOENT));
                }
            };
            self.walked.push(attr.ino);
            self.knows(id, attr.ino);
            self.agrees(id, &attr);
            at = (id, attr.ino);
        }
        Ok(at)
    }
}
