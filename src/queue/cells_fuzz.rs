//! Fuzz target: whatever is in cells and hints, each operation comes to an end, and what is claimed is a cell.

use super::cells::{Cells, Orphan};
use crate::prim::{AtomicU64, Relaxed};

#[test]
fn fuzz_cells() {
    type Input = (u8, u64, u64, Vec<(u8, u64)>);
    bolero::check!().with_type::<Input>().for_each(|(count, head, tail, steps)| {
        let count = u32::from(count % 9) + 1;
        let cell_words = 2 + *head as usize % 2;
        // Half of the time near where hints really are.
        let near = |raw: u64| {
            if raw.is_multiple_of(2) { ((raw >> 8 & 3) << 32) | (raw % 16) } else { raw }
        };
        let (head, tail) = (AtomicU64::new(near(*head)), AtomicU64::new(near(*tail)));
        let words: Vec<AtomicU64> =
            (0..count as usize * cell_words).map(|_| AtomicU64::new(0)).collect();
        let cells = Cells { head: &head, tail: &tail, words: &words, count, cell_words };
        let mut claims = Vec::new();
        for (step, value) in steps.iter().take(60) {
            match step % 11 {
                0 | 1 => {
                    if let Some(claim) = cells.claim_empty(1) {
                        assert_eq!(claim.words.len(), cell_words - 1);
                        match value % 4 {
                            0 => cells.empty(claim),
                            1 => claims.push(claim),
                            _ => cells.fill(claim),
                        }
                    }
                }
                2 | 3 => {
                    if let Some(claim) = cells.claim_full(2) {
                        match value % 4 {
                            0 => cells.give_back(claim),
                            1 => claims.push(claim),
                            _ => cells.empty(claim),
                        }
                    }
                }
                4 => claims.pop().into_iter().for_each(|claim| cells.give_back(claim)),
                5 => drop((cells.has_room(), cells.has_value(), cells.counts())),
                6 => cells.each_orphan(value % 3, |orphan| match orphan {
                    Orphan::Filling(claim) => cells.empty(claim),
                    Orphan::Taking(claim) => cells.give_back(claim),
                }),
                7 => head.store(near(*value), Relaxed),
                8 => tail.store(near(*value), Relaxed),
                9 => {
                    let state = (value >> 3 & 7) << 32 | (value >> 6 & 3) << 16 | value & 3;
                    words[*value as usize % words.len()].store(state, Relaxed);
                }
                _ => words[(*value >> 32) as usize % words.len()].store(*value, Relaxed),
            }
        }
        let (full, busy) = cells.counts();
        assert!(full + busy <= count as usize);
        let mut used = 0;
        cells.each_used(|_| used += 1);
        assert!(used <= count);
    });
}
