//! `onlay history`.

use std::process::ExitCode;

use serde::Serialize;

use super::error::Error;
use super::store::{Format, StoreArgs, ago, print_rows, size};

/// List the layers of an image, the top one first, and what they were made by
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SIZE is that of the files in the layer alone: what it adds, and what has to be sent for it.

Example:
  onlay history debian:12")]
pub(super) struct Args {
    /// The image: a name, or an id or its first digits
    image: String,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
struct Row {
    /// The diff-id; `None`: this line changed the config only.
    layer: Option<String>,
    created: Option<String>,
    created_by: String,
    size: u64,
    comment: String,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let image = store.image(&args.image)?.image;
    let mut layers = store.image_layers(&image)?.into_iter();
    let mut rows = Vec::new();
    for line in image.config().history().iter().flatten() {
        let layer = if line.empty_layer() == Some(true) { None } else { layers.next() };
        rows.push(Row {
            created: line.created().clone(),
            created_by: line.created_by().clone().unwrap_or_default(),
            size: layer.as_ref().map_or(0, |l| l.info.size),
            layer: layer.map(|l| l.diff_id.to_string()),
            comment: line.comment().clone().unwrap_or_default(),
        });
    }
    // Layers that the history says nothing of.
    rows.extend(layers.map(|layer| Row {
        created: None,
        created_by: String::new(),
        size: layer.info.size,
        layer: Some(layer.diff_id.to_string()),
        comment: String::new(),
    }));
    rows.reverse();
    let cut = |text: &str, most: usize| match text.char_indices().nth(most) {
        Some((at, _)) if !args.no_trunc => format!("{}…", &text[..at]),
        _ => text.to_owned(),
    };
    print_rows(args.format, &rows, &["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"], |row| {
        let layer = row.layer.as_deref().map_or("-", |l| if args.no_trunc { l } else { l.get(7..19).unwrap_or(l) });
        vec![
            layer.to_owned(),
            ago(row.created.as_deref()),
            cut(&row.created_by, 45),
            size(row.size),
            cut(&row.comment, 60),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}
