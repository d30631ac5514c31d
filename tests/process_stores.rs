//! Has every kind of process die before each of its stores to memory that others see (`prim/countdown.rs`): the
//! user's process, in whichever thread it is; the owner of a named arena and a program that has attached to it;
//! whoever settles what another has left, in both places where that is done; the guardian; a worker that starts.
//! (Workers at work are in `faults.rs`, `sync_faults.rs` and `collections_faults.rs`.)
//!
//! What a private arena holds goes with its user's process: of that, nothing may be left. Of a named one, the
//! survivor goes on: everything in it must be as good as new.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::collections::{Dict, List};
use procpool::queue::{JoinableQueue, PutError, Queue};
use procpool::sync::{Event, LockError, Mutex, RwLock, Semaphore};
use procpool::{Arena, Pool, Priority, Recycle, Shutdown, TaskError, TaskOptions, fault};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;
use support::walk::{StoresWalk, linger};
use support::*;

const NAME: &str = "PROCPOOL_TEST_NAME";
const KEY: &[u8] = b"a key";
const SOON: Duration = Duration::from_secs(20);

// What is used ------------------------------------------------------------------------------------

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A value whose parts belong together.
fn text(number: u64, length: usize) -> String {
    format!("{number} ").repeat(length)
}

fn is_whole(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let first = words.next();
    words.all(|word| Some(word) == first)
}

/// An object of each kind that a process can hold, wait for, or leave half-changed.
#[derive(Clone, Serialize, Deserialize)]
struct Objects {
    lock: Mutex<[u64; 2]>,
    shared: RwLock<[u64; 2]>,
    permits: Semaphore,
    bell: Event,
    dict: Dict<String, String>,
    list: List<u64>,
    queue: Queue<String>,
    tasks: JoinableQueue<u64>,
}

/// Takes a lock; if its owner has died, the second half is made what the first is.
fn mended<G: std::ops::DerefMut<Target = [u64; 2]>>(got: Result<G, LockError<G>>) -> G {
    match got {
        Ok(pair) => {
            assert_eq!(pair[0], pair[1], "half-changed, and nobody was told");
            pair
        }
        Err(error) => {
            assert!(error.is_owner_died());
            let mut pair = error.into_guard();
            pair[1] = pair[0];
            pair
        }
    }
}

impl Objects {
    fn make() -> Self {
        Self {
            lock: Mutex::new([0; 2]).unwrap(),
            shared: RwLock::new([0; 2]).unwrap(),
            permits: Semaphore::bounded(2).unwrap(),
            bell: Event::automatic().unwrap(),
            dict: Dict::new().unwrap(),
            list: List::new().unwrap(),
            queue: Queue::new(4).unwrap(),
            tasks: JoinableQueue::new(4).unwrap(),
        }
    }

    fn change(&self) {
        for pair in [&mut *mended(self.lock.lock()), &mut *mended(self.shared.write())] {
            pair[0] += 1;
            pair[1] += 1;
        }
        assert!(mended_read(&self.shared));
        let permit = self.permits.acquire();
        self.bell.set();
        self.bell.wait_timeout(Duration::ZERO);
        self.dict.insert("key", &text(3, 900)).unwrap();
        self.dict.insert("other", &text(1, 1)).unwrap();
        self.dict.remove("key").unwrap();
        self.list.extend([7, 7, 7]).unwrap();
        let _ = self.queue.try_put(text(7, 900));
        let _ = self.tasks.try_put(7);
        drop(permit);
        if let Ok(value) = self.queue.try_get() {
            assert!(is_whole(&value));
        }
        if self.tasks.try_get().is_ok() {
            self.tasks.task_done().unwrap();
        }
    }

    /// Takes what there is to be taken; whoever does so is about to die.
    fn hold_all(&self) {
        let mut pair = mended(self.lock.lock());
        pair[0] += 1;
        std::mem::forget(pair);
        std::mem::forget(self.permits.acquire());
        std::mem::forget(self.shared.read());
        let _ = self.tasks.try_put(9);
        let _ = self.tasks.try_get();
    }

