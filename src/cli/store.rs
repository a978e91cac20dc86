//! What the verbs of the store share: where it is, whose its files are, times and tables.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::error::Error;
use super::layers::is_machine_root;
use super::output::print;
use crate::runner::{self, Mapping};
use crate::store::unpack::Owners;
use crate::store::{self, Store};

/// Which store.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct StoreArgs {
    /// Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]
    #[arg(long, value_name = "STORE", env = "ONLAY_ROOT", hide_env_values = true, global = true)]
    root: Option<std::ffi::OsString>,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// An array of objects
    Json,
}

/// How a list is printed, and how much of it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only ids
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Cut nothing short: whole ids, digests and commands
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

impl StoreArgs {
    /// The store in this directory.
    pub(super) fn at(root: &std::path::Path) -> Self {
        Self { root: Some(root.into()) }
    }

    fn path(&self) -> Result<PathBuf, Error> {
        if let Some(root) = self.root.as_ref().filter(|r| !r.is_empty()) {
            return Ok(root.into());
        }
        if is_machine_root() {
            return Ok("/var/lib/onlay".into());
        }
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        var("XDG_DATA_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| var("HOME").map(|home| home.join(".local/share")))
            .map(|dir| dir.join("onlay"))
            .ok_or_else(|| Error::new("no HOME to keep images in").hint("name a directory: --root STORE"))
    }

    /// Whether there is a store.
    pub(super) fn exists(&self) -> bool {
        self.path().is_ok_and(|path| path.join("version").exists())
    }

    /// The store, for verbs that do not touch files of layers.
    pub(super) fn open(&self) -> Result<Store, Error> {
        Ok(Store::open(&self.path()?)?)
    }

    /// The store, and whose its files are. An ordinary user is root of a user namespace with all their ids from here on,
    /// so that files of subordinate ids can be read, made and removed. Before any thread.
    pub(super) fn open_files(&self) -> Result<(Store, Owners), Error> {
        let path = self.path()?;
        let mapping = Mapping::of_caller()?;
        let owners = owners(&mapping);
        if !rustix::process::geteuid().is_root() {
            runner::enter_user_namespace(&mapping)?;
        }
        Ok((Store::open(&path)?, owners))
    }
}

/// Whose the files of layers are with this map.
pub(super) fn owners(mapping: &Mapping) -> Owners {
    if mapping.is_single() { Owners::Stored } else { Owners::Real }
}

impl From<store::Error> for Error {
    fn from(e: store::Error) -> Self {
        let error = Self::new(&e);
        match e.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Prints rows as JSON, or as columns.
pub(super) fn print_rows<T: Serialize>(
    format: Format,
    rows: &[T],
    head: &[&str],
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<(), Error> {
    match format {
        Format::Json => print_json(&rows),
        Format::Table => print(table(head, rows.iter().map(cells)).as_bytes()),
    }
}

/// Prints a value as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::new(format!("write JSON: {e}")))?;
    text.push(b'\n');
    print(&text)
}

/// Columns as wide as their widest cell, three spaces between.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|h| (*h).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Names come from archives: nothing in them moves the cursor.
            let cell: String = cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            line += &format!("{cell:<width$}   ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `12.3MB`, as docker writes sizes.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$}{unit}")
}

/// `3 days ago`.
pub(super) fn ago(time: Option<&str>) -> String {
    let Some(time) = time.and_then(|t| t.parse::<jiff::Timestamp>().ok()) else { return "N/A".to_owned() };
    let seconds = jiff::Timestamp::now().as_second().saturating_sub(time.as_second());
    let (count, unit) = match seconds {
        ..1 => return "just now".to_owned(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_as_dockers() {
        for (bytes, said) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (12_345, "12.3kB"),
            (999_949, "1.00MB"),
            (74_800_000, "74.8MB"),
            (123_456_789, "123MB"),
        ] {
            assert_eq!(size(bytes), said);
        }
        assert_eq!(ago(None), "N/A");
        assert_eq!(ago(Some("2001-01-01T00:00:00Z")).rsplit_once(' ').map(|x| x.1), Some("ago"));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "bcd".to_owned()], vec!["\x1b[2J".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], rows.into_iter()), "X      Y\na      bcd\n?[2J\n");
    }
}
