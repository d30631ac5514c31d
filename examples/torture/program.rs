//! The program that is tormented: storms, in which everything is used by several threads, workers and
//! visitors, and calms, in which everything must be right.

use super::account::Account;
use super::shared::{Act, Done, Shared};
use super::support::{ROLE, Random, children, descendants, is_running, parent_of};
use super::tally::{Tally, one};
use super::{tasks, visitor};
use procpool::{Arena, Pool, Recycle};
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long anything may take. (A worker that is stopped holds up others for a tenth of a second.)
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Threads that use the pool.
const THREADS: u64 = 3;
/// Attached programs, if the arena has a name.
const VISITORS: usize = 2;
/// Storms until a program ends of itself.
const STORMS: u64 = 12;
/// The arena's name for visitors, and the seed, as the harness sets them.
pub(crate) const NAME: &str = "PROCPOOL_TORTURE_NAME";
/// See [`NAME`].
pub(crate) const SEED: &str = "PROCPOOL_TORTURE_SEED";

/// What all threads use.
pub(crate) struct World {
    pub(crate) pool: Arc<Pool>,
    pub(crate) shared: Box<Shared>,
    pub(crate) tally: &'static Tally,
    account: Mutex<Account>,
    next_id: AtomicU64,
}

static TALLY: OnceLock<Tally> = OnceLock::new();
/// The pool, for whoever finds that something is wrong.
static POOL: Mutex<Option<Arc<Pool>>> = Mutex::new(None);
/// Who was lost with a task since the last calm, for the harness to compare.
static LOST: Mutex<Vec<Loss>> = Mutex::new(Vec::new());
/// What is under way, and since when.
static UNDER_WAY: Mutex<BTreeMap<u64, (String, Instant)>> = Mutex::new(BTreeMap::new());
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// A worker that was lost with a task.
pub(crate) struct Loss {
    pub(crate) pid: u32,
    pub(crate) signal: Option<i32>,
    /// When the outcome was there, if that was noted at once.
    pub(crate) seen_ns: Option<u64>,
}

/// The time that all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs something that must end in time.
fn watched<R>(what: &str, action: impl FnOnce() -> R) -> R {
    let number = WATCHED.fetch_add(1, Relaxed);
    lock(&UNDER_WAY).insert(number, (what.to_owned(), Instant::now()));
    let result = action();
    lock(&UNDER_WAY).remove(&number);
    result
}

impl World {
    /// A number that no other value has.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    pub(crate) fn watched<R>(&self, what: &str, action: impl FnOnce() -> R) -> R {
        watched(what, action)
    }

    pub(crate) fn acknowledged(&self, act: Act, id: u64, done: Done) {
        if let Err(wrong) = lock(&self.account).acknowledged(act, id, done) {
            panic!("{wrong}");
        }
    }

    pub(crate) fn in_doubt(&self, act: Act, id: u64) {
        lock(&self.account).in_doubt(act, id);
    }

    pub(crate) fn report_lost(&self, loss: Loss) {
        lock(&LOST).push(loss);
    }
}

/// Takes the harness's orders, in a thread of its own, so that it says what it knows also when all others hang.
/// What comes out is the answers.
fn take_orders() -> Receiver<()> {
    let (sender, answers) = channel();
    std::thread::spawn(move || {
        for order in std::io::stdin().lock().lines().map_while(Result::ok) {
            if order == "dump" {
                say_all_there_is();
                println!("dumped");
            } else if sender.send(()).is_err() {
                break;
            }
        }
        std::process::exit(0); // The harness is gone.
    });
    answers
}

/// Says a line to the harness, and waits for its answer.
fn ask(line: &str, answers: &Receiver<()>) {
    println!("{line}");
    // Without an answer the process is about to end.
    let _ = answers.recv();
}

