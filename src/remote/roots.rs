//! What members keep in a store that they share: their pins, and what their last runs gave or used. Each of them writes that there,
//! so that whoever collects knows of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::SystemTime,
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Remote, RemoteError,
    client::{Client, Listed},
    index::Index,
    signing::{Keys, Meaning, PublicKey, SigningKey, Statement},
    survey::Unread,
    understood::is_wholly_known,
};
use crate::{
    digest::{ArtifactId, Digest},
    store::{Root, RootSort, Store},
};

/// The room of all roots.
pub(super) const ROOM: &str = "v1/roots/";
const VERSION: u32 = 1;
/// What is longer is neither written nor read: it would name more than half a million results.
const MOST: u64 = 64 << 20;
/// So many are asked for at the same time.
const AT_ONCE: usize = 16;
/// So many characters of what somebody says of itself are shown.
const SHOWN: usize = 200;

/// An object that says what is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    /// The BLAKE3 of the text, by which damage is told from what was meant.
    check: Digest,
    said: Statement,
}

/// What a member says of what it keeps.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// The first segment of the log that it belongs to, and the object that says it: elsewhere it says nothing.
    origin: Digest,
    object: String,
    /// Who keeps it, for people.
    owner: String,
    /// Whose word counts for it; everybody's if there is none.
    trusted: Vec<PublicKey>,
    roots: Vec<Named>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    sort: RootSort,
    /// The name of a pin; of a run, its graph.
    name: String,
    artifacts: BTreeSet<ArtifactId>,
}

/// Something that a member keeps.
pub(super) struct Told {
    /// The object that says so.
    pub(super) object: String,
    /// The store of the member.
    pub(super) store: String,
    /// When it said so, by the server's clock.
    pub(super) modified: SystemTime,
    pub(super) root: Root,
}

/// What members have said.
#[derive(Default)]
pub(super) struct Roots {
    pub(super) told: Vec<Told>,
    /// What cannot be read, or is not what somebody has written.
    pub(super) unread: Vec<Unread>,
    /// Members that would not heed what is said here.
    pub(super) deaf: Vec<String>,
    /// What is passed over, and why.
    pub(super) problems: Vec<String>,
    /// When a member last said anything, by its store.
    pub(super) heard: BTreeMap<String, SystemTime>,
    /// Stores of members who are not trusted here, with what they say.
    pub(super) strangers: BTreeMap<String, Vec<String>>,
}

impl Remote {
    /// Has the remote store know what a run of a graph gave or used, and what is pinned on this machine.
    pub fn keep_run(&self, store: &Store, graph: &str, artifacts: &BTreeSet<ArtifactId>) -> Result<(), RemoteError> {
        self.keep_pins(store)?;
        if !self.mode.writes() || artifacts.is_empty() {
            return Ok(());
        }
        // A run that gave the same before is kept anew.
        let mut hasher = blake3::Hasher::new();
        hasher.update(graph.as_bytes());
        for artifact in artifacts {
            hasher.update(artifact.digest().as_bytes());
        }
        let name = Digest::from(hasher.finalize()).to_string();
        let root = Named { sort: RootSort::Run, name: graph.to_owned(), artifacts: artifacts.clone() };
        self.keep(store, &name, vec![root])
    }

    /// Has the remote store know what is pinned on this machine: anew each time, as what it knew may be gone. Who never pinned
    /// anything has nothing to say.
    pub fn keep_pins(&self, store: &Store) -> Result<(), RemoteError> {
        if !self.mode.writes() {
            return Ok(());
        }
        // Who has read the pins before somebody else changed them must not tell them later.
        let _turn = store.lock_derived(self.folder().join("pins.lock"))?;
        let (pins, note) = (pins(store)?, self.note_of_pins(store)?);
        if !pins.is_empty() {
            // First the note: who is killed then says once too often that nothing is pinned any more.
            store.keep_derived(&note, b"")?;
            return self.keep(store, "pins", pins);
        }
        if !store.derived(&note).exists() {
            return Ok(());
        }
        self.keep(store, "pins", pins)?;
        Ok(store.drop_derived(note)?)
    }

    /// The object that [`Remote::keep_pins`] would write now, and what it would hold, if it would write any.
    pub(super) fn pins_to_tell(&self, store: &Store) -> Result<Option<(String, Vec<u8>)>, RemoteError> {
        let pins = pins(store)?;
        let has_more = !pins.is_empty() || store.derived(self.note_of_pins(store)?).exists();
        if self.mode.writes() && has_more { self.told(store, "pins", pins) } else { Ok(None) }
    }

    /// Is there as long as the remote store was told of pins. Each number that the store has had has its own: what it said under another
    /// one stands for itself.
    fn note_of_pins(&self, store: &Store) -> Result<PathBuf, RemoteError> {
        Ok(self.folder().join("told").join(self.identity(store)?.to_string()))
    }

    fn keep(&self, store: &Store, name: &str, roots: Vec<Named>) -> Result<(), RemoteError> {
        if self.state().asked.is_none() {
            self.with_index(store, async |index| index.refresh(&self.client, &self.keys, false).await)?;
        }
        let Some((object, bytes)) = self.told(store, name, roots)? else { return Ok(()) };
        self.client.block_on(self.client.put(&object, bytes))?
    }

