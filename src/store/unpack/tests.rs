//! What becomes of entries, honest and not.

mod fuzz;
mod honest;
mod hostile;
pub(crate) mod make;
mod peers;

use crate::layer::Handle;
use crate::layer::mem::Tree;

use super::{Error, Options, Owners, Unpacked, unpack};

fn stored() -> Options {
    Options { owners: Owners::Stored, ..Options::default() }
}

/// Unpacks into a tree in memory.
fn into_memory(blob: &[u8], options: &Options) -> (Result<Unpacked, Error>, Handle) {
    let root = Handle::Mem(Tree::new(1).root(true));
    (unpack(blob, &root, options, &|_| {}), root)
}

/// An honest one.
fn whole(blob: &[u8], options: &Options) -> (Unpacked, Handle) {
    let (r, root) = into_memory(blob, options);
    (r.expect("unpacked"), root)
}

/// The directory at a path.
fn at(root: &Handle, path: &str) -> Handle {
    path.split('/')
        .filter(|n| !n.is_empty())
        .fold(root.clone(), |at, n| at.open_dir(n.as_bytes()).expect("a directory"))
}

fn content(dir: &Handle, name: &str) -> Vec<u8> {
    let file = dir.open_file(name.as_bytes(), crate::vocab::Access::Read).expect("a file");
    let mut buf = vec![0; file.stat().expect("its stat").size as usize + 1];
    let n = file.read_at(&mut buf, 0).expect("its data");
    buf[..n].to_vec()
}

fn attr(dir: &Handle, name: &str, attr: &str) -> Option<Vec<u8>> {
    dir.getxattr(name.as_bytes(), attr.as_bytes()).expect("attributes")
}
