//! Set-id bits go when a file is written, cut or given away, unless by somebody who may set them (`CAP_FSETID`).
//!
//! With `FUSE_HANDLE_KILLPRIV_V2` this is the daemon's to do; the kernel in turn asks only once, and not before each write, for
//! `security.capability`. It tells us by a SETATTR that sets nothing (what `file_remove_privs` becomes), before writes of
//! any kind, fallocate and copy_file_range; and by a flag of a SETATTR that cuts, which fuser 0.18 does not pass on.

/// The mode without what a write takes from it; `None` where it takes nothing.
pub fn without(mode: u32) -> Option<u32> {
    // A group bit without execution means something else (chmod(2): mandatory locking).
    let set_group = if mode & 0o2010 == 0o2010 { 0o2000 } else { 0 };
    let gone = mode & 0o4000 | set_group;
    (gone != 0).then_some(mode & !gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_write_takes() {
        for (mode, left) in [
            (0o644, None),
            (0o4755, Some(0o755)),
            (0o6775, Some(0o775)),
            (0o2755, Some(0o755)),
            (0o2745, None),
            (0o1777, None),
        ] {
            assert_eq!(without(mode), left, "{mode:o}");
        }
    }
}
