//! The claims of the page `security` of the guide: who can reach what, and what confined workers cannot do.

mod support;

use procpool::sync::Value;
use procpool::{Arena, Confinement, Pool, PoolBuilder, Process, WorkerExit};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::*;

fn confined(confinement: Confinement) -> PoolBuilder {
    Pool::builder().workers(1).name("conf").confine(confinement)
}

fn status_line(name: String) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(&name)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

fn open_files(count: usize) -> usize {
    let files: Vec<_> = (0..count).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
    files.len()
}

/// The limit of this name that holds for the calling process, as the kernel says it: the lower one.
fn kernel_limit(name: String) -> String {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(&*name)).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn confined_workers_gain_nothing_and_open_no_more_than_they_may() {
    let _dog = watchdog(60);
    let limits = Confinement::new().no_new_privileges().descriptors(24).core_bytes(0);
    let pool = confined(limits.clone()).build().unwrap();
    assert_eq!(
        pool.submit(kernel_limit, "Max core file size".into()).unwrap().join().unwrap(),
        "0"
    );
    assert_eq!(pool.submit(status_line, "NoNewPrivs".into()).unwrap().join().unwrap(), "1");
    let opened = pool.submit(open_files, 100).unwrap().join().unwrap();
    assert!((4..24).contains(&opened), "{opened}");
    assert_eq!(open_files(100), 100, "the program is as free as before");
    assert_eq!(status_line("NoNewPrivs".into()), "0");
    let process = Process::builder().confine(limits).spawn(open_files, 100).unwrap();
    assert!(process.join().unwrap() < 24);
    let free = Pool::builder().workers(1).build().unwrap();
    assert_eq!(free.submit(open_files, 100).unwrap().join().unwrap(), 100);
}

#[test]
fn a_worker_maps_no_more_memory_than_it_may() {
    let _dog = watchdog(60);
    let reserve = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    let pool = Pool::builder().workers(1).address_space_bytes(64 << 20).build().unwrap();
    assert_eq!(pool.map(reserve, [1 << 20, 256 << 20]).unwrap(), [true, false]);
    assert!(reserve(256 << 20), "the program is as free as before");
}

/// The kernel counts all of a user's, and does not count root's: so this is another user's.
#[test]
fn a_fork_bomb_ends_at_the_limit() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role("bomb", folder.path()));
    assert!(status.success(), "{text}{errors}");
    if text.contains(SKIPPED) {
        skipped("only root can be a user without processes");
    }
}

fn bomb() {
    // SAFETY: changes numbers of this process.
    unsafe {
        libc::setgid(34568);
        if libc::setuid(34568) != 0 {
            println!("{SKIPPED}");
            return;
        }
    }
    let start = |count: usize| {
        let nap = || std::thread::sleep(Duration::from_secs(1));
        let threads = (0..count).map_while(|_| std::thread::Builder::new().spawn(nap).ok());
        threads.collect::<Vec<_>>().len()
    };
    let pool = confined(Confinement::new().processes(30)).build().unwrap();
    let started = pool.submit(start, 60).unwrap().join().unwrap();
    assert!((5..30).contains(&started), "{started}");
    assert_eq!(start(60), 60, "the program is as free as before");
}

/// What some of these tests need rights for is not passed over in silence.
const SKIPPED: &str = "SKIPPED for want of rights";

fn skipped(why: &str) {
    // Not by the macro, whose words a test that passes keeps to itself.
    let _ = writeln!(std::io::stderr(), "{SKIPPED}: {why}");
}

