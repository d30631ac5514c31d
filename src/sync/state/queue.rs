//! The wait queue of an object: its latch, and the threads that wait, first come first served.
//!
//! # Shared state
//! In the object: the latch, head, tail, length, the next ticket. Beside the objects: one
//! [`Waiter`] for each thread that ever waited (a thread waits for one thing at a time), with a
//! state word that is its alone to sleep on:
//!
//! ```text
//! IDLE 0 | QUEUED 1 | ASLEEP 3 (queued, and in the kernel) | outcome, 4 and above
//! ```
//!
//! # States
//! IDLE -> QUEUED (the thread itself) -> ASLEEP (itself) -> outcome (whoever gives it what it waits
//! for, taking it off the queue) -> IDLE (itself). Or QUEUED -> IDLE, when its time is up. Or ASLEEP
//! -> QUEUED (anybody): it is to look again whether it has to wait any longer (`room.rs`).
//!
//! # Rules
//! R1. Queue and records change under the latch, except: QUEUED -> ASLEEP and back, and outcome ->
//!     IDLE where the primitive says so.
//! R2. **The records are the truth**: an object's queue is the records that name it and are QUEUED or
//!     ASLEEP, in order of their tickets. Head, tail, length and links are caches.
//! R3. The swap to an outcome commits. Only after it do head, length and the primitive's counters
//!     follow, so that whoever dies in between leaves nothing that records cannot reproduce.
//!     Who is on the chain and is not QUEUED or ASLEEP shows that something else has written there: then the
//!     chain is cut, so that no walk and no loop of giving goes on for ever.
//! R4. A sleeper that was given an outcome is woken after the latch was let go.
//!
//! # Orderings
//! `given`: release in `give`, acquire in `park`; carries what was done before the giving.
//!
//! # If a process dies
//! While it changes the queue: it holds the latch; settlement rebuilds queue and counters from the
//! records (R2). While it waits: settlement takes its records out, and passes on what they were
//! given. Before it has woken those whom it gave something: settlement wakes every thread that has
//! an outcome.
//!
//! # Fairness
//! First come, first served, by the order in which threads got the latch. A thread that finds
//! others waiting queues up behind them even if there is enough for it.

#[cfg(not(loom))]
use super::Death;
use super::circle::Circle;
use super::latch::Latch;
use super::{Caller, Deadline, Records, fault};
use crate::prim::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release, fence_after_rmw};
use crate::sys::futex::{self, Woken};

const IDLE: u32 = 0;
const QUEUED: u32 = 1;
const ASLEEP: u32 = 3;
/// The smallest outcome.
pub(crate) const OUTCOME: u32 = 4;

/// What a thread wants that waits in room 0 of an object: to look again. In room `n`: `LOOK + n`.
pub(crate) const LOOK: u32 = u32::MAX << 4;

/// A thread that waits, or has waited.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Waiter {
    /// The process of the thread; 0 while the record is free.
    owner: AtomicU32,
    state: AtomicU32,
    object: AtomicU32,
    /// What it waits for, in the primitive's terms.
    want: AtomicU32,
    /// The one behind it.
    next: AtomicU32,
    ticket: AtomicU64,
}

impl Waiter {
    #[cfg(loom)]
    pub(crate) fn new(owner: u32) -> Self {
        Self {
            owner: AtomicU32::new(owner),
            state: AtomicU32::new(IDLE),
            object: AtomicU32::new(0),
            want: AtomicU32::new(0),
            next: AtomicU32::new(0),
            ticket: AtomicU64::new(0),
        }
    }

    /// Takes a free record for a thread of process `me`.
    pub(crate) fn try_claim(&self, me: u32) -> bool {
        self.owner.load(Relaxed) == 0 && self.owner.compare_exchange(0, me, AcqRel, Relaxed).is_ok()
    }

    /// Frees the record of a thread, or process, that has ended.
    pub(crate) fn free(&self) {
        self.object.store(0, Relaxed);
        self.state.store(IDLE, Relaxed);
        self.owner.store(0, Release);
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner.load(Relaxed)
    }

