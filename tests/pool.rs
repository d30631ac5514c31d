//! What a pool does when nothing dies: values, order, errors, limits.

mod support;

use procpool::{JoinTimeoutError, Pool, TaskError, TaskHandle, TrySubmitError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use support::{pool_of, wait_until, watchdog};

fn pool() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

#[test]
fn map_keeps_the_order_of_any_iterator() {
    let _dog = watchdog(60);
    let pool = pool();
    for n in [0u64, 1, 2, 3, 100, 10_000, 300_000] {
        let squares = pool.map(|x: u64| x * x, 0..n).unwrap();
        assert!(squares.iter().copied().eq((0..n).map(|x| x * x)), "{n}");
    }
    let words = ["a", "bb", "ccc"].map(String::from);
    assert_eq!(pool.map(|word: String| word.len(), words).unwrap(), [1, 2, 3]);
    let unsized_hint = (0..1000u32).filter(|n| n % 3 == 0);
    assert_eq!(
        pool.map(|n: u32| n, unsized_hint.clone()).unwrap(),
        unsized_hint.collect::<Vec<_>>()
    );
    pool.check_invariants().unwrap();
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    name: String,
    values: Vec<f64>,
    tags: BTreeMap<String, Option<i32>>,
}

fn record(n: usize) -> Record {
    let tags = (0..n % 5).map(|k| (k.to_string(), (k % 2 == 0).then_some(k as i32)));
    Record { name: "x".repeat(n % 200), values: vec![n as f64; n % 50], tags: tags.collect() }
}

#[test]
fn serde_types_of_every_size_come_back_whole() {
    let _dog = watchdog(60);
    let pool = pool();
    let echoed = pool.map(|record: Record| record, (0..5000).map(record)).unwrap();
    assert!(echoed.into_iter().eq((0..5000).map(record)));
    for bytes in [0usize, 1, 79, 80, 81, 4095, 4096, 4097, 1 << 20, 5 << 20] {
        let text = "é".repeat(bytes / 2);
        let task = pool.submit(|text: String| text, text.clone()).unwrap();
        assert_eq!(task.join().unwrap(), text);
        let vector: Vec<u16> = (0..bytes).map(|n| n as u16).collect();
        let task = pool.submit(|vector: Vec<u16>| vector, vector.clone()).unwrap();
        assert_eq!(task.join().unwrap(), vector);
    }
    // Results that grow a batch's block many times over.
    let lengths = pool.map(|n: usize| vec![n; n % 1000], 0..3000).unwrap();
    assert!(lengths.iter().enumerate().all(|(n, vector)| *vector == vec![n; n % 1000]));
    assert_eq!(pool.map(|()| (), vec![(); 1000]).unwrap().len(), 1000);
    assert_eq!(
        pool.map(|pair: (u8, u64)| (pair.1, pair.0), [(1, 2), (3, 4)]).unwrap(),
        [(2, 1), (4, 3)]
    );
    pool.check_invariants().unwrap();
}

#[test]
fn a_result_of_the_function_is_a_value() {
    let pool = pool();
    let parse = |text: String| text.parse::<i32>().map_err(|error| error.to_string());
    let values = pool.map(parse, ["1".to_string(), "x".to_string()]).unwrap();
    assert_eq!(values[0], Ok(1));
    assert!(values[1].is_err());
}

#[test]
fn many_threads_submit_and_map_at_once() {
    let _dog = watchdog(120);
    let pool = pool();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..20 {
                    let base = thread * 1000 + round;
                    let sums = pool.map(|x: u64| x + 1, base..base + 500).unwrap();
                    assert!(sums.into_iter().eq(base + 1..base + 501));
                    let tasks: Vec<TaskHandle<u64>> =
                        (0..50).map(|n| pool.submit(|x: u64| x * 2, n).unwrap()).collect();
                    for (n, task) in tasks.into_iter().enumerate() {
                        assert_eq!(task.join().unwrap(), n as u64 * 2);
                    }
                }
            });
        }
    });
    pool.check_invariants().unwrap();
}

