//! From an image's archive to directories: `onlay load` beside `podman load` and `umoci unpack`, with Debian's minbase.
//!
//! All get the same gzip layer. onlay and podman read an OCI archive, check its digests, keep the blob (podman does not)
//! and unpack; onlay also builds the image index, and syncs. umoci is given the layout as a directory, and writes down a
//! digest of each file; so onlay has a second row from that directory. What is there afterwards is compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};

use crate::base::base;
use crate::competitor::{Competitor, Kind, everywhere};
use crate::run::remove;
use crate::stats::Summary;
use crate::tools::run;
use crate::watch::Watch;

/// What is unpacked, and how often.
pub(crate) struct Unpack<'a> {
    pub(crate) competitors: &'a [Competitor],
    pub(crate) rounds: usize,
    /// A root file system as a tar; made by mmdebstrap if there is none.
    pub(crate) base: Option<&'a Path>,
    /// A directory of ours.
    pub(crate) site: &'a Path,
    /// In a user namespace: umoci has a mode for that.
    pub(crate) rootless: bool,
}

/// How one of them does it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    OnlayArchive,
    OnlayLayout,
    Umoci,
    Podman,
}

struct Entrant {
    label: String,
    program: PathBuf,
    way: Way,
    times: Vec<f64>,
}

/// What is in a tree: regular files, their bytes, and everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Content {
    files: u64,
    bytes: u64,
    others: u64,
}

impl Unpack<'_> {
    /// A Markdown table.
    pub(crate) fn run(&self, watch: &Watch) -> Result<String> {
        let tar = base(self.site, self.base)?;
        let mut entrants = self.entrants();
        let onlay = entrants.first().context("there is no onlay")?.program.clone();
        let (archive, layout) = (self.site.join("image.tar"), self.site.join("layout"));
        let maker = self.site.join("maker");
        run(Command::new(&onlay).arg("--root").arg(&maker).args(["import", "-q"]).arg(&tar).arg("bench:1"))?;
        run(Command::new(&onlay).arg("--root").arg(&maker).args(["save", "-q", "-o"]).arg(&archive).arg("bench:1"))?;
        fs::create_dir(&layout)?;
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout))?;
        rename(&layout)?;
        let wanted = content(&find(&maker.join("layers"), "diff")?)?;
        remove(&maker);
        for round in 0..=self.rounds {
            // Who is first has the emptier cache: they take turns in that, too.
            let first = round % entrants.len();
            entrants.rotate_left(first);
            for entrant in &mut entrants {
                if watch.interrupted() {
                    bail!("interrupted");
                }
                let to = self.site.join("to");
                fs::create_dir(&to)?;
                // Nobody pays for what another has left to be written.
                rustix::fs::sync();
                let start = Instant::now();
                let unpacked = self.unpack(entrant, &archive, &layout, &to);
                let took = start.elapsed().as_secs_f64();
                // podman mounts it on itself, and leaves that behind when it fails. Not mounted: nothing to do.
                unmount(to.join("graph/overlay"), UnmountFlags::DETACH).ok();
                unpacked.with_context(|| entrant.label.clone())?;
                if round == 0 {
                    self.check(entrant, &to, wanted)?;
                } else {
                    entrant.times.push(took);
                }
                eprintln!("round {round}: {}: {took:.2} s", entrant.label);
                remove(&to);
            }
            entrants.rotate_right(first);
        }
        table(&entrants, fs::metadata(&archive)?.len(), wanted)
    }

    /// Who is here; an onlay comes first.
    fn entrants(&self) -> Vec<Entrant> {
        let mut all = Vec::new();
        let mut add = |label: String, program: &Path, way| {
            all.push(Entrant { label, program: program.to_owned(), way, times: Vec::new() });
        };
        for c in self.competitors.iter().filter(|c| c.kind == Kind::Onlay) {
            add(format!("{} load, archive", c.label), &c.program, Way::OnlayArchive);
            add(format!("{} load, directory", c.label), &c.program, Way::OnlayLayout);
        }
        for (name, label, way) in
            [("umoci", "umoci unpack, directory", Way::Umoci), ("podman", "podman load, archive", Way::Podman)]
        {
            match everywhere(name).first() {
                Some(program) => add(label.to_owned(), program, way),
                None => eprintln!("not there: {name} (package {name})"),
            }
        }
        all
    }

    fn unpack(&self, entrant: &Entrant, archive: &Path, layout: &Path, to: &Path) -> Result<()> {
        let mut cmd = Command::new(&entrant.program);
        match entrant.way {
            Way::OnlayArchive | Way::OnlayLayout => {
                let from = if entrant.way == Way::OnlayArchive { archive } else { layout };
                cmd.arg("--root").arg(to.join("store")).args(["load", "-q", "-i"]).arg(from);
            }
            Way::Umoci => {
                cmd.arg("unpack").args(self.rootless.then_some("--rootless"));
                cmd.arg("--image").arg(layout.with_file_name("layout:one")).arg(to.join("bundle"));
            }
            Way::Podman => {
                let (at, conf) = (to.display(), to.join("storage.conf"));
                let driver = "driver=\"overlay\"";
                fs::write(&conf, format!("[storage]\n{driver}\nrunroot=\"{at}/run\"\ngraphroot=\"{at}/graph\"\n"))?;
                let engine = to.join("containers.conf");
                fs::write(
                    &engine,
                    format!("[engine]\nlock_type=\"file\"\nevents_logger=\"none\"\ntmp_dir=\"{at}/tmp\"\n"),
                )?;
                cmd.args(["load", "-q", "-i"]).arg(archive);
                cmd.env("CONTAINERS_STORAGE_CONF", conf).env("CONTAINERS_CONF", engine);
                cmd.env("HOME", to).env("TMPDIR", to).env("XDG_RUNTIME_DIR", to);
            }
        }
        run(&mut cmd)
    }

    /// The same files for all, or a ratio says nothing.
    fn check(&self, entrant: &Entrant, to: &Path, wanted: Content) -> Result<()> {
        let tree = match entrant.way {
            Way::OnlayArchive | Way::OnlayLayout => find(&to.join("store/layers"), "diff")?,
            Way::Umoci => to.join("bundle/rootfs"),
            Way::Podman => find(&to.join("graph/overlay"), "diff")?,
        };
        let mut found = content(&tree)?;
        // Devices are left out by who may not make them; umoci puts files there.
        if self.rootless {
            found.others = wanted.others;
            found.files = found.files.min(wanted.files);
        }
        ensure!(found == wanted, "{} unpacked {found:?}, and not {wanted:?}", entrant.label);
        Ok(())
    }
}

