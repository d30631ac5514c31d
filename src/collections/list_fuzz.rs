//! Fuzz target: a list in which a peer scribbles. Operations may fail, and give what nobody has put there; but they come to
//! an end, and nothing is read that is not in the arena.

use super::*;
use crate::sync::Event;
use crate::sync::scribble_fuzz::{Round, Step, Steps, is_alone};

type Values = List<(String, Option<Event>)>;

/// What is kept: short or long, with a handle or without.
fn value_of(step: Step, event: &Event) -> (String, Option<Event>) {
    let (_, how, at, value) = step;
    let length = [3, 60, 900, 5000][usize::from(how >> 4 & 3)];
    ("x".repeat(length + value as usize % 8), at.is_multiple_of(3).then(|| event.clone()))
}

fn use_list(list: &Values, step: Step, event: &Event) {
    let (_, how, at, value) = step;
    let index = value as usize % 20;
    match how % 14 {
        0..3 => drop(list.push(&value_of(step, event))),
        3 => drop(list.extend((0..at % 5).map(|_| value_of(step, event)))),
        4 => drop(list.pop()),
        5 => drop(list.get(index)),
        6 => drop(list.set(index, &value_of(step, event))),
        7 => drop(list.insert(index, &value_of(step, event))),
        8 => drop(list.remove(index)),
        9 => drop(list.swap_remove(index)),
        10 => list.truncate(index),
        11 => drop((list.len(), list.to_vec())),
        12 => drop(list.sort_by(|a, b| a.0.cmp(&b.0))),
        _ => drop(list.check_invariants()),
    }
}

#[test]
fn fuzz_list() {
    if !is_alone("collections::list::fuzz::fuzz_list") {
        return;
    }
    bolero::check!().with_type::<Steps>().for_each(|steps| {
        let mut round = Round::begin();
        let (Ok(event), Ok(list)) = (Event::new(), Values::new()) else { panic!("no room") };
        let references = [list.handle.caller()];
        round.share(references[0]);
        round.keep(list.handle.state().mutex());
        round.keep_latch(event.reference());
        for step in steps.iter().take(40) {
            match step.0 % 8 {
                0..4 => use_list(&list, *step, &event),
                7 if step.1.is_multiple_of(4) => round.die(&references),
                _ => round.scribble(*step),
            }
        }
        drop((list, event));
        round.end();
    });
}