#[test]
fn a_panic_has_message_and_location_and_costs_no_worker() {
    let _dog = watchdog(60);
    let pool = pool();
    let outcomes = pool
        .map_each(|n: u32| if n % 10 == 3 { panic!("bad {n}") } else { n }, 0..1000u32)
        .unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(value) => assert_eq!((*value as usize, n % 10 == 3), (n, false)),
            Err(error) => {
                assert!(error.is_panic());
                assert_eq!(error.panic_message(), Some(&*format!("bad {n}")));
                assert!(error.panic_location().unwrap().contains("tests/pool.rs"), "{error}");
                assert_eq!(error.index(), Some(n));
            }
        }
    }
    let error = pool.map(|n: u32| assert_ne!(n, 7), 0..100u32).unwrap_err();
    assert!(error.is_panic() && error.task_error().unwrap().index() == Some(7), "{error}");
    assert_eq!(pool.stats().workers_lost, 0);
    // Some may still be queued that nobody waits for.
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
}

/// Refuses to be encoded or decoded, as its value says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stubborn(u8);

const REFUSES_ENCODING: u8 = 1;
const REFUSES_DECODING: u8 = 2;
const PANICS_ENCODING: u8 = 3;
const PANICS_DECODING: u8 = 4;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            REFUSES_ENCODING => Err(serde::ser::Error::custom("will not be encoded")),
            PANICS_ENCODING => panic!("encoding panics"),
            byte => serializer.serialize_u8(byte),
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            REFUSES_DECODING => Err(serde::de::Error::custom("will not be decoded")),
            PANICS_DECODING => panic!("decoding panics"),
            byte => Ok(Self(byte)),
        }
    }
}

#[test]
fn what_cannot_cross_is_the_failure_of_that_call_only() {
    let _dog = watchdog(60);
    let pool = pool();
    let inputs = [0, REFUSES_ENCODING, 9, REFUSES_DECODING, PANICS_DECODING, 8].map(Stubborn);
    let outcomes = pool.map_each(|value: Stubborn| value.0, inputs).unwrap();
    assert_eq!(outcomes[0], Ok(0));
    assert!(outcomes[1].as_ref().is_err_and(|error| error.is_codec() && error.index() == Some(1)));
    assert_eq!(outcomes[2], Ok(9));
    assert!(outcomes[3].as_ref().is_err_and(TaskError::is_codec), "{outcomes:?}");
    assert!(outcomes[4].as_ref().is_err_and(TaskError::is_panic), "{outcomes:?}");
    assert_eq!(outcomes[5], Ok(8));
    let results = pool.map_each(Stubborn, [0, REFUSES_ENCODING, PANICS_ENCODING, 9]).unwrap();
    assert_eq!(results[0], Ok(Stubborn(0)));
    assert!(results[1].as_ref().is_err_and(TaskError::is_codec), "{results:?}");
    assert!(results[2].as_ref().is_err_and(TaskError::is_panic), "{results:?}");
    assert_eq!(results[3], Ok(Stubborn(9)));
    let undecodable = pool.submit(Stubborn, REFUSES_DECODING).unwrap().join().unwrap_err();
    assert!(undecodable.is_codec() && undecodable.to_string().contains("decode its result"));
    match pool.try_submit(|value: Stubborn| value.0, Stubborn(REFUSES_ENCODING)) {
        Err(TrySubmitError::Failed(argument, error)) => {
            assert_eq!(argument, Stubborn(REFUSES_ENCODING));
            assert!(error.to_string().contains("encode its argument"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.stats().workers_lost, 0);
    pool.check_invariants().unwrap();
}

#[test]
fn long_batches_with_failures_among_varying_results_keep_every_neighbour() {
    let _dog = watchdog(60);
    let pool = pool();
    let outcomes = pool
        .map_each(
            |n: usize| {
                assert!(!n.is_multiple_of(97), "{n}");
                n.to_string()
            },
            0..20_000,
        )
        .unwrap();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.ok(), (n % 97 != 0).then(|| n.to_string()));
    }
}

#[test]
fn a_context_is_decoded_once_per_worker() {
    let _dog = watchdog(60);
    /// Counts how often it is decoded in this process.
    #[derive(Serialize)]
    struct Table(Vec<String>);
    static DECODED: std::sync::Mutex<u32> = std::sync::Mutex::new(0);
    impl<'de> Deserialize<'de> for Table {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            *DECODED.lock().unwrap() += 1;
            Vec::deserialize(deserializer).map(Self)
        }
    }
    let pool = pool();
    let table = Table((0..100).map(|n| "x".repeat(n)).collect());
    let shared = pool.with(&table);
    let look = |table: &Table, n: usize| (table.0[n].len(), *DECODED.lock().unwrap());
    for _ in 0..3 {
        let found = shared.map(look, 0..100usize).unwrap();
        assert!(
            found.iter().enumerate().all(|(n, (length, decoded))| (*length, *decoded) == (n, 1))
        );
    }
    let task = shared.submit(look, 7).unwrap();
    drop(shared);
    assert_eq!(task.join().unwrap(), (7, 1));
    assert_eq!(pool.with(&table).map(look, [5usize]).unwrap(), [(5, 2)], "another context");
}