/// What is under way, and every word of shared memory.
fn say_all_there_is() {
    for (what, since) in lock(&UNDER_WAY).values() {
        eprintln!("under way for {:?}: {what}", since.elapsed());
    }
    // Not while it is held: a dump may take a while.
    let pool = lock(&POOL).clone();
    if let Some(pool) = pool {
        eprintln!("{}", pool.dump());
    }
}

/// From now on, whatever panics in this process ends it, with all that there is to say.
fn end_at_first_failure() {
    let seed = std::env::var(SEED).unwrap_or_default();
    std::panic::set_hook(Box::new(move |panic| {
        static ONCE: AtomicBool = AtomicBool::new(false);
        if ONCE.swap(true, Relaxed) {
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let message = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("?");
        eprintln!("torture: FAILED (seed {seed}, {place}): {message}");
        say_all_there_is();
        std::process::exit(101);
    }));
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let late =
                lock(&UNDER_WAY).values().find(|(_, since)| since.elapsed() > PATIENCE).cloned();
            if let Some((what, _)) = late {
                panic!("{what} has not ended within {PATIENCE:?}");
            }
        }
    });
}

/// Is the program, to its end.
pub(crate) fn run() -> ! {
    end_at_first_failure();
    let answers = take_orders();
    let seed: u64 = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    // Before the first pool: it is the arena of the whole program.
    let arena = std::env::var(NAME).ok().map(|name| {
        let arena = Arena::builder(&name).bytes(128 << 20).key(b"torture").create();
        let arena = arena.unwrap_or_else(|error| panic!("{error}"));
        // What the table of names takes for its first one, it keeps.
        arena.register("shared", &0u64).unwrap_or_else(|error| panic!("{error}"));
        arena.unregister("shared");
        arena
    });
    let tally = TALLY.get_or_init(Tally::default);
    let recycle = match random.next() % 3 {
        0 => Recycle::default(),
        1 => Recycle::after_tasks(50 + random.next() % 5000).jitter(0.3),
        _ => Recycle::after_age(Duration::from_millis(30 + random.next() % 300)).jitter(0.5),
    };
    let (mut usual, mut usual_in_calm) = (None, None);
    for storm in 0..STORMS {
        let built = Pool::builder()
            .workers(1 + random.next() as usize % 4)
            .name("torture")
            .recycle(recycle)
            .queue_capacity([64, 256, 1024][random.next() as usize % 3])
            .restart_limit(1_000_000, Duration::from_secs(1))
            .build();
        let pool = Arc::new(built.unwrap_or_else(|error| panic!("no pool: {error}")));
        *lock(&POOL) = Some(pool.clone());
        let used = Used::of(&pool);
        let shared = Shared::new().unwrap_or_else(|error| panic!("no shared objects: {error}"));
        let world = World {
            pool: pool.clone(),
            shared: Box::new(shared),
            tally,
            account: Mutex::default(),
            next_id: AtomicU64::new(1),
        };
        if let Some(arena) = &arena {
            arena.register("shared", &*world.shared).unwrap_or_else(|error| panic!("{error}"));
        }
        if storm == 0 {
            // What a program starts once, it keeps: it is there from the first calm on.
            tasks::warm_up(&world);
        }
        ask("storm", &answers);
        rage(&world, &mut random, storm, arena.is_some());
        ask("calm", &answers);
        watched("calm", || be_calm(world, arena.as_ref(), used, &mut usual_in_calm));
        one(&tally.calms);
        for Loss { pid, signal, seen_ns } in std::mem::take(&mut *lock(&LOST)) {
            let signal = signal.map_or("unknown".into(), |signal| signal.to_string());
            let seen = seen_ns.map_or("-".into(), |ns| ns.to_string());
            println!("lost {pid} {signal} {seen}");
        }
        let stats = pool.stats();
        tally.retries.fetch_add(stats.retries, Relaxed);
        tally.settled.fetch_add(stats.workers_lost + stats.workers_killed, Relaxed);
        println!("{}", tally.take_line());
        *lock(&POOL) = None;
        watched("the end of a pool", || drop(pool));
        watched("a calm without a pool", || compare(&mut usual));
    }
    std::process::exit(0)
}

