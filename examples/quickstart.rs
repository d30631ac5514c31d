//! The smallest program: a pool with one worker per core squares a million numbers.
//!
//! `cargo run --release --example quickstart`

use procpool::Pool;

fn main() -> Result<(), procpool::Error> {
    let pool = Pool::new()?; // one worker per usable core
    let squares = pool.map(|x: u64| x * x, 0..1_000_000)?; // Vec<u64>, in input order
    println!("{}", squares[999]);
    Ok(())
}
