//! Loom models of the orphans of a queue, SYNC(joinable-orphans): settlement, which has no lock, and those who have it
//! and deal with what the dead had. A mutex of loom's stands for the queue's, which is the C library's.

use super::orphans::Orphans;
use loom::sync::{Arc, Mutex};
use loom::thread;

/// The queue: for each of its entries, who has taken it.
struct Queue {
    entries: Mutex<[Option<u64>; 2]>,
    orphans: Orphans,
}

impl Queue {
    fn of(entries: [Option<u64>; 2]) -> Arc<Self> {
        Arc::new(Self { entries: Mutex::new(entries), orphans: Orphans::new() })
    }

    /// As everybody who locks the queue does first.
    fn lock(&self) -> loom::sync::MutexGuard<'_, [Option<u64>; 2]> {
        let mut entries = self.entries.lock().unwrap();
        if self.orphans.may_be() {
            let seen = self.orphans.see();
            for entry in entries.iter_mut() {
                *entry = entry.filter(|of| !seen.has(*of));
            }
            self.orphans.forget(&seen);
        }
        entries
    }
}

#[test]
fn orphans_models_nobody_is_overlooked_who_dies_while_others_are_dealt_with() {
    loom::model(|| {
        let queue = Queue::of([Some(5), Some(70)]);
        let dying = [5, 70].map(|id| {
            let theirs = queue.clone();
            thread::spawn(move || theirs.orphans.note(id))
        });
        drop(queue.lock());
        dying.into_iter().for_each(|dies| dies.join().unwrap());
        assert_eq!(*queue.lock(), [None, None], "what a dead one had is nobody's");
        assert!(!queue.orphans.may_be());
    });
}

#[test]
fn orphans_models_who_has_a_dead_ones_id_keeps_what_it_takes() {
    loom::model(|| {
        let queue = Queue::of([Some(5), None]);
        let theirs = queue.clone();
        let settler = thread::spawn(move || {
            theirs.orphans.note(5);
            // From here on the id is another's.
            theirs.lock()[1] = Some(5);
            let kept = *theirs.lock();
            assert_eq!(kept, [None, Some(5)], "taken from one that lives, or not from the dead");
            theirs.orphans.note(5);
        });
        drop(queue.lock());
        settler.join().unwrap();
        assert_eq!(*queue.lock(), [None, None]);
    });
}

#[test]
fn orphans_models_who_sees_that_somebody_has_died_sees_who() {
    loom::model(|| {
        let queue = Queue::of([None, None]);
        let theirs = queue.clone();
        let looks = thread::spawn(move || {
            assert!(!theirs.orphans.may_be() || theirs.orphans.see().has(70));
        });
        queue.orphans.note(70);
        looks.join().unwrap();
    });
}
