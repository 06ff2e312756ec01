//! Into the store and out again.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    thread,
};

use proptest::prelude::*;
use twdag::{blame::Blame, digest::Digest, store::StoreError};

use crate::place::{Place, listed, overwrite, read_files, write_files};

const FILES: &[(&str, &str)] = &[("a.txt", "one"), ("b/c.txt", "two"), ("b/d/e.txt", "one"), ("empty", "")];

#[test]
fn the_identity_of_an_artifact_is_pinned_and_made_of_content_alone() {
    let place = Place::new();
    let artifact = place.ingest(FILES);
    insta::assert_snapshot!(artifact, @"5f6b93c2d3c1291d4b3f2374516b68e5fc3328dcb2f8a5e8ab9e2f382f3b1672");
    let output = place.output(&[("empty", ""), ("b/d/e.txt", "one"), ("b/c.txt", "two"), ("a.txt", "one")]);
    fs::create_dir(output.join("no files")).unwrap();
    assert_eq!(Place::new().store.ingest(&output).unwrap(), artifact);
    let other = place.output(FILES);
    fs::set_permissions(other.join("a.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(place.store.ingest(&other).unwrap(), artifact);
}

#[test]
fn a_view_is_read_only_shares_the_bytes_and_is_made_once() {
    let place = Place::new();
    let output = place.output(FILES);
    let artifact = place.store.ingest(&output).unwrap();
    assert_eq!(fs::read_dir(&output).unwrap().count(), 0);
    let view = place.store.view(&artifact).unwrap();
    assert_eq!(read_files(&view), listed(FILES));
    let mode = |name: &str| view.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("b/d"), mode("b/c.txt")), (0o555, 0o555, 0o444));
    let inode = |name: &str| view.join(name).metadata().unwrap().ino();
    assert_eq!((inode("a.txt"), inode("a.txt")), (inode("b/d/e.txt"), place.object("one").metadata().unwrap().ino()));
    let made = inode("");
    assert_eq!(place.store.view(&artifact).unwrap(), view);
    assert_eq!(inode(""), made);
}