#[test]
fn a_dropped_handle_keeps_its_context_until_the_task_has_run() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ran").to_str().unwrap().to_owned();
    let slow = pool.submit(|ms: u64| std::thread::sleep(Duration::from_millis(ms)), 100).unwrap();
    drop(
        pool.with(&path)
            .submit(|path: &String, text: String| std::fs::write(path, text).is_ok(), "yes".into()),
    );
    slow.join().unwrap();
    wait_until("the abandoned task ran", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text == "yes")
    });
}

#[test]
fn a_full_queue_refuses_or_blocks_and_memory_stays_bounded() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).queue_capacity(4).build().unwrap();
    let nap = |ms: u64| {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    };
    let mut tasks: Vec<TaskHandle<u64>> = Vec::new();
    let refused = loop {
        match pool.try_submit(nap, 100) {
            Ok(task) => tasks.push(task),
            Err(error) => break error,
        }
    };
    assert!(refused.is_full() && refused.into_argument() == 100);
    assert_eq!(tasks.len(), 4);
    let start = Instant::now();
    let timed = pool.submit_timeout(nap, 100, Duration::from_millis(20)).unwrap_err();
    assert!(timed.is_full() && start.elapsed() >= Duration::from_millis(20));
    tasks.push(pool.submit(nap, 1).unwrap());
    assert!(tasks.into_iter().all(|task| task.join().is_ok()));
    pool.check_invariants().unwrap();
}

#[test]
fn finished_tasks_that_nobody_joins_do_not_block_the_queue() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(2).queue_capacity(8).build().unwrap();
    let tasks: Vec<TaskHandle<String>> =
        (0..1000u32).map(|n| pool.submit(|n: u32| n.to_string().repeat(50), n).unwrap()).collect();
    for (n, task) in tasks.into_iter().enumerate() {
        if n % 3 != 0 {
            assert_eq!(task.join().unwrap(), n.to_string().repeat(50));
        }
    }
    // Some may still be queued that nobody waits for.
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
}

#[test]
fn join_timeout_gives_the_handle_back() {
    let _dog = watchdog(60);
    let pool = pool();
    let task = pool.submit(|ms: u64| std::thread::sleep(Duration::from_millis(ms)), 150).unwrap();
    assert!(!task.is_finished());
    let start = Instant::now();
    let Err(JoinTimeoutError::TimedOut(task)) = task.join_timeout(Duration::from_millis(20)) else {
        panic!("it cannot have ended")
    };
    assert!(start.elapsed() >= Duration::from_millis(20));
    task.join_timeout(Duration::from_secs(30)).unwrap();
}

