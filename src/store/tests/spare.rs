//! What a container that is thrown away leaves to the next one.

use super::*;

fn thrown_away(image: &Image) -> NewContainer {
    NewContainer { state: State { remove: true, ..State::default() }, ..new_container(image, None) }
}

/// As a run that writes nothing leaves it.
fn run(container: &Container) -> Running {
    let running = container.take().unwrap();
    for dir in ["work/work", "work/index"] {
        fs::create_dir_all(container.dir().join(dir)).unwrap();
    }
    fs::write(container.dir().join("control"), "").unwrap();
    rustix::fs::setxattr(container.upper(), "user.overlay.impure", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    running
}

/// Whether it begins with what another has left.
fn is_second_hand(container: &Container) -> bool {
    container.dir().join("control").exists()
}

fn left(store: &Store) -> usize {
    let names = fs::read_dir(store.path("tmp")).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_none_or(|e| e != "lock")).count()
}

#[test]
fn the_next_one_begins_with_what_nothing_was_written_on() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let [one, two] = [(); 2].map(|()| store.create_container(thrown_away(&a)).unwrap());
    assert!(!is_second_hand(&one));
    let runs = [&one, &two].map(run);
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    fs::File::open(one.upper()).unwrap().set_modified(long_ago).unwrap();
    for (container, running) in [&one, &two].into_iter().zip(runs) {
        store.retire_container(container, running).unwrap();
    }
    // Of the second nothing is left.
    assert!(!one.dir().exists() && !two.dir().exists());
    assert_eq!(left(&store), 1);
    assert_eq!(store.containers().unwrap(), []);
    // One that stays has a directory of its own.
    let kept = store.create_container(new_container(&a, None)).unwrap();
    assert!(!is_second_hand(&kept));
    let next = store.create_container(thrown_away(&a)).unwrap();
    assert!(is_second_hand(&next));
    assert!(fs::metadata(next.upper()).unwrap().modified().unwrap() > long_ago);
    assert_eq!(store.containers().unwrap(), [kept, next.clone()]);
    assert_eq!(next.status().unwrap(), Status::Created);
    store.retire_container(&next, run(&next)).unwrap();
    // Nobody's, but nothing that was left over.
    assert_eq!(store.sweep(true).unwrap(), Some(Freed::default()));
    assert_eq!(left(&store), 0);
}

#[test]
fn who_still_has_a_lock_keeps_the_next_one_away() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let one = store.create_container(thrown_away(&a)).unwrap();
    store.retire_container(&one, run(&one)).unwrap();
    let held = fs::File::open(store.path("tmp/spare/throw-away")).unwrap();
    held.lock().unwrap();
    let next = store.create_container(thrown_away(&a)).unwrap();
    assert!(!is_second_hand(&next));
    next.take().unwrap();
}

#[test]
fn a_record_that_is_another_s_is_not_shown() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let [one, two] = [(); 2].map(|()| store.create_container(thrown_away(&a)).unwrap());
    // What a crash of the machine may leave.
    fs::copy(one.dir().join("record.json"), two.dir().join("record.json")).unwrap();
    assert_eq!(store.containers().unwrap(), [one]);
    store.sweep(true).unwrap();
    assert_eq!(store.containers().unwrap(), []);
}

#[test]
fn what_was_written_on_is_left_to_nobody() {
    let (_dir, store) = store();
    let a = image(&store, &["a"], Some("a"));
    let xattr = |path: &Path| {
        rustix::fs::setxattr(path, "user.secret", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    };
    let many = |dir: &Path| {
        for n in 0..500 {
            fs::write(dir.join(format!("a name as long as it takes to make a directory big: {n}")), "").unwrap();
        }
        if fs::metadata(dir).unwrap().len() <= 4096 {
            // Of one that does not grow, or shrinks.
            return fs::write(dir.join("left"), "").unwrap();
        }
        for entry in fs::read_dir(dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    };
    let marks: [(&str, &dyn Fn(&Path)); 6] = [
        ("a directory that was full", &|dir| many(&dir.join("upper"))),
        ("a file", &|dir| fs::write(dir.join("upper/secret"), "x").unwrap()),
        ("a file on its way", &|dir| fs::write(dir.join("work/work/#1"), "x").unwrap()),
        ("a file in an index", &|dir| fs::write(dir.join("work/index/00fb"), "x").unwrap()),
        ("an attribute", &|dir| xattr(&dir.join("upper"))),
        ("more than a run leaves", &|dir| fs::write(dir.join("state.json"), "{}").unwrap()),
    ];
    for (what, mark) in marks {
        // Before it is left, and (somebody meddles, a disk is repaired) after.
        for late in [false, true] {
            let one = store.create_container(thrown_away(&a)).unwrap();
            let running = run(&one);
            if !late {
                mark(one.dir());
            }
            // As who serves a view does.
            if !is_untouched(&one.upper(), &one.work()) {
                fs::remove_dir_all(one.upper()).unwrap();
            }
            store.retire_container(&one, running).unwrap();
            let spare = store.path("tmp/spare");
            assert_eq!(spare.exists(), late, "{what}");
            if late {
                let record = fs::read(spare.join("record.json")).unwrap();
                assert!(record.iter().all(|b| *b == b' '), "what ran in it is kept");
                mark(&spare);
                let next = store.create_container(thrown_away(&a)).unwrap();
                assert!(!is_second_hand(&next), "{what}");
                store.retire_container(&next, run(&next)).unwrap();
            }
            store.sweep(true).unwrap();
        }
    }
}
