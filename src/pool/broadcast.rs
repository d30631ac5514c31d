//! A task for every worker: once on each.
//!
//! # Protocol
//! The user's process fills a slot for each seat and leaves it there as mail (`seat.rs`), one broadcast at
//! a time. A seat's worker takes its mail before it looks at the queue. If the pool shrinks meanwhile, the
//! mail of a seat that has no worker any more is cancelled: whoever comes second, the one who posts or the
//! supervisor, sees what the first one did.
//!
//! # If a process dies
//! A worker that has not begun: its replacement takes the mail, or settlement posts it again. In the call:
//! that outcome is lost, the others are not.

use super::Pool;
use super::free_slot::FreeSlot;
use super::inner::{Inner, Place};
use super::slot::Routing;
use super::submit::{self, Job};
use super::trampolines;
use super::with_options::WithOptions;
use crate::error::{Error, TaskError};
use crate::prim::{SeqCst, fence};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::sync::Arc;

impl Pool {
    /// Runs `function(argument)` once on every worker; the outcomes by worker number.
    ///
    /// Each worker runs it as soon as it has ended what it runs, before anything that is queued.
    ///
    /// # Errors
    /// The pool is closed, the argument cannot be encoded, or the arena has no room. What happens to a call
    /// is in its own outcome.
    ///
    /// # Blocking
    /// Until every worker has run it. Broadcasts of several threads come one after the other.
    ///
    /// # If a worker dies
    /// Before it has begun: its replacement runs it. In it: that outcome is
    /// [`TaskError::is_worker_lost`]. If the pool [shrinks](Pool::resize), what a worker that left has not
    /// begun is [cancelled](TaskError::is_cancelled).
    ///
    /// # Examples
    /// ```
    /// use std::collections::HashSet;
    ///
    /// let pool = procpool::Pool::builder().workers(3).build()?;
    /// let pids = pool.broadcast(|_: ()| std::process::id(), &())?;
    /// let different: HashSet<u32> = pids.into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(different.len(), 3);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn broadcast<F, A, R>(
        &self,
        function: F,
        argument: &A,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = Job::new(trampolines::code_of::<F, A, R>(&function)?);
        run(&self.inner, &job, argument)
    }

    /// As [`broadcast`](Self::broadcast), with the state of each worker; see
    /// [`map_state`](Self::map_state).
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast). A call fails if the state is of another type, or there is none.
    pub fn broadcast_state<F, S, A, R>(
        &self,
        function: F,
        argument: &A,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + Send + 'static,
        S: 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = Job::new(trampolines::code_with_state_of::<F, S, A, R>(&function)?);
        run(&self.inner, &job, argument)
    }
}

impl WithOptions<'_> {
    /// Runs `function(argument)` once on every worker; see [`Pool::broadcast`].
    ///
    /// # Errors
    /// As [`Pool::broadcast`], and options that make no sense.
    pub fn broadcast<F, A, R>(
        &self,
        function: F,
        argument: &A,
    ) -> Result<Vec<Result<R, TaskError>>, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = self.job(trampolines::code_of::<F, A, R>(&function))?;
        run(self.inner(), &job, argument)
    }
}

fn run<A, R>(
    inner: &Arc<Inner>,
    job: &Job,
    argument: &A,
) -> Result<Vec<Result<R, TaskError>>, Error>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    let _entered = inner.enter_map()?;
    let _alone = super::inner::lock(&inner.broadcasting);
    let (mut sent, mut outcomes) = (Sent { inner, places: VecDeque::new() }, Vec::new());
    for seat in 0..inner.workers() {
        let slot = loop {
            if inner.has_given_up_maps() {
                inner.check_open()?;
            }
            if let Some(slot) = inner.take_slot(false) {
                break slot;
            }
            // With more workers than slots, what was sent makes room.
            match sent.places.pop_front() {
                Some(place) => collect(inner, place, &mut outcomes),
                None => inner.wait_for_slot(None),
            }
        };
        sent.places.push_back(send(inner, job, argument, seat, slot)?);
    }
    while let Some(place) = sent.places.pop_front() {
        collect(inner, place, &mut outcomes);
    }
    Ok(outcomes)
}

/// Waits for the outcome of one seat.
fn collect<R>(inner: &Arc<Inner>, place: Place, outcomes: &mut Vec<Result<R, TaskError>>)
where
    R: DeserializeOwned + 'static,
{
    let state = &inner.slot(place.index).state;
    while !inner.has_ended(place) {
        state.wait(place.generation, None);
    }
    if state.try_take(place.generation) {
        inner.retire(place.index, |_, outcome| outcomes.push(outcome));
    }
}

/// What was posted, and is taken back if the rest cannot be.
struct Sent<'a> {
    inner: &'a Arc<Inner>,
    places: VecDeque<Place>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        for place in self.places.drain(..) {
            self.inner.cancel(place);
            self.inner.give_up_batch(place, None);
        }
    }
}

/// Leaves the call at a seat.
fn send<A: Serialize + 'static>(
    inner: &Arc<Inner>,
    job: &Job,
    argument: &A,
    seat: usize,
    slot: FreeSlot<'_>,
) -> Result<Place, Error> {
    let index = slot.place.index;
    let routing = Routing { job: seat as u16, of_map: true, mailed: true, ..Routing::default() };
    submit::fill(inner, job, index, argument, routing)?;
    let place = slot.mail();
    job.watch_limits(inner);
    // Pairs with the fence in `end_unclaimed_mail`: that sees the mail, or this that the seat has gone. And with
    // whoever ends the pool, who says so before he ends what is queued.
    fence(SeqCst);
    if inner.workers() <= seat {
        inner.cancel(place);
    }
    let is_over = |error: Error| !error.is_closed() || inner.has_given_up_maps();
    if inner.check_open().is_err_and(is_over) {
        inner.end_task(place);
    }
    Ok(place)
}