    /// That they are as good as new. Whoever held something is dead, and settled.
    fn check(&self) {
        drop(mended(self.lock.lock()));
        drop(mended(self.shared.write()));
        assert!(self.lock.try_lock().is_ok() && self.shared.try_write().is_ok());
        assert_eq!(self.permits.available(), 2, "permits did not come back");
        assert!(self.permits.try_acquire_many(2).unwrap().is_some());
        self.bell.wait_timeout(Duration::ZERO);
        assert!(!self.bell.is_set());
        self.dict.check_invariants().unwrap();
        assert!(self.dict.values().unwrap().iter().all(|value| is_whole(value)));
        self.dict.clear();
        self.list.check_invariants().unwrap();
        assert_eq!(self.list.len() % 3, 0, "extend was cut short");
        self.list.clear();
        self.queue.check_invariants().unwrap();
        while let Ok(value) = self.queue.try_get() {
            assert!(is_whole(&value));
        }
        // Nobody puts anything into a queue of a dead owner's.
        if !matches!(self.queue.try_put(text(0, 1)), Err(PutError::OwnerDied(_))) {
            (1..4).for_each(|n| self.queue.try_put(text(n, 1)).unwrap());
            assert!(self.queue.try_put(text(4, 1)).unwrap_err().is_full());
            assert!((0..4).all(|n| self.queue.try_get().unwrap() == text(n, 1)));
        }
        self.tasks.check_invariants().unwrap();
        while self.tasks.try_get().is_ok() {
            self.tasks.task_done().unwrap();
        }
        assert!(self.tasks.join_timeout(Duration::from_secs(5)), "{:?}", self.tasks);
    }
}

fn mended_read(shared: &RwLock<[u64; 2]>) -> bool {
    shared.read().map_or_else(|error| error.is_owner_died(), |pair| pair[0] == pair[1])
}

fn change((objects, linger_first): (Objects, bool)) -> Objects {
    if linger_first {
        linger();
    }
    objects.change();
    objects
}

/// Dies holding everything.
fn hold_and_leave(objects: Objects) {
    objects.hold_all();
    std::process::exit(0)
}

/// Uses a pool, and objects in it, in all the ways that make its own process store something: in the thread that calls, and in its
/// supervisor, which settles workers, replaces them, ends tasks and asks for others.
fn use_pool(objects: &Objects) {
    // Few slots: making them takes a store for each word.
    let builder = Pool::builder().workers(2).name("stores").queue_capacity(8);
    let builder = builder.restart_limit(1000, ms(1));
    let pool = builder.recycle(Recycle::after_tasks(30)).build().unwrap();
    assert!(pool.map(|n: u64| n * 2, 0..20).unwrap().into_iter().eq((0..20).map(|n| n * 2)));
    // Both at a time.
    let other = pool.submit(change, (objects.clone(), false)).unwrap();
    objects.change();
    drop(other.join().unwrap());
    let failed = pool.submit(|(): ()| panic!("on purpose"), ()).unwrap().join();
    assert!(failed.map(|(): ()| ()).unwrap_err().is_panic());
    let long = pool.submit(|n: usize| "x".repeat(n), 5000).unwrap();
    assert_eq!(long.join().unwrap().len(), 5000);
    let table = vec![7u64; 100];
    let look = |table: &Vec<u64>, n: usize| table[n];
    assert_eq!(pool.with(&table).map(look, 0..3).unwrap(), [7; 3]);
    assert_eq!(pool.broadcast(|n: u64| n, &5).unwrap().len(), 2);
    let low = TaskOptions::new().priority(Priority::Low);
    let task = pool.submit_with(low, |n: u64| n, 6).unwrap();
    task.cancel();
    let _: Result<u64, TaskError> = task.join();
    // Settled by the supervisor.
    let lost = pool.submit(hold_and_leave, objects.clone()).unwrap().join();
    assert!(lost.unwrap_err().is_worker_lost());
    let again = pool.submit(change, (objects.clone(), true)).unwrap();
    drop(again.join().unwrap());
    let late = TaskOptions::new().timeout(ms(5));
    let hang = |(): ()| std::thread::sleep(Duration::from_secs(600));
    assert!(pool.submit_with(late, hang, ()).unwrap().join().unwrap_err().is_timed_out());
    assert!(pool.imap(|n: u64| n, 0..5).unwrap().all(|value| value.is_ok()));
    pool.resize(3).unwrap();
    pool.resize(1).unwrap();
    pool.shutdown(Shutdown::Drain).unwrap();
}

