//! Named arenas: programs that were started separately share objects.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::collections::{Dict, List};
use procpool::queue::{GetError, JoinableQueue, Queue};
use procpool::sync::{Event, Mutex, Semaphore};
use procpool::{Arena, ArenaError, Pool};
use std::io::BufRead;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::*;

const NAME: &str = "PROCPOOL_TEST_NAME";
const KEY: &[u8] = b"a key";
const SOON: Duration = Duration::from_secs(20);

fn name() -> String {
    std::env::var(NAME).unwrap()
}

/// A name that no other test has.
fn unique(what: &str) -> String {
    format!("test.{what}.{}", std::process::id())
}

/// A program in a role, at a named arena.
fn program(role: &str, name: &str, folder: &std::path::Path) -> Child {
    let mut command = program_in_role(role, folder);
    command.env(NAME, name).stdout(Stdio::piped()).spawn().unwrap()
}

fn ends_well(mut program: Child) {
    assert!(program.wait().unwrap().success());
}

fn files_of(name: &str) -> Vec<String> {
    shared_memory_files().into_iter().filter(|file| file.ends_with(name)).collect()
}

// Roles -------------------------------------------------------------------------------------------

fn owner() -> Arena {
    let arena = Arena::builder(&name()).bytes(16 << 20).key(KEY).create().unwrap();
    arena.register("tasks", &JoinableQueue::<u64>::new(16).unwrap()).unwrap();
    arena.register("results", &Queue::<u64>::new(16).unwrap()).unwrap();
    arena.register("squares", &Dict::<u64, u64>::new().unwrap()).unwrap();
    arena.register("lock", &Mutex::new(0u64).unwrap()).unwrap();
    arena.register("permits", &Semaphore::bounded(2).unwrap()).unwrap();
    assert!(arena.is_owner() && arena.is_owner_alive());
    arena
}

fn attach() -> Arena {
    let arena = Arena::builder(&name()).key(KEY).timeout(SOON).attach().unwrap();
    // The owner registers one after the other.
    wait_until("all is registered", || arena.names().len() == 5);
    arena
}

