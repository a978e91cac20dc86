//! The store without a mount and without archives.

mod spare;
mod together;

use std::io::Write;

use oci_spec::image::Digest;
use serde_json::json;

use super::*;
use crate::vocab::digest::{of, short};

pub(super) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// An image of the layers of these names (bottom first), each with one file in it.
pub(super) fn image(store: &Store, layers: &[&str], name: Option<&str>) -> Image {
    let _adding = store.adding().unwrap();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in layers {
        let blob = store.put_blob(layer.as_bytes()).unwrap();
        let build = |tree: &Path| {
            fs::write(tree.join("file"), layer).unwrap();
            Ok(LayerInfo { size: layer.len() as u64, entries: 1 })
        };
        store.add_layer(&blob, build).unwrap();
        descriptors.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer.len(),
            "digest": blob}));
        diff_ids.push(blob);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = serde_json::to_vec(&config).unwrap();
    let config_digest = store.put_blob(&config).unwrap();
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(),
            "digest": config_digest}, "layers": descriptors});
    let manifest = store.put_blob(&serde_json::to_vec(&manifest).unwrap()).unwrap();
    store.add_image(&manifest, name.map(|n| parse_name(n).unwrap()).as_ref()).unwrap()
}

fn new_container(image: &Image, name: Option<&str>) -> NewContainer {
    NewContainer {
        name: name.map(str::to_owned),
        image_name: "x".into(),
        image: image.clone(),
        process: Process { args: vec!["sh".into()], ..Process::default() },
        state: State::default(),
    }
}

fn names(store: &Store) -> Vec<(String, Vec<String>)> {
    let one = |(image, names): (Image, Vec<_>)| {
        let names = names.iter().map(familiar_name).collect();
        (image.id().to_string(), names)
    };
    store.images().unwrap().into_iter().map(one).collect()
}

#[test]
fn a_store_is_made_once_and_is_an_oci_layout() {
    let (dir, store) = store();
    image(&store, &["a"], Some("a"));
    let again = Store::open(store.root()).unwrap();
    assert_eq!(again.images().unwrap().len(), 1);
    let layout = fs::read_to_string(store.root().join("oci-layout")).unwrap();
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
    // Somebody's directory is not taken over, nor is a later version's.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("x"), "").unwrap();
    assert_eq!(Store::open(&other).unwrap_err().kind(), ErrorKind::Bad);
    fs::write(store.root().join("version"), "2\n").unwrap();
    assert!(Store::open(store.root()).unwrap_err().hint().is_some());
}

#[test]
fn a_blob_has_the_name_of_its_content_or_is_not_there() {
    let (_dir, store) = store();
    let digest = store.put_blob(b"hello").unwrap();
    assert_eq!((digest.clone(), store.read_blob(&digest).unwrap()), (of(b"hello"), b"hello".to_vec()));
    let mut wrong = store.new_blob().unwrap();
    wrong.write_all(b"hullo").unwrap();
    let error = wrong.finish(Some(&of(b"xyz"))).unwrap_err();
    assert!(error.to_string().contains(of(b"hullo").as_ref()), "{error}");
    assert!(!store.has_blob(&of(b"hullo")).unwrap() && !store.has_blob(&of(b"xyz")).unwrap());
    // Changed behind our back.
    let path = store.blob_path(&digest).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "hallo").unwrap();
    assert_eq!(store.read_blob(&digest).unwrap_err().kind(), ErrorKind::Bad);
    let sha512: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
    assert!(store.has_blob(&sha512).is_err());
}

