use std::collections::BTreeMap;

use super::*;
use crate::layer::mem;
use crate::vocab::{Access, Kind, Timestamp};

/// Written by the first version of the format. It stays as it is: whatever reads version 1 must read this.
const VERSION_1: &[u8] = include_bytes!("fixtures/version-1.index");

fn stat(kind: Kind, ino: u64) -> Stat {
    let time = |sec| Timestamp { sec, nsec: 999_999_999 };
    Stat {
        dev: 0,
        ino,
        kind,
        mode: 0o4751,
        nlink: 2,
        uid: 1000,
        gid: u32::MAX,
        rdev: if kind == Kind::Block { 0x0801 } else { 0 },
        size: 5 << 32,
        blocks: 8,
        blksize: 4096,
        atime: time(-5),
        mtime: time(1 << 40),
        ctime: time(7),
        mount_root: false,
    }
}

fn entry(name: &str, kind: Kind, ino: u64) -> Entry {
    Entry {
        name: name.into(),
        stat: stat(kind, ino),
        layer: 1,
        target: None,
        path: None,
        data: None,
        xattrs: Vec::new(),
    }
}

/// A tree with one of everything.
fn tree() -> Vec<Vec<Entry>> {
    let attr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let linked = Entry { target: Some(b"../there".to_vec()), ..entry("link", Kind::Symlink, 12) };
    let moved = Entry { path: Some(b"old/place".to_vec()), ..entry("moved", Kind::File, 1 << 40) };
    let hollow = Entry { data: Some((0, b"deep/data".to_vec())), layer: 0, ..entry("hollow", Kind::File, 14) };
    let marked = Entry {
        xattrs: vec![attr("user.a", b""), attr("trusted.b", &[0, 255]), attr("system.posix_acl_access", b"acl")],
        ..entry("marked", Kind::File, 15)
    };
    let mut top = vec![
        entry("block", Kind::Block, 9),
        entry("char", Kind::Char, 10),
        entry("dir", Kind::Dir, 11),
        entry("empty", Kind::Dir, 16),
        entry("fifo", Kind::Fifo, 17),
        entry("socket", Kind::Socket, 18),
        linked,
        moved,
        hollow,
        marked,
    ];
    top.sort_by(|a, b| a.name.cmp(&b.name));
    let names = (0..100).map(|i| entry(&format!("{}{i:03}", "n".repeat(200 + i % 50)), Kind::File, 100 + i as u64));
    let mut many: Vec<_> = names.collect();
    many.sort_by(|a, b| a.name.cmp(&b.name));
    vec![vec![Entry { layer: 0, ..entry("", Kind::Dir, 2) }], top, many]
}

fn written() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("index");
    let mut writer = Writer::new(&path).expect("begun");
    let tree = tree();
    writer.root(&tree[0][0]).expect("root");
    let first = writer.children(0, &tree[1]).expect("written");
    let at = tree[1].iter().position(|e| e.name == b"dir").expect("there") as u32;
    writer.children(first + at, &tree[2]).expect("written");
    let roots = vec![stat(Kind::Dir, 2), stat(Kind::Dir, 3)];
    let source = Source { roots, prefix: Prefix::Trusted, aufs: true, marked: true };
    let reader = Reader { uids: "0:0:4294967295".into(), gids: "0:0:4294967295".into(), trusted: true };
    writer.finish_as(&source, reader).expect("finished");
    std::fs::read(&path).expect("read")
}

/// An index over two empty layers.
fn open(bytes: &[u8]) -> std::result::Result<Arc<Index>, String> {
    let header = read_header(bytes)?;
    let layers = header.layers.iter().zip(7..).map(|(_, dev)| (Handle::Mem(mem::Tree::new(dev).root(false)), dev));
    let layers = layers.take(500).collect();
    Ok(Arc::new(Index::over(Path::new("test"), Bytes::Own(bytes.to_vec()), header, layers)))
}

