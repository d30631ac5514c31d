//! The shared objects that tasks and visitors change, and the account of what they must hold.
//!
//! Whoever changes something says so when it is done: a task by its result, a visitor by a line in its pipe.
//! What was acknowledged must be there. What was begun and not acknowledged, because the process died, is
//! there wholly or not at all. Every value is put in once, so that any that is lost, or there twice, shows.

use super::support::Random;
use procpool::collections::{Array, Dict, List, Namespace};
use procpool::queue::{GetError, JoinableQueue, Pipe, PutError, Queue};
use procpool::sync::{
    Barrier, Condvar, Encoded, Event, LockError, Mutex, OnceCell, ReentrantMutex, RwLock,
    Semaphore, TryLockError, Value,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many permits there are.
pub(crate) const PERMITS: u32 = 3;
/// How long an act may wait: the rest of the time it makes trouble.
const MOMENT: Duration = Duration::from_millis(1);
/// A time limit that is never reached, unless something hangs.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// One of each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shared {
    list: List<u64>,
    dict: Dict<u64, String>,
    totals: Dict<String, u64>,
    queue: Queue<u64>,
    chores: JoinableQueue<u64>,
    pair: Mutex<[u64; 2]>,
    note: Mutex<Encoded<(u64, String)>>,
    table: RwLock<[u64; 2]>,
    permits: Semaphore,
    meeting: Barrier,
    bell: Event,
    changed: Condvar,
    array: Array<u64>,
    value: Value<u64>,
    nested: ReentrantMutex,
    /// Counted up in two steps, with `nested` held.
    steps: Value<u64>,
    first: OnceCell<u64>,
    names: Namespace,
    here: Pipe<u64, u64>,
    there: Pipe<u64, u64>,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    Push,
    Pop,
    Insert,
    Remove,
    Total,
    Put,
    Get,
    PutChore,
    DoChore,
    Pair,
    Note,
    Write,
    Read,
    Permit,
    Meet,
    Wait,
    Set,
    Clear,
    WaitForChange,
    NotifyAll,
    Add,
    AddToArray,
    Nest,
    First,
    Name,
    LookUp,
    Unname,
    Send,
    Receive,
}

const ACTS: [Act; 29] = [
    Act::Push,
    Act::Pop,
    Act::Insert,
    Act::Remove,
    Act::Total,
    Act::Put,
    Act::Get,
    Act::PutChore,
    Act::DoChore,
    Act::Pair,
    Act::Note,
    Act::Write,
    Act::Read,
    Act::Permit,
    Act::Meet,
    Act::Wait,
    Act::Set,
    Act::Clear,
    Act::WaitForChange,
    Act::NotifyAll,
    Act::Add,
    Act::AddToArray,
    Act::Nest,
    Act::First,
    Act::Name,
    Act::LookUp,
    Act::Unname,
    Act::Send,
    Act::Receive,
];

impl Act {
    /// Any of them.
    pub(crate) fn random(random: &mut Random) -> Self {
        ACTS[random.next() as usize % ACTS.len()]
    }

    /// As a number, for a visitor's pipe.
    pub(crate) fn number(self) -> usize {
        self as usize
    }

