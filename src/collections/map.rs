//! A map from bytes to bytes in the arena: what `Dict` and `Namespace` are made of.
//!
//! # Shared state
//! A seed for the hash of the keys (XXH3), and stripes; the upper bits of a key's hash name its stripe.
//! Each stripe is a map of its own: `buckets.rs`, or `pairs.rs` for numbers; and `stripe.rs`.

use super::buckets::{MapStripe, Place, is_reusable, word_of};
use super::entry::{CarriedBy, Entry, NewEntry};
use super::pairs::{CELL_BYTES, PairBytes};
use super::stripe::Changing;
use crate::error::Error;
use crate::prim::{AtomicU64, Relaxed};
use crate::shm::keeper::Part;
use crate::shm::offset::Shared;
use crate::shm::{Arena, ParticipantId, fault};
use crate::sync::crossing::Carried;
use crate::sync::handle::{Handle, Parts};
use std::hash::{BuildHasher, Hasher, RandomState};

/// More than the processes that change one map at a time.
pub(super) const STRIPES: usize = 32;
const STRIPE_SHIFT: u32 = u64::BITS - STRIPES.ilog2();

/// See the module documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct MapState {
    seed: AtomicU64,
    /// How long keys and values are that are numbers (`pairs.rs`); 0 if they are entries.
    pair_bytes: AtomicU64,
    stripes: [MapStripe; STRIPES],
}

#[allow(unsafe_code)] // The marker asserts what the line above it says.
// SAFETY: atomics, and mutexes that the C library accesses.
unsafe impl Shared for MapState {}

/// What a change asks of the state before.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected<'a> {
    Anything,
    Missing,
    Bytes(&'a [u8]),
}

impl Expected<'_> {
    /// Whether it is so: there was an entry, with this value.
    pub(super) fn is_met(self, had: bool, before: &[u8]) -> bool {
        match self {
            Self::Anything => true,
            Self::Missing => !had,
            Self::Bytes(bytes) => had && before == bytes,
        }
    }
}

/// What a change found and did.
#[derive(Debug)]
pub(super) struct Changed<'a> {
    /// Whether the state before was as expected.
    pub(super) done: bool,
    /// Whether there was an entry. Its value was appended to what the caller gave.
    pub(super) had: bool,
    /// What the entry had that was removed.
    pub(super) removed: Option<CarriedBy<'a>>,
}

/// What reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// The value was appended; whether handles are stored in it.
    Value {
        carries: bool,
    },
}

/// Keys and values of one state of a stripe, one after the other in `bytes`.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    bytes: Vec<u8>,
    /// Where each key and each value ends, and whether the value carries handles.
    ends: Vec<(usize, usize, bool)>,
}

impl Snapshot {
    /// Key, value, and whether the value carries handles.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        let mut start = 0;
        self.ends.iter().map(move |(key, value, carries)| {
            let (from, key_end) = (start, *key);
            start = *value;
            (&self.bytes[from..key_end], &self.bytes[key_end..*value], *carries)
        })
    }
}

/// Above this length a reader makes sure that it has read a real one before it copies so much.
const CHECKED_BYTES: usize = 1024;

impl MapState {
    pub(super) fn create(parts: &Parts, pair: Option<PairBytes>) -> Result<Handle<Self>, Error> {
        Handle::create(parts, None, |state: &Self| {
            state.pair_bytes.store(pair.map_or(0, PairBytes::to_raw), Relaxed);
            state.seed.store(RandomState::new().build_hasher().finish(), Relaxed);
            for stripe in &state.stripes {
                #[allow(unsafe_code)] // As the comment says.
                // SAFETY: the object is new and nobody else's yet.
                unsafe {
                    stripe.stripe.initialise();
                }
            }
        })
    }

