//! Reading corpora: order, forms, and damage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use twdag_stages::data::{Corpus, DataError, Document};

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
    insta::assert_snapshot!(message(Corpus::open([here]), here), @"FOLDER: no text found: expected files that end in `.txt`, `.jsonl`, `.tar` (these also with `.gz` or `.zst`), `.parquet` or `.zip`");
    insta::assert_snapshot!(message(Corpus::open([here.join("none")]), here), @"FOLDER/none: there is no such file; the artifact is incomplete or of another kind");
    insta::assert_snapshot!(first("a.txt", b"good \xff bad"), @"FOLDER/a.txt: no UTF-8 text: byte 5 cannot be read; convert the file to UTF-8");
    let packed = gzip(&"text ".repeat(100));
    insta::assert_snapshot!(first("a.txt.gz", &packed[..packed.len() - 9]), @"FOLDER/a.txt.gz: no complete gzip file (incomplete deflate stream); fetch it again");
    insta::assert_snapshot!(first("documents.jsonl", b"{\"id\":\"1\",\"text\":\"a\"}\n{\"id\":\"2\",\"te"), @"FOLDER/documents.jsonl: line 2, column 13: no document (EOF while parsing a string)");
    let facts = r#"{"id":"1","text":"ä","facts":[{"key":"k","value":"v","planted":[0,2],"needed":[1,2]}]}"#;
    insta::assert_snapshot!(first("documents.jsonl", facts.as_bytes()), @"FOLDER/documents.jsonl: line 1, fact 0: `needed` [1, 2] is no range of characters of a text of 2 bytes");
}

/// The documents in order; each is also found by its place.
fn documents(corpus: &Corpus) -> Vec<(String, String)> {
    let documents: Vec<Document> = corpus.documents().collect::<Result<_, _>>().unwrap();
    for document in documents.iter().rev() {
        let found = corpus.documents_at(vec![document.place]).next().unwrap().unwrap();
        // What was read to get there counts for a packed line.
        assert_eq!(Document { bytes: 0, ..found }, Document { bytes: 0, ..document.clone() });
    }
    documents.into_iter().map(|document| (document.id, document.text)).collect()
}

/// The texts of `fixtures/make_parquet.py`; row 3 has none.
fn rows() -> Vec<(usize, String)> {
    let text = |row: usize| {
        if row == 4 { String::new() } else { format!("Book {row} – über alles.\n").repeat(row * 11 + 1) }
    };
    (0..10).filter(|row| *row != 3).map(|row| (row, text(row))).collect()
}

#[test]
fn a_text_column_of_parquet_is_read_however_it_is_packed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
    for name in ["none", "gzip", "snappy", "zstd"] {
        let file = folder.join(format!("{name}.parquet"));
        let corpus = Corpus::open([&file]).unwrap();
        let expected: Vec<_> =
            rows().into_iter().map(|(row, text)| (format!("{name}.parquet:{}", row + 1), text)).collect();
        assert_eq!(documents(&corpus), expected, "{name}");
        let taken: u64 = corpus.documents().map(|document| document.unwrap().bytes).sum();
        // The row without a text takes its share, too.
        assert!(taken <= corpus.bytes() && taken * 10 >= corpus.bytes() * 8, "{taken} of {}", corpus.bytes());
        let titles = documents(&corpus.clone().with_column("short_book_title"));
        assert_eq!((titles.len(), titles[3].1.as_str()), (10, "Title 3"));
        let first = |column: &str| message(corpus.clone().with_column(column).documents().next().unwrap(), &folder);
        if name == "none" {
            insta::assert_snapshot!(first("body"), @"FOLDER/none.parquet: no column `body`; the file has `short_book_title`, `publication_date`, `url`, `text`");
            insta::assert_snapshot!(first("publication_date"), @"FOLDER/none.parquet: the column `publication_date` holds INT32, expected one text in each row");
        }
    }
}

