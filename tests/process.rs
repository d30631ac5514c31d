//! One function in one process: its value, its end, its streams, and what happens when somebody dies.

mod support;

use procpool::sync::{Event, Mutex};
use procpool::{
    Pool, Process, ProcessTimeoutError, Stdio, WorkerExit, active_children, cpu_count,
    current_process, parent_process,
};
use std::io::{Read, Write};
use std::time::Duration;
use support::*;

fn begin_and_sleep((begun, ms): (Event, u64)) -> u64 {
    begun.set();
    std::thread::sleep(Duration::from_millis(ms));
    ms
}

/// A process that has begun to sleep.
fn sleeper(name: &str) -> Process<u64> {
    let begun = Event::new().unwrap();
    let process =
        Process::builder().name(name).spawn(begin_and_sleep, (begun.clone(), 100_000)).unwrap();
    assert!(begun.wait_timeout(Duration::from_secs(30)));
    process
}

#[test]
fn a_process_ends_with_its_value_or_with_what_ended_it() {
    let _dog = watchdog(60);
    let process = Process::spawn(|n: u64| (n * 2, std::process::id()), 21).unwrap();
    let pid = process.pid();
    assert_eq!(process.join().unwrap(), (42, pid));

    let process = Process::spawn(|n: u64| -> u64 { panic!("{n} is too much") }, 3).unwrap();
    wait_until("it has ended", || !process.is_alive());
    assert_eq!(process.exit_status(), Some(WorkerExit::Code(101)));
    assert_eq!(process.join().unwrap_err().panic_message(), Some("3 is too much"));

    for code in [0, 1, 255] {
        let process: Process<()> =
            Process::spawn(|code: i32| std::process::exit(code), code).unwrap();
        let error = process.join().unwrap_err();
        assert_eq!(error.worker_exit(), Some(WorkerExit::Code(code)), "{error}");
    }
    let process: Process<()> = Process::spawn(|_: ()| std::process::abort(), ()).unwrap();
    assert_eq!(process.join().unwrap_err().worker_exit(), Some(WorkerExit::Signal(6)));
    let process = Process::spawn(|n: u8| n, 1).unwrap();
    wait_until("it has ended", || !process.is_alive());
    assert_eq!((process.exit_status(), process.join()), (Some(WorkerExit::Code(0)), Ok(1)));
}

