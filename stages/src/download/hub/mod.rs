//! Models and datasets of a hub that speaks the Hugging Face protocol.

mod answers;
mod cache;
mod environment;
mod known;
mod listing;

use std::collections::HashMap;

use futures_util::{TryStreamExt, stream};
use url::Url;

use self::{answers::Answers, cache::Cache, environment::Environment, listing::RemoteFile};
use super::{
    Holding,
    disk::{check_space, deliver},
    local, on_the_network,
    origin::{Extent, Origin},
    partial::Partial,
    request::{PATIENCE, Requests},
    transfer::{CONNECTIONS, Fault, Transfer},
};
use crate::{
    model::Cost,
    stage::{Context, Outlook, SettingError, StageError},
};

/// What a `Download` from a hub names.
#[derive(Clone, Copy)]
pub(super) struct Repository<'a> {
    /// `owner/name`, or `name` for a few old ones.
    pub(super) name: &'a str,
    pub(super) kind: Holding,
    /// A branch, a tag or a commit.
    pub(super) revision: &'a str,
}

impl Holding {
    fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// What stands in front of the name in addresses.
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Model => Self::Dataset,
            Self::Dataset => Self::Model,
        }
    }
}

impl Repository<'_> {
    /// Refuses what no hub can have.
    pub(super) fn check(self) -> Result<(), SettingError> {
        let parts: Vec<&str> = self.name.split('/').collect();
        let is_name = |part: &&str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter))
        };
        if parts.len() > 2 || !parts.iter().all(is_name) {
            let expected = "the name of a repository, such as `meta-llama/Meta-Llama-3-8B`";
            return Err(SettingError::new("from.repository", format!("`{}`", self.name), expected));
        }
        local::check_name("from.revision", self.revision)
    }

    /// An address of the hub's interface for programs.
    fn api(self, environment: &Environment, below: &[&str]) -> Result<Url, StageError> {
        let kind = format!("{}s", self.kind.word());
        self.address(environment, ["api", &kind], below)
    }

    /// The address of a file.
    fn file(self, environment: &Environment, below: &[&str]) -> Result<Url, StageError> {
        self.address(environment, self.kind.prefix().trim_end_matches('/').split_terminator('/'), below)
    }

    fn address<'b>(
        self,
        environment: &Environment,
        before: impl IntoIterator<Item = &'b str>,
        below: &[&str],
    ) -> Result<Url, StageError> {
        let mut url = environment.endpoint.clone();
        let mut segments =
            url.path_segments_mut().map_err(|()| StageError::Bug("an endpoint without a path".to_owned()))?;
        segments.extend(before).extend(self.name.split('/')).extend(below);
        drop(segments);
        Ok(url)
    }
}

/// Brings the chosen files of a revision to the output folder.
pub(super) fn fetch(repository: Repository<'_>, patterns: &[String], context: &Context) -> Result<(), StageError> {
    let environment = Environment::read()?;
    let cache = environment.cache.as_deref().map(|cache| Cache::of(cache, repository));
    if environment.offline {
        return offline(repository, patterns, cache.as_ref(), context);
    }
    on_the_network(context, online(repository, patterns, &environment, cache.as_ref(), context))
}

async fn online(
    repository: Repository<'_>,
    patterns: &[String],
    environment: &Environment,
    cache: Option<&Cache>,
    context: &Context,
) -> Result<(), StageError> {
    let answers = Answers { environment, repository };
    let requests = Requests::new(environment.token.clone(), &answers, context)?;
    let commit = listing::commit(&requests, &answers, context).await?;
    if commit != repository.revision {
        context.warn(pin_advice(repository, &commit));
    }
    let all = listing::files(&requests, &answers, context, &commit).await?;
    let files = choose(repository, all, patterns)?;
    let (mut cached, mut remote) = (Vec::new(), Vec::new());
    for file in files {
        match cache.map(|cache| cache.find(&file, context)).transpose()?.flatten() {
            Some(path) => cached.push((file.path, path)),
            None => remote.push(file),
        }
    }
    let (remote, names) = contents(remote);
    let partials = remote.iter().map(|file| Partial::open(&file.pin, context.scratch()));
    let partials: Vec<Partial> = partials.collect();
    let missing = remote.iter().zip(&partials).map(|(file, partial)| partial.missing_of(file.size));
    check_space(missing.fold(0, u64::saturating_add), context.scratch())?;
    for (file, partial) in remote.iter().zip(&partials) {
        partial.expect(file.size)?;
    }
    let transfer = Transfer::new(&partials, context);
    let files = remote.iter().zip(&partials).map(Ok);
    let fetched = stream::iter(files).try_for_each_concurrent(CONNECTIONS, async |(file, partial)| {
        let origin = Origin::Web { requests: &requests, url: file.url.clone(), patience: PATIENCE };
        let extent = Extent { size: Some(file.size), in_pieces: true };
        transfer.fetch(partial, &origin, extent).await.map_err(|fault| hub_fault(fault, file))
    });
    transfer.noting(fetched).await?;
    let fetched = names.iter().zip(&partials);
    let fetched = fetched.flat_map(|(names, partial)| names.iter().map(|name| (name.as_str(), partial.path())));
    let cached = cached.iter().map(|(name, path)| (name.as_str(), path.as_path()));
    cached.chain(fetched).try_for_each(|(name, path)| deliver(name, path, context))
}

