//! Addresses of remote stores. Credentials come from the environment and never stand in an address.

use std::{fmt, fs, path::PathBuf, str::FromStr, sync::Arc};

use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use twdag_stages::bucket;
use url::Url;

use super::RemoteError;
use crate::digest::Digest;

/// Where a remote store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Arc<Url>);

impl FromStr for Address {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let text = text.trim().trim_end_matches('/');
        // What stands before an @ may be a password.
        let shown = text.rsplit_once('@').map_or(text.to_owned(), |(_, rest)| format!("…@{rest}"));
        let shown = shown.split(['?', '#']).next().unwrap_or_default().to_owned();
        let refuse = |problem: &str| RemoteError::Address { given: shown.clone(), problem: problem.to_owned() };
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it holds a user or a password; put credentials into the environment"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it has a `?` or a `#`"));
        }
        match url.scheme() {
            "file" if url.host_str().is_none_or(str::is_empty) && url.to_file_path().is_ok() => {}
            "file" => return Err(refuse("a file:// address has three slashes and an absolute path")),
            "s3" | "gs" | "az" if url.host_str().is_some_and(|bucket| !bucket.is_empty()) => {}
            "s3" | "gs" | "az" => return Err(refuse("it names no bucket")),
            _ => return Err(refuse("its scheme is not known")),
        }
        Path::from_url_path(url.path()).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self(Arc::new(url)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Address {
    /// A name for files that belong to this remote store. The same bucket at another endpoint is another store.
    pub(super) fn name(&self) -> String {
        let endpoint = if self.0.scheme() == "s3" { bucket::endpoint().unwrap_or_default() } else { String::new() };
        Digest::of(format!("{}\n{endpoint}", self.0).as_bytes()).to_string()
    }

    /// The folder that it is, if it is one.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        (self.0.scheme() == "file").then(|| self.0.to_file_path().ok()).flatten()
    }

    /// Opens it; the path below which everything lies. Asks nothing of it yet.
    pub(super) fn open(&self) -> Result<(Arc<dyn ObjectStore>, Path), RemoteError> {
        let unusable = |problem: String| RemoteError::Unusable { address: self.clone(), problem };
        if bucket::is_bucket(&self.0) {
            return bucket::open(&self.0).map_err(unusable);
        }
        let folder = self.folder().ok_or_else(|| unusable("it is no path of this machine".to_owned()))?;
        // One that is not there may be a file server that is not mounted.
        if !fs::metadata(&folder).is_ok_and(|found| found.is_dir()) {
            return Err(unusable("there is no such folder; create it, or mount it".to_owned()));
        }
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| unusable(bucket::told(&error)))?;
        Ok((Arc::new(store.with_fsync(true)), Path::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_bucket_and_no_secret() {
        for good in ["s3://team/cache", "s3://team", "gs://team/a/b", "az://container/x", "file:///nfs/cache/"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for wrong in ["", "team", "s3:///x", "http://host/x", "file://nfs/cache", "s3://team/x?versionId=1"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
        let refused = "s3://user:geheim@team/x".parse::<Address>().unwrap_err().to_string();
        assert!(!refused.contains("geheim") && refused.contains("credentials into the environment"), "{refused}");
    }
}
