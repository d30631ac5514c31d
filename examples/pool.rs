//! The same calculation by an iterator and by a pool.
//!
//! `cargo run --release --example pool`

use procpool::Pool;

fn double(number: u32) -> u32 {
    number * 2
}

fn main() -> Result<(), procpool::Error> {
    let inputs: Vec<u32> = (0..10).collect();
    println!("Input   : {inputs:?}");
    let built_in: Vec<u32> = inputs.iter().copied().map(double).collect();
    println!("Built-in: {built_in:?}");
    let pool = Pool::builder().workers(4).build()?;
    let outputs = pool.map(double, inputs)?;
    pool.join()?; // no more tasks; waits for the workers
    println!("Pool    : {outputs:?}");
    Ok(())
}
