//! An image build, end to end: `buildah bud --isolation chroot` of ten steps on Debian, with each competitor as the storage
//! driver. After every step buildah walks the view and its parent's to find what changed, and packs it: that, and what
//! the steps themselves do, is the filesystem's part; the rest (buildah, unpacking the layer) goes past the mount.

mod engine;
mod parts;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::base::base;
use crate::competitor::{Competitor, Kind};
use crate::requests::{Counter, Requests};
use crate::stats::Summary;
use crate::watch::Watch;
use engine::Engine;
pub(crate) use engine::clean;
use parts::Parts;

/// Where engines keep what they know of images, whatever their store is.
const CACHE: &str = "/var/lib/containers";

/// What is built, and how often.
pub(crate) struct Build<'a> {
    pub(crate) competitors: &'a [Competitor],
    pub(crate) rounds: usize,
    /// Files that the big step touches.
    pub(crate) files: usize,
    /// A root file system as a tar; made by mmdebstrap if there is none.
    pub(crate) base: Option<&'a Path>,
    /// A directory of ours.
    pub(crate) site: &'a Path,
    pub(crate) counter: Option<&'a Counter>,
}

/// What became of one competitor.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Row {
    label: String,
    /// One for each round.
    parts: Vec<Parts>,
    daemon_cpu: Vec<f64>,
    requests: Option<Requests>,
    failed: Option<String>,
}

/// The first words of the big step.
const MANY: &str = "mkdir /many &&";

/// Deletions, replaced directories, renames, hard links, changes of metadata, and one step with many files.
fn containerfile(files: usize) -> String {
    let many = files / 50;
    format!(
        "FROM localhost/base:1
RUN {MANY} for d in $(seq 50); do mkdir /many/$d && cd /many/$d && seq {many} | xargs touch; done
RUN echo one > /etc/one
RUN rm -r /usr/share/doc
RUN mv /usr/share/locale /usr/share/places
RUN chmod -R go-w /usr/lib
RUN mkdir /tree && cp -a /usr/share /tree/
RUN rm -r /tree/share && mkdir /tree/share && echo new > /tree/share/file
RUN ln /bin/ls /many/ls && touch /many/1/1
RUN find / -xdev -type f -name '*.conf' | wc -l > /etc/count
RUN rm -r /many/2 && echo last > /etc/last
"
    )
}

impl Build<'_> {
    /// All rounds; who fails is out, and the others go on.
    ///
    /// # Errors
    /// What all of them need is not there.
    pub(crate) fn run(&self, watch: &Watch) -> Result<Vec<Row>> {
        // In this mount namespace only: the machine's own is not written to.
        if Path::new(CACHE).is_dir() {
            rustix::mount::mount("tmpfs", CACHE, "tmpfs", rustix::mount::MountFlags::empty(), None).context(CACHE)?;
        }
        let base = base(self.site, self.base)?;
        fs::create_dir(self.site.join("context"))?;
        fs::write(self.site.join("context/Containerfile"), containerfile(self.files))?;
        let image = self.image(&base, watch)?;

        let mut rows: Vec<Row> = Vec::new();
        let mut engines = Vec::new();
        for (i, competitor) in self.competitors.iter().enumerate() {
            // What can't be a storage driver.
            if matches!(competitor.kind, Kind::Native | Kind::OverlayfsMetacopy | Kind::OnlayIndex | Kind::OnlayDevice)
            {
                continue;
            }
            let mut row = Row { label: competitor.label.clone(), ..Row::default() };
            let engine = self.prepare(&self.site.join(format!("b{i}")), competitor, &image, watch);
            row.failed = engine.as_ref().err().map(|e| format!("{e:#}"));
            engines.push(engine.ok());
            rows.push(row);
        }
        for round in 0..=self.rounds {
            for i in 0..rows.len() {
                // Nobody is always the first.
                let i = if round % 2 == 0 { i } else { rows.len() - 1 - i };
                let (row, engine) = (&mut rows[i], engines[i].as_ref());
                let Some(engine) = engine.filter(|_| row.failed.is_none()) else { continue };
                watch.go_on()?;
                let built = self.build(engine, round, row);
                watch.go_on()?;
                if let Err(e) = built {
                    eprintln!("{}: {e:#}", row.label);
                    row.failed = Some(format!("{e:#}"));
                }
            }
        }
        Ok(rows)
    }

    /// The base as an image that every store can take.
    fn image(&self, base: &Path, watch: &Watch) -> Result<PathBuf> {
        let path = self.site.join("base.image");
        let engine = Engine::new(&self.site.join("vfs"), "vfs", None, watch)?;
        let call = |args: &[&str]| engine.call(self.site, args).map(|done| done.stdout);
        let from = call(&["from", "scratch"])?;
        call(&["add", "-q", &from, &base.display().to_string(), "/"])?;
        call(&["commit", "-q", &from, &format!("docker-archive:{}:localhost/base:1", path.display())])?;
        call(&["rm", "-a"])?;
        clean(engine.home());
        fs::remove_dir_all(engine.home())?;
        Ok(path)
    }

    fn prepare<'w>(&self, home: &Path, competitor: &Competitor, image: &Path, watch: &'w Watch) -> Result<Engine<'w>> {
        let program = (competitor.kind != Kind::Overlayfs).then_some(&*competitor.program);
        let engine = Engine::new(home, "overlay", program, watch)?;
        engine.call(self.site, &["pull", "-q", &format!("docker-archive:{}", image.display())])?;
        Ok(engine)
    }

    /// One build; the first one warms caches, and its requests are counted.
    fn build(&self, engine: &Engine<'_>, round: usize, row: &mut Row) -> Result<()> {
        let context = self.site.join("context").display().to_string();
        let isolation = ["--isolation", "chroot", "--layers", "--no-cache", "-t", "localhost/built:1"];
        let args = [&["--log-level", "debug", "bud"], &isolation[..], &[&context]].concat();
        // What others have written is not to be paid for by this one.
        rustix::fs::sync();
        let done = match self.counter.filter(|_| round == 0) {
            Some(counter) => {
                let (done, counted) = counter.count_below(engine.home(), || engine.call(self.site, &args))?;
                match counted {
                    Ok(requests) => row.requests = Some(requests),
                    Err(e) => eprintln!("{}: requests not counted: {e:#}", row.label),
                }
                done
            }
            None => engine.call(self.site, &args)?,
        };
        eprintln!("round {round}: {}: {:.1} s", row.label, done.took.as_secs_f64());
        if round > 0 {
            let parts = Parts::of(&done.lines, MANY, done.took);
            row.parts.push(parts.unwrap_or(Parts { all: done.took.as_secs_f64(), ..Parts::default() }));
            row.daemon_cpu.push(done.daemon_cpu);
        }
        engine.call(self.site, &["rmi", "-f", "localhost/built:1"]).map(drop)
    }
}

