//! Loom models of a seat: its turns, and the mail that is left there, SYNC(mail).

use super::seat::{Seat, next};
use crate::prim::{AtomicU32, Relaxed};
use loom::sync::Arc;
use loom::thread;

struct Place {
    seat: Seat,
    /// What the worker with the turn has done.
    work: AtomicU32,
}

impl Place {
    fn new() -> Arc<Self> {
        Arc::new(Self { seat: Seat::new(), work: AtomicU32::new(0) })
    }
}

#[test]
fn seat_models_a_successor_begins_when_the_turn_ends_and_sees_what_was_done() {
    loom::model(|| {
        let place = Place::new();
        let theirs = place.clone();
        let successor = thread::spawn(move || {
            assert!(theirs.seat.wait_for(next(0)));
            assert_eq!(theirs.work.load(Relaxed), 1);
        });
        place.work.store(1, Relaxed);
        place.seat.end(0);
        // The supervisor, too, when it finds that one dead.
        place.seat.end(0);
        successor.join().unwrap();
        assert_eq!(place.seat.turn(), next(0));
    });
}

#[test]
fn seat_models_who_waits_for_a_turn_leaves_when_the_pool_stops() {
    // All of them would take minutes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let place = Place::new();
        let theirs = place.clone();
        let successor = thread::spawn(move || theirs.seat.wait_for(next(0)));
        let other = place.clone();
        let stops = thread::spawn(move || other.seat.stop());
        place.seat.end(0);
        stops.join().unwrap();
        // It had its turn before that, or it is told to leave; it does not wait.
        let _ = successor.join().unwrap();
    });
}

#[test]
fn seat_models_mail_is_taken_by_one_and_what_it_names_is_seen() {
    loom::model(|| {
        let place = Place::new();
        let theirs = place.clone();
        let worker = thread::spawn(move || {
            let mail = theirs.seat.mail();
            if let Some(index) = mail {
                assert_eq!((index, theirs.work.load(Relaxed)), (5, 1));
                theirs.seat.clear_mail(index);
            }
            mail.is_some()
        });
        place.work.store(1, Relaxed);
        place.seat.post(5);
        let taken = worker.join().unwrap();
        assert_eq!(place.seat.calls(), !taken);
    });
}
