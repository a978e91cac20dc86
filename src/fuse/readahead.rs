//! How far the kernel reads ahead in files of the mount.
//!
//! It takes the least of what we name in the first request and what its own table says of the mount, which is 128 KiB for
//! everybody. The table can be written by root: `/sys/class/bdi/MAJOR:MINOR/read_ahead_kb` (Documentation/ABI/testing/
//! sysfs-class-bdi).

use std::io;

use super::mechanisms::{Chosen, Readahead};

/// Measured best: 256 MiB read in one go take the same time from 256 to 1024; programs start the faster the less is read
/// around what they need.
const BEST_KIB: u32 = 384;

/// Sets it for the mount with this device number; what came of it.
pub(super) fn set(device: io::Result<(u32, u32)>, wish: Readahead) -> Chosen {
    let path = device.map(|(major, minor)| format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    let now = |path: &str| std::fs::read_to_string(path).map_or_else(|_| "128".to_owned(), |kib| kib.trim().to_owned());
    let chosen = |kib: String, why: String| Chosen { name: "readahead", what: format!("{kib} KiB"), why };
    let path = match path {
        Ok(path) => path,
        Err(e) => return chosen("128".into(), format!("the mount's device number is not known: {e}")),
    };
    let (kib, why) = match wish {
        Readahead::Kernel => return chosen(now(&path), "as asked: the kernel's own".into()),
        Readahead::Auto => (BEST_KIB, "fewer and bigger requests"),
        Readahead::KiB(kib) => (kib, "as asked"),
    };
    match std::fs::write(&path, kib.to_string()) {
        Ok(()) if wish == Readahead::Auto => chosen(kib.to_string(), why.into()),
        // It is whole pages.
        Ok(()) => chosen(now(&path), why.into()),
        Err(e) => {
            let why = format!("the kernel's own; only root may change it: {}", crate::vocab::why(&e));
            if wish != Readahead::Auto {
                log::warn!("readahead={kib}: {path}: {}", crate::vocab::why(&e));
            }
            chosen(now(&path), why)
        }
    }
}