#[test]
fn a_worker_that_has_used_its_processor_time_is_lost_and_the_pool_goes_on() {
    let _dog = watchdog(60);
    let pool = confined(Confinement::new().cpu_time(Duration::from_millis(900))).build().unwrap();
    let spin = |seconds: f64| {
        let began = std::time::Instant::now();
        let mut n = 0u64;
        while began.elapsed().as_secs_f64() < seconds {
            n += 1;
        }
        n
    };
    assert!(pool.submit(spin, 0.01).unwrap().join().unwrap() > 0);
    let error = pool.submit(spin, 100.0).unwrap().join().unwrap_err();
    assert_eq!(error.worker_exit(), Some(WorkerExit::Signal(libc::SIGXCPU)));
    assert!(
        pool.submit(spin, 0.01).unwrap().join().unwrap() > 0,
        "a fresh one has a second of its own"
    );
}

#[test]
fn a_worker_cannot_write_files_that_are_too_large() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file").display().to_string();
    let pool = confined(Confinement::new().file_bytes(1000)).build().unwrap();
    let write = |(path, bytes): (String, usize)| std::fs::write(path, vec![1; bytes]).is_ok();
    assert!(pool.submit(write, (path.clone(), 1000)).unwrap().join().unwrap());
    let error = pool.submit(write, (path.clone(), 1001)).unwrap().join().unwrap_err();
    assert_eq!(error.worker_exit(), Some(WorkerExit::Signal(libc::SIGXFSZ)));
    // The arena is no such file.
    let large = pool.submit(|n: usize| vec![1u8; n], 1 << 20).unwrap().join().unwrap();
    assert_eq!(large.len(), 1 << 20);
}

#[test]
fn limits_that_make_no_sense_are_refused_by_name() {
    for (limits, name) in [
        (Confinement::new().descriptors(3), "descriptors is 3"),
        (Confinement::new().cpu_time(Duration::ZERO), "cpu_time"),
        (Confinement::new().processes(1), "processes is 1"),
    ] {
        let error = confined(limits).build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(name), "{error}");
    }
}

#[cfg(feature = "landlock")]
#[test]
fn workers_reach_only_the_paths_that_they_are_given() {
    let _dog = watchdog(60);
    let (readable, writable, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&readable, &writable, &other] {
        std::fs::write(folder.path().join("file"), "text").unwrap();
    }
    let limits = Confinement::new().paths([readable.path()], [writable.path()]);
    let pool = confined(limits).recycle(procpool::Recycle::above_memory(1 << 40)).build().unwrap();
    let access = |folder: String| {
        let read = std::fs::read(format!("{folder}/file")).is_ok();
        let write = std::fs::write(format!("{folder}/new"), "text").is_ok();
        (read, write)
    };
    let folders = [&readable, &writable, &other].map(|path| path.path().display().to_string());
    let reached = pool.map(access, folders).unwrap();
    assert_eq!(reached, [(true, false), (true, true), (false, false)]);
    // It sees its own use of memory, and nobody else's.
    let read = |path: String| std::fs::read(path).is_ok();
    let own = ["/proc/self/statm".to_string(), format!("/proc/{}/environ", std::process::id())];
    assert_eq!(pool.map(read, own).unwrap(), [true, false]);
    let nowhere = Confinement::new().paths(["/not/there"], Vec::<&str>::new());
    let error = confined(nowhere).build().unwrap().submit(access, "/".into()).unwrap().join();
    assert!(error.as_ref().unwrap_err().to_string().contains("/not/there"), "{error:?}");
}

#[test]
fn a_named_arena_is_its_users_alone() {
    succeeds("named");
}

fn named() {
    // SAFETY: sets a number.
    unsafe { libc::umask(0) };
    let name = format!("secure-{}", std::process::id());
    let key = b"the key that nobody may read";
    let arena = Arena::builder(&name).bytes(8 << 20).key(key).create().unwrap();
    arena.register("the name that all may read", &Value::new(0u64).unwrap()).unwrap();
    let file = shared_memory_files().into_iter().find(|file| file.ends_with(&name)).unwrap();
    let path = format!("/dev/shm/{file}");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let bytes = std::fs::read(&path).unwrap();
    let contains = |text: &[u8]| {
        let starts = (0..bytes.len() - text.len()).filter(|at| bytes[*at] == text[0]);
        starts.map(|at| &bytes[at..at + text.len()]).any(|bytes| bytes == text)
    };
    assert!(contains(b"the name that all may read") && !contains(&key[..8]));
}

