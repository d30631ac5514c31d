//! Settling what a dead process held of the objects: locks, permits, seats, and the handles.
//!
//! # Protocol
//! Under the lock of the objects, one process at a time:
//! 1. For each object of which it held a handle: under the object's latch, in the name of the dead,
//!    bring queue and counters in order, give back what it held, pass on what it was given.
//! 2. Its handle is given up, and with the last one the object.
//! 3. Its threads' records are freed.
//! 4. Every thread that has been given something is woken, and every thread in a room looks again: the
//!    wake-up, or the advice, may have died with the dead.
//!
//! Each step can be done again, so a settler that dies leaves nothing to repair: the next one starts
//! from the beginning.
//!
//! # Who settles
//! The supervisor of the process that started the dead one, at once (pidfd). A process that nobody in
//! the tree has started (another program) is watched by nobody: whoever waits for anything looks,
//! every [`STRANGERS_LOOKED_AT`](super::records::STRANGERS_LOOKED_AT), whether it is still there.

use super::state::{Death, Records, Waiter};
use crate::prim::{AtomicU32, Relaxed};
use crate::shm::arena::own_id;
use crate::shm::keeper;
use crate::shm::objects::{Described, Objects};
use crate::shm::{Arena, ParticipantId};

/// What kinds of object there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Mutex = 1,
    ReentrantMutex,
    RwLock,
    Condvar,
    Event,
    Semaphore,
    Barrier,
    Once,
    OnceCell,
    Value,
    Dict,
    List,
    Array,
    Namespace,
    Queue,
    JoinableQueue,
    Pipe,
    PipeEnd,
}

/// Gives back everything that a dead process held of objects.
pub(crate) fn settle(arena: &Arena, dead: ParticipantId) {
    settle_locked(arena, &arena.lock_objects(), dead);
}

fn settle_locked(arena: &Arena, locked: &Objects<'_>, dead: ParticipantId) {
    arena.note_death(dead);
    locked.settle(dead, |described| settle_object(locked, described, dead));
    arena.each_waiter(&mut |_, waiter: &Waiter| {
        if u64::from(waiter.owner()) == dead.to_raw() {
            waiter.free();
        } else {
            waiter.wake_if_given();
            waiter.poke();
        }
    });
}

fn settle_object(locked: &Objects<'_>, described: Described, dead: ParticipantId) {
    let arena = locked.arena();
    let Described { object, kind, block } = described;
    let is_dead = |id: u32| arena.is_dead(ParticipantId::from_raw(u64::from(id)));
    let of = dead.to_raw() as u32;
    let death = Death { records: arena, object, of, is_dead: &is_dead };
    macro_rules! settle_states {
        ($($kind:ident => $state:ty),* $(,)?) => {
            match kind {
                $(kind if kind == Kind::$kind as u32 => {
                    if let Some(state) = arena.at(crate::shm::Offset::<$state>::new(block)) {
                        state.settle(&death);
                    }
                })*
                // A value changes by one store. The rest is for the layers above.
                _ => keeper::settle(locked, described, dead),
            }
        };
    }
    let forget = |holder: &AtomicU32| {
        // The lock itself is the kernel's to hand on.
        let _ = holder.compare_exchange(of, 0, Relaxed, Relaxed);
    };
    if kind == Kind::Mutex as u32
        && let Some(state) = arena.at(crate::shm::Offset::<super::mutex::MutexState>::new(block))
    {
        forget(&state.holder);
    }
    if kind == Kind::ReentrantMutex as u32
        && let Some(state) =
            arena.at(crate::shm::Offset::<super::reentrant::ReentrantState>::new(block))
    {
        forget(&state.holder);
    }
    settle_states! {
        RwLock => super::state::rwlock::RwLockState,
        Condvar => super::state::condvar::CondvarState,
        Event => super::state::event::EventState,
        Semaphore => super::state::semaphore::SemaphoreState,
        Barrier => super::state::barrier::BarrierState,
        Once => super::state::once::OnceState,
        OnceCell => super::state::once::OnceState,
    }
}

/// Settles processes that have died and that nobody watches, and those that they had started.
///
/// All of it under the lock of the objects: others look around too.
#[cold]
pub(crate) fn settle_strangers(arena: &Arena) {
    let locked = arena.lock_objects();
    for stranger in arena.strangers() {
        if !arena.is_dead(stranger) {
            continue;
        }
        // One that had only reserved its place has nothing else.
        if !arena.is_attached(stranger) && arena.withdraw_for_dead(stranger) {
            continue;
        }
        // If it had started others, its guardian is ending them just now: the next look finds them
        // dead as well. One that had not attached yet is refused when it tries.
        let (mut family, mut at) = (vec![stranger], 0);
        while let Some(parent) = family.get(at).copied() {
            let children = arena.children_of(parent).into_iter();
            family.extend(
                children
                    .filter(|child| arena.is_attached(*child) || !arena.withdraw_for_dead(*child)),
            );
            at += 1;
        }
        if family.iter().any(|id| *id == own_id() || !arena.is_dead(*id)) {
            continue;
        }
        // The last ones first: who is released is not found as a parent again.
        for dead in family.into_iter().rev() {
            settle_locked(arena, &locked, dead);
            arena.free_owned_by(dead);
            arena.release_participant(dead);
        }
    }
}