/// Names the image of a layout so that umoci can find it: no colon in it.
fn rename(layout: &Path) -> Result<()> {
    let path = layout.join("index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    index["manifests"][0]["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "one"});
    fs::write(path, index.to_string()).context("index.json")
}

/// The only directory `*/NAME` in `dir`.
fn find(dir: &Path, name: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut found: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path().join(name))).filter(|p| p.is_dir()).collect();
    ensure!(found.len() == 1, "{}: {} layers, and not one", dir.display(), found.len());
    found.pop().context("none")
}

fn content(tree: &Path) -> Result<Content> {
    let mut content = Content::default();
    let mut todo = vec![tree.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_file() {
                content.files += 1;
                content.bytes += meta.len();
            } else {
                content.others += 1;
                if meta.is_dir() {
                    todo.push(entry.path());
                }
            }
        }
    }
    Ok(content)
}

fn table(entrants: &[Entrant], archive: u64, content: Content) -> Result<String> {
    let median = |way| entrants.iter().find(|e| e.way == way).and_then(|e| Summary::of(&e.times)).map(|s| s.median);
    let (umoci, podman) = (median(Way::Umoci), median(Way::Podman));
    let Content { files, bytes, others } = content;
    let mut text = format!(
        "| unpack: {} MB, {files} files with {} MB, {others} others | median | least – most | of umoci's | of podman's |\n\
         |---|--:|--:|--:|--:|\n",
        archive / 1_000_000,
        bytes / 1_000_000,
    );
    for entrant in entrants {
        let Summary { median, min, max, .. } = Summary::of(&entrant.times).context("nothing was measured")?;
        let of = |other: Option<f64>| other.map_or("-".to_owned(), |other| format!("{:.2}", median / other));
        let (umoci, podman) = (of(umoci), of(podman));
        text += &format!("| {} | {median:.2} s | {min:.2} – {max:.2} s | {umoci} | {podman} |\n", entrant.label);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_both() {
        let one = |way, label: &str, times: &[f64]| Entrant {
            label: label.to_owned(),
            program: PathBuf::new(),
            way,
            times: times.to_vec(),
        };
        let all = [
            one(Way::OnlayArchive, "ours", &[1.0, 3.0, 2.0]),
            one(Way::Umoci, "umoci", &[4.0]),
            one(Way::Podman, "podman", &[1.0]),
        ];
        let text = table(&all, 61_000_000, Content { files: 3, bytes: 150_000_000, others: 1 }).unwrap();
        assert!(text.contains("61 MB, 3 files with 150 MB, 1 others"), "{text}");
        assert!(text.contains("| ours | 2.00 s | 1.00 – 3.00 s | 0.50 | 2.00 |"), "{text}");
        let alone = table(&all[..1], 0, Content::default()).unwrap();
        assert!(alone.ends_with("| - | - |\n"), "{alone}");
    }

    #[test]
    fn content_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/f"), "four").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("a/b/l")).unwrap();
        assert_eq!(content(dir.path()).unwrap(), Content { files: 1, bytes: 4, others: 3 });
        assert_eq!(find(dir.path(), "b").unwrap(), dir.path().join("a/b"));
        assert!(find(dir.path(), "c").is_err());
    }
}
