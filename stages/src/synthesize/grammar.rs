//! Words and sentence forms. Every list is drawn from uniformly; `{list}` in a form stands for one of its words and
//! `{fact}` for a subject with its value, such as "the ship was Minerva". No value occurs anywhere else.

use super::random::Choices;

/// What a fact is about, and every value it can have.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) values: [&'static str; 32],
}

impl Subject {
    /// Bytes at the start of one of the values that no other value starts with, the last of them included: once they
    /// are read, spelling tells the rest.
    pub(super) fn decisive(&self, value: &str) -> usize {
        let shared = |other: &&str| value.bytes().zip(other.bytes()).take_while(|(left, right)| left == right).count();
        let longest = self.values.iter().filter(|other| **other != value).map(shared).max().unwrap_or(0);
        value.len().min(longest + 1)
    }
}

/// Subjects of facts: a document tells each at most once, so that whoever finds a word of the subject's list in view
/// knows the value.
pub(super) const SUBJECTS: [Subject; 8] = [
    Subject {
        name: "the password",
        values: [
            "amber", "apple", "arrow", "badger", "barley", "beacon", "bramble", "butter", "candle", "cedar", "cherry",
            "clover", "copper", "coral", "cricket", "falcon", "feather", "fiddle", "ginger", "hazel", "heron", "honey",
            "ivory", "jasmine", "juniper", "lantern", "laurel", "lemon", "linen", "magpie", "maple", "marble",
        ],
    },
    Subject {
        name: "the ship",
        values: [
            "Albion",
            "Argus",
            "Aurora",
            "Beagle",
            "Bounty",
            "Centaur",
            "Comet",
            "Diana",
            "Dolphin",
            "Electra",
            "Endeavour",
            "Formidable",
            "Fortune",
            "Gloria",
            "Griffin",
            "Halcyon",
            "Hector",
            "Hermes",
            "Juno",
            "Jupiter",
            "Kestrel",
            "Leander",
            "Lion",
            "Mercury",
            "Minerva",
            "Neptune",
            "Orion",
            "Pegasus",
            "Phoenix",
            "Triton",
            "Vesta",
            "Victory",
        ],
    },
    Subject {
        name: "the captain",
        values: [
            "Abbott", "Archer", "Baker", "Barlow", "Bishop", "Carver", "Cooper", "Dalton", "Dyer", "Fisher",
            "Fletcher", "Forster", "Gardner", "Glover", "Harper", "Hooper", "Hunter", "Marsh", "Mason", "Miller",
            "Parker", "Porter", "Potter", "Sawyer", "Shaw", "Slater", "Tanner", "Taylor", "Turner", "Walker", "Weaver",
            "Wright",
        ],
    },
    Subject {
        name: "the road's end",
        values: [
            "Alden", "Ambry", "Arden", "Bexley", "Bute", "Calder", "Cobham", "Corby", "Darley", "Dover", "Elmham",
            "Epping", "Galway", "Gorse", "Hadley", "Ilkley", "Keld", "Leven", "Ludlow", "Malden", "Nairn", "Oban",
            "Orford", "Ramsey", "Ripon", "Rugby", "Selby", "Sutton", "Thame", "Troon", "Wells", "York",
        ],
    },
    Subject {
        name: "the old man's trade",
        values: [
            "acting",
            "baking",
            "brewing",
            "carving",
            "carting",
            "coopering",
            "cutting",
            "diving",
            "dyeing",
            "farming",
            "fishing",
            "gilding",
            "glazing",
            "hunting",
            "judging",
            "mining",
            "milling",
            "nursing",
            "painting",
            "piloting",
            "printing",
            "roofing",
            "sailing",
            "sewing",
            "shearing",
            "singing",
            "smithing",
            "spinning",
            "tanning",
            "teaching",
            "thatching",
            "weaving",
        ],
    },
    Subject {
        name: "the gift",
        values: [
            "anchor",
            "anvil",
            "atlas",
            "banner",
            "bell",
            "bonnet",
            "bowl",
            "brooch",
            "cloak",
            "coin",
            "comb",
            "compass",
            "cradle",
            "crown",
            "cup",
            "dagger",
            "diary",
            "fan",
            "flute",
            "goblet",
            "harp",
            "helmet",
            "hourglass",
            "jug",
            "locket",
            "medal",
            "needle",
            "pearl",
            "quill",
            "ribbon",
            "sundial",
            "telescope",
        ],
    },
    Subject {
        name: "the dog",
        values: [
            "Bandit", "Bess", "Biscuit", "Bonny", "Bruno", "Buster", "Caesar", "Chance", "Chief", "Duke", "Fido",
            "Flash", "Gyp", "Jasper", "Jess", "Laddie", "Major", "Max", "Moss", "Nell", "Nipper", "Patch", "Prince",
            "Ranger", "Rex", "Rover", "Rusty", "Shadow", "Spot", "Tess", "Tinker", "Toby",
        ],
    },
    Subject {
        name: "the feast",
        values: [
            "almonds",
            "bacon",
            "beans",
            "beef",
            "beer",
            "bread",
            "cabbage",
            "cake",
            "carrots",
            "cheese",
            "chestnuts",
            "cider",
            "cod",
            "cream",
            "duck",
            "eels",
            "figs",
            "goose",
            "ham",
            "leeks",
            "mushrooms",
            "mutton",
            "oysters",
            "pears",
            "peas",
            "pie",
            "plums",
            "pork",
            "rabbit",
            "salmon",
            "soup",
            "trout",
        ],
    },
];

