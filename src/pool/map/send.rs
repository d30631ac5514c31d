//! What a map sends: inputs, encoded into the slots of its batches.

use super::{At, Flight, Map, Sent, left_until};
use crate::codec::{self, ArenaWriter, EncodeError, Shape, shape_of};
use crate::error::{Error, Step, TaskError};
use crate::pool::sizer::BATCH_BYTES;
use crate::pool::slot::Routing;
use crate::pool::task::carry_input;
use crate::prim::{Relaxed, fence_after_rmw};
use crate::sync::crossing::Carried;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Instant;

impl<A, R, I> Map<A, R, I>
where
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
    I: Iterator<Item = A>,
{
    pub(super) fn send(&mut self, deadline: Option<Instant>) -> Result<Sent, Error> {
        if !self.terms.whole || self.inner.has_given_up_maps() {
            self.inner.check_open()?;
        }
        if self.ahead.is_none() {
            self.ahead = self.inputs.next();
        }
        if self.ahead.is_none() {
            return Ok(Sent::InputEnded);
        }
        let inner = self.inner.clone();
        let Some(slot) = inner.take_slot(false) else {
            return Ok(self.wait_for_slot(deadline));
        };
        match self.fill(slot.place.index) {
            Ok(true) => {
                let calls = inner.slot(slot.place.index).calls() as usize;
                let place = slot.send();
                self.job.watch_limits(&inner);
                self.enter(calls, At::UnderWay(place));
                self.under_way += 1;
                self.collect_refused();
                // Who closes the pool says so and then ends what is queued: that sees the slot, or this the end.
                // The last thing that sending did was a swap.
                fence_after_rmw();
                match inner.check_open() {
                    Err(error) if !error.is_closed() => inner.end_all_tasks(),
                    // It came while the slot was filled, and may have missed it.
                    Err(_) if !self.terms.whole || inner.has_given_up_maps() => {
                        inner.end_task(place)
                    }
                    _ => {}
                }
                Ok(Sent::Yes)
            }
            Ok(false) => {
                self.collect_refused();
                Ok(Sent::Yes)
            }
            Err(error) => {
                drop(slot);
                let room_may_come = error.is_arena_full()
                    && (self.under_way > 0 || inner.harvest(usize::MAX / 2) > 0);
                if room_may_come { Ok(Sent::Later) } else { Err(error) }
            }
        }
    }

    fn enter(&mut self, calls: usize, at: At<R>) {
        self.flights.push_back(Flight { first: self.sent, calls, at });
        self.sent += calls;
    }

    /// Other threads hold all slots: with batches under way ours come free first, else sleep.
    fn wait_for_slot(&mut self, deadline: Option<Instant>) -> Sent {
        if self.under_way == 0 {
            self.inner.wait_for_slot(left_until(deadline));
        }
        Sent::Later
    }

    /// Encodes inputs into the slot; `false` if the only one could not be encoded, which is then a
    /// collected failure.
    fn fill(&mut self, index: u32) -> Result<bool, Error> {
        let inner = self.inner.clone();
        let slot = inner.slot(index);
        let left = match self.inputs.size_hint() {
            (low, Some(high)) if low == high => Some(high + 1),
            _ => None,
        };
        let planned = self.sizer.calls(left, self.useful_workers()).min(self.room());
        let plain = shape_of::<A>() == Shape::Plain;
        let table_calls = if plain || planned == 1 { 0 } else { planned };
        let estimate = planned * (self.sizer.input_bytes + self.sizer.input_bytes / 4)
            + table_calls * 8
            + size_of::<A>();
        if planned > 1 {
            let each = match shape_of::<R>() {
                Shape::Plain => size_of::<R>(),
                Shape::Varying => 8 + self.sizer.output_bytes + self.sizer.output_bytes / 4,
            };
            let block = inner.area.arena.allocate((planned * each) as u64, inner.user)?;
            slot.output.set(block.offset);
        }
        let mut writer = ArenaWriter::in_new_block(inner.area.arena, inner.user, estimate as u64)?;
        let (calls, carried) = self.encode(&mut writer, planned, table_calls)?;
        if calls == 0 {
            return Ok(false);
        }
        let output_has_table = calls > 1 && shape_of::<R>() == Shape::Varying;
        inner.set_sent(index, self.job.code, calls);
        slot.context.store(self.job.context_word(), Relaxed);
        slot.table_calls.store(table_calls as u32, Relaxed);
        let job = self.waiting_place;
        carry_input(inner.area.arena, slot, &carried)?;
        let routing = Routing { job, of_map: true, output_has_table, ..Routing::default() };
        let routing = self.job.route(&inner, index, routing);
        let (block, bytes) = writer.finish();
        slot.set_input(block.map(|block| block.offset), bytes as u64, routing);
        Ok(true)
    }

    /// Appends up to `planned` inputs; returns how many, and what they carry. The one that did not
    /// fit stays ahead.
    fn encode(
        &mut self,
        writer: &mut ArenaWriter<'_>,
        planned: usize,
        table_calls: usize,
    ) -> Result<(usize, Vec<Carried>), Error> {
        if writer.skip(table_calls * 8).is_err() {
            return Err(
                TaskError::codec(Step::EncodeArgument, "no room for the table".into()).into()
            );
        }
        let start = writer.length();
        let (mut calls, mut carried) = (0, Vec::new());
        while calls < planned && (calls == 0 || writer.length() < BATCH_BYTES) {
            let Some(argument) = self.next_input() else { break };
            let mark = writer.length();
            match codec::encode(&argument, writer, &mut carried) {
                Ok(()) => {}
                Err(EncodeError::Arena(error)) => {
                    writer.truncate(mark);
                    self.ahead = Some(argument);
                    if calls == 0 {
                        return Err(error);
                    }
                    break;
                }
                Err(EncodeError::Refused(message)) => {
                    writer.truncate(mark);
                    self.refused =
                        Some(TaskError::cannot_cross::<A>(Step::EncodeArgument, message));
                    break;
                }
            }
            calls += 1;
            if table_calls > 0 {
                writer.put_u64((calls - 1) * 8, writer.length() as u64);
            }
        }
        if let Some(bytes) = (writer.length() - start).checked_div(calls) {
            self.sizer.input_bytes = bytes.max(1);
        }
        Ok((calls, carried))
    }

    fn collect_refused(&mut self) {
        if let Some(error) = self.refused.take() {
            self.enter(1, At::Collected(vec![Err(error)]));
        }
    }
}
