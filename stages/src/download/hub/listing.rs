//! Which commit a revision is, and which files that has.

use reqwest::{Response, header::LINK};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::{answers::Answers, environment::Environment};
use crate::{
    download::{
        local::check_file_name,
        pin::Pin,
        request::{PATIENCE, Requests, cause, failed},
    },
    stage::{Context, StageError},
};

/// Longer lists of files are not taken in: nobody's repository has a million files, and memory is not a hub's to fill.
const LARGEST: usize = 256 << 20;
/// What an answer counts for at least, so that a list whose pages lead round in a circle ends.
const LEAST: usize = 4 << 10;

/// A file of a commit.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) pin: Pin,
    pub(super) url: Url,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    /// The name of its content in git.
    oid: String,
    size: u64,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    /// SHA-256 of the content.
    oid: String,
    size: u64,
}

/// Whether a revision is the full name of a commit.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The commit that a branch or tag is at now.
pub(super) async fn commit(
    requests: &Requests<'_>,
    answers: &Answers<'_>,
    context: &Context,
) -> Result<String, StageError> {
    let Answers { environment, repository } = *answers;
    if is_commit(repository.revision) {
        return Ok(repository.revision.to_owned());
    }
    let url = repository.api(environment, &["revision", repository.revision])?;
    let response = requests.get(&url, None, PATIENCE).await?;
    answers.tell_of_a_move(&url, &response, context);
    let mut room = LARGEST;
    let found: Revision = json(&url, response, &mut room).await?;
    if !is_commit(&found.sha) {
        return Err(odd(&url, &format!("the commit `{}`", found.sha)));
    }
    Ok(found.sha)
}

/// All files of a commit.
pub(super) async fn files(
    requests: &Requests<'_>,
    answers: &Answers<'_>,
    context: &Context,
    commit: &str,
) -> Result<Vec<RemoteFile>, StageError> {
    let Answers { environment, repository } = *answers;
    let mut url = repository.api(environment, &["tree", commit])?;
    url.query_pairs_mut().append_pair("recursive", "true");
    let (mut files, mut room) = (Vec::new(), LARGEST);
    loop {
        let response = requests.get(&url, None, PATIENCE).await?;
        if is_commit(repository.revision) {
            answers.tell_of_a_move(&url, &response, context);
        }
        let next = next_page(&response, environment);
        let entries: Vec<Entry> = json(&url, response, &mut room).await?;
        for entry in entries.into_iter().filter(|entry| entry.r#type == "file") {
            // Whoever writes such a name wants to write outside of the folder.
            check_file_name("path", &entry.path)
                .map_err(|error| odd(&url, &format!("the file {}, expected {}", error.found, error.expected)))?;
            let (pin, size) = match &entry.lfs {
                Some(lfs) => (Pin::sha256(&lfs.oid), lfs.size),
                None => (Pin::git_blob(&entry.oid, entry.size), entry.size),
            };
            let pin = pin.ok_or_else(|| odd(&url, &format!("no digest of `{}`", entry.path)))?;
            let below: Vec<&str> = ["resolve", commit].into_iter().chain(entry.path.split('/')).collect();
            let url = repository.file(environment, &below)?;
            files.push(RemoteFile { path: entry.path, size, pin, url });
        }
        match next {
            Some(next) => url = next,
            None => return Ok(files),
        }
    }
}

/// The address of the next page of a long list, if it is one of the hub itself: the token goes there.
fn next_page(response: &Response, environment: &Environment) -> Option<Url> {
    let links = response.headers().get(LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    let (address, _) = rest.split_once('>')?;
    let url = environment.endpoint.join(address).ok()?;
    (url.origin() == environment.endpoint.origin()).then_some(url)
}

/// The answer as JSON; `room` is what it and those after it may take.
async fn json<T: DeserializeOwned>(url: &Url, mut response: Response, room: &mut usize) -> Result<T, StageError> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| failed(&format!("fetch {url}"), &cause(&error)))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > *room {
            break;
        }
    }
    let left = room.checked_sub(bytes.len().max(LEAST));
    *room = left.ok_or_else(|| odd(url, &format!("more than {} MiB of names of files", LARGEST >> 20)))?;
    serde_json::from_slice(&bytes).map_err(|error| odd(url, &format!("no list of files ({error})")))
}

fn odd(url: &Url, found: &str) -> StageError {
    StageError::input(url.as_str(), format!("the hub answers with {found}; is HF_ENDPOINT the address of a model hub?"))
}
