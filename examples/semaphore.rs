//! Ten processes, of which three may be active at a time, and a shared list of those that are.
//!
//! `cargo run --release --example semaphore`
//!
//! The list is any `serde` value, kept encoded under a mutex; every change replaces it as a whole.

use procpool::sync::{Encoded, Mutex, Semaphore};
use procpool::{Error, Pool};
use std::time::Duration;

const WORKERS: usize = 10;
const ACTIVE_MAX: u32 = 3;

/// The names of those who are active.
type Active = Mutex<Encoded<Vec<String>>>;

/// Becomes active, shows who is, works for a moment; returns how many were active.
fn work((permits, active): &(Semaphore, Active), number: usize) -> Result<usize, String> {
    let _permit = permits.acquire();
    let name = number.to_string();
    let change = |change: &dyn Fn(&mut Vec<String>)| -> Result<Vec<String>, String> {
        let mut list = active.lock().map_err(|error| error.to_string())?;
        let changed = list.update(|list| {
            change(list);
            list.clone()
        });
        changed.map_err(|error| error.to_string())
    };
    let now = change(&|list| list.push(name.clone()))?;
    println!("Now running: {now:?}");
    std::thread::sleep(Duration::from_millis(10 + number as u64 * 7 % 20));
    change(&|list| list.retain(|other| *other != name))?;
    Ok(now.len())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shared = (Semaphore::new(ACTIVE_MAX)?, Mutex::encoded(&Vec::new())?);
    let pool = Pool::builder().workers(WORKERS).build()?;
    let together = pool.with(&shared);
    let tasks = (0..WORKERS).map(|number| together.submit(work, number));
    let tasks = tasks.collect::<Result<Vec<_>, Error>>()?;
    let mut most = 0;
    for task in tasks {
        most = most.max(task.join()??);
    }
    let left = shared.1.lock().map_err(|error| error.to_string())?.get()?;
    println!("Now running: {left:?}");
    println!("most at a time: {most}");
    Ok(())
}