/// Who may open the segment can also shorten it; whoever then touches what is gone is ended by the kernel.
#[test]
fn a_named_arena_can_be_truncated_by_its_user() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role("truncated", folder.path()));
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{text}{errors}");
}

fn truncated() {
    let name = format!("truncated-{}", std::process::id());
    let _arena = Arena::builder(&name).bytes(8 << 20).create().unwrap();
    let file = shared_memory_files().into_iter().find(|file| file.ends_with(&name)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(format!("/dev/shm/{file}")).unwrap();
    file.set_len(0).unwrap();
    let _ = Value::new(0u64);
}

/// The private arena, which has no name: not even who has its descriptor can.
#[cfg(any(debug_assertions, feature = "fault"))]
#[test]
fn nobody_can_truncate_the_private_arena() {
    use std::os::fd::AsRawFd;
    let _dog = watchdog(60);
    let errnos = |(): ()| -> [i32; 3] {
        let fd = procpool::fault::arena_descriptor().unwrap().as_raw_fd();
        let errno = |returned: i32| match returned {
            0 => 0,
            _ => std::io::Error::last_os_error().raw_os_error().unwrap(),
        };
        // SAFETY: passes numbers.
        unsafe {
            [
                errno(libc::ftruncate(fd, 4096)),
                errno(libc::ftruncate(fd, 1 << 50)),
                errno(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE)),
            ]
        }
    };
    let pool = Pool::builder().workers(1).build().unwrap();
    assert_eq!(pool.submit(errnos, ()).unwrap().join().unwrap(), [libc::EPERM; 3]);
    assert_eq!(errnos(()), [libc::EPERM; 3]);
}

/// What the descriptors of a process lead to, from 3 on.
fn descriptors_of(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let own = entries.filter(|entry| {
        entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).is_some_and(|n| n > 2)
    });
    let targets = own.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

/// The same, of a program that this process starts.
fn descriptors_of_a_child() -> Vec<String> {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    // Before, it has its libraries open.
    wait_until("it sleeps", || is_asleep(child.id()));
    let found = descriptors_of(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    found
}

#[test]
fn what_the_user_starts_gets_no_descriptor_of_ours() {
    succeeds("private-descriptors");
    succeeds("named-descriptors");
}

fn descriptors(named: bool) {
    let before = descriptors_of_a_child();
    let arena = named.then(|| {
        let name = format!("descriptors-{}", std::process::id());
        Arena::builder(&name).bytes(8 << 20).create().unwrap()
    });
    let pool = Pool::builder().workers(2).build().unwrap();
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let process = Process::builder().stdout(procpool::Stdio::Piped).spawn(nap, 60_000).unwrap();
    let own = descriptors_of(std::process::id());
    let memory = if named { "/dev/shm/procpool" } else { "memfd:procpool" };
    for kind in [memory, "pidfd", "eventfd", "socket", "pipe"] {
        assert!(own.iter().any(|target| target.contains(kind)), "no {kind} to be kept: {own:?}");
    }
    assert_eq!(descriptors_of_a_child(), before);
    // (What the program has inherited itself, its workers have not.)
    let task = pool.submit(|(): ()| descriptors_of_a_child(), ()).unwrap();
    let of_a_workers_child = task.join().unwrap();
    assert!(of_a_workers_child.iter().all(|target| before.contains(target)));
    // A worker itself has the arena, and the supervisor's bell. (A named one it has from the user's process.)
    let task = pool.submit(|(): ()| descriptors_of(std::process::id()), ()).unwrap();
    let mut of_worker = task.join().unwrap();
    of_worker.retain(|target| !target.ends_with("/fd"));
    let known = |target: &String| target.contains(memory) || target.contains("eventfd");
    assert!(of_worker.len() == 2 && of_worker.iter().all(known), "{of_worker:?}");
    drop((process, arena));
}

/// While a guardian starts there is a socket in the temporary directory: in a folder that nobody else may
/// enter, whatever the program's umask is.
#[test]
fn nobody_else_can_connect_to_a_guardian_that_starts() {
    succeeds("rendezvous");
}

fn rendezvous() {
    // SAFETY: sets a number.
    unsafe { libc::umask(0) };
    let over = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut modes = Vec::new();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
                modes.extend(
                    entries.filter_map(|entry| Some(entry.metadata().ok()?.mode() & 0o777)),
                );
            }
            modes
        });
        for _ in 0..30 {
            drop(Pool::builder().workers(1).build().unwrap());
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(!seen.is_empty(), "it was never there when somebody looked");
    assert!(seen.iter().all(|mode| *mode == 0o700), "{seen:?}");
}

