//! Outcomes one by one: `imap`, `imap_unordered`, and `for_each` and `map_reduce`.

mod support;

use procpool::collections::{Dict, List};
use procpool::sync::Event;
use procpool::{Pool, TaskError, WorkerState, WorkerStats};
use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::*;

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).name("strm").build().unwrap()
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

#[test]
fn outcomes_come_in_order_for_any_length_and_batch() {
    let _dog = watchdog(120);
    let pool = pool(2);
    for length in [0u64, 1, 2, 17, 5000] {
        for batch in [None, Some(1), Some(7), Some(100_000)] {
            let imap = pool.imap(|n: u64| n * 3, 0..length).unwrap();
            let imap = match batch {
                Some(batch) => imap.batch(batch),
                None => imap,
            };
            let values: Vec<u64> = imap.map(Result::unwrap).collect();
            assert!(values.into_iter().eq((0..length).map(|n| n * 3)), "{length} {batch:?}");
        }
    }
}

#[test]
fn unordered_outcomes_come_each_once_and_the_quick_before_the_slow() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let mut unordered = pool.imap_unordered(sleep_ms, [300u64, 1, 2, 3]).unwrap().batch(1);
    assert!(unordered.next().unwrap().unwrap() < 300);
    let rest: Vec<u64> = unordered.map(Result::unwrap).collect();
    assert_eq!((rest.len(), rest.last()), (3, Some(&300)));
    let values: Vec<u64> =
        pool.imap_unordered(|n: u64| n, 0..20_000u64).unwrap().map(Result::unwrap).collect();
    assert_eq!(values.len(), 20_000);
    assert_eq!(values.into_iter().collect::<HashSet<u64>>().len(), 20_000);
}

#[test]
fn who_waits_for_an_outcome_for_so_long_gets_it_later() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let held = |(begun, go, n): (Event, Event, u32)| {
        begun.set();
        assert!(go.wait_timeout(Duration::from_secs(30)));
        n
    };
    for ordered in [true, false] {
        let inputs = (0..3).map(|n| (begun.clone(), go.clone(), n));
        let mut imap = match ordered {
            true => pool.imap(held, inputs).unwrap(),
            false => pool.imap_unordered(held, inputs).unwrap(),
        };
        for short in [Duration::ZERO, Duration::from_millis(5)] {
            let start = Instant::now();
            let error = imap.next_timeout(short).unwrap_err();
            assert!(error.is_timed_out() && start.elapsed() >= short, "{error}");
            assert!(error.to_string().contains(&format!("{short:?}")), "{error}");
        }
        go.set();
        // The sooner ones did not wait for nothing: it has begun.
        assert!(begun.wait_timeout(Duration::from_secs(30)));
        assert_eq!(imap.next_timeout(Duration::from_secs(30)).unwrap(), Some(Ok(0)));
        assert_eq!(imap.next(), Some(Ok(1)));
        assert_eq!(imap.next_timeout(Duration::MAX).unwrap(), Some(Ok(2)));
        assert_eq!(imap.next_timeout(Duration::ZERO).unwrap(), None);
        begun.clear();
        go.clear();
    }
    // All slots are another's.
    let full = Pool::builder().workers(1).queue_capacity(1).build().unwrap();
    let held = full.submit(held, (begun.clone(), go.clone(), 7)).unwrap();
    let mut waits = full.imap(|n: u32| n, [1]).unwrap();
    assert!(waits.next_timeout(Duration::from_millis(5)).is_err_and(|error| error.is_timed_out()));
    go.set();
    assert_eq!((waits.next_timeout(Duration::MAX).unwrap(), held.join()), (Some(Ok(1)), Ok(7)));
}

#[test]
fn no_more_inputs_are_taken_than_the_window_allows() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let taken = Cell::new(0u64);
    let counted = || (0..200_000u64).inspect(|_| taken.set(taken.get() + 1));
    let mut imap = pool.imap(|n: u64| n, counted()).unwrap();
    assert_eq!(taken.get(), 0, "it is lazy");
    assert_eq!(imap.next(), Some(Ok(0)));
    assert!((1..=10_000).contains(&taken.get()), "{}", taken.get());
    drop(imap);
    for window in [1, 5, 64] {
        taken.set(0);
        let mut imap = pool.imap(|n: u64| n, counted()).unwrap().window(window);
        for n in 0..1000 {
            assert_eq!(imap.next(), Some(Ok(n)));
            // One may be waiting for its place.
            assert!(
                taken.get() <= n + window as u64 + 1,
                "{} of {n}, window {window}",
                taken.get()
            );
        }
    }
    // The first one is slow: the others wait for it within the window.
    taken.set(0);
    let slow_first = |n: u64| sleep_ms(if n == 0 { 200 } else { 0 });
    let mut imap = pool.imap(slow_first, counted()).unwrap().window(50);
    assert!(imap.next().unwrap().is_ok());
    assert!(taken.get() <= 51, "{}", taken.get());
}

