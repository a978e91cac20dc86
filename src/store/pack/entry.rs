//! One path after the other, as entries of an archive.

use std::collections::HashMap;
use std::io::Write;

use tar::Header;

use super::Packed;
use super::sink::Sink;
use crate::overlay::{Attr, Overlay, Said, Unread};
use crate::store::unpack::{Segment, XATTR, encode_key, is_private};
use crate::store::{Error, Result};
use crate::vocab::dialect::{AUFS_OPAQUE, AUFS_PREFIX, aufs_whiteout};
use crate::vocab::{Errno, Kind, Timestamp};

const BLOCK: usize = 512;
const PIECE: usize = 256 << 10;
/// Holes that make a file sparse in the archive; less is not worth a map.
const HOLES: u64 = 64 << 10;
/// What the octal fields of a header can say at most.
const MAX_ID: u64 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// An archive as it grows.
pub(super) struct Entries<'a, W: Write> {
    view: &'a Overlay,
    to: Sink<W>,
    entries: u64,
    /// By inode, the first name of what has several.
    links: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
}

/// What goes into one entry's headers.
struct Head<'a> {
    path: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    /// Bytes that are stored.
    size: u64,
    rdev: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a file with holes: its own size, and name.
    sparse: Option<(u64, &'a [u8])>,
}

impl<'a, W: Write> Entries<'a, W> {
    pub(super) fn new(view: &'a Overlay, to: Sink<W>) -> Self {
        Self { view, to, entries: 0, links: HashMap::new(), buffer: vec![0; PIECE] }
    }

