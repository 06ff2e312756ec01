//! What is cut short, flipped or gone is a miss with a reason, never an error, and heals when it is computed again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::SystemTime,
};

use twdag::{
    digest::ArtifactId,
    store::{Hashing, Lookup, Record, Store},
};

use crate::place::{Place, key, listed, overwrite, read_files, record};

const FILES: &[(&str, &str)] = &[("a.txt", "one"), ("b/c.txt", "two")];

fn published() -> (Place, Record) {
    let place = Place::new();
    let record = record(key("x"), place.ingest(FILES));
    place.store.publish(&record).unwrap();
    (place, record)
}

fn tree(place: &Place, artifact: &ArtifactId) -> PathBuf {
    place.named("trees", artifact.digest())
}

/// Damages the file that `choose` picks, sees a miss, computes again, sees a hit.
fn damaged(choose: fn(&Place, &Record) -> PathBuf, damage: fn(&Path)) -> String {
    let (place, published) = published();
    let view = place.store.view(&published.artifact).unwrap();
    damage(&choose(&place, &published));
    let lookup = place.store.lookup(&key("x")).unwrap();
    assert_eq!(place.store.record(&key("x")).unwrap(), None);
    assert_eq!(place.ingest(FILES), published.artifact);
    place.store.publish(&published).unwrap();
    assert_eq!(place.store.record(&key("x")).unwrap(), Some(published.clone()));
    assert_eq!(place.store.view(&published.artifact).unwrap(), view);
    assert_eq!(read_files(&view), listed(FILES));
    match lookup {
        Lookup::Lost(problem) => problem.replace(place.store.root().to_str().unwrap(), "STORE"),
        Lookup::Absent => "absent".to_owned(),
        Lookup::Hit(_) => panic!("a damaged result was trusted"),
    }
}

fn object_file(place: &Place, _: &Record) -> PathBuf {
    place.object("two")
}

fn tree_file(place: &Place, record: &Record) -> PathBuf {
    tree(place, &record.artifact)
}

fn record_file(place: &Place, record: &Record) -> PathBuf {
    place.named("actions", record.key.digest())
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn cut(path: &Path) {
    let content = fs::read(path).unwrap();
    overwrite(path, &content[..content.len() / 2]);
}

fn empty(path: &Path) {
    overwrite(path, "");
}

fn flip(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    overwrite(path, content);
}

fn become_a_folder(path: &Path) {
    remove(path);
    fs::create_dir(path).unwrap();
}

#[test]
fn a_damaged_object_is_a_miss() {
    insta::assert_snapshot!(damaged(object_file, remove), @"the content of `b/c.txt` is no longer in the store");
    insta::assert_snapshot!(damaged(object_file, flip), @"the content of `b/c.txt` was changed in the store (STORE/objects/dc/770fff53f50835f8cc957e01c0d5731d3c2ed544c375493a28c09be5e09763)");
    damaged(object_file, cut);
    damaged(object_file, empty);
    damaged(object_file, become_a_folder);
}

#[test]
fn a_damaged_tree_is_a_miss() {
    insta::assert_snapshot!(damaged(tree_file, remove), @"its list of files is not in the store");
    insta::assert_snapshot!(damaged(tree_file, flip), @"its list of files was changed (STORE/trees/03/e6d0fbcb4dbdb9cb956ac044de792687b1106ca1aaa6638c6107c936bd7555)");
    damaged(tree_file, cut);
    damaged(tree_file, empty);
}

#[test]
fn a_damaged_record_is_a_miss() {
    assert_eq!(damaged(record_file, remove), "absent");
    insta::assert_snapshot!(damaged(record_file, flip), @"its record was ignored: STORE/actions/3a/e7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5: it is damaged (cut short or changed)");
    damaged(record_file, cut);
    damaged(record_file, empty);
}

#[test]
fn any_byte_of_a_record_or_tree_counts() {
    let (place, published) = published();
    for file in [record_file(&place, &published), tree(&place, &published.artifact)] {
        let whole = fs::read(&file).unwrap();
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            overwrite(&file, &changed);
            assert_eq!(place.store.record(&key("x")).unwrap(), None, "byte {position} of {}", file.display());
        }
        overwrite(&file, &whole);
        assert_eq!(place.store.record(&key("x")).unwrap(), Some(published.clone()));
    }
}

