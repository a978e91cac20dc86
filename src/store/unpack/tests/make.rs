//! Archives made byte by byte, so that they can be wrong in any way.

use std::io::Write;

use tar::Header;

/// An archive as it grows.
#[derive(Clone, Default)]
pub(crate) struct Make(pub(crate) Vec<u8>);

/// A header of ustar with these fields; name and link are cut to what fits.
pub(crate) fn header(kind: u8, name: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    let n = name.len().min(100);
    old.name[..n].copy_from_slice(&name[..n]);
    old.linkflag = [kind];
    header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header
}

/// One record of a PAX header.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

impl Make {
    pub(crate) fn raw(mut self, mut header: Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(header(b'0', name.as_bytes(), data.len() as u64), data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(header(b'5', name.as_bytes(), 0), b"")
    }

    fn link_of(self, kind: u8, name: &str, target: &str) -> Self {
        let mut header = header(kind, name.as_bytes(), 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(header, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link_of(b'2', name, target)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.link_of(b'1', name, target)
    }

    pub(crate) fn device(self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        let mut header = header(kind, name.as_bytes(), 0);
        let ustar = header.as_ustar_mut().expect("made as ustar");
        ustar.set_device_major(major);
        ustar.set_device_minor(minor);
        self.raw(header, b"")
    }

    /// An extended header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(k, v)| record(k.as_bytes(), v)).collect();
        self.raw(header(b'x', b"PaxHeaders/x", data.len() as u64), &data)
    }

    /// The archive with its end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(data).expect("memory");
    to.finish().expect("memory")
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).expect("memory")
}
