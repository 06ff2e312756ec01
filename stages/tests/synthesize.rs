//! The corpora of `Synthesize`: every fact is where its record says, as far away as asked, and told by nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use twdag_stages::{
    data::{Corpus, Document, Fact},
    stage::{Context, Kind, SettingError},
    synthesize::{Distance, Synthesize, values},
};

fn settings() -> Synthesize {
    Synthesize {
        documents: 20,
        seed: 1,
        sentences: 56,
        facts: 8,
        mentions: 1,
        distance: Distance { least: 16, most: 40 },
    }
}

fn write(settings: &Synthesize, folder: &Path) {
    let context = Context::builder(folder, folder).build();
    settings.check().unwrap();
    settings.run(&context).unwrap();
}

fn documents(settings: &Synthesize) -> Vec<Document> {
    let folder = tempfile::tempdir().unwrap();
    write(settings, folder.path());
    Corpus::open([folder.path()]).unwrap().documents().collect::<Result<_, _>>().unwrap()
}

fn facts(document: &Document) -> &[Fact] {
    document.facts.as_deref().unwrap()
}

/// Bytes of each sentence: from its first letter to its full stop.
fn sentence_at(text: &str, byte: usize) -> usize {
    text[..byte].matches('.').count()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphabetic()).filter(|word| !word.is_empty())
}

/// What is needed is where the value parts from every other value of its subject, and no further.
fn check_decisive(fact: &Fact, needed: &str) -> Result<(), TestCaseError> {
    let (_, words) = values().find(|(subject, _)| *subject == fact.key).expect("a subject");
    let rivals = |start: &str| words.iter().filter(|word| word.starts_with(start)).count();
    prop_assert_eq!(rivals(needed), 1, "{} does not tell {} from the others", needed, fact.value);
    prop_assert!(needed.len() == 1 || rivals(&needed[..needed.len() - 1]) > 1, "{} could be shorter", needed);
    Ok(())
}