#[test]
fn a_process_can_be_waited_for_in_vain_terminated_and_killed() {
    let _dog = watchdog(60);
    let process = sleeper("proc1");
    let process = match process.join_timeout(Duration::from_millis(20)) {
        Err(ProcessTimeoutError::TimedOut(process)) => process,
        other => panic!("{other:?}"),
    };
    assert!(process.is_alive() && process.exit_status().is_none());
    process.terminate();
    let error = match process.join_timeout(Duration::from_secs(30)) {
        Err(ProcessTimeoutError::Failed(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(error.worker_exit(), Some(WorkerExit::Signal(15)));
    let process = sleeper("proc2");
    process.kill();
    wait_until("it is dead", || !process.is_alive());
    process.kill();
    process.terminate();
    assert_eq!(process.exit_status(), Some(WorkerExit::Signal(9)));
    assert_eq!(process.join().unwrap_err().worker_exit(), Some(WorkerExit::Signal(9)));
}

#[test]
fn a_dropped_process_is_gone() {
    let _dog = watchdog(60);
    let process = sleeper("proc3");
    let pid = process.pid();
    drop(process);
    assert!(!is_running(pid));
}

/// Killed before it begins, while it begins, and while it runs.
#[test]
fn a_process_that_is_killed_at_any_moment_is_reported() {
    let _dog = watchdog(120);
    let mut random = Random(seed());
    for round in 0..150u64 {
        let process = Process::spawn(|n: u64| n, round).unwrap();
        std::thread::sleep(Duration::from_micros(random.next() % 1500));
        process.kill();
        match process.join() {
            Ok(value) => assert_eq!(value, round),
            Err(error) => assert_eq!(error.worker_exit(), Some(WorkerExit::Signal(9)), "{error}"),
        }
    }
}

#[test]
fn what_a_killed_process_held_is_given_back() {
    let _dog = watchdog(60);
    let lock = Mutex::new(1u64).unwrap();
    let held = Event::new().unwrap();
    let hold = |(lock, held): (Mutex<u64>, Event)| {
        let _guard = lock.lock();
        held.set();
        std::thread::sleep(Duration::from_secs(1000));
    };
    let process = Process::spawn(hold, (lock.clone(), held.clone())).unwrap();
    assert!(held.wait_timeout(Duration::from_secs(30)));
    process.kill();
    let locked = lock.lock_timeout(Duration::from_secs(30));
    assert!(locked.is_err_and(|error| error.to_string().contains("died")));
    assert!(process.join().is_err());
}

#[test]
fn streams_lead_where_they_are_told_to() {
    let _dog = watchdog(60);
    let echo = |_: ()| {
        let mut lines = 0;
        for line in std::io::stdin().lines() {
            println!("out: {}", line.unwrap());
            eprintln!("err");
            lines += 1;
        }
        lines
    };
    let mut process = Process::builder()
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped)
        .stderr(Stdio::Piped)
        .spawn(echo, ())
        .unwrap();
    let mut input = process.take_stdin().unwrap();
    assert!(process.take_stdin().is_none());
    input.write_all(b"one\ntwo\n").unwrap();
    drop(input);
    let (mut said, mut errors) = (String::new(), String::new());
    process.take_stdout().unwrap().read_to_string(&mut said).unwrap();
    process.take_stderr().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((&*said, &*errors), ("out: one\nout: two\n", "err\nerr\n"));
    assert_eq!(process.join().unwrap(), 2);

    let links = |_: ()| {
        let link = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        println!("nobody reads this");
        [link(0), link(1)].map(|path| path.to_string_lossy().into_owned())
    };
    let null = Process::builder().stdin(Stdio::Null).stdout(Stdio::Null).spawn(links, ()).unwrap();
    assert_eq!(null.join().unwrap(), ["/dev/null", "/dev/null"]);
    let mine = std::fs::read_link("/proc/self/fd/0").unwrap().to_string_lossy().into_owned();
    let inherited = Process::builder().stdout(Stdio::Null).spawn(links, ()).unwrap();
    assert_eq!(inherited.join().unwrap()[0], mine);
}

#[test]
fn a_process_has_its_name_environment_directory_and_limits() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let look = |_: ()| {
        let directory = std::env::current_dir().unwrap().to_string_lossy().into_owned();
        let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
        // SAFETY: reads a number.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let variable = std::env::var("PROCPOOL_TEST_SETTING").unwrap();
        (current_process().name().to_string(), comm, variable, directory, nice)
    };
    let process = Process::builder()
        .name("set-up")
        .env("PROCPOOL_TEST_SETTING", "17")
        .current_dir(folder.path())
        .nice(5)
        .spawn(look, ())
        .unwrap();
    assert_eq!(process.name(), "set-up");
    let (name, comm, variable, directory, nice) = process.join().unwrap();
    assert_eq!((&*name, comm.trim(), &*variable, nice), ("set-up", "set-up", "17", 5));
    assert_eq!(std::path::Path::new(&directory), folder.path().canonicalize().unwrap());
    assert!(std::env::var_os("PROCPOOL_TEST_SETTING").is_none());
    let nowhere = Process::builder().current_dir("/not/there").spawn(|_: ()| (), ()).unwrap();
    assert_eq!(nowhere.join().unwrap_err().worker_exit(), Some(WorkerExit::Code(1)));
    let refused = Process::builder().nice(20).spawn(|_: ()| (), ()).unwrap_err();
    assert!(refused.is_invalid() && refused.to_string().contains("20"), "{refused}");
    let refused = Process::builder().env("A=B", "").spawn(|_: ()| (), ()).unwrap_err();
    assert!(refused.is_invalid() && refused.to_string().contains("A=B"), "{refused}");
}

#[test]
fn processes_know_each_other() {
    let _dog = watchdog(60);
    assert_eq!((current_process().name(), current_process().pid()), ("main", std::process::id()));
    assert!(parent_process().is_none() && cpu_count() >= 1);
    let parent = |_: ()| parent_process().map(|parent| (parent.pid(), parent.is_alive()));
    assert_eq!(
        Process::spawn(parent, ()).unwrap().join().unwrap(),
        Some((std::process::id(), true))
    );
    let process = sleeper("proc4");
    let pool = Pool::builder().workers(2).name("proc5").build().unwrap();
    let names: Vec<String> = active_children().into_iter().map(|child| child.name).collect();
    for name in ["proc4", "proc5-worker-0", "proc5-worker-1"] {
        assert!(names.iter().any(|had| had == name), "{names:?}");
    }
    drop((process, pool));
    let names: Vec<String> = active_children().into_iter().map(|child| child.name).collect();
    assert!(!names.iter().any(|name| name.starts_with("proc5") || name == "proc4"), "{names:?}");
    let nested = |_: ()| {
        let inner = Process::spawn(|_: ()| parent_process().unwrap().pid(), ()).unwrap();
        (std::process::id(), inner.join().unwrap())
    };
    let (pid, parent) = Process::spawn(nested, ()).unwrap().join().unwrap();
    assert_eq!(pid, parent);
}

#[test]
fn many_processes_run_at_once_with_the_same_descriptors() {
    let _dog = watchdog(120);
    let go = Event::new().unwrap();
    let count = |go: Event| {
        assert!(go.wait_timeout(Duration::from_secs(60)));
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    };
    let before = open_descriptors();
    let processes: Vec<_> = (0..40).map(|_| Process::spawn(count, go.clone()).unwrap()).collect();
    go.set();
    let counts: Vec<usize> = processes.into_iter().map(|one| one.join().unwrap()).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    // Other tests of this program have some open meanwhile.
    assert!(open_descriptors() <= before + 30, "{} of {before}", open_descriptors());
}

#[test]
fn a_child_ends_with_its_parent_unless_it_is_detached() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let mut program = program_in_role("parent", folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let said = wait_for_line(&mut program, "ready");
    let line = said.split_once("pids ").unwrap().1;
    let mut pids = line.split_whitespace().map(|pid| pid.parse::<u32>().unwrap());
    let (child, detached) = (pids.next().unwrap(), pids.next().unwrap());
    assert!(is_running(child) && is_running(detached));
    kill(program.id(), libc::SIGKILL);
    program.wait().unwrap();
    wait_until("the child has ended", || !is_running(child));
    assert!(is_running(detached));
    std::fs::write(folder.path().join("go"), "").unwrap();
    wait_until("the detached one goes on to its end", || !is_running(detached));
    assert_eq!(std::fs::read_to_string(folder.path().join("done")).unwrap(), "true");
}

fn parent() {
    let folder = std::env::temp_dir().to_string_lossy().into_owned();
    let wait = |folder: String| {
        let folder = std::path::PathBuf::from(folder);
        while !folder.join("go").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Dropping a handle, and locking, still work.
        let alone = Mutex::new(0u64).is_ok() && parent_process().is_some_and(|it| !it.is_alive());
        std::fs::write(folder.join("done"), alone.to_string()).unwrap();
    };
    let child = Process::spawn(wait, "/not/there".into()).unwrap();
    let detached = Process::builder().name("apart").detached().spawn(wait, folder).unwrap();
    println!("pids {} {}\nready", child.pid(), detached.pid());
    let pid = detached.pid();
    drop(detached);
    assert!(is_running(pid));
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn the_guardian_dies_and_a_detached_process_does_not() {
    succeeds("guardian");
}

fn guardian() {
    let go = Event::new().unwrap();
    let wait = |go: Event| go.wait_timeout(Duration::from_secs(30));
    let detached = Process::builder().detached().spawn(wait, go.clone()).unwrap();
    let child = Process::spawn(wait, go.clone()).unwrap();
    kill(guardian_of(std::process::id()).unwrap(), libc::SIGKILL);
    let error = child.join().unwrap_err();
    assert_eq!(error.worker_exit(), Some(WorkerExit::Signal(9)), "{error}");
    assert!(detached.is_alive());
    assert_eq!(Process::spawn(|n: u8| n, 5).unwrap().join().unwrap(), 5);
    go.set();
    assert!(detached.join().unwrap());
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("parent") => parent(),
        Some("guardian") => guardian(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}
