//! Collections and queues against simple models: random operations of several processes, with and without
//! kills. Each run prints its seed; `PROCPOOL_STRESS_SEED` repeats one, `PROCPOOL_STRESS_SECONDS` sets how
//! long the runs with kills take.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::collections::*;
use procpool::queue::*;
use procpool::{Pool, fault};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use support::*;

fn seconds() -> u64 {
    let given = std::env::var("PROCPOOL_STRESS_SECONDS").ok();
    given.and_then(|seconds| seconds.parse().ok()).unwrap_or(5)
}

/// A value of a random length, whose parts belong together.
fn text(number: u64, random: &mut Random) -> String {
    let length = [1, 3, 30, 200, 900][random.next() as usize % 5];
    format!("{number} ").repeat(length)
}

fn number_of(text: &str) -> u64 {
    let mut words = text.split_whitespace().map(|word| word.parse().unwrap());
    let first = words.next().unwrap();
    assert!(words.all(|word: u64| word == first), "torn");
    first
}

// One process, against std ------------------------------------------------------------------------

#[test]
fn a_dict_is_a_map_whatever_is_done_to_it() {
    let mut random = Random(seed());
    for _ in 0..20 {
        let (dict, mut model) = (Dict::<u16, String>::new().unwrap(), BTreeMap::new());
        let (pairs, mut pair_model) = (Dict::<u16, u32>::new().unwrap(), BTreeMap::new());
        for step in 0..1500u64 {
            let key = (random.next() % 200) as u16;
            match random.next() % 100 {
                0..50 => {
                    let value = text(step, &mut random);
                    assert_eq!(dict.insert(&key, &value).unwrap(), model.insert(key, value));
                    let value = step as u32;
                    assert_eq!(pairs.insert(&key, &value).unwrap(), pair_model.insert(key, value));
                }
                50..80 => {
                    assert_eq!(dict.remove(&key).unwrap(), model.remove(&key));
                    assert_eq!(pairs.remove(&key).unwrap(), pair_model.remove(&key));
                }
                80..98 => {
                    assert_eq!(dict.get(&key).unwrap().as_ref(), model.get(&key));
                    assert_eq!(pairs.get(&key).unwrap().as_ref(), pair_model.get(&key));
                }
                98 => {
                    assert_eq!(dict.retain(|key, _| key % 3 != 0).unwrap(), {
                        let before = model.len();
                        model.retain(|key, _| key % 3 != 0);
                        before - model.len()
                    });
                }
                _ if random.next().is_multiple_of(10) => {
                    dict.clear();
                    model.clear();
                }
                _ => {}
            }
            assert_eq!((dict.len(), pairs.len()), (model.len(), pair_model.len()));
        }
        dict.check_invariants().unwrap();
        pairs.check_invariants().unwrap();
        let all: BTreeMap<u16, String> = dict.iter().map(Result::unwrap).collect();
        assert_eq!(all, model);
        assert_eq!(pairs.iter().map(Result::unwrap).collect::<BTreeMap<_, _>>(), pair_model);
    }
}

#[test]
fn a_list_is_a_vector_whatever_is_done_to_it() {
    let mut random = Random(seed());
    for _ in 0..20 {
        let (list, mut model) = (List::<String>::new().unwrap(), Vec::new());
        for step in 0..800u64 {
            let length = model.len();
            let at = random.next() as usize % (length + 1);
            let value = text(step, &mut random);
            match random.next() % 100 {
                0..30 => {
                    list.push(&value).unwrap();
                    model.push(value);
                }
                30..40 => {
                    list.insert(at, &value).unwrap();
                    model.insert(at, value);
                }
                40..50 if at < length => {
                    list.set(at, &value).unwrap();
                    model[at] = value;
                }
                50..60 if at < length => assert_eq!(list.remove(at).unwrap(), model.remove(at)),
                60..70 if at < length => {
                    assert_eq!(list.swap_remove(at).unwrap(), model.swap_remove(at));
                }
                70..80 => assert_eq!(list.pop().unwrap(), model.pop()),
                80..85 => {
                    let values: Vec<String> = (0..at % 7).map(|n| format!("{n} ")).collect();
                    list.extend(values.clone()).unwrap();
                    model.extend(values);
                }
                85..87 => {
                    list.truncate(at);
                    model.truncate(at);
                }
                87..89 => {
                    list.sort_by(|a, b| a.cmp(b)).unwrap();
                    model.sort();
                }
                _ => assert_eq!(list.get(at).unwrap().as_ref(), model.get(at)),
            }
            assert_eq!(list.len(), model.len());
        }
        list.check_invariants().unwrap();
        assert_eq!(list.to_vec().unwrap(), model);
    }
}

