//! Files whose digests are known, from whichever of their addresses has them.

use std::{collections::BTreeMap, io, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Response;
use url::Url;

use super::{
    Pinned, address,
    disk::{check_space, deliver},
    on_the_network,
    origin::{Extent, Origin},
    partial::Partial,
    pin::Pin,
    request::{PATIENCE, Refusals, Requests, failed},
    transfer::{CONNECTIONS, Fault, Transfer},
};
use crate::{
    bucket,
    stage::{Context, SettingError, StageError},
};

/// Longest wait that a server may ask for while others have the same file.
const HASTE: Duration = Duration::from_secs(5);

pub(super) fn fetch(files: &BTreeMap<String, Pinned>, context: &Context) -> Result<(), StageError> {
    on_the_network(context, fetch_all(wanted(files)?, context))
}

/// One content, the names that it gets, and the addresses that have it.
struct Wanted {
    pin: Pin,
    names: Vec<String>,
    addresses: Vec<Url>,
}

/// What is to be fetched, each content once.
fn wanted(files: &BTreeMap<String, Pinned>) -> Result<Vec<Wanted>, StageError> {
    let mut all: Vec<Wanted> = Vec::new();
    for (name, pinned) in files {
        let pin = Pin::parse(&format!("from.files.{name}.digest"), &pinned.digest)?;
        let index = all.iter().position(|wanted| wanted.pin == pin).unwrap_or_else(|| {
            all.push(Wanted { pin, names: Vec::new(), addresses: Vec::new() });
            all.len() - 1
        });
        let wanted = &mut all[index];
        wanted.names.push(name.clone());
        for url in pinned.addresses(name)? {
            if !wanted.addresses.contains(&url) {
                wanted.addresses.push(url);
            }
        }
    }
    Ok(all)
}

async fn fetch_all(wanted: Vec<Wanted>, context: &Context) -> Result<(), StageError> {
    let requests = Requests::new(None, &Answers, context)?;
    let partials = wanted.iter().map(|wanted| Partial::open(&wanted.pin, context.scratch()));
    let partials: Vec<Partial> = partials.collect();
    let mut open = Vec::new();
    for (wanted, partial) in wanted.iter().zip(&partials) {
        if partial.is_whole() && partial.digest(context)? == wanted.pin {
            continue;
        }
        let addresses = wanted.addresses.iter().enumerate();
        open.push(Search { wanted, partial, requests: &requests, addresses, faults: Vec::new() });
    }
    // All sizes are asked for before the first byte, so that a disk which is too small is told at once.
    let found = stream::iter(open).map(async |mut search| {
        let found = search.next().await?;
        Ok::<_, StageError>((search, found))
    });
    let found: Vec<_> = found.buffered(CONNECTIONS).try_collect().await?;
    let missing = found.iter().map(|(search, (_, extent))| search.missing(*extent)).fold(0, u64::saturating_add);
    check_space(missing, context.scratch())?;
    for (search, (_, extent)) in &found {
        if let Extent { size: Some(size), in_pieces: true } = *extent {
            search.partial.expect(size)?;
        }
    }
    let transfer = Transfer::new(&partials, context);
    let fetched = stream::iter(found.into_iter().map(Ok)).try_for_each_concurrent(
        CONNECTIONS,
        async |(mut search, (mut origin, mut extent))| loop {
            match transfer.fetch(search.partial, &origin, extent).await {
                Ok(()) => return Ok(()),
                Err(Fault::Machine(error)) => return Err(error),
                Err(Fault::Origin(error)) => search.faults.push(error),
                Err(Fault::WrongBytes(found)) => search.faults.push(wrong_bytes(&origin, &found, &search.wanted.pin)),
            }
            (origin, extent) = search.next().await?;
        },
    );
    transfer.noting(fetched).await?;
    for (wanted, partial) in wanted.iter().zip(&partials) {
        wanted.names.iter().try_for_each(|name| deliver(name, partial.path(), context))?;
    }
    Ok(())
}

/// The way through the addresses of a file.
struct Search<'a> {
    wanted: &'a Wanted,
    partial: &'a Partial,
    requests: &'a Requests<'a>,
    addresses: std::iter::Enumerate<std::slice::Iter<'a, Url>>,
    /// Of the addresses so far.
    faults: Vec<StageError>,
}