#[test]
fn an_interrupted_blob_goes_on_where_it_ended() {
    let (_dir, store) = store();
    let digest = of(b"one and two");
    let mut first = store.resume_blob(&digest).unwrap().unwrap();
    first.write_all(b"one ").unwrap();
    drop(first);
    let mut second = store.resume_blob(&digest).unwrap().unwrap();
    assert_eq!(second.size(), 4);
    second.write_all(b"and two").unwrap();
    assert_eq!(second.finish(Some(&digest)).unwrap(), digest);
    assert_eq!(store.read_blob(&digest).unwrap(), b"one and two");
    assert!(store.resume_blob(&digest).unwrap().is_none());
    // What is wrong is not kept to go on with.
    let mut third = store.resume_blob(&of(b"other")).unwrap().unwrap();
    third.write_all(b"wrong").unwrap();
    third.finish(Some(&of(b"other"))).unwrap_err();
    assert_eq!(store.resume_blob(&of(b"other")).unwrap().unwrap().size(), 0);
    let mut fourth = store.resume_blob(&of(b"abc")).unwrap().unwrap();
    fourth.write_all(b"xx").unwrap();
    fourth.restart().unwrap();
    fourth.write_all(b"abc").unwrap();
    fourth.finish(Some(&of(b"abc"))).unwrap();
}

#[test]
fn a_name_moves_and_the_image_stays() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("app"));
    let b = image(&store, &["a", "b"], Some("app:latest"));
    let (a_id, b_id) = (a.id().to_string(), b.id().to_string());
    assert_eq!(names(&store), [(a_id.clone(), vec![]), (b_id.clone(), vec!["app:latest".to_owned()])]);
    store.add_image(a.digest(), Some(&parse_name("reg.example:5000/team/app:1").unwrap())).unwrap();
    let found = names(&store);
    assert!(found.contains(&(a_id, vec!["reg.example:5000/team/app:1".to_owned()])), "{found:?}");
    assert_eq!(found.len(), 2);
    assert_eq!(store.image("docker.io/library/app").unwrap().image, b);
    assert_eq!(store.image(&b_id).unwrap().image, b);
    assert_eq!(store.image(&b.id().digest()[..6]).unwrap().image, b);
    assert_eq!(store.image(&format!("app@{}", b.digest())).unwrap().image, b);
    store.remove_name(&parse_name("app").unwrap()).unwrap();
    assert_eq!(store.image("app").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.remove_name(&parse_name("app").unwrap()).unwrap_err().kind(), ErrorKind::NotFound);
    for bad in ["", "A", "a:b:c", "a b", "../a", &"a".repeat(64)] {
        assert!(parse_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_image_that_lacks_something_is_not_added() {
    let (_dir, store) = store();
    let a = image(&store, &["a", "b"], None);
    store.remove_tree(&store.layer_dir(&of(b"b")).unwrap()).unwrap();
    assert_eq!(store.add_image(a.digest(), None).unwrap_err().kind(), ErrorKind::NotFound);
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = serde_json::to_vec(a.manifest()).unwrap();
    let error = Image::parse(a.digest().clone(), &manifest, &config).unwrap_err();
    assert!(error.to_string().contains("0 diff-ids for 2 layers"), "{error}");
}

#[test]
fn a_layer_is_built_once_and_not_by_halves() {
    let (_dir, store) = store();
    let id = of(b"layer");
    let failed = store.add_layer(&id, |tree| {
        fs::write(tree.join("half"), "").unwrap();
        Err(Error::bad("no"))
    });
    assert!(failed.is_err() && store.layer(&id).unwrap().is_none());
    let built = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                let build = |tree: &Path| {
                    built.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    fs::write(tree.join("whole"), "").unwrap();
                    Ok(LayerInfo { size: 0, entries: 1 })
                };
                assert!(store.add_layer(&id, build).unwrap().tree.join("whole").exists());
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
}

#[test]
fn what_nothing_needs_goes_and_all_else_stays() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let b = image(&store, &["a", "b"], Some("b"));
    let c = image(&store, &["c"], Some("c"));
    let container = store.create_container(new_container(&c, Some("keeps"))).unwrap();
    for name in ["b", "c"] {
        let reference = parse_name(name).unwrap();
        store.remove_name(&reference).unwrap();
    }
    fs::write(store.path("tmp/left"), "").unwrap();
    let held = store.hold_layers(&store.layers(&[of(b"b")]).unwrap()).unwrap();
    assert_eq!(store.sweep(true).unwrap().unwrap().layers, 0);
    drop(held);
    // A child that another test is about to start may have what was held, until it executes something.
    let sweeps = (0..200).map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        store.sweep(true).unwrap().unwrap()
    });
    let freed = sweeps.into_iter().find(|freed| freed.layers > 0).unwrap();
    assert_eq!((freed.layers, freed.layer_bytes), (1, 1));
    assert!(store.layer(&of(b"b")).unwrap().is_none() && !store.path("tmp/left").exists());
    assert!(store.read_image(b.digest()).is_err());
    assert_eq!(store.image("a").unwrap().image, a);
    assert_eq!(store.image_layers(&store.read_image(c.digest()).unwrap()).unwrap().len(), 1);
    store.remove_container(&container, container.take().unwrap()).unwrap();
    assert_eq!(store.sweep(true).unwrap().unwrap().layers, 1);
    // Nobody sweeps under somebody who adds.
    let adding = store.adding().unwrap();
    assert_eq!(store.sweep(false).unwrap(), None);
    drop(adding);
    assert!(store.sweep(false).unwrap().is_some());
}

