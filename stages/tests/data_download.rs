//! Bringing files into the store, from folders and from a real server on this machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicBool},
    thread,
};

use sha2::{Digest, Sha256};
use twdag_stages::{
    download::{Download, From, Pinned},
    stage::{Context, Kind, SettingError, StageError},
};

/// How the server treats one request.
#[derive(Clone, Copy, Debug)]
enum Treat {
    /// Sends what was asked for.
    Well,
    /// Announces everything, sends this many bytes, hangs up.
    CutAfter(usize),
    /// Ignores the wish for a range.
    Whole,
    /// Says that the file is not there.
    Missing,
}

/// A server on a free port; treats the requests one after the other and keeps their `range` and `if-match` headers.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(content: Vec<u8>, etag: Option<&'static str>, treats: Vec<Treat>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/some/file.bin?version=3", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for treat in treats {
                let (stream, _) = listener.accept().unwrap();
                answer(stream, &content, etag, treat, &log);
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, content: &[u8], etag: Option<&str>, treat: Treat, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let target = lines.next().unwrap();
    assert!(target.starts_with("GET /some/file.bin?version=3 "), "{target}");
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let wish = |name: &str| headers.get(name).map_or("-", String::as_str);
    log.lock().unwrap().push(format!("{} {}", wish("range"), wish("if-match")));
    let tag = etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
    let start = wish("range").strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    let is_stale = headers.get("if-match").is_some_and(|wanted| Some(wanted.as_str()) != etag);
    let (head, body) = match (treat, start) {
        (Treat::Missing, _) => ("404 Not Found\r\n".to_owned(), &b""[..]),
        _ if is_stale => ("412 Precondition Failed\r\n".to_owned(), &b""[..]),
        (Treat::Whole, _) | (_, None) => ("200 OK\r\n".to_owned(), content),
        (_, Some(start)) if start >= content.len() => ("416 Range Not Satisfiable\r\n".to_owned(), &b""[..]),
        (_, Some(start)) => (
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len()),
            &content[start..],
        ),
    };
    let sent = match treat {
        Treat::CutAfter(bytes) => &body[..bytes],
        _ => body,
    };
    let _ = write!(stream, "HTTP/1.1 {head}{tag}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(sent);
}

