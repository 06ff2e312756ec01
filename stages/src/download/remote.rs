//! Files over https: resumed where an earlier attempt ended, checked against their pinned digests.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, RetryConfig,
    http::{HttpBuilder, HttpStore},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    GLANCE, Pinned, address, canceled,
    pin::{Hasher, Pin},
};
use crate::{
    data::{read_json, write_json},
    stage::{Context, StageError},
};

/// A server that sends nothing for so long counts as gone.
const SILENCE: Duration = Duration::from_mins(1);

/// What is known of a partial file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Partial {
    /// The server's name for this version of the file.
    etag: Option<String>,
}

pub(super) fn fetch(files: &BTreeMap<String, Pinned>, context: &Context) -> Result<(), StageError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StageError::io("start", "the network runtime"))?;
    let mut before = 0;
    for (index, (name, pinned)) in files.iter().enumerate() {
        let transfer = Transfer::new(name, pinned, index, before, context)?;
        // Sizes of later files are not known yet, so only the last one can tell the total.
        let is_last = index + 1 == files.len();
        before += runtime.block_on(async {
            tokio::select! {
                result = transfer.run(is_last) => result,
                () = canceled(context) => Err(StageError::Canceled),
            }
        })?;
    }
    Ok(())
}

struct Transfer<'a> {
    name: &'a str,
    url: String,
    pin: Pin,
    store: HttpStore,
    part: PathBuf,
    about: PathBuf,
    before: u64,
    context: &'a Context,
}

/// Why a transfer from an offset did not come to its end.
enum Trouble {
    /// The partial file is of no use to this server: start again.
    Stale,
    Stage(StageError),
}

impl From<StageError> for Trouble {
    fn from(error: StageError) -> Self {
        Self::Stage(error)
    }
}