/// The first call waits until nothing else goes on: whatever was taken by then is what the window lets be taken.
#[test]
fn an_endless_input_is_taken_as_far_as_the_bytes_of_its_results_allow() {
    let _dog = watchdog(60);
    const RESULT: usize = 16 << 10;
    for batch in [Some(1), None] {
        let pool = pool(2);
        let (go, taken) = (Event::new().unwrap(), AtomicUsize::new(0));
        let large = |(go, n): (Event, u64)| {
            if n == 0 {
                go.wait_timeout(Duration::from_secs(30));
            }
            vec![n as u8; RESULT]
        };
        let inputs = (0u64..).map(|n| {
            taken.fetch_add(1, Relaxed);
            (go.clone(), n)
        });
        let mut imap = pool.imap(large, inputs).unwrap().window_bytes(16 * RESULT);
        if let Some(batch) = batch {
            imap = imap.batch(batch);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let is_idle = |worker: &WorkerStats| {
                    matches!(worker.state, WorkerState::Idle(time) if time > Duration::from_millis(100))
                };
                wait_until("all but the first call has ended", || {
                    taken.load(Relaxed) > 1 && pool.stats().workers.iter().any(is_idle)
                });
                go.set();
            });
            assert_eq!(imap.next(), Some(Ok(vec![0; RESULT])));
        });
        // One of each of the five batches that are under way before it is known how long results are, and one
        // input that has not been sent.
        let taken = taken.load(Relaxed);
        assert!((2..=16 + 5 + 1).contains(&taken), "{taken} of {} were taken, {batch:?}", 16);
        assert!(imap.take(50).all(|outcome| outcome.unwrap().len() == RESULT), "it goes on");
    }
}

#[test]
fn an_endless_input_keeps_memory_flat() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let texts = (0u64..).map(|n| n.to_string().repeat(2000));
    let mut imap = pool.imap(|text: String| text, texts).unwrap().window_bytes(1 << 20);
    let mut most = 0;
    for n in 0..5000u64 {
        let text = imap.next().unwrap().unwrap();
        assert!(text.starts_with(&n.to_string()));
        most = most.max(pool.stats().arena_used_bytes);
    }
    drop(imap);
    // 37 MB have gone through it, of which 2 MB were there at a time.
    assert!(most < 8 << 20, "{most} bytes");
}

#[test]
fn failures_are_outcomes_with_their_index_and_the_rest_goes_on() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let refuse = |n: u64| match n % 100 {
        7 => panic!("{n} is refused"),
        13 => {
            die();
            n
        }
        _ => n,
    };
    for ordered in [true, false] {
        let outcomes: Vec<Result<u64, TaskError>> = match ordered {
            true => pool.imap(refuse, 0..500u64).unwrap().collect(),
            false => pool.imap_unordered(refuse, 0..500u64).unwrap().collect(),
        };
        assert_eq!(outcomes.len(), 500);
        let errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let mut seen: Vec<(usize, bool)> =
            errors.map(|error| (error.index().unwrap(), error.is_panic())).collect();
        seen.sort_unstable();
        let expected: Vec<(usize, bool)> =
            (0..5).flat_map(|n| [(n * 100 + 7, true), (n * 100 + 13, false)]).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn dropping_it_gives_up_what_has_not_started() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let ran = List::<u64>::new().unwrap();
    let note = |(ran, n): (List<u64>, u64)| {
        ran.push(&n).unwrap();
        sleep_ms(20)
    };
    let mut imap = pool.imap(note, (0..100u64).map(|n| (ran.clone(), n))).unwrap();
    assert!(imap.next().unwrap().is_ok());
    drop(imap);
    assert_eq!(pool.map(|n: u8| n, [1]).unwrap(), [1]);
    let count = ran.len();
    assert!(count <= 3, "{count} ran");
    sleep_ms(100);
    assert_eq!(ran.len(), count, "and none of them later");
}

#[test]
fn an_input_that_panics_leaves_the_pool_usable() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let inputs = || (0..100u64).inspect(|n| assert!(*n != 40, "no more input"));
    let mut imap = pool.imap(|n: u64| n, inputs()).unwrap().window(5);
    let mut got = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        for outcome in imap.by_ref() {
            assert_eq!(outcome.unwrap(), got);
            got += 1;
        }
    }));
    assert!(panicked.is_err() && (30..=40).contains(&got), "{got}");
    drop(imap);
    assert!(catch_unwind(AssertUnwindSafe(|| pool.map(|n: u64| n, inputs()))).is_err());
    assert_eq!(pool.map(|n: u64| n, 0..1000u64).unwrap().len(), 1000);
    #[cfg(debug_assertions)]
    wait_until("nothing is left", || pool.check_invariants().is_ok());
}

