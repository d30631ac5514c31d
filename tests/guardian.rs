//! The guardian is killed: it is replaced, and only what its workers were running is lost.

mod support;

use procpool::{Pool, TaskHandle};
use std::time::Duration;
use support::*;

fn still_works(pool: &Pool) {
    let values = pool.map_each(|x: u64| x * 3, 0..2000u64).unwrap();
    assert!(values.into_iter().eq((0..2000).map(|x| Ok(x * 3))));
    pool.check_invariants().unwrap();
}

#[test]
fn a_killed_guardian_is_replaced_and_loses_only_what_was_running() {
    let _dog = watchdog(120);
    let pool = Pool::builder().workers(2).name("guarded").build().unwrap();
    for _ in 0..10 {
        let tasks: Vec<TaskHandle<u64>> = (0..50)
            .map(|n| {
                pool.submit(
                    |n: u64| {
                        std::thread::sleep(Duration::from_millis(2));
                        n
                    },
                    n,
                )
                .unwrap()
            })
            .collect();
        let guardian = guardian_of(std::process::id());
        if let Some(guardian) = guardian {
            kill(guardian, libc::SIGKILL);
        }
        let mut lost = 0;
        for (n, task) in tasks.into_iter().enumerate() {
            match task.join() {
                Ok(value) => assert_eq!(value, n as u64),
                Err(error) => {
                    assert!(error.is_worker_lost(), "{error}");
                    lost += 1;
                }
            }
        }
        assert!(lost <= 2, "one running task per worker, not {lost}");
        still_works(&pool);
    }
}
