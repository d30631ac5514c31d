//! Fuzz target: whatever is in cells and hints, each operation comes to an end, and a value that is claimed was in
//! a cell.

use super::ring::Ring;
use crate::prim::{AtomicU64, Relaxed};

#[test]
fn fuzz_ring() {
    type Input = (u64, u64, [u64; 8], Vec<(u8, u32)>);
    bolero::check!().with_type::<Input>().for_each(|(head, tail, cells, steps)| {
        // Half of the time near where a ring really is.
        let near = |raw: u64| if raw.is_multiple_of(2) { raw % 64 } else { raw };
        let (head, tail) = (AtomicU64::new(near(*head)), AtomicU64::new(near(*tail)));
        let cells = cells.map(AtomicU64::new);
        let ring = Ring { head: &head, tail: &tail, cells: &cells };
        for (step, value) in steps.iter().take(40) {
            match step % 6 {
                0 => drop(ring.push(value % (1 << 24))),
                1 => {
                    if let Some(claim) = ring.claim(1, |_| ()) {
                        assert!(claim.value < 1 << 24);
                        ring.release(claim.position);
                    }
                }
                2 => drop(ring.withdraw(*value % (1 << 24))),
                3 => drop(ring.has_value()),
                4 => cells[*value as usize % 8].store(u64::from(*value) << 20 | 1, Relaxed),
                _ => drop(ring.claimed_at(u64::from(*value), 1)),
            }
        }
        assert!(ring.describe().contains("8 cells"));
    });
}
