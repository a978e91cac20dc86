//! From a blob to the bytes of its archive, with both digests on the way.
//!
//! A thread reads, decompresses and hashes; the caller takes the bytes from a channel that holds four pieces of 256 KiB.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use oci_spec::image::Digest;

use super::error::{Error, Reason};
use super::{Compression, Limits};
use crate::vocab::digest::Digester;

/// Bytes of one piece, and how many of them wait.
const PIECE: usize = 256 << 10;
const WAITING: usize = 4;
/// What is read of the blob at once.
const BLOB_PIECE: usize = 128 << 10;

/// What is known of a blob once it was read to its end.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) compression: Compression,
    pub(super) blob: Digest,
    pub(super) blob_size: u64,
    pub(super) diff_id: Digest,
    pub(super) tar_size: u64,
}

enum Message {
    Piece(Vec<u8>),
    End(Box<Sums>),
    Failed(Error),
}

/// The archive's bytes as they come.
pub(super) struct Pieces {
    from: Receiver<Message>,
    spent: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    sums: Option<Box<Sums>>,
}

/// Starts to read `blob`, in a thread that ends with `scope`.
pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    blob: impl Read + Send + 'scope,
    limits: &'env Limits,
    progress: &'env (dyn Fn(u64) + Sync),
) -> Pieces {
    let (to, from) = sync_channel(WAITING);
    let (spent, reuse) = sync_channel::<Vec<u8>>(WAITING + 2);
    scope.spawn(move || {
        let last = match pump(blob, limits, progress, &to, &reuse) {
            Ok(Some(sums)) => Message::End(Box::new(sums)),
            // Nobody listens any more: the caller has its error.
            Ok(None) => return,
            Err(e) => Message::Failed(e),
        };
        // A caller that went has its own error.
        drop(to.send(last));
    });
    Pieces { from, spent, piece: Vec::new(), at: 0, sums: None }
}

/// Reads the blob to its end; `None` when the caller is gone.
fn pump(
    blob: impl Read,
    limits: &Limits,
    progress: &dyn Fn(u64),
    to: &SyncSender<Message>,
    reuse: &Receiver<Vec<u8>>,
) -> Result<Option<Sums>, Error> {
    let mut source = Source::open(Counted { blob, digest: Digester::new(), size: 0, failed: None, progress })?;
    let mut digest = Digester::new();
    let mut size = 0;
    loop {
        let mut piece = reuse.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let n = source.fill(&mut piece)?;
        if n == 0 {
            break;
        }
        piece.truncate(n);
        digest.update(&piece);
        size += n as u64;
        let read = source.counted().size;
        if size > limits.ratio_from && size / limits.ratio > read {
            let what = format!("{size} bytes come out of {read}");
            return Err(Error::limit(what, limits.ratio, "times as much as went in"));
        }
        if size > limits.bytes {
            return Err(Error::limit("the archive is too long", limits.bytes, "bytes"));
        }
        if to.send(Message::Piece(piece)).is_err() {
            return Ok(None);
        }
    }
    if size == 0 {
        return Err(Error::malformed("the archive is empty"));
    }
    let compression = source.compression();
    let rest = source.into_counted()?;
    Ok(Some(Sums {
        compression,
        blob: rest.digest.finish(),
        blob_size: rest.size,
        diff_id: digest.finish(),
        tar_size: size,
    }))
}

impl Pieces {
    /// Reads what is left, and tells what is known of all.
    pub(super) fn finish(mut self) -> Result<Sums, Error> {
        while self.next()? {}
        match self.sums {
            Some(sums) => Ok(*sums),
            None => Err(Error::new(Reason::Blob("it was not read to its end".to_owned()))),
        }
    }

    /// What is at hand, at least one byte but at the end.
    pub(super) fn peek(&mut self) -> Result<&[u8], Error> {
        while self.at == self.piece.len() && self.next()? {}
        Ok(&self.piece[self.at..])
    }

    /// The first `n` bytes of what is at hand are done with.
    pub(super) fn consume(&mut self, n: usize) {
        self.at = self.piece.len().min(self.at + n);
    }