#[test]
fn damaged_parquet_is_refused_and_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.parquet");
    let read = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Corpus::open([&file]).unwrap().documents().collect::<Result<Vec<_>, _>>()
    };
    let fixture =
        |name: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet").join(name)).unwrap();
    for name in ["none.parquet", "snappy.parquet", "gzip.parquet", "zstd.parquet"] {
        let whole = fixture(name);
        for end in (0..whole.len()).step_by(397) {
            assert!(read(&whole[..end]).is_err(), "{name}, cut at {end}");
        }
        // The footer, on which all else hangs, is at the end.
        let footer = whole.len() - 3000;
        for at in (0..footer).step_by(97).chain((footer..whole.len()).step_by(13)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            // What is damaged may be what is not read.
            let _ = read(&bytes);
        }
    }
    let whole = fixture("none.parquet");
    let texts: Vec<String> = read(&whole).unwrap().into_iter().map(|document| document.text).collect();
    let place = |word: &str| whole.windows(word.len()).position(|bytes| bytes == word.as_bytes());
    let at =
        texts.iter().flat_map(|text| text.split_whitespace()).filter(|word| word.len() > 5).find_map(place).unwrap();
    let mut other = whole.clone();
    other[at] ^= 1;
    assert!(read(&other).is_err(), "the checksum of a page tells of another letter");
    insta::assert_snapshot!(message(read(&whole[..whole.len() - 1]), folder.path()), @"FOLDER/a.parquet: no complete Parquet file (Parquet error: Invalid Parquet file. Corrupt footer); fetch it again");
    insta::assert_snapshot!(message(read(b"no parquet at all"), folder.path()), @"FOLDER/a.parquet: no complete Parquet file (Parquet error: Invalid Parquet file. Corrupt footer); fetch it again");
}

#[test]
fn json_lines_of_others_are_read_packed_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let lines = "{\"text\": \"first\", \"meta\": {\"id\": 1}}\n\n{\"id\": \"two\", \"text\": \"second – über\"}\n\
                 {\"id\": 3, \"text\": \"third\", \"title\": \"T\", \"facts\": \"none\"}";
    fs::write(here.join("a.jsonl"), lines).unwrap();
    fs::write(here.join("b.jsonl.gz"), gzip(lines)).unwrap();
    fs::write(here.join("c.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    fs::write(here.join("d.txt.zst"), zstd::encode_all(&b"a text"[..], 1).unwrap()).unwrap();
    fs::write(here.join("e.json"), "[]").unwrap();
    let corpus = Corpus::open([here]).unwrap();
    assert!(!corpus.has_direct_access() && Corpus::open([here.join("a.jsonl")]).unwrap().has_direct_access());
    let mut expected = Vec::new();
    for name in ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst"] {
        let texts =
            [(format!("{name}:1"), "first"), ("two".to_owned(), "second – über"), (format!("{name}:4"), "third")];
        expected.extend(texts.map(|(id, text)| (id, text.to_owned())));
    }
    expected.push(("d.txt.zst".to_owned(), "a text".to_owned()));
    assert_eq!(documents(&corpus), expected);
    let last =
        |column: &str| message(corpus.clone().with_column(column).documents().collect::<Result<Vec<_>, _>>(), here);
    insta::assert_snapshot!(last("title"), @"FOLDER/a.jsonl: line 1: no field `title`; it has `meta`, `text`");
    insta::assert_snapshot!(last("meta"), @"FOLDER/a.jsonl: line 1: the field `meta` is no text");
    let packed = zstd::encode_all(lines.repeat(100).as_bytes(), 1).unwrap();
    fs::write(here.join("c.jsonl.zst"), &packed[..packed.len() - 9]).unwrap();
    insta::assert_snapshot!(last("text"), @"FOLDER/c.jsonl.zst: no complete Zstandard file (incomplete frame); fetch it again");
}