fn same_tree(index: &Arc<Index>) {
    let tree = tree();
    let root = index.root();
    assert_eq!(root.stat(b""), Ok(Stat { dev: 7, ..tree[0][0].stat }));
    for (dir, entries) in [(root.clone(), &tree[1]), (root.open_dir(b"dir").expect("dir"), &tree[2])] {
        let mut listed = Vec::new();
        dir.list(&mut |e| listed.push((e.name.to_vec(), e.ino, e.kind, e.dev))).expect("list");
        let dev = |e: &Entry| Some(7 + e.layer as u64);
        let want: Vec<_> = entries.iter().map(|e| (e.name.clone(), e.stat.ino, Some(e.stat.kind), dev(e))).collect();
        assert_eq!(listed, want);
        for e in entries {
            let st = Stat { dev: 7 + e.layer as u64, ..e.stat };
            assert_eq!(dir.stat(&e.name), Ok(st));
            assert_eq!(dir.readlink(&e.name), e.target.clone().ok_or(Errno::INVAL));
            let attrs: Vec<_> = e.xattrs.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(dir.listxattr(&e.name), Ok(attrs));
            for (name, value) in &e.xattrs {
                assert_eq!(dir.getxattr(&e.name, name), Ok(Some(value.clone())));
            }
            assert_eq!(dir.getxattr(&e.name, b"user.none"), Ok(None));
        }
        assert_eq!(dir.stat(b"absent"), Err(Errno::NOENT));
    }
    assert_eq!(root.open_dir(b"fifo").map(drop), Err(Errno::NOTDIR));
    assert_eq!(root.pin(b"fifo").and_then(|o| o.stat(b"x")), Err(Errno::NOTDIR));
    let place = |name: &[u8]| {
        let (i, record) = root.find(name).expect("there");
        (record.layer, root.place(i, &record, &index.extra(&record).expect("extra")).expect("place").1)
    };
    assert_eq!(place(b"moved"), (1, b"old/place".to_vec()));
    assert_eq!(place(b"dir"), (1, b"dir".to_vec()));
    assert_eq!(root.extra(b"hollow").expect("extra").data, Some((0, b"deep/data".to_vec())));
}

#[test]
fn version_1_is_read_for_ever() {
    same_tree(&open(VERSION_1).expect("opens"));
}

#[test]
fn what_is_written_is_the_format() {
    let bytes = written();
    same_tree(&open(&bytes).expect("opens"));
    assert_eq!(open(&bytes).map(|i| (i.len(), i.verify())), Ok((111, Ok(()))));
    assert!(bytes == VERSION_1, "what is written is not version 1 any more");
}

/// `cargo test write_fixture -- --ignored`, once for each version.
#[test]
#[ignore = "it writes into the sources"]
fn write_fixture() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/layer/index/fixtures/version-1.index");
    assert!(!Path::new(path).exists(), "a fixture stays as it is");
    std::fs::write(path, written()).expect("written");
}

#[test]
fn what_is_no_index_is_refused() {
    let good = written();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        open(&bytes).map(drop).expect_err("refused")
    };
    assert_eq!(with(&|b| b.clear()), "it is no image index");
    assert_eq!(with(&|b| b[0] ^= 1), "it is no image index");
    assert_eq!(with(&|b| b[8] = 2), "it is of version 2; this onlay reads version 1");
    assert_eq!(with(&|b| b.truncate(b.len() - 1)), "it was cut, or is damaged: its header is not where it should be");
    assert_eq!(with(&|b| b.push(0)), "it was cut, or is damaged: its header is not where it should be");
    let last = good.len() - 1;
    assert_eq!(with(&|b| b[last] ^= 1), "it is damaged: the checksum of its header is wrong");
    // Deeper inside it is told when it is touched.
    let mut bytes = good.clone();
    bytes[PREAMBLE + RECORD] ^= 1;
    let index = open(&bytes).expect("the header is right");
    assert_eq!((index.verify(), index.root().stat(b"").map(drop)), (Err(Errno::IO), Err(Errno::IO)));
}

