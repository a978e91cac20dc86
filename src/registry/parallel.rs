//! Several blobs at the same time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::error::{Error, Kind};

/// Does `work` for each of `items`, `jobs` at a time in order. The first failure makes the others stop (they see it in
/// their second argument) and is returned.
pub(super) fn each<T: Sync>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T, &AtomicBool) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(e) = work(item, &stop) {
                stop.store(true, Ordering::Relaxed);
                return Err(e);
            }
        }
        Ok(())
    };
    let failures: Vec<Error> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.min(items.len())).map(|_| scope.spawn(worker)).collect();
        let died = |_| Err(Error::new(Kind::Local, "a thread has died"));
        threads.into_iter().filter_map(|t| t.join().unwrap_or_else(died).err()).collect()
    });
    // One that was stopped has nothing to say.
    let why = failures.iter().find(|e| e.kind() != Kind::Stopped).or(failures.first());
    why.map_or(Ok(()), |e| Err(e.clone()))
}

/// The error of one who sees that another has failed.
pub(super) fn check(stop: &AtomicBool) -> Result<(), Error> {
    if stop.load(Ordering::Relaxed) { Err(Error::new(Kind::Stopped, "another transfer has failed")) } else { Ok(()) }
}
