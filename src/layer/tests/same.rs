//! The same calls on a tree in memory and on one on disk give the same answers and leave the same tree.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use crate::layer::{Handle, Rename, disk, mem};
use crate::vocab::{Access, Errno, Kind, Result, SetTime, Stat, Timestamp};

/// A directory by one of few paths, and a name in it.
type At = (u8, u8);

#[derive(Clone, Debug)]
enum Op {
    Create(At, u32),
    Mkdir(At, u32),
    Mknod(At, Kind, u32),
    Symlink(At, u8),
    Link(At, At),
    LinkPinned(u8, At),
    Rename(At, At, Rename),
    Unlink(At),
    Rmdir(At),
    Chown(At, Option<u32>, Option<u32>),
    Chmod(At, u32),
    Utimens(At, SetTime, SetTime),
    SetXattr(At, u8, u8, i32),
    RemoveXattr(At, u8),
    Write(At, u16, u16),
    Truncate(At, u16),
    Fallocate(At, i32, u16, u16),
    Pin(At, u8),
    Readlink(At),
    WritePinned(u8, u16),
    CreateInPinned(u8, u8),
    ListPinned(u8),
    OpenDir(At),
    Tmpfile(u8, u8, u32),
    Seek(At, u16),
}

fn at() -> impl Strategy<Value = At> {
    (0..5_u8, 0..4_u8)
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0o755), Just(0o644), Just(0o6755), Just(0o2775), Just(0o1777), Just(0o4711), Just(0)]
}

fn time() -> impl Strategy<Value = SetTime> {
    let to = (-5_i64..1000, 0_u32..1_000_000_000).prop_map(|(sec, nsec)| SetTime::To(Timestamp { sec, nsec }));
    prop_oneof![Just(SetTime::Keep), Just(SetTime::Now), to]
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Char),
        Just(Kind::Block),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::Dir),
        Just(Kind::Symlink)
    ];
    let how =
        prop_oneof![Just(Rename::Replace), Just(Rename::NoReplace), Just(Rename::Exchange), Just(Rename::Whiteout)];
    let id = || prop::option::of(0_u32..3);
    prop_oneof![
        3 => (at(), mode()).prop_map(|(a, m)| Op::Create(a, m)),
        4 => (at(), mode()).prop_map(|(a, m)| Op::Mkdir(a, m)),
        2 => (at(), kind, mode()).prop_map(|(a, k, m)| Op::Mknod(a, k, m)),
        1 => (at(), 0..4_u8).prop_map(|(a, n)| Op::Symlink(a, n)),
        2 => (at(), at()).prop_map(|(a, b)| Op::Link(a, b)),
        1 => (0..2_u8, at()).prop_map(|(p, b)| Op::LinkPinned(p, b)),
        6 => (at(), at(), how).prop_map(|(a, b, h)| Op::Rename(a, b, h)),
        2 => at().prop_map(Op::Unlink),
        2 => at().prop_map(Op::Rmdir),
        1 => (at(), id(), id()).prop_map(|(a, u, g)| Op::Chown(a, u, g)),
        1 => (at(), mode()).prop_map(|(a, m)| Op::Chmod(a, m)),
        1 => (at(), time(), time()).prop_map(|(a, x, y)| Op::Utimens(a, x, y)),
        2 => (at(), 0..6_u8, any::<u8>(), 0..4_i32).prop_map(|(a, n, v, f)| Op::SetXattr(a, n, v, f)),
        1 => (at(), 0..6_u8).prop_map(|(a, n)| Op::RemoveXattr(a, n)),
        2 => (at(), 0..9000_u16, 0..99_u16).prop_map(|(a, o, n)| Op::Write(a, o, n)),
        1 => (at(), 0..9000_u16).prop_map(|(a, n)| Op::Truncate(a, n)),
        1 => (at(), prop_oneof![Just(0), Just(1), Just(3), Just(16), Just(17), Just(2)], 0..9000_u16, 0..999_u16)
            .prop_map(|(a, m, o, n)| Op::Fallocate(a, m, o, n)),
        2 => (at(), 0..2_u8).prop_map(|(a, p)| Op::Pin(a, p)),
        1 => at().prop_map(Op::Readlink),
        1 => (0..2_u8, 0..99_u16).prop_map(|(p, o)| Op::WritePinned(p, o)),
        1 => (0..2_u8, 0..4_u8).prop_map(|(p, n)| Op::CreateInPinned(p, n)),
        1 => (0..2_u8).prop_map(Op::ListPinned),
        1 => (0..5_u8, 0..2_u8, mode()).prop_map(|(d, p, m)| Op::Tmpfile(d, p, m)),
        1 => at().prop_map(Op::OpenDir),
        1 => (at(), 0..9000_u16).prop_map(|(a, o)| Op::Seek(a, o)),
    ]
}

