//! Buckets of S3 and its kin (`s3://`), Google (`gs://`) and Azure (`az://`). Credentials and endpoints come from where each one's own
//! tools look for them: variables of the environment, files of profiles, metadata of the machine. They stand in no address.

mod profile;

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig, StaticCredentialProvider,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential},
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

/// What servers refuse with, and what to do about it.
const REFUSALS: [(&str, &str); 9] = [
    ("ExpiredToken", "the session token has expired: get new credentials, and start again"),
    ("TokenRefreshRequired", "the session token has expired: get new credentials, and start again"),
    ("InvalidToken", "the session token does not belong to the access key: get new credentials, and start again"),
    (
        "RequestTimeTooSkewed",
        "the clock of this machine and that of the server differ by too much: set the clock that is wrong",
    ),
    ("NoSuchBucket", NO_BUCKET),
    ("ContainerNotFound", NO_BUCKET),
    ("InvalidAccessKeyId", "the server does not know the access key"),
    ("SignatureDoesNotMatch", "the secret key does not belong to the access key"),
    ("SlowDown", "the server was too busy each time that it was asked: try again later"),
];
const NO_BUCKET: &str = "there is no such bucket, or it is no longer there: create it, or correct the address";

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
            let profile = profile()?;
            let endpoint = endpoint();
            if endpoint.as_deref().is_some_and(holds_credentials) {
                let problem = "the URL of its server, in AWS_ENDPOINT_URL or in `endpoint_url` of a profile, holds a user or a \
                               password; put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into the profile";
                return Err(problem.to_owned());
            }
            let key = AmazonS3ConfigKey::Client;
            let mut builder = from_environment(env::vars_os())
                .with_url(url.as_str())
                .with_retry(retries())
                .with_config(key(ClientConfigKey::ConnectTimeout), CONNECT)
                .with_config(key(ClientConfigKey::Timeout), REQUEST);
            // A bucket that is public is nobody's business.
            let is_signed =
                !builder.get_config_value(&AmazonS3ConfigKey::SkipSignature).is_some_and(|value| is_true(&value));
            if is_signed {
                if let Some(credentials) = profile.credentials.as_ref().map_err(Clone::clone)? {
                    // Nothing of the environment is mixed in: a token that stands there belongs to other keys.
                    let profile::Credentials { access_key, secret_key, session_token } = credentials.clone();
                    let credential = AwsCredential { key_id: access_key, secret_key, token: session_token };
                    builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
                } else {
                    refuse_half_named(&|key| builder.get_config_value(&key))?;
                }
            }
            if let Some(region) =
                profile.region.as_ref().filter(|_| variable(&["AWS_REGION", "AWS_DEFAULT_REGION"]).is_none())
            {
                builder = builder.with_region(region);
            }
            let server = endpoint.as_deref().and_then(|endpoint| Url::parse(endpoint).ok());
            let is_local = server.as_ref().is_some_and(is_loopback);
            if is_local {
                builder = builder.with_config(key(ClientConfigKey::AllowHttp), "true");
            }
            // Where the connection itself keeps bytes from being changed, a digest of each request's bytes is for nothing: it is
            // computed with SHA-256 on both sides, which takes longer than sending them.
            if variable(&["AWS_UNSIGNED_PAYLOAD"]).is_none()
                && (is_local || server.is_none_or(|url| url.scheme() == "https"))
            {
                builder = builder.with_unsigned_payload(true);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
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

/// Refuses a service of credentials that is named by half: `object_store` passes over it, and would ask the metadata of the instance, which
/// gives the credentials of somebody else.
fn refuse_half_named(value: &dyn Fn(AmazonS3ConfigKey) -> Option<String>) -> Result<(), String> {
    use AmazonS3ConfigKey::{
        AccessKeyId, ContainerAuthorizationTokenFile, ContainerCredentialsFullUri, ContainerCredentialsRelativeUri,
        RoleArn, SecretAccessKey, WebIdentityTokenFile,
    };
    let has = |key| value(key).is_some();
    if has(AccessKeyId) || has(SecretAccessKey) {
        return Ok(());
    }
    if has(WebIdentityTokenFile) {
        let problem = "AWS_WEB_IDENTITY_TOKEN_FILE names a token, and AWS_ROLE_ARN no role that it is for: name the role, or unset \
                       the former";
        return if has(RoleArn) { Ok(()) } else { Err(problem.to_owned()) };
    }
    if has(ContainerCredentialsRelativeUri) || !has(ContainerCredentialsFullUri) || has(ContainerAuthorizationTokenFile)
    {
        return Ok(());
    }
    Err("AWS_CONTAINER_CREDENTIALS_FULL_URI names a service, and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE no file with the token to ask it \
         with, which has to be there (AWS_CONTAINER_AUTHORIZATION_TOKEN is not read): write the token into a file and name that, or put \
         credentials into the environment with: eval \"$(aws configure export-credentials --format env)\""
        .to_owned())
}

/// What the environment says of S3; an empty variable says nothing. Its server is [`endpoint`]'s.
fn from_environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> AmazonS3Builder {
    let settings = variables.into_iter().filter_map(|(name, value)| {
        let name = name.to_str()?.strip_prefix("AWS_")?.to_ascii_lowercase();
        let key: AmazonS3ConfigKey = format!("aws_{name}").parse().ok()?;
        let is_server = matches!(key, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint);
        let value = value.into_string().ok().filter(|value| !value.is_empty())?;
        (!is_server).then_some((key, value))
    });
    settings.fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value))
}

