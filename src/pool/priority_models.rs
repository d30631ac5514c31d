//! Loom models of the rings of a pool, SYNC(prioritised): a task with a priority, the first one, and a worker that is
//! about to sleep.

use super::priority::{Prioritised, RINGS, Rings};
use super::sleep::{EventCount, Searcher, task_queued};
use crate::prim::AtomicU64;
use crate::queue::ring::Ring;
use loom::sync::Arc;
use loom::thread;

struct Memory {
    hints: [AtomicU64; 2 * RINGS],
    cells: [[AtomicU64; 1]; RINGS],
    prioritised: Prioritised,
    searcher: Searcher,
    idle: EventCount,
}

impl Memory {
    fn new() -> Arc<Self> {
        let word = || AtomicU64::new(0);
        Arc::new(Self {
            hints: [word(), word(), word(), word(), word(), word()],
            cells: [[word()], [word()], [word()]],
            prioritised: Prioritised::new(),
            searcher: Searcher::new(),
            idle: EventCount::new(),
        })
    }

    fn with<R>(&self, act: impl FnOnce(&Rings<'_>) -> R) -> R {
        let ring = |at: usize| Ring {
            head: &self.hints[2 * at],
            tail: &self.hints[2 * at + 1],
            cells: &self.cells[at],
        };
        let rings = [ring(0), ring(1), ring(2)];
        act(&Rings { rings: &rings, prioritised: &self.prioritised })
    }
}

#[test]
fn priority_models_the_first_task_with_a_priority_is_not_overlooked_by_who_goes_to_sleep() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = memory.clone();
        let worker = thread::spawn(move || {
            while !theirs.with(|rings| rings.has_task()) {
                let epoch = theirs.idle.prepare();
                if !theirs.with(|rings| rings.has_task()) {
                    theirs.idle.sleep(epoch, None);
                }
                theirs.idle.uncount();
            }
        });
        assert!(memory.with(|rings| rings.push(3, 0)));
        task_queued(&memory.searcher, &memory.idle);
        worker.join().unwrap();
    });
}

/// A worker that is looking, and so is not woken, sees the task when it gives up, or leaves it to one that is.
#[test]
fn priority_models_who_sees_the_task_in_its_ring_knows_that_there_are_priorities() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = memory.clone();
        let worker = thread::spawn(move || {
            if theirs.with(|rings| rings.rings[0].has_value()) {
                assert!(theirs.with(|rings| rings.has_task()));
            }
        });
        assert!(memory.with(|rings| rings.push(3, 0)));
        worker.join().unwrap();
    });
}