    /// Fills `buf`; fewer bytes only at the end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buf.len() {
            let at_hand = self.peek()?;
            if at_hand.is_empty() {
                break;
            }
            let n = at_hand.len().min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&at_hand[..n]);
            self.consume(n);
            done += n;
        }
        Ok(done)
    }

    /// Whether there was another piece.
    fn next(&mut self) -> Result<bool, Error> {
        if self.sums.is_some() {
            self.at = self.piece.len();
            return Ok(false);
        }
        match self.from.recv() {
            Ok(Message::Piece(piece)) => {
                // Where the other side has enough of them, it is dropped.
                drop(self.spent.try_send(std::mem::replace(&mut self.piece, piece)));
                self.at = 0;
                Ok(true)
            }
            Ok(Message::End(sums)) => {
                self.sums = Some(sums);
                self.at = self.piece.len();
                Ok(false)
            }
            Ok(Message::Failed(e)) => Err(e),
            Err(_) => Err(Error::new(Reason::Blob("the thread that read it is gone".to_owned()))),
        }
    }
}

/// A blob that is hashed as it is read.
struct Counted<'a, R> {
    blob: R,
    digest: Digester,
    size: u64,
    /// What went wrong below the decompressor.
    failed: Option<String>,
    progress: &'a dyn Fn(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match self.blob.read(buf) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                self.failed = Some(crate::vocab::why(&e));
                return Err(e);
            }
        };
        self.digest.update(&buf[..n]);
        self.size += n as u64;
        (self.progress)(n as u64);
        Ok(n)
    }
}

/// The blob, after its first bytes, which were looked at.
type Blob<'a, R> = BufReader<io::Chain<Cursor<Vec<u8>>, Counted<'a, R>>>;

enum Source<'a, R: Read> {
    Plain(Blob<'a, R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Blob<'a, R>>>),
    Zstd(zstd::stream::read::Decoder<'a, Blob<'a, R>>),
}

impl<'a, R: Read> Source<'a, R> {
    fn open(mut counted: Counted<'a, R>) -> Result<Self, Error> {
        let mut start = Vec::new();
        let read = counted.by_ref().take(Compression::MAGIC).read_to_end(&mut start);
        read.map_err(|e| Error::new(Reason::Blob(crate::vocab::why(&e))))?;
        let compression = Compression::of(&start);
        let blob = BufReader::with_capacity(BLOB_PIECE, Cursor::new(start).chain(counted));
        Ok(match compression {
            Compression::None => Self::Plain(blob),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(blob))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(blob);
                Self::Zstd(decoder.map_err(|e| Error::new(Reason::Stream("zstd", e.to_string())))?)
            }
        })
    }

    fn compression(&self) -> Compression {
        match self {
            Self::Plain(_) => Compression::None,
            Self::Gzip(_) => Compression::Gzip,
            Self::Zstd(_) => Compression::Zstd,
        }
    }

    fn counted(&self) -> &Counted<'a, R> {
        match self {
            Self::Plain(blob) => blob.get_ref().get_ref().1,
            Self::Gzip(decoder) => decoder.get_ref().get_ref().get_ref().1,
            Self::Zstd(decoder) => decoder.get_ref().get_ref().get_ref().1,
        }
    }

    /// Fills `buf`; fewer bytes only at the end.
    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buf.len() {
            let read = match self {
                Self::Plain(blob) => blob.read(&mut buf[done..]),
                Self::Gzip(decoder) => decoder.read(&mut buf[done..]),
                Self::Zstd(decoder) => decoder.read(&mut buf[done..]),
            };
            match read {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(&e)),
            }
        }
        Ok(done)
    }

    fn failed(&self, e: &io::Error) -> Error {
        Error::new(match (&self.counted().failed, self.compression()) {
            (Some(why), _) => Reason::Blob(why.clone()),
            (None, Compression::None) => Reason::Blob(crate::vocab::why(e)),
            (None, c) => Reason::Stream(c.name(), e.to_string()),
        })
    }

    /// The blob, read to its end: a decompressor may leave something.
    fn into_counted(self) -> Result<Counted<'a, R>, Error> {
        let mut blob = match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        io::copy(&mut blob, &mut io::sink()).map_err(|e| Error::new(Reason::Blob(crate::vocab::why(&e))))?;
        Ok(blob.into_inner().into_inner().1)
    }
}