/// Two Markdown tables: times, and requests.
pub(crate) fn tables(rows: &[Row], files: usize) -> String {
    let mut text = format!(
        "| 10 steps, {files} files in one; s | all | filesystem's part | the step with {files} files | other steps | \
         finding what changed | unpacking layers | the rest | daemons' CPU |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    let ours = rows.first().map(|row| column(row, Parts::filesystem));
    for row in rows {
        if let Some(why) = &row.failed {
            text += &format!("| {} | failed: {} |||||||||\n", row.label, why.replace('|', "\\|").replace('\n', " "));
            continue;
        }
        let of = |what: fn(&Parts) -> f64| told(column(row, what));
        let part = column(row, Parts::filesystem);
        let times = ours.flatten().zip(part).filter(|(o, p)| o.min > 0.0 && p.min > 0.0);
        let times = times.map(|(ours, part)| format!(" **{:.2}×**", part.median / ours.median)).unwrap_or_default();
        let cells = [
            of(|p| p.all),
            of(Parts::filesystem) + &times,
            of(|p| p.many),
            of(|p| p.steps),
            of(|p| p.diff),
            of(|p| p.untar),
            of(Parts::rest),
            told(Summary::of(&row.daemon_cpu)),
        ];
        text += &format!("| {} | {} |\n", row.label, cells.join(" | "));
    }
    text += "\n| FUSE requests | all | by type |\n|---|--:|---|\n";
    for row in rows {
        let Some(requests) = row.requests.as_ref().filter(|r| !r.is_empty()) else { continue };
        let mut all: Vec<_> = requests.iter().collect();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let most: Vec<String> = all.iter().take(12).map(|(name, n)| format!("{name} {n}")).collect();
        text += &format!("| {} | {} | {} |\n", row.label, requests.values().sum::<u64>(), most.join(", "));
    }
    text
}

fn column(row: &Row, what: fn(&Parts) -> f64) -> Option<Summary> {
    Summary::of(&row.parts.iter().map(what).collect::<Vec<_>>())
}

/// The median; of several, with the least and the most.
fn told(summary: Option<Summary>) -> String {
    match summary {
        None => "-".to_owned(),
        Some(s) if s.rounds == 1 => format!("{:.1}", s.median),
        Some(s) => format!("{:.1} ({:.1}..{:.1})", s.median, s.min, s.max),
    }
}

/// Whether everybody came to the end.
pub(crate) fn all_done(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.failed.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_steps_and_as_many_files_as_asked_for() {
        let text = containerfile(50_000);
        assert_eq!(text.lines().filter(|l| l.starts_with("RUN ")).count(), 10);
        assert_eq!(text.lines().filter(|l| l.contains(MANY)).count(), 1);
        assert!(text.contains("seq 1000 |"), "{text}");
    }

    #[test]
    fn a_table_names_who_failed_and_how_others_compare() {
        let row = |label: &str, diff, failed: Option<&str>| Row {
            label: label.into(),
            parts: vec![Parts { diff, untar: 1.0, all: 9.0, ..Parts::default() }],
            failed: failed.map(str::to_owned),
            ..Row::default()
        };
        let rows = [row("onlay", 2.0, None), row("slow", 5.0, None), row("dead", 0.0, Some("died of\nsignal 9"))];
        let text = tables(&rows, 100);
        assert!(text.contains("| slow | 9.0 | 5.0 **2.50×** |"), "{text}");
        assert!(text.contains("| dead | failed: died of signal 9 |"), "{text}");
        assert!(!all_done(&rows) && all_done(&rows[..2]));
    }
}
