//! Loom models of a place for contexts: SYNC(context).
//!
//! That a place which is freed is taken with what was written there before is not seen: loom has one order of the stores to
//! a word, that in which they are made.

use super::context_place::{ContextPlace, Entered};
use super::state::StateWord;
use crate::prim::{AtomicU64, Relaxed};
use loom::sync::Arc;
use loom::thread;

/// A place, and what lies in two blocks of the arena.
struct Memory {
    place: ContextPlace,
    blocks: [AtomicU64; 2],
    /// A task that names the place.
    task: StateWord,
}

impl Memory {
    fn new() -> Arc<Self> {
        let blocks = [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Self { place: ContextPlace::new(), blocks, task: StateWord::new() })
    }

    /// Enters a context that consists of its id, if the place is free.
    fn enter(&self, block: usize, id: u64) -> bool {
        self.blocks[block].store(id, Relaxed);
        let taken = self.place.take();
        if taken {
            self.place.enter(Entered { id, offset: block as u64, bytes: 8 * id });
        }
        taken
    }

    /// What the place leads to.
    fn context(&self) -> Entered {
        let entered = self.place.look();
        let Entered { id, offset, bytes } = entered;
        assert_eq!(bytes, 8 * id, "another's length");
        assert_eq!(self.blocks[offset as usize].load(Relaxed), id, "another's bytes");
        entered
    }
}

#[test]
fn context_models_who_sees_the_id_sees_the_context() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = memory.clone();
        let user = thread::spawn(move || assert!(theirs.enter(1, 5)));
        let entered = memory.place.look();
        if entered.id == 5 {
            assert_eq!(memory.context().offset, 1);
        }
        user.join().unwrap();
    });
}

#[test]
fn context_models_a_place_is_taken_by_one() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = memory.clone();
        let other = thread::spawn(move || theirs.enter(0, 5));
        let mine = memory.enter(1, 6);
        assert!(mine ^ other.join().unwrap());
        assert_eq!(memory.context().id, if mine { 6 } else { 5 });
    });
}

/// One thread lets go of a context, another enters the next in its place, and a worker runs a task that names that.
#[test]
fn context_models_a_place_that_is_used_again_leads_to_the_next_context() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = memory.clone();
        let before = thread::spawn(move || {
            if theirs.enter(0, 5) {
                theirs.place.leave();
            }
        });
        let others = memory.clone();
        let next = thread::spawn(move || {
            if others.enter(1, 6) {
                let _ = others.task.publish();
            }
        });
        if memory.task.claim(3) {
            assert_eq!(memory.context().id, 6);
        }
        before.join().unwrap();
        next.join().unwrap();
    });
}