impl<'a> Transfer<'a> {
    fn new(
        name: &'a str,
        pinned: &Pinned,
        index: usize,
        before: u64,
        context: &'a Context,
    ) -> Result<Self, StageError> {
        let url = address::check(&format!("from.files.{name}.url"), &pinned.url)?;
        let pin = Pin::parse(&format!("from.files.{name}.digest"), &pinned.digest)?;
        // A total time limit would cut off large files, so the silence between two pieces is limited instead.
        let options = ClientOptions::new()
            .with_allow_http(url.scheme() == "http")
            .with_timeout_disabled()
            .with_connect_timeout(Duration::from_secs(20));
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: GLANCE, max_backoff: Duration::from_secs(5), base: 2.0 },
            max_retries: 5,
            retry_timeout: Duration::from_mins(1),
        };
        let store = HttpBuilder::new().with_url(url.as_str()).with_client_options(options).with_retry(retry).build();
        let store = store.map_err(|error| StageError::Failed(format!("cannot fetch {url}: {error}")))?;
        let file = |ending: &str| context.scratch().join(format!("{index}.{ending}"));
        Ok(Self { name, url: url.into(), pin, store, part: file("part"), about: file("json"), before, context })
    }

    /// Brings the file to the output folder and returns its size.
    async fn run(&self, is_last: bool) -> Result<u64, StageError> {
        let resumed = self.part.is_file();
        let mut result = self.transfer(is_last).await;
        let is_right = matches!(&result, Ok(found) if *found == self.pin);
        if resumed && !is_right && !matches!(result, Err(Trouble::Stage(_))) {
            // Bytes of two versions of the file may have come together: once more from the start.
            self.forget()?;
            result = self.transfer(is_last).await;
        }
        match result {
            Ok(found) if found == self.pin => self.deliver(),
            Ok(found) => {
                self.forget()?;
                let problem = format!(
                    "the bytes have the digest {found}, expected {}; if the file was meant to change, put the new \
                     digest into the graph, else do not trust this address",
                    self.pin
                );
                Err(StageError::input(&self.url, problem))
            }
            Err(Trouble::Stale) => Err(self.failed("the server answered with a part of the file unasked")),
            Err(Trouble::Stage(error)) => Err(error),
        }
    }

    /// Fetches what is missing and returns the digest of the whole.
    async fn transfer(&self, is_last: bool) -> Result<Pin, Trouble> {
        let mut hasher = self.pin.hasher();
        let start = self.hash_partial(&mut hasher)?;
        let so_far = hasher.clone().finish();
        if so_far == self.pin {
            return Ok(so_far);
        }
        let partial: Partial =
            if self.about.is_file() { read_json(&self.about).unwrap_or_default() } else { Partial::default() };
        let options = GetOptions {
            range: (start > 0).then_some(GetRange::Offset(start)),
            if_match: partial.etag.clone().filter(|_| start > 0),
            ..GetOptions::default()
        };
        let request = timeout(SILENCE, self.store.get_opts(&object_store::path::Path::default(), options)).await;
        let answer = match request {
            Err(_) => return Err(self.failed("the server does not answer").into()),
            // Any trouble with a resumed request (changed file, no ranges, nothing left to send) ends with a whole one.
            Ok(Err(_)) if start > 0 => return Err(Trouble::Stale),
            Ok(Err(error)) => return Err(self.failed(&cause(&error)).into()),
            Ok(Ok(answer)) => answer,
        };
        let size = answer.meta.size;
        write_json(&self.about, &Partial { etag: answer.meta.e_tag.clone() }).map_err(StageError::from)?;
        let file = File::options().create(true).append(true).open(&self.part);
        let mut file = file.map_err(StageError::io("write", &self.part))?;
        let mut done = start;
        let mut pieces = answer.into_stream();
        loop {
            let piece = match timeout(SILENCE, pieces.next()).await {
                Err(_) => return Err(self.broken(done, size, "the server fell silent").into()),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(self.broken(done, size, &cause(&error)).into()),
                Ok(Some(Ok(piece))) => piece,
            };
            file.write_all(&piece).map_err(StageError::io("write", &self.part))?;
            hasher.update(&piece);
            done += piece.len() as u64;
            let total = if is_last { self.before + size } else { 0 };
            self.context.progress(self.before + done, total, "bytes", self.name);
        }
        if done != size {
            return Err(self.broken(done, size, "the connection ended early").into());
        }
        Ok(hasher.finish())
    }

    fn hash_partial(&self, hasher: &mut Hasher) -> Result<u64, StageError> {
        let mut file = match File::open(&self.part) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(StageError::io("read", &self.part)(error)),
        };
        let mut buffer = vec![0; 1 << 20];
        let mut length = 0;
        loop {
            let read = file.read(&mut buffer).map_err(StageError::io("read", &self.part))?;
            if read == 0 {
                return Ok(length);
            }
            hasher.update(&buffer[..read]);
            length += read as u64;
        }
    }

    fn deliver(&self) -> Result<u64, StageError> {
        let target = self.context.output().join(self.name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(StageError::io("create", parent))?;
        }
        let size = fs::metadata(&self.part).map_err(StageError::io("read", &self.part))?.len();
        // A copy, since the file stays good for another attempt if a later file fails.
        fs::copy(&self.part, &target).map_err(StageError::io("write", &target))?;
        Ok(size)
    }

    fn forget(&self) -> Result<(), StageError> {
        for path in [&self.part, &self.about] {
            remove(path)?;
        }
        Ok(())
    }

    fn failed(&self, problem: &str) -> StageError {
        StageError::Environment { action: format!("fetch {}", self.url), source: io::Error::other(problem.to_owned()) }
    }

    fn broken(&self, done: u64, size: u64, problem: &str) -> StageError {
        self.failed(&format!("{problem} after {done} of {size} bytes; run again to go on from there"))
    }
}

fn remove(path: &Path) -> Result<(), StageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The innermost cause, which says what happened; the outer ones repeat the address.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().trim_end_matches([':', ' ']).to_owned()
}
