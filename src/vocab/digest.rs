//! Digests: what content is named by, and what it is checked with. SHA-256, the one algorithm that every registry and
//! tool writes (OCI image specification, descriptor.md, "Digests").

use oci_spec::image::{Digest, Sha256Digest};
use sha2::{Digest as _, Sha256};

/// Takes bytes as they come and tells their digest.
#[derive(Clone, Debug, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that came.
    pub fn finish(self) -> Digest {
        let mut hex = String::with_capacity(64);
        for byte in self.0.finalize() {
            for nibble in [byte >> 4, byte & 15] {
                hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        from_hex(&hex)
    }
}

impl std::io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The digest of some bytes.
pub fn of(bytes: &[u8]) -> Digest {
    let mut digester = Digester::new();
    digester.update(bytes);
    digester.finish()
}

/// The first 12 hex digits, as people write ids.
pub fn short(digest: &Digest) -> &str {
    digest.digest().get(..12).unwrap_or(digest.digest())
}

/// 64 hex digits of ours, as a digest.
#[expect(clippy::expect_used, reason = "64 lower-case hex digits are a digest, and the callers make no others")]
fn from_hex(hex: &str) -> Digest {
    hex.parse::<Sha256Digest>().expect("64 hex digits").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_a_little_have_the_digests_everybody_knows() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of(b"").as_ref(), empty);
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut parts = Digester::new();
        parts.update(b"a");
        parts.update(b"bc");
        let parts = parts.finish();
        assert_eq!(parts.as_ref(), abc);
        assert_eq!(short(&parts), "ba7816bf8f01");
    }
}
