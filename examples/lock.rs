//! Two processes write to the same stream, one at a time; a third dies while it has the lock.
//!
//! `cargo run --release --example lock`
//!
//! The lock protects how many lines were written. Python's program of this kind ends with a lock that
//! nobody gets any more if its holder is killed; here the next owner is told.

use procpool::sync::{LockError, Mutex};
use procpool::{Error, Pool};

/// Holds the lock for as long as the guard lives.
fn write_with_guard(lines: Mutex<u32>) {
    let mut lines = lines.lock().unwrap();
    println!("Lock acquired via a guard");
    *lines += 1;
}

/// Unlocks by hand, and goes on.
fn write_and_unlock(lines: Mutex<u32>) -> &'static str {
    let mut held = lines.lock().unwrap();
    println!("Lock acquired directly");
    *held += 1;
    drop(held);
    "done, with the lock free"
}

/// Dies in the middle.
fn die_holding(lines: Mutex<u32>) {
    let _held = lines.lock().unwrap();
    std::process::abort();
}

fn main() -> Result<(), Error> {
    let lines = Mutex::new(0u32)?;
    let pool = Pool::builder().workers(2).build()?;

    let first = pool.submit(write_with_guard, lines.clone())?;
    let second = pool.submit(|lines| write_and_unlock(lines).to_string(), lines.clone())?;
    first.join()?;
    println!("second worker: {}", second.join()?);

    let lost = pool.submit(die_holding, lines.clone())?.join().unwrap_err();
    println!("third worker lost: {}", lost.is_worker_lost());
    let count = match lines.lock() {
        Err(LockError::OwnerDied(count)) => {
            println!("the holder died; the count is still good");
            count
        }
        other => other.unwrap(),
    };
    println!("lines written: {}", *count);
    Ok(())
}
