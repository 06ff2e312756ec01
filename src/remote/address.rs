//! Addresses of remote stores. Credentials come from the environment and never stand in an address.

use std::{env, fmt, fs, path::PathBuf, str::FromStr, sync::Arc};

use object_store::{
    ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use url::Url;

use super::{RemoteError, client::retries};
use crate::digest::Digest;

/// How long a connection may take to come about.
const CONNECT: &str = "5 seconds";
/// How long one request may take; large objects take many.
const REQUEST: &str = "2 minutes";

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
        let endpoint = if self.0.scheme() == "s3" { endpoint().unwrap_or_default() } else { String::new() };
        Digest::of(format!("{}\n{endpoint}", self.0).as_bytes()).to_string()
    }

    /// The folder that it is, if it is one.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        (self.0.scheme() == "file").then(|| self.0.to_file_path().ok()).flatten()
    }

    /// Opens it; the path below which everything lies. Asks nothing of it yet.
    pub(super) fn open(&self) -> Result<(Arc<dyn ObjectStore>, Path), RemoteError> {
        let unusable = |problem: String| RemoteError::Unusable { address: self.clone(), problem };
        let failed = |error: object_store::Error| unusable(super::client::told(&error));
        let retry: RetryConfig = retries();
        let prefix = Path::from_url_path(self.0.path()).map_err(|error| unusable(error.to_string()))?;
        let store: Arc<dyn ObjectStore> = match self.0.scheme() {
            "s3" => {
                if endpoint().is_some_and(|endpoint| holds_credentials(&endpoint)) {
                    let problem = "the URL of its server in AWS_ENDPOINT_URL holds a user or a password; put credentials into \
                                   AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
                    return Err(unusable(problem.to_owned()));
                }
                let key = AmazonS3ConfigKey::Client;
                let mut builder = AmazonS3Builder::from_env()
                    .with_url(self.0.as_str())
                    .with_retry(retry)
                    .with_config(key(ClientConfigKey::ConnectTimeout), CONNECT)
                    .with_config(key(ClientConfigKey::Timeout), REQUEST);
                if endpoint().is_some_and(|endpoint| is_on_this_machine(&endpoint)) {
                    builder = builder.with_config(key(ClientConfigKey::AllowHttp), "true");
                }
                Arc::new(builder.build().map_err(failed)?)
            }
            "gs" => {
                let key = GoogleConfigKey::Client;
                let builder = GoogleCloudStorageBuilder::from_env()
                    .with_url(self.0.as_str())
                    .with_retry(retry)
                    .with_config(key(ClientConfigKey::ConnectTimeout), CONNECT)
                    .with_config(key(ClientConfigKey::Timeout), REQUEST);
                Arc::new(builder.build().map_err(failed)?)
            }
            "az" => {
                let key = AzureConfigKey::Client;
                let builder = MicrosoftAzureBuilder::from_env()
                    .with_url(self.0.as_str())
                    .with_retry(retry)
                    .with_config(key(ClientConfigKey::ConnectTimeout), CONNECT)
                    .with_config(key(ClientConfigKey::Timeout), REQUEST);
                Arc::new(builder.build().map_err(failed)?)
            }
            _ => {
                let folder = self.folder().ok_or_else(|| unusable("it is no path of this machine".to_owned()))?;
                // One that is not there may be a file server that is not mounted.
                if !fs::metadata(&folder).is_ok_and(|found| found.is_dir()) {
                    return Err(unusable("there is no such folder; create it, or mount it".to_owned()));
                }
                let store = LocalFileSystem::new_with_prefix(folder).map_err(failed)?;
                return Ok((Arc::new(store.with_fsync(true)), Path::default()));
            }
        };
        Ok((store, prefix))
    }
}

/// The endpoint that the environment names for S3.
fn endpoint() -> Option<String> {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .into_iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Whether a URL names a user, so that messages that show it might tell a secret.
fn holds_credentials(endpoint: &str) -> bool {
    match Url::parse(endpoint) {
        Ok(url) => !url.username().is_empty() || url.password().is_some(),
        Err(_) => endpoint.contains('@'),
    }
}

/// Whether an address without encryption never leaves this machine.
fn is_on_this_machine(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return false };
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
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

    #[test]
    fn only_this_machine_is_spoken_to_without_encryption() {
        assert!(is_on_this_machine("http://127.0.0.1:8333") && is_on_this_machine("http://localhost:9000"));
        assert!(!is_on_this_machine("http://127.0.0.1.example.org") && !is_on_this_machine("http://10.0.0.1:9000"));
    }
}
