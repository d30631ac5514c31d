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
            match step % 9 {
                0 => drop(ring.push(value % (1 << 24))),
                1 => {
                    let written_down = std::cell::Cell::new(None);
                    if let Some(claim) =
                        ring.claim(1, |claim| written_down.set(Some(claim.position)))
                    {
                        assert!(claim.value < 1 << 24);
                        assert_eq!(written_down.get(), Some(claim.position));
                        // Others die with their claim.
                        if value % 4 != 0 {
                            ring.release(claim.position);
                        }
                    }
                }
                2 => drop(ring.withdraw(*value % (1 << 24))),
                3 => drop(ring.has_value()),
                4 => cells[*value as usize % 8].store(u64::from(*value) << 20 | 1, Relaxed),
                5 => drop(ring.claimed_at(u64::from(*value), 1)),
                6 => assert!(ring.claims().len() <= cells.len()),
                7 => ring.clear_out(
                    |value| value % 2 == 0,
                    |position, who| position.wrapping_add(who) % 3 == 0,
                ),
                _ => drop(ring.len()),
            }
        }
        assert!(ring.describe().contains("8 cells"));
    });
}
