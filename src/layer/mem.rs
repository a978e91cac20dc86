//! Stands in until the tree in memory is written.

pub use super::disk::{Data, Object};
