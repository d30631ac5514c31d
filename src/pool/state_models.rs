//! Loom models of the slot's state word.

use super::state::{Phase, StateWord};
use crate::prim::{AtomicU64, Relaxed};
use loom::sync::Arc;
use loom::thread;

#[test]
fn one_of_two_workers_claims_and_sees_the_input() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let input = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (1..=2)
            .map(|me| {
                let (word, input) = (word.clone(), input.clone());
                thread::spawn(move || word.claim(me).then(|| input.load(Relaxed)))
            })
            .collect();
        input.store(5, Relaxed);
        word.publish();
        let claims: Vec<u64> = workers.into_iter().filter_map(|w| w.join().unwrap()).collect();
        assert!(claims.len() <= 1);
        assert!(claims.iter().all(|input| *input == 5));
    });
}

#[test]
fn a_waiter_is_woken_by_the_end_of_its_task_and_sees_the_output() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let output = Arc::new(AtomicU64::new(0));
        let generation = word.publish();
        let worker = {
            let (word, output) = (word.clone(), output.clone());
            thread::spawn(move || {
                assert!(word.claim(1));
                output.store(9, Relaxed);
                if word.finish().waited_for {
                    word.wake_sleepers();
                }
            })
        };
        while word.load().phase != Phase::Done {
            word.wait(generation, None);
        }
        assert!(word.try_take(generation));
        assert_eq!(output.load(Relaxed), 9);
        worker.join().unwrap();
    });
}

#[test]
fn one_of_two_takers_wins() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let generation = word.publish();
        assert!(word.claim(1));
        let _ = word.finish();
        let other = {
            let word = word.clone();
            thread::spawn(move || word.try_take(generation))
        };
        let mine = word.try_take(generation);
        assert!(mine ^ other.join().unwrap());
    });
}

#[test]
fn a_slot_given_back_by_settlement_keeps_its_waiter() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let generation = word.publish();
        assert!(word.claim(1));
        let settler = {
            let word = word.clone();
            thread::spawn(move || {
                word.give_back();
                assert!(word.claim(2));
                if word.finish().waited_for {
                    word.wake_sleepers();
                }
            })
        };
        while word.load().phase != Phase::Done {
            word.wait(generation, None);
        }
        settler.join().unwrap();
    });
}
