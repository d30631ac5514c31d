//! Somebody dies in the middle of each of the pool's verbs, or an input panics there: exactly the culprit's call is
//! lost, all others have their outcome, and the pool goes on.
//!
//! Each test kills twice: from the task itself, so that it is known which call it hits; and by a thread that kills
//! workers at random, with retries, so that nothing may be missing in the end.

mod support;

use procpool::collections::{Dict, List};
use procpool::sync::Event;
use procpool::{
    Error, Pool, PoolBuilder, Priority, Retry, TaskHandle, TaskOptions, WorkerExit, as_completed,
    wait_all, worker,
};
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use support::*;

const LONG: Duration = Duration::from_secs(30);

/// Each test has a name of its own: it kills its workers by it.
fn builder(name: &str, workers: usize) -> PoolBuilder {
    Pool::builder().workers(workers).name(name).restart_limit(1_000_000, Duration::from_secs(1))
}

/// One whose tasks are begun again as often as it takes.
fn patient(name: &str, workers: usize) -> Pool {
    builder(name, workers).retry(Retry::lost(10_000)).build().unwrap()
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn nap_us(us: u64) {
    std::thread::sleep(Duration::from_micros(us));
}

/// Kills one worker of a pool after the other while `run` does what it does; how many.
fn while_workers_are_killed<T>(name: &str, run: impl FnOnce() -> T) -> (T, u32) {
    /// Ends the killing also if `run` panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let (mut random, mut killed) = (Random(seed()), 0);
            while !done.load(Ordering::Relaxed) {
                let pids = workers_of(std::process::id(), name);
                if let Some(pid) = pids.get(random.next() as usize % pids.len().max(1)) {
                    kill(*pid, libc::SIGKILL);
                    killed += 1;
                }
                nap_us(random.next() % 6000);
            }
            killed
        });
        let ends = Done(&done);
        let value = run();
        drop(ends);
        (value, killer.join().unwrap())
    })
}

/// That it still does what it is there for, and that nothing is left of what was.
fn still_works(pool: &Pool) {
    assert_eq!(pool.map(|n: u64| n + 1, 0..100u64).unwrap(), (1..101).collect::<Vec<_>>());
    #[cfg(debug_assertions)]
    wait_until("all is settled", || pool.check_invariants().is_ok());
}

fn is_lost(error: &Error) -> bool {
    error.is_worker_lost() && error.worker_exit() == Some(WorkerExit::Signal(6))
}

// The verbs --------------------------------------------------------------------------------------

#[test]
fn map_reduce_loses_a_worker_that_maps() {
    let _dog = watchdog(100);
    let pool = builder("mid0", 2).build().unwrap();
    let dies = |n: u64| {
        if n == 700 {
            die();
        }
        n
    };
    let error = pool.map_reduce(dies, |a, b| a + b, 0..2000u64).unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert_eq!(pool.map_reduce(|n: u64| n, |a, b| a + b, 0..2000).unwrap(), Some(1_999_000));
    still_works(&pool);
    drop(pool);
    let pool = patient("mid0", 2);
    let slow = |n: u64| {
        nap_us(100);
        n.to_string()
    };
    let expected: Vec<String> = (0..1500).map(|n| n.to_string()).collect();
    let expected = expected.join(",");
    for _ in 0..3 {
        let (text, _) = while_workers_are_killed("mid0", || {
            pool.map_reduce(slow, |a, b| a + "," + &b, 0..1500).unwrap().unwrap()
        });
        assert_eq!(text, expected, "each once, and in order");
    }
    still_works(&pool);
}