#[test]
fn an_index_of_other_layers_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("index");
    let (one, other) = (mem::Tree::new(1), mem::Tree::new(2));
    let root = |tree: &mem::Tree| Handle::Mem(tree.root(true));
    assert!(Index::open(&path, &[root(&one)], Prefix::User, false).is_err_and(|e| e.to_string().contains("No such")));
    std::fs::write(&path, b"").expect("written");
    assert!(
        Index::open(&path, &[root(&one)], Prefix::User, false).is_err_and(|e| e.to_string().contains("no image index"))
    );
    let write = |layers: &[Handle], marked| {
        let roots: Vec<_> = layers.iter().map(|l| l.stat(b"").expect("stat")).collect();
        let mut writer = Writer::new(&path).expect("begun");
        writer.root(&Entry { stat: roots[0], ..entry("", Kind::Dir, 0) }).expect("root");
        writer.finish(&Source { roots, prefix: Prefix::User, aufs: false, marked }).expect("finished");
    };
    write(&[root(&one)], true);
    let open = |layers: &[Handle], prefix, aufs| match Index::open(&path, layers, prefix, aufs) {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    };
    assert_eq!(open(&[root(&one)], Prefix::User, false), "");
    assert!(open(&[root(&one)], Prefix::Trusted, false).contains("other spelling"));
    assert!(open(&[root(&one)], Prefix::User, true).contains(".wh."));
    assert!(open(&[root(&one), root(&other)], Prefix::User, false).contains("of 1 layers, not of 2"));
    root(&one).mkdir(b"new", 0o755).expect("mkdir");
    assert!(open(&[root(&one)], Prefix::User, false).contains("layer 1 is not the one"));
    write(&[root(&one)], false);
    assert_eq!(open(&[root(&one)], Prefix::Trusted, false), "");
}

#[test]
fn ids_are_told_in_the_readers_words() {
    let there = Translation::of("100000:0:65536", "0:0:4294967295").expect("maps");
    assert_eq!((there.id(0), there.id(33), there.id(65535)), (100_000, 100_033, 165_535));
    let back = Translation::of("0:0:4294967295", "100000:0:65536").expect("maps");
    assert_eq!((back.id(100_033), back.id(7)), (33, OVERFLOW));
    assert!(Translation::of("", "0:0:1").is_err());
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    fn spoil(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len());
            bytes[at] = match self.roll(3) {
                0 => self.roll(256) as u8,
                1 => [0, 1, 0x7f, 0xff][self.roll(4)],
                _ => bytes[at] ^ (1 << self.roll(8)),
            };
        }
    }
}

/// The same body with checksums that are right, and a header that was tampered with or not.
fn with_right_checksums(bytes: &[u8], tamper: Option<&mut Dice>) -> Vec<u8> {
    let preamble = Preamble::read(bytes).expect("a preamble");
    let (body, header) = bytes[PREAMBLE..].split_at(preamble.header_at as usize - PREAMBLE);
    let mut header: Header = codec::decode(header).expect("a header");
    header.blocks = body.chunks(BLOCK).map(crc32fast::hash).collect();
    let mut header = codec::encode(&header).expect("encoded");
    if let Some(dice) = tamper {
        dice.spoil(&mut header);
    }
    let checksum = preamble.checksum_with(&header);
    [&Preamble { checksum, ..preamble }.to_bytes(), body, &header].concat()
}

/// Looks at everything; each object is met once at most.
fn walk(index: &Arc<Index>) -> usize {
    let mut met = BTreeMap::new();
    let mut todo = vec![index.root()];
    while let Some(dir) = todo.pop() {
        let mut names = Vec::new();
        // What was listed before an error counts all the same.
        let _listed = dir.list(&mut |e| names.push(e.name.to_vec()));
        for name in names {
            let Ok((at, record)) = dir.find(&name) else { continue };
            if met.insert(at, ()).is_some() {
                continue;
            }
            let _seen = (dir.stat(&name), dir.readlink(&name), dir.getxattr(&name, b"user.a"), dir.listxattr(&name));
            let _opened = (dir.open_file(&name, Access::Read), dir.file_handle(&name));
            if record.kind == Kind::Dir {
                assert!(record.count == 0 || record.first > at || index.entries(at, &record).is_err());
                todo.extend(dir.open_dir(&name));
            }
        }
    }
    assert!(met.len() as u64 <= index.len());
    met.len()
}

#[test]
fn damaged_ones_do_no_harm() {
    let good = written();
    assert_eq!(walk(&open(&good).expect("good")), 110);
    let (mut refused, mut walked) = (0, 0);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for i in 0..500 {
        let mut bytes = good.clone();
        let end = Preamble::read(&bytes).expect("a preamble").header_at as usize;
        match i % 4 {
            // As time and disks do it.
            0 => dice.spoil(&mut bytes),
            1 => bytes.truncate(dice.roll(good.len())),
            // As somebody would who means it.
            2 => {
                dice.spoil(&mut bytes[PREAMBLE..end]);
                bytes = with_right_checksums(&bytes, None);
            }
            _ => bytes = with_right_checksums(&bytes, Some(&mut dice)),
        }
        match open(&bytes) {
            Ok(index) => walked += walk(&index),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 120 && walked > 12_000, "{refused} refused, {walked} objects met");
}