/// Puts ten tasks, and waits for as many results.
fn serve_and_collect() {
    let arena = owner();
    let tasks: JoinableQueue<u64> = arena.lookup("tasks").unwrap().unwrap();
    let results: Queue<u64> = arena.lookup("results").unwrap().unwrap();
    for n in 0..10 {
        tasks.put(n).unwrap();
    }
    println!("ready");
    let mut all: Vec<u64> = (0..10).map(|_| results.get_timeout(SOON).unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
    tasks.join();
    let squares: Dict<u64, u64> = arena.lookup("squares").unwrap().unwrap();
    assert_eq!(squares.len(), 10);
    // A pool of the owner works in the same arena.
    let pool = Pool::builder().workers(1).build().unwrap();
    let look = |squares: &Dict<u64, u64>, n: u64| squares.get(&n).unwrap().unwrap();
    assert_eq!(pool.with(&squares).map(look, 0..10u64).unwrap(), all);
    println!("done");
}

/// Works on tasks in a pool of its own, until there are none.
fn work() {
    let arena = attach();
    assert!(!arena.is_owner() && arena.is_owner_alive());
    assert!(arena.participants().contains(&arena.owner_pid()));
    assert!(arena.participants().contains(&std::process::id()));
    let tasks: JoinableQueue<u64> = arena.lookup("tasks").unwrap().unwrap();
    let shared = (arena.lookup::<Queue<u64>>("results"), arena.lookup::<Dict<u64, u64>>("squares"));
    let shared = (shared.0.unwrap().unwrap(), shared.1.unwrap().unwrap());
    let error = arena.lookup::<Queue<String>>("results").unwrap_err().to_string();
    assert!(error.contains("Queue<u64>") && error.contains("String"), "{error}");
    let pool = Pool::builder().workers(1).build().unwrap();
    while let Ok(n) = tasks.get_timeout(Duration::from_millis(300)) {
        let square = |(results, squares): &(Queue<u64>, Dict<u64, u64>), n: u64| {
            squares.insert(&n, &(n * n)).unwrap();
            results.put(n * n).unwrap();
        };
        pool.with(&shared).map(square, [n]).unwrap();
        tasks.task_done().unwrap();
    }
}

/// Takes things and holds them until it is killed.
fn hold() {
    let arena = attach();
    let tasks: JoinableQueue<u64> = arena.lookup("tasks").unwrap().unwrap();
    let lock: Mutex<u64> = arena.lookup("lock").unwrap().unwrap();
    let permits: Semaphore = arena.lookup("permits").unwrap().unwrap();
    let (_held, _permits) = (lock.lock().unwrap(), permits.acquire_many(2).unwrap());
    tasks.get().unwrap();
    tasks.get().unwrap();
    println!("holding");
    std::thread::sleep(Duration::from_secs(600));
}

/// Owns an arena until it is killed.
fn own_and_hang(pool: bool) {
    let _arena = owner();
    let _pool = pool.then(|| pool_of(1));
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
}

/// Owns an arena and waits for nobody, but looks who takes part.
fn own_and_count() {
    let arena = owner();
    arena.lookup::<JoinableQueue<u64>>("tasks").unwrap().unwrap().put(1).unwrap();
    arena.lookup::<JoinableQueue<u64>>("tasks").unwrap().unwrap().put(2).unwrap();
    println!("ready");
    wait_until("somebody has attached", || arena.participants().len() == 2);
    println!("attached");
    wait_until("nobody is there any more", || arena.participants() == [std::process::id()]);
    let permits: Semaphore = arena.lookup("permits").unwrap().unwrap();
    assert_eq!(permits.available(), 2, "what it held was given back");
    drop(arena);
    std::process::exit(0) // Nobody reads any more what the test's harness would print.
}

/// Owns an arena, and cannot read `/proc` (for want of descriptors, say): nobody is dead because of that.
fn own_blindly() {
    let arena = owner();
    println!("ready");
    let permits: Semaphore = arena.lookup("permits").unwrap().unwrap();
    let tasks: JoinableQueue<u64> = arena.lookup("tasks").unwrap().unwrap();
    (1..=2).for_each(|n| tasks.put(n).unwrap());
    wait_until("another has it all", || permits.available() == 0 && tasks.is_empty());
    let look = || {
        // Whoever waits looks who has died, several times meanwhile.
        assert!(!Event::new().unwrap().wait_timeout(Duration::from_millis(350)));
        assert_eq!((permits.available(), tasks.len(), tasks.unfinished()), (0, 0, 2));
        assert_eq!(arena.participants().len(), 2);
    };
    look();
    println!("looked");
    // It is asked for one of them back, and gives it.
    assert!(permits.acquire_timeout(SOON).is_some(), "the living still take part");
    std::process::exit(0);
}

/// Takes permits, and gives them back when it is told to.
fn hold_for_a_while() {
    let arena = attach();
    let tasks: JoinableQueue<u64> = arena.lookup("tasks").unwrap().unwrap();
    let permits: Semaphore = arena.lookup("permits").unwrap().unwrap();
    let held = permits.acquire_many(2).unwrap();
    assert!(tasks.get().is_ok() && tasks.get().is_ok());
    println!("holding");
    wait_until("it is wanted", || permits.waiting() == 1);
    drop(held);
    std::process::exit(0);
}

/// Waits at an arena whose owner is killed meanwhile.
fn wait_for_the_owner() {
    let arena = attach();
    let tasks: JoinableQueue<u64> = arena.lookup("tasks").unwrap().unwrap();
    let results: Queue<u64> = arena.lookup("results").unwrap().unwrap();
    let other = std::thread::spawn(move || tasks.get());
    println!("waiting");
    assert!(matches!(results.get(), Err(GetError::OwnerDied)));
    assert!(matches!(other.join().unwrap(), Err(GetError::OwnerDied)));
    assert!(!arena.is_owner_alive());
    // What it has goes on.
    let list = List::<u8>::new().unwrap();
    list.push(&1).unwrap();
    assert_eq!(Pool::builder().workers(1).build().unwrap().map(|n: u8| n, [7]).unwrap(), [7]);
    // The test no longer reads what the harness would print.
    std::process::exit(0);
}

/// Cannot attach, for every reason there is.
fn be_refused() {
    let name = name();
    assert!(matches!(Arena::attach(&name), Err(ArenaError::WrongKey { .. })));
    let wrong = Arena::builder(&name).key(b"another").attach();
    assert!(wrong.unwrap_err().to_string().contains("key"));
    assert!(matches!(Arena::create(&name), Err(ArenaError::Exists { .. })));
    let missing = Arena::attach("test.there is none").unwrap_err();
    assert!(matches!(missing, ArenaError::Missing { .. }), "{missing}");
    times_out(|| Arena::builder("test.there is none").timeout(SHORT).attach().is_ok());
    for bad in ["", "a/b", &"x".repeat(201)] {
        assert!(matches!(Arena::create(bad), Err(ArenaError::Failed(_))));
    }
    assert!(Arena::builder("test.tiny").bytes(1).create().is_err());
    assert!(Arena::builder("test.huge").bytes(1 << 46).create().is_err());
    assert!(files_of("test.huge").is_empty());
    let dead = format!("/dev/shm/procpool.{}.1.{name}.dead", u32::MAX / 4);
    std::fs::write(&dead, b"x").unwrap();
    let error = Arena::attach(&format!("{name}.dead")).unwrap_err();
    assert!(matches!(error, ArenaError::OwnerDead { .. }), "{error}");
    let error = attach_to_another_users(&name);
    assert!(error.is_none_or(|error| matches!(error, ArenaError::WrongUser { uid: 12345, .. })));
    // Whoever creates sweeps it. And from then on this process has an arena.
    let mine = Arena::builder(&format!("{name}.mine")).bytes(8 << 20).create().unwrap();
    assert!(!std::path::Path::new(&dead).exists());
    let second = Arena::builder(&name).key(KEY).attach().unwrap_err();
    assert!(second.to_string().contains("has an arena already"), "{second}");
    assert!(mine.register("n", &1u8).is_ok() && mine.register("n", &2u8).is_err());
    assert_eq!((mine.names(), mine.lookup::<u8>("m").unwrap()), (vec!["n".to_string()], None));
    assert!(mine.unregister("n") && !mine.unregister("n"));
}

/// What comes of attaching to another user's segment; `None` if only root could make one.
fn attach_to_another_users(name: &str) -> Option<ArenaError> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
    let file = format!("/dev/shm/procpool.{}.{ticks}.{name}.theirs", std::process::id());
    std::fs::write(&file, b"x").unwrap();
    let chowned = std::os::unix::fs::chown(&file, Some(12345), None);
    let attached = Arena::attach(&format!("{name}.theirs"));
    std::fs::remove_file(&file).unwrap();
    chowned.is_ok().then(|| attached.unwrap_err())
}