// Programs ----------------------------------------------------------------------------------------

/// A program in a role, with which its test talks.
struct Program {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    said: String,
}

impl Program {
    fn start(role: &str, name: &str, folder: &Path) -> Self {
        let mut command = program_in_role(role, folder);
        command.env(NAME, name).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    /// Waits until it has said `what`.
    fn hear(&mut self, what: &str) {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                let errors = self.errors();
                panic!("it ended before {what:?}: {}{errors}", self.said);
            }
            self.said.push_str(&line);
            if line.trim_end().ends_with(what) {
                return;
            }
        }
    }

    /// Has it go on.
    fn tell(&mut self) {
        // It may be dead.
        let _ = self.child.stdin.as_mut().unwrap().write_all(b"\n");
    }

    fn errors(&mut self) -> String {
        let mut errors = String::new();
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut errors);
        errors
    }

    /// Waits until it and all its processes have ended; whether it died.
    fn end(mut self) -> bool {
        // Its workers write there, too.
        self.output.read_to_string(&mut self.said).unwrap();
        let errors = self.errors();
        died(self.child.wait().unwrap(), &format!("{}{errors}", self.said))
    }
}

/// What [`Program::tell`] says.
fn wait_to_be_told() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Whether a program was killed; else it has ended well.
fn died(status: ExitStatus, said: &str) -> bool {
    let killed = status.signal() == Some(libc::SIGKILL);
    assert!(killed || status.success(), "{status}: {said}");
    killed
}

/// Processes that a program has left which ran with this temporary directory.
fn left_in(folder: &Path) -> usize {
    let mark = format!("TMPDIR={}", folder.display());
    let is_its = |pid: u32| {
        let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        is_running(pid) && variables.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_its(*pid)).count()
}

/// Waits until nothing is left of programs: no process, no file, no name.
fn nothing_left(folder: &Path, name: &str) {
    wait_until("all its processes have ended", || left_in(folder) == 0);
    let is_empty = || std::fs::read_dir(folder).unwrap().count() == 0;
    wait_until("the temporary directory is empty", is_empty);
    let has_name = || shared_memory_files().iter().any(|file| file.ends_with(name));
    wait_until("the name is gone", || !has_name());
}

fn unique(what: &str, folder: &Path) -> String {
    format!("test.{what}.{}", folder.file_name().unwrap().to_str().unwrap())
}

/// What is in use in the arena of this process.
type Used = ((usize, usize), (u64, usize));

fn used() -> Used {
    (fault::objects(), fault::used())
}

/// Waits until as much is in use as before.
fn wait_for(expected: Used, what: &str) {
    let limit = std::time::Instant::now() + Duration::from_secs(5);
    while used() != expected {
        assert!(
            std::time::Instant::now() < limit,
            "{what}: (objects, holdings), (bytes, places) are {:?}, not {expected:?}",
            used()
        );
        std::thread::sleep(ms(1));
    }
}

// The user's process ------------------------------------------------------------------------------

fn be_the_users_process(stores: u64) {
    fault::die_after(stores);
    let objects = Objects::make();
    use_pool(&objects);
    objects.check();
}

