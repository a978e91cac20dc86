//! The layers that workloads run on, made when first needed; the same every time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::args::Scale;
use crate::random::Random;
use crate::tools::{Tools, run};
use crate::watch::Watch;

/// What a workload wants below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Set {
    /// The tree of all walks: three layers that overlap, or the user's own.
    Tree,
    /// This many layers of a few files.
    Few(usize),
    /// One file to read and write.
    Data,
    /// One big file.
    Big,
    /// A git repository, a part of it changed in a second layer.
    Repo,
    /// Directories of C headers.
    Headers,
    /// Directories of Python modules, compiled.
    Modules,
}

/// Name of the file in [`Set::Data`] and [`Set::Big`].
pub(crate) const FILE: &str = "file";
/// Directories to search in [`Set::Headers`] and [`Set::Modules`].
pub(crate) const SEARCHED: usize = 60;

const MIB: usize = 1 << 20;

/// All that were made, in one directory.
#[derive(Debug)]
pub(crate) struct Fixtures<'a> {
    dir: PathBuf,
    scale: Scale,
    /// Instead of a synthetic tree.
    layers: &'a [PathBuf],
    tools: &'a Tools,
    watch: &'a Watch,
    made: HashMap<Set, Vec<PathBuf>>,
    copies: HashMap<Set, PathBuf>,
}

impl<'a> Fixtures<'a> {
    pub(crate) fn new(dir: &Path, scale: Scale, layers: &'a [PathBuf], tools: &'a Tools, watch: &'a Watch) -> Self {
        let (made, copies) = (HashMap::new(), HashMap::new());
        Self { dir: dir.to_owned(), scale, layers, tools, watch, made, copies }
    }

    /// The layers, the top one first.
    pub(crate) fn lowers(&mut self, set: Set) -> Result<Vec<PathBuf>> {
        if let Some(made) = self.made.get(&set) {
            return Ok(made.clone());
        }
        let lowers = self.make(set).with_context(|| format!("layers {set:?}"))?;
        self.made.insert(set, lowers.clone());
        Ok(lowers)
    }

    /// A copy of what the union shows, for those that do not change it.
    pub(crate) fn copy(&mut self, set: Set) -> Result<PathBuf> {
        if let Some(copy) = self.copies.get(&set) {
            return Ok(copy.clone());
        }
        let lowers = self.lowers(set)?;
        let to = self.fresh(&format!("copy-{set:?}"))?;
        copy_layers(&lowers, &to)?;
        self.copies.insert(set, to.clone());
        Ok(to)
    }

    fn make(&self, set: Set) -> Result<Vec<PathBuf>> {
        let name = format!("{set:?}");
        match set {
            Set::Tree if !self.layers.is_empty() => {
                let real = |p: &PathBuf| p.canonicalize().with_context(|| p.display().to_string());
                self.layers.iter().map(real).collect()
            }
            Set::Tree => {
                let lowers = self.layers_of(&name, 3)?;
                tree(&lowers, self.scale.tree, self.watch)?;
                Ok(lowers)
            }
            Set::Few(n) => {
                let lowers = self.layers_of("F", n)?;
                for (i, lower) in lowers.iter().enumerate() {
                    for f in 0..20 {
                        // Every second file is in all layers.
                        let name = if f % 2 == 0 { format!("d/all{f}") } else { format!("d/own{i}.{f}") };
                        write(&lower.join(name), &text(&mut Random::new(f), 200))?;
                    }
                }
                Ok(lowers)
            }
            Set::Data => self.one_file(&name, self.scale.data),
            Set::Big => self.one_file(&name, self.scale.big),
            Set::Repo => self.repo(&name),
            Set::Headers => {
                let lowers = self.layers_of(&name, 2)?;
                let mut main = String::new();
                for i in 0..self.scale.sources {
                    let lower = &lowers[i % 2];
                    let header =
                        format!("#ifndef H{i}\n#define H{i}\nstruct s{i} {{ int a, b; }};\nint f{i}(void);\n#endif\n");
                    write(&lower.join(format!("i{}/h{i}.h", i % SEARCHED)), header.as_bytes())?;
                    main.push_str(&format!("#include <h{i}.h>\n"));
                }
                write(&lowers[0].join("main.c"), main.as_bytes())?;
                Ok(lowers)
            }
            Set::Modules => {
                let lowers = self.layers_of(&name, 2)?;
                let mut main = String::new();
                for i in 0..self.scale.sources {
                    let module = format!("def f{i}(x):\n    return x + {i}\n\nclass C{i}:\n    n = {i}\n");
                    write(&lowers[i % 2].join(format!("p{}/m{i}.py", i % SEARCHED)), module.as_bytes())?;
                    main.push_str(&format!("import m{i}\n"));
                }
                write(&lowers[0].join("main.py"), main.as_bytes())?;
                for lower in &lowers {
                    run(Command::new(&self.tools.python)
                        .args(["-I", "-m", "compileall", "-q", "."])
                        .current_dir(lower))?;
                }
                Ok(lowers)
            }
        }
    }