#[test]
fn a_record_under_another_key_does_not_count() {
    let (place, published) = published();
    let other = place.named("actions", key("y").digest());
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::copy(record_file(&place, &published), other).unwrap();
    assert!(matches!(place.store.lookup(&key("y")).unwrap(), Lookup::Lost(_)));
}

#[test]
fn writing_through_a_view_does_not_pass_unseen() {
    let (place, published) = published();
    let view = place.store.view(&published.artifact).unwrap();
    overwrite(&view.join("b/c.txt"), "tow");
    assert!(matches!(place.store.lookup(&key("x")).unwrap(), Lookup::Lost(_)));
    assert_eq!(place.ingest(FILES), published.artifact);
    assert_eq!(read_files(&place.store.view(&published.artifact).unwrap()), listed(FILES));
}

#[test]
fn a_copy_of_a_store_that_lost_the_times_is_trusted_after_a_look_at_its_bytes() {
    let (place, published) = published();
    let object = place.object("two");
    let original = object.metadata().unwrap().modified().unwrap();
    File::open(&object).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(place.store.record(&key("x")).unwrap(), Some(published));
    // And needs no such look again.
    assert_eq!(object.metadata().unwrap().modified().unwrap(), original);
}

/// Flips a bit and hides it as well as a program can: the same size, mode and time.
fn flip_unseen(path: &Path) {
    let before = path.metadata().unwrap();
    flip(path);
    File::open(path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
    let after = path.metadata().unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
}

#[test]
fn a_flip_with_size_and_time_restored_is_noticed() {
    damaged(object_file, flip_unseen);
    // Also by a process that looks for the first time, and after the object got and lost names.
    let (place, published) = published();
    let view = place.store.view(&published.artifact).unwrap();
    flip_unseen(&place.object("two"));
    let other = Store::open(place.store.root()).unwrap();
    assert_eq!(other.record(&key("x")).unwrap(), None);
    assert_eq!(place.ingest(FILES), published.artifact);
    assert_eq!(read_files(&place.store.view(&published.artifact).unwrap()), listed(FILES));
    assert_eq!(read_files(&view), listed(FILES));
}

#[test]
fn a_flip_in_a_program_inside_a_view_is_noticed() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let output = place.output(&[("tool", "#!/bin/sh\n")]);
    fs::set_permissions(output.join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
    let artifact = place.store.ingest(&output).unwrap();
    let view = place.store.view(&artifact).unwrap();
    flip_unseen(&view.join("tool"));
    assert_eq!(read_files(&place.store.view(&artifact).unwrap()), listed(&[("tool", "#!/bin/sh\n")]));
    // It was a copy, so the object is whole.
    assert_eq!(place.store.take_damage(), []);
}

#[test]
fn what_is_whole_is_read_once_and_not_again() {
    let (place, published) = published();
    let seals = place.store.root().join("local/seals");
    let noted = fs::metadata(&seals).unwrap().len();
    assert!(Store::open(place.store.root()).unwrap().record(&key("x")).unwrap().is_some());
    let view = place.store.view(&published.artifact).unwrap();
    let viewed = fs::metadata(&seals).unwrap().len();
    // The view gave each object a name, and so a new change time.
    assert_eq!(viewed, 2 * noted);
    for _ in 0..2 {
        let other = Store::open(place.store.root()).unwrap();
        assert!(other.record(&key("x")).unwrap().is_some());
        assert_eq!(other.view(&published.artifact).unwrap(), view);
    }
    assert_eq!(fs::metadata(&seals).unwrap().len(), viewed);
    // Without the index every file is read and noted once more.
    fs::remove_file(&seals).unwrap();
    assert!(Store::open(place.store.root()).unwrap().record(&key("x")).unwrap().is_some());
    assert_eq!(fs::metadata(&seals).unwrap().len(), noted);
}

#[test]
fn damage_is_set_aside_with_its_reason_and_told_once() {
    let (place, published) = published();
    let object = place.object("two");
    flip(&object);
    assert_eq!(place.store.record(&key("x")).unwrap(), None);
    let [damage] = place.store.take_damage().try_into().unwrap();
    assert_eq!((&damage.path, object.exists()), (&object, false));
    let quarantine = damage.quarantine.unwrap();
    assert_eq!(fs::read(&quarantine).unwrap(), b"tvo");
    let reason = fs::read_to_string(quarantine.to_string_lossy().into_owned() + ".reason.txt").unwrap();
    assert!(reason.contains("the content of `b/c.txt` was changed in the store"), "{reason}");
    assert_eq!(place.store.record(&key("x")).unwrap(), None);
    assert_eq!(place.store.take_damage(), []);
    for (room, digest) in [("trees", published.artifact.digest()), ("actions", published.key.digest())] {
        place.ingest(FILES);
        place.store.publish(&published).unwrap();
        become_a_folder(&place.named(room, digest));
        assert_eq!(place.store.record(&key("x")).unwrap(), None, "{room}");
        assert_eq!(place.store.take_damage().len(), 1, "{room}");
        place.ingest(FILES);
        place.store.publish(&published).unwrap();
        assert!(place.store.record(&key("x")).unwrap().is_some(), "{room}");
    }
}

#[test]
fn damage_that_cannot_be_set_aside_is_replaced_and_never_trusted() {
    let (place, published) = published();
    fs::write(place.store.root().join("local/quarantine"), "a file in place of the folder").unwrap();
    flip_unseen(&place.object("two"));
    assert_eq!(place.store.record(&key("x")).unwrap(), None);
    assert_eq!(place.store.take_damage()[0].quarantine, None);
    assert_eq!(place.store.record(&key("x")).unwrap(), None);
    assert_eq!(place.ingest(FILES), published.artifact);
    assert_eq!(read_files(&place.store.view(&published.artifact).unwrap()), listed(FILES));
}

#[test]
fn what_is_written_to_while_a_check_hashes_is_not_trusted_after_it() {
    let (place, published) = published();
    place.store.view(&published.artifact).unwrap();
    // When all is hashed, and before the index of what was found is written.
    let late = |hashing: Hashing| {
        if hashing.done == hashing.total {
            flip_unseen(&place.object("two"));
        }
    };
    place.store.check(&late).unwrap();
    assert_eq!(Store::open(place.store.root()).unwrap().record(&key("x")).unwrap(), None);
    assert_eq!(place.store.record(&key("x")).unwrap(), None);
}

#[test]
fn what_is_written_to_while_a_view_is_made_is_not_trusted_after_it() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let output = place.output(&[("a", "text")]);
    // A program, which is copied.
    File::create(output.join("tool")).unwrap().set_len(256 << 20).unwrap();
    fs::set_permissions(output.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let artifact = place.store.ingest(&output).unwrap();
    place.store.publish(&record(key("x"), artifact)).unwrap();
    thread::scope(|scope| {
        let made = scope.spawn(|| place.store.view(&artifact));
        let views = place.store.root().join("local/views");
        let is_copied = |building: &fs::DirEntry| building.path().join("tool").exists();
        while !made.is_finished() && !fs::read_dir(&views).is_ok_and(|views| views.flatten().any(|one| is_copied(&one)))
        {
        }
        flip_unseen(&place.object("text"));
        // Whether the view shows it or not, depending on who was first.
        let _ = made.join().unwrap();
    });
    assert_eq!(Store::open(place.store.root()).unwrap().record(&key("x")).unwrap(), None);
}