#[test]
fn a_pool_that_closes_is_the_last_outcome() {
    let _dog = watchdog(60);
    let pool = pool(1);
    let imap = pool.imap(sleep_ms, std::iter::repeat(1)).unwrap().window(2).batch(1);
    let other = std::thread::scope(|scope| {
        let outcomes = scope.spawn(|| {
            // Not `collect`: it would never end if the close were missed.
            let mut imap = pool.imap(sleep_ms, std::iter::repeat(1)).unwrap();
            imap.find(Result::is_err)
        });
        sleep_ms(50);
        drop(imap);
        pool.close();
        outcomes.join().unwrap()
    });
    assert!(other.unwrap().unwrap_err().is_pool_closed());
    assert!(pool.imap(|n: u8| n, [1]).unwrap_err().is_closed());
    // What was taken and not asked for keeps nobody from shutting down, and stays.
    let pool = self::pool(1);
    let mut imap = pool.imap(|n: u64| n, 0..).unwrap().window(3).batch(1);
    assert_eq!(imap.next(), Some(Ok(0)));
    pool.join().unwrap();
    let rest: Vec<_> = imap.collect();
    assert!((1..=3).contains(&rest.len()) && rest.last().unwrap().is_err(), "{rest:?}");
}

#[test]
fn for_each_runs_all_or_tells_the_first_failure() {
    let _dog = watchdog(60);
    let pool = pool(2);
    let seen = Dict::<u64, u64>::new().unwrap();
    let note = |(seen, n): (Dict<u64, u64>, u64)| {
        seen.insert(&n, &1).unwrap();
    };
    pool.for_each(note, (0..1000u64).map(|n| (seen.clone(), n))).unwrap();
    assert_eq!(seen.len(), 1000);
    let error = pool.for_each(|n: u64| assert!(n < 30, "too much"), 0..50u64).unwrap_err();
    assert_eq!(error.panic_message(), Some("too much"));
    assert_eq!(error.task_error().unwrap().index(), Some(30));
}

#[test]
fn map_reduce_folds_neighbours_in_order() {
    let _dog = watchdog(60);
    let pool = pool(2);
    for length in [1u64, 2, 100, 20_000] {
        let texts = pool.map_reduce(|n: u64| n.to_string(), |a, b| a + "," + &b, 0..length);
        let expected: Vec<String> = (0..length).map(|n| n.to_string()).collect();
        assert_eq!(texts.unwrap().unwrap(), expected.join(","));
    }
    let none = pool.map_reduce(|n: u64| n, |a, b| a + b, std::iter::empty());
    assert_eq!(none.unwrap(), None);
    // An input that does not say how long it is.
    let odd = (0..10_000u64).filter(|n| n % 2 == 1);
    assert_eq!(pool.map_reduce(|n: u64| n, |a, b| a + b, odd).unwrap(), Some(25_000_000));
    let error = pool.map_reduce(|n: u64| assert!(n != 5, "five"), |(), ()| (), 0..9u64);
    assert_eq!(error.unwrap_err().panic_message(), Some("five"));
}

#[test]
fn a_map_in_the_background_ends_with_its_results_or_not_at_all() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let squares = pool.submit_map(|n: u64| n * n, 0..1000).unwrap();
    assert!(squares.wait_timeout(Duration::from_secs(30)) && squares.is_finished());
    assert_eq!(squares.join().unwrap()[30], 900);
    let none = pool.submit_map(|n: u64| n, []).unwrap();
    assert!(none.join().unwrap().is_empty());
    let panics = |n: u64| if n == 7 { panic!("seven") } else { n };
    let error = pool.submit_map(panics, 0..100).unwrap().join().unwrap_err();
    assert_eq!(
        (error.panic_message(), error.task_error().unwrap().index()),
        (Some("seven"), Some(7))
    );
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let endless = pool.submit_map(nap, std::iter::repeat(1)).unwrap();
    assert!(!endless.wait_timeout(Duration::from_millis(20)));
    endless.cancel();
    assert!(endless.join().unwrap_err().task_error().unwrap().is_cancelled());
    let input = (0..10u64).inspect(|n| assert!(*n < 5, "the input ends badly"));
    let ends_badly = pool.submit_map(|n: u64| n, input).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ends_badly.join()));
    assert!(caught.is_err());
    let last = pool.submit_map(|n: u64| n, 0..5000).unwrap();
    pool.join().unwrap();
    assert_eq!(last.join().unwrap().len(), 5000, "what was accepted is done");
    assert!(pool.submit_map(|n: u64| n, 0..5).unwrap_err().is_closed());
}
