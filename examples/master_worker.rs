//! A master that squares numbers with four workers, over a queue of tasks and a queue of results.
//!
//! `cargo run --release --example master_worker`
//!
//! Each worker gets tasks until the master closes the queue. (The program that this one follows sends
//! one `None` per worker instead, and then waits for ever, because nobody reports those as done.)

use procpool::queue::{GetError, JoinableQueue, Queue};
use procpool::{Error, Pool};
use std::time::Duration;

const WORKERS: usize = 4;

type Queues = (JoinableQueue<u64>, Queue<u64>);

/// What a worker does until there is nothing more to do.
fn work((tasks, results): Queues) -> Result<(), String> {
    while let Ok(number) = tasks.get() {
        results.put(number * number).map_err(|error| error.to_string())?;
        tasks.task_done().map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queues: Queues = (JoinableQueue::new(100)?, Queue::new(100)?);
    let pool = Pool::builder().workers(WORKERS).build()?;
    let workers = (0..WORKERS).map(|_| pool.submit(work, queues.clone()));
    let workers = workers.collect::<Result<Vec<_>, Error>>()?;
    let (tasks, results) = queues;
    for number in 1..=10 {
        tasks.put(number)?;
    }
    let mut squares = Vec::new();
    while squares.len() < 10 {
        match results.get_timeout(Duration::from_millis(100)) {
            Ok(square) => squares.push(square),
            // If one worker dies, the others do its work; without any of them nobody would.
            Err(GetError::Empty) if workers.iter().all(|worker| worker.is_finished()) => {
                return Err("all workers are gone".into());
            }
            Err(GetError::Empty) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tasks.join_timeout(Duration::from_secs(1));
    tasks.close();
    for worker in workers {
        worker.join()??;
    }
    println!("Results: {squares:?}");
    Ok(())
}