fn content() -> Vec<u8> {
    (0..100_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn from_url(url: &str, digest: &str) -> Download {
    let pinned = Pinned { url: url.to_owned(), digest: digest.to_owned() };
    Download { from: From::Url { files: BTreeMap::from([("data/file.bin".to_owned(), pinned)]) } }
}

/// One attempt with a fresh output folder; gives the file.
fn attempt(stage: &Download, scratch: &Path) -> Result<Vec<u8>, StageError> {
    let output = tempfile::tempdir().unwrap();
    stage.run(&Context::builder(output.path(), scratch).build())?;
    Ok(fs::read(output.path().join("data/file.bin")).unwrap())
}

#[test]
fn a_file_is_fetched_and_checked_by_either_digest() {
    let content = content();
    for digest in [sha256(&content), format!("blake3:{}", blake3::hash(&content).to_hex().to_uppercase())] {
        let scratch = tempfile::tempdir().unwrap();
        let server = Server::start(content.clone(), None, vec![Treat::Well]);
        assert_eq!(attempt(&from_url(&server.url, &digest), scratch.path()).unwrap(), content);
        assert_eq!(server.seen(), ["- -"]);
    }
}

#[test]
fn a_cut_connection_is_taken_up_where_it_ended() {
    let content = content();
    let scratch = tempfile::tempdir().unwrap();
    let treats = vec![Treat::CutAfter(150_000), Treat::Well];
    let server = Server::start(content.clone(), None, treats);
    let stage = from_url(&server.url, &sha256(&content));
    let error = attempt(&stage, scratch.path()).unwrap_err().to_string();
    assert!(error.contains("after 150000 of 400000 bytes; run again to go on from there"), "{error}");
    assert_eq!(attempt(&stage, scratch.path()).unwrap(), content);
    assert_eq!(server.seen(), ["- -", "bytes=150000- -"]);
    // A third attempt needs no server at all.
    assert_eq!(attempt(&stage, scratch.path()).unwrap(), content);
}

#[test]
fn a_server_with_versions_is_resumed_at_once_and_asked_for_the_same_version() {
    let content = content();
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(content.clone(), Some("\"v1\""), vec![Treat::CutAfter(10), Treat::Well]);
    assert_eq!(attempt(&from_url(&server.url, &sha256(&content)), scratch.path()).unwrap(), content);
    assert_eq!(server.seen(), ["- -", "bytes=10-399999 -"]);

    // What lies in the scratch folder belongs to another version: the server says so, and all is fetched anew.
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("0.part"), "old bytes").unwrap();
    fs::write(scratch.path().join("0.json"), r#"{"etag":"\"v0\""}"#).unwrap();
    let server = Server::start(content.clone(), Some("\"v1\""), vec![Treat::Well, Treat::Well]);
    assert_eq!(attempt(&from_url(&server.url, &sha256(&content)), scratch.path()).unwrap(), content);
    assert_eq!(server.seen(), ["bytes=9- \"v0\"", "- -"]);
}

#[test]
fn servers_without_ranges_and_mixed_versions_end_with_the_right_bytes() {
    let content = content();
    for treats in [vec![Treat::Whole, Treat::Well], vec![Treat::Well, Treat::Well]] {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("0.part"), "bytes of an older file").unwrap();
        let server = Server::start(content.clone(), None, treats);
        assert_eq!(attempt(&from_url(&server.url, &sha256(&content)), scratch.path()).unwrap(), content);
        assert_eq!(server.seen(), ["bytes=22- -", "- -"]);
    }
}

#[test]
fn wrong_bytes_are_refused_and_forgotten() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(b"tampered".to_vec(), None, vec![Treat::Well]);
    let error = attempt(&from_url(&server.url, &sha256(b"genuine")), scratch.path()).unwrap_err();
    insta::assert_snapshot!(error.to_string().replace(&server.url, "URL"), @"URL: the bytes have the digest sha256:d121be3103007b41edf96f8262925f8c7d61894afe9a041843b631f69445bc57, expected sha256:dfec22473777f0ddaea98d74045c22ae9029a8e3b75aa8fcce941aa29e5b073b; if the file was meant to change, put the new digest into the graph, else do not trust this address");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_the_server_lacks_is_said_to_be_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(Vec::new(), None, vec![Treat::Missing]);
    let error = attempt(&from_url(&server.url, &sha256(b"x")), scratch.path()).unwrap_err();
    insta::assert_snapshot!(error.to_string().replace(&server.url, "URL"), @"fetch URL: Server returned non-2xx status code: 404 Not Found");
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
    insta::assert_snapshot!(refusal(&from_url("http://example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is `http://example.org/x`, expected an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file)");
    insta::assert_snapshot!(refusal(&from_url("https://me:secret@example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is an address with a user name or password, expected an address without them: it stands in keys and records that others can read");
    insta::assert_snapshot!(refusal(&from_url("http://127.0.0.1@example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is an address with a user name or password, expected an address without them: it stands in keys and records that others can read");
    insta::assert_snapshot!(refusal(&from_url("example.org/x", &digest)), @"setting `from.files.data/file.bin.url` is no address (relative URL without a base), expected an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file)");
    insta::assert_snapshot!(refusal(&from_url("https://example.org/x", "sha256:12")), @"setting `from.files.data/file.bin.digest` is `sha256:12`, expected `sha256:` or `blake3:` and 64 hexadecimal digits (`sha256sum FILE` prints them)");
    let outside = Download { from: From::File { path: "a".into(), name: Some("../a".to_owned()) } };
    insta::assert_snapshot!(refusal(&outside), @"setting `from.name` is `../a`, expected a relative path without `.` and `..`");
    let files = vec!["*.txt".to_owned(), "a[".to_owned()];
    insta::assert_snapshot!(refusal(&Download { from: From::Folder { path: "a".into(), below: String::new(), files } }), @"setting `from.files.1` is `a[` (unclosed character class; missing ']'), expected a glob");
    assert!(from_url("http://localhost:8000/x", &digest).check().is_ok());
    assert!(from_url("http://[::1]/x", &digest).check().is_ok());
    assert!(from_url("https://example.org/x", &digest).check().is_ok());
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