impl<'a> Search<'a> {
    /// The next address that says it has the file, and for whose file there is room: one that lies about the size is not believed as long
    /// as there are others. That others do not is told.
    async fn next(&mut self) -> Result<(Origin<'a>, Extent), StageError> {
        loop {
            let Some((index, url)) = self.addresses.next() else { return Err(self.failed()) };
            if let Some(fault) = self.faults.last() {
                self.requests.context().warn(format!("{fault}; {url} is asked instead"));
            }
            let is_last = index + 1 == self.wanted.addresses.len();
            match self.look(url, if is_last { PATIENCE } else { HASTE }).await {
                Ok(found) => return Ok(found),
                Err(fault) => self.faults.push(fault),
            }
        }
    }

    async fn look(&self, url: &Url, patience: Duration) -> Result<(Origin<'a>, Extent), StageError> {
        let origin = if bucket::is_bucket(url) {
            Origin::in_bucket(url.clone())?
        } else {
            Origin::Web { requests: self.requests, url: url.clone(), patience }
        };
        let extent = origin.look().await?;
        let room = check_space(self.missing(extent), self.requests.context().scratch());
        room.map_err(|fault| failed(&format!("fetch {url}"), &fault.to_string()))?;
        Ok((origin, extent))
    }

    /// Bytes that an address has to send, as far as that is known.
    fn missing(&self, extent: Extent) -> u64 {
        match extent {
            Extent { size: Some(size), in_pieces: true } => self.partial.missing_of(size),
            Extent { size, .. } => size.unwrap_or_default(),
        }
    }

    /// What is said when no address is left.
    fn failed(&mut self) -> StageError {
        if self.faults.len() == 1
            && let Some(only) = self.faults.pop()
        {
            return only;
        }
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        let names = self.wanted.names.join(", ");
        let problem = format!("none of its {} addresses gave it: {}", faults.len(), faults.join("; "));
        // It may be worth another attempt if it was for one of them.
        if self.faults.iter().any(|fault| matches!(fault, StageError::Environment { .. })) {
            StageError::Environment { action: format!("fetch {names}"), source: io::Error::other(problem) }
        } else {
            StageError::input(names, problem)
        }
    }
}

fn wrong_bytes(origin: &Origin<'_>, found: &Pin, expected: &Pin) -> StageError {
    let problem = format!(
        "the bytes have the digest {found}, expected {expected}; if the file was meant to change, put the new digest into the \
         graph, else do not trust this address"
    );
    StageError::input(origin.to_string(), problem)
}

/// What refusals of any server mean.
struct Answers;

impl Refusals for Answers {
    fn refusal(&self, url: &Url, response: &Response, asked: Option<Duration>) -> StageError {
        let status = response.status();
        let problem = match status.as_u16() {
            401 | 403 => format!(
                "the server refuses access ({status}); open the address in a browser to see why. A login cannot be given here: \
                 download such a file by hand and use `File(path: …)`"
            ),
            404 | 410 => format!("is not there ({status}); check the address, or give another one in `mirrors`"),
            429 => {
                let wait = asked.map_or_else(String::new, |asked| format!(" for {} s", asked.as_secs()));
                let message = format!("the server asks to be left alone{wait}; run again later to go on from there");
                return failed(&format!("fetch {url}"), &message);
            }
            500.. => {
                let message =
                    format!("the server has trouble of its own ({status}); run again later to go on from there");
                return failed(&format!("fetch {url}"), &message);
            }
            _ => format!("the server answers {status}"),
        };
        StageError::input(url.as_str(), problem)
    }
}

impl Pinned {
    /// All addresses of the file of that name.
    pub(super) fn addresses(&self, name: &str) -> Result<Vec<Url>, SettingError> {
        let first = address::check_source(&format!("from.files.{name}.url"), &self.url)?;
        let mirrors = self.mirrors.0.iter().enumerate();
        let mirrors =
            mirrors.map(|(index, url)| address::check_source(&format!("from.files.{name}.mirrors.{index}"), url));
        [Ok(first)].into_iter().chain(mirrors).collect()
    }
}
