//! Loom models of closing: SYNC(closed), SYNC(joinable-closed). That nothing is put into a closed queue unseen is in
//! `cells_models.rs`.

use super::closed::Closed;
use crate::prim::{AtomicU32, Relaxed};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[test]
fn closed_models_who_sees_that_it_is_closed_sees_what_was_done_before() {
    loom::model(|| {
        let shared = Arc::new((Closed::new(), AtomicU32::new(0)));
        let theirs = shared.clone();
        let closer = thread::spawn(move || {
            theirs.1.store(1, Relaxed);
            theirs.0.close();
        });
        assert!(!shared.0.is_closed() || shared.1.load(Relaxed) == 1);
        closer.join().unwrap();
        assert!(shared.0.is_closed());
    });
}

/// As in a `JoinableQueue`: closed and put into under its lock; looked at, by who gets, before that is taken.
#[test]
fn closed_models_nothing_is_put_under_the_lock_after_a_getter_has_left() {
    loom::model(|| {
        let shared = Arc::new((Closed::new(), Mutex::new(0)));
        let theirs = shared.clone();
        let putter = thread::spawn(move || {
            let mut values = theirs.1.lock().unwrap();
            if !theirs.0.is_closed() {
                *values += 1;
            }
        });
        let others = shared.clone();
        let closer = thread::spawn(move || {
            let _locked = others.1.lock().unwrap();
            others.0.close();
        });
        let closed = shared.0.is_closed();
        let left = closed && *shared.1.lock().unwrap() == 0;
        putter.join().unwrap();
        closer.join().unwrap();
        assert!(!left || *shared.1.lock().unwrap() == 0, "put, and nobody there to get it");
    });
}