    /// For a test that scribbles elsewhere.
    #[cfg(test)]
    pub(super) fn mutexes(&self) -> impl Iterator<Item = &crate::sys::robust::RobustMutex> {
        self.stripes.iter().map(|stripe| stripe.stripe.mutex())
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, self.seed.load(Relaxed))
    }

    #[inline]
    fn pair(&self) -> Option<PairBytes> {
        PairBytes::from_raw(self.pair_bytes.load(Relaxed))
    }

    /// Makes a stripe anew whose last changer has died.
    fn repair(&self, stripe: &MapStripe, changing: &Changing<'_>) {
        match self.pair() {
            Some(_) => stripe.repair_pairs(changing),
            None => stripe.repair(changing),
        }
    }

    fn lock<'a>(&'a self, arena: &'a Arena, stripe: &'a MapStripe) -> Changing<'a> {
        stripe.stripe.change(arena, |changing| self.repair(stripe, changing))
    }

    #[inline]
    fn stripe(&self, hash: u64) -> &MapStripe {
        &self.stripes[(hash >> STRIPE_SHIFT) as usize]
    }

    /// Reads the value of a key; it is appended to `into`.
    #[inline]
    pub(super) fn get(
        &self,
        arena: &Arena,
        key: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<Found, Error> {
        let hash = self.hash(key);
        let stripe = self.stripe(hash);
        let start = into.len();
        let repair = |changing: &Changing<'_>| self.repair(stripe, changing);
        if let Some(pair) = self.pair() {
            if key.len() != pair.key {
                return Err(wrong_key(key.len(), pair.key));
            }
            let look = |_: &dyn Fn() -> bool| stripe.get_pair(arena, key, hash);
            return match stripe.stripe.read(arena, repair, look).ok_or_else(broken)? {
                Some(value) => {
                    pair.append_value(value, into);
                    Ok(Found::Value { carries: false })
                }
                None => Ok(Found::Nothing),
            };
        }
        let found = stripe.stripe.read(arena, repair, |is_same| {
            into.truncate(start);
            match stripe.search(arena, key, hash)? {
                Place::Found(entry, _) => {
                    if entry.value_bytes() > CHECKED_BYTES && !is_same() {
                        return None;
                    }
                    entry.load_value(into)?;
                    Some(Found::Value { carries: entry.stored() != 0 })
                }
                _ => Some(Found::Nothing),
            }
        });
        found.ok_or_else(broken)
    }

    /// Adds, replaces or removes (`None`) the entry of a key, if the state before is as expected. The
    /// value before is appended to `before`.
    pub(super) fn change<'a>(
        &'a self,
        arena: &'a Arena,
        key: &[u8],
        new: Option<(&[u8], &[Carried])>,
        expected: Expected<'_>,
        before: &mut Vec<u8>,
    ) -> Result<Changed<'a>, Error> {
        let hash = self.hash(key);
        let stripe = self.stripe(hash);
        if let Some(pair) = self.pair() {
            if key.len() != pair.key || new.is_some_and(|(value, _)| value.len() != pair.value) {
                return Err(wrong_key(key.len(), pair.key));
            }
            let changing = self.lock(arena, stripe);
            let new = new.map(|(value, _)| value);
            let changed = stripe.change_pair(&changing, (key, hash), pair, new, expected, before);
            return changed.unwrap_or_else(|| Err(broken()));
        }
        let new = match new {
            Some((value, carried)) => {
                Some(NewEntry::prepare(arena, key, hash as u32, value, carried)?)
            }
            None => None,
        };
        let changing = self.lock(arena, stripe);
        if !stripe.is_sound(arena, 8) {
            return Err(broken());
        }
        let mut place = stripe.search(arena, key, hash).ok_or_else(broken)?;
        let mut changed = Changed { done: false, had: false, removed: None };
        if let Place::Found(entry, _) = place {
            changed.had = true;
            entry.load_value(before).ok_or_else(broken)?;
        }
        changed.done = expected.is_met(changed.had, before);
        if !changed.done {
            return Ok(changed);
        }
        let Some(new) = new else {
            if let Place::Found(entry, at) = place {
                let removed = changing.take_over(&entry);
                fault::point("dict.removing");
                stripe.cut_off(at);
                changed.removed = changing.discard(removed);
            }
            return Ok(changed);
        };
        if !changed.had {
            match stripe.make_room(&changing) {
                Ok(true) => place = stripe.search(arena, key, hash).ok_or_else(broken)?,
                Ok(false) => {}
                // In a full arena a place that was used before will do.
                Err(error) if !matches!(place, Place::Free(at) if is_reusable(at)) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        let offset = changing.place(&new)?;
        let word = word_of(offset, hash);
        match place {
            Place::Found(entry, at) => {
                let removed = changing.take_over(&entry);
                fault::point("dict.replacing");
                changing.publish(at, word, new);
                changed.removed = changing.discard(removed);
            }
            Place::Free(at) => {
                let held = at.load(Relaxed);
                fault::point("dict.adding");
                changing.publish(at, word, new);
                stripe.count_added(held);
            }
            Place::Nowhere => {
                changing.take_back(&new, offset);
                return Err(broken());
            }
        }
        Ok(changed)
    }

    /// How many entries there are: exact while nobody adds or removes.
    pub(super) fn len(&self, arena: &Arena) -> usize {
        let count = |stripe: &MapStripe| {
            let repair = |changing: &Changing<'_>| self.repair(stripe, changing);
            stripe.stripe.read(arena, repair, |_| Some(stripe.count.load(Relaxed) as usize))
        };
        self.stripes.iter().filter_map(count).fold(0, usize::saturating_add)
    }

    pub(super) fn clear(&self, arena: &Arena) {
        for stripe in &self.stripes {
            stripe.clear(&self.lock(arena, stripe), self.pair().is_none());
        }
    }

    /// One state of a stripe.
    pub(super) fn snapshot(&self, arena: &Arena, stripe: usize) -> Result<Snapshot, Error> {
        let stripe = &self.stripes[stripe];
        let mut snapshot = Snapshot::default();
        let read = stripe.stripe.read(
            arena,
            |changing| self.repair(stripe, changing),
            |is_same| {
                snapshot.bytes.clear();
                snapshot.ends.clear();
                if let Some(pair) = self.pair() {
                    stripe.each_pair(arena, |key, value| snapshot.add_pair(pair, key, value));
                    return Some(());
                }
                let mut whole = true;
                stripe.each_entry(arena, |entry, _| {
                    // Entries that overlap are none: together they are no longer than the arena.
                    whole = whole
                        && snapshot.bytes.len() <= arena.bytes()
                        && snapshot.add(&entry, is_same);
                });
                whole.then_some(())
            },
        );
        read.map(|()| snapshot).ok_or_else(broken)
    }

    /// See [`Keeper::each_part`](crate::shm::keeper::Keeper).
    pub(super) fn each_part(
        &self,
        arena: &Arena,
        changed_by: Option<ParticipantId>,
        visit: &mut dyn FnMut(Part),
    ) {
        for stripe in &self.stripes {
            if stripe.stripe.is_changed_by(changed_by) {
                match self.pair() {
                    Some(_) => stripe.each_part_of_index(arena, CELL_BYTES, visit),
                    None => stripe.each_part(arena, visit),
                }
            }
        }
    }

    /// Checks everything: counts, chains, every block and slot reachable once or free.
    pub(super) fn check(&self, arena: &Arena) -> Result<(), String> {
        self.stripes.iter().try_for_each(|stripe| {
            let changing = self.lock(arena, stripe);
            match self.pair() {
                Some(pair) => stripe.check_pairs(arena, pair, |key| self.hash(key)),
                None => stripe.check(&changing, |key| self.hash(key)),
            }
        })
    }
}

