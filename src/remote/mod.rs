//! A store that a team shares: a bucket, or a folder on a file server. What one member computed, the others get.
//!
//! ```text
//! v1/objects/ab/REST    contents of large files, named by their BLAKE3
//! v1/packs/ab/REST      contents of many small files in one object, named by its BLAKE3
//! v1/segments/NUMBER    records: the index, a log of segments that never change
//! v1/checkpoints/NUMBER all that the segments up to that number say, in one object
//! v1/claims/ab/REST     who computes an action now
//! v1/claims/ab/REST.NONCE.ROUND who takes over the claim with that nonce
//! v1/roots/STORE/NAME   what a member keeps: its pins, and what its runs gave
//! v1/collector          the server's time, when somebody collected
//! v1/latest             where the log may end; only a hint
//! ```
//!
//! docs/team-cache.md is the contract. Whoever publishes creates the next segment, which succeeds for one writer only, so
//! that all readers see the same records in the same order; a result never becomes another one. No result depends on a
//! listing; collecting does. Bytes are there before the segment that names them, and whoever reads them checks them against their digest.

mod address;
mod check;
mod checkpoint;
mod claim;
mod client;
mod collect;
#[cfg(test)]
mod collect_tests;
mod error;
mod folder;
mod identity;
mod index;
mod known;
mod large;
mod losses;
mod lost;
mod pack;
mod place;
mod pull;
mod push;
mod roots;
mod segment;
mod signing;
mod subtrees;
mod survey;
mod sweep;
mod tiers;
mod understood;
mod voucher;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use address::Address;
pub use check::{RemoteChecked, RemoteFinding};
pub use claim::{Claim, Claimed, Claims, Heartbeat};
pub use collect::{RemoteCollected, RemoteRemoved, RemoteRetention};
pub use error::RemoteError;
pub use known::Known;
pub use pull::Pulled;
pub use push::{Conflict, Pushed};
pub use signing::{Keys, PublicKey, SigningKey};
pub use tiers::{Found, Tiers};
pub use voucher::Attribution;

use self::{client::Client, index::Index, known::Notes, segment::Operation};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::Store,
};

/// How long what was read of the index counts as fresh during a run.
const FRESH: Duration = Duration::from_secs(5);

/// So many publications of a result are tried, before it counts as not there.
const MOST_LOSSES: usize = 8;

/// What a remote store is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing.
    Off,
    /// Results are taken from it.
    Read,
    /// Results are given to it.
    Write,
    /// Both.
    #[default]
    ReadWrite,
}

impl Mode {
    /// All, as users write them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Read, Self::Write, Self::ReadWrite];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "readwrite",
        }
    }

    /// Whether results are taken from it.
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether results are given to it.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// A remote store. Nothing is asked of it before that is needed, and no thread is started.
pub struct Remote {
    address: Address,
    mode: Mode,
    keys: Keys,
    client: Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: Option<Index>,
    asked: Option<Instant>,
    /// When the last reading began that went to the end of the log.
    read: Option<Instant>,
    /// What is known without a request, read when first needed.
    notes: Option<Notes>,
    /// Publications of which bytes are missing or wrong there; noted on this machine, and read when first needed.
    lost: Option<HashSet<Digest>>,
    /// How many publications of a result this process has found to be lost.
    losses: HashMap<Key, usize>,
    /// Results that could not be fetched, although they may be there.
    unreachable: HashSet<Key>,
    /// Why a list of files could not be fetched: then no other is asked for.
    unlisted: Option<String>,
    /// What should be told and was not yet.
    problems: Vec<String>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Remote({}, {})", self.address, self.mode.name())
    }
}

impl Remote {
    /// The remote store at an address. Results that the keys do not vouch for are none.
    pub fn new(address: Address, mode: Mode, keys: Keys) -> Self {
        Self { client: Client::new(address.clone()), address, mode, keys, state: Mutex::default() }
    }