#[test]
fn every_store_may_be_the_last_of_the_users_process() {
    let _dog = watchdog(3600);
    let folder = tempfile::tempdir().unwrap();
    let deaths = folder.path().join("deaths");
    let walk = StoresWalk::new("the user's process");
    walk.some_at_a_time(|stores, folder| {
        let mut program = program_in_role(&format!("main {stores}"), folder);
        let (status, text, errors) = run_to_end(program.env("PROCPOOL_DEATHS", &deaths));
        nothing_left(folder, &unique("none", folder));
        died(status, &format!("{text}{errors}"))
    });
    walk.report();
    let threads = std::fs::read_to_string(deaths).unwrap();
    let count = |name: &str| threads.lines().filter(|line| *line == name).count();
    let (supervisor, all) = (count("procpool-supervisor"), threads.lines().count());
    println!("{supervisor} of {all} times in its supervisor");
    assert!(walk.is_partial() || (supervisor > 0 && supervisor < all), "{threads}");
}

// The owner of a named arena ----------------------------------------------------------------------

fn name() -> String {
    std::env::var(NAME).unwrap()
}

fn create() -> Arena {
    Arena::builder(&name()).bytes(16 << 20).key(KEY).create().unwrap()
}

fn attach() -> Arena {
    Arena::builder(&name()).key(KEY).timeout(SOON).attach().unwrap()
}

/// Has tables and lists grown as far as they will.
fn warm_up() {
    let objects = Objects::make();
    use_pool(&objects);
    objects.check();
}

fn own_from_the_beginning(stores: u64) {
    fault::die_after(stores);
    let arena = create();
    let objects = Objects::make();
    arena.register("objects", &objects).unwrap();
    objects.change();
    drop(arena);
}

#[test]
fn every_store_may_be_the_last_of_who_creates_a_named_arena() {
    let _dog = watchdog(3600);
    let walk = StoresWalk::new("the creation of a named arena");
    walk.some_at_a_time(|stores, folder| {
        let name = unique("create", folder);
        let dead = Program::start(&format!("create {stores}"), &name, folder).end();
        nothing_left(folder, &name);
        dead
    });
    walk.report();
}

fn own(stores: u64) {
    let arena = create();
    warm_up();
    let objects = Objects::make();
    arena.register("objects", &objects).unwrap();
    println!("ready");
    wait_to_be_told();
    fault::die_after(stores);
    use_pool(&objects);
    objects.change();
    drop((objects, arena));
}

/// Objects of [`Objects`], and holdings of them.
const OBJECTS: usize = 8;

fn survive() {
    let arena = attach();
    warm_up();
    let objects: Objects = arena.lookup("objects").unwrap().unwrap();
    let ((count, holdings), (bytes, places)) = used();
    // One with the names, which holds the others, too; and what the owner and this process hold.
    assert_eq!((count, holdings, places), (OBJECTS + 1, OBJECTS + 2 * (OBJECTS + 1), 2));
    println!("attached");
    wait_to_be_told();
    wait_until("nobody else is there", || arena.participants() == [std::process::id()]);
    assert!(!arena.is_owner_alive());
    objects.check();
    use_pool(&objects);
    objects.check();
    drop(objects);
    assert!(arena.unregister("objects"));
    let objects = Objects::make();
    arena.register("objects", &objects).unwrap();
    wait_for(((count, holdings - OBJECTS - 1), (bytes, 1)), "after the owner");
}

#[test]
fn every_store_may_be_the_last_of_the_owner_of_a_named_arena() {
    let _dog = watchdog(3600);
    let walk = StoresWalk::new("the owner of a named arena");
    walk.some_at_a_time(|stores, folder| {
        let name = unique("own", folder);
        let mut owner = Program::start(&format!("own {stores}"), &name, folder);
        owner.hear("ready");
        let mut survivor = Program::start("survive", &name, folder);
        survivor.hear("attached");
        owner.tell();
        let dead = owner.end();
        survivor.tell();
        assert!(!survivor.end());
        nothing_left(folder, &name);
        dead
    });
    walk.report();
}

// Programs that attach to it ----------------------------------------------------------------------

