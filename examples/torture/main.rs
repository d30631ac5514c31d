//! Torments pools and shared objects: processes are killed, stopped and asked to end at random moments while
//! everything is in use, and it is checked all the while that nothing is lost, hung or left behind.
//!
//! ```sh
//! cargo run --release --example torture -- [--minutes 1] [--seed N]
//! ```
//!
//! # Who is there
//! ```text
//!  harness ── program ─┬─ guardian ── workers
//!  (this,    (killed   ├─ visitor ── guardian ── worker     a program that is attached to the arena
//!  kills)    now and   └─ visitor
//!            then, and started again)
//! ```
//! The harness starts the program and kills below it; the program runs everything that the crate has, in
//! storms of about a second. Then it asks for a calm, in which it checks every sum, and that no slot, permit,
//! object or byte is missing. When a program has ended, in whichever way, the harness looks for what is left
//! of it: processes, segments, files.
//!
//! # What is checked
//! Every task ends once, with its value or with a cause that is true: the harness knows whom it has killed.
//! What a task or a visitor has done to a shared object is there if it was acknowledged, and is there wholly
//! or not at all if its process died before it could say. Nothing takes longer than [`program::PATIENCE`].
//!
//! The seed decides what is done to whom; when, is for the machine to say.
#![deny(missing_docs)]

mod account;
mod harness;
mod program;
mod remains;
mod shared;
mod tally;
mod tasks;
mod visitor;

#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match support::role().as_deref() {
        Some("program") => program::run(),
        Some("visitor") => visitor::run(),
        Some("passer-by") => {
            let passed = procpool::Pool::builder().workers(1).build();
            return if passed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        _ => {}
    }
    let mut minutes = 1.0;
    let mut seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_nanos() as u64);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next();
        let understood = match (name.as_str(), &value) {
            ("--minutes", Some(value)) => value.parse().map(|value| minutes = value).is_ok(),
            ("--seed", Some(value)) => value.parse().map(|value| seed = value).is_ok(),
            _ => false,
        };
        if !understood {
            eprintln!("torture: {name} {} is not understood", value.unwrap_or_default());
            return ExitCode::from(2);
        }
    }
    if harness::torment(Duration::from_secs_f64(minutes * 60.0), seed) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