#[test]
fn map_reduce_loses_a_worker_that_folds_or_its_fold_panics() {
    let _dog = watchdog(60);
    let pool = builder("mid1", 2).build().unwrap();
    let dies = |a: u64, b: u64| {
        if worker::number().is_some() {
            die();
        }
        a + b
    };
    let error = pool.map_reduce(|n: u64| n, dies, 0..100).unwrap_err();
    assert!(is_lost(&error), "{error}");
    let panics = |a: u64, b: u64| {
        assert!(worker::number().is_none(), "in a worker");
        a + b
    };
    let error = pool.map_reduce(|n: u64| n, panics, 0..100).unwrap_err();
    assert_eq!(error.panic_message(), Some("in a worker"));
    // What comes from different workers is folded here: a panic is one of this program then.
    let panics = |a: u64, b: u64| {
        assert!(worker::number().is_some(), "in the program");
        a + b
    };
    let folds = || pool.map_reduce(|n: u64| n, panics, 0..100);
    assert!(catch_unwind(AssertUnwindSafe(folds)).is_err());
    still_works(&pool);
}

#[test]
fn for_each_loses_a_worker() {
    let _dog = watchdog(60);
    let pool = builder("mid2", 2).build().unwrap();
    let dies = |n: u64| {
        if n == 30 {
            die();
        }
    };
    let error = pool.for_each(dies, 0..60u64).unwrap_err();
    assert!(is_lost(&error) && error.task_error().unwrap().index() == Some(30), "{error}");
    still_works(&pool);
    drop(pool);
    let pool = patient("mid2", 3);
    let seen = Dict::<u64, u64>::new().unwrap();
    let note = |(seen, n): (Dict<u64, u64>, u64)| {
        nap_us(200);
        seen.update_or_insert_with(&n, || 0, |times| *times += 1).unwrap();
    };
    let (done, killed) = while_workers_are_killed("mid2", || {
        pool.for_each(note, (0..800u64).map(|n| (seen.clone(), n)))
    });
    done.unwrap();
    assert_eq!(seen.len(), 800, "none was left out");
    let again = seen.values().unwrap().iter().map(|times| times - 1).sum::<u64>();
    assert!(again <= u64::from(killed), "{again} twice, {killed} killed");
    still_works(&pool);
}

#[test]
fn a_map_in_the_background_loses_a_worker() {
    let _dog = watchdog(60);
    let pool = builder("mid3", 2).build().unwrap();
    let dies = |n: u64| {
        if n == 70 {
            die();
        }
        n
    };
    let map = pool.submit_map(dies, 0..100u64).unwrap();
    assert!(map.wait_timeout(LONG) && map.is_finished());
    let error = map.join().unwrap_err();
    assert!(is_lost(&error) && error.task_error().unwrap().index() == Some(70), "{error}");
    still_works(&pool);
    drop(pool);
    let pool = patient("mid3", 3);
    let slow = |n: u64| {
        nap_us(100);
        n * 2
    };
    let (values, _) = while_workers_are_killed("mid3", || {
        let maps = [(); 3].map(|()| pool.submit_map(slow, 0..500u64).unwrap());
        maps.map(|map| map.join().unwrap())
    });
    assert!(values.iter().all(|values| values.iter().copied().eq((0..500).map(|n| n * 2))));
    still_works(&pool);
}

#[derive(Debug)]
struct Counter {
    calls: u64,
    bonus: u64,
}

fn begin(begun: List<u32>) -> Counter {
    begun.push(&std::process::id()).unwrap();
    Counter { calls: 0, bonus: 0 }
}

fn count(counter: &mut Counter, n: u64) -> (u32, u64, u64) {
    counter.calls += 1;
    if n % 50 == 49 {
        die();
    }
    (std::process::id(), counter.calls, counter.bonus)
}

