//! Which addresses may be fetched.

use url::Url;

use crate::{bucket, stage::SettingError};

const HTTPS: &str = "an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file)";
const EXPECTED: &str = "an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file), or one of a \
                        bucket: s3://, gs:// or az://";
/// Parts of queries that let in whoever has the address: those of Amazon, Google and Azure, and keys as such. So do names that end
/// in [`TOKEN`].
const SIGNATURES: [&str; 10] = [
    "x-amz-signature",
    "x-goog-signature",
    "sig",
    "signature",
    "policy",
    "key-pair-id",
    "awsaccesskeyid",
    "googleaccessid",
    "api_key",
    "apikey",
];
const TOKEN: &str = "token";

/// Refuses what is no https address (http on this machine alone), and addresses with a user name or password, which
/// would end up in records.
pub(super) fn check(path: &str, text: &str) -> Result<Url, SettingError> {
    let url = without_secrets(path, text, HTTPS)?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if bucket::is_loopback(&url) => Ok(url),
        _ => Err(SettingError::new(path, format!("`{text}`"), HTTPS)),
    }
}

/// The same, and addresses of objects in buckets.
pub(super) fn check_source(path: &str, text: &str) -> Result<Url, SettingError> {
    let url = without_secrets(path, text, EXPECTED)?;
    let is_signed = url.query_pairs().any(|(name, _)| {
        let name = name.to_ascii_lowercase();
        SIGNATURES.contains(&name.as_str()) || name.ends_with(TOKEN)
    });
    if is_signed {
        let expected = "one without: it stands in keys and records that others can read, and soon is of no use; give the object's \
                        s3://, gs:// or az:// address, and credentials in the environment";
        return Err(SettingError::new(path, "an address with a signature, a key or a token", expected));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if bucket::is_loopback(&url) => Ok(url),
        _ if bucket::is_bucket(&url) => {
            let is_object = url.host_str().is_some_and(|bucket| !bucket.is_empty()) && url.path().len() > 1;
            let is_plain = url.query().is_none() && url.fragment().is_none() && !url.path().ends_with('/');
            if is_object && is_plain {
                return Ok(url);
            }
            Err(SettingError::new(
                path,
                format!("`{text}`"),
                "bucket and path of one object, such as s3://bucket/path/file",
            ))
        }
        _ => Err(SettingError::new(path, format!("`{text}`"), EXPECTED)),
    }
}

fn without_secrets(path: &str, text: &str, expected: &str) -> Result<Url, SettingError> {
    // The text itself may hold a password, so it is repeated only once it is known not to.
    let url = Url::parse(text).map_err(|error| SettingError::new(path, format!("no address ({error})"), expected))?;
    if !url.username().is_empty() || url.password().is_some() {
        let expected = "an address without them: it stands in keys and records that others can read";
        return Err(SettingError::new(path, "an address with a user name or password", expected));
    }
    Ok(url)
}
