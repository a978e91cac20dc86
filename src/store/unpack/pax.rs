//! The records of a PAX extended header (POSIX, pax, "pax Extended Header"): `LEN KEY=VALUE\n`, `LEN` of the whole.

use super::error::Error;
use super::sparse::Segment;
use crate::vocab::Timestamp;

/// Extended attributes, as star, GNU tar, Go and libarchive write them.
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";

/// What the records say of the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) atime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    sparse_major: Option<i64>,
    sparse_minor: Option<i64>,
    sparse_size: Option<i64>,
    sparse_real_size: Option<i64>,
    /// Version 0.0 as pairs of records, 0.1 as one list: offset, length, ..
    sparse_numbers: Vec<u64>,
}

/// Where the map of a file with holes is.
pub(super) enum Sparse {
    /// Here.
    Map(Vec<Segment>),
    /// At the start of the data.
    InData,
}

/// Reads the records. The last of each key counts; an empty value takes it back.
pub(super) fn parse(mut records: &[u8]) -> Result<Pax, Error> {
    let mut pax = Pax::default();
    while !records.is_empty() {
        let (record, rest) = split(records).ok_or_else(|| Error::malformed("its extended header is damaged"))?;
        records = rest;
        let Some(equals) = record.iter().position(|b| *b == b'=') else {
            return Err(Error::malformed("its extended header has a record without a value"));
        };
        pax.record(&record[..equals], &record[equals + 1..])?;
    }
    Ok(pax)
}

/// The first record, without its length and newline, and what follows.
fn split(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = records.iter().take(20).position(|b| *b == b' ')?;
    let len: usize = digits(&records[..space])?.try_into().ok()?;
    if len <= space + 1 || len > records.len() || records[len - 1] != b'\n' {
        return None;
    }
    Some((&records[space + 1..len - 1], &records[len..]))
}

/// Decimal digits and nothing else.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn number(key: &[u8], value: &[u8]) -> Result<Option<i64>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    digits(value).and_then(|n| i64::try_from(n).ok()).map(Some).ok_or_else(|| bad(key, value))
}

fn bad(key: &[u8], value: &[u8]) -> Error {
    let value = &value[..value.len().min(64)];
    Error::malformed(format!("its extended header has {}=\"{}\"", key.escape_ascii(), value.escape_ascii()))
}

/// `[-]SECONDS[.FRACTION]`; digits after the ninth are cut off.
pub(super) fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let sec = i64::try_from(digits(parts.next()?)?).ok()?;
    let mut nsec = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for i in 0..9 {
            nsec = nsec * 10 + u32::from(fraction.get(i).map_or(0, |b| b - b'0'));
        }
    }
    Some(match (negative, nsec) {
        (false, _) => Timestamp { sec, nsec },
        (true, 0) => Timestamp { sec: -sec, nsec },
        (true, _) => Timestamp { sec: -sec - 1, nsec: 1_000_000_000 - nsec },
    })
}