    fn one_file(&self, name: &str, mib: u64) -> Result<Vec<PathBuf>> {
        let lowers = self.layers_of(name, 1)?;
        fill(&lowers[0].join(FILE), mib, self.watch)?;
        Ok(lowers)
    }

    fn repo(&self, name: &str) -> Result<Vec<PathBuf>> {
        let lowers = self.layers_of(name, 2)?;
        let (top, bottom) = (&lowers[0], &lowers[1]);
        let mut random = Random::new(3);
        let path = |i: usize| format!("src/d{}/e{}/f{i}.c", i % 16, i / 16 % 16);
        for i in 0..self.scale.repo {
            let size = random.below(3000);
            write(&bottom.join(path(i)), &text(&mut random, size))?;
        }
        for args in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "all"], &["gc", "-q"]] {
            run(self.tools.git().args(args).current_dir(bottom))?;
        }
        for i in (0..self.scale.repo).step_by(20) {
            write(&top.join(path(i)), b"changed\n")?;
        }
        Ok(lowers)
    }

    fn layers_of(&self, name: &str, n: usize) -> Result<Vec<PathBuf>> {
        // Short names: many of them have to fit in one page of options.
        (0..n).map(|i| self.fresh(&format!("{name}{n}.{i}"))).collect()
    }

    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        Ok(dir)
    }
}

/// Lays the layers over each other in a directory; knows nothing of whiteouts.
pub(crate) fn copy_layers(lowers: &[PathBuf], to: &Path) -> Result<()> {
    for lower in lowers.iter().rev() {
        run(Command::new("cp").arg("-a").arg(lower.join(".")).arg(to)).context("copy")?;
    }
    Ok(())
}

/// Spreads `files` over directories three deep; one in ten is in two layers.
fn tree(lowers: &[PathBuf], files: usize, watch: &Watch) -> Result<()> {
    let leaves = (files / 25).max(1);
    let mut random = Random::new(1);
    for i in 0..files {
        watch.go_on()?;
        let leaf = i % leaves;
        let path = format!("d{}/s{}/t{}/file{i}.c", leaf % 20, leaf / 20 % 8, leaf / 160);
        let home = match random.below(10) {
            0..5 => 2,
            5..8 => 1,
            _ => 0,
        };
        let size = match random.below(100) {
            0..80 => random.below(4 << 10),
            80..98 => random.below(16 << 10),
            _ => random.below(128 << 10),
        };
        write(&lowers[home].join(&path), &text(&mut random, size))?;
        if home > 0 && random.below(5) == 0 {
            write(&lowers[home - 1].join(&path), &text(&mut random, size / 2))?;
        }
    }
    Ok(())
}

fn write(path: &Path, data: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, data).with_context(|| path.display().to_string())
}

/// A file without holes.
pub(crate) fn fill(path: &Path, mib: u64, watch: &Watch) -> Result<()> {
    let block = text(&mut Random::new(mib), MIB as u64);
    let mut file = File::create(path)?;
    for _ in 0..mib {
        watch.go_on()?;
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

/// Lines of letters.
pub(crate) fn text(random: &mut Random, size: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(size as usize + 8);
    while (data.len() as u64) < size {
        let bits = random.next().to_le_bytes();
        data.extend(bits.map(|b| if b < 6 { b'\n' } else { b'a' + b % 26 }));
    }
    data.truncate(size as usize);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_the_same_every_time() {
        let of = || {
            let dir = tempfile::tempdir().unwrap();
            let lowers: Vec<PathBuf> = (0..3).map(|i| dir.path().join(i.to_string())).collect();
            tree(&lowers, 200, &Watch::default()).unwrap();
            let merged = dir.path().join("merged");
            fs::create_dir(&merged).unwrap();
            copy_layers(&lowers, &merged).unwrap();
            let mut files = Vec::new();
            crate::walk::walk(&merged, &mut |at, name, kind| {
                if kind == rustix::fs::FileType::RegularFile {
                    let size = rustix::fs::statat(at, name, rustix::fs::AtFlags::empty())?.st_size;
                    files.push((name.to_owned(), size));
                }
                Ok(())
            })
            .unwrap();
            files.sort();
            files
        };
        let files = of();
        assert_eq!(files.len(), 200);
        assert_eq!(files, of());
    }
}
