//! From a plan to text, keeping book of where each value stands.

use super::{
    Synthesize,
    grammar::{self, Epithet},
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
struct Person {
    name: &'static str,
    epithet: Epithet,
    planted: [usize; 2],
}

/// Writes document `index`.
pub(super) fn write(settings: &Synthesize, index: usize) -> Document {
    let mut choices = Choices::of(settings.seed, index);
    let slots = schedule::draw(settings, &mut choices);
    let mut names = grammar::PEOPLE;
    choices.shuffle(&mut names);
    let mut people: Vec<Person> = names
        .into_iter()
        .take(settings.facts)
        .map(|name| Person { name, epithet: Epithet::draw(&mut choices), planted: [0, 0] })
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
                let Person { name, epithet, .. } = people[fact];
                people[fact].planted =
                    grammar::sentence(grammar::PLANT, Some((name, epithet)), &mut choices, &mut text);
            }
            Slot::Need { fact, first } => {
                let Person { name, epithet, planted } = people[fact];
                let needed = grammar::sentence(grammar::NEED, Some((name, epithet)), &mut choices, &mut text);
                if first {
                    facts.push(Fact { key: name.to_owned(), value: epithet.to_string(), planted, needed });
                }
            }
        }
    }
    Document { text, facts }
}