#[test]
fn a_program_can_be_run_from_a_view_and_shares_its_content_with_a_file_that_cannot() {
    let place = Place::new();
    let output = place.output(&[("tool", "#!/bin/sh\necho it runs\n"), ("text", "#!/bin/sh\necho it runs\n")]);
    fs::set_permissions(output.join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
    let view = place.store.view(&place.store.ingest(&output).unwrap()).unwrap();
    let run = std::process::Command::new(view.join("tool")).output().unwrap();
    assert_eq!(run.stdout, b"it runs\n");
    assert_eq!(view.join("text").metadata().unwrap().permissions().mode() & 0o777, 0o444);
}

#[test]
fn a_file_that_has_another_name_elsewhere_is_copied() {
    let place = Place::new();
    write_files(&place.path(""), &[("mine", "one")]);
    let output = place.output(&[]);
    fs::hard_link(place.path("mine"), output.join("a.txt")).unwrap();
    let artifact = place.store.ingest(&output).unwrap();
    // The user's file stays the user's.
    fs::write(place.path("mine"), "changed").unwrap();
    assert_eq!(read_files(&place.store.view(&artifact).unwrap()), listed(&[("a.txt", "one")]));
    // An output that links to an object shares it.
    let output = place.output(&[]);
    fs::hard_link(place.store.view(&artifact).unwrap().join("a.txt"), output.join("a.txt")).unwrap();
    assert_eq!(place.store.ingest(&output).unwrap(), artifact);
}

#[test]
fn a_damaged_view_is_made_anew() {
    let place = Place::new();
    let artifact = place.ingest(FILES);
    let view = place.store.view(&artifact).unwrap();
    let open = |folder: &str| fs::set_permissions(view.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    let damages: [&dyn Fn(); 4] = [
        &|| fs::remove_file(view.join("a.txt")).unwrap(),
        &|| fs::write(view.join("stray"), "").unwrap(),
        &|| fs::rename(view.join("b/c.txt"), view.join("b/f.txt")).unwrap(),
        &|| {
            fs::remove_dir_all(&view).unwrap();
            fs::write(&view, "a file in place of the folder").unwrap();
        },
    ];
    for damage in damages {
        open("");
        open("b");
        open("b/d");
        damage();
        assert_eq!(read_files(&place.store.view(&artifact).unwrap()), listed(FILES));
    }
}

#[test]
fn a_reference_inside_is_keyed_by_what_it_points_to() {
    let place = Place::new();
    let artifact = place.ingest(FILES);
    let inside = |path| place.store.digest_inside(&artifact, path);
    assert_eq!(inside(None).unwrap(), *artifact.digest());
    assert_eq!(inside(Some("a.txt")).unwrap(), Digest::of(b"one"));
    let below = place.ingest(&[("c.txt", "two"), ("d/e.txt", "one")]);
    assert_eq!(inside(Some("b")).unwrap(), *below.digest());
    assert_eq!(inside(Some("b/")).unwrap(), *below.digest());
    let error = inside(Some("b/c")).unwrap_err();
    assert_eq!(error.blame(), Blame::Graph);
    insta::assert_snapshot!(error, @"there is no `b/c` in the artifact; it holds `a.txt`, `b`, `empty`");
}

#[test]
fn what_no_artifact_can_hold_is_refused_and_stays_where_it_is() {
    let place = Place::new();
    let refused = |prepare: &dyn Fn(&std::path::Path)| {
        let output = place.output(&[("a.txt", "one")]);
        prepare(&output);
        let error = place.store.ingest(&output).unwrap_err();
        assert_eq!(error.blame(), Blame::Stage);
        assert_eq!(fs::read_to_string(output.join("a.txt")).unwrap(), "one");
        error.to_string().replace(output.to_str().unwrap(), "OUTPUT")
    };
    insta::assert_snapshot!(refused(&|output| symlink("a.txt", output.join("link")).unwrap()), @"OUTPUT/link: is a symbolic link; a stage must write the file itself");
    insta::assert_snapshot!(refused(&|output| { UnixListener::bind(output.join("socket")).unwrap(); }), @"OUTPUT/socket: is no file (a socket, pipe or device); artifacts hold files only");
    insta::assert_snapshot!(refused(&|output| fs::write(output.join("two\nlines"), "").unwrap()).escape_debug(), @r#"OUTPUT/two\nlines: the name must be UTF-8 text without control characters"#);
    insta::assert_snapshot!(refused(&|output| fs::write(output.join(OsStr::from_bytes(b"\xff")), "").unwrap()), @"OUTPUT/�: the name must be UTF-8 text without control characters");
    let empty = place.output(&[]);
    let error = place.store.ingest(&empty).unwrap_err().to_string().replace(empty.to_str().unwrap(), "OUTPUT");
    insta::assert_snapshot!(error, @"OUTPUT: the stage wrote no file; an artifact has at least one");
}

#[test]
fn a_store_that_cannot_be_written_says_so_and_keeps_the_output_for_another_try() {
    let place = Place::new();
    let output = place.output(FILES);
    fs::set_permissions(output.join("a.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    let in_the_way = place.object("two").parent().unwrap().to_owned();
    fs::write(&in_the_way, "a file in place of the folder").unwrap();
    let error = place.store.ingest(&output).unwrap_err();
    assert_eq!(error.blame(), Blame::Environment);
    assert!(error.to_string().contains(in_the_way.to_str().unwrap()), "{error}");
    assert_eq!(read_files(&output), listed(FILES));
    fs::remove_file(in_the_way).unwrap();
    let artifact = place.store.ingest(&output).unwrap();
    assert!(place.store.manifest(&artifact).unwrap().files()[0].executable);
    assert_eq!(read_files(&place.store.view(&artifact).unwrap()), listed(FILES));
}

#[test]
fn a_store_that_cannot_be_opened_says_what_to_do() {
    let place = Place::new();
    let file = place.path("file");
    fs::write(&file, "").unwrap();
    let Err(error) = twdag::store::Store::open(&file) else { panic!("a file is no store") };
    assert_eq!(error.blame(), Blame::Environment);
    insta::assert_snapshot!(error.to_string().replace(file.to_str().unwrap(), "FILE"), @"the store FILE cannot be used: cannot create FILE/objects: Not a directory (os error 20); make it a folder that you may write to, or name another one with --store");
}

#[test]
fn threads_that_store_and_view_the_same_content_do_not_disturb_each_other() {
    let place = Place::new();
    let outputs: Vec<_> = (0..8).map(|_| place.output(FILES)).collect();
    thread::scope(|scope| {
        for output in &outputs {
            scope.spawn(|| {
                let artifact = place.store.ingest(output).unwrap();
                assert_eq!(read_files(&place.store.view(&artifact).unwrap()), listed(FILES));
            });
        }
    });
    let left = |room: &str| fs::read_dir(place.store.root().join(room)).unwrap().count();
    assert_eq!(left("local/views"), 1);
}

#[test]
fn a_view_of_a_damaged_artifact_is_an_error_that_names_it() {
    let place = Place::new();
    let artifact = place.ingest(FILES);
    overwrite(&place.object("two"), "tow");
    let error = place.store.view(&artifact).unwrap_err();
    assert!(matches!(&error, StoreError::Artifact { artifact: named, .. } if *named == artifact));
    let message = error.to_string().replace(place.store.root().to_str().unwrap(), "STORE");
    insta::assert_snapshot!(message, @"artifact 5f6b93c2d3c1291d4b3f2374516b68e5fc3328dcb2f8a5e8ab9e2f382f3b1672: the content of `b/c.txt` was changed in the store (STORE/objects/dc/770fff53f50835f8cc957e01c0d5731d3c2ed544c375493a28c09be5e09763); run the graph again to compute it anew");
}

fn trees() -> impl Strategy<Value = BTreeMap<String, String>> {
    // Names that sort differently as whole paths and as parts, and that need care in JSON.
    let name = prop::sample::select(vec!["a", "a-", "a.b", "é", "\"quoted\"", "back\\slash", " ", "-rf"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    let size = prop_oneof![0_usize..40, Just((1 << 20) + 7)];
    let content = (".{0,3}", size).prop_map(|(text, size)| text.repeat(size / text.len().max(1)));
    prop::collection::btree_map(path, content, 1..6).prop_map(|mut tree| {
        // A name is a file or a folder, not both.
        let paths: Vec<String> = tree.keys().cloned().collect();
        tree.retain(|path, _| !paths.iter().any(|other| other.starts_with(&format!("{path}/"))));
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_goes_in_comes_out(tree in trees()) {
        let place = Place::new();
        let files: Vec<(&str, &str)> = tree.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
        let artifact = place.ingest(&files);
        prop_assert_eq!(read_files(&place.store.view(&artifact).unwrap()), tree.clone());
        let manifest = place.store.manifest(&artifact).unwrap();
        let named: BTreeMap<String, Digest> =
            manifest.files().iter().map(|file| (file.path.clone(), file.digest)).collect();
        let expected: BTreeMap<String, Digest> =
            tree.into_iter().map(|(path, content)| (path, Digest::of(content.as_bytes()))).collect();
        prop_assert_eq!(named, expected);
    }
}