/// A storm, of about a second.
fn rage(world: &World, random: &mut Random, storm: u64, visited: bool) {
    let end = Instant::now() + Duration::from_millis(300 + random.next() % 1200);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let seed = random.next();
            scope.spawn(move || tasks::torment(world, seed, end));
        }
        for place in 0..if visited { VISITORS } else { 0 } {
            let seed = random.next();
            scope.spawn(move || entertain(world, seed, (storm << 8) + place as u64, end));
        }
    });
}

/// Has one visitor after the other, and keeps account of what they do.
fn entertain(world: &World, mut seed: u64, place: u64, end: Instant) {
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        // Ids of their own: the upper half.
        let first = (1 << 63) | (place << 48) | (number << 32);
        let mut visitor = watched("start of a visitor", || start_visitor(seed, first));
        seed = seed.wrapping_add(1);
        let stdin = visitor.stdin.take();
        let lines = visitor.stdout.take().map(std::io::BufReader::new);
        let mut begun = None;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Its input ends with the storm: it leaves.
                while Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(5));
                }
                drop(stdin);
            });
            // Without a time limit: it may be stopped, and the calm is watched.
            for line in lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                match visitor::Line::parse(&line) {
                    Some(visitor::Line::Begins(act, id)) => begun = Some((act, id)),
                    Some(visitor::Line::Has(done, repaired)) => {
                        if let Some((act, id)) = begun.take() {
                            one(&world.tally.visits);
                            world.tally.repaired.fetch_add(u64::from(repaired), Relaxed);
                            world.acknowledged(act, id, done);
                        }
                    }
                    // Half a line of one that was killed, and nothing after it.
                    None if line.starts_with("wrong") => panic!("a visitor: {line}"),
                    None => {}
                }
            }
        });
        if let Some((act, id)) = begun {
            world.in_doubt(act, id);
        }
        let ended = visitor.wait().unwrap_or_else(|error| panic!("no visitor: {error}"));
        if !ended.success() {
            use std::os::unix::process::ExitStatusExt;
            assert!(ended.signal().is_some_and(|signal| [9, 15].contains(&signal)), "{ended}");
            one(&world.tally.visitors_lost);
        }
    }
}

fn start_visitor(seed: u64, first: u64) -> Child {
    let program = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(program);
    command.env(ROLE, "visitor").env(SEED, seed.to_string()).arg(first.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("no visitor: {error}"))
}

/// Nobody uses anything, and nobody is killed: checks everything.
fn be_calm(world: World, arena: Option<&Arena>, used: Used, usual: &mut Option<Vec<String>>) {
    let World { pool, shared, account, .. } = world;
    // What the dead held is given back when that is settled.
    until("no worker is dead and not settled", || {
        pool.stats().workers.iter().all(|worker| is_running(worker.pid))
    });
    if let Some(arena) = arena {
        until("visitors are no longer among the participants", || {
            arena.participants().iter().all(|pid| is_own(*pid))
        });
    }
    let account = account.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Err(wrong) = shared.take_stock().and_then(|stock| account.check(stock)) {
        panic!("{wrong}\n{shared:#?}");
    }
    until_ok("who waits is told", || shared.try_waiting());
    if let Some(arena) = arena {
        arena.unregister("shared");
    }
    drop(shared);
    // Tasks whose handles were dropped may be under way.
    until_ok("the pool is whole", || pool.check_invariants());
    let count = pool.workers();
    // And, perhaps, successors of those that are about to be recycled.
    until("all workers are there", || pool.stats().workers.len() >= count);
    let all =
        pool.map(|n: u64| n + 1, 0..1000).unwrap_or_else(|error| panic!("after a storm: {error}"));
    assert!(all.into_iter().eq(1..1001));
    until_ok("it has the descriptors that it had in its first calm", || {
        let (pidfds, others): (Vec<_>, Vec<_>) =
            descriptors().into_iter().partition(|target| target.contains("pidfd"));
        // One for each worker, and one for each guardian.
        let most = pool.stats().workers.len() + 1 + usize::from(arena.is_some());
        if pidfds.len() <= most && *usual.get_or_insert_with(|| others.clone()) == others {
            return Ok(());
        }
        Err(format!("{} pidfds of {most}; {others:#?}, and had {usual:#?}", pidfds.len()))
    });
    until_ok("nothing of the arena is missing", || {
        let now = Used::of(&pool);
        if (now.bytes, now.objects, now.holdings) == (used.bytes, used.objects, used.holdings) {
            return Ok(());
        }
        let more: Vec<_> = now.blocks.difference(&used.blocks).cloned().collect();
        Err(format!("{}, and was {}; new are {more:#?}", now.text(), used.text()))
    });
}

