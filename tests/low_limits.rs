//! Pools where the system gives little: few descriptors, few processes, a small arena, a small `/dev/shm`, a
//! second of processor time. What does not fit is an error with the reason in it; what fits works, and nothing
//! is left behind.

mod support;

use procpool::collections::{Array, Dict, List, Namespace};
use procpool::queue::{JoinableQueue, Pipe, Queue};
use procpool::sync::{
    Barrier, Condvar, Event, Mutex, Once, ReentrantMutex, RwLock, Semaphore, Value,
};
use procpool::{Arena, Confinement, Pool, Process, Stdio};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::Duration;
use support::*;

/// Tasks, and shared objects.
fn works(pool: &Pool) {
    assert!(pool.map(|n: u64| n * n, 0..1000).unwrap().into_iter().eq((0..1000).map(|n| n * n)));
    assert_eq!(pool.submit(|n: u64| n + 1, 1).unwrap().join().unwrap(), 2);
    shares(pool);
}

type Shared = (Dict<u64, u64>, Queue<u64>, Mutex<u64>, RwLock<u64>, Semaphore, Event, List<u64>);

/// Objects are changed by tasks, and waited for, here and there.
fn shares(pool: &Pool) {
    let shared: Shared = (
        Dict::new().unwrap(),
        Queue::new(8).unwrap(),
        Mutex::new(0).unwrap(),
        RwLock::new(0).unwrap(),
        Semaphore::new(1).unwrap(),
        Event::new().unwrap(),
        List::new().unwrap(),
    );
    let change = |(dict, queue, sum, table, permits, event, list): &Shared, n: u64| {
        dict.insert(&n, &n).unwrap();
        list.push(&n).unwrap();
        *sum.lock().unwrap() += n;
        let permit = permits.acquire();
        *table.write().unwrap() += 1;
        drop(permit);
        // Longer than anybody sleeps before looking whether others are dead.
        assert!(event.wait_timeout(Duration::from_secs(20)));
        queue.put(n).unwrap();
    };
    let with = pool.with(&shared);
    let tasks: Vec<_> = (1..=12).map(|n| with.submit(change, n).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(150));
    shared.5.set();
    let got: u64 = (0..12).map(|_| shared.1.get().unwrap()).sum();
    tasks.into_iter().for_each(|task| task.join().unwrap());
    let (dict, _, sum, table, permits, _, list) = &shared;
    assert_eq!((got, dict.len(), list.len()), (78, 12, 12));
    assert_eq!((*sum.lock().unwrap(), *table.read().unwrap(), permits.available()), (78, 12, 1));
    meets(pool);
}

/// The other kinds of objects.
#[derive(Serialize, Deserialize)]
struct Others {
    value: Value<u64>,
    array: Array<u64>,
    names: Namespace,
    chores: JoinableQueue<u64>,
    pipe: Pipe<u64, u64>,
    both: Barrier,
    state: Mutex<u64>,
    changed: Condvar,
    once: Once,
    nested: ReentrantMutex,
}

