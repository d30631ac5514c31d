//! Two stages of a job: the second runs in two processes at once, when the first says that it may.
//!
//! `cargo run --release --example condition`
//!
//! What is waited for is a value under a mutex, not the notification itself: so it does not matter
//! who comes first.

use procpool::sync::{Condvar, Mutex};
use procpool::{Error, Pool};

/// Whether stage 1 is done, and the condition that says when that changes.
type Stage = (Mutex<u32>, Condvar);

fn stage_1((done, changed): Stage) {
    println!("Starting stage 1");
    let mut done = done.lock().unwrap();
    *done = 1;
    println!("stage 1 done and ready for stage 2");
    changed.notify_all();
}

fn stage_2(((done, changed), number): (Stage, u32)) {
    println!("Starting stage_2[{number}]");
    let done = changed.wait_while(done.lock().unwrap(), |done| *done == 0).unwrap();
    println!("stage_2[{number}] running after stage {}", *done);
}

fn main() -> Result<(), Error> {
    let stage: Stage = (Mutex::new(0)?, Condvar::new()?);
    let pool = Pool::builder().workers(3).build()?;

    let mut tasks = Vec::new();
    for number in 1..=2 {
        tasks.push(pool.submit(stage_2, (stage.clone(), number))?);
    }
    tasks.push(pool.submit(stage_1, stage)?);
    for task in tasks {
        task.join()?;
    }
    Ok(())
}
