//! Fuzz target: a `JoinableQueue` in which a peer scribbles. Operations may fail, and give what nobody has put; but they
//! come to an end, and nothing is read that is not in the arena.

use super::*;
use crate::sync::Event;
use crate::sync::scribble_fuzz::{Round, Step, Steps, is_alone};

type Tasks = JoinableQueue<(String, Option<Event>)>;

/// What is kept: short or long, with a handle or without.
fn value_of(step: Step, event: &Event) -> (String, Option<Event>) {
    let (_, how, at, value) = step;
    let length = [3, 60, 900, 5000][usize::from(how >> 4 & 3)];
    ("x".repeat(length + value as usize % 8), at.is_multiple_of(3).then(|| event.clone()))
}

fn use_queue(queue: &Tasks, step: Step, event: &Event) {
    match step.1 % 10 {
        0..3 => drop(queue.try_put(value_of(step, event))),
        3..5 => drop(queue.try_get()),
        5 | 6 => drop(queue.task_done()),
        7 => drop((queue.len(), queue.unfinished(), queue.capacity(), queue.waiting())),
        8 if step.3.is_multiple_of(8) => queue.close(),
        8 => drop((queue.join_timeout(Duration::ZERO), queue.get_timeout(Duration::ZERO))),
        _ => drop(queue.check_invariants()),
    }
}

#[test]
fn fuzz_joinable() {
    if !is_alone("queue::joinable::fuzz::fuzz_joinable") {
        return;
    }
    bolero::check!().with_type::<Steps>().for_each(|steps| {
        let mut round = Round::begin();
        let on_death =
            if steps.len().is_multiple_of(2) { OnDeath::Redeliver } else { OnDeath::Drop };
        let (Ok(event), Ok(queue)) = (Event::new(), Tasks::with_policy(6, on_death)) else {
            panic!("no room")
        };
        let (references, state) = ([queue.handle.caller()], queue.handle.state());
        round.share(references[0]);
        round.keep(state.stripe.mutex());
        [&state.getters, &state.putters, &state.joiners]
            .into_iter()
            .for_each(|room| round.keep(room.latch()));
        round.keep_latch(event.reference());
        for step in steps.iter().take(40) {
            match step.0 % 8 {
                0..4 => use_queue(&queue, *step, &event),
                7 if step.1.is_multiple_of(4) => round.die(&references),
                _ => round.scribble(*step),
            }
        }
        let owed = std::mem::take(&mut *OWED.lock().unwrap_or_else(PoisonError::into_inner));
        drop((owed, queue, event));
        round.end();
    });
}
