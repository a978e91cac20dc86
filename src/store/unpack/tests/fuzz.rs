//! Archives damaged at random: an error or a layer, never a panic, and nothing beside the layer.

use super::hostile::snapshot;
use super::make::{Make, gzip, zstd};
use super::*;
use crate::layer::disk;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// One of everything.
fn seed() -> Vec<u8> {
    let mut sparse = super::make::header(b'S', b"gnu-sparse", 512);
    sparse.as_old_mut().pad[..8].copy_from_slice(b"ustar  \0");
    let gnu = sparse.as_gnu_mut().expect("made as GNU's");
    gnu.set_real_size(4096);
    gnu.sparse[0].set_offset(1024);
    gnu.sparse[0].set_length(512);
    Make::default()
        .dir("./")
        .dir("d/")
        .file("d/file", &[5; 600])
        .symlink("d/link", "../../outside")
        .file("d/link/in", b"in")
        .hard_link("hard", "d/file")
        .file(".wh.gone", b"")
        .file("d/.wh..wh..opq", b"")
        .device(b'6', "pipe", 0, 0)
        .pax(&[("path", b"long/name"), ("mtime", b"-1.5"), ("SCHILY.xattr.user.a", b"b")])
        .file("short", b"x")
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9000")])
        .file("sparse", &[&b"1\n8000\n4\n"[..], &[0; 503], b"data"].concat())
        .pax(&[("GNU.sparse.size", b"90"), ("GNU.sparse.map", b"0,1,50,2")])
        .file("old-sparse", b"abc")
        .raw(sparse, &[0; 512])
        .end()
}

/// Damages a byte, a field or an order of blocks; then, most often, makes the checksums right again.
fn damage(tar: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(tar.len());
        match random.below(6) {
            0 => tar[at] = random.next() as u8,
            1 => tar[at] = b"/.0179\0\xff\n=, "[random.below(12)],
            2 => tar.truncate(at.max(1)),
            3 => {
                let block = at / 512 * 512;
                let copy = tar[block..tar.len().min(block + 512)].to_vec();
                let to = random.below(tar.len()) / 512 * 512;
                tar.splice(to..to, copy);
            }
            4 => {
                let name: &[u8] =
                    [&b"../../outside/x"[..], b"/outside", b"d/link/x", b".wh...", b"a\0b"][random.below(5)];
                let block = at / 512 * 512;
                if tar.len() >= block + 512 {
                    let to = block + [0, 157][random.below(2)];
                    tar[to..to + name.len()].copy_from_slice(name);
                }
            }
            _ => {
                let block = at / 512 * 512;
                if tar.len() >= block + 512 {
                    tar[block + 156] = b"0123456xgLKS7VD"[random.below(15)];
                }
            }
        }
    }
    if random.below(8) > 0 {
        for block in tar.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
    }
}

#[test]
fn damaged_archives() {
    let start = std::env::var("FUZZ_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64));
    println!("FUZZ_SEED={start}");
    let seed = seed();
    whole(&seed, &Options::default());
    let place = tempfile::tempdir().expect("a directory");
    let outside = place.path().join("outside");
    std::fs::create_dir(&outside).expect("made");
    std::fs::write(outside.join("kept"), b"kept").expect("written");
    let layer = place.path().join("layer");
    std::fs::create_dir(&layer).expect("made");
    let before = snapshot(place.path(), &layer);
    let on_disk = Handle::Disk(disk::Object::open(&layer, true).expect("opened"));
    let (mut good, mut bad) = (0, 0);
    for i in 0..500 {
        let mut random = Random(start.wrapping_add(i));
        let mut blob = seed.clone();
        damage(&mut blob, &mut random);
        match random.below(8) {
            0 => blob = gzip(&blob),
            1 => blob = zstd(&blob),
            _ => {}
        }
        if random.below(10) == 0 {
            let at = random.below(blob.len());
            blob[at] ^= 1 << random.below(8);
        }
        let limits = super::super::Limits { bytes: 8 << 20, ..Default::default() };
        let owners = if random.below(2) == 0 { Owners::Real } else { Owners::Stored };
        let options = Options { owners, limits };
        // A panic's test output has the seed; this is the case.
        let r = if i % 10 == 0 {
            let r = unpack(&blob[..], &on_disk, &Options { owners: Owners::Stored, ..options }, &|_| {});
            on_disk.clear().unwrap_or_else(|e| panic!("seed {}: {e}", start.wrapping_add(i)));
            r
        } else {
            into_memory(&blob, &options).0
        };
        match r {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert_eq!(snapshot(place.path(), &layer), before, "FUZZ_SEED={start}");
    // Both ways are taken, or this tests nothing.
    assert!(good > 10 && bad > 100, "{good} good, {bad} bad");
}
