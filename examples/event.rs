//! One process waits for an event, another for a limited time; then it is set.
//!
//! `cargo run --release --example event`

use procpool::sync::Event;
use procpool::{Error, Pool};
use std::time::Duration;

fn wait_for_event(event: Event) {
    println!("wait_for_event: starting");
    event.wait();
    println!("wait_for_event: event.is_set() -> {}", event.is_set());
}

fn wait_for_event_timeout((event, limit): (Event, Duration)) {
    println!("wait_for_event_timeout: starting");
    let set = event.wait_timeout(limit);
    println!("wait_for_event_timeout: event.is_set() -> {set}");
}

fn main() -> Result<(), Error> {
    let event = Event::new()?;
    let pool = Pool::builder().workers(2).build()?;

    let patient = pool.submit(wait_for_event, event.clone())?;
    let limit = Duration::from_millis(200);
    let impatient = pool.submit(wait_for_event_timeout, (event.clone(), limit))?;

    println!("main: waiting before calling event.set()");
    impatient.join()?;
    event.set();
    println!("main: event is set");
    patient.join()?;
    Ok(())
}