impl Pax {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let some = |value: &[u8]| Some(value.to_vec()).filter(|v| !v.is_empty());
        let moment = |value: &[u8]| match value {
            b"" => Ok(None),
            _ => time(value).map(Some).ok_or_else(|| bad(key, value)),
        };
        match key {
            b"path" => self.path = some(value),
            b"linkpath" => self.link = some(value),
            b"size" => self.size = number(key, value)?,
            b"uid" => self.uid = number(key, value)?,
            b"gid" => self.gid = number(key, value)?,
            b"mtime" => self.mtime = moment(value)?,
            b"atime" => self.atime = moment(value)?,
            b"GNU.sparse.name" => self.sparse_name = some(value),
            b"GNU.sparse.major" => self.sparse_major = number(key, value)?,
            b"GNU.sparse.minor" => self.sparse_minor = number(key, value)?,
            b"GNU.sparse.size" => self.sparse_size = number(key, value)?,
            b"GNU.sparse.realsize" => self.sparse_real_size = number(key, value)?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let is_offset = key.ends_with(b"offset");
                if is_offset != self.sparse_numbers.len().is_multiple_of(2) {
                    return Err(bad(key, value));
                }
                self.sparse_numbers.push(digits(value).ok_or_else(|| bad(key, value))?);
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|b| *b == b',').filter(|n| !n.is_empty());
                let numbers: Option<Vec<u64>> = numbers.map(digits).collect();
                self.sparse_numbers = numbers.ok_or_else(|| bad(key, value))?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    let name = decode(name);
                    self.xattrs.retain(|(other, _)| *other != name);
                    self.xattrs.push((name, value.to_vec()));
                }
                // All else is about who and when, and of no matter to a layer.
            }
        }
        Ok(())
    }

    /// Whether it is a file with holes, where its map is, and how long it is with them.
    pub(super) fn sparse(&self) -> Result<Option<(Sparse, i64)>, Error> {
        let version = (self.sparse_major.unwrap_or(0), self.sparse_minor.unwrap_or(0));
        let size = self.sparse_real_size.or(self.sparse_size);
        match (version, size) {
            ((0, 0), None) if self.sparse_numbers.is_empty() => Ok(None),
            (_, None) => Err(Error::malformed("it is sparse, and its size is missing")),
            ((0, _), Some(size)) => {
                if !self.sparse_numbers.len().is_multiple_of(2) {
                    return Err(Error::malformed("the map of its holes is damaged"));
                }
                let pairs = self.sparse_numbers.chunks_exact(2);
                Ok(Some((Sparse::Map(pairs.map(|p| Segment { at: p[0], len: p[1] }).collect()), size)))
            }
            ((1, 0), Some(size)) => Ok(Some((Sparse::InData, size))),
            ((major, minor), _) => Err(Error::malformed(format!("it is sparse in an unknown format, {major}.{minor}"))),
        }
    }
}

/// A record's key can't hold '='; GNU tar writes it so.
const EQUALS: &[u8] = b"%3D";

/// The name of an attribute as it is in a key.
pub(crate) fn encode_key(name: &[u8]) -> Vec<u8> {
    name.split(|b| *b == b'=').collect::<Vec<_>>().join(EQUALS)
}

fn decode(key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((first, more)) = rest.split_first() {
        if let Some(more) = rest.strip_prefix(EQUALS) {
            name.push(b'=');
            rest = more;
        } else {
            name.push(*first);
            rest = more;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_epoch() {
        for (text, want) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.", Some((1, 0))),
            ("12.0000000019", Some((12, 1))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.1", Some((-1, 900_000_000))),
            ("9223372036854775807", Some((i64::MAX, 0))),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("1.x", None),
            ("--1", None),
            (" 1", None),
        ] {
            assert_eq!(time(text.as_bytes()), want.map(|(sec, nsec)| Timestamp { sec, nsec }), "{text:?}");
        }
    }

    #[test]
    fn records_may_hold_anything() {
        let pax = parse(b"28 SCHILY.xattr.user.a=1\n2\0\n8 uid=7\n14 path=a\nb=c\n9 path=x\n7 uid=\n").unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"1\n2\0".to_vec())]);
        assert_eq!((pax.path.as_deref(), pax.uid), (Some(&b"x"[..]), None));
        assert_eq!(decode(&encode_key(b"user.a=b%=")), b"user.a=b%=");
    }

    #[test]
    fn damaged_records() {
        for bad in [
            &b"8 uid=7"[..],
            b"9 uid=7\n",
            b"7 uid=7\n",
            b"0 uid=7\n",
            b"2 \n",
            b"6 uid7\n",
            b"-8 uid=7\n",
            b"+8 uid=7\n",
            b" 8 uid=7\n",
            b"uid=7\n",
            b"99999999999999999999999 uid=7\n",
            b"18446744073709551615 uid=7\n",
            b"8 uid=x\n",
            b"11 size=-1\n",
            b"29 size=99999999999999999999\n",
            b"11 mtime=x\n",
            b"25 GNU.sparse.numbytes=1\n",
            b"23 GNU.sparse.map=0,-1\n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
