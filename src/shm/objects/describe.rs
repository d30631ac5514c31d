//! The objects and who holds them, in words and in numbers: for tests, and for whoever looks for a bug.

use super::*;

impl Arena {
    /// How many objects and holdings there are.
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(in crate::shm) fn count_objects(&self) -> (usize, usize) {
        let _locked = self.lock_objects();
        (self.objects().in_use().count(), self.holdings().in_use().count())
    }

    /// Every object with its blocks, and every holding; and what is to be known of its kind.
    ///
    /// If the lock cannot be had until then, as in a program that hangs, that is said, and it is done without.
    pub(crate) fn describe_objects(
        &self,
        deadline_ns: u64,
        of_its_kind: impl Fn(Described) -> String,
    ) -> Vec<String> {
        let locked = self.lock_objects_until(deadline_ns);
        let note =
            locked.is_none().then(|| "the lock of the objects is held: without it".to_owned());
        let objects = self.objects().in_use().map(|(index, object)| {
            let Object { uid, shape, blocks, references, link: _ } = object;
            let shape = Shape::from_raw(shape.load(Relaxed));
            let blocks: Vec<String> =
                blocks.iter().map(|block| format!("{:#x}", block.load(Relaxed))).collect();
            format!(
                "object {index}: {shape:?}, uid {uid:?}, blocks {}, {references:?} references, {}",
                blocks.join(" "),
                of_its_kind(object.describe(index))
            )
        });
        let holdings = self.holdings().in_use().map(|(index, holding)| {
            let Word { object, participant, state } = Word::from_raw(holding.word.load(Relaxed));
            let how = if state == HELD { "held by" } else { "on its way, of" };
            let held = holding.held.load(Relaxed);
            format!("holding {index}: object {object} {how} {participant:?}, {held}")
        });
        note.into_iter().chain(objects).chain(holdings).collect()
    }

    fn lock_objects_until(&self, deadline_ns: u64) -> Option<Objects<'_>> {
        let locked = self.header().objects.lock.lock_until(deadline_ns)?;
        let objects = Objects { arena: self, state: &self.header().objects };
        if locked == Locked::OwnerDied {
            objects.repair();
        }
        Some(objects)
    }
}
