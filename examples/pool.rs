//! The same calculation by an iterator and by a pool whose workers say when they start, and are replaced when they
//! have run two calls.
//!
//! `cargo run --release --example pool`

use procpool::{Pool, Recycle, current_process};
use std::time::Duration;

const WORKERS: u64 = 4;

fn double(number: u32) -> u32 {
    number * 2
}

/// What each worker does before its first call.
fn start_process(_: ()) {
    println!("Starting {}", current_process().name());
}

fn main() -> Result<(), procpool::Error> {
    let inputs: Vec<u32> = (0..10).collect();
    println!("Input   : {inputs:?}");
    let built_in: Vec<u32> = inputs.iter().copied().map(double).collect();
    println!("Built-in: {built_in:?}");
    let pool = Pool::builder()
        .workers(WORKERS as usize)
        .initializer(start_process, ())
        .recycle(Recycle::after_tasks(2))
        .build()?;
    let outputs = pool.map(double, inputs)?;
    // Whoever has run two calls is replaced, even if there is no more work: of ten calls, at most one for each
    // worker is not the second one of a worker.
    while pool.stats().workers_recycled < (10 - WORKERS) / 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    pool.close(); // no more tasks
    pool.join()?; // waits for the workers
    println!("Pool    : {outputs:?}");
    Ok(())
}
