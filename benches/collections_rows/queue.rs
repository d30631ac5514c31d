//! Values through a queue, one by one, as fast as they go.
//!
//! - *1:1*: this process puts, the stage's other process gets, each on a core of its own, from a
//!   signal until the last value is there.
//! - *2:2*: this process and a worker put, two workers get, on the same two cores, where the kernel
//!   likes. `ipc-channel` has no such row: its receivers are one process's.
//!
//! A value of 1 KiB is a `Vec` that its producer makes and its consumer drops, on all sides. Our queue
//! holds 1024 values, `ipc-channel`'s what its socket takes, CPython's any number. The sums of what was
//! put and of what came must agree.

use super::against_python;
use crate::collections_peers::channel::{Channel, ChannelLoad};
use crate::measure::{Limit, ROUNDS, Side, Table};
use crate::sync_peers::python::Python;
use crate::sync_peers::stage::{Act, Board, Stage};
use procpool::Pool;
use procpool::queue::Queue;
use procpool::sync::Barrier;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

const CAPACITY: usize = 1024;
const CALLS: u64 = 400_000;
const CHANNEL_CALLS: u64 = 100_000;
const PYTHON_CALLS: u64 = 50_000;
const LARGE_BYTES: usize = 1024;

const CHANNEL: &str = "ipc-channel";
const PYTHON: &str = "CPython multiprocessing.Queue";

/// Something to put, made from a number.
pub(crate) trait Load: fmt::Debug + Clone + Serialize + DeserializeOwned + 'static {
    const KIND: &'static str;
    const BYTES: usize;

    fn of(number: u64) -> Self;
    fn number(&self) -> u64;
}

impl Load for u64 {
    const KIND: &'static str = "8 B";
    const BYTES: usize = 8;

    fn of(number: u64) -> Self {
        number
    }

    fn number(&self) -> u64 {
        *self
    }
}

impl Load for Vec<u8> {
    const KIND: &'static str = "1 KiB";
    const BYTES: usize = LARGE_BYTES;

    fn of(number: u64) -> Self {
        let mut bytes = vec![0xa5; LARGE_BYTES];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn number(&self) -> u64 {
        assert_eq!(self.len(), LARGE_BYTES);
        let (number, _) = self.split_first_chunk().expect("a number in front");
        u64::from_le_bytes(*number)
    }
}

/// What the numbers of the values that came add up to.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Sum(u64);

impl Sum {
    #[inline]
    pub(crate) fn add<T: Load>(&mut self, value: &T) {
        self.0 = self.0.wrapping_add(black_box(value).number());
    }

    pub(crate) fn check(self, numbers: Range<u64>) {
        let expected = (numbers.end - numbers.start) * (numbers.start + numbers.end - 1) / 2;
        assert_eq!(self.0, expected, "every value came once");
    }
}

fn produce<T: Load>(queue: &Queue<T>, numbers: Range<u64>) {
    for number in numbers {
        let put = queue.put(T::of(number));
        assert!(put.is_ok(), "a queue that is open");
    }
}

fn consume<T: Load>(queue: &Queue<T>, calls: u64) -> Sum {
    let mut sum = Sum::default();
    for _ in 0..calls {
        sum.add(&queue.get().unwrap());
    }
    sum
}

/// From this process to the other one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Flow<T: Load>(Queue<T>);

impl<T: Load> Flow<T> {
    pub(crate) fn new() -> Self {
        Self(Queue::with_slots(CAPACITY, T::BYTES).unwrap())
    }
}

impl<T: Load> Act for Flow<T> {
    fn here(&self, _: &Board, calls: u64) -> Option<Duration> {
        produce(&self.0, 0..calls);
        None
    }

    fn there(&self, _: &Board, calls: u64) {
        consume(&self.0, calls).check(0..calls);
    }
}

/// What a worker does in a row of four processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Part {
    Put(Range<u64>),
    Get(u64),
}

type Role<T> = (Part, Queue<T>, Barrier, (usize, usize));