/// Attaches to an arena of another version.
fn be_of_another_version() {
    let error = Arena::builder(&name()).key(KEY).attach().unwrap_err();
    assert!(matches!(error, ArenaError::WrongVersion { .. }), "{error}");
}

#[test]
fn child_program() {
    let Some(role) = role() else { return };
    let _dog = watchdog(100);
    match role.as_str() {
        "collect" => serve_and_collect(),
        "work" => work(),
        "hold" => hold(),
        "own" => own_and_hang(false),
        "own-with-pool" => own_and_hang(true),
        "count" => own_and_count(),
        "blind" => own_blindly(),
        "hold-a-while" => hold_for_a_while(),
        "wait" => wait_for_the_owner(),
        "refused" => be_refused(),
        "version" => be_of_another_version(),
        other => panic!("no role {other}"),
    }
}

// Tests -------------------------------------------------------------------------------------------

#[test]
fn two_programs_share_queues_dicts_and_pools() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let name = unique("share");
    // The worker may be there first: it waits for the name.
    let worker = program("work", &name, folder.path());
    let owner = program("collect", &name, folder.path());
    ends_well(worker);
    ends_well(owner);
    assert!(files_of(&name).is_empty());
}

#[test]
fn a_worker_program_that_is_killed_loses_no_task_and_keeps_no_lock() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    for _ in 0..3 {
        let name = unique("killed");
        let owner = program("collect", &name, folder.path());
        let mut holder = program("hold", &name, folder.path());
        wait_for_line(&mut holder, "holding");
        kill(holder.id(), libc::SIGKILL);
        holder.wait().unwrap();
        // Gets what the dead one had, too.
        ends_well(program("work", &name, folder.path()));
        ends_well(owner);
    }
}

/// Also if nobody waits for anything, which is when the dead are settled otherwise.
#[test]
fn the_dead_are_not_among_those_who_take_part() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let name = unique("count");
    let mut owner = program("count", &name, folder.path());
    let mut lines = std::io::BufReader::new(owner.stdout.take().unwrap()).lines();
    let mut hear = |what: &str| assert!(lines.any(|line| line.unwrap().ends_with(what)));
    hear("ready");
    let mut other = program("hold", &name, folder.path());
    wait_for_line(&mut other, "holding");
    hear("attached");
    kill(other.id(), libc::SIGKILL);
    other.wait().unwrap();
    ends_well(owner);
}

