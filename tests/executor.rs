//! More counterparts of CPython's cases for executors, futures and processes (`cpython.rs` has the list), a static pool
//! that its own tasks use, and what a program that is kept to one core gets.

mod support;

use procpool::collections::List;
use procpool::queue::{GetError, Queue, one_way};
use procpool::sync::{Event, Semaphore};
use procpool::{
    Pool, Process, Recycle, Shutdown, TaskHandle, TaskOptions, WorkerExit, WorkerState,
    active_children, as_completed, cpu_count, current_process, wait_all, wait_any, wait_failed,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use support::*;

const LONG: Duration = Duration::from_secs(30);

fn square(n: i64) -> i64 {
    n * n
}

fn sleep_ms(ms: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

fn begin_and_wait((begun, go): (Event, Event)) -> bool {
    begun.set();
    go.wait_timeout(LONG)
}

/// A worker that is busy until the second event is set.
fn occupied(pool: &Pool) -> (TaskHandle<bool>, Event) {
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let task = pool.submit(begin_and_wait, (begun.clone(), go.clone())).unwrap();
    assert!(begun.wait_timeout(LONG));
    (task, go)
}

// Pool -------------------------------------------------------------------------------------------

/// `test_pool_worker_lifetime_early_close`: closed while its workers turn over.
#[test]
fn a_pool_that_is_closed_while_its_workers_turn_over_does_all_it_has_accepted() {
    let _dog = watchdog(60);
    for _ in 0..5 {
        let pool = Pool::builder().workers(3).recycle(Recycle::after_tasks(1)).build().unwrap();
        let slow = |n: i64| {
            sleep_ms(10);
            n * n
        };
        let tasks: Vec<_> = (0..12).map(|n| pool.submit(slow, n).unwrap()).collect();
        pool.close();
        pool.join().unwrap();
        assert!(tasks.into_iter().map(|task| task.join().unwrap()).eq((0..12).map(square)));
        assert_eq!(pool.stats().workers_lost, 0);
    }
}

/// `test_imap_handle_iterable_exception` and its like: at the start, and in the middle after some outcomes.
#[test]
fn outcomes_before_a_bad_input_are_given_out() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let input = |at: i64| (0..).inspect(move |n| assert!(*n != at, "no more"));
    for at in [0, 1, 5, 20] {
        for ordered in [true, false] {
            let mut imap = match ordered {
                true => pool.imap(square, input(at)).unwrap().batch(1).window(1),
                false => pool.imap_unordered(square, input(at)).unwrap().batch(1).window(1),
            };
            // With a window of one, nothing is taken before the outcome of what was taken before.
            let before: Vec<i64> = imap.by_ref().take(at as usize).map(Result::unwrap).collect();
            assert!(before.into_iter().eq((0..at).map(square)), "{at}");
            assert!(catch_unwind(AssertUnwindSafe(|| imap.next())).is_err(), "{at}");
            drop(imap);
            assert_eq!(pool.submit(square, 3).unwrap().join(), Ok(9));
        }
    }
}

/// `test_map_no_failfast` asks that a `map` which has failed waits for the rest. Here `map_each` does; `map` itself
/// ends with the failure, and leaves what has not begun.
#[test]
fn a_map_that_has_failed_does_not_wait_for_the_rest_but_map_each_does() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let ran = List::<u32>::new().unwrap();
    let first_fails = |(begun, go, ran, n): (Event, Event, List<u32>, u32)| {
        match n {
            0 => {
                assert!(begun.wait_timeout(LONG));
                panic!("the first one fails");
            }
            1 => {
                begun.set();
                go.wait_timeout(LONG);
            }
            _ => {}
        }
        ran.push(&n).unwrap();
        n
    };
    let inputs = || (0..4).map(|n| (begun.clone(), go.clone(), ran.clone(), n));
    let one_by_one = pool.with_options(TaskOptions::new().batch(1));
    let error = one_by_one.map(first_fails, inputs()).unwrap_err();
    assert_eq!(error.panic_message(), Some("the first one fails"));
    assert!(!ran.contains(&1).unwrap(), "the second one runs on");
    go.set();
    let outcomes = one_by_one.map_each(first_fails, inputs()).unwrap();
    assert!(outcomes[0].is_err() && outcomes[1..].iter().all(Result::is_ok));
}

