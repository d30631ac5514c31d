//! A worker that runs until it is told to quit, and processes that say who they are until they are ended.
//!
//! `cargo run --release --example until_quit`
//!
//! When the program ends, in whatever way, no process is left behind. (Those of the program that this one follows run on
//! for ever.)

use procpool::queue::Queue;
use procpool::sync::Event;
use procpool::{Process, active_children, current_process};
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

/// Says again and again in which process it runs.
fn calculate((number, done): (u32, Event)) {
    loop {
        println!("Process {}, calculation {number} done", current_process().name());
        done.set();
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("Entered {}...", current_process().name());
    let messages = Queue::new(4)?;
    let worker = Process::builder().name("worker").spawn(receive, messages.clone())?;
    for number in 1..=3 {
        messages.put(format!("message {number}"))?;
        std::thread::sleep(Duration::from_millis(10));
    }
    messages.put("quit".into())?;
    println!("received: {}", worker.join()??);

    let mut processes = Vec::new();
    for number in 1..=4 {
        let done = Event::new()?;
        let process = Process::builder().name(format!("Process-{number}"));
        processes.push((process.spawn(calculate, (number, done.clone()))?, done));
    }
    for (process, done) in &processes {
        done.wait();
        process.terminate();
    }
    for (process, _) in processes {
        let name = process.name().to_string();
        let exit = process.join().err().and_then(|error| error.worker_exit());
        println!("{name}: {}", exit.ok_or("it has ended by itself")?);
    }
    println!("children left: {}", active_children().len());
    Ok(())
}
