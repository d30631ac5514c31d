//! Fuzz target: an array in which a peer scribbles. Its elements may be anything; but there are as many as there were, and
//! nothing is read or written that is not theirs.

use super::Array;
use crate::sync::LockError;
use crate::sync::scribble_fuzz::{Round, Steps, is_alone};
use crate::sys::robust::RobustMutex;

#[test]
fn fuzz_array() {
    if !is_alone("collections::array_fuzz::fuzz_array") {
        return;
    }
    bolero::check!().with_type::<Steps>().for_each(|steps| {
        let mut round = Round::begin();
        let Ok(array) = Array::new(&[7u32; 5]) else { panic!("no room") };
        let references = [array.reference()];
        round.share(references[0]);
        // The mutex is the first thing there, and who holds the array gives it not up.
        round.keep_bytes(references[0].block(), size_of::<RobustMutex>() as u64);
        for step in steps.iter().take(40) {
            let (which, how, _, value) = *step;
            let index = value as usize % 5;
            match which % 8 {
                0 => drop(array.load(index)),
                1 => array.store(index, value as u32),
                2 => drop((array.fetch_add(index, 3), array.update(index, |n| n ^ 5))),
                3 => {
                    let mut all = array.lock().unwrap_or_else(LockError::into_guard);
                    assert_eq!(all.len(), 5);
                    all[index] = value as u32;
                }
                7 if how.is_multiple_of(4) => round.die(&references),
                _ => round.scribble(*step),
            }
            assert_eq!(array.len(), 5);
        }
        drop(array);
        round.end();
    });
}
