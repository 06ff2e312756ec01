//! Claims: of several machines that want the same action, one computes it, and the others wait for its result.
//!
//! A claim is an object that is created only if there is none. Its owner writes it anew, with a higher number, as long as it works:
//! whoever waits watches whether the number grows, by a clock of its own, so that no two clocks have to agree. An owner that
//! falls silent counts as dead, and one of those who wait takes over: the one who creates the object that names the dead claim.
//! A claim saves work and nothing else; whoever loses one has computed what somebody else computes too.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Remote, RemoteError,
    client::Created,
    signing::{Keys, Meaning, Signature, random},
};
use crate::{
    digest::{Digest, Key},
    store::Store,
};

/// A claim is short: what is longer is none.
const MOST: u64 = 64 << 10;
/// An owner who was silent for so many of its intervals counts as dead.
const SILENT: u32 = 4;
/// The first and the longest pause before a claim of somebody else is looked at again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Whoever was second so often to take a claim over waits for nobody any more: two who compute the same are better than none.
const MOST_ROUNDS: u32 = 4;
/// So many claims are written anew, or taken away, at the same time.
const AT_ONCE: usize = 16;
/// So many are taken away before it is looked whether others have to be written anew.
const MOST_ENDED: usize = 64;
/// So many characters of what an owner says of itself are shown.
const SHOWN: usize = 200;

/// How often a run writes its claims anew: from [`SHORTEST`](Self::SHORTEST) to [`LONGEST`](Self::LONGEST), so that no owner is waited
/// for longer than ten minutes without a sign of life, whatever its claim says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat(Duration);

impl Heartbeat {
    /// More often there is no use in it.
    pub const SHORTEST: Duration = Duration::from_millis(10);
    /// A dead owner is waited for four times as long.
    pub const LONGEST: Duration = Duration::from_secs(150);

    /// An interval; `None` if it is out of range.
    pub fn new(every: Duration) -> Option<Self> {
        (Self::SHORTEST..=Self::LONGEST).contains(&every).then_some(Self(every))
    }
}

/// What stands in a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    key: Key,
    /// Who computes it, for people.
    owner: String,
    /// Since when, by the owner's clock; for people.
    since: Timestamp,
    /// The store of the owner's machine.
    store: Digest,
    /// What this claim is told from all others by.
    nonce: Digest,
    /// How often its owner writes it anew, in milliseconds.
    every: u64,
    /// Grows as long as its owner lives.
    beat: u64,
}

/// A claim as it is stored: its content as text, and who vouches for that.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    claim: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

/// A claim of somebody else, as it was last seen.
#[derive(Debug)]
struct Seen {
    nonce: Digest,
    /// The highest beat of each claim that was seen. Whoever can write to the store can put an old one back, with its signature: only
    /// what was never seen is a sign of life.
    beats: HashMap<Digest, u64>,
    /// When the last sign of life was seen.
    at: Instant,
    /// How often somebody else was about to take it over, and did not.
    round: u32,
    /// The same, of all claims of this action.
    rounds: u32,
    /// When to look again.
    next: Instant,
    pause: Duration,
}

/// What is known of a claim of somebody else.
struct Watched {
    /// Its owner is silent for too long.
    is_dead: bool,
    /// How often somebody else was about to take it over, and did not.
    round: u32,
    /// Somebody else was first too often, whoever had the action then.
    is_contested: bool,
}

/// What came of an attempt to claim an action.
#[derive(Debug)]
pub enum Claimed {
    /// The action is this machine's.
    Held(Claim),
    /// Somebody else is at it: who, since when.
    Busy(String),
}

/// The right to compute an action. It ends with this, unless its result was offered: then it ends when that is given.
#[derive(Debug)]
pub struct Claim {
    key: Key,
    shared: Arc<Shared>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.end(&self.key, false);
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Claims({:?}, {:?})", self.remote, self.shared)
    }
}