    /// The object that it waits for, or was given something by.
    pub(crate) fn object(&self) -> u32 {
        self.object.load(Relaxed)
    }

    pub(crate) fn want(&self) -> u32 {
        self.want.load(Relaxed)
    }

    /// What it was given and has not taken yet.
    pub(crate) fn outcome(&self) -> Option<u32> {
        // SYNC(given): pairs with the swap in `give`; carries what was done before.
        Some(self.state.load(Acquire)).filter(|state| *state >= OUTCOME)
    }

    fn is_queued(&self) -> bool {
        matches!(self.state.load(Relaxed), QUEUED | ASLEEP)
    }

    /// Wakes the thread if it sleeps though it has been given something (settlement).
    pub(crate) fn wake_if_given(&self) {
        if self.state.load(Relaxed) >= OUTCOME {
            futex::wake(&self.state, 1);
        }
    }

    /// Has the thread look again, if it sleeps in a room.
    #[cfg(not(loom))]
    pub(crate) fn poke(&self) {
        if self.want() >= LOOK
            && self.state.compare_exchange(ASLEEP, QUEUED, AcqRel, Relaxed).is_ok()
        {
            futex::wake(&self.state, 1);
        }
    }

    /// Takes what was given: the last step of a wait.
    pub(crate) fn take(&self) {
        fault::point("sync.taking");
        self.reset();
        fault::point("sync.taken");
    }

    fn reset(&self) {
        self.object.store(0, Relaxed);
        self.state.store(IDLE, Release);
    }
}

/// The queue of one object; all zero at first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct WaitQueue {
    latch: Latch,
    head: AtomicU32,
    tail: AtomicU32,
    length: AtomicU32,
    tickets: AtomicU64,
}

impl WaitQueue {
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            latch: Latch::new(),
            head: AtomicU32::new(0),
            tail: AtomicU32::new(0),
            length: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
        }
    }

    /// Locks the object.
    #[inline]
    pub(crate) fn lock<'a, C: Caller>(&'a self, caller: &'a C) -> Locked<'a, C> {
        self.latch.lock(caller.me(), caller);
        fault::point("sync.latched");
        Locked { queue: self, records: caller, sleepers: [0; SLEEPERS], count: 0, for_dead: false }
    }

    /// Locks the object in the name of a dead process, and brings the queue in order; what the threads
    /// of that process had been given.
    #[cfg(not(loom))]
    pub(crate) fn lock_for_dead<'a, R: Records>(
        &'a self,
        death: &Death<'a, R>,
    ) -> (Locked<'a, R>, Vec<Given>) {
        self.lock_room_for_dead(death, None)
    }

    /// The same for one of several queues of an object: whose threads want `only`.
    #[cfg(not(loom))]
    pub(crate) fn lock_room_for_dead<'a, R: Records>(
        &'a self,
        death: &Death<'a, R>,
        only: Option<u32>,
    ) -> (Locked<'a, R>, Vec<Given>) {
        self.latch.lock_for_dead(death.of, death.is_dead);
        let (records, sleepers, count) = (death.records, [0; SLEEPERS], 0);
        let mut locked = Locked { queue: self, records, sleepers, count, for_dead: true };
        let given = locked.rebuild(death.object, death.of, only);
        (locked, given)
    }

    /// How many wait; a moment's view.
    pub(crate) fn length(&self) -> u32 {
        self.length.load(Relaxed)
    }

    /// For a test that scribbles elsewhere.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn latch(&self) -> &Latch {
        &self.latch
    }
}

/// How many sleepers are noted before they are woken with the latch held.
const SLEEPERS: usize = 8;

/// What a dead thread was given and had not taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given {
    pub(crate) want: u32,
}

/// A locked object. Dropping it unlocks, and then wakes those who were given something.
#[derive(Debug)]
pub(crate) struct Locked<'a, R: Records> {
    queue: &'a WaitQueue,
    records: &'a R,
    sleepers: [u32; SLEEPERS],
    count: usize,
    for_dead: bool,
}

