//! Fetching what is not here.

use super::*;

#[test]
fn an_image_comes_whole() {
    let image = Image::new(&[&bytes(300_000, 1), &bytes(10, 2), b""]);
    let server = serving(&image);
    let dir = Dir::new();
    let told = Told::default();
    let reference = parse_reference(&format!("{}/app:1", server.host())).unwrap();
    let session = Session::open(&reference, &Access::Pull, &options()).unwrap();
    let pulled = session.pull(&Platform::here(), &dir, &told).unwrap();
    assert_eq!(dir.all(), image.blobs());
    assert_eq!((pulled.bytes, pulled.digest, pulled.fetched), (image.manifest.clone(), digest::of(&image.manifest), 4));
    assert_eq!(pulled.media_type.as_ref(), MANIFEST);
    assert_eq!(pulled.index, None);
    let told = told.0.into_inner().unwrap();
    assert!(told.contains(&"start 300000 0".to_owned()) && told.contains(&"end 300000 Sent".to_owned()), "{told:?}");
}

#[test]
fn what_is_here_is_not_fetched() {
    let parent = Image::new(&[&bytes(1000, 1)]);
    let child = Image::new(&[&bytes(1000, 1), &bytes(2000, 2)]);
    let server = serving(&child);
    let dir = Dir::new();
    dir.put(&parent.layers[0]);
    dir.put(&parent.config);
    assert_eq!(pull(&server, &dir).unwrap().fetched, 1);
    assert_eq!(server.count("GET", "/blobs/"), 1);
    assert_eq!(pull(&server, &dir).unwrap().fetched, 0);
    assert_eq!(server.count("GET", "/blobs/"), 1);
    assert_eq!(dir.all(), child.blobs());
}

#[test]
fn the_same_layer_twice_is_fetched_once() {
    let image = Image::new(&[b"x", b"y", b"x"]);
    let server = serving(&image);
    let dir = Dir::new();
    pull(&server, &dir).unwrap();
    assert_eq!(server.count("GET", &image.layer(0)), 1);
    assert_eq!(dir.all(), image.blobs());
}

#[test]
fn it_goes_on_where_it_stopped() {
    let image = Image::new(&[&bytes(100_000, 1)]);
    let server = serving(&image);
    let dir = Dir::new();
    dir.put_part(&image.layers[0], &image.layers[0][..60_000]);
    pull(&server, &dir).unwrap();
    let ranges: Vec<_> = server.calls().iter().filter_map(|c| c.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=60000-"]);
    assert_eq!(dir.all(), image.blobs());
}

#[test]
fn all_there_but_the_name_needs_no_request() {
    let image = Image::new(&[&bytes(1000, 1)]);
    let server = serving(&image);
    let dir = Dir::new();
    dir.put_part(&image.layers[0], &image.layers[0]);
    pull(&server, &dir).unwrap();
    assert_eq!(server.count("GET", &image.layer(0)), 0);
    assert_eq!(dir.all(), image.blobs());
}

#[test]
fn a_bad_beginning_is_fetched_again() {
    let image = Image::new(&[&bytes(1000, 1)]);
    for left in [bytes(500, 9), bytes(5000, 9), bytes(1000, 9)] {
        let server = serving(&image);
        let dir = Dir::new();
        dir.put_part(&image.layers[0], &left);
        pull(&server, &dir).unwrap();
        assert_eq!(dir.all(), image.blobs());
    }
}

#[test]
fn a_registry_without_ranges_sends_all_of_it() {
    let image = Image::new(&[&bytes(1000, 1)]);
    for refused in [200, 416] {
        let good = image.clone();
        let server = Server::start(move |call| match call.header("range") {
            Some(_) if refused == 416 => Reply::new(416, ""),
            _ => {
                let mut call = call.clone();
                call.headers.remove("range");
                good.answer(&call)
            }
        });
        let dir = Dir::new();
        dir.put_part(&image.layers[0], &image.layers[0][..600]);
        pull(&server, &dir).unwrap();
        assert_eq!(dir.all(), image.blobs());
    }
}

#[test]
fn a_broken_connection_is_gone_on_from_where_it_broke() {
    let image = Image::new(&[&bytes(100_000, 1)]);
    let layer = image.layer(0);
    let server = serving_but(&image, move |call, good| {
        if call.is("GET", &layer) && call.header("range").is_none() { good.cut(40_000) } else { good }
    });
    let dir = Dir::new();
    pull(&server, &dir).unwrap();
    let ranges: Vec<_> = server.calls().iter().filter_map(|c| c.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=40000-"]);
    assert_eq!(dir.all(), image.blobs());
}

#[test]
fn an_index_leads_to_the_platforms_image() {
    let image = Image::new(&[b"amd64"]);
    let entry = |bytes: &[u8], arch: &str| {
        serde_json::json!({"mediaType": MANIFEST, "size": bytes.len(), "digest": digest::of(bytes).to_string(),
            "platform": {"os": "linux", "architecture": arch}})
    };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(b"other", "arm64"), entry(&image.manifest, "amd64")]});
    let index = serde_json::to_vec(&index).unwrap();
    let sent = index.clone();
    let server = serving_but(&image, move |call, good| match call.path.ends_with("/manifests/1") {
        true => Reply::new(200, sent.clone()).with("Content-Type", "application/vnd.oci.image.index.v1+json"),
        false => good,
    });
    let dir = Dir::new();
    let pulled = pull(&server, &dir).unwrap();
    assert_eq!((pulled.digest, pulled.index), (digest::of(&image.manifest), Some(digest::of(&index))));
    assert_eq!(dir.all(), image.blobs());
}

#[test]
fn several_layers_come_at_once() {
    let image = Image::new(&[&bytes(10, 1), &bytes(10, 2), &bytes(10, 3)]);
    // Three of the four blobs have to be asked for before any is answered.
    let meeting = std::sync::Barrier::new(3);
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let server = serving_but(&image, move |call, good| {
        if call.is("GET", "/blobs/") && asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3 {
            meeting.wait();
        }
        good
    });
    let dir = Dir::new();
    let mut options = options();
    options.patience.stall = Duration::from_secs(20);
    pull_with(&server, &options, &dir).unwrap();
    assert_eq!(dir.all(), image.blobs());
}
