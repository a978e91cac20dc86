//! What a case is: a function with a name, and where and by whom it can be run.

use std::fmt;

use clap::ValueEnum;

use crate::ctx::Ctx;

/// What a case runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fs {
    /// An ordinary directory: the oracle for what a local file system does.
    Plain,
    /// The kernel's union: the oracle for what a union does.
    Overlayfs,
    /// Ours.
    Onlay,
}

/// Who runs a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum User {
    /// The machine's root.
    Root,
    /// A user with a subordinate id range; mounts go through fusermount3.
    Ordinary,
    /// The same user as root of a user namespace of its own.
    Userns,
    /// A user without a subordinate id range.
    Norange,
}

impl fmt::Display for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Overlayfs => "overlayfs",
            Self::Onlay => "onlay",
        })
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Ordinary => "ordinary",
            Self::Userns => "userns",
            Self::Norange => "norange",
        })
    }
}

/// One test.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Ctx) -> anyhow::Result<()>,
    on: &'static [Fs],
    who: &'static [User],
    deviates: Option<&'static str>,
    rootless_deviates: Option<&'static str>,
    /// How long it may take, in seconds.
    pub(crate) limit: u64,
    /// Container engines run in it: nobody else's mounts, and one kind of control groups.
    pub(crate) engine: bool,
}

impl Case {
    pub(crate) const fn new(name: &'static str, run: fn(&mut Ctx) -> anyhow::Result<()>) -> Self {
        Self {
            name,
            run,
            on: &[Fs::Plain, Fs::Overlayfs, Fs::Onlay],
            who: &[User::Root, User::Ordinary, User::Userns],
            deviates: None,
            rootless_deviates: None,
            limit: 120,
            engine: false,
        }
    }

    /// About the union on disk or about our command line: nothing for the oracles.
    pub(crate) const fn onlay(mut self) -> Self {
        self.on = &[Fs::Onlay];
        self
    }

    /// About what only a union has.
    pub(crate) const fn union(mut self) -> Self {
        self.on = &[Fs::Overlayfs, Fs::Onlay];
        self
    }

    /// Run by exactly these.
    pub(crate) const fn by(mut self, who: &'static [User]) -> Self {
        self.who = who;
        self
    }

    /// Changes owners: for root, of the machine or of a user namespace.
    pub(crate) const fn privileged(self) -> Self {
        self.by(&[User::Root, User::Userns])
    }

    /// The kernel's union does not do this, and documents it.
    pub(crate) const fn kernel_deviates(mut self, why: &'static str) -> Self {
        self.deviates = Some(why);
        self
    }

    /// The kernel's union does not do this in a user namespace.
    pub(crate) const fn kernel_deviates_rootless(mut self, why: &'static str) -> Self {
        self.rootless_deviates = Some(why);
        self
    }

    /// Takes longer than two minutes.
    pub(crate) const fn slow(mut self, seconds: u64) -> Self {
        self.limit = seconds;
        self
    }

    /// Runs a container engine: in a mount namespace of its own where root starts it, on an image store of its own.
    pub(crate) const fn engine(mut self) -> Self {
        self.engine = true;
        self
    }

    /// Whether the combination says anything at all.
    pub(crate) fn applies(&self, fs: Fs, user: User) -> bool {
        // Mounting the kernel's union takes CAP_SYS_ADMIN.
        let possible = !(fs == Fs::Overlayfs && matches!(user, User::Ordinary | User::Norange));
        possible && self.on.contains(&fs) && self.who.contains(&user)
    }

    /// Why the case is not run here although it applies.
    pub(crate) fn deviation(&self, fs: Fs, user: User) -> Option<&'static str> {
        let rootless = self.rootless_deviates.filter(|_| user != User::Root);
        self.deviates.or(rootless).filter(|_| fs == Fs::Overlayfs)
    }
}

/// Said by a case that cannot run on this machine.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The error that makes a case count as skipped.
pub(crate) fn skip(why: impl Into<String>) -> anyhow::Error {
    Skip(why.into()).into()
}
