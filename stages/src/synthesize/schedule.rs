//! Which sentence of a document plants a fact, which needs one, and which only fills the space between.

use super::{Synthesize, random::Choices};

/// What a sentence does. The number names the fact, counted from 0 in the order of the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing but village life.
    Filler,
    /// States a fact.
    Plant(usize),
    /// Needs a fact; `first` until then nothing but the planted sentence tells it.
    Need { fact: usize, first: bool },
}

/// Draws the plan of one document: planting sentences in random order, each followed by its needs at a random
/// distance where room is left.
pub(super) fn draw(settings: &Synthesize, choices: &mut Choices) -> Vec<Slot> {
    let mut slots = vec![Slot::Filler; settings.sentences];
    let mut candidates: Vec<usize> = (0..settings.sentences).collect();
    choices.shuffle(&mut candidates);
    let mut fact = 0;
    for plant in candidates {
        if fact == settings.facts {
            break;
        }
        if slots[plant] != Slot::Filler {
            continue;
        }
        slots[plant] = Slot::Plant(fact);
        let mut last = plant;
        for mention in 0..settings.mentions {
            let from = last + settings.distance.least;
            let to = last.saturating_add(settings.distance.most).min(settings.sentences - 1);
            let room: Vec<usize> = (from..=to).filter(|&slot| slots[slot] == Slot::Filler).collect();
            if room.is_empty() {
                break;
            }
            last = choices.of_these(&room);
            slots[last] = Slot::Need { fact, first: mention == 0 };
        }
        if last == plant {
            slots[plant] = Slot::Filler;
        } else {
            fact += 1;
        }
    }
    slots
}
