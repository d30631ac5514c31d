//! What one user of a pool does, or suffers, is not to disturb another: calls that come too late, that panic
//! half way, that are given up, or that end everything.

mod support;

use procpool::collections::List;
use procpool::sync::Event;
use procpool::{Pool, PoolBuilder, Shutdown, TaskHandle, worker};
use serde::{Deserialize, Serialize, Serializer};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use support::*;

fn builder(workers: usize) -> PoolBuilder {
    Pool::builder().workers(workers).name("near")
}

fn nap(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn begin_and_nap((begun, ms): (Event, u64)) -> u64 {
    begun.set();
    nap(ms)
}

/// All requests were posted before the guardian was told: it did not take them, and their socket was full.
#[test]
fn any_number_of_workers_starts_and_ends() {
    let _dog = watchdog(120);
    let pool = builder(40).env("SETTINGS", "x".repeat(4000)).build().unwrap();
    assert_eq!(pool.broadcast(nap, &0).unwrap().len(), 40);
    drop(pool);
    let pool = builder(1).build().unwrap();
    pool.resize(290).unwrap();
    assert_eq!(pool.map(nap, [0; 100]).unwrap().len(), 100);
    // Reaping them, too, takes requests.
    drop(pool);
}

/// The second one had been let in while the pool was open, and sent its calls when nobody was left.
#[test]
fn a_broadcast_that_comes_too_late_ends() {
    let _dog = watchdog(60);
    for _ in 0..3 {
        let pool = builder(2).build().unwrap();
        let begun = Event::new().unwrap();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| pool.broadcast(begin_and_nap, &(begun.clone(), 60_000)));
            begun.wait();
            let second = scope.spawn(|| pool.broadcast(nap, &0));
            nap(5);
            pool.shutdown(Shutdown::Now).unwrap();
            assert!(first.join().unwrap().unwrap().into_iter().all(|one| one.is_err()));
            if let Ok(outcomes) = second.join().unwrap() {
                assert!(outcomes.into_iter().all(|one| one.is_err()));
            }
        });
    }
}

/// For a moment a cancelled task had ended and had no outcome: who joined it then was told that it had been lost.
#[test]
fn who_joins_while_everything_is_cancelled_is_told_so() {
    let _dog = watchdog(120);
    for _ in 0..10 {
        let pool = builder(1).queue_capacity(2048).build().unwrap();
        let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
        let hold = |(begun, go): (Event, Event)| {
            begun.set();
            go.wait();
        };
        let first = pool.submit(hold, (begun.clone(), go.clone())).unwrap();
        begun.wait();
        let tasks: Vec<TaskHandle<u64>> = (0..2000).map(|_| pool.submit(nap, 0).unwrap()).collect();
        std::thread::scope(|scope| {
            let ender = scope.spawn(|| pool.shutdown(Shutdown::CancelQueued));
            for task in tasks {
                let error = task.join().unwrap_err();
                assert!(error.is_cancelled(), "{error}");
            }
            go.set();
            ender.join().unwrap().unwrap();
        });
        assert_eq!(first.join(), Ok(()));
    }
}

/// A panic between taking a batch and freeing its slot cost the slot.
#[test]
fn a_panic_of_the_caller_costs_no_slot() {
    let _dog = watchdog(60);
    let pool = builder(1).queue_capacity(2).build().unwrap();
    let add = |a: u64, b: u64| {
        assert!(worker::number().is_some(), "not here");
        a + b
    };
    for _ in 0..5 {
        let folded = catch_unwind(AssertUnwindSafe(|| pool.map_reduce(nap, add, [0; 100])));
        assert!(folded.is_err());
    }
    // What was given up may still be queued.
    let submit = || pool.submit_timeout(nap, 1, Duration::from_secs(20)).unwrap();
    let tasks = [submit(), submit()];
    tasks.into_iter().for_each(|task| assert_eq!(task.join(), Ok(1)));
    wait_until("it is whole", || pool.check_invariants().is_ok());
}

/// Cannot be encoded a second time.
#[derive(Deserialize)]
struct Once;

static TIMES: AtomicU32 = AtomicU32::new(0);

impl Serialize for Once {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_eq!(TIMES.fetch_add(1, Ordering::SeqCst), 0, "a second time");
        serializer.serialize_unit()
    }
}

/// What had been sent of it stayed where it was.
#[test]
fn a_broadcast_that_fails_half_way_leaves_nothing() {
    let _dog = watchdog(60);
    let pool = builder(2).queue_capacity(2).build().unwrap();
    let work = |_: Once| nap(20);
    let sent = catch_unwind(AssertUnwindSafe(|| pool.broadcast(work, &Once)));
    assert!(sent.is_err());
    for n in 0..20 {
        assert_eq!(pool.submit(nap, n).unwrap().join(), Ok(n));
    }
    wait_until("all is given back", || pool.check_invariants().is_ok());
    assert_eq!(pool.broadcast(nap, &3).unwrap(), [Ok(3), Ok(3)]);
}