    /// A store that a test has.
    #[cfg(test)]
    fn over(store: std::sync::Arc<dyn object_store::ObjectStore>, mode: Mode, keys: Keys) -> Self {
        let client = Client::over(store);
        let address = client.address().clone();
        Self { address, mode, keys, client, state: Mutex::default() }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it is used for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many requests were made until now; those that were repeated count once.
    pub fn requests(&self) -> u64 {
        self.client.requests()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Below `local/`, what this machine knows of the remote store.
    fn folder(&self) -> PathBuf {
        PathBuf::from("remotes").join(self.address.name())
    }

    /// There, the notes of what counts for those who trust the same keys.
    fn notes(&self) -> PathBuf {
        self.folder().join(self.keys.policy().map_or("notes".to_owned(), |policy| format!("notes-{policy}")))
    }

    /// Reads what was published since this was last asked. Says what was found wrong there.
    pub fn refresh(&self, store: &Store) -> Result<Vec<String>, RemoteError> {
        self.with_index(store, async |index| index.refresh(&self.client, &self.keys, true).await)
            .map(|((), problems)| problems)
    }

    /// Reads what was published until now, in one request if that is nothing, or in none if somebody else begins to read meanwhile.
    /// Says what was found wrong there.
    pub fn read_on(&self, store: &Store) -> Result<Vec<String>, RemoteError> {
        let now = Instant::now();
        let read = async |index: &mut Index| {
            let began = Instant::now();
            index.read_on(&self.client).await.map(|()| began)
        };
        let mut state = self.state();
        if state.read.is_some_and(|read| read >= now) {
            return Ok(Vec::new());
        }
        let (began, problems) = self.with_index_of(&mut state, store, read)?;
        state.read = Some(began);
        Ok(problems)
    }

    /// Has requests made with the index, and keeps a copy of it if there is more in it then.
    fn with_index<T>(
        &self,
        store: &Store,
        work: impl AsyncFnOnce(&mut Index) -> Result<T, RemoteError>,
    ) -> Result<(T, Vec<String>), RemoteError> {
        self.with_index_of(&mut self.state(), store, work)
    }

    fn with_index_of<T>(
        &self,
        state: &mut State,
        store: &Store,
        work: impl AsyncFnOnce(&mut Index) -> Result<T, RemoteError>,
    ) -> Result<(T, Vec<String>), RemoteError> {
        let State { index, asked, .. } = state;
        let index = index.get_or_insert_with(|| Index::kept(store, &self.folder(), &self.keys));
        let number = index.number();
        let done = self.client.block_on(work(index))?;
        *asked = Some(Instant::now());
        if index.number() != number {
            index.keep(store, &self.folder());
        }
        Ok((done?, index.take_problems()))
    }

    /// Publishes what `choose` says, see [`Index::commit`]; a forecast only supposes that it did. Says what was found wrong there.
    fn commit(
        &self,
        store: &Store,
        is_forecast: bool,
        mut choose: impl FnMut(&Index) -> Vec<Operation>,
    ) -> Result<Vec<String>, RemoteError> {
        if !is_forecast {
            let done = self.with_index(store, async |index| index.commit(&self.client, &self.keys, choose).await);
            return Ok(done?.1);
        }
        let mut state = self.state();
        let Some(index) = &mut state.index else { return Ok(Vec::new()) };
        let operations = choose(index);
        index.suppose(&operations)?;
        Ok(index.take_problems())
    }

    /// As [`Remote::refresh`], unless it was asked a moment ago.
    pub fn refresh_now_and_then(&self, store: &Store) -> Result<Vec<String>, RemoteError> {
        if self.is_fresh() { Ok(Vec::new()) } else { self.refresh(store) }
    }

    fn is_fresh(&self) -> bool {
        self.state().asked.is_some_and(|asked| asked.elapsed() < FRESH)
    }

    /// What is known here of the result of an action, without a request.
    pub fn known(&self, store: &Store, key: &Key) -> Option<Known> {
        let mut state = self.state();
        let State { index, notes, lost, unreachable, .. } = &mut *state;
        if unreachable.contains(key) {
            return None;
        }
        let lost = lost.get_or_insert_with(|| lost::noted(store, &self.folder()));
        if let Some(index) = index {
            return index.usable(key, &self.keys, lost).and_then(|published| published.open(key).ok());
        }
        let noted = notes.get_or_insert_with(|| Notes::read(store, &self.notes())).find(key);
        noted.filter(|known| self.keys.vouch(&known.published) && !lost.contains(&known.published.name()))
    }

    /// Notes what is known of a result, so that the next plan needs no request; [`Remote::keep_notes`] keeps that.
    fn note(&self, store: &Store, known: &Known) {
        let State { index, notes, .. } = &mut *self.state();
        // Otherwise it was a note that said so.
        if index.is_some() {
            notes.get_or_insert_with(|| Notes::read(store, &self.notes())).add(known);
        }
    }

    /// Keeps what was noted.
    fn keep_notes(&self, store: &Store) {
        self.state().notes.iter_mut().for_each(|notes| notes.keep(store, &self.notes()));
    }

    /// From now on the publication counts as not there: its bytes are gone, or others.
    fn lose(&self, store: &Store, known: &Known) {
        let mut state = self.state();
        let lost = state.lost.get_or_insert_with(|| lost::noted(store, &self.folder()));
        lost.insert(known.published.name());
        let noted = lost::note(store, &self.folder(), lost);
        // Then the next process asks for them in vain once more.
        state.problems.extend(noted.err().map(|error| error.to_string()));
        let key = known.record.key;
        let losses = state.losses.entry(key).or_default();
        *losses += 1;
        if *losses > MOST_LOSSES {
            state.unreachable.insert(key);
        }
    }

    /// The publications of which bytes are missing or wrong there, as far as this machine knows.
    fn lost(&self, store: &Store) -> HashSet<Digest> {
        self.state().lost.get_or_insert_with(|| lost::noted(store, &self.folder())).clone()
    }

    /// From now on the result counts as not there, as far as this process is concerned.
    fn give_up(&self, key: Key) {
        self.state().unreachable.insert(key);
    }

    fn tell(&self, problem: String) {
        self.state().problems.push(problem);
    }

    /// What went wrong while results were looked up, each told once. Such a result counts as not there.
    pub fn take_problems(&self) -> Vec<String> {
        std::mem::take(&mut self.state().problems)
    }

    /// Whether results of an action are published, and none of them by somebody whose key is trusted here.
    pub fn is_untrusted(&self, key: &Key) -> bool {
        let state = self.state();
        !self.keys.trusted.is_empty()
            && state.index.as_ref().is_some_and(|index| index.knows(key) && index.published(key, &self.keys).is_none())
    }

    /// How many results the index has, and the number of its last segment.
    pub fn size(&self) -> (usize, u64) {
        self.state().index.as_ref().map_or((0, 0), |index| (index.len(), index.number()))
    }

    /// Results that were refused since another one had been published for the same action.
    pub fn differing(&self) -> Vec<(Key, ArtifactId)> {
        self.state().index.as_ref().map(|index| index.differing().to_vec()).unwrap_or_default()
    }
}
