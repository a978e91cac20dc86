//! The command line.

use std::path::PathBuf;

use anyhow::{Result, ensure};

/// Measure onlay side by side with other union filesystems
///
/// Every round has a fresh mount; rounds of the competitors take turns. Data goes to stdout (a Markdown table), words to
/// stderr.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    after_help = "\
Examples:
  All that is found on this machine, as root:
    cargo build --release && sudo target/release/bench --json bench.json --svg bench.svg
  A first look, in a minute or two:
    cargo run --release -p bench -- --quick
  One kind of workload, an ordinary user's mounts, on tmpfs:
    cargo run --release -p bench -- --rootless --workload untar --dir /dev/shm
  Image builds with buildah, whose storage driver each of them is in turn (packages buildah and mmdebstrap):
    sudo target/release/bench --build --rounds 1
  Two builds of onlay:
    cargo run --release -p bench -- --against onlay=/tmp/old/onlay,overlayfs
  What the start of a container costs, as root and as an ordinary user:
    sudo target/release/bench --start
    sudo target/release/bench --start --rootless

Competitors: onlay-index (with an image index of the layers), onlay-device (without io_uring where it is
switched on), overlayfs, overlayfs-metacopy (with metacopy=on,redirect_dir=on), fuse-overlayfs, unionfs, native (a plain copy), and onlay=PATH, fuse-overlayfs=PATH,
unionfs=PATH. The onlay beside this binary, or the one in $ONLAY, always takes part."
)]
pub(crate) struct Args {
    /// Whom to measure against; default: overlayfs, every fuse-overlayfs found, unionfs
    #[arg(long, value_delimiter = ',', value_name = "NAME[=PATH]")]
    pub(crate) against: Vec<String>,
    /// Only workloads whose name contains this; may be repeated
    #[arg(long, value_name = "SUBSTRING")]
    pub(crate) workload: Vec<String>,
    /// How often each is measured; default: 5, with --quick 2; of --build and one more before: 2 and 1
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// Layers of your own for the walks, the top one first
    #[arg(long, num_args = 1.., value_name = "DIR", conflicts_with = "synthetic")]
    pub(crate) layers: Vec<PathBuf>,
    /// Files in the layers made up; default: 20,000, with --quick 2,000
    #[arg(long, value_name = "FILES")]
    pub(crate) synthetic: Option<usize>,
    /// In a user namespace of an ordinary user
    #[arg(long)]
    pub(crate) rootless: bool,
    /// Where to work (a filesystem with extended attributes)
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Build an image of ten steps instead, one of which touches 50,000 files (--synthetic), with buildah
    #[arg(long, group = "image")]
    pub(crate) build: bool,
    /// Unpack an image of Debian instead, with onlay, umoci and podman
    #[arg(long, group = "image")]
    pub(crate) unpack: bool,
    /// Start containers instead: onlay, podman, crun, runc, bubblewrap; then 100 of them at once. 40 rounds, with
    /// --quick 5 and 10 at once; --rootless is an ordinary user here
    #[arg(long, group = "image")]
    pub(crate) start: bool,
    /// Containers at once for --start; 0 is none
    #[arg(long, value_name = "N", requires = "start")]
    pub(crate) many: Option<usize>,
    /// A root file system as a tar for --build and --unpack (by default mmdebstrap makes one) or --start (by default
    /// /bin/true and /bin/sleep of this machine with their libraries)
    #[arg(long, value_name = "TAR", requires = "image")]
    pub(crate) base: Option<PathBuf>,
    /// Never drop the machine's caches
    #[arg(long)]
    pub(crate) warm: bool,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw a chart into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Small sizes, few rounds, caches left alone
    #[arg(long)]
    pub(crate) quick: bool,
    /// Name the workloads and go
    #[arg(long)]
    pub(crate) list: bool,
}

impl Args {
    /// How much of everything.
    pub(crate) fn scale(&self) -> Scale {
        let mut scale = if self.quick { Scale::QUICK } else { Scale::FULL };
        scale.tree = self.synthetic.unwrap_or(scale.tree);
        scale
    }

    pub(crate) fn rounds(&self) -> Result<usize> {
        let rounds = self.rounds.unwrap_or(match (self.start, self.quick) {
            (true, true) => 5,
            (true, false) => 40,
            (false, true) => 2,
            (false, false) => 5,
        });
        ensure!(rounds > 0, "--rounds 0 measures nothing");
        Ok(rounds)
    }
}

/// Sizes of what is worked on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Files in the synthetic layers.
    pub(crate) tree: usize,
    /// Calls of the hot workloads.
    pub(crate) calls: usize,
    /// Files created.
    pub(crate) create: usize,
    /// Files in the archive.
    pub(crate) untar: usize,
    /// MiB of the file that is read and written.
    pub(crate) data: u64,
    /// MiB of the file appended to.
    pub(crate) big: u64,
    /// Files in the git repository.
    pub(crate) repo: usize,
    /// Headers included, modules imported.
    pub(crate) sources: usize,
}

impl Scale {
    const FULL: Self = Self {
        tree: 20_000,
        calls: 20_000,
        create: 5_000,
        untar: 9_000,
        data: 256,
        big: 1024,
        repo: 4_000,
        sources: 600,
    };
    const QUICK: Self =
        Self { tree: 2_000, calls: 5_000, create: 500, untar: 900, data: 16, big: 64, repo: 400, sources: 100 };
}
