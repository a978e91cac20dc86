//! malloc_trim(3).

/// Gives memory that was freed back to the kernel: [malloc_trim(3)](https://man7.org/linux/man-pages/man3/malloc_trim.3.html).
/// The allocator keeps it otherwise, between the little that is still in use. Nothing where there is no glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and changes nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
