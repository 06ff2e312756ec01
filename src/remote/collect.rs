//! Collecting in a store that a team shares: what no member keeps goes.
//!
//! Whoever collects reads the whole log and all roots, and does nothing if any of that cannot be understood. What is kept by
//! somebody, but was said to be lost a short time ago, is published anew. Then the log says which publications are lost, so that whoever
//! reads on plans without them and sends what it shares with them anew. Bytes that no publication names go after a grace period, in
//! batches, each after another look at them and at the log. Times are the server's. Who is killed in between leaves objects that
//! nobody names, which the next one takes away. docs/team-cache.md says why nothing that is needed goes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Remote, RemoteError,
    client::Listed,
    index::Index,
    losses::{self, Why},
    roots::{self, Roots, Told},
    segment::{Operation, Published},
    survey::{COLLECTOR, Survey},
    sweep::Sweep,
};
use crate::{
    digest::{ArtifactId, Digest},
    store::{Kept, Reach, Root, RootSort, Store, with_parts},
};

/// What is to stay in a remote store.
#[derive(Clone, Copy, Debug)]
pub struct RemoteRetention {
    /// The last so many different results of each graph and member stay.
    pub keep_runs: usize,
    /// What was published or kept later than this long ago stays.
    pub older_than: Duration,
    /// Who has said nothing for so long keeps no runs; pins stay.
    pub forget_after: Duration,
    /// For so long bytes stay that nobody is told of any more.
    pub grace: Duration,
    /// What all that stays may have at most, in bytes; pins stay nevertheless.
    pub max_size: Option<u64>,
    /// Whether to go on where something cannot be read, as if it kept nothing.
    pub give_up_unreadable: bool,
    /// Whether to tell only what would go.
    pub dry_run: bool,
}

/// What stays in a remote store and what goes, or went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemoteCollected {
    /// What keeps how much.
    pub roots: Vec<Kept>,
    /// File contents that stay, in bytes.
    pub kept_bytes: u64,
    /// Results that were given up and are there again, as somebody keeps them.
    pub revived: u64,
    /// What goes, or went.
    pub removed: RemoteRemoved,
    /// Objects that nobody needs and that go after the grace period.
    pub waiting: u64,
    /// Their length in bytes.
    pub waiting_bytes: u64,
    /// Runs that no longer keep their results because of the size.
    pub let_go: Vec<String>,
    /// Whether what pins keep alone is too much.
    pub over_size: bool,
}

/// What goes from a remote store, or went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemoteRemoved {
    /// Results: from now on they count as not there.
    pub results: u64,
    /// Contents of large files.
    pub objects: u64,
    /// Packs of small files.
    pub packs: u64,
    /// What members kept once.
    pub roots: u64,
    /// Claims of the dead, and checkpoints that later ones stand for.
    pub leftovers: u64,
    /// The length of all objects that go, in bytes.
    pub bytes: u64,
}

impl Remote {
    /// Removes what no member keeps. Says also what was found wrong there. A forecast does all of it but to write and to remove.
    pub fn collect(
        &self,
        store: &Store,
        retention: &RemoteRetention,
    ) -> Result<(RemoteCollected, Vec<String>), RemoteError> {
        let collected = self.collect_or_forecast(store, retention);
        if retention.dry_run {
            // It holds what was only supposed.
            let mut state = self.state();
            (state.index, state.asked) = (None, None);
        }
        collected
    }