fn take_part<T: Load>((part, queue, begin, cores): Role<T>) -> Sum {
    on_both(cores, || {
        begin.wait().unwrap();
        match part {
            Part::Put(numbers) => {
                produce(&queue, numbers);
                Sum::default()
            }
            Part::Get(calls) => consume(&queue, calls),
        }
    })
}

/// Two processes put, two get; `crew` has three workers.
fn two_to_two<T: Load>(
    crew: &Pool,
    cores: (usize, usize),
    queue: &Queue<T>,
    calls: u64,
) -> Duration {
    let (half, begin) = (calls / 2, Barrier::new(4).unwrap());
    let parts = [Part::Get(half), Part::Get(calls - half), Part::Put(half..calls)];
    let workers = parts.map(|part| {
        let role = (part, queue.clone(), begin.clone(), cores);
        crew.submit(take_part::<T>, role).expect("a handle")
    });
    on_both(cores, || {
        begin.wait().unwrap();
        let start = Instant::now();
        produce(queue, 0..half);
        let mut sum = 0u64;
        for worker in workers {
            let Sum(part) = worker.join().expect("the worker did its part");
            sum = sum.wrapping_add(part);
        }
        let elapsed = start.elapsed();
        Sum(sum).check(0..calls);
        elapsed
    })
}

/// Runs `work` with the calling thread on the two cores, and then lets it go where it could before.
fn on_both<R>((first, second): (usize, usize), work: impl FnOnce() -> R) -> R {
    let before = sched_getaffinity(None);
    let mut both = CpuSet::new();
    both.set(first);
    both.set(second);
    let _ = sched_setaffinity(None, &both);
    let result = work();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    result
}

pub(crate) fn rows(table: &mut Table, stage: &Stage, crew: &Pool, python: &mut Option<Python>) {
    one_to_one::<u64>(table, stage, python, Some(5e6));
    one_to_one::<Vec<u8>>(table, stage, python, None);
    four::<u64>(table, stage, crew, python);
    four::<Vec<u8>>(table, stage, crew, python);
}

fn one_to_one<T: ChannelLoad>(
    table: &mut Table,
    stage: &Stage,
    python: &mut Option<Python>,
    per_second: Option<f64>,
) {
    let name = format!("Queue put and get, {}, 1:1", T::KIND);
    if !table.wants(&name) {
        return;
    }
    let act = Flow::<T>::new();
    let ours = || Side::new("", CALLS, |calls| stage.run(&act, calls));

    let channel = Channel::<T>::new(stage);
    let peer = Side::new(CHANNEL, CHANNEL_CALLS, |calls| stage.run(&channel, calls));
    let (time, _) = table.compare(&name, Limit::TimesFaster(10.0), ROUNDS, ours(), peer);
    if let Some(calls) = per_second {
        table.absolute(&name, Limit::PerSecond(calls), time);
    }
    let request = python_request::<T>(stage, 1);
    let peer = (PYTHON, &*request, PYTHON_CALLS);
    against_python(table, &name, Limit::TimesFaster(20.0), ours(), peer, python);
}

fn four<T: Load>(table: &mut Table, stage: &Stage, crew: &Pool, python: &mut Option<Python>) {
    let name = format!("Queue put and get, {}, 2:2", T::KIND);
    if !table.wants(&name) {
        return;
    }
    let queue = Queue::<T>::with_slots(CAPACITY, T::BYTES).unwrap();
    let ours = Side::new("", CALLS, |calls| two_to_two(crew, stage.cores(), &queue, calls));
    let request = python_request::<T>(stage, 2);
    let peer = (PYTHON, &*request, PYTHON_CALLS);
    against_python(table, &name, Limit::TimesFaster(20.0), ours, peer, python);
    assert!(queue.is_empty());
}

/// What to ask CPython for, with so many processes at each end.
fn python_request<T: Load>(stage: &Stage, each: usize) -> String {
    let (here, there) = stage.cores();
    format!("queue {} {each} {here} {there}", T::BYTES)
}
