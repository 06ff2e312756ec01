//! The remote store of a run: what is fetched before and during it, and what is given to it off the critical path.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::error::RunError;
use crate::{
    digest::{ArtifactId, Key},
    graph::Graph,
    plan::{Plan, Status},
    remote::{Claim, Claimed, Claims, Conflict, Heartbeat, Pulled, Pushed, Remote, RemoteError},
    store::Store,
};

/// How long a run that is stopped still tries to take its claims away.
const LEAVING: Duration = Duration::from_secs(2);

/// What came of a remote store in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSummary {
    /// Its address.
    pub store: String,
    /// Results that it had and this machine did not, so that they were not computed.
    pub hits: usize,
    /// Those of them whose bytes were needed and came.
    pub fetched: usize,
    /// The bytes that came.
    pub fetched_bytes: u64,
    /// Results that were given to it.
    pub stored: usize,
    /// The bytes that were sent.
    pub stored_bytes: u64,
    /// Results that it has another one of, which stays.
    pub conflicts: Vec<Differing>,
    /// Results that it had another one of, whose bytes were lost, so that this one counts from now on.
    #[serde(default)]
    pub replaced: Vec<Differing>,
    /// Results that it should have got and did not.
    pub failed: usize,
    /// Why, or why it was not used at all.
    pub problem: Option<String>,
    /// Requests that were made; those that were repeated count once.
    pub requests: u64,
}

/// A result that differs from the one in the remote store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// The action.
    pub key: Key,
    /// The result in the remote store.
    pub published: ArtifactId,
    /// The result of this machine.
    pub found: ArtifactId,
}

impl From<Conflict> for Differing {
    fn from(Conflict { key, published, found }: Conflict) -> Self {
        Self { key, published, found }
    }
}

/// A remote store that a run uses.
pub struct Sharing {
    remote: Arc<Remote>,
    claims: Arc<Claims>,
    state: Mutex<State>,
}

/// Whose turn it is to compute an action, among the machines that share a store.
pub(super) enum Turns {
    /// This machine's: with a claim, unless nobody else is asked.
    Ours(Option<Claim>),
    /// Somebody else is at it: who, since when.
    Theirs(String),
}

#[derive(Default)]
struct State {
    summary: RemoteSummary,
    /// What should be told and was not yet.
    warnings: Vec<String>,
    /// It could not be reached; it is not asked again.
    is_down: bool,
    /// Claims could not be made; none is tried again.
    is_unclaimable: bool,
    pusher: Option<Pusher>,
    /// The pusher that nobody gives anything any more: how much it was to give, and what came of it.
    last: Option<(usize, Arc<Mutex<Given>>)>,
}

struct Pusher {
    keys: Sender<Key>,
    thread: JoinHandle<()>,
    /// How many results it was to give.
    offered: usize,
    given: Arc<Mutex<Given>>,
}

/// What came of giving results to the remote store, until now.
#[derive(Default)]
struct Given {
    /// Of how many results it is known what came of them.
    settled: usize,
    stored: usize,
    bytes: u64,
    conflicts: Vec<Differing>,
    replaced: Vec<Differing>,
    failed: usize,
    problem: Option<String>,
    warnings: Vec<String>,
}

impl Sharing {
    /// A remote store; with an error if it could not be reached, so that it is not asked again.
    ///
    /// What this run claims there is written anew after every `heartbeat`.
    pub fn new(remote: Remote, error: Option<&RemoteError>, heartbeat: Heartbeat) -> Self {
        let summary = RemoteSummary {
            store: remote.address().to_string(),
            problem: error.map(ToString::to_string),
            ..RemoteSummary::default()
        };
        let state = State { summary, is_down: error.is_some(), ..State::default() };
        let remote = Arc::new(remote);
        let claims = Arc::new(Claims::new(Arc::clone(&remote), heartbeat));
        Self { remote, claims, state: Mutex::new(state) }
    }