/// The claims of a run.
pub struct Claims {
    remote: Arc<Remote>,
    every: Duration,
    shared: Arc<Shared>,
    seen: Mutex<HashMap<Key, Seen>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<HashMap<Key, Held>>,
    /// What ended and has to be taken away; nothing once the run is over.
    ended: Mutex<Option<Sender<Ended>>>,
}

#[derive(Debug)]
struct Held {
    content: Content,
    /// The object that it was taken over with.
    election: Option<String>,
    /// Its result is on its way to the remote store.
    is_offered: bool,
    written: Instant,
}

type Ended = (Key, Held);

fn name(key: &Key) -> String {
    super::pull::named("claims", key.digest())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// A claim has ended, as far as its attempt, or its result, is concerned.
    fn end(&self, key: &Key, is_given: bool) {
        let mut held = lock(&self.held);
        if held.get(key).is_some_and(|held| is_given || !held.is_offered)
            && let Some(ended) = held.remove(key)
            && let Some(sender) = &*lock(&self.ended)
        {
            // Without a keeper the claim falls silent, and is taken over.
            let _ = sender.send((*key, ended));
        }
    }
}

impl Claims {
    /// The claims of a run, which writes them anew so often.
    pub fn new(remote: Arc<Remote>, Heartbeat(every): Heartbeat) -> Self {
        let (shared, seen, keeper) = (Arc::default(), Mutex::default(), Mutex::default());
        Self { remote, every, shared, seen, keeper }
    }

