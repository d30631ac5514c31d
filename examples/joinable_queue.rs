//! Consumers that say when they are done, and a program that waits until all is done.
//!
//! `cargo run --release --example joinable_queue`
//!
//! The tasks are objects that know how to compute their answer. Behind them the program puts a `None`
//! for each consumer, which ends it.

use procpool::queue::{JoinableQueue, Queue};
use procpool::{Error, Pool};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

const CONSUMERS: usize = 4;
const TASKS: u64 = 10;

#[derive(Serialize, Deserialize)]
struct Task {
    a: u64,
    b: u64,
}

impl Task {
    fn run(&self) -> String {
        // Pretends to be a lot of work.
        std::thread::sleep(Duration::from_millis(10));
        format!("{self} = {}", self.a * self.b)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} * {}", self.a, self.b)
    }
}

type Shared = (JoinableQueue<Option<Task>>, Queue<String>, usize);

fn consume((tasks, results, number): Shared) -> Result<(), Box<dyn std::error::Error>> {
    loop {
        let task = tasks.get()?;
        match &task {
            Some(task) => {
                println!("Consumer-{number}: {task}");
                results.put(task.run())?;
            }
            None => println!("Consumer-{number}: Exiting"),
        }
        tasks.task_done()?;
        if task.is_none() {
            return Ok(());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (tasks, results) = (JoinableQueue::new(100)?, Queue::new(100)?);
    println!("Creating {CONSUMERS} consumers");
    let pool = Pool::builder().workers(CONSUMERS).build()?;
    let consumers = (1..=CONSUMERS).map(|number| {
        let run = |shared: Shared| consume(shared).map_err(|error| error.to_string());
        pool.submit(run, (tasks.clone(), results.clone(), number))
    });
    let consumers = consumers.collect::<Result<Vec<_>, Error>>()?;
    for number in 0..TASKS {
        tasks.put(Some(Task { a: number, b: number }))?;
    }
    for _ in 0..CONSUMERS {
        tasks.put(None)?;
    }
    while !tasks.join_timeout(Duration::from_millis(100)) {
        // If one consumer dies, the others do its work, and its `None` is left over.
        if consumers.iter().all(|consumer| consumer.is_finished()) {
            while let Ok(left) = tasks.try_get() {
                tasks.task_done()?;
                if left.is_some() {
                    return Err("all consumers are gone".into());
                }
            }
        }
    }
    for _ in 0..TASKS {
        println!("Result: {}", results.get()?);
    }
    for consumer in consumers {
        consumer.join()??;
    }
    Ok(())
}
