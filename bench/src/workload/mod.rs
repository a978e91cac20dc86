//! What is measured. A workload prepares outside the clock and hands back what is to be timed.

mod change;
mod data;
mod look;
mod package;
mod programs;

use std::path::PathBuf;

use anyhow::Result;

use crate::args::Scale;
use crate::elsewhere::Disk;
use crate::fixture::Set;
use crate::tools::{Tool, Tools};
use crate::watch::Watch;

/// What a workload works with.
#[derive(Debug)]
pub(crate) struct Cx {
    /// The mount.
    pub(crate) merged: PathBuf,
    pub(crate) scale: Scale,
    pub(crate) tools: Tools,
    pub(crate) watch: Watch,
}

/// What is timed.
pub(crate) type Timed<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// Set-up outside the clock.
pub(crate) type Prepare = for<'a> fn(&'a Cx) -> Result<Timed<'a>>;

/// The same in several threads at once, each told which one it is.
fn at_once(threads: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|i| {
                scope.spawn({
                    let work = &work;
                    move || work(i)
                })
            })
            .collect();
        all.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
    })
}

/// How a workload is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// On a fresh mount.
    Mounted(Prepare),
    /// Mounting itself, until the root is listed.
    Mounting,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) set: Set,
    pub(crate) work: Work,
    /// It changes the tree.
    pub(crate) writes: bool,
    /// Nothing has looked at the mount before: the machine's caches may be dropped.
    pub(crate) fresh: bool,
    pub(crate) needs: Option<Tool>,
    /// The file system it runs on, if not the one it is given.
    pub(crate) on: Option<Disk>,
}

impl Workload {
    fn new(name: impl Into<String>, set: Set, prepare: Prepare) -> Self {
        Self {
            name: name.into(),
            set,
            work: Work::Mounted(prepare),
            writes: false,
            fresh: false,
            needs: None,
            on: None,
        }
    }

    fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }

    fn writes(self) -> Self {
        Self { writes: true, ..self }
    }

    fn needs(self, tool: Tool) -> Self {
        Self { needs: Some(tool), ..self }
    }

    fn on(self, disk: Disk) -> Self {
        Self { on: Some(disk), needs: Some(disk.tool()), ..self }
    }

    fn mounting(layers: usize) -> Self {
        let work = Work::Mounting;
        let (set, name) = (Set::Few(layers), format!("mount {layers} layers"));
        Self { name, set, work, writes: false, fresh: false, needs: None, on: None }
    }
}

/// All of them, in the order of the table.
pub(crate) fn all(scale: &Scale) -> Vec<Workload> {
    let few = Set::Few(2);
    let Scale { calls, create, untar, data, big, sources, .. } = scale;
    vec![
        Workload::new("walk with stat, fresh", Set::Tree, look::walk_stat).fresh(),
        Workload::new("walk with stat, again", Set::Tree, look::walk_stat_again),
        Workload::new("walk with stat, fresh, 2 threads", Set::Tree, look::walk_stat_2).fresh(),
        Workload::new("walk with stat, fresh, 8 threads", Set::Tree, look::walk_stat_8).fresh(),
        Workload::new("walk, names only, fresh", Set::Tree, look::walk_names).fresh(),
        Workload::new("walk, names only, again", Set::Tree, look::walk_names_again),
        Workload::new(format!("hot stat, {calls} calls"), Set::Tree, look::hot_stat),
        Workload::new(format!("hot open and close, {calls} calls"), Set::Tree, look::hot_open),
        Workload::new(format!("absent names, {calls} calls"), Set::Tree, look::absent),
        Workload::new("read all files, fresh", Set::Tree, look::read_all).fresh(),
        Workload::new("read all files, again", Set::Tree, look::read_all_again),
        Workload::new("read all files, fresh, 8 threads", Set::Tree, look::read_all_8).fresh(),
        Workload::new("git status, fresh", Set::Repo, programs::git_status).fresh().needs(Tool::Git),
        Workload::new("git status, again", Set::Repo, programs::git_status_again).needs(Tool::Git),
        Workload::new(format!("gcc, {sources} headers, fresh"), Set::Headers, programs::gcc).fresh().needs(Tool::Gcc),
        Workload::new(format!("gcc, {sources} headers, again"), Set::Headers, programs::gcc_again).needs(Tool::Gcc),
        Workload::new(format!("python, {sources} imports, fresh"), Set::Modules, programs::python)
            .fresh()
            .needs(Tool::Python),
        Workload::new(format!("python, {sources} imports, again"), Set::Modules, programs::python_again)
            .needs(Tool::Python),
        Workload::new(format!("create {create} files"), few, change::create).writes(),
        Workload::new(format!("untar {untar} files"), few, change::untar).writes(),
        Workload::new(format!("rm -rf of {untar} new files"), few, change::remove_new).writes(),
        Workload::new(format!("create {create} files, 4 threads"), few, change::create_4).writes(),
        Workload::new(format!("untar {untar} files, 4 threads"), few, change::untar_4).writes(),
        Workload::new(format!("rm -rf of {untar} new files, 4 threads"), few, change::remove_new_4).writes(),
        Workload::new(format!("dpkg -i of {sources} × 5 files"), few, package::install).writes().needs(Tool::Dpkg),
        Workload::new("rm -rf of lower directories", Set::Tree, change::remove_lower).writes(),
        Workload::new("chmod -R of lower directories", Set::Tree, change::chmod).writes(),
        Workload::new("chown -R of lower directories", Set::Tree, change::chown).writes(),
        Workload::new("mv of lower directories", Set::Tree, change::rename).writes(),
        Workload::new(format!("read {data} MiB, fresh"), Set::Data, data::read).fresh(),
        Workload::new(format!("read {data} MiB, again"), Set::Data, data::read_again),
        Workload::new(format!("read {data} MiB, mmap, fresh"), Set::Data, data::read_map).fresh(),
        Workload::new(format!("read {data} MiB, O_DIRECT"), Set::Data, data::read_direct).fresh(),
        Workload::new(format!("read {calls} × 4 KiB, random"), Set::Data, data::read_random),
        Workload::new(format!("read {calls} pages, random, mmap"), Set::Data, data::read_map_random),
        Workload::new(format!("write {data} MiB"), few, data::write).writes(),
        Workload::new(format!("write {data} MiB, O_DIRECT"), few, data::write_direct).writes(),
        Workload::new(format!("write {data} MiB, mmap"), few, data::write_map).writes(),
        Workload::new(format!("write {calls} × 4 KiB, random"), few, data::write_random).writes(),
        Workload::new(format!("write {calls} pages, random, mmap"), few, data::write_map_random).writes(),
        Workload::new(format!("append a byte to {big} MiB below"), Set::Big, data::append).writes(),
        Workload::new(format!("append a byte to {big} MiB below, xfs"), Set::Big, data::append).writes().on(Disk::Xfs),
        Workload::new(format!("append a byte to {big} MiB below, btrfs"), Set::Big, data::append)
            .writes()
            .on(Disk::Btrfs),
        Workload::mounting(2),
        Workload { name: "mount the whole tree".into(), set: Set::Tree, ..Workload::mounting(2) },
        Workload::mounting(50),
        Workload::mounting(200),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        use clap::Parser as _;
        let scale = crate::args::Args::parse_from(["bench"]).scale();
        let mut names: Vec<String> = all(&scale).into_iter().map(|w| w.name).collect();
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
