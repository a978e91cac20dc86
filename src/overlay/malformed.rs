//! Marks with values that they can't have: not used, and told.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::layer::Handle;

/// How many are told: layers come from strangers, logs are kept.
const MOST: usize = 100;

/// What was told, each once.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// `value` of the attribute `attr` of `name` in `dir` (empty: `dir` itself) says nothing and is not used: a line in the
/// log that names the file.
pub(super) fn tell(dir: &Handle, name: &[u8], attr: &[u8], value: &[u8]) {
    let text =
        format!("{}: {} is not used: it can't be \"{}\"", whereabouts(dir, name), attr.escape_ascii(), shown(value));
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < MOST && told.insert(text.clone()) {
        log::warn!("{text}");
        if told.len() == MOST {
            log::warn!("of further marks that make no sense nothing is said");
        }
    }
}

/// Where it is on disk, as far as that can be known.
fn whereabouts(dir: &Handle, name: &[u8]) -> String {
    let path = dir.whereabouts().unwrap_or_default().into_os_string().into_encoded_bytes();
    let path = if name.is_empty() { path } else { [&path, &b"/"[..], name].concat() };
    path.escape_ascii().to_string()
}

/// The beginning of a value.
fn shown(value: &[u8]) -> String {
    match value.get(..40) {
        Some(start) if start.len() < value.len() => format!("{}..", start.escape_ascii()),
        _ => value.escape_ascii().to_string(),
    }
}
