//! What this machine knows of results whose bytes are elsewhere, so that the next plan needs no request.
//!
//! All of it lies in one file of blocks that carry their own check and are only ever appended: a plan that finds ten thousand
//! results writes one. Each policy has notes of its own: which result counts depends on whose word does. What follows a torn block is not read, and whoever notes something then writes the file anew. What is lost
//! that way, or between two who write at once, is asked for again.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    ops::Range,
    path::Path,
};

use super::segment::Published;
use crate::{
    digest::{Digest, Key},
    store::{Manifest, Record, Store},
};

const MAGIC: &[u8; 16] = b"twdag notes 2\n\0\0";
/// How much work goes into packing: the usual amount.
const LEVEL: i32 = 3;
/// The most bytes that are kept, unpacked: notes of a hundred thousand results. The oldest go first.
const MOST: usize = 128 << 20;
/// A line is a key, a space, and JSON.
const KEY: usize = 64;

/// A result that a remote store has.
#[derive(Clone, Debug)]
pub struct Known {
    /// How it came about.
    pub record: Record,
    /// Its files, unless there are so many that their list has to be fetched.
    pub(super) manifest: Option<Manifest>,
    pub(super) published: Published,
}

/// Where a line stands: its block, and its bytes there.
type Place = (usize, Range<usize>);

/// Notes of published results.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Blocks of lines, in the order in which they were noted.
    blocks: Vec<String>,
    /// So many of them are in the file.
    kept: usize,
    /// The last line of each action.
    lines: HashMap<Key, Place>,
    /// There is more in the file than can be read.
    is_torn: bool,
}

impl Notes {
    /// What was noted in a file until now.
    pub(super) fn read(store: &Store, file: &Path) -> Self {
        let mut notes = Self::default();
        // Without notes it is asked for.
        let bytes = fs::read(store.derived(file)).unwrap_or_default();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Some((text, after)) = unpack(rest) else {
                notes.is_torn = true;
                break;
            };
            notes.take(text);
            rest = after;
        }
        notes.kept = notes.blocks.len();
        notes
    }

    fn take(&mut self, text: String) {
        let (number, mut begins) = (self.blocks.len(), 0);
        for line in text.split_inclusive('\n') {
            let place = begins..begins + line.len();
            begins = place.end;
            if let Some(key) = line.get(..KEY).and_then(|key| key.parse().ok()) {
                self.lines.insert(key, (number, place));
            }
        }
        self.blocks.push(text);
    }

    fn text(&self, key: &Key) -> Option<&str> {
        let (number, place) = self.lines.get(key)?;
        self.blocks.get(*number)?.get(place.start + KEY + 1..place.end - 1)
    }

    /// What was noted of the result of an action.
    pub(super) fn find(&self, key: &Key) -> Option<Known> {
        serde_json::from_str::<Published>(self.text(key)?).ok()?.open(key).ok()
    }

    /// Notes a result; [`Notes::keep`] has others know of it.
    pub(super) fn add(&mut self, known: &Known) {
        // What cannot be written is asked for again.
        let Ok(text) = serde_json::to_string(&known.published) else { return };
        let key = known.record.key;
        if self.text(&key) == Some(&text) {
            return;
        }
        if self.blocks.len() == self.kept {
            self.blocks.push(String::new());
        }
        let number = self.blocks.len() - 1;
        if let Some(block) = self.blocks.last_mut() {
            let begins = block.len();
            block.extend([&*key.to_string(), " ", &text, "\n"]);
            self.lines.insert(key, (number, begins..block.len()));
        }
    }

    /// Keeps what was noted, for others and for later. What cannot be written is asked for again.
    pub(super) fn keep(&mut self, store: &Store, file: &Path) {
        let Some(new) = self.blocks.get(self.kept) else { return };
        let is_much = self.blocks.iter().map(String::len).sum::<usize>() > MOST;
        let kept = if is_much || self.is_torn {
            let last = self.last(if is_much { MOST / 2 } else { MOST });
            let kept = pack(&last).is_ok_and(|bytes| store.keep_derived(file, &bytes).is_ok());
            *self = Self::default();
            self.take(last);
            kept
        } else {
            pack(new).is_ok_and(|bytes| store.append_derived(file, &bytes).is_ok())
        };
        self.kept = self.blocks.len();
        // Half of it may be there.
        self.is_torn = !kept;
    }

    /// The last line of each action, up to so many bytes of the youngest ones.
    fn last(&self, most: usize) -> String {
        let mut places: Vec<&Place> = self.lines.values().collect();
        places.sort_unstable_by_key(|(number, place)| (*number, place.start));
        let mut size = 0;
        let youngest = places.iter().rev().take_while(|(_, place)| {
            size += place.len();
            size <= most
        });
        let left = places.len() - youngest.count();
        places[left..].iter().filter_map(|(number, place)| self.blocks.get(*number)?.get(place.clone())).collect()
    }
}

/// Some lines as a block: what it is, the BLAKE3 of the rest, the length of what follows, and that.
fn pack(text: &str) -> io::Result<Vec<u8>> {
    let packed = zstd::bulk::compress(text.as_bytes(), LEVEL)?;
    let rest = [&(packed.len() as u64).to_le_bytes()[..], &packed].concat();
    Ok([&MAGIC[..], Digest::of(&rest).as_bytes(), &rest].concat())
}

/// The lines of the first block, and what follows it.
fn unpack(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (check, rest) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
    let length = usize::try_from(u64::from_le_bytes(*rest.first_chunk()?)).ok()?;
    let (block, after) = rest.split_at_checked(length.checked_add(8)?)?;
    if check != Digest::of(block).as_bytes() {
        return None;
    }
    let mut text = String::new();
    let unpacked = zstd::stream::read::Decoder::new(&block[8..]).ok()?;
    unpacked.take(MOST as u64).read_to_string(&mut text).ok()?;
    Some((text, after))
}
