//! Downloads by address and pinned digest, through the program: from a web server that misbehaves on demand, from its
//! mirrors, and from a bucket of a real S3 server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bucket_server;
mod hub_server;
mod run_support;

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bucket_server::{Proxy, SECRET_KEY, prefix, server};
use hub_server::{Hub, Repository, Request, Treat, sha256};
use object_store::{ObjectStoreExt, aws::AmazonS3Builder, path::Path};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use run_support::{Place, Ran, Running, send, wait_until};
use serde_json::Value;

const COMMIT: &str = "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920";

/// Bytes that look like nothing else.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A server that has one file, `file.bin`.
fn web(content: &[u8], treat: impl Fn(&Request) -> Treat + Send + Sync + 'static) -> Hub {
    let files = BTreeMap::from([("file.bin".to_owned(), content.to_vec())]);
    Hub::start(vec![Repository { name: "models/web".to_owned(), commit: COMMIT.to_owned(), files }], treat)
}

fn address(hub: &Hub) -> String {
    format!("{}/web/resolve/{COMMIT}/file.bin", hub.endpoint)
}

fn pinned(content: &[u8], url: &str, mirrors: &[String]) -> String {
    format!(
        r#""data": Download(from: Url(files: {{"data/file.bin": (url: "{url}", mirrors: {mirrors:?}, digest: "sha256:{}")}}))"#,
        sha256(content)
    )
}