    fn collect_or_forecast(
        &self,
        store: &Store,
        retention: &RemoteRetention,
    ) -> Result<(RemoteCollected, Vec<String>), RemoteError> {
        self.refuse_unheard()?;
        let mut survey = self.survey(store, retention)?;
        // Now that the log was read from its start: who does not find it has nothing to tell.
        let supposed = if retention.dry_run {
            let at = |name| Listed { name, size: 0, modified: survey.now, tag: None };
            self.pins_to_tell(store)?.map(|(object, bytes)| (at(object), bytes))
        } else {
            self.keep_pins(store)?;
            None
        };
        let listing = self.client.block_on(self.client.list(roots::ROOM))??;
        let roots = self.roots(listing.iter(), supposed.as_ref())?;
        self.refuse_unruled(&survey, &roots)?;
        survey.look()?;
        survey.refuse_unread(&roots.unread)?;
        let mut problems = roots.problems.clone();
        if self.state().index.as_ref().is_none_or(|index| index.number() == 0) {
            // What was written just now to learn the time tells nothing.
            if survey.listing.iter().any(|listed| listed.name != COLLECTOR) {
                problems.push("nothing was ever published there, or the log is gone; nothing is removed".to_owned());
            }
            return Ok((RemoteCollected::default(), problems));
        }
        if !roots.strangers.is_empty() {
            let members = if roots.strangers.len() == 1 {
                "1 member is"
            } else {
                &format!("{} members are", roots.strangers.len())
            };
            problems.push(format!("{members} not trusted here, and what they keep does not stay for that"));
        }
        let (stale, kept) = choose(roots, retention, survey.now);
        let revived = survey.revive(kept.clone())?;
        let mut collected = RemoteCollected { revived, ..RemoteCollected::default() };
        let pins: Vec<Root> = kept.iter().filter(|root| root.sort == RootSort::Pin).cloned().collect();
        let dangling = survey.dangling()?;
        let mut condemned = condemn(&survey, kept, retention, &mut collected);
        condemned.extend(dangling);
        collected.removed.results = condemned.len() as u64;
        let lost = survey.there.iter().filter(|published| condemned.contains(&published.name()));
        let lost: Vec<Published> = lost.cloned().collect();
        problems.extend(self.declare_lost(store, &lost, Why::Collected, retention.dry_run)?);
        // Who has said since then that it keeps something is heard, and what is pinned may have the place of what has just gone.
        let new = if retention.dry_run {
            Roots::default()
        } else {
            let later = self.client.block_on(self.client.list(roots::ROOM))??;
            self.roots(later.iter().filter(|listed| !listing.contains(listed)), None)?
        };
        survey.look()?;
        survey.refuse_unread(&new.unread)?;
        let new = new.told.into_iter().map(|told| told.root);
        collected.revived += survey.revive(pins.iter().cloned().chain(new).collect())?;
        problems.extend(survey.superseded(&pins));
        let mut sweep = Sweep::new(survey, condemned, collected);
        sweep.contents()?;
        sweep.rest(&stale)?;
        problems.append(&mut sweep.survey.problems);
        Ok((sweep.collected, problems))
    }

    /// What members say there that they keep, and what one of them is supposed to have said.
    pub(super) fn roots<'a>(
        &self,
        listing: impl Iterator<Item = &'a Listed>,
        supposed: Option<&(Listed, Vec<u8>)>,
    ) -> Result<Roots, RemoteError> {
        let Some(origin) = self.state().index.as_ref().and_then(Index::origin) else { return Ok(Roots::default()) };
        self.client.block_on(roots::read(&self.client, listing, supposed, &self.keys, origin))?
    }

    /// Refuses to say what nobody would heed.
    pub(super) fn refuse_unheard(&self) -> Result<(), RemoteError> {
        if self.keys.is_heard() {
            return Ok(());
        }
        Err(self.unheard(
            "the workspace names `trusted_keys`, and this machine signs with none of them, so that nobody would heed it; give \
             --signing-key FILE (or TWDAG_SIGNING_KEY) with a key that is trusted",
        ))
    }

    fn unheard(&self, problem: impl Into<String>) -> RemoteError {
        RemoteError::Unheard { address: self.address.clone(), problem: problem.into() }
    }

    /// Refuses to collect by other rules than those of the members.
    fn refuse_unruled(&self, survey: &Survey<'_>, roots: &Roots) -> Result<(), RemoteError> {
        let signed = survey.there.iter().any(|published| published.signature.is_some());
        if signed && self.keys.trusted.is_empty() {
            return Err(self.unheard(
                "results there are signed, and no `trusted_keys` are named here, so that members who trust keys would not heed \
                 this machine; collect in their workspace, with a key that they trust",
            ));
        }
        // Also what was given up tells whose store it is, if it may come back: a short time ago, or with somebody who keeps it. Other words may
        // be those of keys that nobody there trusts any more.
        let kept: BTreeSet<ArtifactId> = roots.told.iter().flat_map(|told| &told.root.artifacts).copied().collect();
        let kept = survey.gone.iter().filter(|published| kept.contains(&published.artifact));
        let any_used =
            survey.there.iter().chain(survey.lately_lost()).chain(kept).any(|published| self.keys.vouch(published));
        if !survey.there.is_empty() && !any_used {
            return Err(self.unheard(
                "no result there is signed with one of the `trusted_keys` of this workspace, so that all of them would go; \
                 collect in the workspace of those who use it",
            ));
        }
        let Some(first) = roots.deaf.first() else { return Ok(()) };
        let more = roots.deaf.len() - 1;
        let members =
            if more == 0 { format!("a member ({first})") } else { format!("members ({first}, and {more} more)") };
        Err(self.unheard(format!(
            "{members} would not heed this machine, as it signs with no key that is trusted there; sign with one, or remove \
             {}STORE of who is gone for good",
            roots::ROOM
        )))
    }

    /// Has the log say that publications are lost; a forecast supposes so. Says what was found wrong there.
    pub(super) fn declare_lost(
        &self,
        store: &Store,
        lost: &[Published],
        why: Why,
        is_forecast: bool,
    ) -> Result<Vec<String>, RemoteError> {
        let mut problems = Vec::new();
        for lost in lost.chunks(losses::AT_ONCE) {
            let mut failed = None;
            let told = self.commit(store, is_forecast, |index| {
                let told = |published: &&Published| !index.is_lost(published, &self.keys, &HashSet::new());
                let names: Vec<Digest> = lost.iter().filter(told).map(Published::name).collect();
                if names.is_empty() {
                    return Vec::new();
                }
                match losses::statement(index.origin(), names, why, &self.keys) {
                    Ok(statement) => vec![Operation::Lost(statement)],
                    Err(error) => {
                        failed = Some(error);
                        Vec::new()
                    }
                }
            })?;
            problems.extend(told);
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(problems)
    }
}