#[test]
fn containers_are_found_by_name_and_id_and_have_one_user() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let one = store.create_container(new_container(&a, Some("one"))).unwrap();
    let two = store.create_container(new_container(&a, None)).unwrap();
    assert_eq!(store.containers().unwrap(), [one.clone(), two.clone()]);
    assert_eq!(store.container("one").unwrap(), one);
    assert_eq!(store.container(two.short_id()).unwrap(), two);
    assert_eq!(store.container(&two.record.name).unwrap(), two);
    assert_eq!(store.container("").unwrap_err().kind(), ErrorKind::NotFound);
    let taken = store.create_container(new_container(&a, Some("one"))).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    assert!(store.create_container(new_container(&a, Some("no/way"))).is_err());
    assert_eq!(one.status().unwrap(), Status::Created);
    let running = one.take().unwrap();
    assert_eq!(one.status().unwrap(), Status::Running);
    assert_eq!(one.take().unwrap_err().kind(), ErrorKind::InUse);
    let state = State { started: Some("now".into()), exit_code: Some(3), ..State::default() };
    store.set_state(&one, &state).unwrap();
    drop(running);
    assert_eq!((one.status().unwrap(), one.state().unwrap()), (Status::Exited, state));
    store.remove_container(&one, one.take().unwrap()).unwrap();
    assert_eq!(store.containers().unwrap(), [two]);
}

/// Most images' upper layers have no entry for the root.
#[test]
fn the_root_of_a_container_is_that_of_the_layer_that_speaks_of_it() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, store) = store();
    let layers = image(&store, &["low", "mid", "top"], Some("a"));
    for (layer, (mode, implied)) in
        store.image_layers(&layers).unwrap().iter().zip([(0o700, false), (0o751, false), (0o755, true)])
    {
        fs::set_permissions(&layer.tree, fs::Permissions::from_mode(mode)).unwrap();
        if implied {
            rustix::fs::setxattr(&layer.tree, "user.overlay.onlay.implied", b"y", rustix::fs::XattrFlags::empty())
                .unwrap();
        }
    }
    let container = store.create_container(new_container(&layers, None)).unwrap();
    assert_eq!(fs::metadata(container.upper()).unwrap().permissions().mode() & 0o7777, 0o751);
}