impl<'a, R: Records> Locked<'a, R> {
    /// Whether nobody waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.head.load(Relaxed) == 0
    }

    pub(crate) fn length(&self) -> u32 {
        self.queue.length.load(Relaxed)
    }

    /// The thread at the front.
    pub(crate) fn first(&self) -> Option<&'a Waiter> {
        self.records.waiter(self.queue.head.load(Relaxed))
    }

    /// Puts the caller at the end.
    pub(crate) fn push(&mut self, index: u32, waiter: &Waiter, object: u32, want: u32) {
        let ticket = self.queue.tickets.load(Relaxed);
        self.queue.tickets.store(ticket.wrapping_add(1), Relaxed);
        waiter.object.store(object, Relaxed);
        waiter.want.store(want, Relaxed);
        waiter.ticket.store(ticket, Relaxed);
        waiter.next.store(0, Relaxed);
        // SYNC(queued): pairs with the Acquire in `rebuild`.
        waiter.state.store(QUEUED, Release);
        fault::point("sync.queueing");
        self.link(index);
        fault::point("sync.queued");
    }

    fn link(&mut self, index: u32) {
        match self.records.waiter(self.queue.tail.load(Relaxed)) {
            Some(last) if !self.is_empty() => last.next.store(index, Relaxed),
            _ => self.queue.head.store(index, Relaxed),
        }
        self.queue.tail.store(index, Relaxed);
        self.queue.length.store(self.length().saturating_add(1), Relaxed);
    }

    /// The last of those in front of where `index` was.
    fn index_before(&self, index: u32) -> u32 {
        let (mut last, mut at) = (0, self.queue.head.load(Relaxed));
        let mut circle = Circle::new();
        while at != 0 && at != index && !circle.is_closed_by(u64::from(at)) {
            let Some(waiter) = self.records.waiter(at) else { break };
            (last, at) = (at, waiter.next.load(Relaxed));
        }
        last
    }

    /// Cuts the chain.
    #[cold]
    fn cut(&self) {
        self.queue.head.store(0, Relaxed);
        self.queue.tail.store(0, Relaxed);
        self.queue.length.store(0, Relaxed);
    }

    /// Gives `outcome` to the thread at the front; `false` if nobody waits.
    pub(crate) fn give_first(&mut self, outcome: u32) -> bool {
        let index = self.queue.head.load(Relaxed);
        self.give(index, outcome)
    }

    /// Gives `outcome` to everybody.
    pub(crate) fn give_all(&mut self, outcome: u32) {
        while self.give_first(outcome) {}
    }

    /// The index of the thread with `ahead` others in front of it.
    pub(crate) fn nth(&self, ahead: u32) -> u32 {
        let mut at = self.queue.head.load(Relaxed);
        for _ in 0..ahead {
            let Some(waiter) = self.records.waiter(at) else { return 0 };
            at = waiter.next.load(Relaxed);
        }
        at
    }

    /// Gives `outcome` to a thread on the queue.
    pub(crate) fn give(&mut self, index: u32, outcome: u32) -> bool {
        let Some(waiter) = self.records.waiter(index) else { return false };
        fault::point("sync.giving");
        // Once it has the outcome its record is its own again, the link included.
        let next = waiter.next.load(Relaxed);
        // SYNC(given): pairs with the Acquire in `outcome`.
        let before = waiter.state.swap(outcome, AcqRel);
        fault::point("sync.given");
        if !matches!(before, QUEUED | ASLEEP) {
            // R3.
            self.cut();
            return false;
        }
        self.close_gap(index, next);
        if before == ASLEEP {
            if self.count == SLEEPERS {
                self.wake_noted();
            }
            self.sleepers[self.count] = index;
            self.count += 1;
        }
        true
    }

    /// Takes `index`, whose link is `next`, out of the chain.
    fn close_gap(&mut self, index: u32, next: u32) {
        if self.queue.head.load(Relaxed) == index {
            self.queue.head.store(next, Relaxed);
            if next == 0 {
                self.queue.tail.store(0, Relaxed);
            }
        } else {
            let last = self.index_before(index);
            if let Some(before) = self.records.waiter(last) {
                before.next.store(next, Relaxed);
            }
            if next == 0 {
                self.queue.tail.store(last, Relaxed);
            }
        }
        self.queue.length.store(self.length().saturating_sub(1), Relaxed);
    }

    /// Takes the caller, whose time is up, off the queue; `false` if it was given something.
    pub(crate) fn withdraw(&mut self, index: u32, waiter: &Waiter) -> bool {
        if !waiter.is_queued() {
            return false;
        }
        self.close_gap(index, waiter.next.load(Relaxed));
        fault::point("sync.withdrawing");
        waiter.take();
        true
    }

    /// Makes the queue anew from the records (R2), without the dead; returns what those were given.
    pub(super) fn rebuild(&mut self, object: u32, dead: u32, only: Option<u32>) -> Vec<Given> {
        let (mut queued, mut given) = (Vec::new(), Vec::new());
        self.records.each_waiter(&mut |index, waiter| {
            // The state first: a thread may just leave another object's queue without its latch, or
            // this one's, and queue up elsewhere. Seen queued here, it stays while we have the latch.
            // SYNC(queued): pairs with the Release in `push`; carries the object.
            let state = waiter.state.load(Acquire);
            if waiter.object.load(Relaxed) != object || waiter.owner() == 0 {
                return;
            }
            if waiter.owner() == dead {
                if state >= OUTCOME {
                    given.push(Given { want: waiter.want() });
                }
                waiter.reset();
            } else if matches!(state, QUEUED | ASLEEP)
                && only.is_none_or(|only| only == waiter.want())
            {
                queued.push((waiter.ticket.load(Relaxed), index));
            }
        });
        queued.sort_unstable();
        self.cut();
        for (ticket, index) in queued {
            if let Some(waiter) = self.records.waiter(index) {
                waiter.next.store(0, Relaxed);
                self.link(index);
            }
            self.queue
                .tickets
                .store(self.queue.tickets.load(Relaxed).max(ticket.wrapping_add(1)), Relaxed);
        }
        given
    }

    #[cold]
    fn wake_noted(&mut self) {
        for index in &self.sleepers[..self.count] {
            if let Some(waiter) = self.records.waiter(*index) {
                futex::wake(&waiter.state, 1);
            }
        }
        self.count = 0;
    }
}