struct Side {
    root: Handle,
    pins: [Option<Handle>; 2],
}

const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
const ATTRS: [&[u8]; 6] = [b"user.x", b"user.y", b"trusted.x", b"security.x", b"system.x", b"bogus.x"];

impl Side {
    fn dir(&self, n: u8) -> Result<Handle> {
        let path: &[&[u8]] = match n {
            0 | 1 => &[],
            2 => &[b"a"],
            3 => &[b"b"],
            _ => &[b"a", b"b"],
        };
        path.iter().try_fold(self.root.clone(), |at, name| at.open_dir(name))
    }

    fn pinned(&self, n: u8) -> Result<&Handle> {
        self.pins[usize::from(n)].as_ref().ok_or(Errno::NOENT)
    }

    /// Runs `op`; what it tells.
    fn run(&mut self, op: &Op) -> Result<String> {
        let name = |at: &At| NAMES[usize::from(at.1)];
        let bytes = |n: u16| vec![b'0' + (n % 10) as u8; usize::from(n)];
        match op {
            Op::Create(a, m) => self.dir(a.0)?.create(name(a), *m)?.write_at(b"new", 0).map(|n| n.to_string()),
            Op::Mkdir(a, m) => self.dir(a.0)?.mkdir(name(a), *m).map(|()| String::new()),
            Op::Mknod(a, k, m) => {
                self.dir(a.0)?.mknod(name(a), *k, *m, u64::from(*m & 1) * 0x103).map(|()| String::new())
            }
            Op::Symlink(a, n) => {
                let target = if *n == 3 { &b""[..] } else { NAMES[usize::from(*n)] };
                self.dir(a.0)?.symlink(target, name(a)).map(|()| String::new())
            }
            Op::Link(a, b) => self.dir(a.0)?.link(name(a), &self.dir(b.0)?, name(b)).map(|()| String::new()),
            Op::LinkPinned(p, b) => self.pinned(*p)?.link(b"", &self.dir(b.0)?, name(b)).map(|()| String::new()),
            Op::Rename(a, b, how) => {
                self.dir(a.0)?.rename(name(a), &self.dir(b.0)?, name(b), *how).map(|()| String::new())
            }
            Op::Unlink(a) => self.dir(a.0)?.unlink(name(a)).map(|()| String::new()),
            Op::Rmdir(a) => self.dir(a.0)?.rmdir(name(a)).map(|()| String::new()),
            Op::Chown(a, u, g) => self.dir(a.0)?.chown(name(a), *u, *g).map(|()| String::new()),
            Op::Chmod(a, m) => self.dir(a.0)?.chmod(name(a), *m).map(|()| String::new()),
            Op::Utimens(a, x, y) => self.dir(a.0)?.utimens(name(a), *x, *y).map(|()| String::new()),
            Op::SetXattr(a, n, v, f) => {
                self.dir(a.0)?.setxattr(name(a), ATTRS[usize::from(*n)], &[*v], *f).map(|()| String::new())
            }
            Op::RemoveXattr(a, n) => {
                self.dir(a.0)?.removexattr(name(a), ATTRS[usize::from(*n)]).map(|()| String::new())
            }
            Op::Write(a, o, n) => {
                let file = self.regular(a)?.open_file(b"", Access::ReadWrite)?;
                file.write_at(&bytes(*n), u64::from(*o)).map(|n| n.to_string())
            }
            Op::Truncate(a, n) => {
                let file = self.regular(a)?.open_file(b"", Access::ReadWrite)?;
                file.truncate(u64::from(*n)).map(|()| String::new())
            }
            Op::Fallocate(a, m, o, n) => {
                let file = self.regular(a)?.open_file(b"", Access::ReadWrite)?;
                file.fallocate(*m, u64::from(*o), u64::from(*n)).map(|()| String::new())
            }
            Op::Pin(a, p) => {
                self.pins[usize::from(*p)] = Some(self.dir(a.0)?.pin(name(a))?);
                Ok(String::new())
            }
            Op::Readlink(a) => self.dir(a.0)?.readlink(name(a)).map(|t| format!("{t:?}")),
            Op::Tmpfile(d, p, m) => {
                let (file, _) = self.dir(*d)?.create_unnamed(*m)?.ok_or(Errno::OPNOTSUPP)?;
                let st = describe(&file.stat(b"")?);
                self.pins[usize::from(*p)] = Some(file);
                Ok(st)
            }
            Op::WritePinned(p, o) => {
                let pin = self.pinned(*p)?;
                if pin.stat(b"")?.kind != Kind::File {
                    return Err(Errno::INVAL);
                }
                let n = pin.open_file(b"", Access::ReadWrite)?.write_at(b"pinned", u64::from(*o))?;
                Ok(format!("{n} {}", describe(&pin.stat(b"")?)))
            }
            Op::CreateInPinned(p, n) => self.pinned(*p)?.create(NAMES[usize::from(*n)], 0o600).map(|_| String::new()),
            Op::ListPinned(p) => {
                let mut names = Vec::new();
                self.pinned(*p)?.list(&mut |e| names.push((e.name.to_vec(), e.kind)))?;
                names.sort();
                Ok(format!("{names:?}"))
            }
            Op::OpenDir(a) => self.dir(a.0)?.open_dir(name(a))?.stat(b"").map(|st| describe(&st)),
            Op::Seek(a, o) => {
                let pin = self.regular(a)?;
                let file = pin.open_file(b"", Access::Read)?;
                // Where holes are is the file system's own affair; where the end is is not.
                file.seek(u64::from(*o), libc::SEEK_HOLE).map(|n| (n <= file.stat().map_or(0, |s| s.size)).to_string())
            }
        }
    }

