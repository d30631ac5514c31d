//! Fuzz target: queues and a pipe in which a peer scribbles. Operations may fail, and give what nobody has put; but they
//! come to an end, and nothing is read that is not in the arena.

use super::*;
use crate::queue::Queue;
use crate::queue::queue::QueueState;
use crate::sync::Event;
use crate::sync::scribble_fuzz::{Round, Step, Steps, is_alone};

type Long = Queue<(String, Option<Event>)>;

/// What is kept: short or long, with a handle or without.
fn value_of(step: Step, event: &Event) -> (String, Option<Event>) {
    let (_, how, at, value) = step;
    let length = [3, 60, 900, 5000][usize::from(how >> 4 & 3)];
    ("x".repeat(length + value as usize % 8), at.is_multiple_of(3).then(|| event.clone()))
}

fn use_queue(queue: &Long, numbers: &Queue<u64>, step: Step, event: &Event) {
    match step.1 % 12 {
        0..3 => drop(queue.try_put(value_of(step, event))),
        3 | 4 => drop(queue.try_get()),
        5 | 6 => drop(numbers.try_put(step.3)),
        7 => drop(numbers.try_get()),
        8 => drop((queue.len(), queue.is_empty(), queue.is_full(), queue.capacity())),
        9 => drop((queue.get_timeout(Duration::ZERO), numbers.put_timeout(1, Duration::ZERO))),
        10 if step.3.is_multiple_of(8) => queue.close(),
        _ => drop((queue.check_invariants(), numbers.check_invariants(), queue.waiting())),
    }
}

fn use_pipe(here: &Pipe<String, u64>, there: &Pipe<u64, String>, step: Step) {
    match step.1 % 6 {
        0 => drop(here.try_send("x".repeat(step.2 as usize % 2000))),
        1 => drop(there.try_recv()),
        2 => drop(there.send_timeout(step.3, Duration::ZERO)),
        3 => drop(here.recv_timeout(Duration::ZERO)),
        4 => drop((here.poll(Duration::ZERO), there.is_disconnected())),
        _ => drop((here.check_invariants(), there.check_invariants())),
    }
}

#[test]
fn fuzz_buffer() {
    if !is_alone("queue::pipe::fuzz::fuzz_buffer") {
        return;
    }
    bolero::check!().with_type::<Steps>().for_each(|steps| {
        let mut round = Round::begin();
        let made = (Event::new(), Long::new(3), Queue::new(4), Pipe::pair());
        let (Ok(event), Ok(queue), Ok(numbers), Ok((here, there))) = made else {
            panic!("no room")
        };
        let references =
            [queue.reference(), numbers.reference(), here.pipe.caller(), here.end.caller()];
        references.iter().for_each(|reference| round.share(reference));
        let buffers = here.pipe.state().buffers.iter();
        let queues = [queue.reference(), numbers.reference()].into_iter();
        let states = queues.filter_map(|queue| queue.state::<QueueState>());
        for buffer in buffers.chain(states.map(|state| &state.buffer)) {
            round.keep(buffer.getters.0.latch());
            round.keep(buffer.putters.0.latch());
        }
        round.keep_latch(event.reference());
        for step in steps.iter().take(40) {
            match step.0 % 8 {
                0..3 => use_queue(&queue, &numbers, *step, &event),
                3 => use_pipe(&here, &there, *step),
                7 if step.1.is_multiple_of(4) => round.die(&references),
                _ => round.scribble(*step),
            }
        }
        drop((queue, numbers, here, there, event));
        round.end();
    });
}
