//! Gives tasks to programs that are started separately: see `task_worker`.
//!
//! ```sh
//! cargo run --release --example task_master [NAME [KEY]] &
//! cargo run --release --example task_worker [NAME [KEY]]
//! ```
//!
//! Master and workers share a named arena with two queues in it; the key keeps others out. A worker may
//! be killed at any moment: what it had not finished goes to another one. (It may have sent the result
//! and not yet said that it was done. So tasks have numbers, and a second result is ignored.)

use procpool::Arena;
use procpool::queue::{JoinableQueue, Queue};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const TASKS: u32 = 10;
/// How long to wait for a result before giving up.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or("task-master".into());
    let key = arguments.next().unwrap_or("abc".into());

    let arena = Arena::builder(&name).key(key.as_bytes()).create()?;
    let tasks = JoinableQueue::<(u32, u64)>::new(100)?;
    let results = Queue::<(u32, String)>::new(100)?;
    arena.register("task", &tasks)?;
    arena.register("result", &results)?;

    for number in 0..TASKS {
        let n = RandomState::new().build_hasher().finish() % 10_000;
        println!("Put task {n}...");
        tasks.put((number, n))?;
    }
    println!("Try get results...");
    let mut all = BTreeMap::new();
    while all.len() < TASKS as usize {
        let (number, text) = results.get_timeout(PATIENCE)?;
        if all.insert(number, text.clone()).is_none() {
            println!("Result: {text}");
        }
    }
    tasks.close();
    tasks.join_timeout(PATIENCE);
    println!("master exit.");
    Ok(())
}