/// A task and this program wait for each other in every way.
fn meets(pool: &Pool) {
    let (here, pipe) = Pipe::pair().unwrap();
    let others = Others {
        value: Value::new(1).unwrap(),
        array: Array::new(&[1, 2, 3]).unwrap(),
        names: Namespace::new().unwrap(),
        chores: JoinableQueue::new(4).unwrap(),
        pipe,
        both: Barrier::new(2).unwrap(),
        state: Mutex::new(0).unwrap(),
        changed: Condvar::new().unwrap(),
        once: Once::new().unwrap(),
        nested: ReentrantMutex::new().unwrap(),
    };
    let serve = |others: &Others, n: u64| {
        let chore = others.chores.get().unwrap();
        others.once.call_once(|| {
            others.value.fetch_add(n);
        });
        others.array.lock().unwrap()[1] += chore;
        others.names.set("n", &n).unwrap();
        others.chores.task_done().unwrap();
        let asked = others.pipe.recv().unwrap();
        let outer = others.nested.lock().unwrap();
        others.pipe.send(asked + 1).unwrap();
        drop((others.nested.lock().unwrap(), outer));
        others.both.wait().unwrap();
        *others.state.lock().unwrap() = n;
        others.changed.notify_all();
    };
    let task = pool.with(&others).submit(serve, 7).unwrap();
    // It sleeps there by now, most probably.
    std::thread::sleep(Duration::from_millis(20));
    others.chores.put(5).unwrap();
    others.chores.join();
    here.send(1).unwrap();
    assert_eq!(here.recv().unwrap(), 2);
    others.both.wait().unwrap();
    let state = others.state.lock().unwrap();
    let zero = |state: &mut u64| *state == 0;
    let waited = others.changed.wait_timeout_while(state, Duration::from_secs(20), zero);
    let (state, is_in_time) = waited.unwrap();
    assert!(is_in_time && *state == 7, "{}", *state);
    drop(state);
    task.join().unwrap();
    others.once.call_once(|| unreachable!());
    assert_eq!((others.value.load(), others.array.load(1)), (8, 7));
    assert_eq!(others.names.get::<u64>("n").unwrap(), Some(7));
    drop(others.nested.lock().unwrap());
}

/// What some of these tests need rights for is not passed over in silence.
const SKIPPED: &str = "SKIPPED for want of rights";

fn set_limit(which: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: passes a valid structure.
    assert_eq!(unsafe { libc::setrlimit(which, &raw const limit) }, 0);
}

/// Each worker takes a descriptor of the program's.
fn few_descriptors() {
    set_limit(libc::RLIMIT_NOFILE, 64);
    let before = open_descriptors();
    let pool = Pool::builder().workers(8).build().unwrap();
    let open = open_descriptors();
    let text = pool.resize(100).unwrap_err().to_string();
    assert!(text.contains("Too many open files"), "{text}");
    wait_until("it has as many workers as before", || pool.stats().workers.len() == 8);
    wait_until("descriptors are as before", || open_descriptors() <= open);
    works(&pool);
    let text = Pool::builder().workers(100).build().unwrap_err().to_string();
    assert!(text.contains("Too many open files"), "{text}");
    // To count them takes one.
    let is_as_before =
        || std::fs::read_dir("/proc/self/fd").is_ok_and(|descriptors| descriptors.count() <= open);
    wait_until("descriptors are as before", is_as_before);
    let mut processes = Vec::new();
    let text = loop {
        match Process::spawn(|ms: u64| std::thread::sleep(Duration::from_millis(ms)), 100_000) {
            Ok(process) => processes.push(process),
            Err(error) => break error.to_string(),
        }
    };
    let count = processes.len();
    assert!(count > 5 && text.contains("Too many open files"), "{count}: {text}");
    // With none left, objects are used all the same.
    shares(&pool);
    drop(processes);
    works(&pool);
    drop(pool);
    wait_until("descriptors are given back", || open_descriptors() <= before + 2);
    works(&Pool::builder().workers(8).build().unwrap());
}

/// How many more descriptors a program may have that needs more for each thing that it does.
const SPARE: u64 = 40;

/// Does what takes descriptors of this program, or of its guardian, while there are so many more.
fn with_spare_descriptors(spare: u64) {
    let of_a_file = || std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    let (before, lowest) = (open_descriptors(), of_a_file());
    let set = |most| {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: 4096 };
        // SAFETY: passes a valid structure.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    };
    let attempt = || -> Result<(), Box<dyn std::error::Error>> {
        let pool = Pool::builder().workers(2).build()?;
        assert!(pool.map(|n: u64| n * n, 0..100)?.into_iter().eq((0..100).map(|n| n * n)));
        shares(&pool);
        pool.resize(4)?;
        let process = Process::builder().stdout(Stdio::Piped).stderr(Stdio::Null);
        assert_eq!(process.spawn(|n: u8| n + 1, 1)?.join()?, 2);
        Ok(())
    };
    set(lowest + spare);
    for _ in 0..2 {
        match attempt() {
            Ok(()) => println!("it fits"),
            Err(error) => println!("it does not: {error}"),
        }
    }
    set(4096);
    works(&Pool::builder().workers(4).build().unwrap());
    // One is the arena's.
    wait_until("descriptors are given back", || open_descriptors() <= before + 1);
    assert_eq!(children(std::process::id()), []);
}