// Future -----------------------------------------------------------------------------------------

/// `test_running`: what a task does is told by the pool's statistics, and by whether it can be cancelled.
#[test]
fn a_task_is_seen_queued_running_and_done() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let running = || {
        let workers = pool.stats().workers.into_iter();
        let functions = workers.filter_map(|worker| match worker.state {
            WorkerState::Running { function, .. } => Some(function),
            _ => None,
        });
        functions.collect::<Vec<_>>()
    };
    assert!(running().is_empty());
    let (task, go) = occupied(&pool);
    let queued = pool.submit(square, 2).unwrap();
    assert!(running()[0].contains("begin_and_wait") && running().len() == 1);
    assert_eq!(pool.stats().tasks_queued, 1);
    assert!(!task.is_finished() && !queued.is_finished());
    go.set();
    assert_eq!((task.join(), queued.join()), (Ok(true), Ok(4)));
    wait_until("it runs nothing", || running().is_empty());
}

/// `test_result_with_cancel`, `test_pending_calls_race`: awaited in one thread, ended in another.
#[test]
fn what_one_thread_waits_for_another_one_cancels_or_aborts() {
    let _dog = watchdog(60);
    for round in 0..20 {
        let pool = pool_of(1);
        let (running, go) = occupied(&pool);
        let queued = [pool.submit(square, 1).unwrap(), pool.submit(square, 2).unwrap()];
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| match round % 2 {
                0 => wait_all(&queued, LONG),
                _ => wait_any(&queued[1..], LONG) == Some(0),
            });
            if round % 4 > 1 {
                sleep_ms(2);
            }
            assert!(queued[1].cancel() && queued[0].cancel());
            assert!(waits.join().unwrap());
        });
        assert!(queued.into_iter().all(|task| task.join().unwrap_err().is_cancelled()));
        let running = [running];
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| wait_all(&running, LONG));
            assert!(running[0].abort());
            assert!(waits.join().unwrap());
        });
        go.set();
        let [running] = running;
        assert!(running.join().unwrap_err().is_aborted());
    }
}

/// `test_first_exception`, and the ones with some that have ended, or failed, before.
#[test]
fn the_first_failure_ends_a_wait() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(2).queue_capacity(8).build().unwrap();
    let (blocked, go) = occupied(&pool);
    let fails = |n: u32| {
        assert!(n != 3, "three");
        std::process::exit(if n == 4 { 1 } else { return true });
    };
    let tasks: Vec<_> = [1, 2, 3].map(|n| pool.submit(fails, n).unwrap()).into();
    assert_eq!(wait_failed(&tasks, LONG), Some(2));
    assert_eq!(wait_failed(&tasks, Duration::ZERO), Some(2), "it has failed before");
    assert_eq!(wait_failed(&tasks[..2], LONG), None, "all have ended");
    assert_eq!(wait_failed::<bool>(&[], LONG), None);
    // Also when their outcomes had to make room for others'.
    let others: Vec<_> = (10..30).map(|n| pool.submit(fails, n).unwrap()).collect();
    assert_eq!(wait_failed(&others, LONG), None);
    assert_eq!(wait_failed(&tasks, Duration::ZERO), Some(2));
    // One that is lost has failed; one that is aborted, too; one that runs has not.
    let lost = [pool.submit(fails, 4).unwrap()];
    assert_eq!(wait_failed(&lost, LONG), Some(0));
    let blocked = [blocked];
    let start = Instant::now();
    assert_eq!(wait_failed(&blocked, Duration::from_millis(20)), None);
    assert!(start.elapsed() >= Duration::from_millis(20) && !blocked[0].has_failed());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| wait_failed(&blocked, LONG));
        assert!(blocked[0].abort());
        assert_eq!(waits.join().unwrap(), Some(0));
    });
    go.set();
    for (task, failed) in tasks.into_iter().chain(lost).chain(blocked).zip([0, 0, 1, 1, 1]) {
        assert_eq!((task.has_failed(), task.join().is_err()), (failed == 1, failed == 1));
    }
}

