//! A real S3 server on this machine, and a proxy before it that counts requests and can be asked to misbehave.

#![allow(dead_code, unreachable_pub, reason = "a room of several test targets, of which each uses its own share")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use object_store::{Error, ObjectStoreExt, RetryConfig, aws::AmazonS3Builder};

/// The program `weed` of SeaweedFS (tests/python/requirements.txt has the package).
const VARIABLE: &str = "TWDAG_TEST_S3_SERVER";
const BUCKET: &str = "team";
pub(crate) const ACCESS_KEY: &str = "test-access-key";
pub(crate) const SECRET_KEY: &str = "nobody-may-ever-print-this-secret";
const DEADLINE: Duration = Duration::from_mins(1);

/// The server that all tests of this process share, each below a prefix of its own.
pub(crate) struct Server {
    port: u16,
    /// Ends the server when this process ends, in whatever way.
    _lifeline: Mutex<Child>,
}

/// The server, or `None`, told loudly, where it is not installed.
#[allow(clippy::print_stderr, reason = "a skipped test has nothing but this to be noticed by")]
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| program().map(|program| start(&program)));
    if server.is_none() {
        writeln!(
            std::io::stderr(),
            "SKIPPED: {VARIABLE} does not name the program `weed` of SeaweedFS, and it is not on the PATH"
        )
        .unwrap();
    }
    server.as_ref()
}

fn program() -> Option<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE) {
        return Some(path.into());
    }
    let paths = env::var_os("PATH")?;
    env::split_paths(&paths).map(|folder| folder.join("weed")).find(|path| path.is_file())
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Each port also stands for the one 10,000 above.
fn free_ports(count: usize) -> Vec<u16> {
    let begin = 20_000 + (std::process::id() % 400 * 50) as u16;
    let both = |port: &u16| is_free(*port) && is_free(port + 10_000);
    (begin..45_000).filter(both).take(count).collect()
}

fn start(program: &PathBuf) -> Server {
    let folder = tempfile::Builder::new().prefix("twdag-s3-").tempdir().unwrap();
    let ports = free_ports(6);
    let [s3, filer, master, volume, admin, metrics] = ports[..] else { panic!("no free ports") };
    // The shell ends when its standard input does, which is when this process ends, and takes the server along.
    let script =
        "\"$@\" >\"$0/log\" 2>&1 & server=$!; read -r line; kill -9 $server; wait $server 2>/dev/null; rm -rf \"$0\"";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(folder.path())
        .arg(program)
        .arg(format!("-logdir={}", folder.path().display()))
        .arg("mini")
        .arg(format!("-dir={}", folder.path().join("data").display()))
        .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0"])
        .arg(format!("-bucket={BUCKET}"))
        .arg(format!("-s3.port={s3}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-admin.port={admin}"))
        .arg(format!("-metricsPort={metrics}"))
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = folder.keep().join("log");
    let end = Instant::now() + DEADLINE;
    while !is_ready(s3) {
        assert!(Instant::now() < end, "no S3 server: {}", fs::read_to_string(&log).unwrap_or_default());
        thread::sleep(Duration::from_millis(50));
    }
    Server { port: s3, _lifeline: Mutex::new(child) }
}

/// Ready is a server that knows the bucket and the key, and says that an object is not in it.
fn is_ready(port: u16) -> bool {
    let store = AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .with_allow_http(true)
        .with_bucket_name(BUCKET)
        .with_region("us-east-1")
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(store.get(&"ready".into()));
    found.is_err_and(|error| matches!(error, Error::NotFound { .. }) && format!("{error:?}").contains("NoSuchKey"))
}

/// How one request is treated.
#[derive(Clone, Debug)]
pub(crate) enum Treat {
    /// As it should be.
    Well,
    /// The server is busy.
    Refuse(u16),
    /// The server refuses, and says why by a code.
    Deny(u16, &'static str),
    /// The answer takes longer by this.
    Late(Duration),
    /// The answer ends after so many bytes.
    Cut(u64),
    /// A byte of the answer's body is another one.
    Flip,
    /// The object is shorter than the piece that is asked for: the answer is whole, and half as long.
    Shorten,
}

/// A request that went by.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The bytes that are asked for, if not all.
    pub(crate) range: Option<Range<u64>>,
}

