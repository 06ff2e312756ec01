//! Reading corpora: order, forms, and damage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use twdag_stages::data::{Corpus, DataError};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn message<T>(result: Result<T, DataError>, folder: &Path) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string().replace(&folder.display().to_string(), "FOLDER"),
    }
}

#[test]
fn documents_come_in_byte_order_of_their_paths() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir(here.join("a")).unwrap();
    fs::write(here.join("b.txt"), "plain").unwrap();
    fs::write(here.join("a/z.txt.gz"), gzip("packed")).unwrap();
    fs::write(here.join("a-y.txt"), "before a/z by bytes").unwrap();
    fs::write(here.join("Z.txt"), "").unwrap();
    fs::write(here.join("README.md"), "no document").unwrap();
    let lines = [
        r#"{"id":"one","text":"the key is 17"}"#,
        "",
        r#"{"text":"k 17 … 17","id":"two","facts":[{"key":"k","value":"17","planted":[2,4],"needed":[9,11]}]}"#,
    ];
    fs::write(here.join("documents.jsonl"), lines.join("\n")).unwrap();
    let corpus = Corpus::open([here, &here.join("b.txt")]).unwrap();
    let documents: Vec<_> = corpus.documents().collect::<Result<_, _>>().unwrap();
    let names: Vec<_> = documents.iter().map(|document| (document.id.as_str(), document.text.as_str())).collect();
    let expected = [
        ("Z.txt", ""),
        ("a-y.txt", "before a/z by bytes"),
        ("a/z.txt.gz", "packed"),
        ("b.txt", "plain"),
        ("one", "the key is 17"),
        ("two", "k 17 … 17"),
        ("b.txt", "plain"),
    ];
    assert_eq!(names, expected);
    assert_eq!(documents[5].facts.as_ref().unwrap()[0].needed, [9, 11]);
    assert_eq!(documents[4].facts, None);
}

#[test]
fn damaged_corpora_are_refused_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let first = |name: &str, bytes: &[u8]| {
        fs::write(here.join(name), bytes).unwrap();
        let result: Result<Vec<_>, _> = Corpus::open([here]).unwrap().documents().collect();
        fs::remove_file(here.join(name)).unwrap();
        message(result, here)
    };
    insta::assert_snapshot!(message(Corpus::open([here]), here), @"FOLDER: no text found: expected `documents.jsonl`, or files that end in `.txt` or `.txt.gz`");
    insta::assert_snapshot!(message(Corpus::open([here.join("none")]), here), @"FOLDER/none: there is no such file; the artifact is incomplete or of another kind");
    insta::assert_snapshot!(first("a.txt", b"good \xff bad"), @"FOLDER/a.txt: no UTF-8 text: byte 5 cannot be read; convert the file to UTF-8");
    let packed = gzip(&"text ".repeat(100));
    insta::assert_snapshot!(first("a.txt.gz", &packed[..packed.len() - 9]), @"FOLDER/a.txt.gz: no complete gzip file (incomplete deflate stream); fetch it again");
    insta::assert_snapshot!(first("documents.jsonl", b"{\"id\":\"1\",\"text\":\"a\"}\n{\"id\":\"2\",\"te"), @"FOLDER/documents.jsonl: line 2, column 13: no document (EOF while parsing a string)");
    let facts = r#"{"id":"1","text":"ä","facts":[{"key":"k","value":"v","planted":[0,2],"needed":[1,2]}]}"#;
    insta::assert_snapshot!(first("documents.jsonl", facts.as_bytes()), @"FOLDER/documents.jsonl: line 1, fact 0: `needed` [1, 2] is no range of characters of a text of 2 bytes");
}
