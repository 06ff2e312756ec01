//! Words and sentence forms. Every list is drawn from uniformly; `{list}` in a form stands for one of its words and
//! `{person}` for a name with what the person is known by. No name and no value occurs anywhere else.

use std::fmt;

use super::random::Choices;

/// Keys of facts.
pub(super) const PEOPLE: [&str; 48] = [
    "Ada", "Alba", "Amos", "Anna", "Asa", "Axel", "Ben", "Beth", "Bram", "Cara", "Clem", "Cora", "Dora", "Edna",
    "Ella", "Emil", "Enid", "Erik", "Esme", "Ezra", "Fay", "Finn", "Fred", "Gail", "Gene", "Gus", "Hans", "Hope",
    "Hugo", "Ida", "Ines", "Iris", "Ivo", "Jack", "Jane", "Jens", "Joan", "Jude", "Kai", "Karl", "Kate", "Lars",
    "Leah", "Lena", "Levi", "Lois", "Lola", "Luke",
];

const SURNAMES: [&str; 32] = [
    "Ashby", "Beck", "Birch", "Blake", "Booth", "Brook", "Burr", "Chase", "Clay", "Cole", "Crane", "Croft", "Drake",
    "Dunn", "Ellis", "Fenn", "Finch", "Flint", "Frost", "Glass", "Grove", "Hale", "Heath", "Holt", "Hurst", "Kemp",
    "Kirk", "Locke", "Moor", "Nash", "Pike", "Snow",
];

const TRADES: [&str; 32] = [
    "actor", "barber", "brewer", "carter", "cooper", "cutler", "diver", "dyer", "grocer", "groom", "herald", "hunter",
    "jester", "judge", "mason", "mayor", "miller", "nurse", "pedlar", "pilot", "piper", "poet", "porter", "potter",
    "ranger", "sailor", "scribe", "singer", "smith", "tailor", "tanner", "weaver",
];

const TOWNS: [&str; 32] = [
    "Alden", "Ambry", "Arden", "Bexley", "Bute", "Calder", "Cobham", "Corby", "Darley", "Dover", "Elmham", "Epping",
    "Galway", "Gorse", "Hadley", "Ilkley", "Keld", "Leven", "Ludlow", "Malden", "Nairn", "Oban", "Orford", "Ramsey",
    "Ripon", "Rugby", "Selby", "Sutton", "Thame", "Troon", "Wells", "York",
];

/// How a person is known: the value of a fact.
#[derive(Clone, Copy)]
pub(super) enum Epithet {
    /// "Ada Finch"
    Surname(&'static str),
    /// "Ada the miller"
    Trade(&'static str),
    /// "Ada of Ripon"
    Town(&'static str),
}

impl Epithet {
    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let surnames = SURNAMES.into_iter().map(Self::Surname);
        surnames.chain(TRADES.into_iter().map(Self::Trade)).chain(TOWNS.into_iter().map(Self::Town))
    }

    /// Any of them, each equally likely.
    pub(super) fn draw(choices: &mut Choices) -> Self {
        // The lists are of one length, so a uniform list and a uniform word make a uniform value.
        match choices.below(3) {
            0 => Self::Surname(choices.of_these(&SURNAMES)),
            1 => Self::Trade(choices.of_these(&TRADES)),
            _ => Self::Town(choices.of_these(&TOWNS)),
        }
    }
}

impl fmt::Display for Epithet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Surname(word) => formatter.write_str(word),
            Self::Trade(word) => write!(formatter, "the {word}"),
            Self::Town(word) => write!(formatter, "of {word}"),
        }
    }
}

/// Sentences that state a fact.
pub(super) const PLANT: &[&str] = &[
    "{time} came {person}.",
    "At the {place} lived {person}.",
    "The {folk} knew {person}.",
    "There they met {person} with a {object}.",
    "The {object} was made by {person}.",
];

/// Sentences that need one.
pub(super) const NEED: &[&str] = &[
    "The {object} belonged to {person}.",
    "They asked for {person}.",
    "Everyone remembered {person}.",
    "The {folk} sent for {person}.",
    "{time} they wrote to {person}.",
];

/// Sentences that do neither.
pub(super) const FILLER: &[&str] = &[
    "{time} the {folk} {did} a {adjective} {object} near the {place}.",
    "The {weather} {moved} the {adjective} {place}.",
    "Some {folk} talked about {topic} {manner}.",
    "A {adjective} {object} stood by the {place} door.",
    "{time} they {did} the {object} {manner}.",
    "There was a {object} in the {place}, {adjective} and {adjective}.",
];

