//! The cases: a file per verb.

use crate::case::Case;

macro_rules! verbs {
    ($($verb:ident)*) => {
        $(mod $verb;)*
        /// Every case there is.
        pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
            [$($verb::CASES),*].into_iter().flatten()
        }
    };
}

verbs! {
    lifecycle network lookup create read_write truncate rename link unlink mkdir symlink mknod readdir attr times xattr acl copy_up
    open_unlinked locks mmap fallocate seek copy_range statfs ioctl umask setgid hardlinks redirect metacopy whiteout
    dialect mount umount diff bad_input run host dropin engines real_system real_history public oracle malformed docker odd
    permissions mechanisms plain_upper transport registry bugs packaging images peers image_index store memory
    killed crowd hostile owners limits containers cp load refused attach beside
}
