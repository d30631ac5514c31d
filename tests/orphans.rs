//! Processes whose parent has died: they are ended before what they hold is given away, whatever is short just then.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::queue::Queue;
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

#[test]
fn child_program() {
    if let Some(role) = role() {
        assert_eq!(role, "outlived");
        outlived();
    }
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
