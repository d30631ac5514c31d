//! Lists of holdings: of what a result carries, or what is stored in a collection.
//!
//! # Rules
//! R1. A holding is on one list. Whoever walks many lists makes at most as many steps as there are holdings, and
//!     whoever walks one stops where it closes to a circle: what leads from one to the next may have been written
//!     by anybody.

use super::*;
use crate::shm::circle::Circle;

impl Objects<'_> {
    /// The holdings on the list of a result.
    pub(super) fn list(&self, first: u32) -> impl Iterator<Item = (u32, &Holding)> {
        let (mut index, mut circle) = (first, Circle::new());
        std::iter::from_fn(move || {
            let holding = self.arena.holding(index)?;
            if circle.is_closed_by(u64::from(index)) {
                return None;
            }
            let travels = Word::from_raw(holding.word.load(Relaxed)).state == TRAVELLING;
            let this = index;
            index = holding.link.load(Relaxed);
            travels.then_some((this, holding))
        })
    }

    /// Makes `reader` answer for what a result carries.
    pub(crate) fn hand_over(&self, first: u32, reader: ParticipantId) {
        for (_, holding) in self.list(first) {
            let word = Word::from_raw(holding.word.load(Relaxed));
            holding.word.store(Word { participant: reader, ..word }.to_raw(), Release);
        }
    }

    /// Gives up what a result carries.
    pub(crate) fn give_up_list(&self, first: u32) {
        self.give_up_list_until(first, 0);
    }

    /// Gives up what is on a list and has this tag; nothing, if that has been done.
    pub(crate) fn give_up_tagged(&self, first: u32, tag: u64) {
        let tagged = |(_, holding): &(u32, &Holding)| holding.held.load(Relaxed) == tag;
        let list: Vec<u32> = self.list(first).take_while(tagged).map(|(index, _)| index).collect();
        // The last one first: whoever dies in between leaves those before it to be found.
        list.into_iter().rev().for_each(|index| self.give_up(index));
    }

    /// Gives up what is on a list before `end`.
    pub(crate) fn give_up_list_until(&self, first: u32, end: u32) {
        let list = self.list(first).map(|(index, _)| index).take_while(|index| *index != end);
        let list: Vec<u32> = list.collect();
        list.into_iter().for_each(|index| self.give_up(index));
    }

    /// Makes this process answer for a list whose holdings are not its own yet, and appends them to `taken`. (Where
    /// it comes upon its own, it has been there before: R1.)
    pub(super) fn take_list(&self, first: u32, taken: &mut Vec<u32>) {
        let me = own_id();
        for (index, holding) in self.list(first) {
            let word = Word::from_raw(holding.word.load(Relaxed));
            if word.participant == me {
                return;
            }
            holding.word.store(Word { participant: me, ..word }.to_raw(), Release);
            taken.push(index);
        }
    }

    /// Makes nobody's what a dead process has stored in an object, or was about to remove.
    pub(super) fn adopt_parts(&self, object: Described, dead: ParticipantId) {
        let nobody = ParticipantId::NOBODY;
        let mut left = self.arena.holdings().most();
        keeper::each_part(self.arena, object, Some(dead), &mut |part| match part {
            Part::Block(block) => self.arena.pass_on(block, dead, nobody),
            // R1.
            Part::Stored(first) => left -= self.adopt_some(first, dead, left),
        });
    }

    /// Makes nobody's what of a list is a dead process's.
    pub(crate) fn adopt_list(&self, first: u32, dead: ParticipantId) {
        self.adopt_some(first, dead, usize::MAX);
    }

    /// The same for at most so many; how many there were.
    fn adopt_some(&self, first: u32, dead: ParticipantId, most: usize) -> usize {
        let mut seen = 0;
        for (_, holding) in self.list(first).take(most) {
            seen += 1;
            let word = Word::from_raw(holding.word.load(Relaxed));
            if word.participant == dead {
                let nobodys = Word { participant: ParticipantId::NOBODY, ..word };
                holding.word.store(nobodys.to_raw(), Release);
            }
        }
        seen
    }

    /// Gives up what travels, for a test after which nothing does.
    #[cfg(test)]
    pub(crate) fn give_up_travelling(&self) {
        let travels = |(index, holding): (u32, &Holding)| {
            let word = Word::from_raw(holding.word.load(Relaxed));
            (word.state != HELD).then_some(index)
        };
        let left: Vec<u32> = self.arena.holdings().in_use().filter_map(travels).collect();
        left.into_iter().for_each(|index| self.give_up(index));
    }
}