/// From none to enough: each may be the one that is missing.
#[test]
fn any_descriptor_may_be_the_last() {
    let _dog = watchdog(300);
    let fits = std::sync::Mutex::new(Vec::new());
    several_at_a_time(0..SPARE, |spare, folder| {
        let mut program = program_in_role("spare", folder);
        let (status, text, errors) = run_to_end(program.env(SPARE_VARIABLE, spare.to_string()));
        assert!(status.success() && !errors.contains("panicked"), "{spare}: {text}{errors}");
        wait_until("the temporary directory is empty", || {
            std::fs::read_dir(folder).unwrap().count() == 0
        });
        let (well, other) = (text.matches("it fits").count(), text.matches("it does not:").count());
        assert_eq!(well + other, 2, "{spare}: {text}{errors}");
        fits.lock().unwrap().push((spare, well));
    });
    let mut fits = fits.into_inner().unwrap();
    fits.sort_unstable();
    println!("{fits:?}");
    assert!(fits.first() == Some(&(0, 0)) && fits.last() == Some(&(SPARE - 1, 2)), "{fits:?}");
}

const SPARE_VARIABLE: &str = "PROCPOOL_TEST_SPARE";

/// As another user, of whom there are no other processes.
fn few_processes() {
    // SAFETY: changes numbers of this process.
    unsafe {
        libc::setgid(34567);
        if libc::setuid(34567) != 0 {
            println!("{SKIPPED}: only root can be a user without processes");
            return;
        }
    }
    set_limit(libc::RLIMIT_NPROC, 20);
    let text = Pool::builder().workers(50).build().unwrap_err().to_string();
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
    // A worker has two threads, and counts twice.
    let pool = Pool::builder().workers(4).build().unwrap();
    works(&pool);
    let text = pool.resize(50).unwrap_err().to_string();
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
    works(&pool);
    pool.resize(5).unwrap();
    works(&pool);
}

fn small_arena() {
    let pool = Pool::builder().workers(2).arena_bytes(16 << 20).build().unwrap();
    works(&pool);
    // 64 MB through 16, and a value that cannot fit.
    let lengths = pool.map(|n: usize| vec![7u8; n], vec![1 << 20; 64]).unwrap();
    assert!(lengths.iter().all(|bytes| bytes.len() == 1 << 20));
    assert!(
        pool.submit(|bytes: Vec<u8>| bytes.len(), vec![0; 17 << 20]).unwrap_err().is_arena_full()
    );
    let too_long = pool.submit(|n: usize| vec![0u8; n], 17 << 20).unwrap().join().unwrap_err();
    assert!(too_long.is_codec(), "{too_long}");
    works(&pool);
}

/// What cannot be mapped is an error; nothing of it is left.
fn little_address_space() {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    // A thread has a stack of 8 MiB, and its memory another 64.
    let most = pages * 4096 + (400 << 20);
    set_limit(libc::RLIMIT_AS, most);
    let before = open_descriptors();
    let big = Arena::builder("big").bytes(512 << 20).create().unwrap_err().to_string();
    assert!(big.contains("memory") || big.contains("12"), "{big}");
    assert!(shared_memory_files().is_empty(), "{:?}", shared_memory_files());
    let big = Pool::builder().workers(1).arena_bytes(1 << 30).build().unwrap_err().to_string();
    assert!(big.contains("Cannot allocate memory"), "{big}");
    let thick = Pool::builder().workers(1).arena_bytes(64 << 20).stack_bytes(1 << 30);
    let thick = thick.build().unwrap();
    let lost = thick.submit(|n: u8| n, 1).and_then(|task| Ok(task.join()?)).unwrap_err();
    assert!(lost.to_string().contains("broken") || lost.to_string().contains("lost"), "{lost}");
    drop(thick);
    works(&Pool::builder().workers(2).build().unwrap());
    wait_until("descriptors are given back", || open_descriptors() <= before + 1);
}