    fn regular(&self, at: &At) -> Result<Handle> {
        let pin = self.dir(at.0)?.pin(NAMES[usize::from(at.1)])?;
        if pin.stat(b"")?.kind == Kind::File { Ok(pin) } else { Err(Errno::INVAL) }
    }
}

fn describe(st: &Stat) -> String {
    let size = if st.kind == Kind::Dir { 0 } else { st.size };
    let nlink = st.nlink;
    format!("{:?} {:o} {}:{} x{nlink} {} {size} {}", st.kind, st.mode, st.uid, st.gid, st.rdev, when(st.mtime))
}

/// A time that was set exactly, or "now".
fn when(t: Timestamp) -> String {
    if t.sec > 1_000_000 { "now".into() } else { format!("{}.{:09}", t.sec, t.nsec) }
}

/// The whole tree but for inode numbers; hard links are told by their first path.
fn snapshot(root: &Handle) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut first = HashMap::new();
    let mut todo = std::collections::VecDeque::from([(String::new(), root.clone())]);
    while let Some((path, dir)) = todo.pop_front() {
        let mut names = Vec::new();
        dir.list(&mut |e| names.push((e.name.to_vec(), e.ino, e.kind))).expect("list");
        names.sort();
        for (name, ino, kind) in names {
            let child = format!("{path}/{}", String::from_utf8_lossy(&name));
            let st = dir.stat(&name).expect("stat");
            assert_eq!((st.ino, Some(st.kind)), (ino, kind));
            let mut text = describe(&st);
            text += &format!(" first {}", first.entry(st.ino).or_insert_with(|| child.clone()));
            for attr in dir.listxattr(&name).expect("listxattr").into_iter().collect::<std::collections::BTreeSet<_>>()
            {
                let value = dir.getxattr(&name, &attr).expect("getxattr");
                text += &format!(" {}={value:?}", String::from_utf8_lossy(&attr));
            }
            match st.kind {
                Kind::File => {
                    let mut data = vec![0; st.size as usize + 1];
                    let file = dir.open_file(&name, Access::Read).expect("open");
                    let n = file.read_at(&mut data, 0).expect("read");
                    text += &format!(" data {:?}", &data[..n]);
                }
                Kind::Symlink => text += &format!(" to {:?}", dir.readlink(&name)),
                Kind::Dir => todo.push_back((child.clone(), dir.open_dir(&name).expect("open_dir"))),
                _ => {}
            }
            all.insert(child, text);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn memory_answers_as_disk(ops in prop::collection::vec(op(), 0..60)) {
        let temp = tempfile::tempdir().expect("a directory");
        let root = Handle::Disk(disk::Object::open(temp.path(), true).expect("open"));
        root.chmod(b"", 0o755).expect("chmod");
        let tree = mem::Tree::new(7);
        let mut on_disk = Side { root, pins: [None, None] };
        let mut in_memory = Side { root: Handle::Mem(tree.root(true)), pins: [None, None] };
        for op in &ops {
            let (want, got) = (on_disk.run(op), in_memory.run(op));
            prop_assert_eq!(want, got, "{:?}", op);
        }
        prop_assert_eq!(snapshot(&on_disk.root), snapshot(&in_memory.root));
    }
}

#[test]
fn what_has_no_name_yet_is_seen_by_nobody() {
    let temp = tempfile::tempdir().expect("a directory");
    let on_disk = Handle::Disk(disk::Object::open(temp.path(), true).expect("open"));
    let in_memory = Handle::Mem(mem::Tree::new(7).root(true));
    for root in [on_disk, in_memory] {
        drop(root.create_unnamed(0o600).expect("create").expect("files without names"));
        let (object, file) = root.create_unnamed(0o600).expect("create").expect("files without names");
        assert_eq!(file.write_at(b"abc", 0), Ok(3));
        object.setxattr(b"", b"user.x", b"y", 0).expect("setxattr");
        object.chmod(b"", 0o640).expect("chmod");
        assert_eq!(object.stat(b"").map(|st| (st.nlink, st.size, st.mode)), Ok((0, 3, 0o640)));
        root.list(&mut |e| panic!("{:?} is there", e.name)).expect("list");
        object.link(b"", &root, b"a").expect("link");
        assert_eq!(object.link(b"", &root, b"a"), Err(Errno::EXIST));
        assert_eq!(root.stat(b"a").map(|st| (st.nlink, st.size, st.mode)), Ok((1, 3, 0o640)));
        assert_eq!(root.getxattr(b"a", b"user.x"), Ok(Some(b"y".to_vec())));
        assert_eq!(object.open_dir(b"").err(), Some(Errno::NOTDIR));
    }
    let (none, reader) = (mem::Tree::new(8).root(true), mem::Tree::new(7).root(false));
    assert!(Handle::Mem(none).create_unnamed(0o600).expect("no error").is_none());
    assert_eq!(Handle::Mem(reader).create_unnamed(0o600).err(), Some(Errno::ROFS));
}

#[test]
fn a_reader_changes_nothing() {
    let tree = mem::Tree::new(7);
    let root = Handle::Mem(tree.root(true));
    root.mkdir(b"d", 0o755).expect("mkdir");
    drop(root.create(b"f", 0o644).expect("create"));
    let (before, changes) = (tree.dump(), tree.changes());
    let r = Handle::Mem(tree.root(false)).open_dir(b"").expect("open");
    let e = Some(Errno::ROFS);
    assert_eq!(r.create(b"x", 0).err(), e);
    assert_eq!(r.mkdir(b"x", 0).err(), e);
    assert_eq!(r.unlink(b"f").err(), e);
    assert_eq!(r.rmdir(b"d").err(), e);
    assert_eq!(r.link(b"f", &r, b"x").err(), e);
    assert_eq!(r.rename(b"f", &r, b"x", Rename::Replace).err(), e);
    assert_eq!(r.chmod(b"f", 0).err(), e);
    assert_eq!(r.chown(b"f", None, None).err(), e);
    assert_eq!(r.utimens(b"f", SetTime::Now, SetTime::Now).err(), e);
    assert_eq!(r.setxattr(b"f", b"user.x", b"", 0).err(), e);
    assert_eq!(r.removexattr(b"f", b"user.x").err(), e);
    assert_eq!(r.open_file(b"f", Access::ReadWrite).err(), e);
    let file = r.open_file(b"f", Access::Read).expect("open");
    assert_eq!(file.write_at(b"x", 0).err(), Some(Errno::BADF));
    assert_eq!((tree.dump(), tree.changes()), (before, changes));
}

#[test]
fn a_fault_comes_once_and_changes_nothing() {
    let tree = mem::Tree::new(7);
    let root = Handle::Mem(tree.root(true));
    tree.fail_after(2, Errno::NOSPC);
    root.mkdir(b"a", 0o755).expect("the first");
    let before = tree.dump();
    assert_eq!(root.mkdir(b"b", 0o755), Err(Errno::NOSPC));
    assert_eq!(tree.dump(), before);
    assert!(!tree.is_faulty());
    root.mkdir(b"b", 0o755).expect("the third");
}

#[test]
fn numbers_are_used_again_and_handles_are_not() {
    let tree = mem::Tree::new(7);
    let root = Handle::Mem(tree.root(true));
    drop(root.create(b"a", 0o644).expect("create"));
    let (old, handle) = (root.stat(b"a").expect("stat"), root.file_handle(b"a").expect("handle"));
    let pin = root.pin(b"a").expect("pin");
    root.unlink(b"a").expect("unlink");
    drop(root.create(b"b", 0o644).expect("create"));
    assert_ne!(root.stat(b"b").expect("stat").ino, old.ino);
    drop(pin);
    drop(root.create(b"c", 0o644).expect("create"));
    assert_eq!(root.stat(b"c").expect("stat").ino, old.ino);
    assert_ne!(root.file_handle(b"c").expect("handle"), handle);
}
