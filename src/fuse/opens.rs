//! Open files, where the kernel tells of each because it may go straight to the file on disk (`FUSE_PASSTHROUGH`).
//!
//! The kernel's rules (fs/fuse/iomode.c): while an inode is open in one way, through us or straight, every other open
//! must be of the same way, and straight to the same file. It lets go of the way before it tells us of the last close.

use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::vocab::Result;

/// An inode that is open, and how.
#[derive(Debug)]
enum State<B> {
    /// This many, through us and the page cache of the mount.
    Cached(u64),
    /// This many, straight to that file.
    Direct(u64, Arc<B>),
    /// Nobody any more; it is no longer in the table.
    Closed,
}

/// All that are open. `B` is what stands for the file on disk.
#[derive(Debug)]
pub(super) struct Opens<B> {
    table: DashMap<u64, Arc<Mutex<State<B>>>>,
}

impl<B> Opens<B> {
    pub(super) fn new() -> Self {
        Self { table: DashMap::new() }
    }

    /// Opens an inode once more, the way it is open already; else straight to what `direct` finds, or through us if it
    /// finds nothing.
    pub(super) fn open(&self, ino: u64, direct: impl Fn() -> Result<Option<B>>) -> Result<Option<Arc<B>>> {
        loop {
            let entry = self.table.entry(ino).or_insert_with(|| Arc::new(Mutex::new(State::Cached(0)))).clone();
            let mut state = entry.lock();
            match &mut *state {
                State::Closed => continue,
                State::Direct(count, to) => {
                    *count += 1;
                    return Ok(Some(to.clone()));
                }
                State::Cached(count @ 1..) => {
                    *count += 1;
                    return Ok(None);
                }
                State::Cached(0) => {}
            }
            return match direct() {
                Ok(None) => {
                    *state = State::Cached(1);
                    Ok(None)
                }
                Ok(Some(to)) => {
                    let to = Arc::new(to);
                    *state = State::Direct(1, to.clone());
                    Ok(Some(to))
                }
                Err(e) => {
                    *state = State::Closed;
                    self.remove(ino, &entry);
                    Err(e)
                }
            };
        }
    }

    /// One that was open is not any more.
    pub(super) fn release(&self, ino: u64) {
        let Some(entry) = self.table.get(&ino).map(|e| e.clone()) else { return };
        let mut state = entry.lock();
        match &mut *state {
            State::Cached(count @ 2..) | State::Direct(count @ 2.., _) => *count -= 1,
            _ => {
                *state = State::Closed;
                self.remove(ino, &entry);
            }
        }
    }

    fn remove(&self, ino: u64, entry: &Arc<Mutex<State<B>>>) {
        self.table.remove_if(&ino, |_, there| Arc::ptr_eq(there, entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Errno;

    #[test]
    fn everybody_opens_in_the_way_of_the_first() {
        let opens = Opens::new();
        let through_us = || opens.open(5, || Ok(None)).unwrap();
        let straight = || opens.open(5, || Ok(Some(7))).unwrap();
        assert_eq!(through_us(), None);
        assert_eq!(straight(), None);
        opens.release(5);
        assert_eq!(straight(), None);
        opens.release(5);
        opens.release(5);
        assert_eq!(straight(), Some(Arc::new(7)));
        assert_eq!(through_us(), Some(Arc::new(7)));
        assert_eq!(opens.open(5, || Ok(Some(8))).unwrap(), Some(Arc::new(7)));
        for _ in 0..3 {
            opens.release(5);
        }
        assert_eq!(through_us(), None);
        opens.release(5);
        assert!(opens.table.is_empty());
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let opens = Opens::<u8>::new();
        assert_eq!(opens.open(5, || Err(Errno::IO)), Err(Errno::IO));
        assert!(opens.table.is_empty());
        assert_eq!(opens.open(5, || Ok(None)), Ok(None));
    }
}