/// The end of a batch that nobody wanted any more was told to who had wanted it.
#[test]
fn a_slot_that_an_abandoned_batch_had_is_seen_to_be_free() {
    let _dog = watchdog(60);
    let pool = builder(2).queue_capacity(2).build().unwrap();
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let work = |(begun, go, waits): (Event, Event, bool)| {
        if waits {
            begun.set();
            go.wait();
        } else {
            // The other has been sent by then.
            begun.wait();
        }
    };
    let inputs = [false, true].map(|waits| (begun.clone(), go.clone(), waits));
    let mut outcomes = pool.imap(work, inputs).unwrap().batch(1);
    assert_eq!(outcomes.next(), Some(Ok(())));
    drop(outcomes);
    let (held, end) = (Event::new().unwrap(), Event::new().unwrap());
    let hold = |(held, end): (Event, Event)| {
        held.set();
        end.wait();
    };
    let holds = pool.submit(hold, (held.clone(), end.clone())).unwrap();
    held.wait();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| pool.submit(nap, 1).unwrap().join());
        wait_until("it waits for a slot", || is_asleep_in_submit(&waits));
        go.set();
        assert_eq!(waits.join().unwrap(), Ok(1), "while the other still runs");
        end.set();
    });
    holds.join().unwrap();
}

/// A thread that has not ended for so long has gone to sleep.
fn is_asleep_in_submit<T>(thread: &std::thread::ScopedJoinHandle<'_, T>) -> bool {
    nap(20);
    !thread.is_finished()
}

#[test]
fn an_iterator_may_be_the_last_that_knows_its_context() {
    let _dog = watchdog(60);
    for taken in [0, 1, 100] {
        let pool = builder(1).build().unwrap();
        let add = |context: &Vec<u64>, n: u64| context[0] + n;
        let mut outcomes = pool.with(&vec![7u64; 1000]).imap(add, 0..1000).unwrap().batch(10);
        for n in 0..taken {
            assert_eq!(outcomes.next(), Some(Ok(7 + n)));
        }
        drop(pool);
        assert!(outcomes.all(|one| one.is_ok() || one.unwrap_err().is_pool_closed()));
    }
}

/// Workers that found nothing to do left at once, and were replaced, again and again.
#[test]
fn ending_at_once_starts_nobody() {
    let _dog = watchdog(60);
    let (starts, begun) = (List::<u32>::new().unwrap(), Event::new().unwrap());
    let start = |starts: List<u32>| starts.push(&std::process::id()).unwrap();
    let pool = builder(4).initializer(start, starts.clone()).build().unwrap();
    let polite = |begun: Event| {
        begun.set();
        while !worker::cancelled() {
            nap(1);
        }
    };
    let first = pool.submit(polite, begun.clone()).unwrap();
    begun.wait();
    begun.clear();
    let deaf = pool.submit(begin_and_nap, (begun.clone(), 60_000)).unwrap();
    begun.wait();
    wait_until("all have started", || starts.len() == 4);
    pool.shutdown(Shutdown::Now).unwrap();
    assert_eq!(starts.len(), 4);
    assert!(first.join().is_ok() && deaf.join().is_err());
    let stats = pool.stats();
    assert_eq!((stats.workers_started, stats.workers_lost), (4, 0));
}

/// The second took the first one's place, who was told that the supervisor had gone.
#[test]
fn two_may_shut_down() {
    let _dog = watchdog(60);
    let end = |(): ()| {
        nap(200);
    };
    let pool = builder(1).initializer(|(): ()| (), ()).finalizer(end).build().unwrap();
    assert_eq!(pool.submit(nap, 1).unwrap().join(), Ok(1));
    std::thread::scope(|scope| {
        let both =
            [scope.spawn(|| pool.join()), scope.spawn(|| pool.shutdown(Shutdown::CancelQueued))];
        both.into_iter().for_each(|one| one.join().unwrap().unwrap());
    });
}

/// What waits for finalisers is not to wait for who has none to run.
#[test]
fn an_idle_worker_that_is_stopped_holds_up_no_shutdown() {
    let _dog = watchdog(60);
    let pool = builder(1).initializer(|(): ()| (), ()).finalizer(|(): ()| ()).build().unwrap();
    let pid = pool.submit(|_: u8| std::process::id(), 0).unwrap().join().unwrap();
    wait_until("it is idle", || is_asleep(pid));
    kill(pid, libc::SIGSTOP);
    wait_until("it is stopped", || is_stopped(pid));
    pool.join().unwrap();
    assert!(!is_running(pid));
}

/// Runs a future when it is woken, in whichever thread that is; and owns it.
struct Inline(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let future = self.0.lock().unwrap().take();
        if let Some(mut future) = future {
            let waker = Waker::from(self.clone());
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                *self.0.lock().unwrap() = Some(future);
            }
        }
    }
}

/// The supervisor wakes, so that it dropped the pool that the future owned, and waited for itself.
#[test]
fn a_future_may_own_its_pool() {
    let _dog = watchdog(60);
    let other = builder(1).build().unwrap();
    let done = Event::new().unwrap();
    let said = done.clone();
    let future = async move {
        let pool = builder(1).build().unwrap();
        assert_eq!(pool.submit(nap, 20).unwrap().await, Ok(20));
        assert!(pool.resize(2).is_err(), "it cannot wait for itself");
        drop(pool);
        said.set();
    };
    Arc::new(Inline(Mutex::new(Some(Box::pin(future))))).wake();
    assert!(done.wait_timeout(Duration::from_secs(30)));
    assert_eq!(other.submit(nap, 1).unwrap().join(), Ok(1), "the supervisor lives");
}
