//! What saves requests and copies: what was asked for, what was chosen, and why.

use std::fmt;

/// What is asked of a mechanism.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Whatever was measured to be best here.
    #[default]
    Auto,
    /// To be used if it can.
    On,
    /// Not to be used.
    Off,
}

impl Wish {
    /// What it comes to where `best` is best.
    pub(super) fn or(self, best: bool) -> bool {
        match self {
            Self::Auto => best,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// How far the kernel is to read ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readahead {
    /// As far as was measured to be best, if we may say so.
    #[default]
    Auto,
    /// As the kernel does by itself.
    Kernel,
    /// This many KiB.
    KiB(u32),
}

/// What is asked of all mechanisms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The kernel remembers names that are not there.
    pub negative_entries: Wish,
    /// The kernel asks for no extended attribute once nothing in a read-only view was seen to have one.
    pub absent_xattrs: Wish,
    /// The view of a parent image is on the same device as that of the step that is compared with it.
    pub beside: Wish,
    /// The kernel opens files without asking.
    pub no_open: Wish,
    /// The kernel opens directories without asking, and keeps their content.
    pub dir_cache: Wish,
    /// The kernel asks for what comes next in a file before it is wanted.
    pub readahead: Readahead,
    /// The kernel reads and writes files on disk without us.
    pub passthrough: Wish,
    /// The kernel keeps what is written and passes it on later.
    pub writeback: Wish,
    /// The kernel asks once, not before each write, whether a file has capabilities to lose.
    pub killpriv: Wish,
    /// The kernel is told when files were born: one request for each inode that it is asked about so.
    pub btime: Wish,
}

/// One mechanism as it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its name, as in `-o`.
    pub name: &'static str,
    /// `on`, `off` or a size.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Chosen {
    pub(super) fn new(name: &'static str, on: bool, why: impl Into<String>) -> Self {
        Self { name, what: if on { "on" } else { "off" }.into(), why: why.into() }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.name, self.what, self.why)
    }
}

/// `asked` where the user said what was chosen, `best` where not; what hindered in any case.
pub(super) fn why(wish: Wish, hindered: Option<&str>, best: &str) -> String {
    match (hindered, wish) {
        (Some(why), _) => why.into(),
        (None, Wish::Auto) => best.into(),
        (None, _) => "as asked".into(),
    }
}
