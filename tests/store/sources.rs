//! Digests of what lies outside the graph.

use std::{
    fs::{self, File},
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
};

use twdag::{blame::Blame, digest::Digest, store::Store};

use crate::place::{Place, write_files};

fn digest(place: &Place, name: &str, files: &[&str]) -> Digest {
    let files: Vec<String> = files.iter().map(ToString::to_string).collect();
    place.store.digest_source(&place.path(name), &files).unwrap()
}

fn refused(place: &Place, name: &str, files: &[&str]) -> String {
    let files: Vec<String> = files.iter().map(ToString::to_string).collect();
    let error = place.store.digest_source(&place.path(name), &files).unwrap_err();
    assert!(matches!(error.blame(), Blame::Input | Blame::Graph), "{error}");
    error.to_string().replace(place.path("").to_str().unwrap().trim_end_matches('/'), "FOLDER")
}

#[test]
fn a_file_is_its_content() {
    let place = Place::new();
    write_files(&place.path(""), &[("a", "one"), ("b", "one")]);
    assert_eq!(digest(&place, "a", &[]), Digest::of(b"one"));
    assert_eq!(digest(&place, "b", &["ignored"]), Digest::of(b"one"));
    // Hashing on several cores gives the same.
    let large = "0123456789".repeat(700_000);
    write_files(&place.path(""), &[("large", &large)]);
    assert_eq!(digest(&place, "large", &[]), Digest::of(large.as_bytes()));
}

#[test]
fn a_change_of_same_size_and_time_is_noticed() {
    let place = Place::new();
    let path = place.path("a");
    write_files(&place.path(""), &[("a", "one")]);
    let time = path.metadata().unwrap().modified().unwrap();
    assert_eq!(digest(&place, "a", &[]), Digest::of(b"one"));
    fs::write(&path, "two").unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(digest(&place, "a", &[]), Digest::of(b"two"));
    // Another file in its place, as editors save.
    write_files(&place.path(""), &[("b", "six")]);
    File::options().write(true).open(place.path("b")).unwrap().set_modified(time).unwrap();
    fs::rename(place.path("b"), &path).unwrap();
    assert_eq!(digest(&place, "a", &[]), Digest::of(b"six"));
}

#[test]
fn a_folder_is_the_names_and_contents_of_its_files() {
    let place = Place::new();
    let files = [("x/a", "one"), ("x/b/c", "two")];
    write_files(&place.path(""), &files);
    let whole = digest(&place, "x", &[]);
    fs::rename(place.path("x"), place.path("y")).unwrap();
    fs::create_dir(place.path("y/empty")).unwrap();
    assert_eq!(digest(&place, "y", &[]), whole);
    fs::rename(place.path("y/a"), place.path("y/d")).unwrap();
    let renamed = digest(&place, "y", &[]);
    assert_ne!(renamed, whole);
    write_files(&place.path(""), &[("y/d", "eno")]);
    assert!(![whole, renamed].contains(&digest(&place, "y", &[])));
}

#[test]
fn patterns_choose_files() {
    let place = Place::new();
    let files = [("x/a.txt", "one"), ("x/b.md", "two"), ("x/c/d.txt", "three"), ("x/c/e/f.txt", "four")];
    write_files(&place.path(""), &files);
    let chosen = |patterns: &[&str], expected: &[usize]| {
        let other = Place::new();
        write_files(&other.path(""), &expected.iter().map(|&index| files[index]).collect::<Vec<_>>());
        assert_eq!(digest(&place, "x", patterns), digest(&other, "x", &[]), "{patterns:?}");
    };
    chosen(&["*.txt"], &[0]);
    chosen(&["**/*.txt"], &[0, 2, 3]);
    chosen(&["c/*.txt", "*.md"], &[1, 2]);
    chosen(&["c/**"], &[2, 3]);
    chosen(&["{a,c/d}.txt"], &[0, 2]);
    chosen(&["?/[d-e]*/*"], &[3]);
    insta::assert_snapshot!(refused(&place, "x", &["*.gz", "c/*.md"]), @"FOLDER/x: no file in this folder matches `*.gz` or `c/*.md`");
    insta::assert_snapshot!(refused(&place, "x", &["[a"]), @"the pattern `[a` cannot be read: unclosed character class; missing ']'");
}

