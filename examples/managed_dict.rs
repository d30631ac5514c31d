//! A dict and a list that ten processes write to.
//!
//! `cargo run --release --example managed_dict`
//!
//! What is read is a copy: changing it changes nothing until it is put back, or `update` does both.

use procpool::Pool;
use procpool::collections::{Dict, List};

const WORKERS: usize = 10;

type Shared = (Dict<u32, u32>, List<u32>);

fn work((dict, list): &Shared, number: u32) -> Result<(), String> {
    dict.insert(&number, &(number * 2)).map_err(|error| error.to_string())?;
    list.push(&number).map_err(|error| error.to_string())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shared: Shared = (Dict::new()?, List::new()?);
    let pool = Pool::builder().workers(WORKERS).build()?;
    for done in pool.with(&shared).map(work, 0..WORKERS as u32)? {
        done?;
    }
    let (dict, list) = shared;
    let mut entries: Vec<(u32, u32)> = dict.iter().collect::<Result<_, _>>()?;
    entries.sort_unstable();
    println!("Results: {entries:?}");
    list.sort_by(|a, b| a.cmp(b))?;
    println!("List: {:?}", list.to_vec()?);

    let words = Dict::<String, Vec<String>>::new()?;
    words.insert("fruit", &vec!["apple".into()])?;
    let mut copy = words.get("fruit")?.unwrap_or_default();
    copy.push("pear".into());
    println!("After changing the copy: {:?}", words.get("fruit")?.unwrap_or_default());
    words.insert("fruit", &copy)?;
    println!("After putting it back: {:?}", words.get("fruit")?.unwrap_or_default());
    words.update("fruit", |fruit| fruit.push("plum".into()))?;
    println!("After update: {:?}", words.get("fruit")?.unwrap_or_default());
    Ok(())
}