#[test]
fn one_slow_call_does_not_stop_the_others() {
    let _dog = watchdog(60);
    let pool = pool();
    let start = Instant::now();
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let naps = std::iter::once(400).chain(std::iter::repeat_n(2, 180));
    pool.map(nap, naps).unwrap();
    // 400 ms beside 180 * 2 ms: one after the other would take at least 760 ms.
    println!("took {:?}", start.elapsed());
    assert_eq!(pool.stats().tasks_ended, 181);
}

#[test]
fn the_builder_names_the_setting_that_it_refuses() {
    for (builder, named) in [
        (Pool::builder().workers(0), "workers is 0"),
        (Pool::builder().workers(100_000), "workers is 100000"),
        (Pool::builder().name("a/b"), "name is"),
        (Pool::builder().name("a\0b"), "name is"),
        (Pool::builder().queue_capacity(0), "queue_capacity is 0"),
        (Pool::builder().stack_bytes(1), "stack_bytes is 1"),
    ] {
        let text = builder.build().unwrap_err().to_string();
        assert!(text.contains(named), "{text}");
    }
    let pool = pool();
    let exists = pool.stats().arena_capacity_bytes;
    let text = Pool::builder().arena_bytes(64 << 20).build().unwrap_err().to_string();
    assert!(text.contains(&(64 << 20).to_string()) && exists > 0, "{text}");
}

#[test]
fn a_closed_pool_refuses_and_its_finished_tasks_stay() {
    let _dog = watchdog(60);
    let pool = pool();
    let nap = |ms: u64| {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    };
    let tasks: VecDeque<TaskHandle<u64>> =
        (0..6).map(|n| pool.submit(nap, n * 10).unwrap()).collect();
    pool.join().unwrap();
    assert!(pool.submit(nap, 1).unwrap_err().is_closed());
    assert!(pool.map(nap, [1u64]).unwrap_err().is_closed());
    assert!(matches!(pool.try_submit(nap, 1), Err(TrySubmitError::Closed(1))));
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.join().unwrap(), n as u64 * 10, "all that was accepted has run");
    }
    pool.join().unwrap();
}

#[test]
fn a_dropped_pool_ends_what_is_left_with_pool_closed() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).build().unwrap();
    let quick = pool.submit(|n: u64| n, 5).unwrap();
    wait_until("the quick task ended", || quick.is_finished());
    let nap = |s: u64| std::thread::sleep(Duration::from_secs(s));
    let running = pool.submit(nap, 1000).unwrap();
    let queued = pool.submit(nap, 1000).unwrap();
    drop(pool);
    assert_eq!(quick.join(), Ok(5));
    assert!(queued.join().unwrap_err().is_pool_closed());
    let error = running.join().unwrap_err();
    assert!(error.is_pool_closed() || error.is_worker_lost(), "{error}");
}

#[test]
fn an_input_that_panics_leaves_the_pool_usable() {
    let _dog = watchdog(60);
    let pool = pool();
    let inputs = (0..100_000u64).inspect(|n| assert!(*n < 50_000, "the input ends badly"));
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.map(|n: u64| n, inputs)));
    assert!(caught.is_err());
    assert_eq!(pool.map(|n: u64| n + 1, 0..3u64).unwrap(), [1, 2, 3]);
    wait_until("all slots are free", || pool.check_invariants().is_ok());
}

#[test]
fn a_worker_may_have_a_pool_of_its_own() {
    let _dog = watchdog(60);
    let pool = pool();
    let sum = |n: u64| -> u64 {
        let pool = Pool::builder().workers(2).name("inner").build().unwrap();
        pool.map(|x: u64| x * 2, 0..n).unwrap().into_iter().sum()
    };
    assert_eq!(pool.map(sum, [10u64, 100]).unwrap(), [90, 9900]);
    pool.check_invariants().unwrap();
}