#[test]
fn a_queue_is_a_queue_whatever_is_done_to_it() {
    let mut random = Random(seed());
    for capacity in [1usize, 2, 7, 40] {
        let queue = Queue::<String>::with_slots(capacity, 16).unwrap();
        let joinable = JoinableQueue::<String>::new(capacity).unwrap();
        let (mut model, mut taken) = (VecDeque::new(), 0);
        for step in 0..3000u64 {
            if random.next().is_multiple_of(2) {
                let value = text(step, &mut random);
                let full = model.len() == capacity;
                assert_eq!(queue.try_put(value.clone()).is_err(), full);
                assert_eq!(joinable.try_put(value.clone()).is_err(), full);
                if !full {
                    model.push_back(value);
                }
            } else {
                let expected = model.pop_front();
                assert_eq!(queue.try_get().ok(), expected);
                taken += usize::from(expected.is_some());
                assert_eq!(joinable.try_get().ok(), expected);
            }
            if random.next().is_multiple_of(3) {
                assert_eq!(joinable.task_done().is_ok(), taken > 0);
                taken = taken.saturating_sub(1);
            }
            assert_eq!((queue.len(), joinable.len()), (model.len(), model.len()));
            assert_eq!(joinable.unfinished(), model.len() + taken);
        }
        queue.check_invariants().unwrap();
        joinable.check_invariants().unwrap();
    }
}

// Several processes -------------------------------------------------------------------------------

/// What the processes share.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct World {
    dict: Dict<u64, String>,
    pairs: Dict<u64, u64>,
    list: List<String>,
    queue: Queue<String>,
    tasks: JoinableQueue<u64>,
    /// What has surely been done: each process notes it after the operation has returned.
    noted: Dict<(u64, u64), bool>,
}

impl World {
    fn make() -> Self {
        Self {
            dict: Dict::new().unwrap(),
            pairs: Dict::new().unwrap(),
            list: List::new().unwrap(),
            queue: Queue::new(16).unwrap(),
            tasks: JoinableQueue::new(1000).unwrap(),
            noted: Dict::new().unwrap(),
        }
    }

    fn check_invariants(&self) {
        self.dict.check_invariants().unwrap();
        self.pairs.check_invariants().unwrap();
        self.list.check_invariants().unwrap();
        self.queue.check_invariants().unwrap();
        self.tasks.check_invariants().unwrap();
        self.noted.check_invariants().unwrap();
    }
}

/// One process's random operations. `id` is its own: nobody else uses its keys.
fn act((world, id, seed): (World, u64, u64)) {
    let mut random = Random(seed);
    for step in 0..60u64 {
        let key = id * 100 + random.next() % 20;
        match random.next() % 7 {
            0 | 1 => {
                let value = text(key, &mut random);
                world.dict.insert(&key, &value).unwrap();
                world.noted.insert(&(0, key), &true).unwrap();
            }
            2 => {
                // Before, so that a removal which was not noted is not missed.
                world.noted.remove(&(0, key)).unwrap();
                world.dict.remove(&key).unwrap();
            }
            3 => {
                world.pairs.update_or_insert_with(&(key % 10), || 0, |count| *count += 1).unwrap();
                world.noted.insert(&(1, id * 1000 + step), &true).unwrap();
            }
            4 => {
                let value = text(id * 1000 + step, &mut random);
                if random.next().is_multiple_of(4) {
                    let at = world.list.len() / 2;
                    // Somebody else may have shortened it.
                    let _ = world.list.insert(at, &value);
                } else {
                    world.list.push(&value).unwrap();
                    world.noted.insert(&(2, id * 1000 + step), &true).unwrap();
                }
            }
            5 => {
                let _ = world.queue.try_put(text(id * 1000 + step, &mut random));
                if let Ok(value) = world.queue.try_get() {
                    number_of(&value);
                }
            }
            _ => {
                if let Ok(task) = world.tasks.try_get() {
                    world.noted.insert(&(3, task), &true).unwrap();
                    world.tasks.task_done().unwrap();
                }
            }
        }
        if let Some(value) = world.dict.get(&key).unwrap() {
            assert_eq!(number_of(&value), key);
        }
    }
}

