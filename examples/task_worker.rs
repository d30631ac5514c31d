//! Works on the tasks of another program: see `task_master`.
//!
//! `cargo run --release --example task_worker [NAME [KEY]]`
//!
//! It may be started before the master. It ends when the master has closed the queue, or when there was
//! no task for a second.

use procpool::Arena;
use procpool::queue::{GetError, JoinableQueue, Queue};
use std::time::Duration;

/// How long to wait for the master, and how long for a task.
const MASTER_WITHIN: Duration = Duration::from_secs(10);
const TASK_WITHIN: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or("task-master".into());
    let key = arguments.next().unwrap_or("abc".into());

    println!("Connect to {name}...");
    let arena = Arena::builder(&name).key(key.as_bytes()).timeout(MASTER_WITHIN).attach()?;
    let (tasks, results) = loop {
        // The master registers them just after it has created the arena.
        let tasks = arena.lookup::<JoinableQueue<(u32, u64)>>("task")?;
        let results = arena.lookup::<Queue<(u32, String)>>("result")?;
        if let (Some(tasks), Some(results)) = (tasks, results) {
            break (tasks, results);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    loop {
        match tasks.get_timeout(TASK_WITHIN) {
            Ok((number, n)) => {
                println!("run task {n} * {n}...");
                std::thread::sleep(Duration::from_millis(50));
                results.put((number, format!("{n} * {n} = {}", n * n)))?;
                // Only now: until here the task would go to another worker if this one died.
                tasks.task_done()?;
            }
            Err(GetError::Empty) => {
                println!("task queue is empty.");
                break;
            }
            Err(GetError::Closed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    println!("worker exit.");
    Ok(())
}
