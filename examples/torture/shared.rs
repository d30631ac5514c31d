//! The shared objects that tasks and visitors change, and the account of what they must hold.
//!
//! Whoever changes something says so when it is done: a task by its result, a visitor by a line in its pipe.
//! What was acknowledged must be there. What was begun and not acknowledged, because the process died, is
//! there wholly or not at all. Every value is put in once, so that any that is lost, or there twice, shows.

use super::support::Random;
use procpool::collections::{Array, Dict, List};
use procpool::queue::{GetError, JoinableQueue, PutError, Queue};
use procpool::sync::{
    Barrier, Condvar, Encoded, Event, LockError, Mutex, RwLock, Semaphore, TryLockError, Value,
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;

/// How many permits there are.
pub(crate) const PERMITS: u32 = 3;
/// How long an act may wait: the rest of the time it makes trouble.
const MOMENT: Duration = Duration::from_millis(1);
/// A time limit that is never reached, unless something hangs.
const LONG: Duration = Duration::from_secs(25);

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
}

const ACTS: [Act; 22] = [
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
        };
        Ok((done, repaired))
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
    fn drain(&self) -> Result<[Vec<u64>; 4], String> {
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
        Ok([listed, keys, queued, chores])
    }
}

/// What was put into one container, and taken out.
#[derive(Debug, Default)]
struct Contents {
    put: HashSet<u64>,
    maybe_put: HashSet<u64>,
    got: HashSet<u64>,
    /// How many got something, perhaps, and died with it.
    gets_lost: usize,
}

impl Contents {
    /// Compares with what was found at the end.
    fn check(&mut self, what: &str, found: Vec<u64>) -> Result<(), String> {
        for value in found {
            if !self.got.insert(value) {
                return Err(format!("the {what} had {value} twice"));
            }
        }
        if let Some(stranger) = self
            .got
            .iter()
            .find(|value| !self.put.contains(value) && !self.maybe_put.contains(value))
        {
            return Err(format!("the {what} had {stranger}, which nobody has put"));
        }
        let missing: Vec<&u64> = self.put.difference(&self.got).collect();
        if missing.len() > self.gets_lost {
            return Err(format!(
                "the {what} has lost {} values, and only {} can have died with one: {missing:?}",
                missing.len(),
                self.gets_lost
            ));
        }
        Ok(())
    }
}

/// How often something was counted up.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    sure: u64,
    maybe: u64,
}

impl Count {
    fn check(self, what: &str, found: u64) -> Result<(), String> {
        if (self.sure..=self.sure + self.maybe).contains(&found) {
            return Ok(());
        }
        Err(format!("{what} is {found}: {} were acknowledged, {} were not", self.sure, self.maybe))
    }
}

/// What must be in the shared objects.
#[derive(Debug, Default)]
pub(crate) struct Account {
    list: Contents,
    dict: Contents,
    queue: Contents,
    chores: Contents,
    counts: [Count; 6],
}

/// What an act changes.
enum Entry<'a> {
    In(&'a mut Contents),
    Out(&'a mut Contents),
    Count(&'a mut Count),
    None,
}

impl Account {
    fn entry(&mut self, act: Act) -> Entry<'_> {
        match act {
            Act::Push => Entry::In(&mut self.list),
            Act::Pop => Entry::Out(&mut self.list),
            Act::Insert => Entry::In(&mut self.dict),
            Act::Remove => Entry::Out(&mut self.dict),
            Act::Put => Entry::In(&mut self.queue),
            Act::Get => Entry::Out(&mut self.queue),
            Act::PutChore => Entry::In(&mut self.chores),
            Act::DoChore => Entry::Out(&mut self.chores),
            Act::Total => Entry::Count(&mut self.counts[0]),
            Act::Pair => Entry::Count(&mut self.counts[1]),
            Act::Note => Entry::Count(&mut self.counts[2]),
            Act::Write => Entry::Count(&mut self.counts[3]),
            Act::Add => Entry::Count(&mut self.counts[4]),
            Act::AddToArray => Entry::Count(&mut self.counts[5]),
            _ => Entry::None,
        }
    }

    /// An act was acknowledged.
    ///
    /// # Errors
    /// Something was got twice.
    pub(crate) fn acknowledged(&mut self, act: Act, id: u64, done: Done) -> Result<(), String> {
        match (self.entry(act), done) {
            (Entry::In(contents), Done::Changed) => drop(contents.put.insert(id)),
            (Entry::Out(contents), Done::Got(value)) => {
                let first = contents.got.insert(value);
                return if first {
                    Ok(())
                } else {
                    Err(format!("{act:?} has given {value} again"))
                };
            }
            (Entry::Count(count), Done::Changed) => count.sure += 1,
            _ => {}
        }
        Ok(())
    }

    /// Who did it has died, and it is done or not.
    pub(crate) fn in_doubt(&mut self, act: Act, id: u64) {
        match self.entry(act) {
            Entry::In(contents) => drop(contents.maybe_put.insert(id)),
            Entry::Out(contents) => contents.gets_lost += 1,
            Entry::Count(count) => count.maybe += 1,
            Entry::None => {}
        }
    }

    /// Compares the account with what there is, now that nobody changes it. It is all taken out.
    ///
    /// # Errors
    /// What is not as it must be.
    pub(crate) fn check(mut self, shared: &Shared) -> Result<(), String> {
        let [list, keys, queued, chores] = shared.drain()?;
        self.list.check("list", list)?;
        self.dict.check("dict", keys)?;
        self.queue.check("queue", queued)?;
        self.chores.check("joinable queue", chores)?;
        if !shared.chores.join_timeout(LONG) {
            return Err(format!("{} chores are never done", shared.chores.unfinished()));
        }
        let [totals, pairs, notes, writes, adds, array] = self.counts;
        let values = shared.totals.values().map_err(|error| error.to_string())?;
        totals.check("the sum of the totals", values.iter().sum())?;
        let (pair, _) = had(shared.pair.lock());
        pairs.check("the pair", pair[0])?;
        let (note, _) = had(shared.note.lock());
        notes.check("the note", note.get().map_err(|error| error.to_string())?.0)?;
        let (table, _) = had(shared.table.read());
        writes.check("the table", table[0])?;
        adds.check("the value", shared.value.load())?;
        array.check("the sum of the array", (0..16).map(|index| shared.array.load(index)).sum())?;
        shared.list.check_invariants()?;
        shared.dict.check_invariants()?;
        shared.totals.check_invariants()?;
        shared.queue.check_invariants()?;
        shared.chores.check_invariants()?;
        let permits: Vec<_> =
            (0..PERMITS).filter_map(|_| shared.permits.acquire_timeout(LONG)).collect();
        if permits.len() != PERMITS as usize {
            return Err(format!("{} permits of {PERMITS} are left", permits.len()));
        }
        drop(permits);
        if shared.permits.available() != PERMITS {
            return Err(format!("{} permits of {PERMITS}", shared.permits.available()));
        }
        Ok(())
    }
}