    /// Adds what is said of a path.
    pub(super) fn add(&mut self, path: &[u8], said: Said<'_>) -> Result<()> {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if name.starts_with(AUFS_PREFIX) {
            let shown = String::from_utf8_lossy(path);
            let error = Error::bad(format_args!(
                "/{shown}: in a layer, a name that begins with .wh. says that something is gone"
            ));
            return Err(error.with_hint("rename it"));
        }
        let above = &path[..path.len() - name.len()];
        match said {
            Said::Gone => self.mark([above, &aufs_whiteout(name)].concat()),
            Said::Opaque => self.mark([path, b"/", AUFS_OPAQUE].concat()),
            Said::Here(attr) => self.object(path, attr),
        }
    }

    /// An empty file that means something else.
    fn mark(&mut self, path: Vec<u8>) -> Result<()> {
        self.head(&Head {
            path,
            kind: b'0',
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: 0,
            rdev: 0,
            xattrs: Vec::new(),
            sparse: None,
        })
    }

    fn object(&mut self, path: &[u8], attr: &Attr) -> Result<()> {
        let stat = &attr.stat;
        let fail = |errno| Error::from(Unread { path: path.to_vec(), errno });
        let kind = match stat.kind {
            Kind::Socket => {
                log::info!("/{}: a socket is left out", String::from_utf8_lossy(path));
                return Ok(());
            }
            Kind::File => b'0',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
        };
        let mut head = Head {
            path: if kind == b'5' { [if path.is_empty() { b"." } else { path }, b"/"].concat() } else { path.to_vec() },
            kind,
            link: Vec::new(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            size: 0,
            rdev: stat.rdev,
            xattrs: Vec::new(),
            sparse: None,
        };
        if kind != b'5' && stat.nlink > 1 {
            if let Some(first) = self.links.get(&attr.ino) {
                head.kind = b'1';
                head.link.clone_from(first);
                return self.head(&head);
            }
            self.links.insert(attr.ino, path.to_vec());
        }
        head.xattrs = self.xattrs(attr.ino).map_err(fail)?;
        match kind {
            b'0' => self.file(head, path, attr),
            b'2' => {
                head.link = self.view.readlink(attr.ino).map_err(fail)?;
                self.head(&head)
            }
            _ => self.head(&head),
        }
    }

    /// The attributes that are an image's, sorted.
    fn xattrs(&self, ino: u64) -> std::result::Result<Vec<(Vec<u8>, Vec<u8>)>, Errno> {
        let mut names = self.view.listxattr(ino)?;
        names.retain(|name| !is_private(name));
        names.sort();
        let mut all = Vec::new();
        for name in names {
            match self.view.getxattr(ino, &name) {
                Ok(value) => all.push((name, value)),
                // It went meanwhile.
                Err(Errno::NODATA) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    fn file(&mut self, mut head: Head<'a>, path: &[u8], attr: &Attr) -> Result<()> {
        let size = attr.stat.size;
        let fail = |errno| Error::from(Unread { path: path.to_vec(), errno });
        let mut map = self.segments(attr.ino, size).map_err(fail)?;
        let stored: u64 = map.iter().map(|s| s.len).sum();
        if size - stored < HOLES {
            head.size = size;
            self.head(&head)?;
            self.data(attr.ino, Segment { at: 0, len: size }, path)?;
        } else {
            if map.last().is_none_or(|last| last.at + last.len < size) {
                // What makes GNU tar set the size.
                map.push(Segment { at: size, len: 0 });
            }
            let lines = map_lines(&map);
            head.size = lines.len() as u64 + stored;
            let name = std::mem::take(&mut head.path);
            let head = Head { path: [b"GNUSparseFile.0/", &name[..]].concat(), sparse: Some((size, &name)), ..head };
            self.head(&head)?;
            self.to.write(&lines)?;
            for segment in map {
                self.data(attr.ino, segment, path)?;
            }
        }
        self.pad()
    }

    /// Where a file has data.
    fn segments(&self, ino: u64, size: u64) -> std::result::Result<Vec<Segment>, Errno> {
        let whole = |size| if size == 0 { Vec::new() } else { vec![Segment { at: 0, len: size }] };
        let mut all: Vec<Segment> = Vec::new();
        let mut at = 0;
        while at < size {
            let start = match self.view.seek(ino, at, libc::SEEK_DATA) {
                Ok(start) => start.min(size),
                // Nothing but a hole to the end.
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(whole(size)),
                Err(e) => return Err(e),
            };
            if start == size {
                break;
            }
            let end = self.view.seek(ino, start, libc::SEEK_HOLE)?.clamp(start, size);
            if end == start {
                return Ok(whole(size));
            }
            // GNU tar reads each from a block of its own.
            let block = BLOCK as u64;
            let (start, stop) = (start / block * block, end.next_multiple_of(block).min(size));
            match all.last_mut() {
                Some(last) if last.at + last.len >= start => last.len = stop - last.at,
                _ => all.push(Segment { at: start, len: stop - start }),
            }
            at = end;
        }
        Ok(all)
    }

    fn data(&mut self, ino: u64, segment: Segment, path: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < segment.len {
            let want = usize::try_from(segment.len - done).unwrap_or(PIECE).min(PIECE);
            let read = self.view.read(ino, segment.at + done, &mut self.buffer[..want]);
            let n = read.map_err(|errno| Error::from(Unread { path: path.to_vec(), errno }))?;
            if n == 0 {
                let shown = String::from_utf8_lossy(path);
                return Err(Error::bad(format_args!("/{shown}: it became shorter while it was read")));
            }
            self.to.write(&self.buffer[..n])?;
            done += n as u64;
        }
        Ok(())
    }

    /// Writes an entry's headers.
    fn head(&mut self, head: &Head<'_>) -> Result<()> {
        self.entries += 1;
        let records = records(head);
        if !records.is_empty() {
            let mut header = header(b"PaxHeaders/x", b'x', records.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            self.to.write(header.as_bytes())?;
            self.to.write(&records)?;
            self.pad()?;
        }
        let mut header = header(&head.path, head.kind, head.size);
        let old = header.as_old_mut();
        let n = head.link.len().min(old.linkname.len());
        old.linkname[..n].copy_from_slice(&head.link[..n]);
        header.set_mode(head.mode);
        header.set_uid(fits(head.uid.into(), MAX_ID));
        header.set_gid(fits(head.gid.into(), MAX_ID));
        header.set_mtime(u64::try_from(head.mtime.sec).map_or(0, |sec| fits(sec, MAX_SIZE)));
        if matches!(head.kind, b'3' | b'4')
            && let Some(ustar) = header.as_ustar_mut()
        {
            ustar.set_device_major(libc::major(head.rdev));
            ustar.set_device_minor(libc::minor(head.rdev));
        }
        header.set_cksum();
        self.to.write(header.as_bytes())
    }

    /// Fills the last block.
    fn pad(&mut self) -> Result<()> {
        let over = self.to.size() % BLOCK as u64;
        if over == 0 { Ok(()) } else { self.to.write(&[0; BLOCK][over as usize..]) }
    }

    /// The archive's end: two blank blocks.
    pub(super) fn finish(mut self) -> Result<Packed> {
        self.to.write(&[0; 2 * BLOCK])?;
        self.to.finish(self.entries)
    }
}

fn header(path: &[u8], kind: u8, size: u64) -> Header {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    let n = path.len().min(old.name.len());
    old.name[..n].copy_from_slice(&path[..n]);
    old.linkflag = [kind];
    header.set_size(fits(size, MAX_SIZE));
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The number, or zero where a record tells it.
fn fits(number: u64, most: u64) -> u64 {
    if number <= most { number } else { 0 }
}

/// What does not fit the header.
fn records(head: &Head<'_>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| record(&mut all, key, value);
    if let Some((size, name)) = head.sparse {
        add(b"GNU.sparse.major", b"1");
        add(b"GNU.sparse.minor", b"0");
        add(b"GNU.sparse.name", name);
        add(b"GNU.sparse.realsize", size.to_string().as_bytes());
    } else if head.path.len() > 100 {
        add(b"path", &head.path);
    }
    if head.link.len() > 100 {
        add(b"linkpath", &head.link);
    }
    if head.size > MAX_SIZE {
        add(b"size", head.size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], head.uid), (b"gid", head.gid)] {
        if u64::from(id) > MAX_ID {
            add(key, id.to_string().as_bytes());
        }
    }
    let Timestamp { sec, nsec } = head.mtime;
    if nsec != 0 || u64::try_from(sec).is_ok_and(|s| s > MAX_SIZE) || sec < 0 {
        add(b"mtime", time(head.mtime).as_bytes());
    }
    for (name, value) in &head.xattrs {
        add(&[XATTR, &encode_key(name)].concat(), value);
    }
    all
}

/// `[-]SECONDS[.FRACTION]`.
fn time(Timestamp { sec, nsec }: Timestamp) -> String {
    let (sign, sec, nsec) = match (sec < 0, nsec) {
        (false, _) | (true, 0) => ("", i128::from(sec), nsec),
        (true, _) => ("-", -i128::from(sec) - 1, 1_000_000_000 - nsec),
    };
    match nsec {
        0 => format!("{sign}{sec}"),
        _ => format!("{sign}{sec}.{nsec:09}").trim_end_matches('0').to_owned(),
    }
}

/// `LEN KEY=VALUE\n`, where `LEN` counts itself.
fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    to.extend_from_slice(len.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        to.extend_from_slice(part);
    }
}

/// The map of a file with holes: the number of segments, then offset and length of each, in whole blocks.
fn map_lines(map: &[Segment]) -> Vec<u8> {
    let mut lines = format!("{}\n", map.len());
    for segment in map {
        lines.push_str(&format!("{}\n{}\n", segment.at, segment.len));
    }
    let mut lines = lines.into_bytes();
    lines.resize(lines.len().next_multiple_of(BLOCK), 0);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for (sec, nsec, text) in [
            (0, 0, "0"),
            (100, 0, "100"),
            (1, 500_000_000, "1.5"),
            (-1, 0, "-1"),
            (-2, 750_000_000, "-1.25"),
            (-1, 900_000_000, "-0.1"),
            (12, 1, "12.000000001"),
        ] {
            assert_eq!(time(Timestamp { sec, nsec }), text);
        }
    }
}
