//! FUSE requests over io_uring(7): linux/fuse.h, `FUSE_IO_URING_CMD_*`, Linux 6.14.
//!
//! A [`Slot`] is a ring of its own with room for one request. The kernel writes the request into the slot's two buffers
//! while the command is with it; a `Slot` gives them out to Rust only while it is not.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use super::buffer::Buffer;

const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// `struct fuse_uring_req_header`: 128 bytes of `fuse_in_header` or `fuse_out_header`, 128 of the operation's own struct,
/// and `struct fuse_uring_ent_in_out`.
const HEADERS: usize = 128 + 128 + 32;
const OP_IN: usize = 128;
const COMMIT_ID: usize = 256 + 8;
const PAYLOAD_SIZE: usize = 256 + 16;

/// The buffer for headers; its address must not depend on where the slot is.
#[repr(C, align(64))]
struct Headers([u8; HEADERS]);

/// Room for one request of one queue.
pub struct Slot {
    ring: IoUring<Entry128, cqueue::Entry>,
    headers: ManuallyDrop<Box<Headers>>,
    payload: ManuallyDrop<Buffer>,
    /// What the kernel reads once, at registration.
    buffers: Box<[libc::iovec; 2]>,
    /// The command is with the kernel.
    away: bool,
}

// SAFETY: the pointers in `buffers` point into `headers` and `payload`, which the slot owns.
unsafe impl Send for Slot {}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("payload", &self.payload.len()).field("away", &self.away).finish()
    }
}

impl Slot {
    /// A slot for requests and replies of `size` bytes behind their headers. It can be sent to the thread that will use
    /// it.
    ///
    /// # Errors
    /// io_uring_setup(2): `EPERM` where it is switched off, `ENOSYS` where there is none, `EINVAL` for an old kernel.
    pub fn new(size: usize) -> io::Result<Self> {
        let mut builder = IoUring::<Entry128, cqueue::Entry>::builder();
        builder.dontfork().setup_single_issuer().setup_defer_taskrun().setup_r_disabled();
        let ring = builder.build(1)?;
        let mut headers = ManuallyDrop::new(Box::new(Headers([0; HEADERS])));
        let mut payload = ManuallyDrop::new(Buffer::new(size)?);
        let buffers = Box::new([
            libc::iovec { iov_base: headers.0.as_mut_ptr().cast(), iov_len: HEADERS },
            libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: size },
        ]);
        Ok(Self { ring, headers, payload, buffers, away: false })
    }

    /// Offers the slot to a queue (one for each CPU) of the connection, from the thread that will use it, and waits for
    /// its first request.
    ///
    /// # Errors
    /// `ENOTCONN` when the connection ends.
    pub fn register(&mut self, device: BorrowedFd<'_>, queue: u16) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()?;
        let offer = opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), REGISTER)
            .cmd(command(queue, 0))
            .addr(Some(self.buffers.as_ptr() as u64))
            .build();
        self.submit(with_len(offer, 2))?;
        self.wait()
    }

    /// Sends the reply: its header as is, and so many bytes of the payload; then waits for the next request.
    ///
    /// # Errors
    /// `ENOTCONN` when the connection ends.
    pub fn commit(&mut self, device: BorrowedFd<'_>, queue: u16, header: &[u8; 16], payload: usize) -> io::Result<()> {
        let id = self.u64_at(COMMIT_ID);
        self.headers.0[..16].copy_from_slice(header);
        self.headers.0[PAYLOAD_SIZE..PAYLOAD_SIZE + 4].copy_from_slice(&(payload as u32).to_ne_bytes());
        let fetch = opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), COMMIT_AND_FETCH);
        self.submit(fetch.cmd(command(queue, id)).build())?;
        self.wait()
    }

    /// The request's `struct fuse_in_header`, the struct of its operation (with what else is in its 128 bytes), how many
    /// bytes of the payload it has, and the payload.
    pub fn request(&mut self) -> (&[u8], &[u8], usize, &mut [u8]) {
        let size = &self.headers.0[PAYLOAD_SIZE..PAYLOAD_SIZE + 4];
        let size = size.try_into().map_or(0, u32::from_ne_bytes) as usize;
        let (header, arg) = self.headers.0[..COMMIT_ID - 8].split_at(OP_IN);
        (header, arg, size.min(self.payload.len()), &mut self.payload)
    }

    /// `n` bytes of payload are about to come or go.
    pub fn expect(&mut self, n: usize) {
        self.payload.expect(n);
    }

    fn u64_at(&self, at: usize) -> u64 {
        self.headers.0[at..at + 8].try_into().map_or(0, u64::from_ne_bytes)
    }

    fn submit(&mut self, command: Entry128) -> io::Result<()> {
        // SAFETY: the buffers that the command names stay where they are until it comes back; see `Drop`.
        let pushed = unsafe { self.ring.submission().push(&command) };
        pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
        self.away = true;
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => continue,
                Err(e) => return Err(e),
            }
            let Some(done) = self.ring.completion().next() else { continue };
            self.away = false;
            let result = done.result();
            return if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Else the kernel may still write into them.
        if !self.away {
            // SAFETY: nothing looks at either any more.
            unsafe {
                ManuallyDrop::drop(&mut self.headers);
                ManuallyDrop::drop(&mut self.payload);
            }
        }
    }
}

/// `struct fuse_uring_cmd_req`: flags, commit id, queue, padding.
fn command(queue: u16, commit_id: u64) -> [u8; 80] {
    let mut cmd = [0; 80];
    cmd[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    cmd[16..18].copy_from_slice(&queue.to_ne_bytes());
    cmd
}

/// Sets `sqe->len`, which io-uring has no setter for.
fn with_len(mut entry: Entry128, len: u32) -> Entry128 {
    const LEN: usize = 24;
    // SAFETY: Entry128 is `repr(C)` over the 128 bytes of an SQE (io_uring(7)), in which `len` is the u32 at 24.
    unsafe { (&raw mut entry).cast::<u8>().add(LEN).cast::<u32>().write(len) };
    entry
}