    /// What [`number`](Self::number) has given.
    pub(crate) fn numbered(number: usize) -> Option<Self> {
        ACTS.get(number).copied()
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Done {
    /// Nothing was changed: there was no room, or nothing to get, in time.
    Nothing,
    /// It was changed.
    Changed,
    /// This was taken out.
    Got(u64),
}

/// The text that belongs to a key: of any length, and all of one piece.
fn text_of(id: u64) -> String {
    format!("{id} ").repeat((id % 61) as usize + 1)
}

/// Stays where it would be bad to die, now and then.
fn linger(id: u64) {
    if id.is_multiple_of(4) {
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// The lock, from whoever died with it, too; and whether that was so.
fn had<G>(locked: Result<G, LockError<G>>) -> (G, bool) {
    match locked {
        Ok(guard) => (guard, false),
        Err(error) => (error.into_guard(), true),
    }
}

/// As [`had`], for a lock with a time limit, which is never reached.
fn had_in_time<G>(what: &str, locked: Result<G, TryLockError<G>>) -> Result<(G, bool), String> {
    match locked {
        Ok(guard) => Ok((guard, false)),
        Err(error) => match error.into_guard() {
            Some(guard) => Ok((guard, true)),
            None => Err(format!("{what} could not be locked in {LONG:?}")),
        },
    }
}

impl Shared {
    /// New ones, with nothing in them.
    pub(crate) fn new() -> Result<Self, procpool::Error> {
        let (here, there) = Pipe::pair()?;
        Ok(Self {
            list: List::new()?,
            dict: Dict::new()?,
            totals: Dict::new()?,
            queue: Queue::new(64)?,
            chores: JoinableQueue::new(64)?,
            pair: Mutex::new([0; 2])?,
            note: Mutex::encoded(&(0, text_of(0)))?,
            table: RwLock::new([0; 2])?,
            permits: Semaphore::new(PERMITS)?,
            meeting: Barrier::new(2)?,
            bell: Event::new()?,
            changed: Condvar::new()?,
            array: Array::zeroed(16)?,
            value: Value::new(0)?,
            nested: ReentrantMutex::new()?,
            steps: Value::new(0)?,
            first: OnceCell::new()?,
            names: Namespace::new()?,
            here,
            there,
        })
    }

    /// Does one thing. The second of the pair: whether a lock came from an owner that had died.
    ///
    /// # Errors
    /// What should not have been: a wait without end, a sum that is wrong, an error of any other kind.
    pub(crate) fn act(&self, act: Act, id: u64) -> Result<(Done, bool), String> {
        let failed = |error: procpool::Error| format!("{act:?} {id}: {error}");
        let got = |value: Option<u64>| value.map_or(Done::Nothing, Done::Got);
        let mut repaired = false;
        let done = match act {
            Act::Push => self.list.push(&id).map(|()| Done::Changed).map_err(failed)?,
            Act::Pop => got(self.list.pop().map_err(failed)?),
            Act::Insert => {
                let old = self.dict.insert(&id, &text_of(id)).map_err(failed)?;
                if let Some(old) = old {
                    return Err(format!("the key {id} was there: {old:?}"));
                }
                Done::Changed
            }
            // Any that is there: the first that comes.
            Act::Remove => match self.dict.iter().next() {
                Some(Ok((key, text))) if text == text_of(key) => {
                    let removed = self.dict.remove(&key).map_err(failed)?;
                    got(removed.map(|_| key))
                }
                Some(Ok((key, text))) => return Err(format!("{key} has the text {text:?}")),
                Some(Err(error)) => return Err(failed(error)),
                None => Done::Nothing,
            },
            Act::Total => {
                let key = format!("total {}", id % 3);
                let added = self.totals.update_or_insert_with(&key, || 0, |total| *total += 1);
                added.map(|()| Done::Changed).map_err(failed)?
            }
            Act::Put => Self::put(self.queue.put_timeout(id, MOMENT))?,
            Act::Get => Self::got(self.queue.get_timeout(MOMENT))?,
            Act::PutChore => Self::put(self.chores.put_timeout(id, MOMENT))?,
            Act::DoChore => {
                let done = Self::got(self.chores.get_timeout(MOMENT))?;
                if done != Done::Nothing {
                    self.chores.task_done().map_err(failed)?;
                }
                done
            }
            Act::Pair => {
                let (mut pair, died) = had_in_time("the pair", self.pair.lock_timeout(LONG))?;
                repaired = died;
                self.repair(&mut pair, died)?;
                pair[0] += 1;
                linger(id);
                pair[1] += 1;
                Done::Changed
            }
            Act::Note => {
                let (mut note, died) = had_in_time("the note", self.note.lock_timeout(LONG))?;
                repaired = died;
                let change = |note: &mut (u64, String)| {
                    linger(id);
                    let right = note.1 == text_of(note.0);
                    *note = (note.0 + 1, text_of(note.0 + 1));
                    right
                };
                if !note.update(change).map_err(failed)? {
                    return Err("the note is half changed".into());
                }
                Done::Changed
            }
            Act::Write => {
                let (mut table, died) = had_in_time("the table", self.table.write_timeout(LONG))?;
                repaired = died;
                self.repair(&mut table, died)?;
                table[0] += 1;
                linger(id);
                table[1] += 1;
                Done::Changed
            }
            Act::Read => {
                let (table, died) = had_in_time("the table", self.table.read_timeout(LONG))?;
                if table[0] != table[1] && !died {
                    return Err(format!("a reader finds {:?} in the table", *table));
                }
                Done::Nothing
            }
            Act::Permit => {
                let permit = self.permits.acquire_timeout(MOMENT);
                linger(id);
                drop(permit);
                Done::Nothing
            }
            Act::Meet => {
                // In vain, or broken by who gave up or died: a new beginning.
                if self.meeting.wait_timeout(MOMENT).is_err() {
                    self.meeting.reset();
                }
                Done::Nothing
            }
            Act::Wait => {
                self.bell.wait_timeout(MOMENT);
                Done::Nothing
            }
            Act::Set => {
                self.bell.set();
                Done::Nothing
            }
            Act::Clear => {
                self.bell.clear();
                Done::Nothing
            }
            Act::WaitForChange => {
                let (mut pair, died) = had_in_time("the pair", self.pair.lock_timeout(LONG))?;
                self.repair(&mut pair, died)?;
                repaired = died;
                let (mut pair, died) = match self.changed.wait_timeout(pair, MOMENT) {
                    Ok((pair, _)) => (pair, false),
                    Err(error) => (error.into_guard().0, true),
                };
                self.repair(&mut pair, died)?;
                Done::Nothing
            }
            Act::NotifyAll => {
                self.changed.notify_all();
                Done::Nothing
            }
            Act::Add => {
                self.value.fetch_add(1);
                Done::Changed
            }
            Act::AddToArray => {
                self.array.fetch_add((id % 16) as usize, 1);
                Done::Changed
            }
            Act::Nest => {
                repaired = self.nest(id)?;
                Done::Changed
            }
            // Whoever comes first decides, for all.
            Act::First => match self.first.get_or_init_timeout(LONG, || id) {
                Some(value) => Done::Got(*value),
                None => return Err(format!("nobody has been the first within {LONG:?}")),
            },
            Act::Name => {
                self.names.set(&name_of(id), &id).map_err(failed)?;
                Done::Changed
            }
            Act::LookUp => match self.names.get::<u64>(&name_of(id)).map_err(failed)? {
                Some(value) if name_of(value) != name_of(id) => {
                    return Err(format!("{} is {value}", name_of(id)));
                }
                _ => Done::Nothing,
            },
            Act::Unname => {
                self.names.remove(&name_of(id));
                Done::Nothing
            }
            Act::Send => Self::put(self.here.send_timeout(id, MOMENT))?,
            Act::Receive => Self::got(self.there.recv_timeout(MOMENT))?,
        };
        Ok((done, repaired))
    }

    /// Counts up with the lock taken twice; whether it came from an owner that had died.
    fn nest(&self, id: u64) -> Result<bool, String> {
        let (_outer, died) = had_in_time("the nested lock", self.nested.lock_timeout(LONG))?;
        let before = self.steps.load();
        let (inner, again) = had_in_time("the lock that it has", self.nested.lock_timeout(LONG))?;
        if again || inner.depth() != 2 {
            return Err(format!("taken twice, a lock has the depth {}", inner.depth()));
        }
        linger(id);
        self.steps.store(before + 1);
        Ok(died)
    }

    fn put(put: Result<(), PutError<u64>>) -> Result<Done, String> {
        match put {
            Ok(()) => Ok(Done::Changed),
            Err(PutError::Full(_)) => Ok(Done::Nothing),
            Err(error) => Err(format!("put: {error}")),
        }
    }

    fn got(got: Result<u64, GetError>) -> Result<Done, String> {
        match got {
            Ok(value) => Ok(Done::Got(value)),
            Err(GetError::Empty) => Ok(Done::Nothing),
            Err(error) => Err(format!("get: {error}")),
        }
    }

    /// Who gets a lock from the dead brings the two halves together; nobody else ever finds them apart.
    fn repair(&self, halves: &mut [u64; 2], died: bool) -> Result<(), String> {
        if halves[0] != halves[1] {
            if !died {
                return Err(format!("{halves:?}, and nobody has died"));
            }
            halves[1] = halves[0];
        }
        Ok(())
    }

    /// Takes out all that is in the containers.
    fn drain(&self) -> Result<[Vec<u64>; 5], String> {
        let text = |error: procpool::Error| error.to_string();
        let listed = self.list.to_vec().map_err(text)?;
        let mut keys = Vec::new();
        for (key, value) in self.dict.to_map().map_err(text)? {
            if value != text_of(key) {
                return Err(format!("the key {key} has the text {value:?}"));
            }
            keys.push(key);
        }
        let (mut queued, mut chores) = (Vec::new(), Vec::new());
        // A time limit and not `try_get`: who waits settles the dead.
        while let Done::Got(value) = Self::got(self.queue.get_timeout(MOMENT * 50))? {
            queued.push(value);
        }
        while let Done::Got(value) = Self::got(self.chores.get_timeout(MOMENT * 50))? {
            chores.push(value);
            self.chores.task_done().map_err(text)?;
        }
        let mut sent = Vec::new();
        while let Done::Got(value) = Self::got(self.there.recv_timeout(MOMENT * 50))? {
            sent.push(value);
        }
        in_order("queue", &queued)?;
        in_order("pipe", &sent)?;
        Ok([listed, keys, queued, chores, sent])
    }

    /// That nobody waits any more, and that what is waited for still comes.
    ///
    /// # Errors
    /// What is not so; as long as workers are recycled, it may be that they have broken the barrier.
    pub(crate) fn try_waiting(&self) -> Result<(), String> {
        let waiting = [self.meeting.waiting(), self.bell.waiting(), self.changed.waiting()];
        if waiting != [0; 3] {
            return Err(format!("{waiting:?} wait at the barrier, for the event, for the change"));
        }
        self.meeting.reset();
        self.bell.clear();
        std::thread::scope(|scope| {
            let meets = || self.meeting.wait_timeout(LONG / 10).map(|_| ());
            let other = scope.spawn(meets);
            let met = (meets(), other.join());
            if !matches!(met, (Ok(()), Ok(Ok(())))) {
                return Err(format!("two do not meet at the barrier: {met:?}"));
            }
            let told = scope.spawn(|| self.bell.wait_timeout(LONG));
            self.bell.set();
            if !matches!(told.join(), Ok(true)) {
                return Err("the event is set, and who waits is not told".into());
            }
            let notified = scope.spawn(|| {
                let (pair, _) = had(self.pair.lock());
                self.changed.wait_timeout(pair, LONG).is_ok_and(|(_, notified)| notified)
            });
            while self.changed.notify_all() == 0 && !notified.is_finished() {
                std::thread::yield_now();
            }
            match notified.join() {
                Ok(true) => Ok(()),
                _ => Err("who waits for a change is not notified".into()),
            }
        })
    }

    /// Takes everything out, now that nobody changes it: what it was, for the account.
    ///
    /// # Errors
    /// What is not as it must be, whatever was done.
    pub(crate) fn take_stock(&self) -> Result<Stock, String> {
        let contents = self.drain()?;
        if !self.chores.join_timeout(LONG) {
            return Err(format!("{} chores are never done", self.chores.unfinished()));
        }
        let text = |error: procpool::Error| error.to_string();
        let totals = self.totals.values().map_err(text)?.iter().sum();
        let (pair, _) = had(self.pair.lock());
        let (note, _) = had(self.note.lock());
        let (table, _) = had(self.table.read());
        let array = (0..16).map(|index| self.array.load(index)).sum();
        let note = note.get().map_err(text)?.0;
        let counts = [totals, pair[0], note, table[0], self.value.load(), array, self.steps.load()];
        let mut named = Vec::new();
        for name in self.names.names() {
            let value = self.names.get::<u64>(&name).map_err(text)?;
            named.extend(value.filter(|value| name_of(*value) == name));
        }
        if named.len() != self.names.names().len() {
            return Err(format!("{:?} have the values {named:?}", self.names.names()));
        }
        self.list.check_invariants()?;
        self.dict.check_invariants()?;
        self.totals.check_invariants()?;
        self.queue.check_invariants()?;
        self.chores.check_invariants()?;
        self.names.check_invariants()?;
        self.here.check_invariants()?;
        let permits: Vec<_> =
            (0..PERMITS).filter_map(|_| self.permits.acquire_timeout(LONG)).collect();
        if permits.len() != PERMITS as usize {
            return Err(format!("{} permits of {PERMITS} are left", permits.len()));
        }
        drop(permits);
        if self.permits.available() != PERMITS {
            return Err(format!("{} permits of {PERMITS}", self.permits.available()));
        }
        Ok(Stock { contents, counts, named, first: self.first.get().copied() })
    }
}

/// What was found in the objects at the end of a storm.
#[derive(Debug)]
pub(crate) struct Stock {
    /// Of list, dict, queue, joinable queue and pipe.
    pub(crate) contents: [Vec<u64>; 5],
    /// Of totals, pair, note, table, value, array and steps.
    pub(crate) counts: [u64; 7],
    /// Values that have a name.
    pub(crate) named: Vec<u64>,
    /// What the first has decided.
    pub(crate) first: Option<u64>,
}

/// The name that a value is given.
fn name_of(id: u64) -> String {
    format!("name {}", id % 3)
}

/// That what one visitor has put, one after the other, comes out like that. (Tasks run beside each other.)
fn in_order(what: &str, taken: &[u64]) -> Result<(), String> {
    let mut last = std::collections::HashMap::new();
    for id in taken.iter().filter(|id| **id >> 63 == 1) {
        if let Some(before) = last.insert(id >> 32, *id)
            && before > *id
        {
            return Err(format!("the {what} has {before} before {id}, of one visitor"));
        }
    }
    Ok(())
}
