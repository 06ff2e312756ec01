//! Requests: patience with servers that are busy, and what a refusal means.

use std::{error::Error, io, time::Duration};

use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{
    Client, Response, StatusCode,
    header::{AUTHORIZATION, RANGE, RETRY_AFTER},
    redirect,
};
use url::Url;

use super::{Repository, environment::Environment};
use crate::{
    download::address,
    stage::{Context, StageError},
};

/// A server that sends nothing for so long counts as gone.
const SILENCE: Duration = Duration::from_mins(1);
const CONNECT: Duration = Duration::from_secs(20);
/// Requests that may fail one after the other before a download gives up.
pub(super) const ATTEMPTS: u32 = 6;
/// Longest wait that a server may ask for.
const PATIENCE: Duration = Duration::from_mins(5);
const REDIRECTS: usize = 10;

/// A connection to the hub.
pub(super) struct Requests<'a> {
    client: Client,
    environment: &'a Environment,
    repository: Repository<'a>,
    context: &'a Context,
}

impl<'a> Requests<'a> {
    pub(super) fn new(
        environment: &'a Environment,
        repository: Repository<'a>,
        context: &'a Context,
    ) -> Result<Self, StageError> {
        let client = Client::builder()
            .user_agent(concat!("twdag/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(redirect::Policy::custom(follow))
            .build()
            .map_err(|error| failed("prepare requests", &cause(&error)))?;
        Ok(Self { client, environment, repository, context })
    }

    /// Asks for an address of the hub, or for some of its bytes, until there is an answer that is no refusal.
    pub(super) async fn get(&self, url: &Url, range: Option<(u64, u64)>) -> Result<Response, StageError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut request = self.client.get(url.clone());
            if let Some(token) = &self.environment.token {
                // Redirects to other hosts go without it.
                request = request.header(AUTHORIZATION, token.clone());
            }
            if let Some((from, to)) = range {
                request = request.header(RANGE, format!("bytes={from}-{}", to - 1));
            }
            let wait = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status();
                    let is_busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
                    let asked = retry_after(&response);
                    if !is_busy || attempt >= ATTEMPTS || asked.is_some_and(|asked| asked > PATIENCE) {
                        return Err(self.refusal(url, &response, asked));
                    }
                    asked.unwrap_or_else(|| pause(attempt))
                }
                Err(error) if attempt >= ATTEMPTS || error.is_redirect() => {
                    return Err(failed(&format!("fetch {url}"), &cause(&error)));
                }
                Err(_) => pause(attempt),
            };
            if wait > Duration::from_secs(2) {
                let detail = format!("the hub asks to wait {} s", wait.as_secs());
                self.context.progress(0, 0, "bytes", detail);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Tells that a repository has another name now, if the hub has sent the request on to that.
    pub(super) fn tell_of_a_move(&self, asked: &Url, response: &Response) {
        let name = self.repository.name;
        let Some((_, tail)) = asked.path().split_once(name) else { return };
        let found = response.url().path();
        let head = format!("/api/{}s/", self.repository.kind.word());
        let Some((_, found)) = found.split_once(&head) else { return };
        if let Some(new) = found.strip_suffix(tail)
            && new != name
        {
            self.context.warn(format!("{name} has moved to {new}; put the new name into the graph"));
        }
    }

    /// What a refusal means and what to do about it.
    fn refusal(&self, url: &Url, response: &Response, asked: Option<Duration>) -> StageError {
        let status = response.status();
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let Repository { name, kind, revision } = self.repository;
        let (what, page) = (kind.word(), self.page());
        let endpoint = self.environment.endpoint.as_str().trim_end_matches('/');
        let has_token = self.environment.token.is_some();
        let problem = match (status.as_u16(), code, has_token) {
            (401 | 403, "GatedRepo", false) => format!(
                "the {what} is gated and no access token is given; accept its licence at {page}, make a token at \
                 {endpoint}/settings/tokens, and put it into the variable HF_TOKEN"
            ),
            (401 | 403, "GatedRepo", true) => format!(
                "the {what} is gated and the account of the access token has no access; ask for it at {page}, and check \
                 that the token may read gated repositories"
            ),
            (401, _, false) => format!(
                "there is no such {what}, or it is private; check the name, or put an access token into the variable \
                 HF_TOKEN"
            ),
            (401, ..) => "the access token (HF_TOKEN, or that of a login) is not valid; make another one at \
                          {endpoint}/settings/tokens"
                .replace("{endpoint}", endpoint),
            (403, ..) => format!("the access token may not read it; see {page}"),
            (404, "RevisionNotFound", _) => {
                format!("there is no revision `{revision}`; its branches and commits are at {page}/tree/main")
            }
            (404, "EntryNotFound", _) => format!("{url} is not there"),
            (404, ..) => {
                let other = kind.other().word();
                format!("there is no such {what} at {endpoint}; check the name, and whether it is a {other}")
            }
            (429, ..) => {
                let wait = asked.map_or_else(String::new, |asked| format!(" for {} s", asked.as_secs()));
                let hint = if has_token { "" } else { ", or put an access token into HF_TOKEN: its limits are higher" };
                let message = format!("the hub asks to be left alone{wait}; run again later to go on from there{hint}");
                return failed(&format!("fetch {url}"), &message);
            }
            (500.., ..) => {
                let message = format!("the hub has trouble of its own ({status}); run again later to go on from there");
                return failed(&format!("fetch {url}"), &message);
            }
            _ => format!("the hub answers {status} to {url}"),
        };
        StageError::input(name, problem)
    }

    /// The page that people look at.
    fn page(&self) -> String {
        let endpoint = self.environment.endpoint.as_str().trim_end_matches('/');
        format!("{endpoint}/{}{}", self.repository.kind.prefix(), self.repository.name)
    }
}

/// Follows to https, or to http on this machine.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        return attempt.error("the server redirects without end");
    }
    if address::check("redirect", attempt.url().as_str()).is_err() {
        return attempt.error("the server redirects to an address without encryption");
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
