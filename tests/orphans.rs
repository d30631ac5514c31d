//! Processes whose parent has died: they are ended before what they hold is given away, whatever is short just then.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::fault;
use procpool::queue::Queue;
use procpool::sync::Event;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::*;

/// A worker with a pool of its own dies, and the guardian that would end its worker is stopped.
fn outlived() {
    let pool = pool_of(1);
    let pids = Queue::<u32>::new(4).unwrap();
    let make_a_pool = |pids: Queue<u32>| {
        let inner = pool_of(1);
        let grandchild = inner.map(|(): ()| std::process::id(), [()]).unwrap()[0];
        let guardian = guardian_of(std::process::id()).unwrap();
        pids.put_many([grandchild, guardian, std::process::id()]).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(600));
    };
    let task = pool.submit(make_a_pool, pids.clone()).unwrap();
    let [grandchild, guardian, worker] = [(); 3].map(|()| pids.get().unwrap());
    kill(guardian, libc::SIGSTOP);
    wait_until("the guardian is stopped", || is_stopped(guardian));
    kill(worker, libc::SIGKILL);
    assert!(task.join().unwrap_err().is_worker_lost());
    let ended = std::panic::catch_unwind(|| {
        wait_until("the orphan is ended", || !is_running(grandchild));
    });
    kill(guardian, libc::SIGKILL);
    assert!(ended.is_ok());
    // There are no descriptors for another worker: the pool could not end in the usual way.
    std::process::exit(0);
}

/// A worker with a pool of its own dies; then its own worker hands over to it a result that carries a handle.
fn handed_over_late(file: &Path) {
    let pool = pool_of(1);
    let pids = Queue::<u32>::new(4).unwrap();
    let carried = Event::new().unwrap();
    let make_a_pool = |(pids, event, file): (Queue<u32>, Event, PathBuf)| {
        let inner = pool_of(1);
        let (own, guardian) = (std::process::id(), guardian_of(std::process::id()).unwrap());
        let wait = |(pids, event, file): (Queue<u32>, Event, PathBuf)| {
            pids.put(std::process::id()).unwrap();
            wait_until("it is to end", || std::fs::remove_file(&file).is_ok());
            event
        };
        pids.put_many([own, guardian]).unwrap();
        let _ = inner.submit(wait, (pids, event, file)).unwrap().join();
    };
    // Without this process's own handles.
    let arguments = (pids.clone(), carried, file.to_owned());
    let task = pool.submit(make_a_pool, arguments).unwrap();
    let pids = [(); 3].map(|()| pids.get().unwrap()).map(|pid| pid.to_string());
    fault::arm_stop("main.holdings-settled", 0).unwrap();
    println!("{} pids", pids.join(" "));
    assert!(task.join().unwrap_err().is_worker_lost());
    fault::disarm();
    // What is left is the queue, which this process holds.
    wait_until("nothing is left of it", || fault::objects() == (1, 1));
    std::process::exit(0);
}

#[test]
fn child_program() {
    let Some(role) = role() else { return };
    match role.split_once(' ') {
        None => outlived(),
        Some((_, file)) => handed_over_late(Path::new(file)),
    }
}

/// It was found by having such a worker die before each of its stores: the holding was nobody's whom anybody settles.
#[test]
fn what_an_orphan_hands_over_to_its_dead_parent_is_given_back() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let file = folder.path().join("go");
    let mut program = program_in_role(&format!("late {}", file.display()), folder.path());
    let mut program = program.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut output = BufReader::new(program.stdout.take().unwrap());
    let mut line = String::new();
    while !line.ends_with("pids\n") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0);
    }
    let pids = line.split_whitespace().filter_map(|word| word.parse().ok());
    let [worker, guardian, grandchild] = pids.collect::<Vec<u32>>()[..] else { panic!("{line}") };
    kill(guardian, libc::SIGSTOP);
    kill(program.id(), libc::SIGSTOP);
    wait_until("they are stopped", || is_stopped(guardian) && is_stopped(program.id()));
    kill(worker, libc::SIGKILL);
    std::fs::write(&file, "").unwrap();
    let has_ended = || !file.exists() && is_asleep(grandchild);
    wait_until("it has handed its result over, and waits for a task", has_ended);
    kill(program.id(), libc::SIGCONT);
    wait_until("the holdings are settled", || is_stopped(program.id()));
    assert!(!is_running(grandchild), "what it hands over now is nobody's");
    kill(program.id(), libc::SIGCONT);
    let status = program.wait().unwrap();
    kill(guardian, libc::SIGKILL);
    assert!(status.success(), "{status}");
}

/// Without a pidfd it was taken for dead, and went on writing to what had been given to others.
#[test]
fn an_orphan_is_ended_though_no_descriptor_is_left_for_it() {
    let (_dog, folder) = (watchdog(100), tempfile::tempdir().unwrap());
    let log = folder.path().join("failed");
    // One for the guardian and one for the worker.
    let plan = format!("main pidfd_open {} 2 always {}", libc::EMFILE, log.display());
    let mut program = program_in_role("outlived", folder.path());
    let (status, text, errors) = run_to_end(program.env("PROCPOOL_FAIL", plan));
    assert!(status.success(), "{text}{errors}");
    assert!(log.exists(), "{text}{errors}");
}
