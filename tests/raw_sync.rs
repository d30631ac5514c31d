//! Drives `raw_sync`'s event and ours through the same generic code (feature `raw_sync`).

mod support;

use procpool::Pool;
use procpool::sync::Event;
use raw_sync::Timeout;
use raw_sync::events::{Event as RawEvent, EventInit, EventState};
use std::time::{Duration, Instant};
use support::watchdog;

/// Memory for an event of either kind, aligned for both.
#[repr(align(64))]
struct Memory([u8; 256]);

/// What both promise: a set event releases who waits and who comes; a time-out takes its time; an
/// automatic event is clear again after one wait; a second view of the memory is the same event. (`raw_sync`'s time
/// is the wall clock's, which may be set meanwhile: it was seen to come back early.)
fn drive<E: EventInit>(keeps_time: bool) {
    for automatic in [false, true] {
        let mut memory = Memory([0; 256]);
        assert!(E::size_of(None) <= memory.0.len());
        let start = memory.0.as_mut_ptr();
        // SAFETY: the memory is large enough, aligned, and outlives both views.
        let (event, used) = unsafe { E::new(start, automatic) }.unwrap();
        // SAFETY: as above, and it has just been filled.
        let (view, seen) = unsafe { E::from_existing(start) }.unwrap();
        assert_eq!(used, seen);
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(20));

        let began = Instant::now();
        assert!(view.wait(Timeout::Val(short)).is_err(), "it is not set");
        assert!(began.elapsed() >= short || !keeps_time);

        event.set(EventState::Signaled).unwrap();
        view.wait(Timeout::Val(long)).unwrap();
        let again = view.wait(Timeout::Val(Duration::ZERO));
        assert_eq!(again.is_err(), automatic, "an automatic event releases once");

        event.set(EventState::Signaled).unwrap();
        event.set(EventState::Clear).unwrap();
        assert!(view.wait(Timeout::Val(short)).is_err(), "it was cleared");

        // `raw_sync`'s boxed events cannot cross threads: each thread opens its own.
        let address = start as usize;
        let waiting = std::thread::spawn(move || {
            // SAFETY: the memory outlives the thread, which is joined below.
            let (view, _) = unsafe { E::from_existing(address as *mut u8) }.unwrap();
            view.wait(Timeout::Val(long)).is_ok()
        });
        std::thread::yield_now();
        event.set(EventState::Signaled).unwrap();
        assert!(waiting.join().unwrap());
    }
}

#[test]
fn both_events_do_the_same_through_the_traits() {
    let _dog = watchdog(60);
    drive::<RawEvent>(false);
    drive::<Event>(true);
}

#[test]
fn a_worker_opens_the_event_whose_name_is_in_the_memory() {
    let _dog = watchdog(60);
    let mut memory = vec![0u8; <Event as EventInit>::size_of(None)];
    // SAFETY: the memory is as long as the type says.
    let (event, _) = unsafe { <Event as EventInit>::new(memory.as_mut_ptr(), false) }.unwrap();
    let pool = Pool::builder().workers(1).build().unwrap();
    let wait = |mut memory: Vec<u8>| {
        // SAFETY: the bytes are a copy of those that `new` wrote, and as many.
        let (event, _) =
            unsafe { <Event as EventInit>::from_existing(memory.as_mut_ptr()) }.unwrap();
        event.wait(Timeout::Val(Duration::from_secs(20))).is_ok()
    };
    let waiting = pool.submit(wait, memory.clone()).unwrap();
    event.set(EventState::Signaled).unwrap();
    assert!(waiting.join().unwrap());

    // Once nobody has it any more, its name leads nowhere.
    drop(event);
    // SAFETY: as above.
    assert!(unsafe { <Event as EventInit>::from_existing(memory.as_mut_ptr()) }.is_err());
}
