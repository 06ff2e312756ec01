//! Where the bytes of what is published lie.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    pull::named,
    segment::{Published, Slice},
};
use crate::{digest::Digest, store::Manifest};

/// Where the content of a file or a list of files lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// In a pack, from there on.
    Packed(Digest, u64),
    /// In an object of its own.
    Alone,
}

impl Place {
    /// The object that a content lies in.
    pub(super) fn object(self, content: &Digest) -> String {
        match self {
            Self::Packed(pack, _) => named("packs", &pack),
            Self::Alone => named("objects", content),
        }
    }
}

/// A content of a publication.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) place: Place,
}

/// The list of files of a publication, if it lies in a pack.
pub(super) fn list_of(published: &Published) -> Option<Placed> {
    let Slice { pack, offset, length } = published.list?;
    Some(Placed { digest: *published.artifact.digest(), size: length, place: Place::Packed(pack, offset) })
}

/// The contents of the files of a publication, each once: of files with the same content the first counts.
pub(super) fn files_of(published: &Published, manifest: &Manifest) -> Vec<Placed> {
    let packed: HashMap<u32, Place> = published
        .packed
        .iter()
        .flat_map(|packed| packed.files.iter().map(|&(file, offset)| (file, Place::Packed(packed.pack, offset))))
        .collect();
    let mut seen = HashSet::new();
    let files = manifest.files().iter().enumerate().filter(|(_, entry)| seen.insert(entry.digest));
    files
        .map(|(number, entry)| {
            let place = packed.get(&(number as u32)).copied().unwrap_or(Place::Alone);
            Placed { digest: entry.digest, size: entry.size, place }
        })
        .collect()
}

/// The objects and packs that a publication needs, as far as its list of files is known.
pub(super) fn objects_of(published: &Published, manifest: Option<&Manifest>) -> BTreeSet<String> {
    let packs = published.packed.iter().map(|packed| named("packs", &packed.pack));
    let list = list_of(published).into_iter();
    let files = manifest.into_iter().flat_map(|manifest| files_of(published, manifest));
    packs.chain(list.chain(files).map(|placed| placed.place.object(&placed.digest))).collect()
}
