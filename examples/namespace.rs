//! Named values that processes share, and what happens to one that is changed in place.
//!
//! `cargo run --release --example namespace`

use procpool::collections::Namespace;
use procpool::sync::Event;
use procpool::{Error, Pool};

fn produce((names, event): (Namespace, Event)) -> Result<(), Error> {
    names.set("value", &"This is the value".to_string())?;
    // A copy of the list is changed here, and nobody sees that.
    let mut list = names.get::<Vec<String>>("list")?.unwrap_or_default();
    list.push("never seen".into());
    event.set();
    Ok(())
}

fn consume((names, event): (Namespace, Event)) -> Result<(), Error> {
    match names.get::<String>("value")? {
        Some(value) => println!("Before event, consumer got: {value}"),
        None => println!("Before event, consumer got: there is no value"),
    }
    names.set("waits", &true)?;
    event.wait();
    println!("After event, consumer got: {}", names.get::<String>("value")?.unwrap_or_default());
    let list = names.get::<Vec<String>>("list")?.unwrap_or_default();
    println!("After event, the list is: {list:?}");
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shared = (Namespace::new()?, Event::new()?);
    shared.0.set("list", &Vec::<String>::new())?;
    let pool = Pool::builder().workers(2).build()?;
    let consumer = pool.submit(
        |shared: (Namespace, Event)| consume(shared).map_err(|error| error.to_string()),
        shared.clone(),
    )?;
    // The consumer is to look first.
    while !shared.0.contains("waits") && !consumer.is_finished() {
        std::thread::yield_now();
    }
    let producer = pool.submit(
        |shared: (Namespace, Event)| produce(shared).map_err(|error| error.to_string()),
        shared.clone(),
    )?;
    let produced = producer.join();
    // Also if the producer was lost: nobody is to wait for it.
    shared.1.set();
    consumer.join()??;
    produced??;
    println!("names: {}", shared.0.names().join(" "));
    Ok(())
}
