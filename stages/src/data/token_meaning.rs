//! Whether two tokenizers mean the same by their ids.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{DataError, TextTokenizer};

/// Special tokens that two tokenizers name otherwise, by id, with the names in both. `None` if the same text has other ids,
/// or id `bos` is another token. Models of one family differ so: Llama 3.1 and 3.2 use ids that Llama 3 had reserved.
pub fn renamed_special_tokens(
    here: &Path,
    there: &Path,
    bos: Option<u32>,
) -> Result<Option<BTreeMap<u64, [String; 2]>>, DataError> {
    let (here, there) = (Meaning::read(here)?, Meaning::read(there)?);
    if here.of_text != there.of_text {
        return Ok(None);
    }
    let ids = here.special.keys().chain(there.special.keys());
    let name =
        |names: &BTreeMap<u64, String>, id: &u64| names.get(id).map_or("nothing".to_owned(), |n| format!("`{n}`"));
    let named = ids.map(|id| (*id, [name(&here.special, id), name(&there.special, id)]));
    let renamed: BTreeMap<_, _> = named.filter(|(_, [here, there])| here != there).collect();
    Ok(bos.is_none_or(|bos| !renamed.contains_key(&u64::from(bos))).then_some(renamed))
}

/// What ids mean to a tokenizer. What it puts around a text (`post_processor`) is not part of it: that is in the tokens.
struct Meaning {
    /// What gives text its ids: normalizer, pre-tokenizer, model, added tokens that are not special.
    of_text: [Value; 4],
    /// Names of special tokens.
    special: BTreeMap<u64, String>,
}

impl Meaning {
    fn read(path: &Path) -> Result<Self, DataError> {
        let tokenizer = TextTokenizer::open(path)?;
        // As the library writes it, so that spellings of the same (merges as text or as pairs) do not count.
        let mut written = serde_json::to_value(tokenizer.inner()).map_err(|error| DataError::content(path, error))?;
        let added = written["added_tokens"].take();
        let (special, ordinary): (Vec<_>, Vec<_>) =
            added.as_array().into_iter().flatten().cloned().partition(|token| token["special"] == true);
        let named =
            special.iter().filter_map(|token| Some((token["id"].as_u64()?, token["content"].as_str()?.to_owned())));
        let special = named.collect();
        let mut part = |name: &str| written[name].take();
        Ok(Self { of_text: [part("normalizer"), part("pre_tokenizer"), part("model"), ordinary.into()], special })
    }
}
