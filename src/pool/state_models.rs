//! Loom models of the slot's state word: SYNC(slot-ready), SYNC(slot-done).

use super::state::{Phase, State, StateWord};
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
fn who_sees_that_a_task_is_done_or_takes_it_sees_its_output() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let output = Arc::new(AtomicU64::new(0));
        let generation = word.publish();
        assert!(word.claim(1));
        let user = {
            let (word, output) = (word.clone(), output.clone());
            thread::spawn(move || {
                if word.try_take(generation) {
                    assert_eq!(output.load(Relaxed), 9);
                }
            })
        };
        let other = {
            let (word, output) = (word.clone(), output.clone());
            thread::spawn(move || {
                if word.load().phase == Phase::Done {
                    assert_eq!(output.load(Relaxed), 9);
                }
            })
        };
        output.store(9, Relaxed);
        let _ = word.finish();
        user.join().unwrap();
        other.join().unwrap();
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

/// R1, ENDING: of who cancels and the worker that comes, one has the task; who sleeps on it is woken by its end, and
/// sees what was noted of it.
#[test]
fn a_task_is_claimed_or_cancelled_and_its_waiter_sees_how_it_ended() {
    // All of them would take minutes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let word = Arc::new(StateWord::new());
        let outcome = Arc::new(AtomicU64::new(0));
        let generation = word.publish();
        let worker = {
            let (word, outcome) = (word.clone(), outcome.clone());
            thread::spawn(move || {
                let claimed = word.claim(1);
                if claimed {
                    outcome.store(1, Relaxed);
                    end(&word);
                }
                claimed
            })
        };
        let canceller = {
            let (word, outcome) = (word.clone(), outcome.clone());
            thread::spawn(move || {
                let cancelled = word.try_cancel(generation);
                if cancelled {
                    outcome.store(2, Relaxed);
                    end(&word);
                }
                cancelled
            })
        };
        while word.load().is_pending() {
            word.wait(generation, None);
        }
        assert!(word.try_take(generation));
        let outcome = outcome.load(Relaxed);
        let ended = (worker.join().unwrap(), canceller.join().unwrap());
        assert_eq!(ended, (outcome == 1, outcome == 2));
    });
}

/// Makes a task DONE, and wakes who sleeps on it.
fn end(word: &StateWord) {
    if word.finish().waited_for {
        word.wake_sleepers();
    }
}

#[test]
fn a_late_cancelling_does_not_end_the_next_task_in_the_slot() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let generation = word.publish();
        let user = {
            let word = word.clone();
            thread::spawn(move || {
                if word.claim(1) {
                    end(&word);
                    assert!(word.try_take(generation));
                    word.free();
                    let _ = word.publish();
                }
            })
        };
        let cancelled = word.try_cancel(generation);
        user.join().unwrap();
        let State { generation: now, phase, .. } = word.load();
        match cancelled {
            true => assert_eq!((now, phase), (generation, Phase::Ending)),
            false => assert_eq!((now, phase), (generation + 1, Phase::Ready)),
        }
    });
}

/// R6: who wants somebody told has that promised by the end, or learns that it is over.
#[test]
fn who_watches_a_task_is_told_or_comes_too_late() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let output = Arc::new(AtomicU64::new(0));
        let generation = word.publish();
        let watcher = {
            let (word, output) = (word.clone(), output.clone());
            thread::spawn(move || {
                let watched = word.set_watched(generation);
                if !watched {
                    assert_eq!(
                        output.load(Relaxed),
                        9,
                        "it has ended, and the outcome is not seen"
                    );
                }
                watched
            })
        };
        assert!(word.claim(1));
        output.store(9, Relaxed);
        let told = word.finish().watched;
        assert_eq!(watcher.join().unwrap(), told);
    });
}

/// R3 and R7: a task that is ended early by the supervisor is ended once, whoever sets a flag meanwhile.
#[test]
fn flags_that_are_set_while_a_task_is_ended_early_are_seen_or_refused() {
    loom::model(|| {
        let word = Arc::new(StateWord::new());
        let generation = word.publish();
        assert!(word.claim(1));
        let supervisor = {
            let word = word.clone();
            thread::spawn(move || word.end_early(generation).unwrap().watched)
        };
        let watched = word.set_watched(generation);
        assert_eq!(supervisor.join().unwrap(), watched);
        assert!(word.end_early(generation).is_none());
    });
}
