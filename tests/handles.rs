//! Handles of tasks: cancelling, awaiting, callbacks, waiting for any, all, or one after the other.

mod support;

use procpool::collections::List;
use procpool::sync::Event;
use procpool::{Pool, TaskError, TaskHandle, as_completed, wait_all, wait_any};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use support::*;

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).name("hndl").build().unwrap()
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A worker that is busy until the event is set.
fn occupied(pool: &Pool) -> (Event, TaskHandle<bool>) {
    let (go, begun) = (Event::new().unwrap(), Event::new().unwrap());
    let wait = |(go, begun): (Event, Event)| {
        begun.set();
        go.wait_timeout(Duration::from_secs(30))
    };
    let task = pool.submit(wait, (go.clone(), begun.clone())).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    (go, task)
}

#[test]
fn only_what_has_not_started_can_be_cancelled() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let (go, running) = occupied(&pool);
    let ran = List::<u64>::new().unwrap();
    let note = |(ran, n): (List<u64>, u64)| ran.push(&n).unwrap();
    let queued: Vec<TaskHandle<()>> =
        (0..5).map(|n| pool.submit(note, (ran.clone(), n)).unwrap()).collect();
    assert!(!running.cancel(), "it runs");
    assert!(queued[1].cancel() && queued[3].cancel());
    assert!(!queued[1].cancel(), "it is cancelled already");
    assert_eq!(pool.stats().tasks_queued, queued.len() as u64 - 2);
    assert!(queued[1].is_finished() && !queued[0].is_finished());
    go.set();
    assert!(running.join().unwrap());
    for (n, task) in queued.into_iter().enumerate() {
        let outcome = task.join();
        match n {
            1 | 3 => assert!(outcome.unwrap_err().is_cancelled()),
            _ => outcome.unwrap(),
        }
    }
    assert_eq!(ran.to_vec().unwrap(), [0, 2, 4]);
    let done = pool.submit(sleep_ms, 0).unwrap();
    wait_until("it has ended", || done.is_finished());
    assert!(!done.cancel(), "it has ended");
    assert_eq!(done.join().unwrap(), 0);
}

#[test]
fn cancelled_tasks_leave_room_for_others_while_all_workers_are_busy() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("hndl").queue_capacity(8).build().unwrap();
    let (go, running) = occupied(&pool);
    for round in 0..1000 {
        let tasks: Vec<_> = (0..7).map(|n| pool.try_submit(sleep_ms, n).unwrap()).collect();
        assert!(tasks.iter().all(TaskHandle::cancel), "{round}");
    }
    let last = pool.submit(sleep_ms, 1).unwrap();
    go.set();
    assert_eq!((running.join().unwrap(), last.join().unwrap()), (true, 1));
    #[cfg(debug_assertions)]
    pool.check_invariants().unwrap();
}

#[test]
fn a_dropped_handle_cancels_only_if_it_was_asked_to() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let (go, running) = occupied(&pool);
    let ran = List::<u64>::new().unwrap();
    let note = |(ran, n): (List<u64>, u64)| ran.push(&n).unwrap();
    drop(pool.submit(note, (ran.clone(), 1)).unwrap());
    drop(pool.submit(note, (ran.clone(), 2)).unwrap().cancel_on_drop());
    drop(running);
    go.set();
    pool.submit(note, (ran.clone(), 3)).unwrap().join().unwrap();
    assert_eq!(ran.to_vec().unwrap(), [1, 3]);
}

#[test]
fn a_handle_can_be_awaited_in_any_executor() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let sum = block_on(async {
        let (first, second) =
            (pool.submit(sleep_ms, 30).unwrap(), pool.submit(sleep_ms, 20).unwrap());
        first.await.unwrap() + second.await.unwrap()
    });
    assert_eq!(sum, 50);
    for n in 0..300u64 {
        assert_eq!(block_on(pool.submit(|n: u64| n, n).unwrap()).unwrap(), n);
    }
    let error = block_on(pool.submit(|n: u8| assert!(n != 1, "no"), 1).unwrap()).unwrap_err();
    let _: &TaskError = &error;
    assert_eq!(error.panic_message(), Some("no"));
    let lost = block_on(pool.submit(|_: u8| die(), 1).unwrap()).unwrap_err();
    assert!(lost.is_worker_lost());
}