    /// Tries to claim an action that no other process of this machine computes, without waiting. `owner` says to others who has it.
    pub fn claim(&self, store: &Store, key: &Key, owner: &str) -> Result<Claimed, RemoteError> {
        let mine = Content {
            key: *key,
            owner: owner.to_owned(),
            since: Timestamp::now(),
            store: self.remote.identity(store)?,
            nonce: random().map_err(RemoteError::System)?,
            every: u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX),
            beat: 0,
        };
        let bytes = write(&mine, &self.remote.keys)?;
        match self.remote.client.block_on(self.remote.client.create(&name(key), bytes.clone()))?? {
            Created::Yes => self.hold(mine, None),
            Created::Taken => self.look(&mine, bytes),
        }
    }

    /// Looks at a claim that is there, and takes it over if its owner is dead.
    fn look(&self, mine: &Content, bytes: Vec<u8>) -> Result<Claimed, RemoteError> {
        let (client, key) = (&self.remote.client, &mine.key);
        let Some(theirs) = client.block_on(find(&self.remote, key))?? else {
            return Ok(Claimed::Busy("another machine, which has just ended".to_owned()));
        };
        let busy = Claimed::Busy(format!(
            "{}, since {}",
            shown(&theirs.owner),
            theirs.since.strftime("%Y-%m-%d %H:%M:%S UTC")
        ));
        let Watched { is_dead, round, is_contested } = self.watch(&theirs);
        // What a process of this machine has left counts no more: it would hold the action here too.
        if !is_dead && theirs.store != mine.store {
            return Ok(busy);
        }
        let election = (!is_contested).then(|| format!("{}.{}.{round}", name(key), theirs.nonce));
        if let Some(election) = &election
            && client.block_on(client.create(election, bytes.clone()))?? == Created::Taken
        {
            self.take_round(key);
            return Ok(busy);
        }
        client.block_on(client.put(&name(key), bytes))??;
        self.hold(mine.clone(), election)
    }

    /// Looks for a sign of life in a claim.
    fn watch(&self, theirs: &Content) -> Watched {
        let now = Instant::now();
        let mut seen = lock(&self.seen);
        let last = seen.entry(theirs.key).or_insert_with(|| Seen {
            nonce: theirs.nonce,
            beats: HashMap::new(),
            at: now,
            round: 0,
            rounds: 0,
            next: now,
            pause: FIRST_PAUSE,
        });
        // One that nobody who is trusted has signed says of no time that its owner lives.
        if theirs.every > 0 && last.beats.get(&theirs.nonce).is_none_or(|&beat| beat < theirs.beat) {
            last.beats.insert(theirs.nonce, theirs.beat);
            last.at = now;
        }
        if last.nonce != theirs.nonce {
            (last.nonce, last.round) = (theirs.nonce, 0);
        }
        let every = Duration::from_millis(theirs.every).min(Heartbeat::LONGEST);
        last.next = now + last.pause;
        last.pause = (last.pause * 2).min(LONGEST_PAUSE);
        Watched {
            is_dead: now.duration_since(last.at) >= every * SILENT,
            round: last.round,
            is_contested: last.rounds >= MOST_ROUNDS,
        }
    }

    /// Somebody else was first to take a claim over: that one has as long again to do it.
    fn take_round(&self, key: &Key) {
        if let Some(seen) = lock(&self.seen).get_mut(key) {
            seen.round += 1;
            seen.rounds += 1;
            seen.at = Instant::now();
        }
    }

    /// Whether somebody else was found to compute an action.
    pub fn is_watched(&self, key: &Key) -> bool {
        lock(&self.seen).contains_key(key)
    }

    /// Whether it is worth trying again to claim an action. Asks the remote store now and then.
    pub fn may_be_free(&self, store: &Store, key: &Key) -> Result<bool, RemoteError> {
        if lock(&self.seen).get(key).is_some_and(|seen| Instant::now() < seen.next) {
            return Ok(false);
        }
        let Some(theirs) = self.remote.client.block_on(find(&self.remote, key))?? else { return Ok(true) };
        Ok(self.watch(&theirs).is_dead || theirs.store == self.remote.identity(store)?)
    }

    fn hold(&self, content: Content, election: Option<String>) -> Result<Claimed, RemoteError> {
        let key = content.key;
        self.start_keeper()?;
        let held = Held { content, election, is_offered: false, written: Instant::now() };
        lock(&self.shared.held).insert(key, held);
        lock(&self.seen).remove(&key);
        Ok(Claimed::Held(Claim { key, shared: Arc::clone(&self.shared) }))
    }

    /// The result of an action is on its way: its claim ends when it is [given](Self::given).
    pub fn offered(&self, key: &Key) {
        if let Some(held) = lock(&self.shared.held).get_mut(key) {
            held.is_offered = true;
        }
    }

    /// What was to be given was, or cannot be.
    pub fn given(&self, key: &Key) {
        self.shared.end(key, true);
    }

    fn start_keeper(&self) -> Result<(), RemoteError> {
        let mut keeper = lock(&self.keeper);
        if keeper.is_none() {
            let (sender, inbox) = channel();
            let (remote, shared, every) = (Arc::clone(&self.remote), Arc::clone(&self.shared), self.every);
            let keep = move || keep(&remote, &shared, &inbox, every);
            *keeper = Some(thread::Builder::new().name("claims".to_owned()).spawn(keep).map_err(RemoteError::System)?);
            *lock(&self.shared.ended) = Some(sender);
        }
        Ok(())
    }

    /// Takes all claims away that are left, and waits until that is done.
    pub fn finish(&self) {
        let left: Vec<Key> = lock(&self.shared.held).keys().copied().collect();
        for key in &left {
            self.given(key);
        }
        drop(lock(&self.shared.ended).take());
        let keeper = lock(&self.keeper).take();
        // One that fell over leaves claims that fall silent.
        keeper.map(JoinHandle::join).into_iter().for_each(drop);
    }
}

