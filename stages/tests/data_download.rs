//! Bringing files of this machine into the store, and which addresses are refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use sha2::{Digest, Sha256};
use twdag_stages::{
    download::{Download, From, Pinned},
    stage::{Context, Kind, Manner, SettingError, StageError},
};

fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn from_url(url: &str, digest: &str) -> Download {
    let pinned = Pinned { url: url.to_owned(), digest: digest.to_owned(), mirrors: Manner::default() };
    Download { from: From::Url { files: BTreeMap::from([("data/file.bin".to_owned(), pinned)]) } }
}

#[test]
fn a_wish_to_stop_is_heard_while_waiting() {
    let (output, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stage = from_url(&format!("http://{}/silent", listener.local_addr().unwrap()), &sha256(b"x"));
    let cancel = Arc::new(AtomicBool::new(true));
    let context = Context::builder(output.path(), scratch.path()).cancel(cancel).build();
    assert!(matches!(stage.run(&context), Err(StageError::Canceled)));
}

fn refusal(stage: &Download) -> String {
    stage.check().map_err(|error: SettingError| error.to_string()).unwrap_err()
}

#[test]
fn settings_that_cannot_work_are_refused_without_any_data() {
    let digest = sha256(b"x");
    insta::assert_snapshot!(refusal(&from_url("http://example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is `http://example.org/x`, expected an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file), or one of a bucket: s3://, gs:// or az://");
    insta::assert_snapshot!(refusal(&from_url("https://me:secret@example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is an address with a user name or password, expected an address without them: it stands in keys and records that others can read");
    insta::assert_snapshot!(refusal(&from_url("http://127.0.0.1@example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is an address with a user name or password, expected an address without them: it stands in keys and records that others can read");
    insta::assert_snapshot!(refusal(&from_url("example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is no address (relative URL without a base), expected an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file), or one of a bucket: s3://, gs:// or az://");
    insta::assert_snapshot!(refusal(&from_url("https://example.org/x", "sha256:12")), @"setting `from.files.data/file.bin.digest` is `sha256:12`, expected `sha256:` or `blake3:` and 64 hexadecimal digits (`sha256sum FILE` prints them)");
    for query in [
        "Signature=x",
        "Policy=x",
        "Key-Pair-Id=x",
        "AWSAccessKeyId=x",
        "GoogleAccessId=x",
        "X-Amz-Security-Token=x",
        "a=b&access_token=x",
        "token=x",
        "api_key=x",
        "ApiKey=x",
        "sig=x",
    ] {
        let said = refusal(&from_url(&format!("https://example.org/x?{query}"), &digest));
        assert!(
            said.contains("is an address with a signature, a key or a token") && !said.contains("=x"),
            "{query}: {said}"
        );
    }
    assert!(from_url("https://example.org/x?version=2&tokens=1", &digest).check().is_ok());
    let outside = Download { from: From::File { path: "a".into(), name: Some("../a".to_owned()) } };
    insta::assert_snapshot!(refusal(&outside), @"setting `from.name` is `../a`, expected a relative path without `.` and `..`");
    let files = vec!["*.txt".to_owned(), "a[".to_owned()];
    insta::assert_snapshot!(refusal(&Download { from: From::Folder { path: "a".into(), below: String::new(), files } }), @"setting `from.files.1` is `a[` (unclosed character class; missing ']'), expected a glob");
    assert!(from_url("http://localhost:8000/x", &digest).check().is_ok());
    assert!(from_url("http://[::1]/x", &digest).check().is_ok());
    assert!(from_url("https://example.org/x", &digest).check().is_ok());
}

#[test]
fn two_names_of_one_file_are_refused() {
    let named = |names: &[&str]| {
        let pinned = |name: &&str| {
            let url = "https://example.org/x".to_owned();
            (name.to_string(), Pinned { url, digest: sha256(name.as_bytes()), mirrors: Manner::default() })
        };
        let stage = Download { from: From::Url { files: names.iter().map(pinned).collect() } };
        stage.check().map_err(|error| error.to_string())
    };
    insta::assert_snapshot!(named(&["a/b", "a/./b"]).unwrap_err(), @"setting `from.files` is `a/./b`, expected the plain name of a file, without `.`, `//` and a `/` at its end");
    insta::assert_snapshot!(named(&["a//b"]).unwrap_err(), @"setting `from.files` is `a//b`, expected the plain name of a file, without `.`, `//` and a `/` at its end");
    insta::assert_snapshot!(named(&["a/"]).unwrap_err(), @"setting `from.files` is `a/`, expected the plain name of a file, without `.`, `//` and a `/` at its end");
    insta::assert_snapshot!(named(&["a", "a-b", "a/b/c"]).unwrap_err(), @"setting `from.files` is `a/b/c`, expected another name, as `a` is a file and cannot be a folder too");
    assert_eq!(named(&["a-b", "a/b", "a/b.c", "a/c/b"]), Ok(()));
}

/// Runs a local download and lists what it wrote.
fn local(from: From, workspace: &Path) -> Result<Vec<String>, String> {
    let (output, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let context = Context::builder(output.path(), scratch.path()).workspace(workspace).build();
    let shown = workspace.display().to_string();
    Download { from }.run(&context).map_err(|error| error.to_string().replace(&shown, "WORKSPACE"))?;
    let mut names: Vec<String> = walkdir::WalkDir::new(output.path())
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let name = entry.path().strip_prefix(output.path()).unwrap().display();
            format!("{name}={}", fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    names.sort();
    Ok(names)
}

fn folder(path: &str, below: &str, files: &[&str]) -> From {
    let files = files.iter().map(|&file| file.to_owned()).collect();
    From::Folder { path: path.into(), below: below.to_owned(), files }
}

#[test]
fn folders_and_files_are_copied_as_chosen() {
    let workspace = tempfile::tempdir().unwrap();
    let here = workspace.path();
    fs::create_dir_all(here.join("data/books/old")).unwrap();
    fs::write(here.join("data/books/a.txt"), "A").unwrap();
    fs::write(here.join("data/books/old/b.txt"), "B").unwrap();
    fs::write(here.join("data/index.json"), "{}").unwrap();
    let list = |from| local(from, here).unwrap();
    assert_eq!(list(folder("data", "books", &[])), ["a.txt=A", "old/b.txt=B"]);
    assert_eq!(list(folder("data", "", &["books/*.txt"])), ["books/a.txt=A"]);
    assert_eq!(list(folder("data", "", &["**/b.txt", "*.json"])), ["books/old/b.txt=B", "index.json={}"]);
    assert_eq!(list(From::File { path: "data/books/a.txt".into(), name: None }), ["a.txt=A"]);
    let renamed = From::File { path: "data/books/a.txt".into(), name: Some("x/y.txt".to_owned()) };
    assert_eq!(list(renamed), ["x/y.txt=A"]);

    let refused = |from| local(from, here).unwrap_err();
    insta::assert_snapshot!(refused(folder("data", "", &["*.csv"])), @"WORKSPACE/data: no file in this folder matches *.csv");
    insta::assert_snapshot!(refused(folder("nowhere", "", &[])), @"WORKSPACE/nowhere: there is no such file or folder (paths start at the workspace WORKSPACE)");
    insta::assert_snapshot!(refused(From::File { path: "data/books".into(), name: None }), @"WORKSPACE/data/books: is a folder, expected a file; use `Folder(path: …)`");
    insta::assert_snapshot!(refused(folder("data/index.json", "", &[])), @"WORKSPACE/data/index.json: is a file, expected a folder; use `File(path: …)`");
}

#[test]
fn a_file_that_grows_while_it_is_copied_is_refused() {
    let (workspace, output, scratch) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = workspace.path().join("log.txt");
    fs::write(&path, "first").unwrap();
    // The first report of progress comes between the copy and the last look at the file.
    let context = Context::builder(output.path(), scratch.path())
        .workspace(workspace.path())
        .events(move |_| fs::write(&path, "first and second").unwrap())
        .build();
    let stage = Download { from: From::File { path: "log.txt".into(), name: None } };
    let error = stage.run(&context).unwrap_err().to_string();
    assert!(error.ends_with("log.txt: changed while it was copied; run again when it is complete"), "{error}");
}