#[test]
fn the_state_of_a_lost_worker_is_made_again() {
    let _dog = watchdog(60);
    let begun = List::<u32>::new().unwrap();
    let pool = builder("mid4", 2).initializer(begin, begun.clone()).build().unwrap();
    let outcomes = pool.map_state_each(count, 0..500u64).unwrap();
    let mut calls: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok((pid, count, 0)) => calls.entry(pid).or_default().push(count),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.is_worker_lost() && n % 50 == 49, "{n}: {error}"),
        }
    }
    let states: HashSet<u32> = begun.to_vec().unwrap().into_iter().collect();
    assert_eq!(states.len(), begun.len(), "one state in each process");
    for (pid, mut counts) in calls {
        counts.sort_unstable();
        let expected: Vec<u64> = (1..=counts.len() as u64).collect();
        assert!(counts == expected && states.contains(&pid), "from the first call on: {counts:?}");
    }
    assert_eq!(pool.stats().workers_lost, 10);
    wait_until("all have begun", || begun.len() == 12);
    let lost = pool.submit_state(count, 49).unwrap().join().unwrap_err();
    assert!(lost.is_worker_lost(), "{lost}");
    assert_eq!(pool.submit_state(count, 0).unwrap().join().unwrap().2, 0);
    still_works(&pool);
}

#[test]
fn a_broadcast_changes_the_state_of_each_worker_but_the_lost_ones() {
    let _dog = watchdog(60);
    let begun = List::<u32>::new().unwrap();
    let pool = builder("mid5", 3).initializer(begin, begun.clone()).build().unwrap();
    let give = |counter: &mut Counter, bonus: u64| {
        counter.bonus += bonus;
        (worker::number().unwrap(), counter.bonus)
    };
    let bonuses = || -> Vec<(usize, u64)> {
        pool.broadcast_state(give, &0).unwrap().into_iter().map(Result::unwrap).collect()
    };
    assert_eq!(pool.broadcast_state(give, &5).unwrap().len(), 3);
    assert_eq!(bonuses(), [(0, 5), (1, 5), (2, 5)]);
    let dies = |counter: &mut Counter, bonus: u64| {
        if worker::number() == Some(1) {
            die();
        }
        counter.bonus += bonus;
    };
    let outcomes = pool.broadcast_state(dies, &2).unwrap();
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert!(outcomes[1].as_ref().unwrap_err().is_worker_lost());
    assert_eq!(bonuses(), [(0, 7), (1, 0), (2, 7)], "its successor has a state of its own");
    let panics = |counter: &mut Counter, _: u64| -> u64 { panic!("with {}", counter.bonus) };
    let outcomes = pool.broadcast_state(panics, &0).unwrap();
    assert_eq!(outcomes[2].as_ref().unwrap_err().panic_message(), Some("with 7"));
    // Another state than there is, and none at all.
    let outcomes = pool.broadcast_state(|_: &mut String, n: u8| n, &1).unwrap();
    assert!(outcomes.iter().all(|outcome| {
        outcome
            .as_ref()
            .is_err_and(|error| error.is_codec() && error.to_string().contains("Counter"))
    }));
    let outcomes = pool_of(2).broadcast_state(|_: &mut String, n: u8| n, &1).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap_err().is_codec()));
    pool.close();
    assert!(pool.broadcast_state(give, &1).unwrap_err().is_closed());
}

#[test]
fn broadcasts_to_states_end_whoever_is_killed() {
    let _dog = watchdog(60);
    let begun = List::<u32>::new().unwrap();
    let pool = builder("mid6", 3).initializer(begin, begun.clone()).build().unwrap();
    while_workers_are_killed("mid6", || {
        for _ in 0..100 {
            let give = |counter: &mut Counter, bonus: u64| {
                counter.bonus += bonus;
                counter.bonus
            };
            let outcomes = pool.broadcast_state(give, &1).unwrap();
            assert_eq!(outcomes.len(), 3);
            for outcome in outcomes {
                match outcome {
                    Ok(bonus) => assert!(bonus >= 1),
                    Err(error) => assert!(error.is_worker_lost(), "{error}"),
                }
            }
        }
    });
    still_works(&pool);
}

