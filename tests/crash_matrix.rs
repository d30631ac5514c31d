//! The crash matrix: what is killed, or raised, and what the others see. A test for each row, and the
//! fifteen cells of {error, exit, crash} in {encoding and decoding an argument, the call, encoding and
//! decoding a result}.

mod support;

use procpool::queue::{JoinableQueue, Queue};
use procpool::sync::{Barrier, Condvar, Event, Mutex};
use procpool::{Pool, Process, WorkerExit};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::*;

const LONG: Duration = Duration::from_secs(30);

fn pool(name: &str, workers: usize) -> Pool {
    Pool::builder().workers(workers).name(name).build().unwrap()
}

fn still_works(pool: &Pool) {
    assert_eq!(pool.map(|n: u64| n + 1, 0..100u64).unwrap(), (1..101).collect::<Vec<_>>());
}

/// A process that runs `function` and has said that it is where it is to be killed.
fn there<F, T>(function: F, argument: T) -> Process<()>
where
    F: Fn((T, Event)) + Copy + Send + 'static,
    T: Serialize + serde::de::DeserializeOwned + 'static,
{
    let there = Event::new().unwrap();
    let process = Process::spawn(function, (argument, there.clone())).unwrap();
    assert!(there.wait_timeout(LONG));
    process
}

/// Says what came of it and how soon, for the table that `benches/peers/crash_matrix.py` makes.
fn saw(what: &str, since: Instant, text: impl std::fmt::Display) {
    saw_after(what, since.elapsed(), text);
}

fn saw_after(what: &str, took: Duration, text: impl std::fmt::Display) {
    println!("outcome | {what} | {:.6} | {text}", took.as_secs_f64());
}

fn hang() {
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn row_01_a_worker_is_killed_in_a_task() {
    let _dog = watchdog(60);
    let pool = pool("row01", 2);
    let begun = Event::new().unwrap();
    let stuck = |begun: Event| {
        begun.set();
        hang();
    };
    let task = pool.submit(stuck, begun.clone()).unwrap();
    assert!(begun.wait_timeout(LONG));
    let running = pool
        .stats()
        .workers
        .into_iter()
        .find(|worker| matches!(worker.state, procpool::WorkerState::Running { .. }));
    let pid = running.unwrap().pid;
    let killed = Instant::now();
    kill(pid, libc::SIGKILL);
    let error = task.join().unwrap_err();
    saw("error", killed, &error);
    assert_eq!((error.pid(), error.worker_exit()), (Some(pid), Some(WorkerExit::Signal(9))));
    assert!(error.function().unwrap().contains("row_01"), "{error}");
    still_works(&pool);
}

#[test]
fn row_02_idle_workers_are_killed_and_then_a_task_comes() {
    let _dog = watchdog(60);
    let pool = pool("row02", 2);
    for _ in 0..10 {
        let killed = Instant::now();
        workers_of(std::process::id(), "row02")
            .into_iter()
            .for_each(|pid| kill(pid, libc::SIGKILL));
        assert_eq!(pool.submit(|n: u64| n, 7).unwrap().join().unwrap(), 7);
        saw("value", killed, "the task's value");
    }
}

#[test]
fn row_03_a_task_exits() {
    let _dog = watchdog(60);
    let pool = pool("row03", 1);
    let task = pool.submit(|code: i32| -> u8 { std::process::exit(code) }, 5).unwrap();
    let submitted = Instant::now();
    let error = task.join().unwrap_err();
    saw("error", submitted, &error);
    assert_eq!(error.worker_exit(), Some(WorkerExit::Code(5)));
    still_works(&pool);
}

#[test]
fn row_04_the_initializer_fails() {
    let _dog = watchdog(60);
    let fail = |_: ()| -> u8 { panic!("no model") };
    let pool = Pool::builder().workers(1).name("row04").initializer(fail, ()).build().unwrap();
    let submitted = Instant::now();
    let error = pool.map(|n: u64| n, 0..3).unwrap_err();
    assert!(error.to_string().contains("no model"), "{error}");
    let tries = pool.stats().workers_started;
    saw("error", submitted, format!("{tries} workers tried; no model"));
    assert!(tries <= 20, "a bounded number of tries");
}

#[test]
fn row_05_a_callback_panics() {
    let _dog = watchdog(60);
    let pool = pool("row05", 1);
    pool.submit(|n: u64| n, 1).unwrap().on_done(|_| panic!("in a callback")).unwrap();
    let (sender, receiver) = mpsc::channel();
    pool.submit(|n: u64| n, 2).unwrap().on_done(move |it| sender.send(it).unwrap()).unwrap();
    let submitted = Instant::now();
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), Ok(2));
    saw("value", submitted, "the next callback has its value");
    still_works(&pool);
}

