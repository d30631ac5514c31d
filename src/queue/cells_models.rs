//! Loom models of the ring whose cells carry values, one race each: SYNC(cell-full), SYNC(cell-emptied), SYNC(closed).

use super::cells::Cells;
use super::closed::Closed;
use crate::prim::{AtomicU64, Relaxed, fence_after_rmw};
use loom::sync::Arc;
use loom::thread;

struct Memory {
    head: AtomicU64,
    tail: AtomicU64,
    words: Vec<AtomicU64>,
    count: u32,
}

impl Memory {
    fn new(count: u32) -> Arc<Self> {
        let words = (0..count * 2).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { head: AtomicU64::new(0), tail: AtomicU64::new(0), words, count })
    }

    fn cells(&self) -> Cells<'_> {
        let Self { head, tail, words, count } = self;
        Cells { head, tail, words, count: *count, cell_words: 2 }
    }

    fn put(&self, value: u64) -> bool {
        let Some(claim) = self.cells().claim_empty(1) else { return false };
        claim.words[0].store(value, Relaxed);
        self.cells().fill(claim);
        true
    }

    fn get(&self) -> Option<u64> {
        let claim = self.cells().claim_full(2)?;
        let value = claim.words[0].load(Relaxed);
        self.cells().empty(claim);
        Some(value)
    }
}

#[test]
fn a_value_is_whole_when_it_is_got_and_its_cell_is_written_again_only_then() {
    loom::model(|| {
        let memory = Memory::new(1);
        let producer = {
            let memory = memory.clone();
            thread::spawn(move || (memory.put(1), memory.put(2)))
        };
        let consumer = {
            let memory = memory.clone();
            thread::spawn(move || memory.get())
        };
        let (first, second) = producer.join().unwrap();
        let got = consumer.join().unwrap();
        assert!(first && got.is_none_or(|value| value == 1), "{got:?}");
        assert!(!second || got == Some(1), "two values in one cell");
    });
}

#[test]
fn what_was_done_with_a_value_is_seen_by_who_has_its_cell_next() {
    loom::model(|| {
        let memory = Memory::new(1);
        assert!(memory.put(1));
        let handed_over = Arc::new(AtomicU64::new(0));
        let producer = {
            let (memory, handed_over) = (memory.clone(), handed_over.clone());
            thread::spawn(move || {
                if let Some(claim) = memory.cells().claim_empty(1) {
                    assert_eq!(handed_over.load(Relaxed), 1);
                    memory.cells().empty(claim);
                }
            })
        };
        let claim = memory.cells().claim_full(2).unwrap();
        handed_over.store(1, Relaxed);
        memory.cells().empty(claim);
        producer.join().unwrap();
    });
}

/// A consumer that passed over a cell which was being filled took the value behind it, though both had
/// been put by then.
#[test]
fn values_of_one_producer_come_in_order() {
    loom::model(|| {
        let memory = Memory::new(2);
        let producer = {
            let memory = memory.clone();
            thread::spawn(move || assert!(memory.put(1) && memory.put(2)))
        };
        let consumer = {
            let memory = memory.clone();
            thread::spawn(move || memory.get())
        };
        producer.join().unwrap();
        let first = consumer.join().unwrap();
        assert!(first.is_none_or(|value| value == 1), "{first:?}");
        let mut rest = first.into_iter().collect::<Vec<_>>();
        rest.extend(memory.get());
        rest.extend(memory.get());
        assert_eq!(rest, [1, 2]);
    });
}

#[test]
fn two_consumers_get_different_values() {
    loom::model(|| {
        let memory = Memory::new(2);
        assert!(memory.put(1) && memory.put(2));
        let getters = [0, 1].map(|_| {
            let memory = memory.clone();
            thread::spawn(move || memory.get())
        });
        let mut got = getters.map(|getter| getter.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, [Some(1), Some(2)]);
        assert_eq!((memory.get(), memory.cells().counts()), (None, (0, 0)));
    });
}

#[test]
fn two_producers_fill_different_cells() {
    loom::model(|| {
        let memory = Memory::new(2);
        let putters = [1, 2].map(|value| {
            let memory = memory.clone();
            thread::spawn(move || assert!(memory.put(value)))
        });
        putters.map(|putter| putter.join().unwrap());
        assert!(!memory.put(3), "two cells hold two values");
        let mut got = [memory.get(), memory.get()];
        got.sort_unstable();
        assert_eq!(got, [Some(1), Some(2)]);
    });
}

#[test]
fn a_value_that_is_given_back_is_found_again() {
    loom::model(|| {
        let memory = Memory::new(2);
        assert!(memory.put(1) && memory.put(2));
        // What settlement does for a consumer that died.
        let dead = memory.cells().claim_full(9).unwrap();
        let index_of_dead = dead.words[0].load(Relaxed);
        assert_eq!(index_of_dead, 1);
        let other = {
            let memory = memory.clone();
            thread::spawn(move || memory.get())
        };
        let settler = {
            let memory = memory.clone();
            thread::spawn(move || {
                let claim = memory.cells().claim_again_for_model();
                memory.cells().give_back(claim);
            })
        };
        let first = other.join().unwrap();
        settler.join().unwrap();
        let mut got = vec![first, memory.get(), memory.get()];
        got.retain(Option::is_some);
        got.sort_unstable();
        assert_eq!(got, [Some(1), Some(2)]);
    });
}

/// R2 of `Queue`: what is put when the queue is closed is either refused or found by whoever looks.
#[test]
fn a_value_that_was_put_into_a_closed_queue_is_not_overlooked() {
    loom::model(|| {
        let memory = Memory::new(1);
        let closed = Arc::new(Closed::new());
        let producer = {
            let (memory, closed) = (memory.clone(), closed.clone());
            thread::spawn(move || {
                let claim = memory.cells().claim_empty(1).unwrap();
                fence_after_rmw();
                if closed.is_closed() {
                    memory.cells().empty(claim);
                    return false;
                }
                memory.cells().fill(claim);
                true
            })
        };
        let closer = {
            let (memory, closed) = (memory.clone(), closed.clone());
            thread::spawn(move || {
                closed.close();
                // Whether a consumer would leave for good.
                memory.cells().counts() == (0, 0)
            })
        };
        let (was_put, drained) = (producer.join().unwrap(), closer.join().unwrap());
        assert!(!(was_put && drained), "put after the consumer had left");
    });
}
