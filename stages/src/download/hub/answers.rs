//! What it means if a hub refuses or sends elsewhere.

use std::time::Duration;

use reqwest::Response;
use url::Url;

use super::{Repository, environment::Environment};
use crate::{
    download::request::{Refusals, failed},
    stage::{Context, StageError},
};

/// What answers of a hub mean for a repository.
pub(super) struct Answers<'a> {
    pub(super) environment: &'a Environment,
    pub(super) repository: Repository<'a>,
}

impl Answers<'_> {
    /// Tells that a repository has another name now, if the hub has sent the request on to that.
    pub(super) fn tell_of_a_move(&self, asked: &Url, response: &Response, context: &Context) {
        let name = self.repository.name;
        let Some((_, tail)) = asked.path().split_once(name) else { return };
        let found = response.url().path();
        let head = format!("/api/{}s/", self.repository.kind.word());
        let Some((_, found)) = found.split_once(&head) else { return };
        if let Some(new) = found.strip_suffix(tail)
            && new != name
        {
            context.warn(format!("{name} has moved to {new}; put the new name into the graph"));
        }
    }

    /// The page that people look at.
    fn page(&self) -> String {
        let endpoint = self.environment.endpoint.as_str().trim_end_matches('/');
        format!("{endpoint}/{}{}", self.repository.kind.prefix(), self.repository.name)
    }
}

impl Refusals for Answers<'_> {
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
}