#[test]
fn a_future_is_woken_however_its_task_ends() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let (go, running) = occupied(&pool);
    let cancelled = pool.submit(sleep_ms, 1).unwrap();
    // Polled once, then dropped: nobody is woken, and nothing is left.
    let dropped = pool.submit(sleep_ms, 1).unwrap();
    let mut dropped = Box::pin(dropped);
    assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(dropped);
    let outcome = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            let mut running = Box::pin(running);
            let mut context = Context::from_waker(&waker);
            while running.as_mut().poll(&mut context).is_pending() {
                std::thread::park();
            }
        });
        assert!(cancelled.cancel());
        let outcome = block_on(cancelled);
        go.set();
        waiting.join().unwrap();
        outcome
    });
    assert!(outcome.unwrap_err().is_cancelled());
    // The pool is dropped under it.
    let (_go, running) = occupied(&pool);
    let queued = pool.submit(sleep_ms, 1).unwrap();
    let ends = std::thread::spawn(move || (block_on(running), block_on(queued)));
    sleep_ms(20);
    drop(pool);
    let (running, queued) = ends.join().unwrap();
    assert!(running.unwrap_err().is_pool_closed() && queued.unwrap_err().is_pool_closed());
}

#[test]
fn callbacks_are_called_once_and_one_that_panics_disturbs_nobody() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let (sender, outcomes) = mpsc::channel();
    for n in 0..100u64 {
        let sender = sender.clone();
        let task = pool
            .submit(
                |n: u64| {
                    assert!(n != 7, "seven");
                    n
                },
                n,
            )
            .unwrap();
        task.on_done(move |outcome| {
            sender.send(outcome.is_ok()).unwrap();
            assert!(n % 10 != 3, "a callback that panics");
        })
        .unwrap();
    }
    drop(sender);
    let outcomes: Vec<bool> = outcomes.iter().collect();
    assert_eq!(outcomes.len(), 100);
    assert_eq!(outcomes.iter().filter(|ok| !**ok).count(), 1);
    // One whose task has ended already, and one whose worker dies.
    let (sender, outcomes) = mpsc::channel();
    let done = pool.submit(sleep_ms, 0).unwrap();
    wait_until("it has ended", || done.is_finished());
    let to = sender.clone();
    done.on_done(move |outcome| to.send(outcome.map(|_| ())).unwrap()).unwrap();
    assert_eq!(outcomes.recv_timeout(Duration::from_secs(10)).unwrap(), Ok(()));
    let lost = pool.submit(|_: u8| die(), 1).unwrap();
    lost.on_done(move |outcome| sender.send(outcome).unwrap()).unwrap();
    let lost = outcomes.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(lost.unwrap_err().is_worker_lost());
}

#[test]
fn waiting_for_any_and_for_all() {
    let _dog = watchdog(60);
    let pool = pool(3);
    let tasks = [400, 5, 200].map(|ms| pool.submit(sleep_ms, ms).unwrap());
    assert_eq!(wait_any(&tasks, Duration::from_secs(10)), Some(1));
    let start = Instant::now();
    assert!(!wait_all(&tasks, Duration::from_millis(30)));
    assert!(start.elapsed() >= Duration::from_millis(30), "{:?}", start.elapsed());
    assert!(wait_all(&tasks, Duration::MAX));
    assert_eq!(tasks.map(|task| task.join().unwrap()), [400, 5, 200]);
    let none: [TaskHandle<u64>; 0] = [];
    assert_eq!(wait_any(&none, Duration::MAX), None);
    assert!(wait_all(&none, Duration::ZERO));
    // All die.
    let tasks = [(); 3].map(|()| pool.submit(|_: u8| die(), 1).unwrap());
    assert!(wait_all(&tasks, Duration::from_secs(10)));
}

#[test]
fn outcomes_come_as_tasks_end() {
    let _dog = watchdog(60);
    let pool = pool(3);
    let tasks = [300u64, 5, 150].map(|ms| pool.submit(sleep_ms, ms).unwrap());
    let mut ended = as_completed(tasks.into());
    assert_eq!(ended.next_timeout(Duration::from_secs(10)), Some((1, Ok(5))));
    assert_eq!(ended.next_timeout(Duration::from_millis(5)), None);
    assert_eq!(ended.left(), 2);
    let rest: Vec<usize> = ended
        .map(|(place, outcome)| {
            outcome.unwrap();
            place
        })
        .collect();
    assert_eq!(rest, [2, 0]);
    let tasks: Vec<_> = (0..200u64).map(|n| pool.submit(|n: u64| n, n).unwrap()).collect();
    let mut all: Vec<(usize, u64)> =
        as_completed(tasks).map(|(place, outcome)| (place, outcome.unwrap())).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq((0..200).map(|n| (n as usize, n))));
}