/// Who sets the variable has a process that ends at once: it finds nobody at its standard input.
#[test]
fn the_variable_alone_makes_no_guardian() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let mut program = program_in_role("nothing", folder.path());
    program.env("PROCPOOL_GUARDIAN", "before-main folder").stdin(Stdio::null());
    let (status, text, errors) = run_to_end(&mut program);
    assert_eq!((status.code(), &*text, &*errors), (Some(1), "", ""));
    // What is not of our making is left alone.
    let mut program = program_in_role("nothing", folder.path());
    let (status, text, _) = run_to_end(program.env("PROCPOOL_GUARDIAN", "else"));
    assert!(status.success() && text.contains("ok"), "{text}");
}

/// A program with the rights of another user than the one who started it does not listen to the environment
/// of the latter, and starts no workers.
#[test]
fn a_set_uid_program_is_no_guardian_and_has_none() {
    let _dog = watchdog(60);
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        return skipped("only root can make a program of another user");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let copy = folder.path().join("copy");
    // By another process: one that this one forks meanwhile would have the copy open for writing.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status();
    assert!(copied.unwrap().success());
    std::os::unix::fs::chown(&copy, Some(12345), None).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o4755)).unwrap();
    let run = |role: &str| {
        let mut program = Command::new(&copy);
        program.args(["--exact", "child_program", "--nocapture"]).stdin(Stdio::null());
        program.env(ROLE, role).env("TMPDIR", folder.path()).uid(23456).gid(23456);
        program
    };
    // What the crate's own tests have fail, and a file that it would write to.
    let log = folder.path().join("log");
    let plan = format!("main memfd_create 24 0 always {}", log.display());
    let (status, text, errors) = run_to_end(run("privileged").env("PROCPOOL_FAIL", &plan));
    assert!(status.success() && !log.exists(), "{text}{errors}");
    let mut ordinary = program_in_role("memory", folder.path());
    let (status, ..) = run_to_end(ordinary.env("PROCPOOL_FAIL", &plan));
    assert_eq!(!status.success(), FAILS_ON_DEMAND, "else the plan says nothing");
    let mut program = run("nothing");
    let (status, text, _) = run_to_end(program.env("PROCPOOL_GUARDIAN", "before-main folder"));
    assert!(
        status.success() && text.contains("ok"),
        "it runs as if there were no variable: {text}"
    );
}

fn privileged() {
    let error = Pool::builder().workers(1).build().unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("set-uid"), "{error}");
    memory();
}

/// Debug builds, and those with the feature, listen to the variable.
const FAILS_ON_DEMAND: bool = cfg!(any(debug_assertions, feature = "fault"));

fn memory() {
    Value::new(0u64).unwrap();
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("named") => named(),
        Some("rendezvous") => rendezvous(),
        Some("privileged") => privileged(),
        Some("memory") => memory(),
        Some("bomb") => bomb(),
        Some("truncated") => truncated(),
        Some("private-descriptors") => descriptors(false),
        Some("named-descriptors") => descriptors(true),
        Some("nothing") | None => {}
        Some(other) => panic!("no role {other}"),
    }
}
