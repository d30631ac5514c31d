//! Fuzz target: a dict in which a peer scribbles. Operations may fail, and give what nobody has put there; but they come to
//! an end, and nothing is read that is not in the arena.

use super::*;
use crate::sync::Event;
use crate::sync::scribble_fuzz::{Round, Step, Steps, is_alone};

type Entries = Dict<String, (String, Option<Event>)>;
type Pairs = Dict<u32, u64>;

/// What is kept: short or long, with a handle or without.
fn value_of(step: Step, event: &Event) -> (String, Option<Event>) {
    let (_, how, at, value) = step;
    let length = [3, 60, 900, 5000][usize::from(how >> 4 & 3)];
    ("x".repeat(length + value as usize % 8), at.is_multiple_of(3).then(|| event.clone()))
}

fn key_of(value: u64) -> String {
    format!("{}{}", "k".repeat(value as usize % 3 * 400), value % 40)
}

fn use_entries(dict: &Entries, step: Step, event: &Event) {
    let (_, how, at, value) = step;
    let key = key_of(value);
    match how % 11 {
        0..4 => drop(dict.insert(&key, &value_of(step, event))),
        4 => drop(dict.get(&key)),
        5 => drop(dict.remove(&key)),
        6 => drop(dict.iter().take(200).count()),
        7 => drop((dict.len(), dict.retain(|key, _| key.len() > usize::from(at) % 4))),
        8 => dict.clear(),
        9 => drop(dict.update(&key, |(text, _)| text.push('y'))),
        _ => drop(dict.check_invariants()),
    }
}

fn use_pairs(dict: &Pairs, (_, how, _, value): Step) {
    let key = value as u32 % 60;
    match how % 8 {
        0..3 => drop(dict.insert(&key, &value)),
        3 => drop(dict.get(&key)),
        4 => drop((dict.remove(&key), dict.len())),
        5 => drop(dict.iter().take(200).count()),
        6 if value.is_multiple_of(5) => dict.clear(),
        _ => drop(dict.check_invariants()),
    }
}

#[test]
fn fuzz_dict() {
    if !is_alone("collections::dict::fuzz::fuzz_dict") {
        return;
    }
    bolero::check!().with_type::<Steps>().for_each(|steps| {
        let mut round = Round::begin();
        let (Ok(event), Ok(entries), Ok(pairs)) = (Event::new(), Entries::new(), Pairs::new())
        else {
            panic!("no room")
        };
        let references = [entries.handle.caller(), pairs.handle.caller()];
        references.iter().for_each(|reference| round.share(reference));
        [entries.handle.state(), pairs.handle.state()]
            .into_iter()
            .flat_map(|state| state.mutexes())
            .for_each(|mutex| round.keep(mutex));
        round.keep_latch(event.reference());
        for step in steps.iter().take(40) {
            match step.0 % 8 {
                0..3 => use_entries(&entries, *step, &event),
                3 | 4 => use_pairs(&pairs, *step),
                7 if step.1.is_multiple_of(4) => round.die(&references),
                _ => round.scribble(*step),
            }
        }
        drop((entries, pairs, event));
        round.end();
    });
}
