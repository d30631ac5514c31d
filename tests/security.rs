//! The claims of the page `security` of the guide: who can reach what, and what confined workers cannot do.

mod support;

use procpool::{Arena, Confinement, Pool, PoolBuilder, Process, WorkerExit};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
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

#[test]
fn confined_workers_gain_nothing_and_open_no_more_than_they_may() {
    let _dog = watchdog(60);
    let limits = Confinement::new().no_new_privileges().descriptors(24).core_bytes(0);
    let pool = confined(limits.clone()).build().unwrap();
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
    let _arena = Arena::builder(&name).bytes(8 << 20).create().unwrap();
    let file = shared_memory_files().into_iter().find(|file| file.ends_with(&name)).unwrap();
    let mode = std::fs::metadata(format!("/dev/shm/{file}")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
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
        println!("not tested: only root can make a program of another user");
        return;
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
    let (status, text, errors) = run_to_end(&mut run("privileged"));
    assert!(status.success(), "{text}{errors}");
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
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("named") => named(),
        Some("rendezvous") => rendezvous(),
        Some("privileged") => privileged(),
        Some("nothing") | None => {}
        Some(other) => panic!("no role {other}"),
    }
}
