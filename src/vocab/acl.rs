//! POSIX ACLs as they stand in an extended attribute (linux/posix_acl_xattr.h).
//!
//! ```text
//! u32 version = 2, then for each entry: u16 tag, u16 permissions, u32 id; all little-endian
//! ```

use super::{Errno, Result};

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// The entry is for the user with this id.
const USER: u16 = 0x02;
/// The entry is for the group with this id.
const GROUP: u16 = 0x08;

/// The attribute of a directory whose entries begin with that ACL (acl(5)).
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Whether this attribute is an ACL.
pub fn is_acl(attr: &[u8]) -> bool {
    attr.starts_with(b"system.posix_acl_")
}

/// The same ACL with the ids of its users and groups mapped. What is no ACL comes back as it is: the file system judges.
///
/// # Errors
/// `EINVAL` for an id that a map does not know.
pub fn map(acl: &[u8], uid: impl Fn(u32) -> Option<u32>, gid: impl Fn(u32) -> Option<u32>) -> Result<Vec<u8>> {
    let mut mapped = acl.to_vec();
    let Some((version, entries)) = mapped.split_first_chunk_mut::<HEADER>() else { return Ok(mapped) };
    if u32::from_le_bytes(*version) != VERSION {
        return Ok(mapped);
    }
    for entry in entries.chunks_exact_mut(ENTRY) {
        let &mut [t0, t1, _, _, ref mut id @ ..] = entry else { continue };
        let Ok(old) = <[u8; 4]>::try_from(&*id).map(u32::from_le_bytes) else { continue };
        let new = match u16::from_le_bytes([t0, t1]) {
            USER => uid(old),
            GROUP => gid(old),
            _ => continue,
        };
        id.copy_from_slice(&new.ok_or(Errno::INVAL)?.to_le_bytes());
    }
    Ok(mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn ids_of_users_and_groups_only() {
        let given = [(1, 6, u32::MAX), (USER, 7, 5), (4, 5, u32::MAX), (GROUP, 1, 6), (0x10, 7, u32::MAX)];
        let mut want = given;
        (want[1].2, want[3].2) = (105, 206);
        let mapped = map(&acl(&given), |u| Some(u + 100), |g| Some(g + 200));
        assert_eq!(mapped, Ok(acl(&want)));
        assert_eq!(map(&acl(&given), |_| None, Some), Err(Errno::INVAL));
        assert_eq!(map(&acl(&given[..1]), |_| None, |_| None), Ok(acl(&given[..1])));
    }

    #[test]
    fn what_is_no_acl_stays() {
        for bytes in [&b""[..], b"abc", b"\x01\0\0\0\x02\0\x07\0\x05\0\0\0", &acl(&[(USER, 7, 5)])[..10]] {
            assert_eq!(map(bytes, |_| None, |_| None).as_deref(), Ok(bytes));
        }
    }
}
