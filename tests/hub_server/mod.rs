//! A model hub on this machine: it speaks the Hugging Face protocol as far as downloads need it, and can be asked to
//! misbehave.

#![allow(dead_code, unreachable_pub, reason = "a room of several test targets, of which each uses its own share")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, whatever goes wrong is a failure"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Larger files are named by SHA-256, as those that the hub keeps in its large file storage.
pub const LARGE: usize = 1000;
/// Files on one page of a list.
const PAGE: usize = 3;

/// How one request is treated.
#[derive(Clone, Debug)]
pub enum Treat {
    /// As it should be.
    Well,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// An answer of this status, with headers.
    Refuse(u16, Vec<(&'static str, String)>),
    /// The request is sent on to this address.
    Redirect(String),
    /// The right number of other bytes.
    Lie,
    /// The whole file, whatever was asked for.
    Whole,
    /// The same, without telling how long it is; the connection ends after so many bytes.
    Unmeasured(usize),
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path and query.
    pub target: String,
    pub headers: BTreeMap<String, String>,
    /// Counts the requests before it.
    pub number: usize,
}

impl Request {
    /// Whether it is for the content of a file.
    pub fn is_for_a_file(&self) -> bool {
        self.target.contains("/resolve/")
    }
}

/// A repository: `models/NAME` or `datasets/NAME`, one commit, and what its branches are called.
#[derive(Clone)]
pub struct Repository {
    pub name: String,
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A running hub.
pub struct Hub {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicU64>,
}

impl Hub {
    /// Starts on a free port; `treat` decides about each request.
    pub fn start(repositories: Vec<Repository>, treat: impl Fn(&Request) -> Treat + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (requests, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let shared = Arc::new((repositories, treat));
        let hub = Self { endpoint: endpoint.clone(), requests: Arc::clone(&requests), sent: Arc::clone(&sent) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, requests, sent, endpoint) =
                    (Arc::clone(&shared), Arc::clone(&requests), Arc::clone(&sent), endpoint.clone());
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(request) = read(&stream, &requests) else { return };
                    let answer = answer(&shared.0, &request, &endpoint);
                    let treat = (shared.1)(&request);
                    send(&mut stream, &request, answer, treat, &sent);
                });
            }
        });
        hub
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Targets of the requests for contents, in order of their names.
    pub fn files(&self) -> Vec<String> {
        let mut files: Vec<String> =
            self.requests().into_iter().filter(Request::is_for_a_file).map(|request| request.target).collect();
        files.sort();
        files
    }

    /// Bytes of contents that went out.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn read(stream: &TcpStream, requests: &Mutex<Vec<Request>>) -> Option<Request> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let line = lines.next()?;
    let target = line.strip_prefix("GET ")?.split(' ').next()?.to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let mut requests = requests.lock().unwrap();
    let request = Request { target, headers, number: requests.len() };
    requests.push(request.clone());
    Some(request)
}

/// A body with headers, or the code of an error.
type Answer = Result<(Vec<u8>, Vec<(&'static str, String)>), &'static str>;

fn answer(repositories: &[Repository], request: &Request, endpoint: &str) -> Answer {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let path = path.trim_start_matches('/');
    let (is_api, path) = path.strip_prefix("api/").map_or((false, path), |path| (true, path));
    // Contents of models stand right below the endpoint.
    let path = if is_api || path.starts_with("datasets/") { path.to_owned() } else { format!("models/{path}") };
    let repository = repositories.iter().find(|found| path.starts_with(&format!("{}/", found.name)));
    let repository = repository.ok_or("RepoNotFound")?;
    let below = &path[repository.name.len() + 1..];
    let (verb, below) = below.split_once('/').unwrap();
    let (revision, file) = below.split_once('/').unwrap_or((below, ""));
    let known = [repository.commit.as_str(), "main", "refs%2Fpr%2F1"];
    if !known.contains(&revision) {
        return Err("RevisionNotFound");
    }
    match verb {
        "revision" => {
            Ok((json!({"sha": repository.commit, "id": repository.name}).to_string().into_bytes(), Vec::new()))
        }
        "tree" => {
            let start: usize =
                query.split('&').find_map(|part| part.strip_prefix("cursor=")).unwrap_or("0").parse().unwrap();
            assert!(query.contains("recursive=true"), "{query}");
            let entries: Vec<Value> = repository.files.iter().map(|(path, content)| entry(path, content)).collect();
            let page = &entries[start..entries.len().min(start + PAGE)];
            let next = start + page.len();
            let link = format!(
                "<{endpoint}/api/{}/tree/{revision}?recursive=true&cursor={next}>; rel=\"next\"",
                repository.name
            );
            let headers = if next < entries.len() { vec![("Link", link)] } else { Vec::new() };
            Ok((Value::from(page).to_string().into_bytes(), headers))
        }
        "resolve" => Ok((repository.files.get(file).ok_or("EntryNotFound")?.clone(), Vec::new())),
        other => panic!("{other}"),
    }
}

/// How the hub lists a file.
fn entry(path: &str, content: &[u8]) -> Value {
    let mut entry = json!({"type": "file", "path": path, "size": content.len(), "oid": git_name(content)});
    if content.len() >= LARGE {
        entry["lfs"] = json!({"oid": sha256(content), "size": content.len(), "pointerSize": 134});
    }
    entry
}

/// The name of a content in git.
pub fn git_name(content: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content).finalize())
}

pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn send(stream: &mut TcpStream, request: &Request, answer: Answer, treat: Treat, sent: &AtomicU64) {
    let mut headers = Vec::new();
    let (mut status, mut body) = (200, Vec::new());
    let range = request.headers.get("range").and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
    });
    match answer {
        Ok((content, more)) => {
            headers = more;
            body = content;
            let in_pieces = !matches!(treat, Treat::Whole | Treat::Unmeasured(_));
            if let (Some(_), true, true) = (range, in_pieces, body.is_empty()) {
                headers.push(("Content-Range", "bytes */0".to_owned()));
                status = 416;
            } else if let (Some((from, to)), true) = (range, in_pieces) {
                let to = to.min(body.len() - 1);
                headers.push(("Content-Range", format!("bytes {from}-{to}/{}", body.len())));
                status = 206;
                body = body[from..=to].to_vec();
            }
        }
        Err(code) => {
            status = 404;
            headers.push(("X-Error-Code", code.to_owned()));
        }
    }
    let (mut end, is_measured) = (body.len(), !matches!(treat, Treat::Unmeasured(_)));
    match treat {
        Treat::Well | Treat::Whole => {}
        Treat::Cut(bytes) | Treat::Unmeasured(bytes) => end = end.min(bytes),
        Treat::Refuse(with, more) => (status, headers, body, end) = (with, more, Vec::new(), 0),
        Treat::Redirect(to) => (status, headers, body, end) = (307, vec![("Location", to)], Vec::new(), 0),
        Treat::Lie => body.iter_mut().for_each(|byte| *byte ^= 1),
    }
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if is_measured { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    let head = format!("HTTP/1.1 {status} As Asked\r\n{headers}{length}Connection: close\r\n\r\n");
    if stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&body[..end]).is_ok() && request.is_for_a_file() {
        sent.fetch_add(end as u64, Ordering::Relaxed);
    }
}