/// What of the arena is in use, but for tables that grow and never shrink.
struct Used {
    bytes: u64,
    objects: usize,
    holdings: usize,
    blocks: BTreeSet<String>,
}

impl Used {
    fn of(pool: &Pool) -> Self {
        let (stats, dump) = (pool.stats(), pool.dump());
        let count = |what: &str| dump.lines().filter(|line| line.starts_with(what)).count();
        let blocks = dump.lines().filter(|line| line.starts_with("block"));
        Self {
            bytes: stats.arena_used_bytes - stats.arena_tables_bytes,
            objects: count("object "),
            holdings: count("holding "),
            blocks: blocks.map(str::to_owned).collect(),
        }
    }

    fn text(&self) -> String {
        let Self { bytes, objects, holdings, blocks: _ } = self;
        format!("{bytes} bytes, {objects} objects, {holdings} holdings in use")
    }
}

/// Without a pool, the program has what it had after its first one: descriptors (as what they lead to),
/// threads, and processes below it.
fn compare(usual: &mut Option<Vec<String>>) {
    let mut now = what_it_has();
    match usual {
        // Threads and processes that were told to end may take a moment.
        None => {
            until("it has what it had a moment ago", || {
                std::thread::sleep(Duration::from_millis(20));
                let before = std::mem::replace(&mut now, what_it_has());
                now == before
            });
            *usual = Some(now);
        }
        Some(usual) => until_ok("it has what it had after its first pool", || {
            let now = what_it_has();
            if now == *usual { Ok(()) } else { Err(format!("it has {now:#?}, and had {usual:#?}")) }
        }),
    }
}

/// What the descriptors of this process lead to.
fn descriptors() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| entry.path().read_link().ok());
    // A socket's or pipe's number is its own.
    let name = |target: std::path::PathBuf| {
        target.display().to_string().chars().filter(|letter| !letter.is_ascii_digit()).collect()
    };
    let mut all: Vec<String> = targets.map(name).collect();
    all.sort();
    all
}

fn what_it_has() -> Vec<String> {
    let mut all = descriptors();
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().count();
    all.push(format!("{threads} threads"));
    let own = std::process::id();
    let below = (children(own).len(), descendants(own).len());
    all.push(format!("{} children, {} processes below", below.0, below.1));
    all
}

/// Whether it is this process or one of its workers.
fn is_own(pid: u32) -> bool {
    let own = std::process::id();
    pid == own || parent_of(pid).is_some_and(|guardian| parent_of(guardian) == Some(own))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_ok(what, || if condition() { Ok(()) } else { Err("it is not so") });
}

/// Waits until it is so.
fn until_ok<E: std::fmt::Display>(what: &str, mut condition: impl FnMut() -> Result<(), E>) {
    let began = Instant::now();
    while let Err(error) = condition() {
        assert!(began.elapsed() < PATIENCE / 3, "never: {what}: {error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
