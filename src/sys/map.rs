//! mmap(2) of a file that nobody changes.

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of a file, mapped to read.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// mmap(2) with `PROT_READ` of all of `file`. <https://man7.org/linux/man-pages/man2/mmap.2.html>
    ///
    /// Only for a file that is written under another name, then renamed, and never written to again: what another
    /// process does to it shows in the bytes, and reading behind the end of a file that was cut raises `SIGBUS`. So
    /// what is read must be treated as anybody's bytes, and is not looked at twice where it matters.
    ///
    /// # Errors
    /// What mmap(2) answers; `EINVAL` for an empty file.
    pub fn read(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private and read only. Its file belongs to the store, is replaced by rename and never
        // changed or cut in place, which is the contract above; its readers check every offset against the length.
        unsafe { memmap2::MmapOptions::new().map_copy_read_only(file) }.map(Self)
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
