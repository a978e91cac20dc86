//! Memory for what goes through `/dev/fuse`.

use std::io;
use std::ops::{Deref, DerefMut};

/// What a huge page is here, and a multiple of it elsewhere or no matter.
const HUGE: usize = 2 << 20;

/// From how many bytes on a huge page is worth having; below, a request touches a few small ones.
const BIG: usize = 128 << 10;
/// From how many bytes on its pages are had at once.
const SOME: usize = 16 << 10;
/// After so many of them: a program that is started has a few, too.
const MANY: u8 = 16;

/// Zeroed bytes, in memory only where they were used. The kernel takes hold of a reply page by page, which costs it more
/// than copying a small one: what is big should lie in huge pages. They are had once big requests have come for a while, so
/// that a mount that only starts programs stays small.
#[derive(Debug)]
pub struct Buffer {
    map: memmap2::MmapMut,
    len: usize,
    /// Big requests so far.
    big: u8,
    /// So much of it is in memory.
    touched: usize,
}

impl Buffer {
    /// Room for `len` bytes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(len: usize) -> io::Result<Self> {
        // Mappings of whole huge pages begin at one (Linux 6.7).
        let map = memmap2::MmapMut::map_anon(len.next_multiple_of(HUGE))?;
        Ok(Self { map, len, big: 0, touched: 0 })
    }

    /// `n` bytes are about to come or go.
    pub fn expect(&mut self, n: usize) {
        if n < SOME || self.big == MANY {
            return;
        }
        if n > self.touched && n <= self.len {
            // One by one, as they are written to, costs more than twice as much.
            self.advise(n, libc::MADV_POPULATE_WRITE);
            self.touched = n;
        }
        if n >= BIG {
            self.big += 1;
            if self.big == MANY {
                self.advise(self.map.len(), libc::MADV_COLLAPSE);
            }
        }
    }

    /// madvise(2) with one that changes no byte, of the first `n`: `MADV_POPULATE_WRITE` (Linux 5.14), `MADV_COLLAPSE` (6.1).
    fn advise(&mut self, n: usize, advice: libc::c_int) {
        // SAFETY: the range begins our own anonymous mapping, which is longer; its bytes stay what they are.
        let r = unsafe { libc::madvise(self.map.as_mut_ptr().cast(), n, advice) };
        if r != 0 {
            log::debug!("madvise {advice}: {}", super::last_errno());
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_bytes_when_pages_become_huge() {
        let mut buffer = Buffer::new((1 << 20) + 5000).unwrap();
        assert_eq!(buffer.len(), (1 << 20) + 5000);
        for (i, b) in buffer.iter_mut().enumerate() {
            *b = (i % 251) as u8;
        }
        (0..=MANY).for_each(|_| buffer.expect(BIG - 1));
        assert_eq!(buffer.big, 0);
        (0..=MANY).for_each(|_| buffer.expect(BIG));
        assert_eq!(buffer.big, MANY);
        assert!(buffer.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8));
    }
}