fn check_facts(settings: &Synthesize, document: &Document) -> Result<(), TestCaseError> {
    let text = &document.text;
    for fact in facts(document) {
        let [[from, to], [start, end]] = [fact.planted, fact.needed];
        prop_assert_eq!(&text[from..to], &fact.value);
        prop_assert!(text[start..].starts_with(&fact.value));
        check_decisive(fact, &text[start..end])?;
        for at in [from, start] {
            prop_assert!(text[..at].ends_with(&format!("{} was ", fact.key)), "the key does not lead to the value");
        }
        let distance = sentence_at(text, start) - sentence_at(text, from);
        prop_assert!((settings.distance.least..=settings.distance.most).contains(&distance), "distance {}", distance);
        let seen = words(text).filter(|word| *word == fact.value).count();
        if settings.mentions == 1 {
            prop_assert_eq!(seen, 2, "{} is named elsewhere", fact.value);
        } else {
            prop_assert!((2..=1 + settings.mentions).contains(&seen));
        }
        let lead = format!("{} was ", fact.key);
        let first = text[to..].find(&lead).map(|at| to + at + lead.len());
        prop_assert_eq!(first, Some(start), "the first need is the one recorded");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn facts_are_where_the_records_say_under_any_settings(
        seed: u64,
        sentences in 2usize..80,
        wanted in 0usize..=8,
        mentions in 1usize..5,
        least in 1usize..20,
        spread in 0usize..30,
    ) {
        let distance = Distance { least: least.min(sentences - 1), most: least + spread };
        let settings = Synthesize { documents: 2, seed, sentences, facts: wanted, mentions, distance };
        for document in documents(&settings) {
            prop_assert!(facts(&document).len() <= wanted);
            prop_assert_eq!(document.text.matches('.').count(), sentences);
            check_facts(&settings, &document)?;
        }
    }
}

#[test]
fn a_document_depends_on_its_number_and_not_on_how_many_there_are() {
    let many = documents(&settings());
    let few = documents(&Synthesize { documents: 3, ..settings() });
    assert_eq!(many[..3], few[..]);
    assert_ne!(many[0].text, many[1].text);
    assert_ne!(documents(&Synthesize { seed: 2, ..settings() })[0].text, few[0].text);
}

#[test]
fn every_fact_finds_room_in_the_default_shape() {
    let documents = documents(&Synthesize { documents: 200, ..settings() });
    let told: usize = documents.iter().map(|document| facts(document).len()).sum();
    assert!(told > 200 * 8 * 95 / 100, "{told}");
}

#[test]
fn values_are_uniform_words_of_their_subject() {
    let documents = documents(&Synthesize { documents: 1500, ..settings() });
    let mut counts: BTreeMap<(&str, &str), usize> =
        values().flat_map(|(subject, words)| words.iter().map(move |word| ((subject, *word), 0))).collect();
    let kinds = counts.len();
    assert_eq!(kinds, 8 * 32);
    let mut total = 0;
    for fact in documents.iter().flat_map(facts) {
        *counts.get_mut(&(fact.key.as_str(), fact.value.as_str())).expect("a value of its own subject") += 1;
        total += 1;
    }
    // Pearson's statistic is close to normal, mean k - 1 and variance 2(k - 1), for k cells: five deviations.
    let chi_square = |counts: &mut dyn Iterator<Item = usize>, cells: usize| {
        let expected = total as f64 / cells as f64;
        let sum: f64 = counts.map(|count| count as f64).map(|count| count * count).sum();
        let freedom = cells as f64 - 1.0;
        ((sum / expected - total as f64) - freedom) / (2.0 * freedom).sqrt()
    };
    assert!(chi_square(&mut counts.into_values(), kinds) < 5.0);
}

#[test]
fn bytes_are_pinned_for_this_revision() {
    let folder = tempfile::tempdir().unwrap();
    write(&settings(), folder.path());
    let digest = blake3::hash(&fs::read(folder.path().join("documents.jsonl")).unwrap());
    assert_eq!(Synthesize::REVISION, 2);
    insta::assert_snapshot!(digest, @"df65d950c74c9f0a9f9bf9ecafd80d54501694ee7de94e92fc61e07e67794a23");
}

#[test]
fn the_text_reads_as_plain_english() {
    let short = Synthesize {
        documents: 1,
        sentences: 12,
        facts: 3,
        mentions: 2,
        distance: Distance { least: 2, most: 5 },
        ..settings()
    };
    let document = &documents(&short)[0];
    insta::assert_snapshot!(document.text, @"The next day the soldiers forgot a dusty rope near the orchard. The next day the men lost a grey wheel near the orchard. In the morning the strangers dragged a dusty ladder near the school. The children decided that the old man's trade was smithing. In the morning they left the ladder again. Once more they learned that the feast was soup. The wind came over the small market. The next day the farmers remembered that the old man's trade was smithing. Late that night they learned that the road's end was Ludlow. At noon the visitors remembered that the feast was soup. By midnight the visitors remembered that the road's end was Ludlow. The farmers said again that the feast was soup.");
}

#[test]
fn settings_without_sense_are_refused() {
    let refusal = |settings: Synthesize| settings.check().unwrap_err().to_string();
    let far = Distance { least: 16, most: 40 };
    insta::assert_snapshot!(refusal(Synthesize { documents: 0, ..settings() }), @"setting `documents` is 0, expected 1 or more");
    insta::assert_snapshot!(refusal(Synthesize { sentences: 0, ..settings() }), @"setting `sentences` is 0, expected 1 or more");
    insta::assert_snapshot!(refusal(Synthesize { facts: 9, ..settings() }), @"setting `facts` is 9, expected at most 8, as many as there are subjects to tell of");
    insta::assert_snapshot!(refusal(Synthesize { mentions: 0, ..settings() }), @"setting `mentions` is 0, expected 1 or more: a fact that nothing needs is no fact");
    insta::assert_snapshot!(refusal(Synthesize { distance: Distance { least: 0, ..far }, ..settings() }), @"setting `distance.least` is 0, expected 1 or more: a fact is needed after it was planted");
    insta::assert_snapshot!(refusal(Synthesize { distance: Distance { most: 15, ..far }, ..settings() }), @"setting `distance.most` is 15, expected `least` (16) or more");
    insta::assert_snapshot!(refusal(Synthesize { sentences: 16, ..settings() }), @"setting `distance.least` is 16, expected less than `sentences` (16), or no fact finds room");
    assert_eq!(Synthesize { facts: 0, mentions: 0, ..settings() }.check(), Ok::<(), SettingError>(()));
}
