//! Fuzz target: locks and the like in which a peer scribbles, and in the records of who waits. Operations may fail, and
//! give what is not there; but they come to an end.

use super::scribble_fuzz::{Round, Step, Steps, is_alone};
use super::{Barrier, Condvar, Event, Mutex, Once, RwLock, Semaphore};
use std::time::Duration;

const NOW: Duration = Duration::ZERO;

fn use_semaphore(semaphore: &Semaphore, (_, how, at, value): Step) {
    let many = if value.is_multiple_of(9) { value as u32 } else { 0 };
    let permits = many.saturating_add(u32::from(at) % 4);
    match how % 8 {
        0 => drop(semaphore.try_acquire()),
        1 => drop(semaphore.acquire_timeout(NOW)),
        2 => drop(semaphore.acquire_many_timeout(permits, NOW)),
        3 => drop(semaphore.release(permits)),
        4 => semaphore.try_acquire().into_iter().for_each(|permit| permit.forget()),
        5 => std::mem::forget(semaphore.try_acquire()),
        6 => drop(semaphore.try_acquire_many(permits)),
        _ => drop((semaphore.available(), semaphore.waiting())),
    }
}

fn use_lock(lock: &RwLock<u64>, (_, how, _, value): Step) {
    match how % 8 {
        0 => drop(lock.try_read()),
        1 => drop(lock.read_timeout(NOW)),
        2 | 3 => {
            if let Ok(mut writing) = lock.try_write() {
                *writing = value;
            }
        }
        4 => drop(lock.write_timeout(NOW)),
        5 => std::mem::forget(lock.try_read()),
        6 => lock.clear_poison(),
        _ => drop((lock.waiting(), lock.is_poisoned(), format!("{lock:?}"))),
    }
}

fn use_events(event: &Event, condvar: &Condvar, mutex: &Mutex<u8>, (_, how, at, _): Step) {
    match how % 8 {
        0 => event.set(),
        1 => event.clear(),
        2 => drop(event.wait_timeout(NOW)),
        3 => drop((event.is_set(), event.waiting(), event.is_automatic())),
        4 => {
            if let Ok(held) = mutex.try_lock() {
                drop(condvar.wait_timeout(held, NOW));
            }
        }
        5 => drop(condvar.notify(u32::from(at))),
        6 => drop(condvar.notify_all()),
        _ => drop((condvar.notify_one(), condvar.waiting())),
    }
}

fn use_barrier(barrier: &Barrier, once: &Once, (_, how, _, _): Step) {
    match how % 8 {
        0 | 1 => drop(barrier.wait_timeout(NOW)),
        2 => drop(barrier.wait_timeout_with(NOW, || ())),
        3 => barrier.abort(),
        4 => barrier.reset(),
        5 => drop((barrier.parties(), barrier.waiting(), barrier.is_broken())),
        6 => drop(once.call_once_timeout(NOW, || ())),
        _ => drop(once.is_completed()),
    }
}

#[test]
fn fuzz_sync_states() {
    if !is_alone("sync::state_fuzz::fuzz_sync_states") {
        return;
    }
    bolero::check!().with_type::<Steps>().for_each(|steps| {
        let mut round = Round::begin();
        let locks = (Semaphore::new(3), RwLock::new(7u64), Mutex::new(0u8));
        let (Ok(semaphore), Ok(lock), Ok(mutex)) = locks else { panic!("no room") };
        let event = if steps.len().is_multiple_of(2) { Event::new() } else { Event::automatic() };
        let others = (event, Condvar::new(), Barrier::new(2), Once::new());
        let (Ok(event), Ok(condvar), Ok(barrier), Ok(once)) = others else { panic!("no room") };
        let references = [
            semaphore.reference(),
            lock.reference(),
            event.reference(),
            condvar.reference(),
            barrier.reference(),
            once.reference(),
        ];
        for reference in references {
            round.share(reference);
            round.keep_latch(reference);
        }
        // All of it: the mutex is the C library's.
        round.keep_block(mutex.reference());
        round.with_waiters();
        for step in steps.iter().take(60) {
            match step.0 % 16 {
                0 | 1 => use_semaphore(&semaphore, *step),
                2 | 3 => use_lock(&lock, *step),
                4..7 => use_events(&event, &condvar, &mutex, *step),
                7..9 => use_barrier(&barrier, &once, *step),
                9..12 => {
                    round.tangle(references[(step.3 >> 12) as usize % references.len()], *step)
                }
                15 if step.1.is_multiple_of(2) => round.die(&references),
                _ => round.scribble(*step),
            }
        }
        drop((semaphore, lock, mutex, event, condvar, barrier, once));
        round.end();
    });
}