/// A waiter that found `/proc` unreadable took everybody for dead, and gave away what they held.
#[test]
fn a_program_that_cannot_learn_who_lives_settles_nobody() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let name = unique("blind");
    let failed = folder.path().join("failed");
    let plan = format!("main proc {} 0 always {}", libc::EMFILE, failed.display());
    let mut owner = program_in_role("blind", folder.path());
    let owner = owner.env(NAME, &name).env("PROCPOOL_FAIL", plan).stdout(Stdio::piped());
    let mut owner = owner.spawn().unwrap();
    let mut lines = std::io::BufReader::new(owner.stdout.take().unwrap()).lines();
    let mut hear = |what: &str| assert!(lines.any(|line| line.unwrap().ends_with(what)), "{what}");
    hear("ready");
    let holder = program("hold-a-while", &name, folder.path());
    hear("looked");
    ends_well(owner);
    ends_well(holder);
    assert!(failed.exists());
}

#[test]
fn the_death_of_the_owner_is_seen_and_its_name_goes() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let name = unique("owner");
    let mut owner = program("own", &name, folder.path());
    wait_for_line(&mut owner, "ready");
    let mut waiting = program("wait", &name, folder.path());
    wait_for_line(&mut waiting, "waiting");
    assert_eq!(files_of(&name).len(), 1);
    let below = descendants(owner.id());
    kill(owner.id(), libc::SIGKILL);
    owner.wait().unwrap();
    wait_until("the name is gone", || files_of(&name).is_empty());
    wait_until("its guardian is gone", || below.iter().all(|pid| !is_running(*pid)));
    ends_well(waiting);
}

/// The name was left behind if the owner died before its guardian knew of it, or if the guardian looked
/// while the owner was still dying.
#[test]
fn an_owner_that_is_killed_at_any_moment_leaves_no_name() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let name = unique("any moment");
    for round in 0..40 {
        let mut owner = program("own", &name, folder.path());
        std::thread::sleep(Duration::from_millis(round));
        kill(owner.id(), libc::SIGKILL);
        owner.wait().unwrap();
        wait_until("the name is gone", || files_of(&name).is_empty());
    }
}

/// A guardian is there for the name for as long as its owner lives; and those of its pools do as well.
#[test]
fn a_name_goes_with_its_owner_also_after_its_guardian() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    for with_pool in [false, true] {
        let name = unique("kept");
        let mut owner =
            program(if with_pool { "own-with-pool" } else { "own" }, &name, folder.path());
        wait_for_line(&mut owner, "ready");
        let guardians = || -> Vec<u32> {
            let mut all = children(owner.id());
            all.retain(|pid| name_of(*pid) == "procpool-guard" && is_running(*pid));
            all
        };
        // The one for the name has no children.
        let idle = guardians().into_iter().find(|pid| children(*pid).is_empty()).unwrap();
        if with_pool {
            // No time for another one.
            kill(owner.id(), libc::SIGSTOP);
            wait_until("it is stopped", || is_stopped(owner.id()));
            kill(idle, libc::SIGKILL);
            wait_until("its guardian is dead", || !is_running(idle));
        } else {
            kill(idle, libc::SIGKILL);
            let another = || guardians().first().is_some_and(|pid| *pid != idle);
            wait_until("there is another guardian", another);
        }
        kill(owner.id(), libc::SIGKILL);
        owner.wait().unwrap();
        wait_until("the name is gone", || files_of(&name).is_empty());
    }
}

#[test]
fn every_reason_to_be_refused_has_its_error() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let name = unique("refused");
    let mut owner = program("own", &name, folder.path());
    wait_for_line(&mut owner, "ready");
    ends_well(program("refused", &name, folder.path()));
    // The second word of the header says which layout it has.
    let file = format!("/dev/shm/{}", files_of(&name)[0]);
    let mut bytes = [0u8; 8];
    use std::os::unix::fs::FileExt;
    let segment = std::fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
    segment.read_exact_at(&mut bytes, 8).unwrap();
    segment.write_all_at(&[!bytes[0]], 8).unwrap();
    ends_well(program("version", &name, folder.path()));
    kill(owner.id(), libc::SIGKILL);
    owner.wait().unwrap();
    wait_until("the name is gone", || files_of(&name).is_empty());
}
