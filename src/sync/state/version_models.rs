//! Loom models of the version, SYNC(version): one writer, who has the lock, and a reader who has none.

use super::version::Version;
use crate::prim::{AtomicU64, Relaxed};
use loom::sync::Arc;
use loom::thread;

struct Guarded {
    version: Version,
    words: [AtomicU64; 2],
}

impl Guarded {
    fn new() -> Arc<Self> {
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Self { version: Version::new(), words })
    }

    fn change(&self, to: u64) {
        self.version.begin();
        self.words.iter().for_each(|word| word.store(to, Relaxed));
        self.version.end();
    }

    /// One state, if it is not disturbed, and how many changes there were before it.
    fn read(&self) -> Option<(u64, u64)> {
        let version = self.version.read()?;
        let [first, second] = self.words.each_ref().map(|word| word.load(Relaxed));
        if !self.version.is_still(version) {
            return None;
        }
        assert_eq!(first, second, "half of a change was taken for one state");
        Some((version / 2, first))
    }
}

#[test]
fn version_models_a_reader_never_takes_half_of_a_change() {
    loom::model(|| {
        let guarded = Guarded::new();
        let theirs = guarded.clone();
        let reader = thread::spawn(move || {
            let seen = theirs.read();
            assert!(seen.is_none_or(|(changes, value)| changes == value), "{seen:?}");
        });
        guarded.change(1);
        guarded.change(2);
        reader.join().unwrap();
        assert_eq!(guarded.read(), Some((2, 2)));
    });
}

#[test]
fn version_models_nothing_is_read_after_a_change_that_was_not_ended() {
    loom::model(|| {
        let guarded = Guarded::new();
        let theirs = guarded.clone();
        let dies = thread::spawn(move || {
            theirs.version.begin();
            theirs.words[0].store(7, Relaxed);
        });
        let seen = guarded.read();
        dies.join().unwrap();
        assert!(seen.is_none_or(|seen| seen == (0, 0)));
        assert_eq!(guarded.read(), None, "it has died there");
        // The next one to have the lock puts it right.
        guarded.change(8);
        assert_eq!(guarded.read().map(|(_, value)| value), Some(8));
    });
}