#[test]
fn as_completed_gives_each_outcome_once_whoever_dies() {
    let _dog = watchdog(60);
    let pool = builder("mid7", 3).build().unwrap();
    let dies_of_seven = |n: u64| {
        nap_us(300);
        if n % 7 == 3 {
            die();
        }
        n
    };
    let tasks: Vec<_> = (0..70u64).map(|n| pool.submit(dies_of_seven, n).unwrap()).collect();
    let mut seen = HashSet::new();
    for (place, outcome) in as_completed(tasks) {
        assert!(seen.insert(place), "{place} twice");
        match outcome {
            Ok(n) => assert!(n as usize == place && n % 7 != 3),
            Err(error) => assert!(error.is_worker_lost() && place % 7 == 3, "{error}"),
        }
    }
    assert_eq!(seen.len(), 70);
    // Killed from outside: whoever runs then is lost, and all of them end.
    let (mut ended, killed) = while_workers_are_killed("mid7", || {
        let tasks = (0..200).map(|n| pool.submit(sleep_ms, n % 3).unwrap()).collect();
        as_completed(tasks).collect::<Vec<_>>()
    });
    let lost = ended.iter().filter(|(_, outcome)| outcome.is_err()).count();
    assert!(lost <= killed as usize, "{lost} lost, {killed} killed");
    ended.sort_unstable_by_key(|(place, _)| *place);
    for (n, (place, outcome)) in ended.into_iter().enumerate() {
        assert_eq!(place, n, "each once");
        match outcome {
            Ok(ms) => assert_eq!(ms, n as u64 % 3),
            Err(error) => assert!(error.is_worker_lost(), "{error}"),
        }
    }
    // Those that wait for all, and that are killed all.
    let stuck: Vec<_> = (0..3).map(|_| pool.submit(sleep_ms, 100_000).unwrap()).collect();
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| wait_all(&stuck, LONG));
        wait_until("all of them are lost", || {
            workers_of(std::process::id(), "mid7")
                .into_iter()
                .for_each(|pid| kill(pid, libc::SIGKILL));
            stuck.iter().all(TaskHandle::is_finished)
        });
        waits.join().unwrap()
    });
    assert!(waits && stuck.into_iter().all(|task| task.join().unwrap_err().is_worker_lost()));
    still_works(&pool);
}

#[test]
fn imap_keeps_the_order_and_loses_only_what_ran() {
    let _dog = watchdog(60);
    let pool = builder("mid8", 3).build().unwrap();
    let slow = |n: u64| {
        nap_us(200);
        n
    };
    let (outcomes, killed) = while_workers_are_killed("mid8", || {
        let ordered = pool.imap(slow, 0..500u64).unwrap().window(40).collect::<Vec<_>>();
        let unordered = pool.imap_unordered(slow, 0..500u64).unwrap().batch(7).collect::<Vec<_>>();
        [ordered, unordered]
    });
    let mut lost = 0;
    for (outcomes, ordered) in outcomes.into_iter().zip([true, false]) {
        let mut seen = HashSet::new();
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let index = match outcome {
                Ok(value) => value as usize,
                Err(error) => {
                    assert!(error.is_worker_lost(), "{error}");
                    lost += 1;
                    error.index().unwrap()
                }
            };
            assert!(seen.insert(index) && (!ordered || index == n), "{index} at {n}");
        }
        assert_eq!(seen.len(), 500);
    }
    assert!(lost <= killed, "{lost} lost, {killed} killed");
    still_works(&pool);
}

