//! An upper, packed into a layer and unpacked again, shows over the same lowers what it showed as an upper.

use std::collections::{BTreeMap, BTreeSet};

use onlay::layer::{Handle, mem};
use onlay::overlay::{Config, Layers, Lower, Overlay};
use onlay::store::pack::{self, Packed, pack_tree, pack_upper};
use onlay::store::unpack::{self, Compression, Owners, unpack};
use onlay::vocab::Kind;
use onlay::vocab::dialect::Prefix;

use super::check::{Harness, same, view};
use super::model::Shown;

type View = BTreeMap<String, Shown>;

fn unpacked(blob: &[u8], packed: &Packed, owners: Owners) -> Handle {
    let into = Handle::Mem(mem::Tree::new(7).root(true));
    let options = unpack::Options { owners, ..unpack::Options::default() };
    let r = unpack(blob, &into, &options, &|_| {}).expect("what we packed");
    assert_eq!((&r.diff_id, &r.blob), (&packed.diff_id, &packed.blob));
    assert_eq!((r.blob_size, r.tar_size, r.entries), (packed.blob_size, packed.tar_size, packed.entries));
    into
}

fn stack(layers: Vec<Handle>) -> Overlay {
    let lowers = layers.into_iter().map(|dir| Lower { dir }).collect();
    let config = Config { prefix: Some(Prefix::User), aufs: false, ..Config::default() };
    Overlay::new(Layers { upper: None, lowers }, config).expect("a union")
}

/// What a layer says of a view: nothing of sockets, and nothing that the machine's own union would read.
fn said(mut view: View) -> View {
    view.retain(|_, shown| shown.kind != Kind::Socket);
    for shown in view.values_mut() {
        shown.xattrs.retain(|name, _| !name.starts_with(Prefix::Trusted.as_bytes()));
    }
    view
}

impl Harness {
    pub(crate) fn check_packed(&mut self, stored: bool) {
        let (upper, work) = (self.part(b"upper"), self.part(b"work"));
        let lowers: Vec<Handle> = self.lower_layers().into_iter().map(|l| l.dir).collect();
        let owners = if stored { Owners::Stored } else { Owners::Real };
        let options = pack::Options { compression: Compression::None, level: None, owners };
        let mut blob = Vec::new();
        let packed = pack_upper(&upper, Some(&work), &lowers, options, &mut blob).expect("packed");
        let mut again = Vec::new();
        pack_upper(&upper, Some(&work), &lowers, options, &mut again).expect("packed again");
        assert!(blob == again, "the same upper gives the same bytes");

        let layer = unpacked(&blob, &packed, owners);
        let got = view(&stack(std::iter::once(layer).chain(lowers).collect()));
        let got = said(got);
        let want = said(self.view());
        same(&got.keys().collect::<Vec<_>>(), &want.keys().collect(), "paths");
        let hidden = self.linked_below();
        let seen = |shown: &Shown, path: &str| match hidden.contains(path) {
            // Those of its names that layers hide count for whoever has the inode index.
            true => Shown { nlink: None, first: String::new(), ..shown.clone() },
            false => shown.clone(),
        };
        for (path, shown) in &want {
            same(&seen(&got[path], path), &seen(shown, path), path);
        }

        // The whole view as one layer.
        let mut blob = Vec::new();
        let packed = pack_tree(self.overlay(), options, &mut blob).expect("packed");
        let got = view(&stack(vec![unpacked(&blob, &packed, Owners::Real)]));
        let seen = |view: &View| -> View {
            // Names that layers hide count no more.
            view.iter().map(|(path, shown)| (path.clone(), Shown { nlink: None, ..shown.clone() })).collect()
        };
        same(&seen(&got), &seen(&want), "the view as one layer");
    }

    /// Files of the lower layers with several names there: how many there are in all is for the inode index to say.
    fn linked_below(&self) -> BTreeSet<String> {
        let several = |id: &usize| {
            let node = &self.model.nodes[*id];
            node.from_lower && !node.is_dir() && node.nlink > 1
        };
        self.model.all().into_iter().filter(|(_, id)| several(id)).map(|(path, _)| path).collect()
    }
}
