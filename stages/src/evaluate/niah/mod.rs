//! RULER's needles in haystacks (arXiv 2404.06654): its tasks `niah_single_1` to `_3` and `niah_multikey_1` to `_3`. The wording is
//! that of its generator. It draws where needles lie; here the place of the one that is asked for is given.

use rand_chacha::{ChaCha8Rng, rand_core::Rng};

use super::NeedleForm;

/// RULER takes keys from these lists of the package wonderwords 3.0.1 (see LICENSE beside them): adjective and noun.
const ADJECTIVES: &str = include_str!("adjectivelist.txt");
const NOUNS: &str = include_str!("nounlist.txt");

/// A line of the haystack that says nothing.
const NOISE: &str = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

#[derive(Clone, Copy, PartialEq)]
enum Haystack {
    Noise,
    /// Sentences of a text.
    Essay,
    /// Needles that nobody asks for.
    Needles,
}

/// What a key or a value looks like.
#[derive(Clone, Copy)]
enum Secret {
    Word,
    Number,
    Uuid,
}

struct Needle {
    key: String,
    value: String,
}

/// One sample: all that is drawn, for a text of any length.
pub(super) struct Niah {
    haystack: Haystack,
    key: Secret,
    value: Secret,
    /// The number of the sentence that the text begins with.
    start: usize,
    /// The one that is asked for is the first.
    needles: Vec<Needle>,
    /// Where the others lie: 0 is the start, 1 the end.
    depths: Vec<f64>,
    /// Different values, of which the first is the answer. Needles that nobody asks for have the next ones.
    values: Vec<String>,
    /// Lines of a haystack of needles, as many as were needed so far.
    lines: Vec<String>,
    random: ChaCha8Rng,
}

impl Niah {
    /// Draws a sample with so many different `values`, from a text of so many sentences. `None` if the form is none of RULER's.
    pub(super) fn draw(form: NeedleForm, sentences: usize, values: usize, random: &mut ChaCha8Rng) -> Option<Self> {
        use Secret::{Number, Uuid, Word};
        let (haystack, key, value, count) = match form {
            NeedleForm::Plain => return None,
            NeedleForm::NiahSingle1 => (Haystack::Noise, Word, Number, 1),
            NeedleForm::NiahSingle2 => (Haystack::Essay, Word, Number, 1),
            NeedleForm::NiahSingle3 => (Haystack::Essay, Word, Uuid, 1),
            NeedleForm::NiahMultikey1 => (Haystack::Essay, Word, Number, 4),
            NeedleForm::NiahMultikey2 => (Haystack::Needles, Word, Number, 1),
            NeedleForm::NiahMultikey3 => (Haystack::Needles, Uuid, Uuid, 1),
        };
        let start = below(random, sentences);
        let mut different: Vec<String> = Vec::new();
        while different.len() < values {
            let drawn = value.draw(random);
            if !different.contains(&drawn) {
                different.push(drawn);
            }
        }
        let mut needles: Vec<Needle> = Vec::new();
        while needles.len() < count {
            let drawn = key.draw(random);
            if needles.iter().all(|needle| needle.key != drawn) {
                needles.push(Needle { key: drawn, value: different[needles.len()].clone() });
            }
        }
        // RULER draws from 40 depths of equal distance.
        let depths = needles[1..].iter().map(|_| below(random, 40) as f64 / 39.0).collect();
        let (values, random) = (different, random.clone());
        Some(Self { haystack, key, value, start, needles, depths, values, lines: Vec::new(), random })
    }

    /// The answer, and other values.
    pub(super) fn values(&self) -> &[String] {
        &self.values
    }