fn be_a_guest(stores: u64) {
    fault::die_after(stores);
    let arena = attach();
    let objects: Objects = arena.lookup("objects").unwrap().unwrap();
    use_pool(&objects);
    objects.change();
    drop((objects, arena));
}

/// Owns an arena, and has others die in it, in which `once` has them take part: whether one died.
fn host(what: &str, once: impl Fn(u64, &Path) -> bool) {
    let (arena, folder) = (create(), tempfile::tempdir().unwrap());
    let try_once = |stores: u64| {
        let objects = Objects::make();
        arena.register("objects", &objects).unwrap();
        let dead = once(stores, folder.path());
        wait_until("nobody else is there", || arena.participants() == [std::process::id()]);
        objects.check();
        objects.change();
        objects.check();
        drop(objects);
        assert!(arena.unregister("objects"));
        dead
    };
    // Tables have grown as far as they will.
    (0..3).for_each(|_| assert!(!try_once(u64::MAX)));
    let before = used();
    let walk = StoresWalk::new(what);
    walk.one_by_one(|stores| {
        let dead = try_once(stores);
        wait_for(before, &format!("before store {}", stores + 1));
        dead
    });
    nothing_left(folder.path(), "nothing of that name");
    walk.report();
}

/// Has guests die in its arena.
fn host_guests() {
    host("a program that attaches", |stores, folder| {
        Program::start(&format!("guest {stores}"), &name(), folder).end()
    });
}

fn run_host(role: &str) {
    let _dog = watchdog(3600);
    let folder = tempfile::tempdir().unwrap();
    let name = unique(role, folder.path());
    let mut program = program_in_role(role, folder.path());
    let (status, text, errors) = run_to_end(program.env(NAME, &name));
    assert!(!died(status, &format!("{text}{errors}")));
    nothing_left(folder.path(), &name);
    text.lines().filter(|line| line.contains("died ")).for_each(|line| println!("{line}"));
}

#[test]
fn every_store_may_be_the_last_of_a_program_that_attaches() {
    run_host("host-guests");
}

// Who settles another program ---------------------------------------------------------------------

/// Holds everything, with a worker that does so too, and dies in the middle of a change.
fn be_a_victim() {
    let arena = attach();
    let objects: Objects = arena.lookup("objects").unwrap().unwrap();
    let pool = pool_of(1);
    let hold = |objects: Objects| {
        std::mem::forget((objects.permits.acquire(), objects.tasks.try_put(1)));
        std::mem::forget((objects.tasks.try_get(), objects));
    };
    pool.submit(hold, objects.clone()).unwrap().join().unwrap();
    objects.hold_all();
    println!("holding");
    wait_to_be_told();
    // In the middle of it.
    fault::die_after(6);
    objects.dict.insert("key", &text(3, 900)).unwrap();
    unreachable!("it makes more stores than that");
}

/// Settles it.
fn settle_a_stranger(stores: u64) {
    let arena = attach();
    println!("ready");
    wait_to_be_told();
    fault::die_after(stores);
    assert_eq!(arena.participants().len(), 2);
    fault::die_after(u64::MAX);
}

/// The third is the owner, who finishes what the settler has begun.
fn host_settlers() {
    host("who settles another program", |stores, folder| {
        let mut victim = Program::start("victim", &name(), folder);
        victim.hear("holding");
        let mut settler = Program::start(&format!("settler {stores}"), &name(), folder);
        settler.hear("ready");
        victim.tell();
        assert!(victim.end());
        settler.tell();
        settler.end()
    });
}

#[test]
fn every_store_may_be_the_last_of_who_settles_another_program() {
    run_host("host-settlers");
}

// A worker that has a pool of its own -------------------------------------------------------------

fn nest((objects, stores): (Objects, u64)) {
    fault::die_after(stores);
    use_pool(&objects);
    fault::die_after(u64::MAX);
}