fn folder(place: &Place) -> std::path::PathBuf {
    let said = place.output(&["path", "graph.ron", "data"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.stdout.trim_end().into()
}

fn file(place: &Place) -> Vec<u8> {
    fs::read(folder(place).join("data/file.bin")).unwrap()
}

fn message(run: &Ran) -> String {
    assert_eq!(run.code, Some(1), "{run:#?}");
    run.event("stage-failed", "data")["message"].as_str().unwrap().to_owned()
}

fn warnings(run: &Ran) -> Vec<String> {
    let warned = |event: &&Value| event["event"] == "stage-warning";
    run.events.iter().filter(warned).map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_hundred_cuts_cost_little_and_change_nothing() {
    let (content, count) = (bytes(1, (33 << 20) + 12_345), AtomicUsize::new(0));
    let hub = web(&content, move |request| {
        if count.fetch_add(1, Ordering::Relaxed) >= 200 {
            return Treat::Well;
        }
        Treat::Cut(ChaCha8Rng::seed_from_u64(request.number as u64).next_u32() as usize % 300_000)
    });
    let place = Place::with(&[&pinned(&content, &address(&hub), &[])]);
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(file(&place) == content);
    assert!(hub.requests().len() > 200, "{} requests", hub.requests().len());
    assert!(hub.sent() as f64 <= 1.1 * content.len() as f64, "{} of {} bytes", hub.sent(), content.len());
}

#[test]
fn what_a_killed_download_has_is_not_fetched_again() {
    let content = bytes(2, 40 << 20);
    // The last piece never comes as long as the first program lives, and then the server is gone.
    static GONE: AtomicBool = AtomicBool::new(false);
    let hub = web(&content, |request| {
        let is_last = request.headers.get("range").is_some_and(|range| range.starts_with("bytes=33554432-"));
        match GONE.load(Ordering::Relaxed) {
            true => Treat::Refuse(410, Vec::new()),
            false if is_last => Treat::Refuse(503, vec![("Retry-After", "60".to_owned())]),
            false => Treat::Well,
        }
    });
    let place = Place::with(&[&pinned(&content, &address(&hub), &[])]);
    let running = place.start(&[]);
    let noted = || {
        let files = walkdir::WalkDir::new(place.path("artifacts")).into_iter().filter_map(Result::ok);
        let notes = files.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json"));
        let notes = notes.filter_map(|entry| serde_json::from_slice::<Value>(&fs::read(entry.path()).ok()?).ok());
        let done = notes.flat_map(|note| note["done"].as_array().cloned().unwrap_or_default());
        done.filter_map(|done| done.as_u64()).sum::<u64>()
    };
    wait_until("all but the last piece", || noted() == 33_554_432);
    send(running.pid(), rustix::process::Signal::KILL);
    running.end_killed();

    // A mirror changes no key, so it gives what is missing, after the one byte that it is looked at by.
    GONE.store(true, Ordering::Relaxed);
    let mirror = web(&content, |_| Treat::Well);
    place.graph(&[&pinned(&content, &address(&hub), &[address(&mirror)])]);
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(file(&place) == content);
    assert_eq!(mirror.sent(), 1 + (40 << 20) - 33_554_432);
}

#[test]
fn mirrors_are_asked_in_their_order_and_do_not_enter_the_key() {
    let content = bytes(3, (17 << 20) + 5);
    let gone = web(&content, |_| Treat::Refuse(404, Vec::new()));
    let liar = web(&content, |_| Treat::Lie);
    // Another file of the same length, and one that breaks off for good after some bytes.
    let breaks = web(&content, |request| if request.number == 0 { Treat::Well } else { Treat::Cut(0) });
    let other = web(b"something else", |_| Treat::Well);
    let good = web(&content, |_| Treat::Well);
    let unused = web(&content, |_| Treat::Well);
    let mirrors = [&liar, &other, &breaks, &good, &unused].map(address);
    let place = Place::with(&[&pinned(&content, &address(&gone), &mirrors)]);
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(file(&place) == content);
    assert!(unused.requests().is_empty());
    let mut said = warnings(&run).join("\n");
    for (name, hub) in [("GONE", &gone), ("LIAR", &liar), ("OTHER", &other), ("BREAKS", &breaks), ("GOOD", &good)] {
        said = said.replace(&address(hub), name);
    }
    insta::assert_snapshot!(said, @r"
    GONE: is not there (404 Not Found); check the address, or give another one in `mirrors`; LIAR is asked instead
    LIAR: the bytes have the digest sha256:2f85efc7d5c46ae375566548b8dddcac769c124c9671a5c429194fe0403b4cb5, expected sha256:4f72a29f9216f680dd346672d765db16c26c15a85c61d8ea037c164aff602173; if the file was meant to change, put the new digest into the graph, else do not trust this address; OTHER is asked instead
    OTHER: the bytes have the digest sha256:f41f3fa625ff120ddca7ef456bf66371ecea23c129f4e4c32367101edb516cf8, expected sha256:4f72a29f9216f680dd346672d765db16c26c15a85c61d8ea037c164aff602173; if the file was meant to change, put the new digest into the graph, else do not trust this address; BREAKS is asked instead
    fetch BREAKS: end of file before message length reached after 0 of 17825797 bytes; run again to go on from there; GOOD is asked instead
    ");

    place.graph(&[&pinned(&content, &address(&gone), &[])]);
    assert_eq!(place.run(&[]).with_outcome("cached"), ["data"]);

    let place = Place::with(&[&pinned(&content, &address(&gone), &[address(&liar)])]);
    let said = message(&place.run(&[])).replace(&address(&gone), "GONE").replace(&address(&liar), "LIAR");
    insta::assert_snapshot!(said, @"data/file.bin: none of its 2 addresses gave it: GONE: is not there (404 Not Found); check the address, or give another one in `mirrors`; LIAR: the bytes have the digest sha256:2f85efc7d5c46ae375566548b8dddcac769c124c9671a5c429194fe0403b4cb5, expected sha256:4f72a29f9216f680dd346672d765db16c26c15a85c61d8ea037c164aff602173; if the file was meant to change, put the new digest into the graph, else do not trust this address");
}

#[test]
fn a_server_without_pieces_or_lengths_does_as_well() {
    let content = bytes(4, (17 << 20) + 1);
    let all = usize::MAX;
    let whole = web(&content, |_| Treat::Whole);
    let unmeasured = web(&content, move |_| Treat::Unmeasured(all));
    let cut = web(
        &content,
        move |request| if request.number == 1 { Treat::Unmeasured(1000) } else { Treat::Unmeasured(all) },
    );
    for hub in [whole, unmeasured] {
        let place = Place::with(&[&pinned(&content, &address(&hub), &[])]);
        let run = place.run(&[]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        assert!(file(&place) == content);
        assert_eq!(hub.requests().len(), 2, "one to ask, one to fetch");
    }
    // Nobody can tell the end of such an answer from a cut but by the digest.
    let place = Place::with(&[&pinned(&content, &address(&cut), &[])]);
    let said = message(&place.run(&[])).replace(&address(&cut), "CUT");
    assert!(said.starts_with("CUT: the bytes have the digest sha256:"), "{said}");
    assert_eq!(place.run(&[]).code, Some(0));
    assert!(file(&place) == content);
}

#[test]
fn empty_files_and_the_same_bytes_under_two_names_cost_one_look_each() {
    let empty = web(b"", |_| Treat::Well);
    let hub = web(b"the same", |_| Treat::Well);
    let (digest, none) = (sha256(b"the same"), sha256(b""));
    let place = Place::with(&[&format!(
        r#""data": Download(from: Url(files: {{
            "a/one": (url: "{0}", digest: "sha256:{digest}"), "two": (url: "{0}", digest: "sha256:{digest}"),
            "empty": (url: "{1}", digest: "sha256:{none}"),
        }}))"#,
        address(&hub),
        address(&empty),
    )]);
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    for (name, content) in [("a/one", "the same"), ("two", "the same"), ("empty", "")] {
        assert_eq!(fs::read_to_string(folder(&place).join(name)).unwrap(), content);
    }
    assert_eq!((hub.requests().len(), empty.requests().len()), (2, 1));
}

/// What the program says if an address is treated so.
fn refused(treat: impl Fn(&Request) -> Treat + Send + Sync + 'static) -> String {
    let hub = web(b"some bytes", treat);
    let place = Place::with(&[&pinned(b"some bytes", &address(&hub), &[])]);
    let said = message(&place.run(&[])).replace(&address(&hub), "URL");
    let artifacts = place.path("artifacts").canonicalize().unwrap().display().to_string();
    said.replace(&artifacts, "ARTIFACTS")
}

#[test]
fn each_refusal_says_what_to_do() {
    let status = |status| move |_: &Request| Treat::Refuse(status, Vec::new());
    insta::assert_snapshot!(refused(status(401)), @"URL: the server refuses access (401 Unauthorized); open the address in a browser to see why. A login cannot be given here: download such a file by hand and use `File(path: …)`");
    insta::assert_snapshot!(refused(status(403)), @"URL: the server refuses access (403 Forbidden); open the address in a browser to see why. A login cannot be given here: download such a file by hand and use `File(path: …)`");
    insta::assert_snapshot!(refused(status(404)), @"URL: is not there (404 Not Found); check the address, or give another one in `mirrors`");
    insta::assert_snapshot!(refused(status(418)), @"URL: the server answers 418 I'm a teapot");
    insta::assert_snapshot!(refused(status(503)), @"fetch URL: the server has trouble of its own (503 Service Unavailable); run again later to go on from there");
    insta::assert_snapshot!(refused(|_| Treat::Refuse(429, vec![("Retry-After", "3000".to_owned())])), @"fetch URL: the server asks to be left alone for 3000 s; run again later to go on from there");
    insta::assert_snapshot!(refused(|_| Treat::Redirect("http://example.org/".to_owned())), @"fetch URL: the server redirects to an address without encryption");
    insta::assert_snapshot!(refused(|_| Treat::Lie), @"URL: the bytes have the digest sha256:1f4f833de6387b8dccbb9f7b02e2fc009c169627b6255ab85a0f21eb78d0e635, expected sha256:0d22cdcc10e6d049dbe1af5123d50873fdfc1a4f58306e58cb6241be9472014d; if the file was meant to change, put the new digest into the graph, else do not trust this address");
    insta::assert_snapshot!(refused(|request| if request.number < 2 { Treat::Cut(3) } else { Treat::Cut(0) }), @"fetch URL: end of file before message length reached after 3 of 10 bytes; run again to go on from there");
    let range = || vec![("Content-Range", "bytes 0-0/18446744073709551615".to_owned())];
    let large = refused(move |_| Treat::Refuse(206, range()));
    assert!(
        large.contains("18446744073709551615 bytes are still to be fetched, and the disk has room for "),
        "{large}"
    );
}

#[test]
fn a_mirror_that_lies_about_the_size_costs_neither_what_is_there_nor_the_other_mirrors() {
    let content = bytes(6, 40 << 20);
    let huge = web(&content, |_| Treat::Refuse(206, vec![("Content-Range", format!("bytes 0-0/{}", u64::MAX))]));
    // The last piece never comes.
    let cut = web(&content, |request| {
        let is_last = request.headers.get("range").is_some_and(|range| range.starts_with("bytes=33554432-"));
        if is_last { Treat::Cut(0) } else { Treat::Well }
    });
    let login = web(&bytes(7, 520), |_| Treat::Whole);
    let login_in_pieces = web(&bytes(8, 530), |_| Treat::Well);
    let good = web(&content, |_| Treat::Well);
    let mirrors = [&cut, &login, &login_in_pieces, &good].map(address);
    let place = Place::with(&[&pinned(&content, &address(&huge), &mirrors)]);
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(file(&place) == content);
    assert_eq!(good.sent(), 1 + (40 << 20) - 33_554_432);
    let said = warnings(&run);
    assert!(said[0].contains("18446744073709551615 bytes are still to be fetched"), "{said:#?}");
    assert_eq!(said.len(), 4, "{said:#?}");
}

#[test]
fn where_a_redirect_comes_from_is_not_told() {
    let target = web(b"some bytes", |_| Treat::Well);
    let to = address(&target);
    let first = web(b"some bytes", move |_| Treat::Redirect(to.clone()));
    let place = Place::with(&[&pinned(b"some bytes", &format!("{}?user=me", address(&first)), &[])]);
    assert_eq!(place.run(&[]).code, Some(0));
    let requests = target.requests();
    assert!(requests.len() == 2 && requests.iter().all(|request| !request.headers.contains_key("referer")));
}

#[test]
fn a_busy_server_is_waited_for() {
    let hub = web(b"some bytes", |request| match request.number {
        0 => Treat::Refuse(429, vec![("Retry-After", "0".to_owned())]),
        1 => Treat::Refuse(503, Vec::new()),
        _ => Treat::Well,
    });
    let place = Place::with(&[&pinned(b"some bytes", &address(&hub), &[])]);
    assert_eq!(place.run(&[]).code, Some(0));
    assert_eq!(file(&place), b"some bytes");
    // It is not waited for where another server has the same.
    let busy = web(b"some bytes", |_| Treat::Refuse(503, vec![("Retry-After", "60".to_owned())]));
    let place = Place::with(&[&pinned(b"some bytes", &address(&busy), &[address(&hub)])]);
    assert_eq!(place.run(&[]).code, Some(0));
    assert_eq!(busy.requests().len(), 1);
}

/// Runs the graph with these variables.
fn run_with(place: &Place, environment: &BTreeMap<String, String>) -> Ran {
    let mut command = place.twdag(&["run", "graph.ron", "--json"]);
    for name in ["AWS_SESSION_TOKEN", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"] {
        command.env_remove(name);
    }
    command.envs(environment);
    Running::of(command).end()
}

#[test]
fn an_object_in_a_bucket_comes_in_pieces_and_tells_no_secret() {
    let Some(server) = server() else { return };
    let content = bytes(5, (33 << 20) + 7);
    let count = AtomicUsize::new(0);
    let proxy = Proxy::start(server, move |request| {
        let is_first = request.method == "GET" && count.fetch_add(1, Ordering::Relaxed) < 3;
        if is_first { bucket_server::Treat::Cut(100_000) } else { bucket_server::Treat::Well }
    });
    let (environment, prefix) = (proxy.environment(), prefix());
    let bucket = AmazonS3Builder::new().with_url(&prefix).with_allow_http(true);
    let bucket = environment
        .iter()
        .fold(bucket, |bucket, (name, value)| bucket.with_config(name.to_ascii_lowercase().parse().unwrap(), value));
    let bucket = bucket.build().unwrap();
    let path = Path::from_url_path(url::Url::parse(&prefix).unwrap().path()).unwrap().join("file.bin");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(bucket.put(&path, content.clone().into())).unwrap();
    proxy.take();

    let address = format!("{prefix}/file.bin");
    let place = Place::with(&[&pinned(&content, &address, &[])]);
    let run = run_with(&place, &environment);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(file(&place) == content);
    let asked = proxy.take();
    assert!(asked.iter().filter(|request| request.method == "GET").count() >= 3, "three pieces: {asked:?}");

    // As a mirror, and what it says without the object, or without the right to it.
    let gone = web(b"", |_| Treat::Refuse(404, Vec::new()));
    let mirrored = Place::with(&[&pinned(&content, &self::address(&gone), std::slice::from_ref(&address))]);
    let run = run_with(&mirrored, &environment);
    assert_eq!((run.code, warnings(&run).len()), (Some(0), 1), "{run:#?}");
    let said = |place: &Place, environment| message(&run_with(place, environment)).replace(&prefix, "BUCKET");
    let missing = Place::with(&[&pinned(&content, &format!("{prefix}/other.bin"), &[])]);
    insta::assert_snapshot!(said(&missing, &environment), @"BUCKET/other.bin: is not there; check bucket and path");
    let mut stranger = environment.clone();
    stranger.insert("AWS_SECRET_ACCESS_KEY".to_owned(), format!("not-{SECRET_KEY}"));
    let forbidden = Place::with(&[&pinned(&content, &address, &[])]);
    insta::assert_snapshot!(said(&forbidden, &stranger), @"BUCKET/file.bin: the bucket refuses access; give credentials that may read it in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set AWS_SKIP_SIGNATURE=true for a public one");

    for place in [&place, &mirrored, &missing, &forbidden] {
        for entry in walkdir::WalkDir::new(place.path("")).into_iter().map(Result::unwrap) {
            if entry.file_type().is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                let holds = bytes.windows(SECRET_KEY.len()).any(|window| window == SECRET_KEY.as_bytes());
                assert!(!holds, "{} holds the secret", entry.path().display());
            }
        }
    }
    assert!(!format!("{:?} {}", run.events, run.stderr).contains(SECRET_KEY));
}