#[test]
fn row_06_a_result_cannot_be_decoded() {
    let _dog = watchdog(60);
    let pool = pool("row06", 1);
    let argument = Odd { how: How::Error, at: At::ResultDecode };
    let task = pool.submit(|odd: Odd| odd, argument).unwrap();
    let submitted = Instant::now();
    let error = task.join().unwrap_err();
    saw("error", submitted, &error);
    assert!(error.is_codec() && error.to_string().contains("decode its result"), "{error}");
    still_works(&pool);
}

#[test]
fn row_07_a_handle_outlives_its_pool() {
    let _dog = watchdog(60);
    let pool = pool("row07", 1);
    let tasks: Vec<_> = (0..5).map(|_| pool.submit(|_: u8| hang(), 0).unwrap()).collect();
    let dropped = Instant::now();
    drop(pool);
    for task in tasks {
        let error = task.join().unwrap_err();
        saw("error", dropped, &error);
        assert!(error.is_pool_closed());
    }
}

#[test]
fn row_08_one_outcome_of_a_long_input_is_taken() {
    let _dog = watchdog(60);
    let pool = pool("row08", 2);
    let taken = Arc::new(AtomicU32::new(0));
    let inputs = (0..200_000u32).inspect({
        let taken = taken.clone();
        move |_| {
            taken.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut outcomes = pool.imap(|n: u32| n, inputs).unwrap().window(100);
    let began = Instant::now();
    assert_eq!(outcomes.next(), Some(Ok(0)));
    let text =
        format!("`imap`, window of 100; {} inputs were taken", taken.load(Ordering::Relaxed));
    saw("value", began, text);
    assert!(taken.load(Ordering::Relaxed) <= 101, "{taken:?}");
}

#[test]
fn row_09_the_holder_of_a_lock_is_killed() {
    let _dog = watchdog(60);
    let lock = Mutex::new(5u64).unwrap();
    let hold = |(lock, there): (Mutex<u64>, Event)| {
        let _guard = lock.lock().unwrap();
        there.set();
        hang();
    };
    let holder = there(hold, lock.clone());
    let killed = Instant::now();
    holder.kill();
    let error = lock.lock_timeout(LONG).err().unwrap();
    saw("error", killed, &error);
    assert!(error.to_string().contains("died"), "{error}");
}

#[test]
fn row_10_a_waiter_of_a_condition_is_killed_and_then_notified() {
    let _dog = watchdog(60);
    let (lock, condition) = (Mutex::new(0u64).unwrap(), Condvar::new().unwrap());
    let wait = |((lock, condition), there): ((Mutex<u64>, Condvar), Event)| {
        // The one before may have died with it.
        let guard = lock.lock().unwrap_or_else(procpool::sync::LockError::into_guard);
        there.set();
        drop(condition.wait(guard));
    };
    for _ in 0..5 {
        let waiter = there(wait, (lock.clone(), condition.clone()));
        // It said so with the lock held: only now it waits.
        wait_until("it waits", || condition.waiting() == 1);
        let killed = Instant::now();
        waiter.kill();
        condition.notify_one();
        condition.notify_all();
        saw("value", killed, "notify returns");
        assert!(waiter.join().is_err());
        assert_eq!(condition.waiting(), 0, "the dead one does not wait any more");
    }
    // A dead one before it in the queue takes nothing from a living one.
    let dead = there(wait, (lock.clone(), condition.clone()));
    wait_until("it waits", || condition.waiting() == 1);
    let living = there(wait, (lock.clone(), condition.clone()));
    wait_until("both wait", || condition.waiting() == 2);
    dead.kill();
    assert!(dead.join().is_err());
    assert!(condition.notify_one(), "to the living one");
    living.join().unwrap();
}

#[test]
fn row_11_a_waiter_of_an_event_is_killed_and_then_it_is_set() {
    let _dog = watchdog(60);
    let event = Event::new().unwrap();
    let wait = |(event, there): (Event, Event)| {
        there.set();
        event.wait();
    };
    let waiter = there(wait, event.clone());
    wait_until("it waits", || event.waiting() == 1);
    let killed = Instant::now();
    waiter.kill();
    assert!(waiter.join().is_err());
    event.set();
    assert!(event.is_set() && event.wait_timeout(LONG));
    saw("value", killed, "set and is_set return");
}

#[test]
fn row_12_a_party_of_a_barrier_is_killed() {
    let _dog = watchdog(60);
    let barrier = Barrier::new(3).unwrap();
    let wait = |(barrier, there): (Barrier, Event)| {
        there.set();
        let _ = barrier.wait();
    };
    let party = there(wait, barrier.clone());
    std::thread::scope(|scope| {
        let me = scope.spawn(|| barrier.wait_timeout(LONG));
        wait_until("two wait", || barrier.waiting() == 2);
        let killed = Instant::now();
        party.kill();
        let error = me.join().unwrap().unwrap_err();
        saw("error", killed, error);
        assert!(error.to_string().contains("broken"));
    });
    assert!(barrier.wait_timeout(LONG).is_err(), "broken for all");
}

#[test]
fn row_13_a_consumer_is_killed_before_it_says_that_it_is_done() {
    let _dog = watchdog(60);
    let queue = JoinableQueue::<u64>::new(4).unwrap();
    let take = |(queue, there): (JoinableQueue<u64>, Event)| {
        let got = queue.get();
        there.set();
        hang();
        drop(got);
    };
    queue.put(7).unwrap();
    let consumer = there(take, queue.clone());
    let killed = Instant::now();
    consumer.kill();
    // It is given back, and another one does it.
    assert_eq!(queue.get_timeout(LONG).unwrap(), 7);
    queue.task_done().unwrap();
    assert!(queue.join_timeout(LONG));
    saw("value", killed, "given back and done by another; join returns");
}

#[test]
fn row_14_one_of_the_workers_is_killed_while_all_are_busy() {
    let _dog = watchdog(60);
    let pool = pool("row14", 4);
    let begun: Vec<Event> = (0..4).map(|_| Event::new().unwrap()).collect();
    let go = Event::new().unwrap();
    let wait = |(begun, go): (Event, Event)| {
        begun.set();
        go.wait_timeout(LONG).then(std::process::id)
    };
    let tasks: Vec<_> =
        begun.iter().map(|begun| pool.submit(wait, (begun.clone(), go.clone())).unwrap()).collect();
    assert!(begun.iter().all(|begun| begun.wait_timeout(LONG)));
    let victim = workers_of(std::process::id(), "row14")[1];
    let killed = Instant::now();
    kill(victim, libc::SIGKILL);
    wait_until("the culprit's handle knows", || {
        tasks.iter().any(procpool::TaskHandle::is_finished)
    });
    go.set();
    let outcomes: Vec<_> = tasks.into_iter().map(procpool::TaskHandle::join).collect();
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    saw("error", killed, format!("{failed} of {} fails, and the process is named", outcomes.len()));
    let lost: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!((lost.len(), lost[0].pid()), (1, Some(victim)));
    assert!(outcomes.iter().flatten().all(Option::is_some));
}

#[test]
fn row_15_the_users_process_is_killed() {
    let _dog = watchdog(60);
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let mut program = program_in_role("busy", folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_line(&mut program, "ready");
        let all = descendants(program.id());
        assert!(all.len() >= 4, "{all:?}");
        let killed = Instant::now();
        kill(program.id(), libc::SIGKILL);
        program.wait().unwrap();
        wait_until("all have gone", || !all.iter().any(|pid| is_running(*pid)));
        saw("value", killed, "no process is left");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

fn busy() {
    let pool = pool("busy", 3);
    let tasks: Vec<_> = (0..6).map(|_| pool.submit(|_: u8| hang(), 0).unwrap()).collect();
    println!("ready");
    tasks.into_iter().for_each(|task| drop(task.join()));
}

#[test]
fn row_16_a_reader_is_killed_inside_get() {
    let _dog = watchdog(60);
    let queue = Queue::<u64>::new(4).unwrap();
    let read = |(queue, there): (Queue<u64>, Event)| {
        there.set();
        let _ = queue.get();
    };
    for round in 0..20 {
        let reader = there(read, queue.clone());
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let killed = Instant::now();
        reader.kill();
        let _ = reader.join();
        queue.put(round).unwrap();
        assert_eq!(queue.get_timeout(LONG).unwrap(), round);
        saw("value", killed, "others get as before");
    }
}

// The fifteen cells ------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum How {
    Error,
    Exit,
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum At {
    ArgumentEncode,
    ArgumentDecode,
    Call,
    ResultEncode,
    ResultDecode,
}

/// A value that goes wrong at one step on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Odd {
    how: How,
    at: At,
}

impl Odd {
    /// Goes wrong.
    fn go_wrong<T>(self, error: impl FnOnce(&str) -> T) -> T {
        match self.how {
            How::Error => error("odd"),
            How::Exit => std::process::exit(7),
            How::Crash => std::process::abort(),
        }
    }

    fn is_worker() -> bool {
        procpool::current_process().name().contains("-worker-")
    }
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let here = if Self::is_worker() { At::ResultEncode } else { At::ArgumentEncode };
        if self.at == here {
            self.go_wrong(|text| Err(S::Error::custom(text)))?;
        }
        (self.how, self.at).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (how, at) = Deserialize::deserialize(deserializer)?;
        let odd = Self { how, at };
        let here = if Self::is_worker() { At::ArgumentDecode } else { At::ResultDecode };
        if at == here {
            odd.go_wrong(|text| Err(D::Error::custom(text)))?;
        }
        Ok(odd)
    }
}

fn call(odd: Odd) -> Odd {
    if odd.at == At::Call {
        odd.go_wrong(|text| panic!("{text}"));
    }
    odd
}

/// What a task with such a value comes to; those that end the user's own process are run in another.
fn outcome(how: How, at: At, begun: &Event) -> String {
    let pool = pool("cells", 1);
    still_works(&pool);
    begun.set();
    let submitted = Instant::now();
    let (is_refused, outcome) = match pool.submit(call, Odd { how, at }) {
        Ok(task) => (false, task.join()),
        Err(error) => (true, Err(error.task_error().unwrap().clone())),
    };
    let took = submitted.elapsed();
    still_works(&pool);
    let error = outcome.unwrap_err();
    saw_after("error", took, format!("{error}; pool usable"));
    match error.worker_exit() {
        Some(exit) => exit.to_string(),
        None if is_refused => format!("refused: {}", error.is_codec()),
        None if error.is_codec() => "codec".into(),
        None => format!("panic: {}", error.is_panic()),
    }
}

#[test]
fn the_fifteen_cells_have_definite_outcomes() {
    let _dog = watchdog(100);
    let expected = [
        (How::Error, ["refused: true", "codec", "panic: true", "codec", "codec"]),
        // What the user's own process does to itself, it has done.
        (How::Exit, ["exit code 7", "exit code 7", "exit code 7", "exit code 7", "exit code 7"]),
        (How::Crash, ["signal 6", "signal 6", "signal 6", "signal 6", "signal 6"]),
    ];
    let steps = [
        (At::ArgumentEncode, "task encode"),
        (At::ArgumentDecode, "task decode"),
        (At::Call, "in the call"),
        (At::ResultEncode, "result encode"),
        (At::ResultDecode, "result decode"),
    ];
    for (how, outcomes) in expected {
        for ((at, step), wanted) in steps.into_iter().zip(outcomes) {
            println!("cell | {}/{step}", format!("{how:?}").to_lowercase());
            let begun = Event::new().unwrap();
            let own = at == At::ArgumentEncode || at == At::ResultDecode;
            let had = if own && how != How::Error {
                let it = |(how, at, begun): (How, At, Event)| outcome(how, at, &begun);
                let process = Process::spawn(it, (how, at, begun.clone())).unwrap();
                assert!(begun.wait_timeout(LONG));
                let submitted = Instant::now();
                let exit = process.join().unwrap_err().worker_exit().unwrap();
                saw("end", submitted, exit);
                exit.to_string()
            } else {
                outcome(how, at, &begun)
            };
            assert_eq!(had, wanted, "{how:?} at {at:?}");
        }
    }
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("busy") => busy(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}
