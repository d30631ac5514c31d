//! procspawn's cases of the crash matrix, for `crash_matrix.py`: prints "began", and then what came of it and when,
//! as one line of JSON. Of cases that it has nothing for it prints nothing.

#[path = "../../tests/support/mod.rs"]
mod support;

use procspawn::{JoinHandle, Pool, ProcConfig, SpawnError, spawn};
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::Debug;
use std::panic::catch_unwind;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{children, is_running, kill, wait_for_line};

/// As in `crash_cases.py`.
const LIMIT: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(2);

fn hang(_: u64) {
    std::thread::sleep(Duration::from_secs(1000));
}

fn kill_all(pids: impl IntoIterator<Item = u32>) {
    pids.into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
}

/// When the case began to wait.
static BEGAN: OnceLock<Instant> = OnceLock::new();

fn began() -> Instant {
    println!("began");
    *BEGAN.get_or_init(Instant::now)
}

fn saw(took: Duration, kind: &str, text: &str) {
    println!("[{kind:?}, {:.6}, {text:?}]", took.as_secs_f64());
    std::process::exit(0);
}

fn join<T: Serialize + DeserializeOwned + Debug>(since: Instant, task: JoinHandle<T>) {
    match task.join() {
        Ok(value) => saw(since.elapsed(), "value", &format!("{value:?}")),
        Err(error) => saw(since.elapsed(), "error", &error.to_string()),
    }
}

/// A pool that has run a task.
fn pool(workers: usize) -> Pool {
    let pool = Pool::new(workers).expect("a pool");
    spawn!(in pool, (1u64 => n) || n).join().expect("a value");
    pool
}

fn worker_killed() {
    let pool = pool(1);
    let task = spawn!(in pool, (1u64 => n) || hang(n));
    std::thread::sleep(Duration::from_millis(300));
    let since = began();
    kill_all(children(std::process::id()));
    join(since, task);
}

fn idle_killed() {
    let pool = pool(2);
    let since = began();
    kill_all(children(std::process::id()));
    join(since, spawn!(in pool, (7u64 => n) || n));
}

fn task_exits() {
    let pool = pool(1);
    let since = began();
    join(since, spawn!(in pool, (7i32 => code) || -> u64 { std::process::exit(code) }));
}

/// What fails is the callback of `ProcConfig`, in `main`.
fn initializer() {
    let since = began();
    let pool = Pool::new(1).expect("a pool");
    join(since, spawn!(in pool, (7u64 => n) || n));
}

fn undecodable() {
    let pool = pool(1);
    let since = began();
    let odd = Odd { how: How::Error, step: Step::ResultDecode };
    join(since, spawn!(in pool, (odd => odd) || odd));
}

fn closed() {
    let pool = pool(1);
    let _busy = spawn!(in pool, (1u64 => n) || hang(n));
    let queued = spawn!(in pool, (1u64 => n) || n);
    std::thread::sleep(Duration::from_millis(200));
    let since = began();
    drop(pool);
    join(since, queued);
}

fn one_of_four() {
    let pool = pool(4);
    let nap = |n: u64| std::thread::sleep(Duration::from_secs(n));
    let tasks: Vec<_> = (0..4).map(|_| pool.spawn(1, nap)).collect();
    std::thread::sleep(Duration::from_millis(400));
    let victim = children(std::process::id())[1];
    let since = began();
    kill(victim, libc::SIGKILL);
    let errors: Vec<_> = tasks.into_iter().filter_map(|task| task.join().err()).collect();
    let named = errors.iter().any(|error| error.to_string().contains(&victim.to_string()));
    let named = if named { "" } else { "not " };
    let text = format!("{} of 4 fails, and the process is {named}named", errors.len());
    saw(since.elapsed(), "error", &text);
}

fn parent() {
    let own = std::env::current_exe().expect("a path");
    let program = Command::new(own).arg("parent_program").stdout(Stdio::piped()).spawn();
    let mut program = program.expect("a program");
    wait_for_line(&mut program, "ready");
    let below = children(program.id());
    let since = began();
    kill(program.id(), libc::SIGKILL);
    program.wait().expect("a program");
    let left = || below.iter().filter(|pid| is_running(**pid)).count();
    while left() > 0 && since.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(1));
    }
    match left() {
        0 => saw(since.elapsed(), "value", "no process is left"),
        left => {
            let text = format!("{left} of {} processes live on after 5 s", below.len());
            saw(since.elapsed(), "left", &text);
        }
    }
}

