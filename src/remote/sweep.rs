//! Taking objects of a remote store away that nobody needs.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, SystemTime},
};

use super::{
    Remote, RemoteError,
    client::Listed,
    collect::{RemoteCollected, before},
    index::Index,
    losses::Why,
    segment::Published,
    survey::Survey,
};
use crate::digest::Digest;

/// So many objects are removed at once, each time after another look at them and at the log.
const BATCH: usize = 1_000;
/// A claim that was not written anew for so long is nobody's: no owner is waited for longer than ten minutes.
const DEAD: Duration = Duration::from_hours(1);
const OBJECTS: &str = "v1/objects/";
const PACKS: &str = "v1/packs/";

/// One sweep.
pub(super) struct Sweep<'a> {
    pub(super) survey: Survey<'a>,
    /// Publications that are given up, by their names.
    condemned: HashSet<Digest>,
    /// The objects and packs that are needed.
    stays: HashSet<String>,
    /// Those that are needed no more, since a time that is shorter than the grace period.
    waits: HashSet<String>,
    /// Whether all objects wait, as it is not known which of them were given up within the grace period.
    all_wait: bool,
    pub(super) collected: RemoteCollected,
    removed: HashSet<String>,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(survey: Survey<'a>, condemned: HashSet<Digest>, collected: RemoteCollected) -> Self {
        let (mut waits, mut all_wait) = (HashSet::new(), false);
        if !survey.retention.grace.is_zero() {
            let late: Vec<&Published> = survey.lately_lost().collect();
            all_wait = late.iter().any(|published| survey.is_unlisted(published));
            waits = survey.objects(late);
        }
        let (stays, removed) = (HashSet::new(), HashSet::new());
        let mut sweep = Self { survey, condemned, stays, waits, all_wait, collected, removed };
        sweep.stays = sweep.needed();
        sweep
    }

    /// What is needed, as the log says.
    fn needed(&self) -> HashSet<String> {
        let stays = self.survey.there.iter().filter(|published| !self.condemned.contains(&published.name()));
        self.survey.objects(stays)
    }

    /// Takes contents away. What is published meanwhile keeps what it names; what came too late for that is said to be lost.
    pub(super) fn contents(&mut self) -> Result<(), RemoteError> {
        let grace = self.survey.grace();
        let mut unneeded: Vec<Listed> = Vec::new();
        for listed in &self.survey.listing {
            let is_object = listed.name.starts_with(OBJECTS);
            if !(is_object || listed.name.starts_with(PACKS)) || self.stays.contains(&listed.name) {
                continue;
            }
            let waits = listed.modified > grace || self.waits.contains(&listed.name) || (self.all_wait && is_object);
            if waits {
                self.collected.waiting += 1;
                self.collected.waiting_bytes += listed.size;
            } else {
                unneeded.push(listed.clone());
            }
        }
        for batch in unneeded.chunks(BATCH) {
            // In this order: who has written one of them anew by now has it looked at, and who has published it before that is in the log.
            let batch = self.still_old(batch, grace)?;
            self.read_on()?;
            let batch: Vec<&Listed> = batch.into_iter().filter(|listed| !self.stays.contains(&listed.name)).collect();
            for listed in &batch {
                let removed = &mut self.collected.removed;
                removed.bytes += listed.size;
                *(if listed.name.starts_with(OBJECTS) { &mut removed.objects } else { &mut removed.packs }) += 1;
            }
            self.delete(&batch)?;
            self.removed.extend(batch.into_iter().map(|listed| listed.name.clone()));
        }
        self.declare_late()
    }

    /// Those of some objects that nobody has written anew since then.
    fn still_old<'b>(&self, batch: &'b [Listed], since: SystemTime) -> Result<Vec<&'b Listed>, RemoteError> {
        if self.survey.retention.dry_run {
            return Ok(batch.iter().collect());
        }
        let names: Vec<String> = batch.iter().map(|listed| listed.name.clone()).collect();
        let client = &self.survey.remote.client;
        let found = client.block_on(client.all_modified(&names))??;
        let still = batch.iter().zip(found).filter(|(_, found)| found.is_some_and(|modified| modified <= since));
        Ok(still.map(|(listed, _)| listed).collect())
    }

    /// Has the log say of what was published too late that it is lost.
    fn declare_late(&mut self) -> Result<(), RemoteError> {
        if self.survey.retention.dry_run || self.removed.is_empty() {
            return Ok(());
        }
        self.read_on()?;
        let names = |published: &&Published| !self.survey.objects([*published]).is_disjoint(&self.removed);
        let late: Vec<Published> = self.survey.there.iter().filter(names).cloned().collect();
        let objects = self.survey.objects(&late).into_iter().filter(|object| self.removed.contains(object));
        let missing = self.survey.missing(objects.collect())?;
        let is_lost = |published: &Published| !self.survey.objects([published]).is_disjoint(&missing);
        let late: Vec<Published> = late.into_iter().filter(is_lost).collect();
        let Survey { remote, store, .. } = self.survey;
        let problems = remote.declare_lost(store, &late, Why::Collected, false)?;
        self.survey.problems.extend(problems);
        Ok(())
    }

    /// Takes in what was published meanwhile.
    fn read_on(&mut self) -> Result<(), RemoteError> {
        if self.survey.retention.dry_run {
            return Ok(());
        }
        let number = |remote: &Remote| remote.state().index.as_ref().map_or(0, Index::number);
        let Survey { remote, store, .. } = self.survey;
        let before = number(remote);
        let problems = remote.read_on(store)?;
        self.survey.problems.extend(problems);
        if number(remote) != before {
            self.survey.look()?;
            self.survey.refuse_unread(&[])?;
            self.stays = self.needed();
        }
        Ok(())
    }

    /// Takes away what members kept once, claims of the dead, and all checkpoints but the last two.
    pub(super) fn rest(&mut self, stale: &BTreeSet<String>) -> Result<(), RemoteError> {
        let (now, grace) = (self.survey.now, self.survey.grace());
        let listing = std::mem::take(&mut self.survey.listing);
        let mut checkpoints: Vec<&Listed> =
            listing.iter().filter(|listed| listed.name.starts_with("v1/checkpoints/")).collect();
        checkpoints.sort_by(|one, two| two.name.cmp(&one.name));
        let last = self.survey.remote.state().index.as_ref().map_or(0, Index::checkpoint);
        let last = format!("v1/checkpoints/{last:012}");
        let old = checkpoints.into_iter().filter(|listed| listed.name < last).skip(1);
        let dead = before(now, DEAD);
        let claims = listing.iter().filter(|listed| listed.name.starts_with("v1/claims/") && listed.modified <= dead);
        let claims: Vec<Listed> = claims.cloned().collect();
        // Since all was listed somebody may have claimed the same action, under the same name.
        let claims = self.still_old(&claims, dead)?;
        let leftovers: Vec<&Listed> = old.filter(|listed| listed.modified <= grace).chain(claims).collect();
        let stale = listing.iter().filter(|listed| stale.contains(&listed.name) && listed.modified <= grace);
        let stale: Vec<Listed> = stale.cloned().collect();
        // Whoever keeps it anew is heard.
        let roots = self.still_old(&stale, grace)?;
        let removed = &mut self.collected.removed;
        removed.leftovers += leftovers.len() as u64;
        removed.roots += roots.len() as u64;
        let all = [leftovers, roots].concat();
        removed.bytes += all.iter().map(|listed| listed.size).sum::<u64>();
        all.chunks(BATCH).try_for_each(|batch| self.delete(batch))
    }

    fn delete(&self, objects: &[&Listed]) -> Result<(), RemoteError> {
        if self.survey.retention.dry_run || objects.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = objects.iter().map(|listed| listed.name.clone()).collect();
        let client = &self.survey.remote.client;
        client.block_on(client.delete_all(&names))?
    }
}
