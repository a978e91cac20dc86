//! SELinux's label of all that is in a mount (`-o context=`), and where it is not taken.

use std::path::Path;

use super::capability;
use super::mount::Options;

/// It is there where SELinux runs.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// The options without a label that the kernel would refuse: it knows the word only where SELinux runs, and takes it
/// from a user namespace for overlay, but not for fuse, whoever passes it there.
pub(super) fn heeded(options: &Options) -> Options {
    let mut options = options.clone();
    if options.context.is_none() || !Path::new(SELINUX).exists() {
        options.context = None;
    } else if !capability::in_first_namespace("self") {
        options.context = None;
        unheeded("the kernel takes none for fuse from a user namespace");
    }
    options
}

pub(super) fn unheeded(why: &str) {
    log::warn!("option context has no effect: {why}; all has the label that SELinux's policy gives fuse");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_selinux_there_is_no_label() {
        if Path::new(SELINUX).exists() {
            return;
        }
        let options = Options { context: Some("a_u:b_r:c_t:s0".to_owned()), read_only: true, ..Options::default() };
        let heeded = heeded(&options);
        assert!(heeded.context.is_none() && heeded.read_only);
    }
}
