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
    if attempt.previous().len() > REDIRECTS {
        return attempt.error("the server redirects without end");
    }
    if address::check("redirect", attempt.url().as_str()).is_err() {
        return attempt.error("the server redirects to an address without encryption");
    }
    // Servers elsewhere must not reach what only this machine can.
    let is_local = attempt.previous().first().is_some_and(bucket::is_loopback);
    if bucket::is_loopback(attempt.url()) && !is_local {
        return attempt.error("the server redirects to this machine");
    }
    attempt.follow()
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
