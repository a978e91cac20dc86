use std::sync::Arc;

use super::*;
use crate::fuse::Tuning;
use crate::fuse::abi::{Header, op};
use crate::layer::{Handle, mem};
use crate::overlay::{Config, Layers, Lower, Overlay, ROOT, Upper};
use crate::vocab::dialect::Prefix;

/// The operations over a union in memory, with one lower file `f` of 3 bytes.
fn ops() -> Ops {
    let upper = mem::Tree::new(1);
    let root = Handle::Mem(upper.root(true));
    for dir in [&b"upper"[..], b"work"] {
        root.mkdir(dir, 0o755).unwrap();
    }
    let lower = mem::Tree::new(2);
    Handle::Mem(lower.root(true)).create(b"f", 0o644).unwrap().write_at(b"abc", 0).unwrap();
    let layers = Layers {
        upper: Some(Upper { dir: root.open_dir(b"upper").unwrap(), work: root.open_dir(b"work").unwrap() }),
        lowers: vec![Lower { dir: Handle::Mem(lower.root(false)) }],
    };
    let config = Config { prefix: Some(Prefix::User), ..Config::default() };
    Ops::new(Arc::new(Overlay::new(layers, config).unwrap()), &Tuning::default())
}

fn ask(ops: &Ops, opcode: u32, ino: u64, arg: &[u8], data: &[u8], out: &mut [u8]) -> Option<Result<usize>> {
    let header = Header { len: 0, opcode, unique: 1, ino, uid: 0, gid: 0 };
    answer(ops, &Request { header, arg, data }, out)
}

fn found(out: &[u8]) -> u64 {
    Fields(out).u64().unwrap()
}

#[test]
fn a_file_is_found_read_and_written() {
    let (ops, mut out) = (ops(), vec![0; 4096]);
    assert_eq!(ask(&ops, op::LOOKUP, ROOT, b"", b"f\0", &mut out), Some(Ok(128)));
    let ino = found(&out);
    let mut at = [0; 40];
    at[16] = 100;
    assert_eq!(ask(&ops, op::READ, ino, &at, b"", &mut out), Some(Ok(3)));
    assert_eq!(&out[..3], b"abc");
    at[8] = 3;
    at[16] = 2;
    assert_eq!(ask(&ops, op::WRITE, ino, &at, b"de", &mut out), Some(Ok(8)));
    assert_eq!(out[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    at[8] = 0;
    assert_eq!(ask(&ops, op::READ, ino, &at, b"", &mut out), Some(Ok(2)));
    assert_eq!(ask(&ops, op::FORGET, ino, &1u64.to_ne_bytes(), b"", &mut out), None);
}

#[test]
fn a_name_that_is_not_there_is_remembered() {
    let (ops, mut out) = (ops(), vec![0; 4096]);
    assert_eq!(ask(&ops, op::LOOKUP, ROOT, b"", b"none\0", &mut out), Some(Ok(128)));
    assert_eq!(found(&out), 0);
}

#[test]
fn unknown_operations_are_not_implemented() {
    let (ops, mut out) = (ops(), vec![0; 4096]);
    for opcode in [0, op::OPEN, op::OPENDIR, 25, 31, 34, 35, op::INTERRUPT, 37, 40, 48, 4096, u32::MAX] {
        let done = ask(&ops, opcode, ROOT, &[0; 128], b"", &mut out);
        if ![op::OPEN, op::OPENDIR].contains(&opcode) {
            assert_eq!(done, Some(Err(Errno::NOSYS)), "{opcode}");
        }
    }
}

#[test]
fn names_that_no_directory_has_are_errors() {
    let (ops, mut out) = (ops(), vec![0; 4096]);
    for name in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"no end", b""] {
        for opcode in [op::LOOKUP, op::UNLINK, op::RMDIR] {
            assert_eq!(ask(&ops, opcode, ROOT, b"", name, &mut out), Some(Err(Errno::IO)), "{opcode} of {name:?}");
        }
    }
}

/// Every operation with its struct cut short, without its names, and with bytes that mean nothing: an answer each time,
/// and the union is whole afterwards.
#[test]
fn nonsense_is_answered() {
    let (ops, mut out) = (ops(), vec![0; 1 << 16]);
    let mut noise = 0x9e37_79b9_u32;
    let mut next = move || {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        noise as u8
    };
    for opcode in 0..64 {
        let size = op::arg_size(opcode).unwrap_or(16);
        for cut in 0..size {
            let arg = vec![0; cut];
            let done = ask(&ops, opcode, ROOT, &arg, b"name\0other\0", &mut out);
            let short = op::arg_size(opcode).is_some() && cut < 4 && size > 0;
            if short && !matches!(opcode, op::FSYNCDIR | op::RELEASE | op::RELEASEDIR | op::GETATTR | op::INTERRUPT) {
                assert!(matches!(done, None | Some(Err(_))) || opcode == op::OPEN || opcode == op::OPENDIR, "{opcode}");
            }
        }
        for data in [&b""[..], b"no end", b"\0", b"one\0"] {
            ask(&ops, opcode, ROOT, &vec![0; size], data, &mut out);
        }
        for _ in 0..200 {
            let arg: Vec<u8> = (0..size).map(|_| if next() % 3 == 0 { next() } else { 0 }).collect();
            let data: Vec<u8> = (0..next() % 64).map(|_| next() % 4).collect();
            // Not of files, where a size would be believed, and all of it be zeros in memory.
            let sized = matches!(opcode, op::SETATTR | op::WRITE | op::FALLOCATE | op::COPY_FILE_RANGE);
            let ino = if sized || next() % 2 == 0 { ROOT } else { next().into() };
            ask(&ops, opcode, ino, &arg, &data, &mut out);
        }
        for room in [0, 8, 100] {
            ask(&ops, opcode, ROOT, &vec![0; size], b"f\0g\0", &mut out[..room]);
        }
    }
    assert_eq!(ask(&ops, op::LOOKUP, ROOT, b"", b"still\0", &mut out), Some(Ok(128)));
    let mut at = [0; 40];
    at[17] = 16;
    assert!(matches!(ask(&ops, op::READDIR, ROOT, &at, b"", &mut out), Some(Ok(1..))));
}