/// A proxy before the server.
pub(crate) struct Proxy {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

type Decide = dyn Fn(&Request) -> Treat + Send + Sync;

impl Proxy {
    /// Starts on a free port; `treat` decides about each request.
    pub(crate) fn start(server: &Server, treat: impl Fn(&Request) -> Treat + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (to, kept, treat) = (server.port, Arc::clone(&requests), Arc::new(treat));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, treat) = (Arc::clone(&kept), Arc::clone(&treat));
                // One request for each connection; whoever goes away early is no concern of ours.
                thread::spawn(move || pass_on(stream, to, &kept, &*treat));
            }
        });
        Self { port, requests }
    }

    /// The requests that went by since this was last asked.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    /// What a program needs to know to reach a part of the bucket that nobody else uses.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        environment(self.port)
    }
}

fn pass_on(mut client: TcpStream, to: u16, kept: &Mutex<Vec<Request>>, treat: &Decide) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (mut head, mut length, mut range) = (String::new(), 0_u64, None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        if name.eq_ignore_ascii_case("range") {
            let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
            range = Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1);
        }
        if !name.eq_ignore_ascii_case("connection") {
            head += &line;
        }
    }
    let mut words = head.split(' ');
    let request = Request { method: words.next()?.to_owned(), target: words.next()?.to_owned(), range };
    // Before anybody hears of it.
    kept.lock().unwrap().push(request.clone());
    let treat = treat(&request);
    let mut body = reader.take(length);
    let refusal = match treat {
        Treat::Refuse(status) => Some((status, String::new())),
        // As S3 does, which repeats what it refuses.
        Treat::Deny(status, code) => {
            let rest = format!("<Message>No.</Message><Token-0>{SECRET_KEY}</Token-0>");
            Some((status, format!("<Error><Code>{code}</Code>{rest}</Error>")))
        }
        _ => None,
    };
    if let Some((status, text)) = refusal {
        std::io::copy(&mut body, &mut std::io::sink()).ok()?;
        let length = text.len();
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
        return client.write_all(answer.as_bytes()).ok();
    }
    if let Treat::Late(delay) = treat {
        thread::sleep(delay);
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).ok()?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
    std::io::copy(&mut body, &mut server).ok()?;
    match treat {
        Treat::Cut(bytes) => drop(std::io::copy(&mut server.take(bytes), &mut client)),
        Treat::Flip => {
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).ok()?;
            if let Some(last) = answer.last_mut() {
                *last ^= 1;
            }
            client.write_all(&answer).ok()?;
        }
        Treat::Shorten => {
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).ok()?;
            client.write_all(&shortened(&answer)?).ok()?;
        }
        _ => drop(std::io::copy(&mut server, &mut client)),
    }
    client.shutdown(Shutdown::Both).ok()
}

/// The answer of a server whose object ends in the middle of the piece that was asked for.
fn shortened(answer: &[u8]) -> Option<Vec<u8>> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let (head, body) = answer.split_at(head);
    let body = &body[..body.len() / 2];
    let mut short = Vec::new();
    for line in std::str::from_utf8(head).ok()?.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let line = match name.to_ascii_lowercase().as_str() {
            "content-length" => format!("{name}: {}", body.len()),
            "content-range" => {
                let begin: usize = value.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()?;
                let end = begin + body.len();
                format!("{name}: bytes {begin}-{}/{end}", end - 1)
            }
            _ => line.to_owned(),
        };
        short.extend_from_slice(line.as_bytes());
        short.extend_from_slice(b"\r\n");
    }
    short.extend_from_slice(body);
    Some(short)
}

/// A part of the bucket that no other test uses.
pub(crate) fn prefix() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("s3://{BUCKET}/{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn environment(port: u16) -> BTreeMap<String, String> {
    let pairs = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