/// Stands between a subject and its value.
pub(super) const IS: &str = " was ";

/// Sentences that state a fact.
pub(super) const PLANT: &[&str] = &[
    "It was told that {fact}.",
    "Everyone agreed that {fact}.",
    "{time} they learned that {fact}.",
    "The {folk} decided that {fact}.",
];

/// Sentences that need one.
pub(super) const NEED: &[&str] = &[
    "{time} the {folk} remembered that {fact}.",
    "And still {fact}.",
    "The {folk} said again that {fact}.",
    "Nobody forgot that {fact}.",
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
            "basket", "letter", "lamp", "ladder", "blanket", "barrel", "kettle", "saddle", "map", "rope", "bottle",
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
            "the price of wool",
            "a long journey",
            "the new path",
            "the war",
            "a good harvest",
            "bad roofs",
            "the next fair",
            "a long quarrel",
            "the taxes",
            "a lost cow",
        ],
    ),
    ("manner", &["slowly", "in silence", "with care", "without a word", "in a hurry", "twice", "for nothing", "again"]),
];

/// Appends a sentence of one of some forms to `text`; gives the place of the value in bytes of `text` (empty if the
/// form tells no fact).
pub(super) fn sentence(
    forms: &[&str],
    fact: Option<(&str, &str)>,
    choices: &mut Choices,
    text: &mut String,
) -> [usize; 2] {
    let mut place = [text.len(), text.len()];
    for (index, piece) in choices.of_these(forms).split(['{', '}']).enumerate() {
        // Pieces alternate: plain text, then the name of a list.
        if index % 2 == 0 {
            text.push_str(piece);
        } else if let Some((_, words)) = LISTS.iter().find(|(name, _)| *name == piece) {
            text.push_str(choices.of_these(words));
        } else if let Some((subject, value)) = fact {
            text.push_str(subject);
            text.push_str(IS);
            let from = text.len();
            text.push_str(value);
            place = [from, text.len()];
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FILLER, LISTS, NEED, PLANT, SUBJECTS};

    #[test]
    fn forms_name_only_lists_that_exist_and_facts_only_where_they_belong() {
        for (forms, facts) in [(PLANT, 1), (NEED, 1), (FILLER, 0)] {
            for form in forms {
                let holes: Vec<&str> = form.split(['{', '}']).skip(1).step_by(2).collect();
                let lists = holes.iter().filter(|hole| LISTS.iter().any(|(name, _)| name == *hole)).count();
                assert_eq!(holes.iter().filter(|hole| **hole == "fact").count(), facts, "{form}");
                assert_eq!(lists + facts, holes.len(), "{form}");
            }
        }
    }

    #[test]
    fn values_occur_once_and_nowhere_else() {
        let mut seen = BTreeSet::new();
        let values = SUBJECTS.iter().flat_map(|subject| subject.values).map(str::to_lowercase);
        assert!(values.clone().all(|word| seen.insert(word)));
        let names = SUBJECTS.iter().map(|subject| subject.name);
        let others = LISTS.iter().flat_map(|(_, words)| *words).chain(PLANT).chain(NEED).chain(FILLER).copied();
        let others: BTreeSet<String> =
            others.chain(names).flat_map(|text| text.split([' ', ',', '.'])).map(str::to_lowercase).collect();
        assert_eq!(others.intersection(&seen).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    #[test]
    fn no_word_after_a_needs_an() {
        for (name, words) in LISTS.iter().filter(|(name, _)| ["adjective", "object"].contains(name)) {
            assert!(words.iter().all(|word| !word.starts_with(['a', 'e', 'i', 'o', 'u'])), "{name}");
        }
    }
}