impl Snapshot {
    fn add_pair(&mut self, pair: PairBytes, key: u64, value: u64) {
        self.bytes.extend_from_slice(&key.to_ne_bytes()[..pair.key]);
        let key_end = self.bytes.len();
        pair.append_value(value, &mut self.bytes);
        self.ends.push((key_end, self.bytes.len(), false));
    }

    fn add(&mut self, entry: &Entry<'_>, is_same: &dyn Fn() -> bool) -> bool {
        let bytes = entry.key_bytes().saturating_add(entry.value_bytes());
        if bytes > CHECKED_BYTES && !is_same() {
            return false;
        }
        if entry.load_key(&mut self.bytes).is_none() {
            return false;
        }
        let key_end = self.bytes.len();
        if entry.load_value(&mut self.bytes).is_none() {
            return false;
        }
        self.ends.push((key_end, self.bytes.len(), entry.stored() != 0));
        true
    }
}

#[cold]
fn wrong_key(bytes: usize, expected: usize) -> Error {
    Error::invalid(format!(
        "a key of {bytes} bytes in a map of numbers of {expected}: the handle is of another type"
    ))
}

#[cold]
fn broken() -> Error {
    Error::broken("a collection leads to something that is not inside the arena".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::settle::Kind;

    /// A count that was less than there were entries had the new index so short that looking for a place in it never
    /// ended; a larger one overflowed.
    #[test]
    fn counts_that_lie_are_counted_anew() {
        for pair in [None, Some(PairBytes { key: 8, value: 8 })] {
            for (count, used) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0), (0, 0)] {
                let made = MapState::create(&Parts::of(Kind::Dict), pair);
                let Ok(handle) = made else { panic!("no arena") };
                let (state, arena) = (handle.state(), handle.caller().arena());
                let put = |key: u64| {
                    let (key, value) = (key.to_ne_bytes(), (key * 3).to_ne_bytes());
                    let new = Some((&value[..], &[][..]));
                    state.change(arena, &key, new, Expected::Anything, &mut Vec::new()).is_ok()
                };
                assert!((0..2000).all(put));
                state.stripes.iter().for_each(|stripe| stripe.set_counts(count, used));
                state.len(arena);
                assert!((2000..2040).all(put));
                for key in 0..2040u64 {
                    let mut value = Vec::new();
                    assert!(state.get(arena, &key.to_ne_bytes(), &mut value).is_ok());
                    assert_eq!(value, (key * 3).to_ne_bytes());
                }
                state.clear(arena);
                assert_eq!(state.len(arena), 0);
            }
        }
    }

    /// An index that is said to be as long as the arena was walked to its end, for every look at the map: that touched all
    /// of the memory behind it, which nobody had used.
    #[test]
    fn an_index_whose_length_lies_is_not_walked() {
        let shared_kib = || {
            let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
                panic!("no status")
            };
            let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:"));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("{status}"))
        };
        for pair in [None, Some(PairBytes { key: 8, value: 8 })] {
            let made = MapState::create(&Parts::of(Kind::Dict), pair);
            let Ok(handle) = made else { panic!("no arena") };
            let (state, arena) = (handle.state(), handle.caller().arena());
            for key in 0..2000u64 {
                let (key, mut before) = (key.to_ne_bytes(), Vec::new());
                let new = Some((&key[..], &[][..]));
                assert!(state.change(arena, &key, new, Expected::Anything, &mut before).is_ok());
            }
            let before = shared_kib();
            let were: Vec<u64> =
                state.stripes.iter().map(|stripe| stripe.lie_about_length(24)).collect();
            for stripe in 0..STRIPES {
                assert!(state.snapshot(arena, stripe).is_ok_and(|all| all.entries().count() == 0));
            }
            assert!(state.check(arena).is_err());
            state.each_part(arena, None, &mut |_| ());
            let changing = state.lock(arena, &state.stripes[0]);
            state.repair(&state.stripes[0], &changing);
            drop(changing);
            assert!(shared_kib() < before + (100 << 10), "from {before} to {} KiB", shared_kib());
            for (stripe, was) in state.stripes.iter().zip(were) {
                stripe.lie_about_length(was);
            }
            state.clear(arena);
            assert_eq!(state.len(arena), 0);
        }
    }
}
