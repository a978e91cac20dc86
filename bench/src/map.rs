//! mmap(2), which needs `unsafe`. Nothing else here does.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context as _, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// One byte in each of these is touched.
const PAGE: usize = 4096;

/// A shared mapping of the beginning of a file.
#[derive(Debug)]
pub(crate) struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    /// mmap(2), `MAP_SHARED`; the file must stay at least this long.
    pub(crate) fn shared(file: &File, len: usize, write: bool) -> Result<Self> {
        let prot = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file.as_fd(), 0) }.context("mmap")?;
        Ok(Self { at: at.cast(), len })
    }

    pub(crate) fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// Reads one byte of a page.
    pub(crate) fn read(&self, page: usize) -> u8 {
        assert!(page < self.pages());
        // SAFETY: inside the mapping; volatile, as the file is shared.
        unsafe { self.at.add(page * PAGE).read_volatile() }
    }

    /// Writes one byte of a page of a mapping made writable.
    pub(crate) fn write(&self, page: usize, byte: u8) {
        assert!(page < self.pages());
        // SAFETY: inside the mapping; one that is not writable faults.
        unsafe { self.at.add(page * PAGE).write_volatile(byte) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping.
        if let Err(e) = unsafe { munmap(self.at.cast(), self.len) } {
            eprintln!("munmap: {e}");
        }
    }
}