/// The same with an iterator over what ends.
#[test]
fn the_first_failure_is_found_while_others_still_run() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let (blocked, go) = occupied(&pool);
    let fails = |n: u32| {
        assert!(n != 7, "seven");
        true
    };
    let mut tasks: Vec<_> = (0..20).map(|n| pool.submit(fails, n).unwrap()).collect();
    tasks.push(blocked);
    let mut ended = as_completed(tasks);
    let (place, outcome) = ended.find(|(_, outcome)| outcome.is_err()).unwrap();
    assert_eq!((place, outcome.unwrap_err().panic_message()), (7, Some("seven")));
    assert!(ended.left() >= 1, "one of them is not done");
    go.set();
    assert!(ended.all(|(_, outcome)| outcome == Ok(true)));
}

/// `test_hang_gh94440`: submitted, cancelled at once, and the pool shut down.
#[test]
fn a_shutdown_right_after_a_cancelled_task_ends() {
    let _dog = watchdog(60);
    for _ in 0..50 {
        let pool = pool_of(1);
        let task = pool.submit(square, 1).unwrap();
        task.cancel();
        pool.shutdown(Shutdown::Drain).unwrap();
        assert!(task.is_finished());
    }
}

// Deadlocks --------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum At {
    Encode,
    Decode,
    Never,
}

/// Fails, or ends its process, on the way into a worker or out of it.
#[derive(Debug, Clone, Copy)]
struct Odd {
    at: At,
    exits: bool,
}

impl Odd {
    fn go_wrong(self) -> bool {
        if self.exits {
            std::process::exit(9);
        }
        true
    }
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.at == At::Encode && self.go_wrong() {
            return Err(serde::ser::Error::custom("will not be encoded"));
        }
        (self.at, self.exits).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (at, exits) = Deserialize::deserialize(deserializer)?;
        let odd = Self { at, exits };
        if at == At::Decode && odd.go_wrong() {
            return Err(serde::de::Error::custom("will not be decoded"));
        }
        Ok(odd)
    }
}

/// `ExecutorDeadlockTest`: something goes wrong, and the pool is shut down while it does.
#[test]
fn a_pool_can_be_shut_down_whatever_went_wrong_just_before() {
    let _dog = watchdog(60);
    type Submit = fn(&Pool) -> Option<TaskHandle<Odd>>;
    let kinds: [Submit; 6] = [
        // Arguments that cannot be encoded, cannot be decoded, and whose decoding ends the worker.
        |pool| pool.submit(|odd: Odd| odd, Odd { at: At::Encode, exits: false }).ok(),
        |pool| pool.submit(|odd: Odd| odd, Odd { at: At::Decode, exits: false }).ok(),
        |pool| pool.submit(|odd: Odd| odd, Odd { at: At::Decode, exits: true }).ok(),
        // A call that ends the worker; results that cannot be encoded, or whose encoding ends it.
        |pool| pool.submit(|_: u8| -> Odd { std::process::abort() }, 0).ok(),
        |pool| pool.submit(|_: u8| Odd { at: At::Encode, exits: false }, 0).ok(),
        |pool| pool.submit(|_: u8| Odd { at: At::Encode, exits: true }, 0).ok(),
    ];
    for (kind, submit) in kinds.into_iter().enumerate() {
        for mode in [Shutdown::Drain, Shutdown::CancelQueued, Shutdown::Now] {
            let pool = pool_of(2);
            let good = pool.submit(|_: u8| Odd { at: At::Never, exits: false }, 0).unwrap();
            let tasks: Vec<_> = (0..5).filter_map(|_| submit(&pool)).collect();
            assert_eq!(tasks.len(), if kind == 0 { 0 } else { 5 });
            pool.shutdown(mode).unwrap();
            assert!(good.is_finished() && tasks.iter().all(TaskHandle::is_finished));
            assert!(tasks.into_iter().all(|task| task.join().is_err()), "{kind} {mode:?}");
            if mode == Shutdown::Drain {
                assert!(good.join().is_ok());
            }
        }
    }
}