#[test]
fn links_to_files_count_as_files_and_links_to_folders_are_refused_where_they_matter() {
    let place = Place::new();
    write_files(&place.path(""), &[("x/a", "one"), ("elsewhere/b", "two"), ("plain/a", "one"), ("plain/b", "two")]);
    symlink("../elsewhere/b", place.path("x/b")).unwrap();
    assert_eq!(digest(&place, "x", &[]), digest(&place, "plain", &[]));
    symlink("x", place.path("link")).unwrap();
    assert_eq!(digest(&place, "link", &[]), digest(&place, "plain", &[]));
    symlink("../elsewhere", place.path("x/c")).unwrap();
    insta::assert_snapshot!(refused(&place, "x", &[]), @"FOLDER/x/c: is a symbolic link to a folder, which is not followed; name that folder as a source of its own, or choose files that leave it out");
    refused(&place, "x", &["c/*"]);
    refused(&place, "x", &["**/b"]);
    assert_eq!(digest(&place, "x", &["*"]), digest(&place, "plain", &[]));
}

#[test]
fn what_cannot_be_read_is_told() {
    let place = Place::new();
    insta::assert_snapshot!(refused(&place, "nothing", &[]), @"FOLDER/nothing: there is no such file or folder");
    fs::create_dir(place.path("empty")).unwrap();
    insta::assert_snapshot!(refused(&place, "empty", &[]), @"FOLDER/empty: the folder holds no file");
    write_files(&place.path(""), &[("x/a", "one")]);
    symlink("gone", place.path("x/b")).unwrap();
    insta::assert_snapshot!(refused(&place, "x", &[]), @"FOLDER/x/b: is a symbolic link to nothing");
    fs::remove_file(place.path("x/b")).unwrap();
    let _socket = UnixListener::bind(place.path("x/c")).unwrap();
    insta::assert_snapshot!(refused(&place, "x", &[]), @"FOLDER/x/c: is no file (a socket, pipe or device)");
}

#[test]
fn the_index_is_shared_and_its_damage_does_no_harm() {
    let place = Place::new();
    // A file that has not changed for a while, so that it gets an entry.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE-MIT");
    let expected = Digest::of(&fs::read(&file).unwrap());
    assert_eq!(place.store.digest_source(&file, &[]).unwrap(), expected);
    let index = place.store.root().join("local/stat-index.json");
    let text = fs::read_to_string(&index).unwrap();
    assert!(text.contains(&expected.to_string()));
    for damaged in [text.replace(&expected.to_string(), &Digest::of(b"").to_string()), text[..40].to_owned()] {
        fs::remove_file(&index).unwrap();
        fs::write(&index, damaged).unwrap();
        let again = Store::open(place.store.root()).unwrap();
        assert_eq!(again.digest_source(&file, &[]).unwrap(), expected);
    }
}

#[test]
fn what_the_system_makes_up_is_refused() {
    let place = Place::new();
    // It has no size, and would be taken for unchanged whatever it says.
    let told = refused(&place, "/proc/self/stat", &[]);
    assert!(
        told.starts_with("/proc/self/stat: has ") && told.contains(" bytes where its size is said to be 0"),
        "{told}"
    );
}

#[test]
fn a_folder_that_holds_the_store_is_refused_unless_patterns_leave_it_out() {
    let place = Place::new();
    write_files(&place.path(""), &[("a", "one"), ("store/local/b", "two"), ("storey/c", "three")]);
    insta::assert_snapshot!(refused(&place, "", &[]), @"FOLDER/: holds files of the store FOLDER/store, which every run writes to; choose files that leave it out, or name another store with --store");
    symlink(".", place.path("link")).unwrap();
    refused(&place, "link", &["*/*/b"]);
    digest(&place, "", &["a", "storey/*"]);
}
