//! Loom models of the ring, one race each: SYNC(cell-ready), SYNC(cell-empty). Run: `RUSTFLAGS="--cfg loom" cargo test --release --lib models`.

use super::ring::Ring;
use crate::prim::{AtomicU64, Relaxed};
use loom::sync::Arc;
use loom::thread;

struct Memory {
    head: AtomicU64,
    tail: AtomicU64,
    cells: Vec<AtomicU64>,
}

impl Memory {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            cells: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring { head: &self.head, tail: &self.tail, cells: &self.cells }
    }
}

#[test]
fn two_consumers_never_claim_the_same_value() {
    loom::model(|| {
        let memory = Memory::new(2);
        memory.ring().push(1).unwrap();
        memory.ring().push(2).unwrap();
        let other = {
            let memory = memory.clone();
            thread::spawn(move || memory.ring().claim(8, |_| ()).map(|claim| claim.value))
        };
        let mine = memory.ring().claim(9, |_| ()).map(|claim| claim.value);
        let theirs = other.join().unwrap();
        let mut both = [mine, theirs];
        both.sort();
        assert_eq!(both, [Some(1), Some(2)]);
    });
}

#[test]
fn what_a_producer_wrote_is_there_when_its_value_is_claimed() {
    loom::model(|| {
        let memory = Memory::new(2);
        let payload = Arc::new(AtomicU64::new(0));
        let consumer = {
            let (memory, payload) = (memory.clone(), payload.clone());
            thread::spawn(move || {
                let claim = memory.ring().claim(9, |_| ());
                claim.map(|claim| (claim.value, payload.load(Relaxed)))
            })
        };
        payload.store(7, Relaxed);
        memory.ring().push(1).unwrap();
        let claimed = consumer.join().unwrap();
        assert!(claimed.is_none_or(|claimed| claimed == (1, 7)), "{claimed:?}");
    });
}

#[test]
fn two_producers_fill_different_cells() {
    loom::model(|| {
        let memory = Memory::new(2);
        let other = {
            let memory = memory.clone();
            thread::spawn(move || memory.ring().push(1).unwrap())
        };
        memory.ring().push(2).unwrap();
        other.join().unwrap();
        let ring = memory.ring();
        let mut both = [ring.claim(1, |_| ()).unwrap().value, ring.claim(1, |_| ()).unwrap().value];
        both.sort_unstable();
        assert_eq!(both, [1, 2]);
        assert!(ring.claim(1, |_| ()).is_none());
    });
}

#[test]
fn a_released_cell_is_reused_and_what_was_done_with_its_value_is_seen() {
    loom::model(|| {
        let memory = Memory::new(1);
        let handed_over = Arc::new(AtomicU64::new(0));
        memory.ring().push(1).unwrap();
        let consumer = {
            let (memory, handed_over) = (memory.clone(), handed_over.clone());
            thread::spawn(move || {
                let claim = memory.ring().claim(5, |_| ()).unwrap();
                handed_over.store(1, Relaxed);
                memory.ring().release(claim.position);
                claim.value
            })
        };
        let producer = {
            let memory = memory.clone();
            thread::spawn(move || {
                let pushed = memory.ring().push(2).is_ok();
                pushed.then(|| handed_over.load(Relaxed))
            })
        };
        assert_eq!(consumer.join().unwrap(), 1);
        let pushed = producer.join().unwrap();
        assert!(pushed.is_none_or(|handed_over| handed_over == 1));
        let claimed = memory.ring().claim(5, |_| ()).map(|claim| claim.value);
        assert_eq!(claimed, pushed.map(|_| 2));
    });
}

#[test]
fn a_value_pushed_behind_a_slow_consumer_is_not_left_lying() {
    loom::model(|| {
        let memory = Memory::new(1);
        memory.ring().push(1).unwrap();
        let slow = {
            let memory = memory.clone();
            thread::spawn(move || {
                let claim = memory.ring().claim(5, |_| ()).unwrap();
                memory.ring().release(claim.position);
            })
        };
        let _ = memory.ring().has_value();
        let pushed = memory.ring().push(2).is_ok();
        slow.join().unwrap();
        assert_eq!(memory.ring().claim(6, |_| ()).map(|claim| claim.value), pushed.then_some(2));
    });
}

#[test]
fn a_value_is_claimed_or_withdrawn_and_what_comes_behind_is_found() {
    loom::model(|| {
        let memory = Memory::new(2);
        memory.ring().push(1).unwrap();
        let consumer = {
            let memory = memory.clone();
            thread::spawn(move || {
                let claim = memory.ring().claim(5, |_| ())?;
                memory.ring().release(claim.position);
                Some(claim.value)
            })
        };
        let withdrawn = memory.ring().withdraw(1);
        memory.ring().push(2).unwrap();
        let claimed = consumer.join().unwrap();
        let left = memory.ring().claim(6, |_| ()).map(|claim| claim.value);
        let got: Vec<u32> = claimed.into_iter().chain(left).collect();
        assert_eq!(got, if withdrawn { vec![2] } else { vec![1, 2] });
    });
}