    /// The object that says what is kept, and what it holds.
    fn told(&self, store: &Store, name: &str, roots: Vec<Named>) -> Result<Option<(String, Vec<u8>)>, RemoteError> {
        // Where nothing is published, there is nothing to keep.
        let Some(origin) = self.state().index.as_ref().and_then(Index::origin) else { return Ok(None) };
        let user = std::env::var("USER").unwrap_or_default();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let owner = if user.is_empty() { host } else { format!("{user}@{host}") };
        let object = format!("{ROOM}{}/{name}", self.identity(store)?);
        let trusted = self.keys.trusted.clone();
        let content = Content { version: VERSION, origin, object: object.clone(), owner, trusted, roots };
        let text = serde_json::to_string(&content).map_err(unwritten)?;
        let check = Digest::of(text.as_bytes());
        let said = Statement::new(Meaning::Roots, text, &self.keys);
        let bytes = serde_json::to_vec(&Object { check, said }).map_err(unwritten)?;
        if bytes.len() as u64 > MOST {
            let problem = format!("it would have {} bytes; expected {MOST} at most", bytes.len());
            return Err(self.client.damaged(&object, problem));
        }
        Ok(Some((object, bytes)))
    }
}

/// What is pinned on this machine.
fn pins(store: &Store) -> Result<Vec<Named>, RemoteError> {
    let pins = store.pins()?.into_iter().map(|pin| Named {
        sort: RootSort::Pin,
        name: pin.name,
        artifacts: pin.stages.iter().map(|stage| stage.artifact).collect(),
    });
    Ok(pins.collect())
}

fn unwritten(error: serde_json::Error) -> RemoteError {
    RemoteError::Encoding { what: "what is kept", source: error.into() }
}

/// All that members keep, with what one of them is supposed to have said by now. One that cannot be reached is an error: what it keeps is
/// unknown.
pub(super) async fn read(
    client: &Client,
    listing: impl Iterator<Item = &Listed>,
    supposed: Option<&(Listed, Vec<u8>)>,
    keys: &Keys,
    origin: Digest,
) -> Result<Roots, RemoteError> {
    let listing = listing.filter(|listed| supposed.is_none_or(|(supposed, _)| supposed.name != listed.name));
    let mut found = stream::iter(listing)
        .map(|listed| async move { (listed, client.get(&listed.name, MOST).await) })
        .buffered(AT_ONCE);
    let mut roots = Roots::default();
    while let Some((listed, found)) = found.next().await {
        match found {
            Ok(Some(bytes)) => roots.take(listed, &bytes, keys, origin),
            // It went since it was listed: somebody who collects took it away, or people did.
            Ok(None) => {}
            Err(RemoteError::Damaged { problem, .. }) => roots.unread.push(Unread::of(&listed.name, problem)),
            Err(error) => return Err(error),
        }
    }
    if let Some((listed, bytes)) = supposed {
        roots.take(listed, bytes, keys, origin);
    }
    roots.doubt();
    Ok(roots)
}

/// Reads an object; says what is wrong otherwise.
fn open(bytes: &[u8]) -> Result<(Content, Statement), String> {
    let unread = |error: serde_json::Error| format!("what is kept cannot be read: {error}");
    let object: Object = serde_json::from_slice(bytes).map_err(unread)?;
    if !is_wholly_known(bytes, &object) {
        return Err("what is kept holds fields that this version of twdag does not know".to_owned());
    }
    let Object { check, said } = object;
    if Digest::of(said.text.as_bytes()) != check {
        return Err("what is kept is damaged".to_owned());
    }
    if said.is_broken(Meaning::Roots) {
        return Err("what is kept bears a signature that does not hold".to_owned());
    }
    let content: Content = serde_json::from_str(&said.text).map_err(unread)?;
    if content.version != VERSION {
        return Err(format!("what is kept has version {}, this twdag reads version {VERSION}", content.version));
    }
    Ok((content, said))
}

impl Roots {
    /// Where somebody who is trusted says what he keeps, nobody else has a word: it was written over his.
    fn doubt(&mut self) {
        let (heard, unread) = (&self.heard, &mut self.unread);
        self.strangers.retain(|store, objects| {
            let is_heard = heard.contains_key(store);
            if is_heard {
                let problem = "nobody who is trusted has signed it, as others have what lies beside it";
                unread.extend(objects.iter().map(|object| Unread::of(object, problem.to_owned())));
            }
            !is_heard
        });
    }

    fn take(&mut self, listed: &Listed, bytes: &[u8], keys: &Keys, origin: Digest) {
        let store = listed.name.trim_start_matches(ROOM).split('/').next().unwrap_or_default().to_owned();
        let (content, said) = match open(bytes) {
            Ok(read) => read,
            Err(problem) => return self.unread.push(Unread::of(&listed.name, problem)),
        };
        if content.object != listed.name || content.origin != origin {
            let problem = "it was written for another place; it keeps nothing";
            return self.problems.push(format!("{}: {problem}", listed.name));
        }
        let signing = keys.signing.as_ref().map(SigningKey::public);
        if !content.trusted.is_empty() && !signing.is_some_and(|key| content.trusted.contains(&key)) {
            self.deaf.push(format!("{} of {}", harmless(&store, 8), harmless(&content.owner, SHOWN)));
        }
        if !keys.trust(said.signer(Meaning::Roots).as_ref()) {
            self.strangers.entry(store).or_default().push(listed.name.clone());
            return;
        }
        let last = self.heard.entry(store.clone()).or_insert(listed.modified);
        *last = listed.modified.max(*last);
        let time = Timestamp::try_from(listed.modified).unwrap_or(Timestamp::MAX);
        for named in content.roots {
            // One user may have several stores on a host.
            let (name, owner) = (harmless(&named.name, SHOWN), harmless(&content.owner, SHOWN));
            let name = format!("{name} of {owner}, store {}", harmless(&store, 8));
            let root = Root { sort: named.sort, name, artifacts: named.artifacts, time };
            self.told.push(Told { object: listed.name.clone(), store: store.clone(), modified: listed.modified, root });
        }
    }
}

fn harmless(text: &str, most: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(most).collect()
}