/// `test_crash_big_data`: a worker dies while large arguments and results are under way.
#[test]
fn a_worker_dies_while_large_values_are_on_their_way() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let big = |block: Vec<u8>| {
        if block[0] == 1 {
            die();
        }
        block
    };
    let before = pool.stats().arena_used_bytes;
    for _ in 0..3 {
        let blocks = [1u8, 0, 1, 0].map(|first| {
            let mut block = vec![7; 16 << 20];
            block[0] = first;
            block
        });
        let tasks = blocks.clone().map(|block| pool.submit(big, block).unwrap());
        for (task, block) in tasks.into_iter().zip(blocks) {
            match task.join() {
                Ok(value) => assert!(block[0] == 0 && value == block),
                Err(error) => assert!(block[0] == 1 && error.is_worker_lost(), "{error}"),
            }
        }
    }
    wait_until("their memory is free", || {
        let _ = pool.check_invariants();
        pool.stats().arena_used_bytes < before + (1 << 20)
    });
}

/// `test_interpreter_shutdown`: a program ends with a pool that is never dropped. There, what is queued is done
/// first; here it is not, and no process is left.
#[test]
fn a_program_ends_with_a_static_pool_and_tasks_in_its_queue() {
    let _dog = watchdog(60);
    for how in ["returns", "exits"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = program_in_role(how, folder.path());
        let (status, said, errors) = run_to_end(&mut command);
        assert!(status.success(), "{how}: {status}: {said}{errors}");
        let pids = said.lines().find_map(|line| line.split_once("workers ")).unwrap().1;
        let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), 2);
        wait_until("no worker is left", || !pids.iter().any(|pid| is_running(*pid)));
    }
}

fn leave_a_static_pool() {
    static POOL: LazyLock<Pool> =
        LazyLock::new(|| Pool::builder().workers(2).name("left").build().unwrap());
    let tasks: Vec<_> = (0..6).map(|_| POOL.submit(sleep_ms, 100_000).unwrap()).collect();
    let workers = active_children().into_iter();
    let workers: Vec<String> = workers.map(|child| child.pid.to_string()).collect();
    println!("workers {}", workers.join(" "));
    std::mem::forget(tasks);
}

// Process ----------------------------------------------------------------------------------------

/// `test_many_processes`: many at once, ended in two ways, with their exit codes.
#[test]
fn many_processes_are_terminated_and_killed_at_once() {
    let _dog = watchdog(60);
    let begun = List::<u32>::new().unwrap();
    let stuck = |begun: List<u32>| {
        begun.push(&std::process::id()).unwrap();
        sleep_ms(100_000)
    };
    let processes: Vec<_> =
        (0..20).map(|_| Process::spawn(stuck, begun.clone()).unwrap()).collect();
    wait_until("all have begun", || begun.len() == 20);
    for (n, process) in processes.iter().enumerate() {
        if n % 2 == 0 { process.terminate() } else { process.kill() }
    }
    for (n, process) in processes.into_iter().enumerate() {
        let exit = process.join().unwrap_err().worker_exit();
        assert_eq!(exit, Some(WorkerExit::Signal(if n % 2 == 0 { 15 } else { 9 })), "{n}");
    }
}

/// `test_recursion`: each process starts two more, as long as it may.
#[test]
fn processes_start_processes_as_a_tree() {
    let _dog = watchdog(60);
    type Argument = (List<Vec<u32>>, Vec<u32>);
    fn grow((seen, path): Argument) {
        seen.push(&path).unwrap();
        if path.len() < 2 {
            let children = [0, 1].map(|n| {
                let longer = path.iter().copied().chain([n]).collect();
                Process::spawn(grow, (seen.clone(), longer)).unwrap()
            });
            children.into_iter().for_each(|child| child.join().unwrap());
        }
    }
    let seen = List::<Vec<u32>>::new().unwrap();
    Process::spawn(grow, (seen.clone(), Vec::new())).unwrap().join().unwrap();
    let mut seen = seen.to_vec().unwrap();
    seen.sort_unstable();
    let expected: [&[u32]; 7] = [&[], &[0], &[0, 0], &[0, 1], &[1], &[1, 0], &[1, 1]];
    assert_eq!(seen, expected);
}