/// Writes claims anew, and takes those away that have ended. After a request that fails, a claim is silent for longer, and others may
/// take it over.
fn keep(remote: &Remote, shared: &Shared, ended: &Receiver<Ended>, every: Duration) {
    let mut next = Instant::now() + every;
    loop {
        // Also while much ends: what is held must not fall silent for that.
        if next <= Instant::now() {
            let keys: Vec<Key> = lock(&shared.held).keys().copied().collect();
            at_once(remote, keys, |key| write_anew(remote, shared, key, every));
            next = Instant::now() + every;
        }
        match ended.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(first) => {
                let ended = [first].into_iter().chain(ended.try_iter().take(MOST_ENDED - 1));
                at_once(remote, ended, |(key, held)| take_away(remote, key, held));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Does something for each of many claims, some at the same time: a run may have thousands that wait for their results to be given,
/// and one after the other they would fall silent.
fn at_once<T, F: Future<Output = ()>>(remote: &Remote, claims: impl IntoIterator<Item = T>, work: impl FnMut(T) -> F) {
    let all = stream::iter(claims).for_each_concurrent(AT_ONCE, work);
    // Where no request can be made, claims fall silent.
    let _ = remote.client.block_on(all);
}

/// Whether a claim is still there. Others may have taken it over.
async fn is_mine(remote: &Remote, content: &Content) -> Result<bool, RemoteError> {
    let there = find(remote, &content.key).await?;
    Ok(there.is_some_and(|there| there.nonce == content.nonce))
}

async fn write_anew(remote: &Remote, shared: &Shared, key: Key, every: Duration) {
    let Some((mut content, written)) = lock(&shared.held).get(&key).map(|held| (held.content.clone(), held.written))
    else {
        return;
    };
    content.beat += 1;
    // What was not written for long may be somebody else's.
    let is_mine = if written.elapsed() < every * 2 { Ok(true) } else { is_mine(remote, &content).await };
    match is_mine {
        Ok(true) => {}
        Ok(false) => {
            lock(&shared.held).remove(&key);
            return;
        }
        Err(_) => return,
    }
    let Ok(bytes) = write(&content, &remote.keys) else { return };
    if remote.client.put(&name(&key), bytes).await.is_ok()
        && let Some(held) = lock(&shared.held).get_mut(&key)
    {
        (held.content, held.written) = (content, Instant::now());
    }
}

async fn take_away(remote: &Remote, key: Key, held: Held) {
    let Held { content, election, .. } = held;
    // Looked at first: another machine, or another process of this one, may have it by now. What stays falls silent, and is taken
    // over by whoever wants the action.
    let mine = is_mine(remote, &content).await.is_ok_and(|mine| mine).then(|| name(&key));
    for object in mine.into_iter().chain(election) {
        let _ = remote.client.delete(&object).await;
    }
}

/// The claim of an action, if there is one. One that cannot be read, or that nobody who is trusted has signed, counts as one whose
/// owner is dead.
async fn find(remote: &Remote, key: &Key) -> Result<Option<Content>, RemoteError> {
    let bytes = match remote.client.get(&name(key), MOST).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(RemoteError::Damaged { .. }) => bytes::Bytes::new(),
        Err(error) => return Err(error),
    };
    Ok(Some(read(&bytes, key, &remote.keys).unwrap_or_else(|| Content {
        key: *key,
        owner: "somebody who is not trusted".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        store: Digest::of(b""),
        nonce: Digest::of(&bytes),
        every: 0,
        beat: 0,
    })))
}

/// A claim as bytes, signed if this machine signs.
fn write(content: &Content, keys: &Keys) -> Result<Vec<u8>, RemoteError> {
    let unwritten = |error: serde_json::Error| RemoteError::Encoding { what: "a claim", source: error.into() };
    let claim = serde_json::to_string(content).map_err(unwritten)?;
    let signature = keys.signing.as_ref().map(|key| key.sign(Meaning::Claim, &claim));
    serde_json::to_vec(&Stored { claim, signature }).map_err(unwritten)
}

/// A claim that counts with these keys.
fn read(bytes: &[u8], key: &Key, keys: &Keys) -> Option<Content> {
    let Stored { claim, signature } = serde_json::from_slice(bytes).ok()?;
    let is_trusted =
        |signature: &Signature| keys.trusted.contains(&signature.by) && signature.holds(Meaning::Claim, &claim);
    if !keys.trusted.is_empty() && !signature.as_ref().is_some_and(is_trusted) {
        return None;
    }
    serde_json::from_str(&claim).ok().filter(|content: &Content| content.key == *key)
}

/// What an owner says of itself, as far as it can do no harm to a terminal.
fn shown(owner: &str) -> String {
    owner.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
}
