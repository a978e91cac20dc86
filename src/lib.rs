//! A userspace union filesystem and a rootless runner.
//!
//! The floors, each importing only the ones above it in this list (held by `tests/floors.rs`):
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | F0 | [`sys`] | the only `unsafe`: system calls that no library carries |
//! | F1 | [`vocab`] | plain values, no I/O |
//! | F2 | [`layer`] | one tree, on disk or in memory |
//! | F3 | [`overlay`] | the union itself; no FUSE |
//! | F3 | [`runner`] | a process in its own namespaces; no FUSE, no union |
//! | F3 | [`registry`] | conversations with image registries; no store |
//! | F4 | [`fuse`] | the union served to the kernel |
//! | F4 | [`store`] | images and containers on disk; no FUSE |
//! | F5 | [`cli`] | the command line |

#[allow(unsafe_code)]
pub mod sys;

pub mod vocab;

pub mod layer;

pub mod overlay;
pub mod registry;
pub mod runner;

pub mod fuse;
pub mod store;

pub mod cli;