/// In a container, `/dev/shm` often has little room.
fn small_dev_shm() {
    let mount = |source: &std::ffi::CStr, target: &std::ffi::CStr, flags, data: &std::ffi::CStr| {
        // SAFETY: all strings end with a NUL and live as long as the call.
        unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                source.as_ptr(),
                flags,
                data.as_ptr().cast(),
            )
        }
    };
    // SAFETY: gives this thread, which does the rest, mounts of its own.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0
        || mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE, c"") != 0
        || mount(c"tmpfs", c"/dev/shm", 0, c"size=1m") != 0
    {
        println!("{SKIPPED}: mounting");
        return;
    }
    let text = Arena::builder("small-shm").bytes(8 << 20).create().unwrap_err().to_string();
    assert!(text.contains("8388608 bytes") && text.contains("No space left"), "{text}");
    assert!(shared_memory_files().is_empty(), "{:?}", shared_memory_files());
    // What has no name is elsewhere.
    let pool = Pool::builder().workers(2).build().unwrap();
    works(&pool);
    assert_eq!(
        pool.submit(|n: usize| vec![1u8; n].len(), 8 << 20).unwrap().join().unwrap(),
        8 << 20
    );
}

/// Workers that may use a second each, and tasks that need four together.
fn a_second_of_processor_time() {
    let second = Confinement::new().cpu_time(Duration::from_secs(1));
    let builder = Pool::builder().workers(2).confine(second.clone());
    let pool = builder.retry(procpool::Retry::lost(3)).build().unwrap();
    let spin = |n: u64| {
        // Of the time that the kernel holds against the process: some kernels charge whole ticks to whoever runs
        // at their end, which beside other programs is too little for hundreds of milliseconds.
        let used = || {
            /// `CPUCLOCK_PROF` of this process: what it used by that account (`linux/posix-timers.h`).
            const CHARGED: libc::clockid_t = !0 << 3;
            let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: writes to a valid structure.
            assert_eq!(unsafe { libc::clock_gettime(CHARGED, &raw mut now) }, 0);
            Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
        };
        let began = used();
        let mut sum = n;
        while used() - began < Duration::from_millis(100) {
            sum = std::hint::black_box(sum);
        }
        sum
    };
    let sums = pool.map(spin, 0..40).unwrap();
    assert!(sums.into_iter().eq(0..40));
    works(&Pool::builder().workers(2).confine(second).build().unwrap());
    let stats = pool.stats();
    assert!(stats.workers_lost > 0 && stats.retries > 0, "{stats:?}");
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("descriptors") => few_descriptors(),
        Some("processes") => few_processes(),
        Some("address-space") => little_address_space(),
        Some("spare") => {
            with_spare_descriptors(std::env::var(SPARE_VARIABLE).unwrap().parse().unwrap());
        }
        Some("arena") => small_arena(),
        Some("dev-shm") => small_dev_shm(),
        Some("processor") => a_second_of_processor_time(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}

/// In a temporary directory that other users can use, too; nothing is left in it.
fn holds(role: &str) {
    use std::os::unix::fs::PermissionsExt;
    let _dog = watchdog(100);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role(role, folder.path()));
    assert!(status.success(), "{role}: {text}{errors}");
    if let Some((_, why)) = text.split_once(SKIPPED) {
        // Not by the macro, whose words a test that passes keeps to itself.
        let _ = writeln!(std::io::stderr(), "{SKIPPED}{}", why.lines().next().unwrap_or_default());
    }
    wait_until("the temporary directory is empty", || {
        std::fs::read_dir(folder.path()).unwrap().count() == 0
    });
}

#[test]
fn sixty_four_descriptors() {
    holds("descriptors");
}

#[test]
fn four_hundred_megabytes_of_addresses() {
    holds("address-space");
}

#[test]
fn twenty_processes() {
    holds("processes");
}

#[test]
fn an_arena_of_sixteen_megabytes() {
    holds("arena");
}

#[test]
fn a_shared_memory_file_system_of_one_megabyte() {
    holds("dev-shm");
}

#[test]
fn a_second_of_processor_time_per_worker() {
    holds("processor");
}