/// Two threads once took the same place for their contexts, and tasks read the other's.
#[test]
fn contexts_of_many_threads_are_kept_apart() {
    let _dog = watchdog(60);
    let pool = pool();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..300 {
                    let mine = vec![thread * 1000 + round; 20];
                    let with = pool.with(&mine);
                    let sums =
                        with.map(|mine: &Vec<u64>, n: u64| mine.iter().sum::<u64>() + n, 0..3);
                    let sum = (thread * 1000 + round) * 20;
                    assert_eq!(sums.unwrap(), [sum, sum + 1, sum + 2]);
                }
            });
        }
    });
    pool.check_invariants().unwrap();
}

/// Each task makes a pool whose task makes a pool: that ends with an error, and not with the machine.
#[test]
fn pools_that_make_pools_for_ever_end_with_an_error() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("deep").build().unwrap();
    let (depth, error) = pool.submit(nest, 1).unwrap().join().unwrap();
    assert_eq!(depth, procpool::limits::NESTING_MAX as u64);
    assert!(error.contains("nested 8 deep"), "{error}");
    let pids = support::descendants(std::process::id());
    assert!(pids.iter().filter(|pid| support::name_of(**pid).starts_with("nest")).count() == 0);
}

fn nest(depth: u64) -> (u64, String) {
    match Pool::builder().workers(1).name("nest").build() {
        Ok(pool) => pool.submit(nest, depth + 1).unwrap().join().unwrap(),
        Err(error) => (depth, error.to_string()),
    }
}

#[test]
fn workers_look_like_a_program_after_main_began() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("names").build().unwrap();
    let seen = pool
        .submit(
            |()| {
                let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
                let thread = std::thread::current().name().unwrap_or("").to_owned();
                let input = std::fs::read_link("/proc/self/fd/0").unwrap();
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
                let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
                let leftover = std::env::var_os("PROCPOOL_GUARDIAN").is_some();
                (comm, thread, input, ignored, leftover)
            },
            (),
        )
        .unwrap()
        .join()
        .unwrap();
    let (comm, thread, input, ignored, leftover) = seen;
    assert_eq!((comm.trim(), &*thread), ("names-worker-0", "names-worker-0"));
    assert_eq!(input.to_str(), Some("/dev/null"));
    assert!(ignored & (1 << (libc::SIGPIPE - 1)) != 0, "as before any main");
    assert!(ignored & (1 << (libc::SIGINT - 1)) != 0, "Ctrl-C is for the user's process");
    assert!(!leftover);
}

#[test]
fn a_forked_copy_of_the_users_process_cannot_disturb_its_pools() {
    let _dog = watchdog(60);
    let pool = pool();
    let task = pool.submit(|n: u64| n, 7).unwrap();
    // SAFETY: the child calls little and leaves by `_exit`; with other threads about it might still
    // meet a lock that is held for ever, which the watchdog would report.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = pool.submit(|n: u64| n, 1).is_err_and(|error| error.is_invalid());
        let joined = task.join().is_err_and(|error| error.is_pool_closed());
        let none = Pool::builder().workers(1).build().is_err();
        drop(pool);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(!(refused && joined && none))) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "exit code of the child, times 256");
    assert_eq!(task.join(), Ok(7));
    assert_eq!(pool.map(|n: u64| n + 1, 0..3u64).unwrap(), [1, 2, 3]);
}

/// Raised anew with `resume_unwind`, it has the message that it was raised with; not that of a panic which
/// the task, or one before it, has caught itself.
#[test]
fn a_panic_that_is_raised_again_keeps_its_message() {
    let pool = pool_of(1);
    let again = |n: u32| {
        let caught = std::panic::catch_unwind(|| assert!(n != 1, "caught and forgotten"));
        if n == 2 {
            std::panic::resume_unwind(Box::new("raised in silence"));
        }
        caught.is_err()
    };
    assert_eq!(pool.submit(again, 1).unwrap().join(), Ok(true));
    let error = pool.submit(again, 2).unwrap().join().unwrap_err();
    assert_eq!(error.panic_message(), Some("raised in silence"));
    assert_eq!(error.panic_location(), Some("unknown place"));
}
