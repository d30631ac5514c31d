//! The shared memory of a pool in words, for whoever looks for a bug.
//!
//! Only reads, each word at another moment: of a pool that is in use, it shows no one moment. Of what hangs it
//! shows what there is, too: it waits for no lock longer than [`PATIENCE_NS`].

use super::pools::Pool;
use super::state::Phase;
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::objects::Described;
use crate::shm::offset::Shared;
use crate::shm::{Arena, Offset};
use crate::sync::settle::Kind;
use crate::sync::state::{self, Records, Waiter};
use crate::sys;
use std::fmt::{Debug, Write};

/// How long it waits for each of the two locks that it wants.
const PATIENCE_NS: u64 = 1_000_000_000;
/// So many words are shown of objects whose state is not known here.
const WORDS: usize = 24;

impl Pool {
    /// Describes every shared word of the pool that is in use, the processes that take part, the shared objects, and
    /// the arena itself: text to look at, and to send along with a report, when a pool does not do what it
    /// should. Arguments and results are not in it; of a [`Value`](crate::sync::Value) and of collections, the
    /// first words are.
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
        area.describe().iter().try_for_each(|line| writeln!(to, "{line}"))?;
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
        write_arena(area.arena, to)
    }
}

/// What is not of one pool.
fn write_arena(arena: &Arena, to: &mut String) -> std::fmt::Result {
    arena.describe().iter().try_for_each(|line| writeln!(to, "{line}"))?;
    let mut waiters = Vec::new();
    arena.each_waiter(&mut |index, waiter: &Waiter| {
        if waiter.owner() != 0 {
            waiters.push(format!("waiter {index}: {waiter:?}"));
        }
    });
    waiters.iter().try_for_each(|line| writeln!(to, "{line}"))?;
    let soon = || sys::clock::monotonic_ns() + PATIENCE_NS;
    let objects = arena.describe_objects(soon(), |described| state_of(arena, described));
    objects.iter().try_for_each(|line| writeln!(to, "{line}"))?;
    let Some(blocks) = arena.used_blocks_until(soon()) else {
        return writeln!(to, "the lock of the allocator is held: no list of blocks");
    };
    for (block, owner) in blocks {
        writeln!(to, "block {:#x}: {} bytes, {owner:?}'s", block.offset, block.bytes)?;
    }
    Ok(())
}

/// The words of an object, as its kind gives them names.
fn state_of(arena: &Arena, described: Described) -> String {
    let Described { object: _, kind, block } = described;
    fn view<T: Shared + Debug>(arena: &Arena, block: u64) -> String {
        arena.at(Offset::<T>::new(block)).map_or("not in the arena".into(), |it| format!("{it:?}"))
    }
    macro_rules! views {
        ($($kind:ident => $state:ty),* $(,)?) => {
            match kind {
                $(kind if kind == Kind::$kind as u32 => view::<$state>(arena, block),)*
                _ => view_words(arena, block),
            }
        };
    }
    views! {
        Mutex => crate::sync::mutex::MutexState,
        ReentrantMutex => crate::sync::reentrant::ReentrantState,
        RwLock => state::rwlock::RwLockState,
        Condvar => state::condvar::CondvarState,
        Event => state::event::EventState,
        Semaphore => state::semaphore::SemaphoreState,
        Barrier => state::barrier::BarrierState,
        Once => state::once::OnceState,
        OnceCell => state::once::OnceState,
    }
}

fn view_words(arena: &Arena, block: u64) -> String {
    let words: Option<&[AtomicU64]> = arena.slice_at(Offset::new(block), WORDS);
    let words = words.unwrap_or(&[]).iter().map(|word| format!("{:x}", word.load(Relaxed)));
    format!("words {}", words.collect::<Vec<_>>().join(" "))
}