fn parent_program() {
    let pool = pool(2);
    let _tasks: Vec<_> = (0..2).map(|n| pool.spawn(n, hang)).collect();
    std::thread::sleep(Duration::from_millis(200));
    println!("ready");
    hang(0);
}

// The fifteen cells ------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum How {
    Error,
    Exit,
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    TaskEncode,
    TaskDecode,
    Call,
    ResultEncode,
    ResultDecode,
}

/// A value that goes wrong at one step on its way.
#[derive(Debug, Clone, Copy)]
struct Odd {
    how: How,
    step: Step,
}

/// Set behind `init`, which does not return in a worker.
static IN_USERS_PROCESS: AtomicBool = AtomicBool::new(false);

impl Odd {
    fn at<E>(
        self,
        step_of_user: Step,
        step_of_worker: Step,
        error: fn(&'static str) -> E,
    ) -> Result<(), E> {
        let in_users_process = IN_USERS_PROCESS.load(Ordering::Relaxed);
        let here = if in_users_process { step_of_user } else { step_of_worker };
        if self.step == here { self.go_wrong(|| Err(error("odd"))) } else { Ok(()) }
    }

    fn go_wrong<T>(self, error: impl FnOnce() -> T) -> T {
        match self.how {
            How::Error => error(),
            How::Exit => std::process::exit(7),
            How::Crash => std::process::abort(),
        }
    }
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.at(Step::TaskEncode, Step::ResultEncode, S::Error::custom)?;
        (self.how, self.step).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (how, step) = Deserialize::deserialize(deserializer)?;
        let odd = Self { how, step };
        odd.at(Step::ResultDecode, Step::TaskDecode, D::Error::custom)?;
        Ok(odd)
    }
}

fn call(odd: Odd) -> Odd {
    if odd.step == Step::Call {
        odd.go_wrong(|| panic!("odd"));
    }
    odd
}

fn cell(case: &str) {
    let (how, step) = case.split_once('/').expect("how, and where");
    let how = match how {
        "error" => How::Error,
        "exit" => How::Exit,
        _ => How::Crash,
    };
    let step = match step {
        "task encode" => Step::TaskEncode,
        "task decode" => Step::TaskDecode,
        "in the call" => Step::Call,
        "result encode" => Step::ResultEncode,
        _ => Step::ResultDecode,
    };
    let pool = pool(1);
    let since = began();
    let outcome = pool.spawn(Odd { how, step }, call).join_timeout(LIMIT);
    let took = since.elapsed();
    let (kind, text) = match &outcome {
        Ok(odd) => ("value", format!("{odd:?}")),
        Err(error) if error.is_timeout() => ("hang", "nothing within 5 s".into()),
        Err(error) => ("error", error.to_string()),
    };
    let later: Result<u64, SpawnError> = pool.spawn(1, |n| n).join_timeout(LATER);
    let pool_is = match &later {
        Ok(_) => "usable",
        Err(error) if error.is_timeout() => "stuck",
        Err(_) => "broken",
    };
    saw(took, kind, &format!("{text}; pool {pool_is}"));
}

fn main() {
    // After the arguments that `cargo bench` adds.
    let case = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let case = case.unwrap_or_default();
    let mut config = ProcConfig::new();
    if case == "initializer" {
        config.config_callback(|| panic!("no model"));
    }
    config.init();
    IN_USERS_PROCESS.store(true, Ordering::Relaxed);
    if let Err(panic) = catch_unwind(|| run(&case)) {
        let text = panic.downcast_ref::<String>().map_or("", |text| text);
        saw(BEGAN.get().map_or(Duration::ZERO, Instant::elapsed), "panic", text);
    }
}

fn run(case: &str) {
    match case {
        "worker_killed" => worker_killed(),
        "idle_killed" => idle_killed(),
        "task_exits" => task_exits(),
        "initializer" => initializer(),
        "undecodable" => undecodable(),
        "closed" => closed(),
        "executor" => one_of_four(),
        "parent" => parent(),
        "parent_program" => parent_program(),
        _ if case.contains('/') => cell(case),
        _ => {}
    }
}