/// As `object_store` reads a flag.
fn is_true(value: &str) -> bool {
    matches!(&*value.to_ascii_lowercase(), "1" | "true" | "on" | "yes" | "y")
}

/// The server for S3 that the environment names, or else the profile, unless one of them says that no such name counts.
pub fn endpoint() -> Option<String> {
    let profile = profile().ok();
    if profile.is_some_and(|profile| profile.ignores_endpoints) {
        return None;
    }
    let named = variable(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
    named.or_else(|| profile?.endpoint.clone())
}

/// The first of some variables that says anything.
fn variable(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// The profile that the environment chooses, read once.
fn profile() -> Result<&'static profile::Profile, String> {
    static FOUND: OnceLock<Result<profile::Profile, String>> = OnceLock::new();
    FOUND.get_or_init(|| profile::find(&|name| env::var(name).ok())).as_ref().map_err(Clone::clone)
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
    let address = match url.host() {
        Some(Host::Domain(name)) => return name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        // It may be one of version 4 in other letters.
        Some(Host::Ipv6(address)) => address.to_canonical(),
        None => return false,
    };
    // A server listens there to be reached by all of its addresses; who connects to it reaches this machine.
    address.is_loopback() || address.is_unspecified()
}

/// An error with its causes, each once, without the queries of addresses: some hold a signature. Of a server's answer in XML only the
/// code and its message are told, first of all what the code means: the rest may repeat a token.
pub fn told(error: &dyn std::error::Error) -> String {
    let whole = with_causes(error);
    let text = without_answer(&whole);
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => address,
        _ => word,
    });
    let line = words.collect::<Vec<_>>().join(" ");
    let line = match refusal(&whole) {
        Some(meaning) => format!("{meaning} ({line})"),
        None => line,
    };
    if line.chars().count() > LONGEST { line.chars().take(LONGEST).chain("…".chars()).collect() } else { line }
}

/// Whether an object was not found because its bucket is not there.
pub fn has_no_bucket(error: &dyn std::error::Error) -> bool {
    refusal(&with_causes(error)) == Some(NO_BUCKET)
}

fn with_causes(error: &dyn std::error::Error) -> String {
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
    text
}

/// The text with an answer in XML, which goes to the end, made its code and message.
fn without_answer(text: &str) -> String {
    let Some(begins) = ["<?xml", "<Error", "<Code>"].iter().filter_map(|tag| text.find(tag)).min() else {
        return text.to_owned();
    };
    let (before, answer) = text.split_at(begins);
    match (inside(answer, "Code"), inside(answer, "Message")) {
        (None, _) => format!("{before}an answer without a code"),
        (Some(code), None) => format!("{before}{code}"),
        (Some(code), Some(message)) => format!("{before}{code}: {message}"),
    }
}