const LISTS: [(&str, &[&str]); 10] = [
    (
        "time",
        &[
            "In the morning",
            "At noon",
            "Before supper",
            "Late that night",
            "On Sunday",
            "After the rain",
            "Towards evening",
            "That winter",
            "By midnight",
            "Once more",
            "In spring",
            "The next day",
        ],
    ),
    (
        "place",
        &[
            "mill", "harbour", "market", "chapel", "bridge", "orchard", "station", "school", "tavern", "barn",
            "library", "garden", "well", "tower", "ferry", "bakery", "forge", "quarry", "meadow", "square",
        ],
    ),
    (
        "object",
        &[
            "basket", "letter", "lantern", "ladder", "blanket", "barrel", "kettle", "saddle", "map", "rope", "candle",
            "bucket", "hammer", "violin", "clock", "mirror", "trunk", "parcel", "wheel", "drum",
        ],
    ),
    (
        "adjective",
        &[
            "heavy", "small", "broken", "quiet", "bright", "narrow", "cold", "dusty", "painted", "crooked", "new",
            "wooden", "grey", "dark", "strange", "plain",
        ],
    ),
    (
        "folk",
        &[
            "children",
            "neighbours",
            "farmers",
            "soldiers",
            "strangers",
            "travellers",
            "visitors",
            "women",
            "men",
            "boys",
            "girls",
            "guests",
        ],
    ),
    (
        "did",
        &[
            "carried", "pushed", "dragged", "left", "found", "forgot", "mended", "hid", "dropped", "sold", "lost",
            "brought",
        ],
    ),
    ("weather", &["rain", "snow", "wind", "fog", "dust", "smoke", "sunlight", "thunder", "mist", "frost"]),
    ("moved", &["came over", "drifted across", "settled on", "hung above", "moved past", "filled"]),
    (
        "topic",
        &[
            "the price of bread",
            "a long journey",
            "the new road",
            "the war",
            "a good harvest",
            "bad roofs",
            "the next fair",
            "a long quarrel",
            "the taxes",
            "a lost dog",
        ],
    ),
    ("manner", &["slowly", "in silence", "with care", "without a word", "in a hurry", "twice", "for nothing", "again"]),
];

/// Appends a sentence of one of some forms to `text`; gives the place of the value in bytes of `text` (empty if the
/// form tells of nobody).
pub(super) fn sentence(
    forms: &[&str],
    person: Option<(&str, Epithet)>,
    choices: &mut Choices,
    text: &mut String,
) -> [usize; 2] {
    let mut value = [text.len(), text.len()];
    for (index, piece) in choices.of_these(forms).split(['{', '}']).enumerate() {
        // Pieces alternate: plain text, then the name of a list.
        if index % 2 == 0 {
            text.push_str(piece);
        } else if let Some((_, words)) = LISTS.iter().find(|(name, _)| *name == piece) {
            text.push_str(choices.of_these(words));
        } else if let Some((name, epithet)) = person {
            text.push_str(name);
            text.push(' ');
            let from = text.len();
            text.push_str(&epithet.to_string());
            value = [from, text.len()];
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FILLER, LISTS, NEED, PEOPLE, PLANT, SURNAMES, TOWNS, TRADES};

    #[test]
    fn forms_name_only_lists_that_exist_and_people_only_where_a_fact_is() {
        for (forms, people) in [(PLANT, 1), (NEED, 1), (FILLER, 0)] {
            for form in forms {
                let holes: Vec<&str> = form.split(['{', '}']).skip(1).step_by(2).collect();
                let lists = holes.iter().filter(|hole| LISTS.iter().any(|(name, _)| name == *hole)).count();
                assert_eq!(holes.iter().filter(|hole| **hole == "person").count(), people, "{form}");
                assert_eq!(lists + people, holes.len(), "{form}");
            }
        }
    }

    #[test]
    fn names_and_values_occur_once_and_nowhere_else() {
        let mut seen = BTreeSet::new();
        let facts = PEOPLE.iter().chain(&SURNAMES).chain(&TRADES).chain(&TOWNS);
        assert!(facts.clone().all(|word| seen.insert(*word)));
        let others = LISTS.iter().flat_map(|(_, words)| *words).chain(PLANT).chain(NEED).chain(FILLER);
        let others: BTreeSet<&str> = others.flat_map(|text| text.split([' ', ',', '.'])).collect();
        assert!(facts.copied().all(|word| !others.contains(word)));
    }

    #[test]
    fn no_word_after_a_needs_an() {
        for (name, words) in LISTS.iter().filter(|(name, _)| ["adjective", "object"].contains(name)) {
            assert!(words.iter().all(|word| !word.starts_with(['a', 'e', 'i', 'o', 'u'])), "{name}");
        }
    }
}