    /// The remote store.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What should be told and was not yet.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.state().warnings)
    }

    /// Whether the remote store had anything that is used, or got anything, or failed.
    pub fn is_worth_a_word(&self) -> bool {
        let state = self.state();
        state.summary.hits > 0 || state.summary.problem.is_some()
    }

    /// Counts the results that the remote store alone has still.
    pub fn count_hits(&self, plan: &Plan) {
        self.state().summary.hits += plan.stages.iter().filter(|stage| stage.elsewhere).count();
    }

    /// Fetches results. What does not come counts as not there.
    pub fn fetch(&self, store: &Store, keys: &[Key]) -> Result<(), RunError> {
        let Pulled { fetched, bytes, missing } = self.remote.pull(store, keys)?;
        let mut state = self.state();
        state.summary.hits += fetched.len();
        state.summary.fetched += fetched.len();
        state.summary.fetched_bytes += bytes;
        if let Some((_, problem)) = missing.first() {
            let (count, store) = (missing.len(), &state.summary.store);
            let results = if count == 1 { "a result".to_owned() } else { format!("{count} results") };
            let message = format!("{results} that {store} should have cannot be used, and will be computed: {problem}");
            state.warnings.push(message);
        }
        Ok(())
    }

    /// Fetches the result of an action, if the remote store has it by now.
    pub(super) fn look_for(&self, store: &Store, key: &Key) -> Result<(), RunError> {
        if !self.remote.mode().reads() || self.state().is_down || store.record(key)?.is_some() {
            return Ok(());
        }
        // Somebody else was at it, and may have published it in this moment.
        let is_watched = self.claims.is_watched(key);
        let read = if is_watched { self.remote.read_on(store) } else { self.remote.refresh_now_and_then(store) };
        match read {
            Ok(problems) => self.state().warnings.extend(problems),
            Err(error) => {
                let mut state = self.state();
                state.is_down = true;
                state.summary.problem.get_or_insert_with(|| error.to_string());
                state.warnings.push(format!("{error}; the run goes on without it"));
                return Ok(());
            }
        }
        if self.remote.known(store, key).is_some() {
            self.fetch(store, &[*key])?;
        }
        Ok(())
    }

    /// Claims an action that no other process of this machine computes. Its result may come from others meanwhile.
    pub(super) fn claim(&self, store: &Store, key: &Key, owner: &str) -> Result<Turns, RunError> {
        let is_used = self.remote.mode().reads() && self.remote.mode().writes();
        let is_off = { self.state().is_down || self.state().is_unclaimable };
        if !is_used || is_off {
            return Ok(Turns::Ours(None));
        }
        let claimed = self.claims.claim(store, key, owner).and_then(|claimed| {
            // Whoever had it until now has published the result before.
            let problems = if matches!(claimed, Claimed::Held(_)) { self.remote.read_on(store)? } else { Vec::new() };
            Ok((claimed, problems))
        });
        match claimed {
            Ok((Claimed::Busy(owner), _)) => Ok(Turns::Theirs(owner)),
            Ok((Claimed::Held(claim), problems)) => {
                self.state().warnings.extend(problems);
                if self.remote.known(store, key).is_some() {
                    self.fetch(store, &[*key])?;
                }
                Ok(Turns::Ours(Some(claim)))
            }
            Err(error) => {
                self.do_without_claims(&error);
                Ok(Turns::Ours(None))
            }
        }
    }

    /// Whether it is worth trying again to claim an action that somebody else computes.
    pub(super) fn may_be_free(&self, store: &Store, key: &Key) -> bool {
        if self.state().is_unclaimable || !self.claims.is_watched(key) {
            return true;
        }
        self.claims.may_be_free(store, key).unwrap_or_else(|error| {
            self.do_without_claims(&error);
            true
        })
    }

    fn do_without_claims(&self, error: &RemoteError) {
        let mut state = self.state();
        state.is_unclaimable = true;
        state.warnings.push(format!("{error}; other machines may compute the same as this one"));
    }

    /// Has a result given to the remote store, sooner or later.
    pub(super) fn offer(&self, store: &Arc<Store>, key: Key) -> Result<(), RunError> {
        if !self.remote.mode().writes() {
            return Ok(());
        }
        let mut state = self.state();
        if state.is_down {
            state.summary.failed += 1;
            return Ok(());
        }
        let pusher = match &mut state.pusher {
            Some(pusher) => pusher,
            empty => {
                let (keys, inbox) = channel();
                let (remote, store) = (Arc::clone(&self.remote), Arc::clone(store));
                let given: Arc<Mutex<Given>> = Arc::default();
                let (told, claims) = (Arc::clone(&given), Arc::clone(&self.claims));
                let thread = thread::Builder::new()
                    .name("push".to_owned())
                    .spawn(move || give(&remote, &store, &inbox, &claims, &told))
                    .map_err(|source| RunError::System { action: "start the thread that shares results", source })?;
                empty.insert(Pusher { keys, thread, offered: 0, given })
            }
        };
        pusher.offered += 1;
        self.claims.offered(&key);
        // The thread ends when nobody can give it anything.
        let _ = pusher.keys.send(key);
        Ok(())
    }

    /// Has the remote store know what a run gave or used, if that run asked it anything.
    pub fn keep(&self, store: &Store, graph: &str, artifacts: &BTreeSet<ArtifactId>) {
        let is_reachable = {
            let state = self.state();
            let failed = |(_, given): &(usize, Arc<Mutex<Given>>)| {
                let given = given.lock().unwrap_or_else(PoisonError::into_inner);
                given.problem.is_some() && given.stored == 0
            };
            !state.is_down && (state.summary.fetched > 0 || !state.last.as_ref().is_some_and(failed))
        };
        if is_reachable
            && self.remote.requests() > 0
            && let Err(error) = self.remote.keep_run(store, graph, artifacts)
        {
            self.state().warnings.push(format!("{error}; what this run used may be collected there when it is old"));
        }
    }

    /// Waits until all results were given, and no claim is left.
    pub(super) async fn finish(&self) {
        let thread = self.state().pusher.take().map(|Pusher { keys, thread, offered, given }| {
            drop(keys);
            (thread, offered, given)
        });
        let thread = thread.map(|(thread, offered, given)| {
            self.state().last = Some((offered, given));
            thread
        });
        let claims = Arc::clone(&self.claims);
        let waited = tokio::task::spawn_blocking(move || {
            let gave = thread.is_none_or(|thread| thread.join().is_ok());
            claims.finish();
            gave
        });
        let waited = waited.await;
        if !waited.unwrap_or(false) {
            let problem = "internal error: the thread that shares results fell over; please report it";
            self.state().summary.problem.get_or_insert_with(|| problem.to_owned());
        }
    }

    /// Takes the claims away that are left, so that nobody waits for this run, if that takes a moment only.
    pub(super) async fn leave(&self) {
        let claims = Arc::clone(&self.claims);
        let gone = tokio::task::spawn_blocking(move || claims.finish());
        // A claim that stays falls silent.
        let _ = tokio::time::timeout(LEAVING, gone).await;
    }

    /// Counts what was given until now. What was not is not waited for.
    pub(super) fn count(&self) {
        let mut state = self.state();
        let Some((offered, given)) = state.last.take() else { return };
        let Given { settled, stored, bytes, conflicts, replaced, failed, problem, warnings } =
            std::mem::take(&mut *given.lock().unwrap_or_else(PoisonError::into_inner));
        let left = offered.saturating_sub(settled);
        let stopped = (left > 0).then(|| "the run was stopped before all results were given".to_owned());
        state.warnings.extend(warnings);
        let summary = &mut state.summary;
        summary.stored += stored;
        summary.stored_bytes += bytes;
        summary.conflicts.extend(conflicts);
        summary.replaced.extend(replaced);
        summary.failed += failed + left;
        summary.problem = summary.problem.take().or(problem).or(stopped);
    }

    /// What came of it.
    pub fn summary(&self) -> RemoteSummary {
        RemoteSummary { requests: self.remote.requests(), ..self.state().summary.clone() }
    }
}

