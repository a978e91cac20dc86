//! Work ahead: a walk is told what was read before it asked, once, and nothing else changes.

use onlay::layer::{Handle, mem};
use onlay::overlay::{Config, Layers, Lower, Overlay, ROOT};

/// The sizes that a listing of `dir` tells.
fn sizes(overlay: &Overlay, dir: u64) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut each = |_: &onlay::overlay::Entry<'_>, attr: Option<&onlay::overlay::Attr>| {
        sizes.extend(attr.map(|a| a.stat.size));
        false
    };
    overlay.readdir_plus(dir, 0, &mut each).expect("readdir_plus");
    sizes
}

fn work(overlay: &Overlay) -> usize {
    std::iter::from_fn(|| overlay.work_ahead().then_some(())).count()
}

#[test]
fn what_was_read_is_told_once() {
    let tree = mem::Tree::new(7);
    let root = Handle::Mem(tree.root(true));
    root.mkdir(b"dir", 0o755).expect("mkdir");
    let file = root.open_dir(b"dir").expect("open_dir").create(b"file", 0o644).expect("create");
    file.write_at(b"1", 0).expect("write");
    let mount = |live_lowers| {
        let lowers = vec![Lower { dir: Handle::Mem(tree.root(false)) }];
        let config = Config { live_lowers, ..Config::default() };
        Overlay::new(Layers { upper: None, lowers }, config).expect("a union")
    };
    let overlay = mount(false);
    sizes(&overlay, ROOT);
    assert_eq!(work(&overlay), 0, "nobody was to do it");
    overlay.expect_work_ahead();
    sizes(&overlay, ROOT);
    assert_eq!(work(&overlay), 2, "a listing and a name");
    let dir = overlay.lookup(ROOT, b"dir").expect("there").ino;
    // Which nobody may do to a layer: so it shows when it was read.
    file.write_at(b"22", 0).expect("write");
    assert_eq!(sizes(&overlay, dir), [1]);
    assert_eq!(sizes(&overlay, dir), [2]);
    // Whoever comes first does what is left.
    sizes(&overlay, ROOT);
    sizes(&overlay, dir);
    assert_eq!(work(&overlay), 0);

    // Layers that may change are not read before somebody asks.
    let live = mount(true);
    live.expect_work_ahead();
    sizes(&live, ROOT);
    assert_eq!(work(&live), 0);
}
