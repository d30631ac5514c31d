//! What is told to `tracing`, and that a progress bar leaves the outcomes alone.

mod support;

use procpool::{Pool, Recycle, TaskOptions};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps the text of each event.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "procpool"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn starts_ends_retries_limits_and_settlements_are_told() {
    let _dog = watchdog(60);
    let heard = Heard::default();
    tracing::subscriber::set_global_default(heard.clone()).unwrap();
    let pool = Pool::builder().workers(1).name("told").build().unwrap();
    let dies = |_: u8| -> u8 { std::process::exit(4) };
    assert!(pool.submit_with(TaskOptions::new().retries(1), dies, 0).unwrap().join().is_err());
    let late = TaskOptions::new().timeout(Duration::from_millis(10));
    let stuck = |_: u8| std::thread::sleep(Duration::from_secs(100));
    assert!(pool.submit_with(late, stuck, 0).unwrap().join().is_err());
    let has = |words: &[&str]| {
        let heard = heard.0.lock().unwrap();
        heard.iter().any(|text| words.iter().all(|word| text.contains(word)))
    };
    for words in [
        &["worker started", "told", "number=0", "pid="][..],
        &["worker ended", "lost", "exit code 4"],
        &["task retried", "begun=1"],
        &["task ended", "timed out"],
        &["worker ended", "killed for its task"],
        &["worker settled", "told"],
    ] {
        wait_until(&format!("{words:?} is told"), || has(words));
    }
}

#[test]
fn recycling_and_retiring_are_told_for_what_they_are() {
    succeeds("recycling");
}

/// In a program of its own: a subscriber is for the whole program.
fn recycling() {
    let heard = Heard::default();
    tracing::subscriber::set_global_default(heard.clone()).unwrap();
    let pool = Pool::builder().workers(2).name("again").recycle(Recycle::after_tasks(3));
    let pool = pool.build().unwrap();
    assert_eq!(pool.map(|n: u64| n, 0..20).unwrap().len(), 20);
    wait_until("they have left", || pool.stats().workers_recycled >= 5);
    pool.resize(1).unwrap();
    wait_until("one has left", || pool.stats().workers_retired >= 1);
    for why in ["recycled", "retired"] {
        wait_until(why, || {
            let heard = heard.0.lock().unwrap();
            let words = ["worker ended", "again", "exit code 0", why];
            heard.iter().any(|text| words.iter().all(|word| text.contains(word)))
        });
    }
    let heard = heard.0.lock().unwrap();
    let lost = heard.iter().find(|text| text.contains("worker ended") && text.contains("lost"));
    assert_eq!(lost, None);
}

/// With its standard error in a file or a pipe, as here, a bar writes nothing at all.
#[test]
fn a_bar_is_quiet_where_there_is_no_terminal() {
    let _dog = watchdog(60);
    let folder = tempfile::tempdir().unwrap();
    let (status, said, errors) = run_to_end(&mut program_in_role("bar", folder.path()));
    assert!(status.success(), "{said}{errors}");
    assert_eq!(errors, "");
    assert!(
        ["sum 9900", "map 9900"].iter().all(|sum| said.contains(sum))
            && !said.contains('\r')
            && !said.contains('\u{1b}'),
        "{said}"
    );
}

fn bar() {
    let pool = pool_of(2);
    let slow = |n: u64| {
        std::thread::sleep(Duration::from_millis(3));
        n * 2
    };
    let sum: u64 = pool.imap(slow, 0..100).unwrap().progress().map(Result::unwrap).sum();
    println!("sum {sum}");
    let mapped = pool.with_options(TaskOptions::new().progress()).map(slow, 0..100).unwrap();
    println!("map {}", mapped.into_iter().sum::<u64>());
}

#[test]
fn child_program() {
    match role().as_deref() {
        Some("recycling") => recycling(),
        Some("bar") => bar(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}

#[test]
fn a_bar_passes_the_outcomes_on() {
    let _dog = watchdog(60);
    let pool = pool_of(2);
    let mut outcomes = pool.imap(|n: u64| n * 2, 0..100).unwrap().progress();
    assert_eq!(outcomes.bar().length(), Some(100));
    assert!(outcomes.by_ref().map(Result::unwrap).eq((0..100).map(|n| n * 2)));
    assert!(outcomes.bar().is_finished() && outcomes.bar().position() == 100);
    let endless = pool.imap(|n: u64| n, 0..).unwrap().progress();
    assert_eq!(endless.bar().length(), None);
    assert_eq!(endless.take(5).count(), 5);
}
