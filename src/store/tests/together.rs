//! Several at once, and one who was interrupted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use std::fs::File;

use super::*;

#[test]
fn a_sweep_has_its_turn_where_somebody_always_adds() {
    let (_dir, store) = store();
    // Another process's, as it were: what is held by one is not held by the other.
    let other = || Store::open(store.root()).unwrap();
    let swept = AtomicBool::new(false);
    let turns = AtomicUsize::new(0);
    let sweeper = other();
    std::thread::scope(|s| {
        let mut held = Some(store.adding().unwrap());
        s.spawn(|| {
            sweeper.sweep(true).unwrap();
            swept.store(true, Ordering::SeqCst);
        });
        // Nobody lets go before the next one has it, unless that one is kept waiting.
        while !swept.load(Ordering::SeqCst) {
            assert!(turns.fetch_add(1, Ordering::SeqCst) < 2000, "the sweep has never had its turn");
            let (tell, told) = channel();
            let next = other();
            s.spawn(move || tell.send(next.adding().unwrap()).unwrap());
            let ready = told.recv_timeout(Duration::from_millis(30));
            drop(held.take());
            // As long as some work.
            std::thread::sleep(Duration::from_millis(1));
            held = Some(ready.unwrap_or_else(|_| told.recv().unwrap()));
        }
    });
}

#[test]
fn who_adds_already_does_not_wait_for_a_sweep_that_waits() {
    let (_dir, store) = store();
    let first = store.adding().unwrap();
    let waiting = Store::open(store.root()).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| waiting.sweep(true).unwrap());
        // Until its gate is closed.
        let gate = File::open(store.path("gate.lock")).unwrap();
        while gate.try_lock_shared().is_ok() {
            gate.unlock().unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let again = store.adding().unwrap();
        store.put_blob(b"x").unwrap();
        drop(first);
        assert!(store.has_blob(&of(b"x")).unwrap(), "swept under somebody");
        drop(again);
    });
    assert!(!store.has_blob(&of(b"x")).unwrap());
}

#[test]
fn a_store_is_made_by_many_and_after_an_interruption() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let root = dir.path().join(n.to_string());
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    start.wait();
                    Store::open(&root).unwrap().images().unwrap();
                });
            }
        });
    }
    // Killed anywhere in between.
    let root = dir.path().join("killed");
    for made in ["", "tmp", "blobs/sha256", "layers", "containers", "partial"] {
        fs::create_dir_all(root.join(made)).unwrap();
        let copy = dir.path().join("copy");
        let status = std::process::Command::new("cp").arg("-a").args([&root, &copy]).status().unwrap();
        assert!(status.success());
        Store::open(&copy).unwrap();
        fs::remove_dir_all(&copy).unwrap();
    }
    // Somebody else's, also where it has a directory of that name.
    fs::write(root.join("letters"), "").unwrap();
    assert_eq!(Store::open(&root).unwrap_err().kind(), ErrorKind::Bad);
}

#[test]
fn a_name_that_an_image_got_meanwhile_keeps_it() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let (_, known) = store.images().unwrap().remove(0);
    store.add_image(a.digest(), Some(&parse_name("b").unwrap())).unwrap();
    store.forget_image(a.digest(), &known).unwrap();
    store.sweep(true).unwrap();
    assert_eq!(names(&store), [(a.id().to_string(), vec!["b:latest".to_owned()])]);
    // One that had none, likewise.
    let c = image(&store, &["c"], None);
    store.add_image(c.digest(), Some(&parse_name("c").unwrap())).unwrap();
    store.forget_image(c.digest(), &[]).unwrap();
    assert_eq!(names(&store).len(), 2);
    store.forget_image(c.digest(), &[parse_name("c").unwrap()]).unwrap();
    assert_eq!(names(&store).len(), 1);
}

#[test]
fn nothing_is_swept_where_a_container_can_not_be_read() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let container = store.create_container(new_container(&a, None)).unwrap();
    store.forget_image(a.digest(), &[parse_name("a").unwrap()]).unwrap();
    let record = container.dir().join("record.json");
    let good = fs::read(&record).unwrap();
    fs::write(&record, "{").unwrap();
    let error = store.sweep(true).unwrap_err();
    assert!(error.to_string().contains("nothing was removed") && error.hint().is_some(), "{error}");
    fs::write(&record, good).unwrap();
    assert_eq!(store.sweep(true).unwrap().unwrap(), Freed::default());
    assert_eq!(store.image_layers(&a).unwrap().len(), 1);
}

#[test]
fn the_index_of_a_stack_that_is_no_image_goes() {
    let (_dir, store) = store();
    let index =
        |ids: &[&[u8]]| store.index_of_stack(&ids.iter().map(|id| of(id)).collect::<Vec<_>>()).unwrap().unwrap();
    image(&store, &["a", "b"], Some("child"));
    let a = image(&store, &["a"], Some("parent"));
    let (parent, child) = (index(&[b"a"]), index(&[b"a", b"b"]));
    store.forget_image(a.digest(), &[parse_name("parent").unwrap()]).unwrap();
    // A mount that shows it has it open, or is about to.
    let held = store.hold_layers(&store.layers(a.diff_ids()).unwrap()).unwrap();
    store.sweep(true).unwrap();
    assert!(parent.exists() && child.exists());
    drop(held);
    store.sweep(true).unwrap();
    assert!(!parent.exists() && child.exists());
    assert!(store.layer(&of(b"a")).unwrap().is_some());
}

#[test]
fn more_layers_than_can_be_mounted_are_no_image() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], None);
    let mut manifest = serde_json::to_value(a.manifest()).unwrap();
    let mut config = serde_json::to_value(a.config()).unwrap();
    let many = |one: &serde_json::Value| serde_json::Value::Array(vec![one.clone(); 501]);
    manifest["layers"] = many(&manifest["layers"][0]);
    config["rootfs"]["diff_ids"] = many(&config["rootfs"]["diff_ids"][0]);
    let (manifest, config) = (manifest.to_string(), config.to_string());
    let error = Image::parse(a.digest().clone(), manifest.as_bytes(), config.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("501 layers are more than 500"), "{error}");
}

#[test]
fn a_layer_that_two_have_built_is_the_first_ones() {
    let (_dir, store) = store();
    let _adding = store.adding().unwrap();
    let id = of(b"layer");
    let build = || store.build_layer(|_| Ok((id.clone(), LayerInfo { size: 0, entries: 0 }))).unwrap();
    let publish = |built| {
        store.publish_layers(&store.claim_layers(std::slice::from_ref(&id)).unwrap(), vec![built]).unwrap();
        let tree = store.layer(&id).unwrap().unwrap().tree;
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(tree).unwrap())
    };
    let (first, second) = (build(), build());
    // Whoever has found it may show it already: it is not taken away for a moment.
    assert_eq!(publish(first), publish(second));
    let left = fs::read_dir(store.path("tmp")).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| !name.ends_with(".lock")).count(), 0);
}

#[test]
fn whoever_claims_layers_in_any_order_gets_them() {
    let (_dir, store) = store();
    let ids: Vec<_> = (0..4_u8).map(|n| of(&[n])).collect();
    std::thread::scope(|s| {
        for n in 0..8 {
            let (store, mut ids) = (&store, ids.clone());
            ids.rotate_left(n % 4);
            s.spawn(move || {
                let _adding = store.adding().unwrap();
                for _ in 0..50 {
                    let claim = store.claim_layers(&ids).unwrap();
                    assert!(ids.iter().all(|id| claim.lacks(id)));
                }
            });
        }
    });
}
