//! A tree in memory with the answers of one on disk: the union is tested on it, with faults that no disk has on demand.
//!
//! Everything is done under one lock of the tree. Inode numbers are used again once an object is gone, as most file
//! systems do; file handles carry a generation and are not.

mod data;
mod dir;
mod object;
mod tree;

pub use data::Data;
pub use object::Object;
pub use tree::Tree;
