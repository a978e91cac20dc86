//! `onlay inspect`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::error::{Error, each};
use super::store::{StoreArgs, print_json};
use crate::store::{Container, Either, Store, familiar_name};

/// Print all that is known of images and containers, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onlay inspect debian:12 | jq '.[0].config.config.Env'
  onlay inspect web | jq -r '.[0].state'")]
pub(super) struct Args {
    /// Names, or ids or their first digits; a container before an image of the same name
    #[arg(required = true)]
    names: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// There is one; it may be said.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// An array of objects
    #[default]
    Json,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    let mut found: Vec<Value> = Vec::new();
    let done = each(&args.names, |name| {
        found.push(inspect(&store, name)?);
        Ok(())
    });
    if !found.is_empty() || done.is_ok() {
        match args.format {
            Format::Json => print_json(&found)?,
        }
    }
    done
}

fn inspect(store: &Store, name: &str) -> Result<Value, Error> {
    let image = match store.container_or_image(name)? {
        Either::Container(container) => return of_container(&container),
        Either::Image(image) => image,
    };
    let names = store.images()?.into_iter().find(|(other, _)| *other == *image).map(|(_, names)| names);
    let names: Vec<String> = names.iter().flatten().map(familiar_name).collect();
    let layers = store.image_layers(&image)?;
    let layer = |l: &crate::store::Layer| json!({"diffId": l.diff_id, "size": l.info.size, "entries": l.info.entries});
    // As it is on disk: what OCI does not know of is there, too.
    let config: Value = serde_json::from_slice(&store.read_blob(image.id())?).unwrap_or_default();
    Ok(json!({
        "type": "image",
        "id": image.id(),
        "digest": image.digest(),
        "names": names,
        "size": layers.iter().map(|l| l.info.size).sum::<u64>(),
        "manifest": image.manifest(),
        "config": config,
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    }))
}

fn of_container(container: &Container) -> Result<Value, Error> {
    let fail = |e: serde_json::Error| Error::new(format!("write JSON: {e}"));
    let mut value = serde_json::to_value(&container.record).map_err(fail)?;
    if let Some(object) = value.as_object_mut() {
        let mut state = serde_json::to_value(container.state()?).map_err(fail)?;
        state["status"] = json!(container.status()?);
        object.insert("type".into(), "container".into());
        object.remove("begun");
        object.insert("state".into(), state);
        object.insert("upper".into(), json!(container.upper()));
    }
    Ok(value)
}