#[test]
fn what_is_to_be_thrown_away_goes_whatever_a_crash_has_left_of_it() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let new = |name: &str| NewContainer {
        state: State { remove: true, ..State::default() },
        ..new_container(&a, Some(name))
    };
    let [ended, running, spoilt] = ["ended", "running", "spoilt"].map(|n| store.create_container(new(n)).unwrap());
    let kept = store.create_container(new_container(&a, Some("kept"))).unwrap();
    let state = State { started: Some("now".into()), remove: true, ..State::default() };
    store.set_state(&ended, &state).unwrap();
    assert_eq!(ended.state().unwrap(), state);
    // Names were written, contents were not.
    for (container, name) in [(&spoilt, "record.json"), (&spoilt, "state.json"), (&kept, "state.json")] {
        fs::write(container.dir().join(name), "").unwrap();
    }
    let runs = running.take().unwrap();
    store.sweep(true).unwrap();
    assert_eq!(store.containers().unwrap(), [running.clone(), kept.clone()]);
    // Somebody's work is in it.
    assert!(!ended.dir().exists() && !spoilt.dir().exists() && kept.dir().exists());
    store.remove_container(&running, runs).unwrap();
    // Whoever still has it in hand is told so.
    assert_eq!(running.status().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!running.dir().exists() && fs::read_dir(store.path("tmp")).unwrap().next().is_none());
}

#[test]
fn an_image_is_found_whatever_is_wrong_with_another() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let broken = image(&store, &["b"], Some("broken"));
    let path = store.path("blobs/sha256").join(broken.id().digest());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "{}").unwrap();
    assert_eq!(store.image("a").unwrap().image, a);
    // Which one, and that it is not as it should be.
    let e = store.image("broken").unwrap_err();
    assert!(e.to_string().contains(short(broken.id())), "{e}");
    // Had again it is whole.
    assert_eq!(image(&store, &["b"], Some("broken")), broken);
    assert_eq!(store.image("broken").unwrap().image, broken);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "{}").unwrap();
    store.remove_name(&parse_name("broken").unwrap()).unwrap();
    assert_eq!(store.image("broken").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.sweep(true).unwrap().unwrap().layers, 1);
}

#[test]
fn json_has_sorted_keys() {
    let map = std::collections::HashMap::from([("b", 1), ("a", 2), ("c", 3)]);
    assert_eq!(to_json(&[map]).unwrap(), br#"[{"a":2,"b":1,"c":3}]"#);
}

#[test]
fn an_image_has_an_index_of_its_layers() {
    use crate::layer::{Handle, disk};
    use crate::overlay::{Config, Layers, Lower, Overlay, ROOT};
    use crate::vocab::dialect::Prefix;

    let (_dir, store) = store();
    let parent = image(&store, &["a", "b"], Some("parent"));
    let child = image(&store, &["a", "b", "c"], Some("child"));
    let indexes = [&parent, &child].map(|i| {
        let layers = store.layers(i.diff_ids()).unwrap();
        let index = store.index_of_layers(&layers).unwrap().unwrap();
        let open = |layer: &Layer| Lower { dir: Handle::Disk(disk::Object::open(&layer.tree, false).unwrap()) };
        let lowers = layers.iter().rev().map(open).collect();
        let config = Config { prefix: Some(Prefix::User), index: Some(index.clone()), ..Config::default() };
        let view = Overlay::new(Layers { upper: None, lowers }, config).unwrap();
        assert!(view.uses_index());
        let file = view.lookup(ROOT, b"file").unwrap();
        let mut data = [0; 2];
        assert_eq!(view.read(file.ino, 0, &mut data), Ok(1));
        (index, data[0])
    });
    assert_eq!(indexes.each_ref().map(|(_, top)| *top), [b'b', b'c']);
    assert_ne!(indexes[0].0, indexes[1].0);
    // By the chain-id, which other tools know, too.
    let ids = parent.diff_ids();
    let chain = of(format!("{} {}", ids[0], ids[1]).as_bytes());
    assert!(indexes[0].0.ends_with(format!("index-{}", chain.digest())));
    // It goes with the layer.
    store.remove_name(&parse_name("child").unwrap()).unwrap();
    store.sweep(true).unwrap();
    assert!(indexes[0].0.exists() && !indexes[1].0.exists());
}
