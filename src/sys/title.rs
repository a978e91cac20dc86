//! What a process is called in /proc: `comm` and `cmdline`, proc(5).

use rustix::io::Errno;

/// Calls this process `title`, and nothing of its arguments is shown any more: prctl(2) `PR_SET_NAME`, and what
/// setproctitle(3) does elsewhere. <https://man7.org/linux/man-pages/man5/proc_pid_cmdline.5.html>
///
/// # Errors
/// `EDEADLK` if the process has more than one thread, which may be reading its arguments; `EIO` where /proc/self/stat does
/// not tell where they are.
pub fn set_title(title: &std::ffi::CStr) -> Result<(), Errno> {
    super::process::alone()?;
    rustix::thread::set_name(title)?;
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let (start, end) = arguments(&stat).ok_or(Errno::IO)?;
    // The last byte is no zero: that tells the kernel that the first string is all there is.
    let bytes = title.to_bytes_with_nul().iter().copied().chain(std::iter::repeat(0));
    for (at, byte) in (start..end - 1).zip(bytes) {
        // SAFETY: the kernel says that the strings of this program's arguments lie there, in its first stack, which is never
        // unmapped. There is no other thread, and whoever reads them later finds strings that end, if not where they did:
        // behind the arguments come the environment and the program's name.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(byte) };
    }
    // SAFETY: as above.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(end - 1).write_volatile(b'.') };
    Ok(())
}

/// Where /proc/PID/stat says that the arguments are, if there is room for any.
fn arguments(stat: &str) -> Option<(usize, usize)> {
    // The name before may have spaces in it. Fields are counted from 1 with the process id; the state is the third.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(48 - 3);
    let (start, end): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (start > 0 && end > start).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_where_arguments_are() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (start, end) = arguments(&stat).unwrap();
        assert_eq!(end - start, std::fs::read("/proc/self/cmdline").unwrap().len());
        assert_eq!(arguments("1 (a) b) S 1"), None);
    }
}