/// Each content once, and the names that it has.
fn contents(files: Vec<RemoteFile>) -> (Vec<RemoteFile>, Vec<Vec<String>>) {
    let (mut contents, mut names): (Vec<RemoteFile>, Vec<Vec<String>>) = (Vec::new(), Vec::new());
    let mut places = HashMap::new();
    for file in files {
        let place = *places.entry(file.pin.to_string()).or_insert(contents.len());
        if place == contents.len() {
            names.push(Vec::new());
            contents.push(file.clone());
        }
        names[place].push(file.path);
    }
    (contents, names)
}

fn hub_fault(fault: Fault, file: &RemoteFile) -> StageError {
    match fault {
        Fault::Origin(error) | Fault::Machine(error) => error,
        Fault::WrongBytes(found) => {
            let problem = format!(
                "the bytes that the hub sends have the digest {found}, its list of files says {}; run again, and if it stays \
                 so, do not trust this hub",
                file.pin
            );
            StageError::input(&file.path, problem)
        }
    }
}

/// Takes all files from the cache. Which files a commit has is known to the hub alone, so patterns cannot be resolved.
fn offline(
    repository: Repository<'_>,
    patterns: &[String],
    cache: Option<&Cache>,
    context: &Context,
) -> Result<(), StageError> {
    let Repository { name, revision, .. } = repository;
    if let Some(pattern) = patterns.iter().find(|pattern| pattern.contains(['*', '?', '[', '{'])) {
        let problem = format!(
            "HF_HUB_OFFLINE is set, and which files match `{pattern}` is known to the hub alone; unset that variable, or \
             name the files"
        );
        return Err(StageError::input(name, problem));
    }
    if patterns.is_empty() {
        let problem = "HF_HUB_OFFLINE is set, and which files there are is known to the hub alone; unset that variable, or \
                       name the files in `files`";
        return Err(StageError::input(name, problem));
    }
    let cache =
        cache.ok_or_else(|| StageError::input(name, "HF_HUB_OFFLINE is set, and there is no cache; set HF_HOME"))?;
    let commit = cache.commit(revision).ok_or_else(|| {
        let problem = format!(
            "HF_HUB_OFFLINE is set, and the cache does not know the commit of `{revision}`; unset that variable, or put the \
             full name of a commit into `revision`"
        );
        StageError::input(name, problem)
    })?;
    if commit != revision {
        context.warn(pin_advice(repository, &commit));
    }
    let mut files = Vec::with_capacity(patterns.len());
    for path in patterns {
        local::check_file_name("from.files", path)?;
        files.push((path, cache.snapshot(&commit, path, context)?));
    }
    files.iter().try_for_each(|(name, path)| deliver(name, path, context))
}

/// The commit that a warning of [`pin_advice`] names.
pub(super) fn commit_in(notice: &str) -> Option<&str> {
    let (_, rest) = notice.split_once(" is commit ")?;
    let commit = rest.split_once(" now; put `revision:")?.0;
    commit.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(commit)
}

fn pin_advice(repository: Repository<'_>, commit: &str) -> String {
    let Repository { name, revision, .. } = repository;
    format!(
        "`{revision}` of {name} is commit {commit} now; put `revision: \"{commit}\"` into the graph so that it stays so"
    )
}

/// The files that the patterns mean. Each must mean some.
fn choose(
    repository: Repository<'_>,
    mut all: Vec<RemoteFile>,
    patterns: &[String],
) -> Result<Vec<RemoteFile>, StageError> {
    for (index, pattern) in patterns.iter().enumerate() {
        let matcher = local::patterns(std::slice::from_ref(pattern))?;
        if !all.iter().any(|file| matcher.as_ref().is_none_or(|matcher| matcher.is_match(&file.path))) {
            let mut names: Vec<&str> = all.iter().map(|file| file.path.as_str()).collect();
            names.sort_unstable();
            let more = if names.len() > 20 { ", …" } else { "" };
            names.truncate(20);
            let expected = format!("the name of a file of {}: {}{more}", repository.name, names.join(", "));
            return Err(SettingError::new(format!("from.files.{index}"), format!("`{pattern}`"), expected).into());
        }
    }
    let chosen = local::patterns(patterns)?;
    all.retain(|file| chosen.as_ref().is_none_or(|chosen| chosen.is_match(&file.path)));
    if all.is_empty() {
        return Err(StageError::input(repository.name, "the repository holds no file"));
    }
    Ok(all)
}

/// What a model will be: as hubs keep the models that are known here, in 16 bits.
pub(super) fn outlook(repository: &str) -> Outlook {
    let Some(config) = known::config(repository) else { return Outlook::default() };
    let bytes = Cost::of(config.clone()).ok().map(|cost| 2 * cost.parameters());
    Outlook { config: Some(config), bytes, ..Outlook::default() }
}