/// The time that was so long ago.
pub(super) fn before(now: SystemTime, age: Duration) -> SystemTime {
    now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A result, and the parts that it was joined from.
pub(super) fn parts(published: &Published) -> (ArtifactId, Vec<ArtifactId>) {
    let parts = published.read().map(|(record, _)| record.parts.iter().map(|part| part.artifact).collect());
    (published.artifact, parts.unwrap_or_default())
}

/// The objects of roots that keep nothing any more, and the roots that stay: pins, and of each member and graph the last ones.
fn choose(roots: Roots, retention: &RemoteRetention, now: SystemTime) -> (BTreeSet<String>, Vec<Root>) {
    let Roots { told: mut all, heard, .. } = roots;
    let since = before(now, retention.older_than);
    let silent = before(now, retention.forget_after);
    all.sort_by(|one, two| (two.root.time, &two.object).cmp(&(one.root.time, &one.object)));
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    let (mut stale, mut kept) = (BTreeSet::new(), Vec::new());
    for Told { object, store, modified, root } in all {
        if root.sort != RootSort::Pin {
            let is_silent = heard.get(&store).is_none_or(|last| *last <= silent);
            let number = seen.entry((store, root.name.clone())).or_default();
            *number += 1;
            if (*number > retention.keep_runs || is_silent) && modified <= since {
                stale.insert(object);
                continue;
            }
        }
        kept.push(root);
    }
    (stale, kept)
}

/// The publications that nothing keeps.
fn condemn(
    survey: &Survey<'_>,
    mut kept: Vec<Root>,
    retention: &RemoteRetention,
    collected: &mut RemoteCollected,
) -> HashSet<Digest> {
    let since = before(survey.now, retention.older_than);
    let is_recent = |published: &Published| survey.time_of(published) > since;
    for published in survey.there.iter().filter(|published| is_recent(published)) {
        kept.push(Root {
            sort: RootSort::Recent,
            name: String::new(),
            artifacts: BTreeSet::from([published.artifact]),
            time: Timestamp::try_from(survey.time_of(published)).unwrap_or(Timestamp::MAX),
        });
    }
    let is_used = |published: &&Published| {
        let is_listed = survey.lists.contains_key(&published.name());
        is_listed && (is_recent(published) || survey.remote.keys.accept(published))
    };
    let used: Vec<&Published> = survey.there.iter().filter(is_used).collect();
    let joined: Vec<(ArtifactId, Vec<ArtifactId>)> = used.iter().map(|published| parts(published)).collect();
    with_parts(&mut kept, joined.iter().map(|(artifact, parts)| (*artifact, parts.as_slice())));
    let of_used = |published: &&Published| Some((published.artifact, survey.lists.get(&published.name())?.clone()));
    let mut reach = Reach::new(kept, used.iter().filter_map(of_used).collect::<HashMap<_, _>>());
    if let Some(max_size) = retention.max_size {
        collected.let_go = reach.shrink(max_size);
        collected.over_size = reach.bytes() > max_size;
    }
    collected.roots = reach.kept();
    collected.kept_bytes = reach.bytes();
    let live = reach.live();
    let stays = used.iter().filter(|published| live.contains(&published.artifact)).map(|published| published.name());
    let stays: HashSet<Digest> = stays.collect();
    survey.there.iter().map(Published::name).filter(|name| !stays.contains(name)).collect()
}