/// Runs for a while; whether processes are killed.
fn run(kills: bool, duration: Duration) {
    let mut random = Random(seed());
    let pool = Pool::builder().workers(3).name("world").build().unwrap();
    let mut before = None;
    let end = Instant::now() + duration;
    let (mut rounds, mut lost, mut all) = (0, 0, 0);
    while Instant::now() < end {
        // The first rounds are calm, and have the arena's tables grow as far as they will.
        let kills = kills && rounds >= 3;
        let world = World::make();
        for task in 0..30 {
            world.tasks.put(task).unwrap();
        }
        let tasks: Vec<_> = (0..12u64)
            .map(|id| pool.submit(act, (world.clone(), id, random.next())).unwrap())
            .collect();
        while kills && tasks.iter().any(|task| !task.is_finished()) {
            std::thread::sleep(Duration::from_micros(random.next() % 3000));
            let workers = workers_of(std::process::id(), "world");
            if let Some(worker) = workers.get(random.next() as usize % 3) {
                kill(*worker, libc::SIGKILL);
            }
        }
        for task in tasks {
            all += 1;
            match task.join() {
                Ok(()) => {}
                Err(error) if kills && error.is_worker_lost() => lost += 1,
                Err(error) => panic!("{error}"),
            }
        }
        wait_until("the dead are settled", || pool.check_invariants().is_ok());
        check(&world, kills);
        rounds += 1;
        drop(world);
        let left = || (fault::objects(), pool.stats().arena_used_bytes);
        if rounds >= 3 {
            let limit = Instant::now() + Duration::from_secs(10);
            while Some(left()) != before {
                assert!(Instant::now() < limit, "{before:?} before, {:?} left", left());
                std::thread::sleep(Duration::from_millis(1));
            }
        } else {
            wait_until("the objects are gone", || left().0.0 == 0);
            before = Some(left());
        }
    }
    println!("{rounds} rounds, {lost} of {all} tasks lost");
    assert!(rounds > 0 && (lost > 0) == kills);
    pool.join().unwrap();
}

/// That everything which was noted is there, and nothing is half done.
fn check(world: &World, kills: bool) {
    world.check_invariants();
    let noted: BTreeSet<(u64, u64)> = world.noted.keys().unwrap().into_iter().collect();
    let kind = |kind: u64| noted.iter().filter(move |(of, _)| *of == kind).map(|(_, n)| *n);
    for key in kind(0) {
        let value = world.dict.get(&key).unwrap();
        assert_eq!(value.map(|value| number_of(&value)), Some(key), "an insertion was lost");
    }
    let counted: u64 = world.pairs.values().unwrap().iter().sum();
    let least = kind(1).count() as u64;
    // Who died after the change and before noting it was one of twelve.
    assert!((least..=least + if kills { 12 } else { 0 }).contains(&counted), "{least} {counted}");
    let elements: Vec<u64> = world.list.iter().unwrap().map(|value| number_of(&value)).collect();
    let distinct: BTreeSet<u64> = elements.iter().copied().collect();
    assert_eq!(distinct.len(), elements.len(), "an element is there twice");
    assert!(kind(2).all(|n| distinct.contains(&n)), "an element was lost");
    // What the living have not done is there to be done; what was done is not.
    let mut rest = BTreeSet::new();
    while let Ok(task) = world.tasks.try_get() {
        assert!(rest.insert(task), "task {task} twice");
        world.tasks.task_done().unwrap();
    }
    assert!(world.tasks.join_timeout(Duration::from_secs(5)), "{:?}", world.tasks);
    let done: BTreeSet<u64> = kind(3).collect();
    assert!((0..30).all(|task| rest.contains(&task) || done.contains(&task)), "a task was lost");
    let both = rest.intersection(&done).count();
    assert!(both <= if kills { 12 } else { 0 }, "{both} tasks were done and are here again");
    while let Ok(value) = world.queue.try_get() {
        number_of(&value);
    }
    world.check_invariants();
}

/// Not a test of its own: what the tests below run in a program of its own.
#[test]
fn child_program() {
    match role().as_deref() {
        Some("calm") => run(false, Duration::from_secs(2)),
        Some("kills") => run(true, Duration::from_secs(seconds())),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}

fn in_a_program(role: &str) {
    let _dog = watchdog(100 + seconds());
    let folder = tempfile::tempdir().unwrap();
    let (status, output, errors) = run_to_end(&mut program_in_role(role, folder.path()));
    assert!(status.success(), "{role}: {output}{errors}");
    println!("{output}");
}

#[test]
fn processes_that_live_do_what_they_say() {
    in_a_program("calm");
}

#[test]
fn processes_that_are_killed_have_done_what_they_had_said() {
    in_a_program("kills");
}
