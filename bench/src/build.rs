//! An image build, end to end: `buildah bud --isolation chroot` of ten steps on Debian, with each competitor as the storage
//! driver. After every step buildah walks the whole tree twice to find what changed and packs it: that, and what the steps
//! themselves do, is the filesystem's part; the rest (buildah, gzip) is the same for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::base::base;
use crate::competitor::{Competitor, Kind};
use crate::requests::Counter;
use crate::watch::Watch;

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

/// One competitor's store.
struct Store {
    label: String,
    home: PathBuf,
    times: Vec<Duration>,
    requests: String,
}

/// Deletions, replaced directories, renames, hard links, changes of metadata, and one step with many files.
fn containerfile(files: usize) -> String {
    let many = files / 50;
    format!(
        "FROM localhost/base:1
RUN mkdir /many && for d in $(seq 50); do mkdir /many/$d && cd /many/$d && seq {many} | xargs touch; done
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
    /// A Markdown table.
    pub(crate) fn run(&self, watch: &Watch) -> Result<String> {
        let base = base(self.site, self.base)?;
        fs::create_dir(self.site.join("context"))?;
        fs::write(self.site.join("context/Containerfile"), containerfile(self.files))?;
        let mut stores = Vec::new();
        let done = self.rounds(&base, &mut stores, watch);
        for store in &stores {
            // What an interrupted build leaves: containers with their mounts, then images.
            for args in [&["rm", "-a"][..], &["rmi", "-fa"]] {
                if let Err(e) = store.call(self.site, args) {
                    eprintln!("{e:#}");
                }
            }
        }
        done.map(|()| table(&stores, self.files))
    }

    fn rounds(&self, base: &Path, stores: &mut Vec<Store>, watch: &Watch) -> Result<()> {
        for (i, competitor) in self.competitors.iter().enumerate() {
            if competitor.kind != Kind::Native && competitor.kind != Kind::OverlayfsMetacopy {
                let store = Store::new(&self.site.join(format!("b{i}")), competitor)?;
                store.call(self.site, &["pull", "-q", &format!("docker-archive:{}", self.archive(base)?.display())])?;
                stores.push(store);
            }
        }
        for round in 0..=self.rounds {
            for store in stores.iter_mut() {
                if watch.interrupted() {
                    bail!("interrupted");
                }
                // The first one is for caches, and for counting.
                let start = Instant::now();
                let build = || store.build(self.site);
                match self.counter.filter(|_| round == 0) {
                    Some(counter) => {
                        let counted = counter.count_everything(build)?;
                        store.requests = counted.map_or_else(|e| format!("{e:#}"), |n| told(&n));
                    }
                    None => build()?,
                }
                if round > 0 {
                    store.times.push(start.elapsed());
                }
                eprintln!("round {round}: {}: {:.1} s", store.label, start.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }

    /// The base as an image that every store can take.
    fn archive(&self, base: &Path) -> Result<PathBuf> {
        let path = self.site.join("base.image");
        if !path.exists() {
            let store =
                Store { label: String::new(), home: self.site.join("vfs"), times: Vec::new(), requests: String::new() };
            store.configure("driver=\"vfs\"", "")?;
            let from = store.call(self.site, &["from", "scratch"])?;
            store.call(self.site, &["add", "-q", &from, &base.display().to_string(), "/"])?;
            store.call(
                self.site,
                &["commit", "-q", &from, &format!("docker-archive:{}:localhost/base:1", path.display())],
            )?;
            fs::remove_dir_all(&store.home)?;
        }
        Ok(path)
    }
}

impl Store {
    fn new(home: &Path, competitor: &Competitor) -> Result<Self> {
        let store =
            Self { label: competitor.label.clone(), home: home.to_owned(), times: Vec::new(), requests: String::new() };
        let program = home.join("bin/fuse-overlayfs");
        let option = match competitor.kind {
            Kind::Overlayfs => String::new(),
            _ => format!("[storage.options.overlay]\nmount_program=\"{}\"\n", program.display()),
        };
        store.configure("driver=\"overlay\"", &option)?;
        if competitor.kind != Kind::Overlayfs {
            std::os::unix::fs::symlink(&competitor.program, program)?;
        }
        Ok(store)
    }

    fn configure(&self, driver: &str, option: &str) -> Result<()> {
        for dir in ["bin", "run", "root", "xdg", "tmp"] {
            fs::create_dir_all(self.home.join(dir))?;
        }
        let h = self.home.display();
        fs::write(
            self.home.join("storage.conf"),
            format!("[storage]\n{driver}\nrunroot=\"{h}/run\"\ngraphroot=\"{h}/root\"\n{option}"),
        )?;
        fs::write(self.home.join("policy.json"), "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}")?;
        Ok(())
    }

    fn build(&self, site: &Path) -> Result<()> {
        let context = site.join("context").display().to_string();
        let bud = ["bud", "-q", "--isolation", "chroot", "--layers", "--no-cache", "-t", "built:1", &context];
        self.call(site, &bud).map(drop)
    }

    fn call(&self, site: &Path, args: &[&str]) -> Result<String> {
        let mut cmd = Command::new("buildah");
        let policy = format!("--signature-policy={}", self.home.join("policy.json").display());
        let takes_policy = matches!(args.first(), Some(&("bud" | "from" | "pull" | "commit")));
        cmd.args(&args[..1]).args(takes_policy.then_some(policy)).args(&args[1..]).current_dir(site);
        cmd.env("HOME", &self.home).env("XDG_RUNTIME_DIR", self.home.join("xdg")).env("TMPDIR", self.home.join("tmp"));
        cmd.env("CONTAINERS_STORAGE_CONF", self.home.join("storage.conf"));
        Ok(finish(&mut cmd).with_context(|| self.label.clone())?.trim_end().to_owned())
    }
}

/// Runs a program to its end; what it printed.
fn finish(cmd: &mut Command) -> Result<String> {
    let out = cmd.stdin(Stdio::null()).output().with_context(|| format!("{}", cmd.get_program().display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{cmd:?}: {}: {}", out.status, said.trim_end());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The most frequent requests.
fn told(requests: &crate::requests::Requests) -> String {
    let mut all: Vec<_> = requests.iter().collect();
    all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let sum: u64 = requests.values().sum();
    let most: Vec<String> = all.iter().take(6).map(|(name, n)| format!("{name} {n}")).collect();
    format!("{sum}: {}", most.join(", "))
}

fn table(stores: &[Store], files: usize) -> String {
    let mut text = format!(
        "| build of 10 steps, {files} files in one | median | of the kernel's | FUSE requests |\n|---|---|---|---|\n"
    );
    let median = |store: &Store| {
        let mut times = store.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64()
    };
    let kernel = stores.iter().find(|s| s.label.starts_with("overlayfs")).map(median);
    for store in stores {
        let ratio = kernel.map_or("-".to_owned(), |k| format!("{:.2}", median(store) / k));
        let requests = if store.requests.is_empty() { "-" } else { &store.requests };
        text += &format!("| {} | {:.1} s | {ratio} | {requests} |\n", store.label, median(store));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_steps_and_as_many_files_as_asked_for() {
        let text = containerfile(50_000);
        assert_eq!(text.lines().filter(|l| l.starts_with("RUN ")).count(), 10);
        assert!(text.contains("seq 1000 |"), "{text}");
    }
}