#[test]
fn the_urgent_stay_urgent_when_they_are_begun_again() {
    let _dog = watchdog(60);
    let pool = builder("mid9", 1).build().unwrap();
    let (go, begun) = (Event::new().unwrap(), Event::new().unwrap());
    let wait = |(go, begun): (Event, Event)| {
        begun.set();
        go.wait_timeout(LONG)
    };
    let first = pool.submit(wait, (go.clone(), begun.clone())).unwrap();
    assert!(begun.wait_timeout(LONG));
    let order = List::<String>::new().unwrap();
    let note = |(order, name): (List<String>, String)| order.push(&name).unwrap();
    // The second time it finds its own name there.
    let dies_once = |(order, name): (List<String>, String)| {
        let again = order.contains(&name).unwrap();
        order.push(&name).unwrap();
        if !again {
            die();
        }
    };
    let with = |priority| TaskOptions::new().priority(priority).retries(3);
    let named = |name: String| (order.clone(), name);
    let mut tasks = Vec::new();
    for n in 0..4 {
        let argument = named(format!("low{n}"));
        tasks.push(pool.submit_with(with(Priority::Low), note, argument).unwrap());
    }
    tasks.push(pool.submit_with(with(Priority::High), dies_once, named("dies".into())).unwrap());
    for n in 0..3 {
        let argument = named(format!("high{n}"));
        tasks.push(pool.submit_with(with(Priority::High), note, argument).unwrap());
    }
    // Until the lost one is queued again, this one keeps the worker.
    let (again, here) = (Event::new().unwrap(), Event::new().unwrap());
    let argument = (again.clone(), here.clone());
    let last = pool.submit_with(with(Priority::High), wait, argument).unwrap();
    // The worker is killed before all of them.
    kill(workers_of(std::process::id(), "mid9")[0], libc::SIGKILL);
    assert!(first.join().unwrap_err().is_worker_lost());
    assert!(here.wait_timeout(LONG));
    wait_until("it is queued again", || pool.stats().tasks_queued == 5);
    again.set();
    assert_eq!(last.join(), Ok(true));
    tasks.into_iter().for_each(|task| task.join().unwrap());
    let order = order.to_vec().unwrap();
    assert_eq!(order.len(), 9, "each once, and one of them twice: {order:?}");
    // One of sixteen that a worker takes is from the lowest.
    let last = order.iter().rposition(|name| name == "dies").unwrap();
    let before = order[..last].iter().filter(|name| name.starts_with("low")).count();
    assert!(before <= 1, "{order:?}");
    still_works(&pool);
}

// The pool is gone -------------------------------------------------------------------------------

#[test]
fn an_iterator_over_outcomes_ends_with_its_pool() {
    let _dog = watchdog(60);
    for ordered in [true, false] {
        let pool = builder("mid10", 2).build().unwrap();
        let inputs = std::iter::repeat(1u64);
        let mut imap = match ordered {
            true => pool.imap(sleep_ms, inputs).unwrap(),
            false => pool.imap_unordered(sleep_ms, inputs).unwrap(),
        };
        imap = imap.window(20);
        assert_eq!(imap.next(), Some(Ok(1)));
        drop(pool);
        let rest: Vec<_> = imap.by_ref().take(100).collect();
        assert!((1..=21).contains(&rest.len()), "an end: {rest:?}");
        assert!(rest.last().unwrap().as_ref().unwrap_err().is_pool_closed(), "{rest:?}");
        assert_eq!(imap.next(), None);
    }
    // Somebody is just waiting for one.
    let pool = builder("mid10", 1).build().unwrap();
    let begun = Event::new().unwrap();
    let stuck = |begun: Event| {
        begun.set();
        sleep_ms(100_000)
    };
    let imap = pool.imap(stuck, std::iter::repeat(begun.clone())).unwrap();
    let waits = std::thread::spawn(move || imap.take(100_000).last());
    assert!(begun.wait_timeout(LONG));
    drop(pool);
    assert!(waits.join().unwrap().unwrap().unwrap_err().is_pool_closed());
}

/// The input of a map comes slowly: nothing of it is under way when the pool is dropped.
#[test]
fn a_map_in_the_background_ends_with_its_pool_whatever_its_input_does() {
    let _dog = watchdog(60);
    for taken in [0, 1, 10] {
        let pool = builder("mid11", 2).build().unwrap();
        let (sender, input) = mpsc::channel::<u64>();
        let map = pool.submit_map(|n: u64| n, input).unwrap();
        (0..taken).for_each(|n| sender.send(n).unwrap());
        wait_until("they have ended", || pool.stats().tasks_queued == 0);
        drop(pool);
        // It comes too late. (If the map has ended already, nobody takes it.)
        let _ = sender.send(7);
        assert!(map.wait_timeout(LONG), "{taken} taken");
        assert!(map.join().unwrap_err().is_closed());
    }
    // And one that is stuck in a call.
    let pool = builder("mid11", 1).build().unwrap();
    let begun = Event::new().unwrap();
    let stuck = |begun: Event| {
        begun.set();
        sleep_ms(100_000)
    };
    let map = pool.submit_map(stuck, [begun.clone(), begun.clone()]).unwrap();
    assert!(begun.wait_timeout(LONG));
    drop(pool);
    assert!(map.join().unwrap_err().is_closed());
}

