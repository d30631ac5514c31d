//! A worker that runs until it is told to quit, and workers that say who they are.
//!
//! `cargo run --release --example until_quit`
//!
//! When the program ends, in whatever way, no worker is left behind.

use procpool::queue::Queue;
use procpool::{Error, Pool};
use std::time::Duration;

/// Receives messages until one says `quit`; returns how many there were.
fn receive(messages: Queue<String>) -> Result<usize, String> {
    let mut received = 0;
    loop {
        let message = messages.get().map_err(|error| error.to_string())?;
        if message == "quit" {
            println!("Bye byes!");
            return Ok(received);
        }
        println!("I'm the worker, received something: {message}");
        received += 1;
    }
}

/// Says in which process it runs.
fn calculate(number: u32) -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    // Long enough for every worker to have one.
    std::thread::sleep(Duration::from_millis(20));
    format!("Process {}, calculation {number} done", name.trim())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("Entered main...");
    let pool = Pool::builder().workers(4).name("calc").build()?;
    let messages = Queue::new(4)?;
    let worker = pool.submit(receive, messages.clone())?;
    for number in 1..=3 {
        messages.put(format!("message {number}"))?;
        std::thread::sleep(Duration::from_millis(10));
    }
    messages.put("quit".into())?;
    println!("received: {}", worker.join()??);

    let tasks = (1..=4).map(|number| pool.submit(calculate, number));
    for task in tasks.collect::<Result<Vec<_>, Error>>()? {
        println!("{}", task.join()?);
    }
    Ok(())
}
