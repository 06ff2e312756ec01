//! Downloads from a model hub, through the program, with a hub on this machine that misbehaves on demand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hub_server;
mod run_support;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use hub_server::{Hub, Repository, Request, Treat, git_name, sha256};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use run_support::{Place, Ran, Running, send, wait_until};
use serde_json::Value;

const COMMIT: &str = "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920";
const TOKEN: &str = "hf_aVerySecretTokenThatNobodyMaySee";

/// Bytes that look like nothing else.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn model() -> Repository {
    let files = [
        ("README.md", b"# A model\n".to_vec()),
        ("config.json", b"{}".to_vec()),
        ("empty.txt", Vec::new()),
        ("model.safetensors", bytes(1, 300_000)),
        ("original/params.json", b"{\"dim\": 64}".to_vec()),
        ("original/weights.bin", bytes(2, 5000)),
    ];
    let files = files.into_iter().map(|(path, content)| (path.to_owned(), content)).collect();
    Repository { name: "models/tiny-org/Tiny-1M".to_owned(), commit: COMMIT.to_owned(), files }
}

fn download(more: &str) -> String {
    format!(r#""model": Download(from: Hub(repository: "tiny-org/Tiny-1M", {more}))"#)
}

fn place(more: &str) -> Place {
    Place::with(&[&download(more)])
}

/// The program with nothing of the tester's own hub in its environment.
fn command(place: &Place, arguments: &[&str], endpoint: &str) -> Command {
    let mut command = place.twdag(arguments);
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", place.path("hub-home"));
    command
}

fn run_with(place: &Place, endpoint: &str, environment: &[(&str, &str)]) -> Ran {
    let mut command = command(place, &["run", "graph.ron", "--json"], endpoint);
    Running::of({
        command.envs(environment.iter().copied());
        command
    })
    .end()
}

/// The files of the result, each with its content.
fn result(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let said = place.output(&["path", "graph.ron", "model"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let folder = said.stdout.trim_end();
    let files = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    files
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| {
            let name = entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// What `twdag lock` writes down.
fn lock(place: &Place) -> String {
    let said = place.output(&["lock", "graph.ron"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    fs::read_to_string(place.path("graph.lock.ron")).unwrap()
}

fn message(run: &Ran, hub: &Hub) -> String {
    assert_eq!(run.code, Some(1), "{run:#?}");
    run.event("stage-failed", "model")["message"].as_str().unwrap().replace(&hub.endpoint, "HUB")
}

fn warnings(run: &Ran) -> Vec<String> {
    let warned = |event: &&Value| event["event"] == "stage-warning";
    run.events.iter().filter(warned).map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_chosen_files_of_a_branch_or_a_commit_come_and_stay() {
    let hub = Hub::start(vec![model()], |_| Treat::Well);
    let first = place(r#"files: ["*.json", "*.safetensors", "empty.txt", "original/*.bin"]"#);
    let run = run_with(&first, &hub.endpoint, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    let mut expected = model().files;
    expected.retain(|name, _| !["README.md", "original/params.json"].contains(&name.as_str()));
    assert_eq!(result(&first), expected);
    assert_eq!(
        warnings(&run),
        [format!(
            "`main` of tiny-org/Tiny-1M is commit {COMMIT} now; put `revision: \"{COMMIT}\"` into the graph so that it stays so"
        )]
    );
    assert_eq!(hub.files().len(), 3, "one request for each file that is not empty: {:?}", hub.files());

    // What the branch was is on record; nobody asks again.
    let before = hub.requests().len();
    assert_eq!(run_with(&first, &hub.endpoint, &[]).with_outcome("cached"), ["model"]);
    assert_eq!(hub.requests().len(), before);
    assert!(lock(&first).contains(&format!("commit: \"{COMMIT}\"")), "{}", lock(&first));

    // The same bytes by a commit, from another address: neither counts.
    let digest = |run: &Ran| run.finished()["stages"][0]["artifact"].clone();
    let other = Hub::start(vec![model()], |_| Treat::Well);
    let second =
        place(&format!(r#"revision: "{COMMIT}", files: ["*.json", "*.safetensors", "empty.txt", "original/*.bin"]"#));
    let again = run_with(&second, &other.endpoint, &[]);
    assert_eq!((again.code, warnings(&again).len()), (Some(0), 0), "{again:#?}");
    assert!(!lock(&second).contains("commit: "), "{}", lock(&second));
    assert_eq!(digest(&run), digest(&again));
    let whole = place(r#"revision: "refs/pr/1""#);
    assert_eq!(run_with(&whole, &other.endpoint, &[]).code, Some(0));
    assert_eq!(result(&whole), model().files);
}

#[test]
fn datasets_have_addresses_of_their_own() {
    let books = Repository { name: "datasets/tiny-org/books".to_owned(), ..model() };
    let hub = Hub::start(vec![books], |_| Treat::Well);
    let place = Place::with(&[
        r#""model": Download(from: Hub(repository: "tiny-org/books", holds: Dataset, files: ["config.json"]))"#,
    ]);
    let run = run_with(&place, &hub.endpoint, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(hub.files(), [format!("/datasets/tiny-org/books/resolve/{COMMIT}/config.json")]);
}

#[test]
fn a_content_of_two_names_is_fetched_once() {
    let content = bytes(9, (17 << 20) + 3);
    let files = ["a.bin", "b/a.bin"].map(|name| (name.to_owned(), content.clone()));
    let repository = Repository { files: BTreeMap::from(files.clone()), ..model() };
    let hub = Hub::start(vec![repository], |_| Treat::Well);
    let place = place(&format!("revision: \"{COMMIT}\""));
    let run = run_with(&place, &hub.endpoint, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(result(&place) == BTreeMap::from(files));
    assert_eq!(hub.sent(), content.len() as u64);
}

#[test]
fn two_hundred_cuts_cost_little_and_change_nothing() {
    let mut repository = model();
    // More than one piece.
    repository.files.insert("model.safetensors".to_owned(), bytes(3, (33 << 20) + 12_345));
    let (files, count) = (repository.files.clone(), AtomicUsize::new(0));
    let hub = Hub::start(vec![repository], move |request| {
        if !request.target.ends_with("model.safetensors") || count.fetch_add(1, Ordering::Relaxed) >= 200 {
            return Treat::Well;
        }
        Treat::Cut(ChaCha8Rng::seed_from_u64(request.number as u64).next_u32() as usize % 300_000)
    });
    let place = place("");
    let run = run_with(&place, &hub.endpoint, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(result(&place) == files);
    assert!(hub.files().len() > 200, "{} requests", hub.files().len());
    let size: usize = files.values().map(Vec::len).sum();
    assert!(hub.sent() as f64 <= 1.1 * size as f64, "{} of {size} bytes", hub.sent());
}

/// Bytes that a download has noted as arrived.
fn noted(place: &Place) -> u64 {
    let files = walkdir::WalkDir::new(place.path("artifacts")).into_iter().filter_map(Result::ok);
    let notes = files.filter(|entry| entry.path().parent().is_some_and(|parent| parent.ends_with("kept")));
    let notes = notes.filter_map(|entry| serde_json::from_slice::<Value>(&fs::read(entry.path()).ok()?).ok());
    notes.flat_map(|note| note["done"].as_array().cloned().unwrap_or_default()).filter_map(|done| done.as_u64()).sum()
}

#[test]
fn what_a_killed_download_has_is_not_fetched_again() {
    let mut repository = model();
    repository.files.insert("model.safetensors".to_owned(), bytes(4, 40 << 20));
    let files = repository.files.clone();
    // The last piece never comes as long as the first program lives.
    let hub = Hub::start(vec![repository.clone()], |request| {
        let is_last = request.headers.get("range").is_some_and(|range| range.starts_with("bytes=33554432-"));
        if is_last { Treat::Refuse(503, vec![("Retry-After", "60".to_owned())]) } else { Treat::Well }
    });
    let place = place("");
    let running = Running::of(command(&place, &["run", "graph.ron", "--json"], &hub.endpoint));
    let size: usize = files.values().map(Vec::len).sum();
    let arrived = size - ((40 << 20) - 33_554_432);
    wait_until("all but the last piece", || noted(&place) == arrived as u64);
    send(running.pid(), rustix::process::Signal::KILL);
    running.end_killed();

    let hub = Hub::start(vec![repository], |_| Treat::Well);
    let run = run_with(&place, &hub.endpoint, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(result(&place) == files);
    assert_eq!(hub.sent(), (size - arrived) as u64);
}

/// Another program takes all room while the last piece is on its way, and gives it back before the second run.
#[test]
fn a_disk_that_gets_full_costs_nothing_of_what_has_arrived() {
    let mut repository = model();
    repository.files.insert("model.safetensors".to_owned(), bytes(5, 40 << 20));
    let files = repository.files.clone();
    let place = place("");
    let filled = place.path("filled");
    let hub = Hub::start(vec![repository], move |request| {
        if request.headers.get("range").is_some_and(|range| range.starts_with("bytes=33554432-")) {
            wait_until("the disk to be full", || filled.exists());
        }
        Treat::Well
    });
    fs::create_dir(place.path("artifacts")).unwrap();
    // A file system of its own in a mount namespace of its own; `77` says that there is none to be had. The note of what
    // has arrived must be there before there is no room for another one.
    let script = "mount -t tmpfs -o size=160m tmpfs artifacts || exit 77
        \"$@\" > first & run=$!
        until find artifacts -path '*/kept/*.json' -exec cat {} + 2> complaint | tr -d ' \\n' | grep -q 16777216,16777216,0
        do kill -0 $run || exit 1; sleep 0.05; done
        cat /dev/zero > artifacts/ballast 2> complaint; touch filled; wait $run; echo $? > code
        rm artifacts/ballast; \"$@\" > second || exit 1
        cp -rL \"$(\"$1\" path graph.ron model)\" result";
    let program = command(&place, &["run", "graph.ron", "--json"], &hub.endpoint);
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]).arg(program.get_program());
    shell.args(program.get_args()).current_dir(place.path(""));
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let can_unshare = Command::new("unshare").args(["--mount", "--map-root-user", "true"]).output();
    let can_unshare = can_unshare.is_ok_and(|output| output.status.success());
    let ended = can_unshare.then(|| shell.output().unwrap());
    let Some(output) = ended.filter(|output| output.status.code() != Some(77)) else {
        writeln!(std::io::stderr(), "SKIPPED: no small file system can be mounted here").unwrap();
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fs::read_to_string(place.path("code")).unwrap(), "1\n");
    let first = fs::read_to_string(place.path("first")).unwrap();
    let mut events = first.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failed = events.rfind(|event| event["event"] == "stage-failed").unwrap();
    let message = failed["message"].as_str().unwrap();
    let (action, advice) = message.split_once(": ").unwrap();
    assert!(action.starts_with("write ") && action.contains(".part"), "{message}");
    insta::assert_snapshot!(advice, @"No space left on device (os error 28); make room (`twdag store gc` tells what can go), or put the store on another disk with --store, and run again: what the stage keeps of its work stays where it is");
    for (name, content) in &files {
        assert!(fs::read(place.path("result").join(name)).unwrap() == *content, "{name}");
    }
    let asked = |range: &str| {
        hub.requests().iter().filter(|it| it.headers.get("range").is_some_and(|it| it.starts_with(range))).count()
    };
    assert_eq!(["bytes=0-16777215", "bytes=16777216-", "bytes=33554432-"].map(asked), [1, 1, 2]);
}

#[test]
fn what_other_tools_have_downloaded_is_used() {
    let hub = Hub::start(vec![model()], |_| Treat::Well);
    let place = place(r#"files: ["config.json", "model.safetensors", "original/weights.bin"]"#);
    let folder = place.path("hub-home/hub/models--tiny-org--Tiny-1M");
    let files = model().files;
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::write(folder.join("blobs").join(git_name(&files["config.json"])), &files["config.json"]).unwrap();
    let weights = folder.join("blobs").join(sha256(&files["model.safetensors"]));
    fs::write(&weights, &files["model.safetensors"]).unwrap();
    let mut damaged = files["original/weights.bin"].clone();
    damaged[17] ^= 1;
    fs::write(folder.join("blobs").join(sha256(&files["original/weights.bin"])), damaged).unwrap();

    let run = run_with(&place, &hub.endpoint, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(hub.files(), [format!("/tiny-org/Tiny-1M/resolve/{COMMIT}/original/weights.bin")]);
    assert!(
        warnings(&run)
            .iter()
            .any(|warning| warning.ends_with("is damaged and not used; its bytes are not those of its name"))
    );
    let found = result(&place);
    assert!(found.iter().all(|(name, content)| *content == files[name]) && found.len() == 3);
}

/// No name can be given to a file of another file system, so its bytes are copied.
#[test]
fn a_cache_on_another_file_system_is_used() {
    let place = place(r#"files: ["config.json", "original/weights.bin"]"#);
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() || device(memory) == device(&place.path("")) {
        writeln!(std::io::stderr(), "SKIPPED: /dev/shm is no file system of its own").unwrap();
        return;
    }
    let cache = tempfile::tempdir_in(memory).unwrap();
    let blobs = cache.path().join("models--tiny-org--Tiny-1M/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let files = model().files;
    let (config, weights) = (&files["config.json"], &files["original/weights.bin"]);
    fs::write(blobs.join(git_name(config)), config).unwrap();
    fs::write(blobs.join(sha256(weights)), weights).unwrap();

    let hub = Hub::start(vec![model()], |_| Treat::Well);
    let run = run_with(&place, &hub.endpoint, &[("HF_HUB_CACHE", cache.path().to_str().unwrap())]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(hub.files(), Vec::<String>::new());
    let found = result(&place);
    assert!(found.iter().all(|(name, content)| *content == files[name]) && found.len() == 2);
}

#[test]
fn without_a_network_the_cache_must_have_what_is_named() {
    let hub = Hub::start(Vec::new(), |_| Treat::Well);
    let offline = |place: &Place| run_with(place, &hub.endpoint, &[("HF_HUB_OFFLINE", "1")]);
    let place = place(r#"files: ["config.json", "original/weights.bin"]"#);
    let refused = |place: &Place| {
        let message = message(&offline(place), &hub);
        message.replace(&*place.path("").canonicalize().unwrap().to_string_lossy(), "[place]")
    };
    insta::assert_snapshot!(refused(&place), @"tiny-org/Tiny-1M: HF_HUB_OFFLINE is set, and the cache does not know the commit of `main`; unset that variable, or put the full name of a commit into `revision`");

    let folder = place.path("hub-home/hub/models--tiny-org--Tiny-1M");
    let files = model().files;
    for name in ["config.json", "original/weights.bin"] {
        let content = &files[name];
        let digest = if content.len() < hub_server::LARGE { git_name(content) } else { sha256(content) };
        let (blob, link) = (folder.join("blobs").join(digest), folder.join("snapshots").join(COMMIT).join(name));
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::write(&blob, content).unwrap();
        std::os::unix::fs::symlink(&blob, &link).unwrap();
    }
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    place.graph(&[&download(r#"files: ["config.json", "README.md"]"#)]);
    insta::assert_snapshot!(refused(&place), @"[place]/hub-home/hub/models--tiny-org--Tiny-1M/snapshots/8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920/README.md: is not in the cache, and HF_HUB_OFFLINE forbids to fetch it; unset that variable, or fill the cache where there is a network");
    place.graph(&[&download(r#"files: ["*.json"]"#)]);
    insta::assert_snapshot!(refused(&place), @"tiny-org/Tiny-1M: HF_HUB_OFFLINE is set, and which files match `*.json` is known to the hub alone; unset that variable, or name the files");
    place.graph(&[&download("")]);
    insta::assert_snapshot!(refused(&place), @"tiny-org/Tiny-1M: HF_HUB_OFFLINE is set, and which files there are is known to the hub alone; unset that variable, or name the files in `files`");
    place.graph(&[&download(r#"files: ["config.json", "original/weights.bin"]"#)]);
    let run = offline(&place);
    assert_eq!(run.code, Some(0), "{run:#?}");
    let found = result(&place);
    assert!(found.iter().all(|(name, content)| *content == files[name]) && found.len() == 2);
    assert!(hub.requests().is_empty());
}

/// What the program says if requests for some address are refused so.
fn refused(
    environment: &[(&str, &str)],
    more: &str,
    treat: impl Fn(&Request) -> Treat + Send + Sync + 'static,
) -> String {
    let hub = Hub::start(vec![model()], treat);
    let place = place(more);
    message(&run_with(&place, &hub.endpoint, environment), &hub)
}

fn with_code(status: u16, code: &str) -> Treat {
    Treat::Refuse(status, vec![("X-Error-Code", code.to_owned())])
}

#[test]
fn each_refusal_says_what_to_do() {
    let token = [("HF_TOKEN", TOKEN)];
    let gated = |status| {
        move |request: &Request| if request.is_for_a_file() { with_code(status, "GatedRepo") } else { Treat::Well }
    };
    insta::assert_snapshot!(refused(&[], "", gated(401)), @"tiny-org/Tiny-1M: the model is gated and no access token is given; accept its licence at HUB/tiny-org/Tiny-1M, make a token at HUB/settings/tokens, and put it into the variable HF_TOKEN");
    insta::assert_snapshot!(refused(&token, "", gated(403)), @"tiny-org/Tiny-1M: the model is gated and the account of the access token has no access; ask for it at HUB/tiny-org/Tiny-1M, and check that the token may read gated repositories");
    insta::assert_snapshot!(refused(&[], "", |_| with_code(401, "RepoNotFound")), @"tiny-org/Tiny-1M: there is no such model, or it is private; check the name, or put an access token into the variable HF_TOKEN");
    insta::assert_snapshot!(refused(&token, "", |_| with_code(401, "")), @"tiny-org/Tiny-1M: the access token (HF_TOKEN, or that of a login) is not valid; make another one at HUB/settings/tokens");
    insta::assert_snapshot!(refused(&token, "", |_| with_code(403, "")), @"tiny-org/Tiny-1M: the access token may not read it; see HUB/tiny-org/Tiny-1M");
    insta::assert_snapshot!(refused(&[], "", |_| with_code(404, "RepoNotFound")), @"tiny-org/Tiny-1M: there is no such model at HUB; check the name, and whether it is a dataset");
    insta::assert_snapshot!(refused(&[], r#"revision: "v9""#, |_| Treat::Well), @"tiny-org/Tiny-1M: there is no revision `v9`; its branches and commits are at HUB/tiny-org/Tiny-1M/tree/main");
    insta::assert_snapshot!(refused(&[], r#"files: ["config.json", "*.gguf"]"#, |_| Treat::Well), @"setting `from.files.1` is `*.gguf`, expected the name of a file of tiny-org/Tiny-1M: README.md, config.json, empty.txt, model.safetensors, original/params.json, original/weights.bin");
    insta::assert_snapshot!(refused(&[], "", |request| if request.target.ends_with("/README.md") { Treat::Lie } else { Treat::Well }), @"README.md: the bytes that the hub sends have the digest git-sha1:c4114d5c78d1670b60f91341733b834f6f03cd6c, its list of files says git-sha1:c06b64da4b222b355e7a83daac91e2572f67e525; run again, and if it stays so, do not trust this hub");
    insta::assert_snapshot!(refused(&[], "", |_| Treat::Refuse(429, vec![("Retry-After", "3000".to_owned())])), @"fetch HUB/api/models/tiny-org/Tiny-1M/revision/main: the hub asks to be left alone for 3000 s; run again later to go on from there, or put an access token into HF_TOKEN: its limits are higher");
    insta::assert_snapshot!(refused(&[], "", |_| Treat::Redirect("http://example.org/".to_owned())), @"fetch HUB/api/models/tiny-org/Tiny-1M/revision/main: the server redirects to an address without encryption");
    insta::assert_snapshot!(refused(&[("HF_ENDPOINT", "http://hub.example.org")], "", |_| Treat::Well), @"the variable HF_ENDPOINT of the environment is `http://hub.example.org`, expected an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file)");
    insta::assert_snapshot!(refused(&[("HF_TOKEN", "two\nlines")], "", |_| Treat::Well), @"the variable HF_TOKEN is no access token: it holds letters that cannot be sent; copy it again");
}

#[test]
fn a_hub_that_cannot_be_believed_is_not() {
    let lists = |path: &str, size: u64| {
        let entry = serde_json::json!([{
            "type": "file", "path": path, "size": size, "oid": git_name(b""), "lfs": {"oid": sha256(b""), "size": size}
        }]);
        let mut repository = model();
        // A file whose name and bytes the server takes for a list.
        repository.files = BTreeMap::from([("x".to_owned(), entry.to_string().into_bytes())]);
        let hub = Hub::start(vec![repository], |request| {
            let to = format!("/tiny-org/Tiny-1M/resolve/{COMMIT}/x");
            if request.target.contains("/tree/") { Treat::Redirect(to) } else { Treat::Well }
        });
        let place = place(&format!(r#"revision: "{COMMIT}""#));
        let said = message(&run_with(&place, &hub.endpoint, &[]), &hub);
        assert!(!place.path("evil").exists());
        said
    };
    insta::assert_snapshot!(lists("../../../../evil", 3), @"HUB/api/models/tiny-org/Tiny-1M/tree/8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920?recursive=true: the hub answers with the file `../../../../evil`, expected a relative path without `.` and `..`; is HF_ENDPOINT the address of a model hub?");
    let endless = lists(&"x".repeat(257 << 20), 3);
    assert!(
        endless.ends_with(
            "the hub answers with more than 256 MiB of names of files; is HF_ENDPOINT the address of a model hub?"
        ),
        "{endless}"
    );
    let large = lists("model.safetensors", 1 << 60);
    assert!(large.contains("1152921504606846976 bytes are still to be fetched, and the disk has room for "), "{large}");
}

#[test]
fn a_busy_hub_is_waited_for_and_a_moved_repository_is_followed() {
    let hub = Hub::start(vec![model()], |request| match request.number {
        0 => Treat::Refuse(429, vec![("Retry-After", "0".to_owned())]),
        1 => Treat::Refuse(503, Vec::new()),
        _ => match request.target.strip_prefix("/api/models/old-org/old-name/") {
            Some(rest) => Treat::Redirect(format!("/api/models/tiny-org/Tiny-1M/{rest}")),
            None => match request.target.strip_prefix("/old-org/old-name/") {
                Some(rest) => Treat::Redirect(format!("/tiny-org/Tiny-1M/{rest}")),
                None => Treat::Well,
            },
        },
    });
    let place =
        Place::with(&[r#""model": Download(from: Hub(repository: "old-org/old-name", files: ["config.json"]))"#]);
    let run = run_with(&place, &hub.endpoint, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(warnings(&run)[0], "old-org/old-name has moved to tiny-org/Tiny-1M; put the new name into the graph");
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let elsewhere = Hub::start(vec![model()], |_| Treat::Well);
    let storage = elsewhere.endpoint.clone();
    let hub = Hub::start(vec![model()], move |request| {
        if request.headers.get("authorization").map(String::as_str) != Some(&format!("Bearer {TOKEN}")) {
            return with_code(401, "GatedRepo");
        }
        if request.target.ends_with("weights.bin") {
            Treat::Redirect(format!("{storage}{}", request.target))
        } else {
            Treat::Well
        }
    });
    let place = place("");
    let run = run_with(&place, &hub.endpoint, &[("HF_TOKEN", TOKEN)]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert!(result(&place) == model().files);
    let asked = elsewhere.requests();
    assert!(asked.len() == 1 && !asked[0].headers.contains_key("authorization"), "{asked:?}");
    // A login's token does as well.
    let login = Place::with(&[&download("")]);
    fs::create_dir_all(login.path("hub-home")).unwrap();
    fs::write(login.path("hub-home/token"), format!("{TOKEN}\n")).unwrap();
    assert_eq!(run_with(&login, &hub.endpoint, &[]).code, Some(0));
    fs::remove_file(login.path("hub-home/token")).unwrap();

    for place in [&place, &login] {
        for entry in walkdir::WalkDir::new(place.path("")).into_iter().map(Result::unwrap) {
            if entry.file_type().is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                let holds = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
                assert!(!holds, "{} holds the token", entry.path().display());
            }
        }
    }
    assert!(!format!("{:?} {}", run.events, run.stderr).contains(TOKEN));
}
