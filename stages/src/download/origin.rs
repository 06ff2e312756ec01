//! Where the bytes of a file are: at a web address, or in a bucket.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap},
};
use url::Url;

use super::request::{Requests, cause, failed};
use crate::{bucket, stage::StageError};

/// A place that a file can be fetched from.
pub(super) enum Origin<'a> {
    Web {
        requests: &'a Requests<'a>,
        url: Url,
        /// Longest wait that the server may ask for.
        patience: Duration,
    },
    Bucket {
        store: Arc<dyn ObjectStore>,
        path: object_store::path::Path,
        url: Url,
    },
}

/// What a server says of a file before it is fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Bytes; some servers do not know.
    pub(super) size: Option<u64>,
    /// Whether the server sends pieces of it.
    pub(super) in_pieces: bool,
}

/// Bytes on their way.
pub(super) enum Body {
    Web(Response),
    Bucket(BoxStream<'static, object_store::Result<Bytes>>),
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web { url, .. } | Self::Bucket { url, .. } => url.fmt(formatter),
        }
    }
}

impl Origin<'_> {
    /// An object in a bucket. Nothing is asked of it yet.
    pub(super) fn in_bucket(url: Url) -> Result<Self, StageError> {
        let (store, path) = bucket::open(&url).map_err(|problem| failed(&format!("open {url}"), &problem))?;
        Ok(Self::Bucket { store, path, url })
    }

    /// What the file is called there.
    pub(super) fn file_name(&self) -> &str {
        let (Self::Web { url, .. } | Self::Bucket { url, .. }) = self;
        url.path().rsplit('/').next().unwrap_or_default()
    }

    /// Asks for size and manners, without fetching the file.
    pub(super) async fn look(&self) -> Result<Extent, StageError> {
        match self {
            // One byte is asked for, since servers that answer GET need not answer HEAD.
            Self::Web { requests, url, patience } => {
                let response = requests.get(url, Some(0..1), *patience).await?;
                let headers = response.headers();
                let size = match response.status() {
                    StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => total(headers),
                    _ => headers.get(CONTENT_LENGTH).and_then(|size| size.to_str().ok()?.parse().ok()),
                };
                let in_pieces = response.status() == StatusCode::PARTIAL_CONTENT && size.is_some();
                Ok(Extent { size, in_pieces: in_pieces || size == Some(0) })
            }
            Self::Bucket { store, path, url } => {
                let found = store.head(path).await.map_err(|error| refusal(url, &error))?;
                Ok(Extent { size: Some(found.size), in_pieces: true })
            }
        }
    }

    /// Begins to fetch a piece, or without a range the whole file.
    pub(super) async fn open(&self, range: Option<Range<u64>>) -> Result<Body, StageError> {
        match self {
            Self::Web { requests, url, patience } => {
                let response = requests.get(url, range.clone(), *patience).await?;
                let status = response.status();
                match range {
                    Some(range)
                        if status != StatusCode::PARTIAL_CONTENT || start(response.headers()) != Some(range.start) =>
                    {
                        // A file of one piece may as well come as a whole.
                        let is_whole = status == StatusCode::OK
                            && range.start == 0
                            && response.content_length().is_none_or(|length| length == range.end);
                        if !is_whole {
                            let message =
                                "the server does not send the pieces of the file that it is asked for; use another one";
                            return Err(failed(&format!("fetch {url}"), message));
                        }
                    }
                    _ => {}
                }
                Ok(Body::Web(response))
            }
            Self::Bucket { store, path, url } => {
                let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
                let answer = store.get_opts(path, options).await.map_err(|error| refusal(url, &error))?;
                if range.is_some_and(|range| range != answer.range) {
                    let message = format!("the object has {} bytes now; it has changed meanwhile", answer.meta.size);
                    return Err(failed(&format!("fetch {url}"), &message));
                }
                Ok(Body::Bucket(answer.into_stream()))
            }
        }
    }
}

impl Body {
    /// The next bytes; `None` at the end. The error says why no more will come.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        match self {
            Self::Web(response) => response.chunk().await.map_err(|error| cause(&error)),
            Self::Bucket(pieces) => pieces.next().await.transpose().map_err(|error| bucket::told(&error)),
        }
    }
}

/// Where a partial answer starts.
fn start(headers: &HeaderMap) -> Option<u64> {
    content_range(headers)?.split_once('-')?.0.parse().ok()
}

/// The size of the whole file, of which a part was asked for.
fn total(headers: &HeaderMap) -> Option<u64> {
    content_range(headers)?.rsplit_once('/')?.1.parse().ok()
}

fn content_range(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")
}

/// What it means if a bucket refuses.
fn refusal(url: &Url, error: &Error) -> StageError {
    let (keys, public) = match url.scheme() {
        "s3" => ("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "AWS_SKIP_SIGNATURE=true"),
        "gs" => ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SKIP_SIGNATURE=true"),
        _ => ("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY", "AZURE_SKIP_SIGNATURE=true"),
    };
    let problem = match error {
        Error::NotFound { .. } => "is not there; check bucket and path".to_owned(),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => format!(
            "the bucket refuses access; give credentials that may read it in {keys}, or set {public} for a public one"
        ),
        error => return failed(&format!("fetch {url}"), &bucket::told(error)),
    };
    StageError::input(url.as_str(), problem)
}
