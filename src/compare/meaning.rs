//! What an element of a tensor is to people: the tensors of token sets and per-token arrays, as docs/file-formats.md
//! describes them.

use std::path::Path;

use twdag_stages::data::{TextTokenizer, TokenSet, part_name};

use super::{element::Element, tensors::Tensors};

/// Tensors with a column for each token.
const BY_TOKEN: &[&str] = &["input_ids", "far", "fact", "distance"];
/// Tensors with a column for each token but the first, which nothing predicts.
const BY_TARGET: &[&str] = &["cross_entropy", "weights"];

/// Where the files that are compared come from.
pub(super) struct Meaning<'a> {
    /// The two results.
    pub(super) folders: (&'a Path, &'a Path),
    /// The file's path inside them.
    pub(super) file: &'a str,
    /// The token set to which per-token arrays belong.
    pub(super) tokens: Option<&'a Path>,
}

impl Meaning<'_> {
    /// What an element is, in words; nothing where that is not known.
    pub(super) fn of(&self, tensor: &str, index: &[usize], values: (Element, Element)) -> Option<String> {
        let &[row, column] = index else { return None };
        if !BY_TOKEN.contains(&tensor) && !BY_TARGET.contains(&tensor) {
            return None;
        }
        let sequence = self.rows_before(tensor)? + row;
        if BY_TARGET.contains(&tensor) {
            let position = column + 1;
            let text = token(self.tokens, sequence, position);
            let text = text.map(|text| format!(" {text:?}")).unwrap_or_default();
            return Some(format!("sequence {sequence}, prediction of token {position}{text}"));
        }
        if tensor == "input_ids" {
            let text = |folder: &Path, element: Element| match element {
                Element::Whole(id) => decode(folder, u32::try_from(id).ok()?),
                Element::Float(_) => None,
            };
            let texts = (text(self.folders.0, values.0), text(self.folders.1, values.1));
            if let (Some(one), Some(other)) = texts {
                return Some(format!("sequence {sequence}, token {column}, {one:?} and {other:?}"));
            }
        }
        let text = token(Some(self.folders.0), sequence, column);
        let text = text.map(|text| format!(" {text:?}")).unwrap_or_default();
        Some(format!("sequence {sequence}, token {column}{text}"))
    }

    /// How many sequences stand in the parts before this one; nothing if it is no part.
    fn rows_before(&self, tensor: &str) -> Option<usize> {
        let part = (0..=99_999).find(|&part| part_name(part) == self.file)?;
        let rows = |part: usize| {
            let tensors = Tensors::open(&self.folders.0.join(part_name(part))).ok()?.ok()?;
            tensors.info(tensor)?.shape.first().copied()
        };
        (0..part).map(rows).sum()
    }
}

/// The text of a token of a token set.
fn token(folder: Option<&Path>, sequence: usize, position: usize) -> Option<String> {
    let folder = folder?;
    let ids = TokenSet::open(folder).ok()?.sequence(sequence).ok()?;
    decode(folder, *ids.get(position)?)
}

fn decode(folder: &Path, id: u32) -> Option<String> {
    TextTokenizer::open(folder).ok()?.inner().decode(&[id], false).ok()
}
