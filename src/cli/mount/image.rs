//! `onlay mount IMAGE DIR`: the layers of an image of the store as a view.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::error::Error;
use crate::cli::options::Settings;
use crate::cli::store::StoreArgs;
use crate::runner::Mapping;
use crate::vocab::dialect::{Prefix, STORED_STAT};
use crate::vocab::ids::{IdMap, IdMaps};

/// Mounts the image; its layers stay in the store for as long as the view does.
pub(super) fn mount(
    mut settings: Settings,
    image: &str,
    mountpoint: &Path,
    foreground: bool,
    store: &StoreArgs,
) -> Result<ExitCode, Error> {
    if !settings.given.lowers.is_empty() {
        return Err(Error::new("an image and --lower").hint("the image brings its own layers: leave --lower away"));
    }
    let store = store.open()?;
    // In whatever process the view is served.
    let hold = |settings: &mut Settings| {
        let adding = store.adding()?;
        let layers = store.image_layers(&store.image(image)?.image)?;
        let held = store.hold_layers(&layers)?;
        drop(adding);
        settings.index = store.index_of_layers(&layers)?.filter(|index| index.exists());
        settings.given.lowers = layers.into_iter().rev().map(|layer| layer.tree).collect();
        Ok::<_, Error>(held)
    };
    // What is wrong with the name is told by this process.
    hold(&mut settings)?;
    settings.prefix = Some(Prefix::User);
    settings.aufs = false;
    let mapping = Mapping::of_caller()?;
    if mapping.is_single() {
        settings.stored_owners = Some(STORED_STAT);
        // Whoever the image says owns a file, out here it is ours.
        settings.ids.uid.squash(rustix::process::getuid().as_raw());
        settings.ids.gid.squash(rustix::process::getgid().as_raw());
    } else if !rustix::process::geteuid().is_root() {
        // Files of subordinate ids are read as root of a user namespace, and shown as whose they are out here.
        settings.ids = IdMaps { uid: shown(mapping.uids())?, gid: shown(mapping.gids())? };
        settings.inside = Some(mapping);
    }
    let mut serve = |ready| {
        let _held = hold(&mut settings)?;
        super::serve(&settings, &settings.tuning, mountpoint, ready)
    };
    if foreground { serve(None) } else { super::in_background(|ready| serve(Some(ready))) }
}

fn shown(ranges: &[crate::runner::Range]) -> Result<IdMap, Error> {
    let words: Vec<_> = ranges.iter().map(|r| format!("{}:{}:{}", r.inside, r.outside, r.count)).collect();
    IdMap::parse(&words.join(":")).map_err(|e| Error::new(format!("id map: {e}")))
}
