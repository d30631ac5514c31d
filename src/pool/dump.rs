//! The shared memory of a pool in words, for whoever looks for a bug.
//!
//! Only reads, each word at another moment: of a pool that is in use, it shows no one moment.

use super::pools::Pool;
use super::state::Phase;
use crate::prim::Relaxed;
use std::fmt::Write;

impl Pool {
    /// Describes every shared word of the pool that is in use, and the processes that take part: text to look
    /// at, and to send along with a report, when a pool does not do what it should. Arguments and results
    /// are not in it.
    ///
    /// # Examples
    /// ```
    /// let pool = procpool::Pool::builder().workers(1).name("demo").build()?;
    /// assert!(pool.dump().contains("seat 0"));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_dump(&mut text);
        text
    }

    fn write_dump(&self, to: &mut String) -> std::fmt::Result {
        let area = &self.inner.area;
        writeln!(to, "{self:?}")?;
        writeln!(to, "{:?} {:?}", area.searcher(), area.idle())?;
        for (priority, ring) in area.rings.iter().enumerate() {
            writeln!(to, "ring {priority}: {}", ring.describe())?;
        }
        let free = self.inner.free_list();
        writeln!(to, "slots: {} on the free list of {}", free.len(), area.slots.len())?;
        for (index, slot) in area.slots.iter().enumerate() {
            if slot.state.load().phase != Phase::Free || !free.contains(&(index as u32)) {
                writeln!(to, "slot {index}: {slot:?}")?;
            }
        }
        for number in 0..self.inner.seats_ever.load(Relaxed) as usize {
            writeln!(to, "seat {number}: {:?}", area.seat(number))?;
        }
        for (id, pid, ledger) in area.arena.ledgers() {
            writeln!(to, "{id:?}: process {pid} {ledger:?}")?;
        }
        for line in area.arena.describe_objects() {
            writeln!(to, "{line}")?;
        }
        for (block, owner) in area.arena.used_blocks() {
            writeln!(to, "block {:#x}: {} bytes, {owner:?}'s", block.offset, block.bytes)?;
        }
        Ok(())
    }
}
