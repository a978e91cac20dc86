//! Archives of GNU tar's in each of its formats, and ours in its hands.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::*;
use crate::layer::disk;
use crate::store::pack;
use crate::store::unpack::Compression;

/// Whether GNU tar is here; says so if not.
fn has_tar() -> bool {
    let version = Command::new("tar").arg("--version").output();
    let has = version.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("GNU tar"));
    if !has {
        eprintln!("skipped: there is no GNU tar");
    }
    has
}

fn tar(args: &[&str]) {
    let out = Command::new("tar").args(args).output().expect("tar runs");
    assert!(out.status.success(), "tar {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn fill(dir: &Path) {
    let deep = dir.join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&deep).expect("made");
    fs::write(deep.join("file"), "deep").expect("written");
    fs::write(dir.join("suid"), "x").expect("written");
    fs::set_permissions(dir.join("suid"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    fs::hard_link(dir.join("suid"), dir.join("same")).expect("linked");
    symlink("l".repeat(150), dir.join("link")).expect("linked");
    fs::write(dir.join("caf\u{e9}"), [0; 1000]).expect("written");
    let holey = fs::File::create(dir.join("holey")).expect("made");
    holey.set_len(9 << 20).expect("cut");
    for i in 0..40 {
        holey.write_all_at(b"data", i * 200_000).expect("written");
    }
    let old = fs::File::create(dir.join("old")).expect("made");
    let time = std::time::UNIX_EPOCH - std::time::Duration::new(1000, 0);
    old.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time)).expect("set");
}

/// Each path with all that every format keeps: whole seconds.
fn shown(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(at) = todo.pop() {
        let m = at.symlink_metadata().expect("there");
        let name = at.strip_prefix(dir).expect("below").display().to_string();
        let data = match () {
            () if m.is_dir() => {
                todo.extend(fs::read_dir(&at).expect("read").map(|e| e.expect("an entry").path()));
                String::new()
            }
            () if m.is_symlink() => format!("{:?}", fs::read_link(&at).expect("read")),
            () => crate::vocab::digest::of(&fs::read(&at).expect("read")).to_string(),
        };
        let links = if m.is_dir() { 0 } else { m.nlink() };
        all.push(format!("{name:?} {:o} {}:{} {} {links} {data}", m.mode(), m.uid(), m.gid(), m.mtime()));
    }
    all.sort();
    all
}

#[test]
fn what_gnu_tar_writes() {
    if !has_tar() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners are root's to give");
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let from = place.path().join("from");
    fs::create_dir(&from).expect("made");
    fill(&from);
    let archive = place.path().join("archive");
    let (archive, source) = (archive.to_str().expect("text"), from.to_str().expect("text"));
    for args in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        tar(&[args, &["-cf", archive, "-C", source, "."]].concat());
        let to = tempfile::tempdir().expect("a directory");
        let root = Handle::Disk(disk::Object::open(to.path(), true).expect("opened"));
        let file = fs::File::open(archive).expect("opened");
        unpack(file, &root, &Options::default(), &|_| {}).unwrap_or_else(|e| panic!("{args:?}: {e}"));
        assert_eq!(shown(to.path()), shown(&from), "{args:?}");
        if args.contains(&"--sparse") {
            let m = to.path().join("holey").metadata().expect("there");
            assert!(m.blocks() * 512 < m.len() / 2, "{args:?}: {} blocks", m.blocks());
        }
    }
}

#[test]
fn what_gnu_tar_reads() {
    if !has_tar() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners are root's to give");
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    for dir in [&from, &to] {
        fs::create_dir(dir).expect("made");
    }
    fill(&from);
    let archive = place.path().join("archive");
    let root = Handle::Disk(disk::Object::open(&from, true).expect("opened"));
    let options = pack::Options { compression: Compression::Gzip, ..pack::Options::default() };
    pack::pack_dir(&root, options, fs::File::create(&archive).expect("made")).expect("packed");
    tar(&["-xpf", archive.to_str().expect("text"), "-C", to.to_str().expect("text")]);
    assert_eq!(shown(&to), shown(&from));
}
