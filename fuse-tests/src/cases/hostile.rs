//! Archives whose makers mean no good, through the binary: each is refused in a line that names blob and entry, nothing
//! outside the store is touched, nothing is left in it. `src/store/LAYOUT.md` lists which test holds what.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::bad_input::is_clear;
use super::images::{nothing_left, onlay, says};
use super::run::ALL;
use crate::case::User;
use crate::ctx::{Ctx, Out};
use crate::manifest::{Manifest, What};
use crate::on_disk::{OnDisk, sha256};
use crate::tree::{Tree, cases, holds, same};

cases!("hostile":
    archives.onlay().by(ALL).slow(300), device_nodes.onlay().by(ALL), a_blob_under_another_diff_id.onlay().by(ALL),
    a_huge_file_in_little_memory.onlay().by(ALL).slow(300), a_million_entries.onlay().by(&[User::Root]).slow(300),
);

/// An archive made byte by byte, so that it can be wrong in any way.
#[derive(Clone, Default)]
struct Tar(Vec<u8>);

impl Tar {
    /// An entry of ustar whose header says `size`, whatever the data is.
    fn entry(self, kind: u8, name: &str, link: &str, size: u64, data: &[u8]) -> Self {
        self.put([0, 0], kind, name, link, size, data)
    }

    /// One entry of somebody's, without data.
    fn owned(kind: u8, name: &str, owners: [u64; 2]) -> Self {
        Self::default().put(owners, kind, name, "", 0, b"")
    }

    fn put(mut self, [uid, gid]: [u64; 2], kind: u8, name: &str, link: &str, size: u64, data: &[u8]) -> Self {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        // Mode, owner, group; each ends in a zero byte.
        for (at, number) in [(100, 0o644), (108, uid), (116, gid)] {
            put(at, format!("{number:07o}").as_bytes());
        }
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000001\0        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        // Devices 1:3.
        put(329, b"0000001");
        put(337, b"0000003");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(b'0', name, "", 3, b"new")
    }

    fn link(self, kind: u8, name: &str, to: &str) -> Self {
        self.entry(kind, name, to, 0, b"")
    }

