//! A queue between processes: an object that goes through it, and two writers with a reader that is
//! terminated.
//!
//! `cargo run --release --example queue`
//!
//! A reader may be terminated at any moment, also while it holds what guards the queue (in the program that this one
//! follows, the queue is of no use after that). What it had not got yet is still there.

use procpool::queue::Queue;
use procpool::{Process, current_process};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Something that is sent, and knows what to do.
#[derive(Serialize, Deserialize)]
struct Fancy {
    name: String,
}

impl Fancy {
    fn do_something(&self) {
        println!("Doing something fancy in {} for {}!", current_process().name(), self.name);
    }
}

fn receive(queue: Queue<Fancy>) -> Result<(), String> {
    queue.get().map(|fancy| fancy.do_something()).map_err(|error| error.to_string())
}

fn write((queue, urls): (Queue<String>, Vec<String>)) -> Result<(), String> {
    println!("Process {} is writing...", current_process().name());
    for url in urls {
        println!("Put {url} to queue");
        queue.put(url).map_err(|error| error.to_string())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Reads for ever.
fn read(queue: Queue<String>) {
    println!("Process {} is reading...", current_process().name());
    while let Ok(url) = queue.get() {
        println!("Get {url} from queue.");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fancy = Queue::new(1)?;
    let receiver = Process::builder().name("Process-1").spawn(receive, fancy.clone())?;
    fancy.put(Fancy { name: "Frankie".into() })?;
    receiver.join()??;

    let urls = Queue::new(10)?;
    let start = |name: &str, list: [&str; 3]| {
        let list = list.map(String::from).to_vec();
        Process::builder().name(name).spawn(write, (urls.clone(), list))
    };
    let writers = [
        start("writer-1", ["url1", "url2", "url3"])?,
        start("writer-2", ["url4", "url5", "url6"])?,
    ];
    let reader = Process::builder().name("reader").spawn(read, urls.clone())?;
    for writer in writers {
        writer.join()??;
    }
    // It reads for ever: it has to be ended, whatever it does just then.
    reader.terminate();
    let ended = reader.join();
    println!(
        "reader: {}",
        ended.err().and_then(|error| error.worker_exit()).ok_or("it has ended")?
    );

    let mut left = Vec::new();
    while let Ok(url) = urls.try_get() {
        left.push(url);
    }
    println!("still there: {}", left.len());
    urls.put("url7".into())?;
    println!("put and got: {}", urls.get()?);
    Ok(())
}
