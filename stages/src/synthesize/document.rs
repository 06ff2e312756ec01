//! From a plan to text, keeping book of where each value stands.

use super::{
    Synthesize, grammar,
    random::Choices,
    schedule::{self, Slot},
};
use crate::data::Fact;

/// A document and its facts, in the order in which they are needed.
pub(super) struct Document {
    pub(super) text: String,
    pub(super) facts: Vec<Fact>,
}

#[derive(Clone, Copy)]
struct Told {
    subject: &'static grammar::Subject,
    value: &'static str,
    planted: [usize; 2],
}

/// Writes document `index`.
pub(super) fn write(settings: &Synthesize, index: usize) -> Document {
    let mut choices = Choices::of(settings.seed, index);
    let slots = schedule::draw(settings, &mut choices);
    let mut subjects: Vec<&'static grammar::Subject> = grammar::SUBJECTS.iter().collect();
    choices.shuffle(&mut subjects);
    let mut told: Vec<Told> = subjects
        .into_iter()
        .take(settings.facts)
        .map(|subject| Told { subject, value: choices.of_these(&subject.values), planted: [0, 0] })
        .collect();
    let mut text = String::new();
    let mut facts = Vec::new();
    for slot in slots {
        if !text.is_empty() {
            text.push(' ');
        }
        match slot {
            Slot::Filler => {
                grammar::sentence(grammar::FILLER, None, &mut choices, &mut text);
            }
            Slot::Plant(fact) => {
                let Told { subject, value, .. } = told[fact];
                told[fact].planted =
                    grammar::sentence(grammar::PLANT, Some((subject.name, value)), &mut choices, &mut text);
            }
            Slot::Need { fact, first } => {
                let Told { subject, value, planted } = told[fact];
                let needed = grammar::sentence(grammar::NEED, Some((subject.name, value)), &mut choices, &mut text);
                if first {
                    let [from, _] = needed;
                    facts.push(Fact {
                        key: subject.name.to_owned(),
                        value: value.to_owned(),
                        planted,
                        needed: [from, from + subject.decisive(value)],
                    });
                }
            }
        }
    }
    Document { text, facts }
}