    /// A record of an extended header for the next entry.
    fn pax(self, key: &str, value: &str) -> Self {
        // Shorter than 100 bytes.
        let rest = key.len() + value.len() + 3;
        let len = if rest + 2 < 100 { rest + 2 } else { rest + 3 };
        let record = format!("{len} {key}={value}\n");
        self.entry(b'x', "PaxHeaders/x", "", record.len() as u64, record.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// 10 GiB of zeros behind these bytes, in some hundred KiB: a zstd frame whose blocks are one byte, repeated (RFC 8878).
fn bomb(start: &[u8]) -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    let block = |kind: u32, size: u32, last: u32| (size << 3 | kind << 1 | last).to_le_bytes()[..3].to_vec();
    // No content size, a window of 128 KiB.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    out.extend(block(0, start.len() as u32, 0));
    out.extend(start);
    let blocks = (10_u64 << 30) / u64::from(BLOCK);
    for n in 0..blocks {
        out.extend(block(1, BLOCK, u32::from(n + 1 == blocks)));
        out.push(0);
    }
    out
}

/// An OCI image layout of one layer, which says it has this diff-id.
fn layout(at: &Tree, layer: &[u8], diff_id: &str) -> Result<()> {
    let blob = |kind: &str, bytes: &[u8]| -> Result<serde_json::Value> {
        at.file(&format!("blobs/sha256/{}", sha256(bytes)), bytes)?;
        let kind = format!("application/vnd.oci.image.{kind}");
        Ok(json!({"mediaType": kind, "size": bytes.len(), "digest": format!("sha256:{}", sha256(bytes))}))
    };
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]}});
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes())?, "layers": [blob("layer.v1.tar", layer)?]});
    let mut entry = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "hostile"});
    at.file("index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string())?;
    at.file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn archives(cx: &mut Ctx) -> Result<()> {
    cx.dir.file("outside/kept", "kept")?.file("outside/other", "other")?;
    let before = Manifest::of(&cx.dir.p("outside"), What::DISK)?;
    // From where a layer is unpacked: store/tmp/dir-X/diff.
    let (up, abs) = ("../../../../outside", text(&cx.dir.p("outside")));
    let t = Tar::default;
    let kept = |at: &str| format!("{at}/kept");
    let bad: Vec<(&str, Vec<u8>, String)> = vec![
        ("climbs", t().file(&kept(up)).end(), kept(up)),
        ("climbs later", t().file(&format!("a/../{}", kept(up))).end(), "a/../..".to_owned()),
        ("absolute", t().file(&kept(&abs)).end(), kept(&abs)),
        ("absolute by PAX", t().pax("path", &kept(&abs)).file("x").end(), kept(&abs)),
        ("a hard link out", t().link(b'1', "h", &kept(up)).end(), "\"h\"".to_owned()),
        ("an absolute hard link", t().link(b'1', "h", &kept(&abs)).end(), "\"h\"".to_owned()),
        ("a hard link by a link", t().link(b'2', "a", up).link(b'1', "h", "a/kept").end(), "\"h\"".to_owned()),
        ("a whiteout out", t().file(&format!("{up}/.wh.kept")).end(), format!("{up}/.wh.kept")),
        ("two sizes", t().pax("size", "512").entry(b'0', "sized", "", 3, b"new").end(), "sized".to_owned()),
        ("too large a size", t().entry(b'0', "sized", "", 1 << 32, b"new").end(), "sized".to_owned()),
        ("cut", t().entry(b'0', "cut", "", 9000, &[1; 9000]).0[..4000].to_vec(), "cut".to_owned()),
        ("a bomb", bomb(&t().entry(b'0', "zeros", "", (8 << 30) - 1, b"").0), "zeros".to_owned()),
    ];
    for (what, archive, entry) in &bad {
        let file = cx.dir.p("bad.tar");
        fs::write(&file, archive)?;
        let dir = Tree(cx.dir.p("layout"));
        layout(&dir, archive, &"ab".repeat(32))?;
        let blob = format!("blob sha256:{}", sha256(archive));
        for (args, names) in [
            (["import", "-q", &text(&file), "hostile"].as_slice(), text(&file)),
            (["load", "-q", "-i", &text(&dir.0)].as_slice(), blob),
        ] {
            let out = onlay(cx, args)?;
            is_clear(&out, entry).and_then(|()| is_clear(&out, &names)).map_err(|e| e.context(format!("{what}: {args:?}")))?;
            same!((*what, says(cx, &["images", "-q"])?), (*what, String::new()));
            nothing_left(cx).map_err(|e| e.context(*what))?;
            before.check(&Manifest::of(&cx.dir.p("outside"), What::DISK)?, what)?;
        }
        fs::remove_dir_all(&dir.0)?;
    }
    // Links are followed, with the layer as the root.
    let link = |to| t().link(b'2', "a", to);
    let tame = [
        ("by a link", link(up).file("a/kept")),
        ("by an absolute link", link(&abs).file("a/kept")),
        ("a directory by a link", link(up).link(b'5', "a/new/", "")),
        ("a whiteout by a link", link(up).file("a/.wh.kept")),
        ("opaque by a link", link(up).file("a/.wh..wh..opq")),
        ("a device by a link", link(up).link(b'3', "a/null", "")),
    ];
    for (what, archive) in tame {
        let file = cx.dir.p("tame.tar");
        fs::write(&file, archive.end())?;
        says(cx, &["import", "-q", &text(&file), "tame"]).map_err(|e| e.context(what))?;
        let mut store = OnDisk::new(Tree(cx.dir.p("store")));
        same!((what, store.images()?.len()), (what, 1));
        says(cx, &["gc"])?;
        store.nothing_else()?;
        before.check(&Manifest::of(&cx.dir.p("outside"), What::DISK)?, what)?;
        says(cx, &["rmi", "tame"])?;
    }
    nothing_left(cx)
}

/// A million of them, by an honest ratio: the one that is too much is named.
fn a_million_entries(cx: &mut Ctx) -> Result<()> {
    let mut gzip = Command::new("gzip").arg("-1").stdin(Stdio::piped()).stdout(fs::File::create(cx.dir.p("many.tar.gz"))?).spawn()?;
    let mut into = BufWriter::with_capacity(1 << 20, gzip.stdin.take().context("stdin")?);
    let mut dice = 1_u64;
    for n in 0..1_000_000 {
        // Owners that do not compress: otherwise it would be refused as a bomb.
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = if n + 1 == 1_000_000 { "last/" } else { "one/" };
        into.write_all(&Tar::owned(b'5', name, [dice >> 46, dice >> 28 & 0x3_ffff]).0)?;
    }
    into.write_all(&[0; 1024])?;
    drop(into.into_inner()?);
    holds!(gzip.wait()?.success());
    let out = onlay(cx, &["import", "-q", &text(&cx.dir.p("many.tar.gz")), "many"])?;
    is_clear(&out, "\"last/\": it is one entry too many")?;
    nothing_left(cx)
}

/// Devices are kept by who may make them, and left out by others: no way to the machine's by who could not make one before.
fn device_nodes(cx: &mut Ctx) -> Result<()> {
    let tar = Tar::default().link(b'3', "null", "").link(b'4', "disk", "").file("file").end();
    fs::write(cx.dir.p("devices.tar"), tar)?;
    let told = onlay(cx, &["import", "-q", &text(&cx.dir.p("devices.tar")), "devices"])?.ok()?.stderr;
    // Who has a range but may make none is told, by the first one; without a range they are remembered.
    let left_out = cx.user == User::Ordinary;
    same!(told.lines().filter(|l| l.contains("warning: ") && l.contains("device null left out")).count(), usize::from(left_out));
    let (saved, other) = (text(&cx.dir.p("devices.saved")), text(&cx.dir.p("other")));
    says(cx, &["save", "-q", "-o", &saved, "devices"])?;
    let told = cx.onlay(&["--root", &other, "load", "-q", "-i", &saved])?.ok()?.stderr;
    same!((told.contains("device null left out"), told.lines().count()), (left_out, usize::from(left_out)));
    let found = Out::of(Command::new("find").arg(cx.dir.p("store/layers")).args(["-type", "c", "-o", "-type", "b"]))?.ok()?;
    same!(found.stdout.lines().count(), if cx.user == User::Root { 2 } else { 0 });
    // Nobody else comes near: the store is its owner's.
    same!(Tree(cx.dir.p("store")).bits("")? & 0o7777, 0o700);
    Ok(())
}

/// A layer that is here, and a blob that says it is that, and is another.
fn a_blob_under_another_diff_id(cx: &mut Ctx) -> Result<()> {
    let (good, other) = (Tar::default().file("good").end(), Tar::default().file("other").end());
    let dir = Tree(cx.dir.p("good"));
    layout(&dir, &good, &sha256(&good))?;
    says(cx, &["load", "-q", "-i", &text(&dir.0)])?;
    let dir = Tree(cx.dir.p("layout"));
    layout(&dir, &other, &sha256(&good))?;
    let out = onlay(cx, &["load", "-q", "-i", &text(&dir.0)])?;
    is_clear(&out, &format!("blob sha256:{}: its diff-id is sha256:{0}", sha256(&other)))?;
    same!(says(cx, &["images", "-q"])?.lines().count(), 1);
    // What is right is taken, under another compression, too.
    fs::write(cx.dir.p("layer"), &good)?;
    Out::of(Command::new("gzip").arg("-n").arg(cx.dir.p("layer")))?.ok()?;
    let dir = Tree(cx.dir.p("packed"));
    layout(&dir, &fs::read(cx.dir.p("layer.gz"))?, &sha256(&good))?;
    says(cx, &["load", "-q", "-i", &text(&dir.0)])?;
    same!(fs::read_dir(cx.dir.p("store/layers"))?.count(), 1);
    says(cx, &["rmi", "hostile"])?;
    says(cx, &["gc", "--untagged"])?;
    nothing_left(cx)
}

/// A file of 250 MiB is unpacked by a process that may not have 48 MiB of data: nothing is ever whole in memory.
fn a_huge_file_in_little_memory(cx: &mut Ctx) -> Result<()> {
    const SIZE: u64 = 250 << 20;
    cx.dir.dir("root")?;
    fs::File::create(cx.dir.p("root/huge"))?.set_len(SIZE)?;
    Out::of(Command::new("tar").arg("-C").arg(cx.dir.p("root")).arg("-czf").arg(cx.dir.p("huge.tar.gz")).arg("."))?.ok()?;
    fs::remove_file(cx.dir.p("root/huge"))?;
    let store = text(&cx.dir.p("store"));
    let limited = |args: &[&str]| -> Result<Out> {
        let mut all = Command::new("prlimit");
        all.arg(format!("--data={}", 48 << 20)).arg(cx.binary()).args(["--root", &store]).args(args);
        Out::of(&mut all)
    };
    limited(&["import", "-q", &text(&cx.dir.p("huge.tar.gz")), "huge"])?.ok()?;
    limited(&["save", "-q", "-o", &text(&cx.dir.p("saved.tar")), "huge"])?.ok()?;
    says(cx, &["rmi", "huge"])?;
    limited(&["load", "-q", "-i", &text(&cx.dir.p("saved.tar"))])?.ok()?;
    let export = limited(&["export", "-o", &text(&cx.dir.p("out.tar")), "huge"])?;
    holds!(export.code == 0, "{export:?}");
    holds!(fs::metadata(cx.dir.p("out.tar"))?.len() > 0);
    Ok(())
}
