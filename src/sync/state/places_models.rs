//! Loom models of the two places of a value: a writer that has the lock, and a reader that has none.
//! They are those of SYNC(value-version) and SYNC(value-places).

use super::places::Places;
use crate::prim::{AtomicU64, Relaxed};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// A value of two words, which are always equal.
struct Value {
    lock: Mutex<()>,
    version: Places,
    places: [[AtomicU64; 2]; 2],
}

impl Value {
    fn new() -> Arc<Self> {
        let word = || AtomicU64::new(0);
        let places = [[word(), word()], [word(), word()]];
        Arc::new(Self { lock: Mutex::new(()), version: Places::new(), places })
    }

    fn load(&self) -> (u64, u64) {
        let copy = |place: usize| self.places[place].each_ref().map(|word| word.load(Relaxed));
        let (version, [first, second]) = self.version.read(copy);
        assert_eq!(first, second, "half of one value and half of another");
        (version, first)
    }

    fn fill(&self, version: u64, value: u64) {
        self.version.fill(version, |place| {
            self.places[place].iter().for_each(|word| word.store(value, Relaxed));
        });
    }

    /// As `Value::update` does: what was read without the lock is replaced if it is still the value.
    fn add_one(&self) {
        loop {
            let (version, before) = self.load();
            let _locked = self.lock.lock().unwrap();
            if self.load().0 == version {
                self.fill(version, before + 1);
                self.version.commit(version);
                return;
            }
        }
    }
}

#[test]
fn places_models_a_reader_never_has_half_of_a_value_nor_goes_back() {
    loom::model(|| {
        let value = Value::new();
        let theirs = value.clone();
        let writer = thread::spawn(move || {
            for now in 0..2 {
                theirs.fill(now, now + 1);
                theirs.version.commit(now);
            }
        });
        let first = value.load();
        assert_eq!(first.0, first.1, "another version's value");
        assert!(first.1 <= value.load().1);
        writer.join().unwrap();
        assert_eq!(value.load(), (2, 2));
    });
}

#[test]
fn places_models_no_change_is_lost() {
    loom::model(|| {
        let value = Value::new();
        let theirs = value.clone();
        let other = thread::spawn(move || theirs.add_one());
        value.add_one();
        other.join().unwrap();
        assert_eq!(value.load(), (2, 2));
    });
}

#[test]
fn places_models_the_value_stands_when_its_writer_dies_before_it_commits() {
    loom::model(|| {
        let value = Value::new();
        let theirs = value.clone();
        let dies = thread::spawn(move || {
            theirs.fill(0, 1);
            theirs.version.commit(0);
            // Half of the next one.
            theirs.version.fill(1, |place| theirs.places[place][0].store(9, Relaxed));
        });
        assert!(matches!(value.load(), (0, 0) | (1, 1)));
        dies.join().unwrap();
        assert_eq!(value.load(), (1, 1));
        value.add_one();
        assert_eq!(value.load(), (2, 2));
    });
}
