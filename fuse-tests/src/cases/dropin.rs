//! Called as `fuse-overlayfs`: the calls of container tools as they were captured, without the tools.
#![allow(unused)]
use anyhow::Result;
use crate::tree::cases;
cases!("dropin":);