    /// The prompt with a haystack of `count` lines, or words of a text, and a space at its end.
    pub(super) fn prompt(&mut self, sentences: &[String], count: usize, depth: f64) -> String {
        let (mut pieces, between) = match self.haystack {
            Haystack::Noise => (vec![NOISE.to_owned(); count], "\n"),
            Haystack::Essay => (words(sentences, self.start, count), " "),
            Haystack::Needles => {
                while self.lines.len() < count {
                    let line = self.line();
                    self.lines.push(line);
                }
                (self.lines[..count].to_vec(), "\n")
            }
        };
        let depths = [depth].into_iter().chain(self.depths.iter().copied());
        let places = depths.map(|depth| (pieces.len() as f64 * depth) as usize);
        let mut hidden: Vec<(usize, String)> =
            places.zip(&self.needles).map(|(place, needle)| (place, needle.text(self.value))).collect();
        // From the last one on, so that the others' places stay what they are.
        hidden.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        for (place, text) in hidden {
            pieces.insert(place, text);
        }
        question(&pieces.join(between), &self.needles[0].key, self.value)
    }

    /// A needle that nobody asks for.
    fn line(&mut self) -> String {
        let asked = &self.needles[0];
        let mut draw = |secret: Secret, other_than: &str| loop {
            let drawn = secret.draw(&mut self.random);
            if drawn != other_than {
                return drawn;
            }
        };
        let key = draw(self.key, &asked.key);
        let value = self.values.get(self.lines.len() + 1).cloned();
        let value = value.unwrap_or_else(|| draw(self.value, &asked.value));
        Needle { key, value }.text(self.value)
    }
}

impl Needle {
    fn text(&self, value: Secret) -> String {
        format!("One of the special magic {}s for {} is: {}.", value.name(), self.key, self.value)
    }
}

/// The whole prompt of one key and one value. The last sentence is begun for the model, as RULER does it for models that no
/// template is known of.
fn question(context: &str, key: &str, value: Secret) -> String {
    let value = value.name();
    format!(
        "A special magic {value} is hidden within the following text. Make sure to memorize it. I will quiz you about the {value} \
         afterwards.\n{context}\nWhat is the special magic {value} for {key} mentioned in the provided text? The special magic \
         {value} for {key} mentioned in the provided text is "
    )
}

/// So many words of a text, as sentences; the last one may be cut. The text begins anew where it ends.
fn words(sentences: &[String], start: usize, count: usize) -> Vec<String> {
    let (mut found, mut left) = (Vec::new(), count);
    for sentence in sentences.iter().cycle().skip(start) {
        if left == 0 {
            break;
        }
        let words: Vec<&str> = sentence.split(' ').take(left).collect();
        left -= words.len();
        found.push(words.join(" "));
    }
    found
}

impl Secret {
    fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Number => "number",
            Self::Uuid => "uuid",
        }
    }

    fn draw(self, random: &mut ChaCha8Rng) -> String {
        match self {
            Self::Word => format!("{}-{}", one_of(ADJECTIVES, random), one_of(NOUNS, random)),
            // Seven digits.
            Self::Number => (1_000_000 + below(random, 9_000_000)).to_string(),
            Self::Uuid => uuid((u128::from(random.next_u64()) << 64) | u128::from(random.next_u64())),
        }
    }
}

/// A line of a list.
fn one_of<'a>(list: &'a str, random: &mut ChaCha8Rng) -> &'a str {
    let lines = list.lines().filter(|line| !line.is_empty());
    lines.clone().nth(below(random, lines.count())).unwrap_or_default()
}

/// Random bits as a UUID of version 4 (RFC 9562).
fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let [time, middle, version, variant] = [bits >> 96, bits >> 80 & 0xffff, bits >> 64 & 0xffff, bits >> 48 & 0xffff];
    format!("{time:08x}-{middle:04x}-{version:04x}-{variant:04x}-{:012x}", bits & 0xffff_ffff_ffff)
}

