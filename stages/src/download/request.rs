//! Requests over https: patience with servers that are busy.

use std::{error::Error, io, ops::Range, time::Duration};

use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{
    Client, Response, StatusCode,
    header::{AUTHORIZATION, HeaderValue, RANGE, RETRY_AFTER},
    redirect,
};
use url::Url;

use super::address;
use crate::{
    bucket,
    stage::{Context, StageError},
};

/// A server that sends nothing for so long counts as gone.
const SILENCE: Duration = Duration::from_mins(1);
const CONNECT: Duration = Duration::from_secs(20);
/// Requests that may fail one after the other before a download gives up.
pub(super) const ATTEMPTS: u32 = 6;
/// Longest wait that a server may ask for, if there is no other that has the same.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);
const REDIRECTS: usize = 10;

/// What a refusal means and what to do about it.
pub(super) trait Refusals {
    /// The error of an address that was refused; `asked` is the wait that the server wants.
    fn refusal(&self, url: &Url, response: &Response, asked: Option<Duration>) -> StageError;
}

/// A connection to servers.
pub(super) struct Requests<'a> {
    client: Client,
    token: Option<HeaderValue>,
    refusals: &'a dyn Refusals,
    context: &'a Context,
}

impl<'a> Requests<'a> {
    /// Requests that carry an access token, if one is given.
    pub(super) fn new(
        token: Option<HeaderValue>,
        refusals: &'a dyn Refusals,
        context: &'a Context,
    ) -> Result<Self, StageError> {
        let client = Client::builder()
            .user_agent(concat!("twdag/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // It would tell a host that is redirected to where from, queries included.
            .referer(false)
            .redirect(redirect::Policy::custom(follow))
            .build()
            .map_err(|error| failed("prepare requests", &cause(&error)))?;
        Ok(Self { client, token, refusals, context })
    }

    /// Whoever is told of warnings.
    pub(super) fn context(&self) -> &Context {
        self.context
    }

    /// Asks for an address, or for some of its bytes, until there is an answer that is no refusal. That there are no such
    /// bytes is an answer, too. A server that wants to be waited for longer than `patience` is given up.
    pub(super) async fn get(
        &self,
        url: &Url,
        range: Option<Range<u64>>,
        patience: Duration,
    ) -> Result<Response, StageError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut request = self.client.get(url.clone());
            if let Some(token) = &self.token {
                // Redirects to other hosts go without it.
                request = request.header(AUTHORIZATION, token.clone());
            }
            if let Some(range) = &range {
                request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
            }
            let wait = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if range.is_some() && response.status() == StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(response);
                }
                Ok(response) => {
                    let status = response.status();
                    let is_busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
                    let asked = retry_after(&response);
                    if !is_busy || attempt >= ATTEMPTS || asked.is_some_and(|asked| asked > patience) {
                        return Err(self.refusals.refusal(url, &response, asked));
                    }
                    asked.unwrap_or_else(|| pause(attempt))
                }
                Err(error) if attempt >= ATTEMPTS || error.is_redirect() => {
                    return Err(failed(&format!("fetch {url}"), &cause(&error)));
                }
                Err(_) => pause(attempt),
            };
            if wait > Duration::from_secs(2) {
                let detail = format!("the server asks to wait {} s", wait.as_secs());
                self.context.progress(0, 0, "bytes", detail);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// Follows to https; to this machine, also by http, only from this machine.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    match refusal(attempt.previous(), attempt.url()) {
        Some(why) => attempt.error(why),
        None => attempt.follow(),
    }
}

/// Why a redirect is not followed. Addresses of a private network are: they only answer to https with a certificate for the name that
/// was asked for, which those who run that network gave. What tells a cloud's machines their credentials (169.254.169.254) speaks
/// http alone.
fn refusal(previous: &[Url], next: &Url) -> Option<&'static str> {
    if previous.len() > REDIRECTS {
        return Some("the server redirects without end");
    }
    if address::check("redirect", next.as_str()).is_err() {
        return Some("the server redirects to an address without encryption");
    }
    // Servers elsewhere must not reach what only this machine can.
    let is_local = previous.first().is_some_and(bucket::is_loopback);
    (bucket::is_loopback(next) && !is_local).then_some("the server redirects to this machine")
}

/// The wait before the next attempt, if the server does not say.
pub(super) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(100) * 2_u32.pow(attempt.min(6))
}

/// What the server wants to be waited for: seconds, or a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.duration_since(Timestamp::now()).try_into().unwrap_or_default())
}

/// Trouble on the way.
pub(super) fn failed(action: &str, problem: &str) -> StageError {
    StageError::Environment { action: action.to_owned(), source: io::Error::other(problem.to_owned()) }
}

/// The innermost cause. The outer ones repeat the address, which after a redirect may hold a signature.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if innermost.is::<reqwest::Error>() {
        return if error.is_timeout() { "the server fell silent" } else { "the connection failed" }.to_owned();
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(from: &str, to: &str) -> Option<&'static str> {
        refusal(&[Url::parse(from).unwrap()], &Url::parse(to).unwrap())
    }

    #[test]
    fn servers_elsewhere_lead_to_encrypted_addresses_elsewhere_alone() {
        let (public, local) = ("https://example.org/file", "http://127.0.0.1:8000/file");
        for to in ["https://cdn.example.org/file", "https://192.168.1.2/file", "https://169.254.169.254/file"] {
            assert_eq!(refused(public, to), None, "{to}");
            assert_eq!(refused(local, to), None, "{to}");
        }
        for to in [
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]/x",
            "http://192.168.1.2/x",
            "http://cdn.example.org/x",
        ] {
            assert_eq!(refused(public, to), Some("the server redirects to an address without encryption"), "{to}");
            assert_eq!(refused(local, to), Some("the server redirects to an address without encryption"), "{to}");
        }
        for to in [
            "http://127.0.0.1:8000/x",
            "https://127.0.0.1/x",
            "https://127.8.9.1/x",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://0.0.0.0/x",
            "https://[::]/x",
            "https://localhost/x",
        ] {
            assert_eq!(refused(public, to), Some("the server redirects to this machine"), "{to}");
            assert_eq!(refused(local, to), None, "{to}");
        }
        assert_eq!(
            refused(public, "file:///etc/passwd"),
            Some("the server redirects to an address without encryption")
        );
        // Also at the second step.
        let on_the_way = ["https://example.org/a", "https://example.org/b"].map(|url| Url::parse(url).unwrap());
        assert!(refusal(&on_the_way, &Url::parse(local).unwrap()).is_some());
    }
}