/// In the worker's own pool, a worker dies, which it settles meanwhile.
fn outlive_nested_settlers() {
    let builder = Pool::builder().workers(1).name("outer").queue_capacity(8);
    let pool = builder.restart_limit(1_000_000, ms(1)).build().unwrap();
    let try_once = |stores: u64| {
        let objects = Objects::make();
        let outcome = pool.submit(nest, (objects.clone(), stores)).unwrap().join();
        let dead = outcome.is_err();
        assert!(outcome.map_or_else(|error| error.is_worker_lost(), |()| true));
        wait_until("it is settled", || pool.check_invariants().is_ok());
        objects.check();
        assert_eq!(pool.submit(|n: u64| n, stores).unwrap().join(), Ok(stores));
        dead
    };
    (0..3).for_each(|_| assert!(!try_once(u64::MAX)));
    let before = used();
    let walk = StoresWalk::new("a worker with a pool of its own");
    let folder = std::env::temp_dir();
    walk.one_by_one(|stores| {
        let dead = try_once(stores);
        wait_for(before, &format!("before store {}", stores + 1));
        // This one, its guardian, its worker.
        wait_until("its own pool is gone", || left_in(&folder) == 3);
        dead
    });
    walk.report();
}

#[test]
fn every_store_may_be_the_last_of_a_worker_that_has_a_pool_of_its_own() {
    run_host("outlive-nested");
}

// Guardians, and workers that start ---------------------------------------------------------------

/// Uses a pool, one of whose processes dies: that which has written its pid into a file.
fn outlive(file: &Path) {
    let pool = Pool::builder().workers(1).name("short").queue_capacity(8).build().unwrap();
    let mut lost = 0;
    for n in 0..4u64 {
        match pool.submit(|n: u64| n.to_string().repeat(100), n).unwrap().join() {
            Ok(value) => assert_eq!(value, n.to_string().repeat(100)),
            Err(error) => lost += u32::from(error.is_worker_lost()),
        }
    }
    assert!(lost <= 1, "{lost} calls lost");
    wait_until("the pool is whole", || pool.check_invariants().is_ok());
    let pid = std::fs::read_to_string(file).unwrap().parse().unwrap();
    println!("lives: {}", is_running(pid));
}

fn walk_started(whose: &str) {
    let _dog = watchdog(3600);
    let elsewhere = tempfile::tempdir().unwrap();
    let walk = StoresWalk::new(&format!("a {whose}, from its start on"));
    walk.some_at_a_time(|stores, folder| {
        let file = elsewhere.path().join(stores.to_string());
        let mut program = program_in_role(&format!("outlive {}", file.display()), folder);
        program.env("PROCPOOL_DIE_AFTER", format!("{whose} {stores} {}", file.display()));
        let (status, text, errors) = run_to_end(&mut program);
        assert!(!died(status, &format!("{stores}: {text}{errors}")));
        nothing_left(folder, &unique("none", folder));
        text.contains("lives: false")
    });
    walk.report();
}

/// It makes none: what it does for others are system calls (`sys_failures.rs`, and the points in `faults.rs`). Those that are walked
/// through here are to memory of its own.
#[test]
fn every_store_may_be_the_last_of_a_guardian() {
    walk_started("guardian");
}

#[test]
fn every_store_may_be_the_last_of_a_worker_that_starts() {
    walk_started("worker");
}

#[test]
fn child_program() {
    let Some(role) = role() else { return };
    let _dog = watchdog(3600);
    let (what, argument) = role.split_once(' ').unwrap_or((&role, ""));
    let stores = || argument.parse().unwrap();
    match what {
        "main" => be_the_users_process(stores()),
        "create" => own_from_the_beginning(stores()),
        "own" => own(stores()),
        "survive" => survive(),
        "host-guests" => host_guests(),
        "guest" => be_a_guest(stores()),
        "host-settlers" => host_settlers(),
        "victim" => be_a_victim(),
        "settler" => settle_a_stranger(stores()),
        "outlive-nested" => outlive_nested_settlers(),
        "outlive" => outlive(Path::new(argument)),
        other => panic!("no role {other}"),
    }
}