// Dropped half way -------------------------------------------------------------------------------

/// In batches of ten, the thirteenth call waits; then nobody wants the rest.
#[test]
fn dropping_an_iterator_in_the_middle_of_a_batch_leaves_the_rest_of_it() {
    let _dog = watchdog(60);
    type Argument = (List<u64>, [Event; 3], u64);
    let note = |(ran, [second, begun, go], n): Argument| {
        ran.push(&n).unwrap();
        if n == 0 {
            assert!(second.wait_timeout(LONG));
        } else if n == 12 {
            begun.set();
            go.wait_timeout(LONG);
        }
    };
    for (killed, ordered) in [(false, true), (false, false), (true, true), (true, false)] {
        let pool = builder("mid12", 1).build().unwrap();
        let ran = List::<u64>::new().unwrap();
        let events = [(); 3].map(|()| Event::new().unwrap());
        let [second, begun, go] = events.clone();
        let inputs = (0..40u64).map(|n| {
            // The first batch does not end before the second one is on its way.
            if n == 10 {
                second.set();
            }
            (ran.clone(), events.clone(), n)
        });
        let mut imap = match ordered {
            true => pool.imap(note, inputs).unwrap().batch(10),
            false => pool.imap_unordered(note, inputs).unwrap().batch(10),
        };
        assert_eq!(imap.next(), Some(Ok(())));
        assert!(begun.wait_timeout(LONG));
        drop(imap);
        if killed {
            kill(workers_of(std::process::id(), "mid12")[0], libc::SIGKILL);
        } else {
            go.set();
        }
        still_works(&pool);
        let ran = ran.to_vec().unwrap();
        assert!(ran.iter().copied().eq(0..=12), "killed: {killed}, ordered: {ordered}: {ran:?}");
    }
}

/// Counts up, and panics instead of giving number `at`.
fn bad_input(at: u64) -> impl Iterator<Item = u64> + Send + 'static {
    (0..1000u64).inspect(move |n| assert!(*n != at, "the input ends badly"))
}

#[test]
fn an_input_that_panics_at_any_place_leaves_the_pool_usable() {
    let _dog = watchdog(100);
    type Verb = (&'static str, fn(&Pool, u64));
    let verbs: [Verb; 8] = [
        ("map", |pool, at| drop(pool.map(|n: u64| n, bad_input(at)))),
        ("map_each", |pool, at| drop(pool.map_each(|n: u64| n, bad_input(at)))),
        ("imap", |pool, at| pool.imap(|n: u64| n, bad_input(at)).unwrap().for_each(drop)),
        ("imap_unordered", |pool, at| {
            pool.imap_unordered(|n: u64| n, bad_input(at)).unwrap().for_each(drop);
        }),
        ("for_each", |pool, at| drop(pool.for_each(|_: u64| (), bad_input(at)))),
        ("map_reduce", |pool, at| drop(pool.map_reduce(|n: u64| n, |a, b| a + b, bad_input(at)))),
        ("submit_map", |pool, at| {
            drop(pool.submit_map(|n: u64| n, bad_input(at)).unwrap().join());
        }),
        ("with", |pool, at| drop(pool.with(&1u64).map(|one, n: u64| one + n, bad_input(at)))),
    ];
    let pool = pool_of(2);
    for (name, verb) in verbs {
        for at in [0, 1, 2, 500, 999] {
            let panic = catch_unwind(AssertUnwindSafe(|| verb(&pool, at))).expect_err(name);
            let message = panic.downcast_ref::<&str>().copied();
            assert_eq!(message, Some("the input ends badly"), "{name} at {at}");
            still_works(&pool);
        }
    }
    pool.join().unwrap();
}
