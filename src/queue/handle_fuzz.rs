//! Fuzz target: handles of objects that live, of which a peer has changed something. One that leads to an object is a
//! handle of its type; and what is done with it comes to an end.

use super::{JoinableQueue, Pipe, Queue};
use crate::collections::{Array, Dict, List};
use crate::shm::shape::ObjectId;
use crate::sync::crossing::{decode_for_test, encode_for_test};
use crate::sync::handle::Reference;
use crate::sync::scribble_fuzz::{Round, is_alone};
use crate::sync::{Event, Mutex, RwLock, Semaphore};

#[test]
fn fuzz_handles_of_the_living() {
    if !is_alone("queue::handle_fuzz::fuzz_handles_of_the_living") {
        return;
    }
    type Input = Vec<(u8, u8, u8, u64)>;
    bolero::check!().with_type::<Input>().for_each(|steps| {
        let round = Round::begin();
        let locks = (Event::new(), Semaphore::new(2), Mutex::new(1u64), RwLock::new(1u32));
        let (Ok(event), Ok(semaphore), Ok(mutex), Ok(lock)) = locks else { panic!("no room") };
        let collections = (Dict::<u8, u8>::new(), List::<String>::new(), Array::new(&[1u16, 2]));
        let (Ok(dict), Ok(list), Ok(array)) = collections else { panic!("no room") };
        let queues = (Queue::<u8>::new(2), JoinableQueue::<u8>::new(2), Pipe::<u8, u8>::pair());
        let (Ok(queue), Ok(joinable), Ok((here, there))) = queues else { panic!("no room") };
        let ids: Vec<ObjectId> = [
            event.reference(),
            semaphore.reference(),
            mutex.reference(),
            lock.reference(),
            dict.reference(),
            list.reference(),
            array.reference(),
            queue.reference(),
            joinable.reference(),
        ]
        .map(Reference::id)
        .into();
        // The ends of a pipe have their names in their encoding only.
        let end = encode_for_test(&there);
        for (which, how, other, value) in steps.iter().take(30) {
            let id = ids[usize::from(*which) % ids.len()];
            let another = ids[usize::from(*other) % ids.len()];
            let value = if value.is_multiple_of(2) { value % 64 } else { *value };
            let id = match how % 8 {
                0 => id,
                1 => ObjectId::of(id.index() ^ 1 << (value % 32), id.uid()),
                2 => ObjectId::of(id.index(), id.uid() ^ 1 << (value % 64)),
                3 => ObjectId::of(another.index(), id.uid()),
                4 => ObjectId::of(id.index(), another.uid()),
                5 => ObjectId::of(value as u32, id.uid().wrapping_add(value)),
                6 => ObjectId::of(id.index(), value),
                _ => another,
            };
            let bytes = match how & 0x80 {
                0 => postcard::to_stdvec(&id).unwrap_or_default(),
                _ => end.iter().map(|byte| byte ^ (u8::from(how & 1 != 0) * *other)).collect(),
            };
            let is_of =
                |mine: &Reference| assert_eq!((mine.id(), ids.contains(&mine.id())), (id, true));
            let opened = [
                decode_for_test(&bytes).map(|other: Event| {
                    is_of(other.reference());
                    other.set();
                }),
                decode_for_test(&bytes).map(|other: Semaphore| {
                    is_of(other.reference());
                    drop(other.try_acquire());
                }),
                decode_for_test(&bytes).map(|other: Mutex<u64>| {
                    is_of(other.reference());
                    drop(other.try_lock());
                }),
                decode_for_test(&bytes).map(|other: Mutex<u32>| is_of(other.reference())),
                decode_for_test(&bytes)
                    .map(|other: RwLock<u32>| drop((is_of(other.reference()), other.try_read()))),
                decode_for_test(&bytes).map(|other: Dict<u8, u8>| {
                    is_of(other.reference());
                    drop(other.insert(&1, &2));
                }),
                decode_for_test(&bytes).map(|other: Dict<String, String>| {
                    is_of(other.reference());
                    assert!(other.insert("a long key", &"b".into()).is_err());
                }),
                decode_for_test(&bytes)
                    .map(|other: List<String>| drop((other.push(&"x".into()), other.pop()))),
                decode_for_test(&bytes).map(|other: Array<u16>| {
                    is_of(other.reference());
                    assert_eq!(other.len(), 2);
                }),
                decode_for_test(&bytes)
                    .map(|other: Queue<u8>| drop((other.try_put(1), other.try_get()))),
                decode_for_test(&bytes)
                    .map(|other: JoinableQueue<u8>| drop((other.try_put(1), other.len()))),
                decode_for_test(&bytes).map(|other: Pipe<u8, u8>| {
                    drop((other.try_send(1), other.try_recv(), other.is_disconnected()));
                }),
            ];
            // Two of another value's type, or of none that is told apart: dicts.
            assert!(opened.iter().filter(|opened| opened.is_ok()).count() <= 2);
        }
        drop((event, semaphore, mutex, lock, dict, list));
        drop((array, queue, joinable, here, there));
        round.end();
    });
}
