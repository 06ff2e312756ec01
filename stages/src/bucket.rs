//! Buckets of S3 and its kin (`s3://`), Google (`gs://`) and Azure (`az://`). Credentials and endpoints come from the environment, in
//! the variables of each one's own tools, and stand in no address.

use std::{env, fmt::Write as _, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
};
use url::{Host, Url};

/// How long a connection may take to come about.
const CONNECT: &str = "5 seconds";
/// How long one request may take; large objects take many.
const REQUEST: &str = "2 minutes";
/// Most letters of a message.
const LONGEST: usize = 600;

/// How requests are repeated: with a pause that grows and is drawn at random, for a bounded time.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_mins(1),
    }
}

/// Whether an address has one of the schemes of buckets.
pub fn is_bucket(url: &Url) -> bool {
    matches!(url.scheme(), "s3" | "gs" | "az")
}

/// The bucket of an address, and the path in it. Nothing is asked of it yet. The error is a fragment that follows the address.
pub fn open(url: &Url) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let failed = |error: object_store::Error| told(&error);
    let path = Path::from_url_path(url.path()).map_err(|error| error.to_string())?;
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "s3" => {
            let endpoint = endpoint();
            if endpoint.as_deref().is_some_and(holds_credentials) {
                let problem = "the URL of its server in AWS_ENDPOINT_URL holds a user or a password; put credentials into \
                               AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
                return Err(problem.to_owned());
            }
            let key = AmazonS3ConfigKey::Client;
            let mut builder = AmazonS3Builder::from_env()
                .with_url(url.as_str())
                .with_retry(retries())
                .with_config(key(ClientConfigKey::ConnectTimeout), CONNECT)
                .with_config(key(ClientConfigKey::Timeout), REQUEST);
            if endpoint.as_deref().and_then(|endpoint| Url::parse(endpoint).ok()).is_some_and(|url| is_loopback(&url)) {
                builder = builder.with_config(key(ClientConfigKey::AllowHttp), "true");
            }
            Arc::new(builder.build().map_err(failed)?)
        }
        "gs" => {
            let key = GoogleConfigKey::Client;
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_url(url.as_str())
                .with_retry(retries())
                .with_config(key(ClientConfigKey::ConnectTimeout), CONNECT)
                .with_config(key(ClientConfigKey::Timeout), REQUEST);
            Arc::new(builder.build().map_err(failed)?)
        }
        "az" => {
            let key = AzureConfigKey::Client;
            let builder = MicrosoftAzureBuilder::from_env()
                .with_url(url.as_str())
                .with_retry(retries())
                .with_config(key(ClientConfigKey::ConnectTimeout), CONNECT)
                .with_config(key(ClientConfigKey::Timeout), REQUEST);
            Arc::new(builder.build().map_err(failed)?)
        }
        scheme => return Err(format!("`{scheme}` is no scheme of a bucket, expected s3, gs or az")),
    };
    Ok((store, path))
}

/// The endpoint that the environment names for S3.
pub fn endpoint() -> Option<String> {
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

/// Whether what is sent to an address never leaves this machine, so that it needs no encryption.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An error with its causes, each once, without what a server's page says around it, and without the queries of
/// addresses: some hold a signature.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {more}");
        }
        cause = next.source();
    }
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => address,
        _ => word,
    });
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() > LONGEST { line.chars().take(LONGEST).chain("…".chars()).collect() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_encryption() {
        let is_loopback = |text: &str| is_loopback(&Url::parse(text).unwrap());
        assert!(
            is_loopback("http://127.0.0.1:8333") && is_loopback("http://localhost:9000") && is_loopback("http://[::1]")
        );
        assert!(!is_loopback("http://127.0.0.1.example.org") && !is_loopback("http://10.0.0.1:9000"));
    }

    #[test]
    fn a_message_holds_no_query_of_an_address() {
        let error =
            std::io::Error::other("Error performing GET https://a.blob.example.org/c/x?sig=geheim in 3s - what?");
        assert_eq!(told(&error), "Error performing GET https://a.blob.example.org/c/x in 3s - what?");
    }
}
