//! A file handle in the form that kernel overlayfs stores: in `overlay.origin` and as names in the inode index.
//!
//! Layout (`struct ovl_fb`, fs/overlayfs/overlayfs.h): version 0, magic 0xfb, length of all, flags, handle type,
//! 16 bytes of file system UUID, then the bytes of name_to_handle_at(2).

const MAGIC: u8 = 0xfb;
const HEAD: usize = 21;
const FLAG_BIG_ENDIAN: u8 = 1;

/// A file handle that names one inode of one file system, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle(Vec<u8>);

impl FileHandle {
    /// Wraps the answer of name_to_handle_at(2) for a file system with this UUID.
    /// `None` where the handle is too long for the format (255 bytes in all).
    pub fn new(uuid: [u8; 16], kind: u8, bytes: &[u8]) -> Option<Self> {
        let len = u8::try_from(HEAD + bytes.len()).ok()?;
        let flags = if cfg!(target_endian = "big") { FLAG_BIG_ENDIAN } else { 0 };
        let mut v = Vec::with_capacity(usize::from(len));
        v.extend_from_slice(&[0, MAGIC, len, flags, kind]);
        v.extend_from_slice(&uuid);
        v.extend_from_slice(bytes);
        Some(Self(v))
    }

    /// Whether these bytes have the form of one.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.len() >= HEAD && bytes[..2] == [0, MAGIC] && usize::from(bytes[2]) == bytes.len()
    }

    /// What `overlay.origin` holds.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The bytes stored in `overlay.origin`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name of its entry in the inode index: lower-case hex.
    pub fn index_name(&self) -> Vec<u8> {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.0.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_layout() {
        let h = FileHandle::new([7; 16], 1, &[1, 2, 3, 4]).expect("short");
        assert_eq!(h.as_bytes()[..5], [0, 0xfb, 25, 0, 1]);
        assert!(
            FileHandle::is_one(h.as_bytes()) && !FileHandle::is_one(&h.as_bytes()[..24]) && !FileHandle::is_one(b"")
        );
        assert_eq!(h.as_bytes().len(), 25);
        assert!(h.index_name().starts_with(b"00fb1900010707"));
        assert_eq!(FileHandle::new([0; 16], 1, &[0; 250]), None);
    }
}