impl<R: Records> Drop for Locked<'_, R> {
    #[inline]
    fn drop(&mut self) {
        fault::point("sync.unlatching");
        if self.for_dead {
            self.queue.latch.unlock_for_dead();
        } else {
            self.queue.latch.unlock();
        }
        if self.count != 0 {
            fault::point("sync.waking");
            self.wake_noted();
        }
    }
}

/// Waits until the caller is given something; `None` when its time is up (look again under the
/// latch: it may have been given something meanwhile).
pub(crate) fn park<C: Caller>(caller: &C, waiter: &Waiter, deadline: Deadline) -> Option<u32> {
    if !caller.search(&mut || waiter.outcome().is_some()) {
        sleep_until(caller, waiter, deadline, || false);
    }
    waiter.outcome()
}

/// Sleeps until the caller is given something, its time is up, or it is `ready`.
pub(crate) fn sleep_until<C: Caller>(
    caller: &C,
    waiter: &Waiter,
    deadline: Deadline,
    mut ready: impl FnMut() -> bool,
) {
    while waiter.outcome().is_none() {
        let left = deadline.left();
        if left.is_some_and(|left| left.is_zero()) {
            return;
        }
        // From here on whoever gives us something, or has us look again, wakes us.
        if let Err(state) = waiter.state.compare_exchange(QUEUED, ASLEEP, Relaxed, Relaxed)
            && !matches!(state, ASLEEP | OUTCOME..)
        {
            // Something else has written there (R3): the kernel is not to be asked in vain, again and again.
            let _ = waiter.state.compare_exchange(state, ASLEEP, Relaxed, Relaxed);
        }
        // SYNC(room): pairs with the same fence in `Room::notify` and with the swap in `poke`.
        fence_after_rmw();
        if ready() {
            return;
        }
        fault::point("sync.asleep");
        let nap = caller.patience().into_iter().chain(left).min();
        if futex::wait(&waiter.state, ASLEEP, nap) == Woken::TimedOut {
            caller.look_around();
        }
        fault::point("sync.awake");
    }
}