#[test]
fn addresses_that_cannot_be_meant_are_refused_before_anything_runs() {
    let refused = |url: &str, mirrors: &[&str]| {
        let mirrors: Vec<String> = mirrors.iter().map(|&mirror| mirror.to_owned()).collect();
        let place = Place::with(&[&pinned(b"x", url, &mirrors)]);
        let said = place.output(&["plan", "graph.ron"]);
        assert_eq!(said.code, Some(2), "{said:#?}");
        said.stderr.lines().next().unwrap_or_default().to_owned()
    };
    insta::assert_snapshot!(refused("https://example.org/x", &["ftp://example.org/x"]), @"error: setting `from.files.data/file.bin.mirrors.0` of stage `data` is `ftp://example.org/x`, expected an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file), or one of a bucket: s3://, gs:// or az://");
    insta::assert_snapshot!(refused("s3://bucket", &[]), @"error: setting `from.files.data/file.bin.url` of stage `data` is `s3://bucket`, expected bucket and path of one object, such as s3://bucket/path/file");
    insta::assert_snapshot!(refused("s3://user:secret@bucket/x", &[]), @"error: setting `from.files.data/file.bin.url` of stage `data` is an address with a user name or password, expected an address without them: it stands in keys and records that others can read");
    insta::assert_snapshot!(refused("https://bucket.s3.example.org/x?X-Amz-Signature=abc", &[]), @"error: setting `from.files.data/file.bin.url` of stage `data` is an address with a signature, a key or a token, expected one without: it stands in keys and records that others can read, and soon is of no use; give the object's s3://, gs:// or az:// address, and credentials in the environment");
    let place = Place::with(&[
        r#""data": Download(from: Url(files: {"x": (url: "https://a.org/x", mirrors: ["https://b.org/x"])}))"#,
    ]);
    let said = place.output(&["plan", "graph.ron"]);
    insta::assert_snapshot!(said.stderr.lines().next().unwrap_or_default(), @"error: setting `from.files.x` of stage `data` lacks the setting `digest`");
}