/// The results that the remote store alone has and of which the bytes are needed: what a stage reads that may run, and the ends
/// of the graph.
pub fn needed(graph: &Graph, plan: &Plan, asked: &[usize]) -> Vec<Key> {
    let mut is_read = vec![false; graph.nodes().len()];
    let mut is_needed = vec![false; graph.nodes().len()];
    for stage in &plan.stages {
        for input in &graph.nodes()[stage.node].inputs {
            is_read[input.node] = true;
            is_needed[input.node] |= stage.status != Status::Cached;
        }
    }
    for &node in asked {
        is_needed[node] = true;
    }
    let elsewhere = plan.stages.iter().filter(|stage| stage.elsewhere);
    let needed = elsewhere.filter(|stage| is_needed[stage.node] || !is_read[stage.node]);
    needed.filter_map(|stage| stage.key).collect()
}

/// Gives results as they come, as many at once as there are. After a failure the rest waits for one more try at the end.
fn give(remote: &Remote, store: &Store, inbox: &Receiver<Key>, claims: &Claims, given: &Mutex<Given>) {
    let given = || given.lock().unwrap_or_else(PoisonError::into_inner);
    let take = |keys: &[Key]| -> Vec<Key> {
        let pushed = remote.push(store, keys);
        let mut given = given();
        let failed = match pushed {
            Ok(Pushed { stored, bytes, conflicts, replaced, failed, withheld, problems, .. }) => {
                given.settled += keys.len() - failed.len();
                given.stored += stored.len();
                given.bytes += bytes;
                given.warnings.extend(problems);
                let withheld = withheld.into_iter();
                let told = withheld.map(|(key, why)| format!("the result of action {key} is not given: {why}"));
                given.warnings.extend(told);
                given.conflicts.extend(conflicts.into_iter().map(Differing::from));
                given.replaced.extend(replaced.into_iter().map(Differing::from));
                given.problem = failed.first().map(|(_, problem)| problem.clone());
                failed.into_iter().map(|(key, _)| key).collect()
            }
            Err(error) => {
                given.problem = Some(error.to_string());
                keys.to_vec()
            }
        };
        // Others find it now, or compute it themselves.
        for key in keys {
            claims.given(key);
        }
        failed
    };
    let mut waiting: Vec<Key> = Vec::new();
    while let Ok(first) = inbox.recv() {
        waiting.push(first);
        waiting.extend(inbox.try_iter());
        waiting = take(&waiting);
        if !waiting.is_empty() {
            break;
        }
    }
    if !waiting.is_empty() {
        for key in inbox {
            // It is given when the run ends, if at all: nobody has to wait for that.
            claims.given(&key);
            waiting.push(key);
        }
        waiting = take(&waiting);
    }
    let mut given = given();
    given.failed = waiting.len();
    given.settled += waiting.len();
}