/// What stands in the first element of a name, `<Name>…</Name>`, up to where another one begins.
fn inside<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = answer.split_once(&format!("<{name}>"))?;
    rest.split('<').next()
}

/// What the code in a server's answer means.
fn refusal(text: &str) -> Option<&'static str> {
    let code = inside(text, "Code")?;
    REFUSALS.into_iter().find_map(|(known, meaning)| (known == code).then_some(meaning))
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
        for unspecified in ["http://0.0.0.0:8333", "http://0:8333", "http://[::]:8333", "http://[::ffff:0.0.0.0]"] {
            assert!(is_loopback(unspecified), "{unspecified}");
        }
        assert!(is_loopback("http://[::ffff:127.0.0.1]") && !is_loopback("http://[::ffff:10.0.0.1]"));
        assert!(!is_loopback("http://127.0.0.1.example.org") && !is_loopback("http://10.0.0.1:9000"));
    }

    #[test]
    fn the_environment_says_all_but_the_server() {
        let variables = [
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", "http://one"),
            ("AWS_ENDPOINT_URL_S3", "http://two"),
            ("AWS_SKIP_SIGNATURE", "Yes"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", ""),
            ("REGION", "elsewhere"),
        ];
        let builder = from_environment(variables.map(|(name, value)| (name.into(), value.into())));
        let value = |key| builder.get_config_value(&key);
        assert_eq!(value(AmazonS3ConfigKey::Region).as_deref(), Some("eu-west-1"));
        assert_eq!((value(AmazonS3ConfigKey::Endpoint), value(AmazonS3ConfigKey::S3Endpoint)), (None, None));
        assert_eq!(value(AmazonS3ConfigKey::ContainerCredentialsRelativeUri), None);
        assert!(value(AmazonS3ConfigKey::SkipSignature).is_some_and(|value| is_true(&value)));
    }

    #[test]
    fn a_message_holds_no_query_of_an_address() {
        let error =
            std::io::Error::other("Error performing GET https://a.blob.example.org/c/x?sig=geheim in 3s - what?");
        assert_eq!(told(&error), "Error performing GET https://a.blob.example.org/c/x in 3s - what?");
    }

    #[test]
    fn a_message_says_first_what_a_code_means() {
        let answer = |code: &str| std::io::Error::other(format!("403: <Error><Code>{code}</Code></Error>"));
        let skewed = told(&answer("RequestTimeTooSkewed"));
        assert!(
            skewed.starts_with("the clock of this machine") && skewed.ends_with("(403: RequestTimeTooSkewed)"),
            "{skewed}"
        );
        assert_eq!(told(&answer("AccessDenied")), "403: AccessDenied");
        assert!(has_no_bucket(&answer("NoSuchBucket")) && !has_no_bucket(&answer("NoSuchKey")));
    }

    #[test]
    fn of_an_answer_nothing_is_told_but_its_code_and_message() {
        let told = |answer: &str| told(&std::io::Error::other(format!("GET http://x/y?z - 400 Bad Request: {answer}")));
        let declaration = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
        let token = "<Token-0>geheim</Token-0>";
        let message = "<Message>The token is <b>no</b> good.</Message>";
        let cases = [
            (format!("{declaration}\n<Error><Code>Odd</Code>{message}{token}</Error>"), "Odd: The token is"),
            (format!("<Error>{token}<Code>Odd</Code><RequestId>7</RequestId></Error>"), "Odd"),
            (format!("<ErrorResponse><Error><Type>Sender</Type><Code>Odd</Code>{message}"), "Odd: The token is"),
            (format!("{declaration}{token}"), "an answer without a code"),
            (format!("<Error>{token}<Code>Od"), "Od"),
            ("busy".to_owned(), "busy"),
        ];
        for (answer, expected) in cases {
            assert_eq!(told(&answer), format!("GET http://x/y - 400 Bad Request: {expected}"));
        }
    }
}
