//! Loom models of an entry of the table of participants: SYNC(participant-free), SYNC(participant-alive).

use super::membership::Membership;
use crate::prim::{AtomicU64, Relaxed};
use loom::sync::Arc;
use loom::thread;

/// An entry, and a word of the ledger beside it.
struct Entry {
    membership: Membership,
    ledger: AtomicU64,
}

impl Entry {
    fn new() -> Arc<Self> {
        Arc::new(Self { membership: Membership::new(), ledger: AtomicU64::new(0) })
    }

    /// Is process `pid` for its whole life, up to its death.
    fn live(&self, pid: u32) {
        let generation = self.membership.reserve(0, 1).unwrap();
        assert!(self.membership.attach(generation, pid));
        self.membership.enter_start_time(|| Some(u64::from(pid)));
        self.ledger.store(u64::from(pid), Relaxed);
    }
}

#[test]
fn membership_models_of_a_parent_that_gives_up_and_a_worker_that_comes_late_one_succeeds() {
    loom::model(|| {
        let entry = Entry::new();
        let generation = entry.membership.reserve(0, 1).unwrap();
        let theirs = entry.clone();
        let worker = thread::spawn(move || theirs.membership.attach(generation, 7));
        let withdrawn = entry.membership.withdraw(generation).is_some();
        assert!(worker.join().unwrap() ^ withdrawn);
        let member = entry.membership.look();
        assert!(if withdrawn { member.is_free() } else { member.is_alive() });
    });
}

#[test]
fn membership_models_who_comes_late_does_not_take_its_successors_entry() {
    loom::model(|| {
        let entry = Entry::new();
        let first = entry.membership.reserve(0, 1).unwrap();
        let theirs = entry.clone();
        let late = thread::spawn(move || theirs.membership.attach(first, 7));
        if entry.membership.withdraw(first).is_some() {
            let second = entry.membership.reserve(0, 1).unwrap();
            assert!(entry.membership.attach(second, 8), "taken by the one before");
            entry.membership.enter_start_time(|| Some(88));
            assert!(!late.join().unwrap());
            assert_eq!(entry.membership.identity(), (8, 88));
        } else {
            assert!(late.join().unwrap());
        }
    });
}

#[test]
fn membership_models_an_entry_is_reserved_once_and_its_ledger_is_clear() {
    loom::model(|| {
        let entry = Entry::new();
        entry.live(7);
        let parents: Vec<_> = (0..2)
            .map(|_| {
                let theirs = entry.clone();
                thread::spawn(move || {
                    let reserved = theirs.membership.reserve(0, 1).is_some();
                    assert!(!reserved || theirs.ledger.load(Relaxed) == 0, "the one before's");
                    reserved
                })
            })
            .collect();
        entry.ledger.store(0, Relaxed);
        assert!(entry.membership.release().is_alive());
        let reserved = parents.into_iter().map(|parent| parent.join().unwrap());
        let reserved = reserved.filter(|reserved| *reserved).count();
        assert!(reserved <= 1);
        assert_eq!(entry.membership.look().is_free(), reserved == 0);
    });
}

#[test]
fn membership_models_a_process_is_not_taken_for_one_that_began_when_its_predecessor_did() {
    loom::model(|| {
        let entry = Entry::new();
        entry.live(7);
        let theirs = entry.clone();
        let looks = thread::spawn(move || {
            let (pid, began) = theirs.membership.identity();
            assert!(pid != 8 || began == 0 || began == 8, "{pid} began at {began}");
        });
        entry.membership.release();
        entry.live(8);
        looks.join().unwrap();
        assert_eq!(entry.membership.identity(), (8, 8));
    });
}

#[test]
fn membership_models_a_process_is_disowned_once() {
    loom::model(|| {
        let entry = Entry::new();
        entry.live(7);
        let theirs = entry.clone();
        let disowned = thread::spawn(move || theirs.membership.disown());
        let again = entry.membership.disown();
        let disowned = disowned.join().unwrap();
        assert!(disowned ^ again);
        assert_eq!(entry.membership.release().parent, 0);
    });
}