/// `test_wait_for_threads`: there, a process waits for its threads. Here it ends with its function, as a Rust
/// program does with `main`.
#[test]
fn a_process_ends_with_its_function_though_a_thread_goes_on() {
    let _dog = watchdog(60);
    let leaves_a_thread = |n: u8| {
        std::thread::spawn(|| sleep_ms(100_000));
        n
    };
    assert_eq!(Process::spawn(leaves_a_thread, 5).unwrap().join(), Ok(5));
    let pool = Pool::builder().workers(1).recycle(Recycle::after_tasks(1)).build().unwrap();
    assert_eq!(pool.map(leaves_a_thread, 0..5).unwrap(), [0, 1, 2, 3, 4]);
    wait_until("they have left", || pool.stats().workers_recycled >= 5);
}

/// `test_error_on_stdio_flush`: what cannot be written at the end does not change how a process ends.
#[test]
fn a_process_whose_output_cannot_be_written_ends_with_its_value() {
    let _dog = watchdog(60);
    let writes = |closed: bool| {
        use std::os::fd::AsRawFd;
        // SAFETY: closes or replaces the standard output of this process, which nothing else uses.
        unsafe {
            if closed {
                libc::close(1);
            } else {
                let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
                libc::dup2(full.as_raw_fd(), 1);
            }
        }
        // Without an end of line it stays in the buffer until the process ends.
        print!("kept back");
        closed
    };
    for closed in [true, false] {
        let process = Process::spawn(writes, closed).unwrap();
        assert_eq!(process.join(), Ok(closed));
    }
}

/// `test_lose_target_ref`, `test_ressources_gced_in_workers`, `test_release_task_refs`: what an argument holds is let
/// go when its task has ended, however that was.
#[test]
fn what_an_argument_holds_is_let_go_when_its_task_has_ended() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    for dies in [false, true] {
        let (sender, receiver) = one_way::<u32>().unwrap();
        let send = |(sender, dies): (procpool::queue::SendEnd<u32>, bool)| {
            sender.send(7).unwrap();
            if dies {
                die();
            }
        };
        let task = pool.submit(send, (sender, dies)).unwrap();
        assert_eq!(receiver.recv_timeout(LONG).unwrap(), 7);
        let after = receiver.recv_timeout(LONG);
        assert!(matches!(after, Err(GetError::Disconnected)), "dies: {dies}: {after:?}");
        assert_eq!(task.join().is_err(), dies);
        let (sender, receiver) = one_way::<u32>().unwrap();
        let process = Process::spawn(send, (sender, dies)).unwrap();
        assert_eq!(receiver.recv_timeout(LONG).unwrap(), 7);
        let after = receiver.recv_timeout(LONG);
        assert!(matches!(after, Err(GetError::Disconnected)), "dies: {dies}: {after:?}");
        assert_eq!(process.join().is_err(), dies);
    }
}

/// `test_forkserver_sigint`, `test_forkserver_sigkill`: the guardian alone is hit, and there are processes again.
#[test]
fn a_signal_for_the_guardian_alone_hurts_nobody_for_long() {
    succeeds("guardian");
}

fn guardian() {
    let pool = pool_of(1);
    for signal in [libc::SIGINT, libc::SIGKILL, libc::SIGTERM, libc::SIGKILL, libc::SIGINT] {
        let (task, go) = occupied(&pool);
        let guardian = guardian_of(std::process::id()).unwrap();
        kill(guardian, signal);
        if signal != libc::SIGKILL {
            // It goes when the program does, and not before.
            assert_eq!(Process::spawn(square, 3).unwrap().join(), Ok(9));
            go.set();
            assert_eq!(task.join(), Ok(true));
            assert_eq!(guardian_of(std::process::id()), Some(guardian));
        } else {
            assert!(task.join().unwrap_err().is_worker_lost());
            assert_eq!(Process::spawn(square, 3).unwrap().join(), Ok(9));
        }
        assert_eq!(pool.submit(square, 4).unwrap().join(), Ok(16));
    }
}

