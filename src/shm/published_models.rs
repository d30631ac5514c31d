//! Loom models of a word that leads to something. The edges of all such words are these: SYNC(arena-magic),
//! SYNC(failure), SYNC(note), SYNC(output-block), SYNC(table-chunk).

use super::published::Published;
use crate::prim::{AtomicU64, Relaxed};
use loom::sync::Arc;
use loom::thread;

/// Two blocks, and the word that leads to one of them.
struct Memory {
    blocks: [AtomicU64; 2],
    word: Published,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self { blocks: [AtomicU64::new(0), AtomicU64::new(0)], word: Published::new() })
    }

    /// Fills a block, and has the word lead there.
    fn publish(&self, block: usize, value: u64) {
        self.blocks[block].store(value, Relaxed);
        self.word.publish(block as u64 + 1);
    }

    /// What the word leads to.
    fn look(&self) -> Option<u64> {
        let block = self.word.get()? as usize - 1;
        Some(self.blocks[block].load(Relaxed))
    }
}

#[test]
fn published_models_who_finds_the_word_finds_what_it_leads_to() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = memory.clone();
        let writer = thread::spawn(move || theirs.publish(0, 7));
        assert!(memory.look().is_none_or(|value| value == 7));
        writer.join().unwrap();
        assert_eq!(memory.look(), Some(7));
    });
}

/// A result that has outgrown its block, and the chain of failures: the word is stored again.
#[test]
fn published_models_it_leads_to_the_whole_of_the_first_or_of_the_second() {
    loom::model(|| {
        let memory = Memory::new();
        let theirs = memory.clone();
        let writer = thread::spawn(move || {
            theirs.publish(0, 1);
            // As `grow` does, which copies.
            let before = theirs.blocks[0].load(Relaxed);
            theirs.publish(1, before + 1);
        });
        let looks = [memory.look(), memory.look()];
        assert!(looks.iter().flatten().all(|value| matches!(value, 1 | 2)), "{looks:?}");
        assert!(looks[0] <= looks[1], "{looks:?}");
        writer.join().unwrap();
    });
}
