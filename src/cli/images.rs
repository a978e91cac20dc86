//! `onlay images`.

use std::process::ExitCode;

use oci_spec::distribution::Reference;
use serde::Serialize;

use super::error::Error;
use super::output::print;
use super::store::{ListArgs, StoreArgs, ago, print_rows, size};
use crate::registry::parse_reference;
use crate::store::{Image, Store, familiar};
use crate::vocab::digest::short;

/// List images
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SIZE is that of all files in the image; ADDS is what it adds to the largest image here that it is
built on. The sum of what is added is what is on disk.

Examples:
  onlay images
  onlay images debian
  onlay images --format json | jq -r '.[].id'")]
pub(super) struct Args {
    /// Only those with this name, or this name and tag
    name: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Serialize)]
struct Row {
    repository: Option<String>,
    tag: Option<String>,
    id: String,
    digest: String,
    created: Option<String>,
    size: u64,
    adds: u64,
    layers: usize,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let images = store.images()?;
    let mut rows = Vec::new();
    for (image, names) in &images {
        let (whole, adds) = sizes(&store, image, &images)?;
        let names: Vec<_> = if names.is_empty() { vec![None] } else { names.iter().map(familiar).map(Some).collect() };
        for name in names {
            if args.name.as_ref().is_some_and(|wanted| !is_named(name.as_ref(), wanted)) {
                continue;
            }
            let (repository, tag) = name.map_or((None, None), |(repository, tag)| (Some(repository), tag));
            rows.push(Row {
                repository,
                tag,
                id: image.id().digest().to_owned(),
                digest: image.digest().to_string(),
                created: image.config().created().clone(),
                size: whole,
                adds,
                layers: image.diff_ids().len(),
            });
        }
    }
    // The newest first, as docker's.
    rows.sort_by(|a, b| (&b.created, &a.repository, &a.tag).cmp(&(&a.created, &b.repository, &b.tag)));
    let id = |row: &Row| {
        if args.list.no_trunc { format!("sha256:{}", row.id) } else { row.id.get(..12).unwrap_or_default().to_owned() }
    };
    if args.list.quiet {
        let mut ids: Vec<_> = rows.iter().map(|row| id(row) + "\n").collect();
        ids.dedup();
        print(ids.concat().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let none = || "<none>".to_owned();
    print_rows(args.list.format, &rows, &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "ADDS"], |row| {
        vec![
            row.repository.clone().unwrap_or_else(none),
            row.tag.clone().unwrap_or_else(none),
            id(row),
            ago(row.created.as_deref()),
            size(row.size),
            size(row.adds),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn is_named(name: Option<&(String, Option<String>)>, wanted: &str) -> bool {
    let Some((repository, tag)) = name else { return false };
    let reference = parse_reference(wanted).ok();
    let familiar = reference.as_ref().map(familiar);
    let tagged = wanted.rsplit('/').next().is_some_and(|last| last.contains(':'));
    familiar.is_some_and(|(r, t)| r == *repository && (!tagged || t == *tag))
}

/// Bytes of all files, and of those in layers beyond the largest other image that this one is built on.
fn sizes(store: &Store, image: &Image, all: &[(Image, Vec<Reference>)]) -> Result<(u64, u64), Error> {
    let layers = match store.image_layers(image) {
        Ok(layers) => layers,
        Err(e) => {
            log::warn!("image {}: {e}", short(image.id()));
            return Ok((0, 0));
        }
    };
    let below = |other: &Image| {
        let ids = other.diff_ids();
        (ids.len() < image.diff_ids().len() && image.diff_ids().starts_with(ids)).then_some(ids.len())
    };
    let base = all.iter().filter_map(|(other, _)| below(other)).max().unwrap_or(0);
    Ok((layers.iter().map(|l| l.info.size).sum(), layers.iter().skip(base).map(|l| l.info.size).sum()))
}