/// A whole number below `bound`; the high half of a product maps 64 random bits to it.
pub(super) fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const FORMS: [NeedleForm; 6] = [
        NeedleForm::NiahSingle1,
        NeedleForm::NiahSingle2,
        NeedleForm::NiahSingle3,
        NeedleForm::NiahMultikey1,
        NeedleForm::NiahMultikey2,
        NeedleForm::NiahMultikey3,
    ];

    /// Needles of a text: key and value of each.
    fn needles(text: &str) -> Vec<(&str, &str)> {
        let found = text.split("One of the special magic ").skip(1);
        let found = found.map(|rest| rest.split_once("s for ").expect("a key").1.split_once(" is: ").expect("a value"));
        found.map(|(key, rest)| (key, rest.split_once('.').expect("an end").0)).collect()
    }

    #[test]
    fn the_wording_is_that_of_samples_that_ruler_made() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/eval/ruler/reference_niah_multikey_3_4096.jsonl");
        let Ok(text) = std::fs::read_to_string(path) else {
            use std::io::Write;
            writeln!(std::io::stderr(), "SKIPPED: no samples of RULER at ../shared/data/eval/ruler")
                .expect("standard error");
            return;
        };
        assert_eq!(text.lines().count(), 5);
        for line in text.lines() {
            let sample: serde_json::Value = serde_json::from_str(line).expect("a sample");
            let input = sample["input"].as_str().expect("a prompt");
            let found = needles(input);
            let lines: Vec<String> = found
                .iter()
                .map(|&(key, value)| Needle { key: key.to_owned(), value: value.to_owned() }.text(Secret::Uuid))
                .collect();
            let answer = sample["outputs"][0].as_str().expect("an answer");
            let asked = found.iter().find(|(_, value)| *value == answer).expect("the needle").0;
            assert_eq!(question(&lines.join("\n"), asked, Secret::Uuid).trim_end(), input);
            for secret in [asked, answer] {
                let bits = u128::from_str_radix(&secret.replace('-', ""), 16).expect("a UUID");
                assert_eq!(uuid(bits), secret);
            }
        }
    }

    #[test]
    fn the_asked_needle_lies_at_its_depth_among_others_with_other_keys() {
        let sentences: Vec<String> = (0..50).map(|number| format!("Sentence {number} says nothing.")).collect();
        for (number, form) in (0..).zip(FORMS) {
            for depth in [0.0, 0.3, 1.0] {
                let mut sample =
                    Niah::draw(form, sentences.len(), 10, &mut ChaCha8Rng::seed_from_u64(number)).expect("RULER's");
                let prompt = sample.prompt(&sentences, 100, depth);
                let found = needles(&prompt);
                let others = match form {
                    NeedleForm::NiahMultikey1 => 3,
                    NeedleForm::NiahMultikey2 | NeedleForm::NiahMultikey3 => 100,
                    _ => 0,
                };
                assert_eq!(found.len(), 1 + others, "{form:?}");
                let answer = sample.values()[0].as_str();
                let asked: Vec<_> = found.iter().filter(|(_, value)| *value == answer).collect();
                let key = asked[0].0;
                assert_eq!(asked.len(), 1, "{form:?}");
                assert_eq!(found.iter().filter(|(found, _)| *found == key).count(), 1, "{form:?}");
                assert!(prompt.ends_with(&format!(" for {key} mentioned in the provided text is ")), "{prompt}");
                assert!(found.iter().all(|(_, value)| value.len() == answer.len()));
                // Candidates that are in the text, too.
                let values: BTreeSet<_> = found.iter().map(|(_, value)| *value).collect();
                assert_eq!(
                    sample.values().iter().filter(|value| values.contains(value.as_str())).count(),
                    10.min(1 + others)
                );
                let (head, tail) =
                    (prompt.find('\n').expect("a line") + 1, prompt.rfind("\nWhat is").expect("a question"));
                let needle = prompt.find(&format!("for {key} is: {answer}.")).expect("the needle");
                let share = (needle - head) as f64 / (tail - head) as f64;
                assert!((share - depth).abs() < 0.1, "{form:?} at {share}, not {depth}");
                // A longer text has the same beginning and another end.
                assert_eq!(prompt, sample.prompt(&sentences, 100, depth));
                assert!(sample.prompt(&sentences, 120, depth).len() > prompt.len());
            }
        }
    }
}
