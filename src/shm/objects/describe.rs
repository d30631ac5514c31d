//! The objects and who holds them, in words and in numbers: for tests, and for whoever looks for a bug.

use super::*;

impl Arena {
    /// How many objects and holdings there are.
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(in crate::shm) fn count_objects(&self) -> (usize, usize) {
        let _locked = self.lock_objects();
        (self.objects().in_use().count(), self.holdings().in_use().count())
    }

    /// Every object with its blocks, and every holding.
    pub(crate) fn describe_objects(&self) -> Vec<String> {
        let _locked = self.lock_objects();
        let objects = self.objects().in_use().map(|(index, object)| {
            let Object { uid: _, shape, blocks, references, link: _ } = object;
            let shape = Shape::from_raw(shape.load(Relaxed));
            let blocks: Vec<String> =
                blocks.iter().map(|block| format!("{:#x}", block.load(Relaxed))).collect();
            let references = references.load(Relaxed);
            format!(
                "object {index}: {shape:?}, blocks {}, {references} references",
                blocks.join(" ")
            )
        });
        let holdings = self.holdings().in_use().map(|(index, holding)| {
            let Word { object, participant, state } = Word::from_raw(holding.word.load(Relaxed));
            let how = if state == HELD { "held by" } else { "on its way, of" };
            let held = holding.held.load(Relaxed);
            format!("holding {index}: object {object} {how} {participant:?}, {held}")
        });
        objects.chain(holdings).collect()
    }
}