/// `TestIgnoreEINTR`: a handler that runs meanwhile ends no wait.
#[test]
fn waits_go_on_after_a_signal() {
    let _dog = watchdog(60);
    type Waits = (Event, Queue<u32>, Semaphore);
    extern "C" fn nothing(_: i32) {}
    let wait = |(event, queue, handled): Waits| {
        // SAFETY: the handler does nothing; without SA_RESTART, so that system calls are interrupted.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
        }
        handled.release(1).unwrap();
        assert!(event.wait_timeout(LONG));
        event.clear();
        handled.release(1).unwrap();
        let got = queue.get().unwrap();
        let pool = Pool::builder().workers(1).build().unwrap();
        let task = pool.submit(|event: Event| event.wait_timeout(LONG), event.clone()).unwrap();
        handled.release(1).unwrap();
        (got, task.join().unwrap())
    };
    let (event, queue) = (Event::new().unwrap(), Queue::new(1).unwrap());
    let handled = Semaphore::new(0).unwrap();
    let waits = (event.clone(), queue.clone(), handled.clone());
    let process = Process::spawn(wait, waits).unwrap();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap().flatten();
    let disturb = || {
        handled.acquire_timeout(LONG).expect("it comes so far").forget();
        for _ in 0..50 {
            for thread in threads() {
                let thread = thread.file_name().to_str().unwrap().parse::<i32>().unwrap();
                let pid = process.pid() as i32;
                // SAFETY: sends a signal to a thread of a process that this test has started.
                unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, libc::SIGUSR1) };
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    disturb();
    event.set();
    disturb();
    queue.put(7).unwrap();
    disturb();
    event.set();
    assert_eq!(process.join(), Ok((7, true)));
}

// A pool that its own tasks use ------------------------------------------------------------------

type Own = Result<Pool, String>;

/// A worker that looks here makes a pool of its own: no task can wait for the pool that it runs in.
static OWN: LazyLock<Own> = LazyLock::new(|| {
    let pool = Pool::builder().workers(1).queue_capacity(2).name("own").build();
    pool.map_err(|error| error.to_string())
});

/// Calls itself through the pool, `depth` deep; how deep it came, and why no further.
fn dig(depth: u64) -> Result<u64, String> {
    if depth == 0 {
        return Ok(0);
    }
    let pool = OWN.as_ref().map_err(Clone::clone)?;
    let task = pool.submit(dig, depth - 1).map_err(|error| error.to_string())?;
    task.join().map_err(|error| error.to_string())?.map(|below| below + 1)
}

#[test]
fn a_task_that_waits_for_its_own_full_pool_ends_with_a_value_or_an_error() {
    let _dog = watchdog(60);
    let pool = OWN.as_ref().unwrap();
    let (blocked, go) = occupied(pool);
    // Its only worker is busy, and of its two places one is taken by that, the other by this.
    let digs = match pool.try_submit(dig, 3) {
        Ok(task) => task,
        Err(error) => panic!("{error}"),
    };
    assert!(pool.try_submit(dig, 3).unwrap_err().is_full());
    go.set();
    assert_eq!((blocked.join(), digs.join()), (Ok(true), Ok(Ok(3))));
    // Deeper than pools may be nested.
    let error = pool.submit(dig, 100).unwrap().join().unwrap().unwrap_err();
    assert!(error.contains("nested 8 deep"), "{error}");
    // With all of its places taken by tasks that each use it.
    let tasks: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| pool.submit(dig, 2))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    assert!(tasks.into_iter().all(|task| task.join() == Ok(Ok(2))));
}

// Cores ------------------------------------------------------------------------------------------

#[test]
fn a_program_that_is_kept_to_one_core_gets_one_worker() {
    succeeds("pinned");
}

fn pinned() {
    let all = cpu_count();
    // SAFETY: the set is plain data, and has room for the core that this thread runs on.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
    assert_eq!(cpu_count(), 1, "of {all}");
    let pool = Pool::new().unwrap();
    assert_eq!((pool.workers(), active_children().len()), (1, 1));
    // So do its workers.
    let theirs = |_: ()| (cpu_count(), Pool::new().map_or(0, |pool| pool.workers()));
    assert_eq!(pool.submit(theirs, ()).unwrap().join(), Ok((1, 1)));
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100, "and it gets on");
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("returns") => leave_a_static_pool(),
        Some("exits") => {
            leave_a_static_pool();
            std::process::exit(0);
        }
        Some("guardian") => guardian(),
        Some("pinned") => pinned(),
        Some(other) => panic!("no role {other}"),
        None => assert_eq!(current_process().name(), "main"),
    }
}
