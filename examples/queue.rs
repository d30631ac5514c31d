//! A queue between processes: an object that goes through it, and two writers with a reader that is
//! killed in the middle.
//!
//! `cargo run --release --example queue`
//!
//! A reader may be killed at any moment: the queue still works, and what the reader had not got yet is
//! still there.

use procpool::queue::Queue;
use procpool::{Error, Pool};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Something that is sent, and knows what to do.
#[derive(Serialize, Deserialize)]
struct Fancy {
    name: String,
}

impl Fancy {
    fn do_something(&self) {
        println!("Doing something fancy for {}!", self.name);
    }
}

fn receive(queue: Queue<Fancy>) -> Result<(), String> {
    queue.get().map(|fancy| fancy.do_something()).map_err(|error| error.to_string())
}

fn write((queue, urls): (Queue<String>, Vec<String>)) -> Result<(), String> {
    println!("Process is writing {}...", urls.join(" "));
    for url in urls {
        println!("Put {url} to queue");
        queue.put(url).map_err(|error| error.to_string())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Reads `count` addresses, and then dies as if it had been killed.
fn read_and_die((queue, count): (Queue<String>, usize)) {
    for _ in 0..count {
        if let Ok(url) = queue.get() {
            println!("Get {url} from queue.");
        }
    }
    std::process::abort();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(3).build()?;

    let fancy = Queue::new(1)?;
    let receiver = pool.submit(receive, fancy.clone())?;
    fancy.put(Fancy { name: "Frankie".into() })?;
    receiver.join()??;

    let urls = Queue::new(10)?;
    let reader = pool.submit(read_and_die, (urls.clone(), 2))?;
    let batches = [["url1", "url2", "url3"], ["url4", "url5", "url6"]];
    let writers =
        batches.map(|batch| pool.submit(write, (urls.clone(), batch.map(String::from).to_vec())));
    for writer in writers.into_iter().collect::<Result<Vec<_>, Error>>()? {
        writer.join()??;
    }
    println!("reader lost: {}", reader.join().is_err());
    let mut left = Vec::new();
    while let Ok(url) = urls.try_get() {
        left.push(url);
    }
    println!("still there: {}", left.len());
    Ok(())
}
