//! Walks through every fault point of collections and queues: a worker is killed exactly there, in the
//! middle of a change. The change must have happened or not, everything must be reachable once, and
//! nothing may be left behind.
//!
//! What the walk does is in `support/walk.rs`.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::collections::*;
use procpool::queue::*;
use procpool::sync::Value;
use procpool::{Pool, fault};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;
use support::walk::*;
use support::*;

/// A value whose parts belong together: torn or mixed up, it does not pass `is_whole`.
fn text(number: u64, length: usize) -> String {
    format!("{number} ").repeat(length)
}

fn is_whole(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let first = words.next();
    words.all(|word| Some(word) == first)
}

#[derive(Clone, Serialize, Deserialize)]
struct Dicts {
    plain: Dict<u64, u64>,
    texts: Dict<String, String>,
    nested: Dict<u32, List<u64>>,
    names: Namespace,
}

impl Scenario for Dicts {
    fn make() -> Self {
        let (plain, texts) = (Dict::new().unwrap(), Dict::new().unwrap());
        Self { plain, texts, nested: Dict::new().unwrap(), names: Namespace::new().unwrap() }
    }
    fn work(self, number: usize) {
        for key in 0..900u64 {
            self.plain.insert(&key, &(key * 2)).unwrap();
        }
        for round in 0..6u64 {
            let key = format!("key {}", round % 3);
            // Short ones lie in slots, long ones in blocks of their own.
            let length = [1, 40, 1500][(round as usize + number) % 3];
            self.texts.insert(key.as_str(), &text(round, length)).unwrap();
            self.texts.update(key.as_str(), |value| assert!(is_whole(value))).unwrap();
            let list = List::new().unwrap();
            list.push(&round).unwrap();
            self.nested.insert(&(round as u32 % 2), &list).unwrap();
            if let Some(list) = self.nested.get(&0).unwrap() {
                assert_eq!(list.len(), 1);
            }
            self.names.set("name", &text(round, 3)).unwrap();
            self.texts.remove(key.as_str()).unwrap();
            self.plain.remove(&(round * 7)).unwrap();
        }
        self.nested.remove(&1).unwrap();
        self.plain.clear();
        self.texts.insert("left", &text(9, 2)).unwrap();
    }
    fn check(&self) {
        self.plain.check_invariants().unwrap();
        self.texts.check_invariants().unwrap();
        self.nested.check_invariants().unwrap();
        self.names.check_invariants().unwrap();
        for entry in self.plain.iter() {
            let (key, value) = entry.unwrap();
            assert_eq!(value, key * 2);
        }
        assert!(self.texts.values().unwrap().iter().all(|value| is_whole(value)));
        assert!(self.nested.values().unwrap().iter().all(|list| list.len() == 1));
        assert_eq!(self.plain.iter().count(), self.plain.len());
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Lists {
    numbers: List<u64>,
    triples: List<String>,
    nested: List<List<u64>>,
}

impl Scenario for Lists {
    fn make() -> Self {
        let (numbers, triples) = (List::new().unwrap(), List::new().unwrap());
        Self { numbers, triples, nested: List::new().unwrap() }
    }
    fn work(self, number: usize) {
        let own = number as u64 * 1000;
        for round in 0..40u64 {
            self.numbers.push(&(own + round)).unwrap();
        }
        for round in 0..6u64 {
            self.numbers.insert(1, &(own + 100 + round)).unwrap();
            self.numbers.remove(2).unwrap();
            self.numbers.swap_remove(3).unwrap();
            self.numbers.pop().unwrap();
            // All three or none of them.
            let value = text(round, [1, 1500][round as usize % 2]);
            self.triples.extend([value.clone(), value.clone(), value.clone()]).unwrap();
            // Gone, if another has just truncated the list.
            let _ = self.triples.update(0, |value| assert!(is_whole(value)));
            let inner = List::new().unwrap();
            inner.push(&round).unwrap();
            self.nested.push(&inner).unwrap();
            self.nested.set(0, &inner).unwrap();
        }
        // Others may keep changing it.
        let _ = self.numbers.sort_by(|a, b| a.cmp(b));
        self.triples.truncate(3);
        self.nested.truncate(2);
        if number == 0 {
            self.triples.clear();
        }
    }
    fn check(&self) {
        self.numbers.check_invariants().unwrap();
        self.triples.check_invariants().unwrap();
        self.nested.check_invariants().unwrap();
        let numbers = self.numbers.to_vec().unwrap();
        let distinct: HashSet<u64> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), numbers.len(), "something is there twice");
        let triples = self.triples.to_vec().unwrap();
        assert_eq!(triples.len() % 3, 0, "extend was cut short");
        for three in triples.chunks(3) {
            assert!(three.iter().all(|value| *value == three[0] && is_whole(value)));
        }
        assert!(self.nested.iter().unwrap().all(|inner| inner.len() == 1));
        // What the next run adds is to be distinct again.
        self.numbers.clear();
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Arrays(Array<[u64; 5]>, Array<u64>);

impl Scenario for Arrays {
    fn make() -> Self {
        Self(Array::zeroed(4).unwrap(), Array::new(&[0, 0]).unwrap())
    }
    fn work(self, number: usize) {
        for round in 0..10 {
            let before = self.0.update((round + number) % 4, |element| element.map(|n| n + 1));
            assert!(before.iter().all(|n| *n == before[0]), "torn: {before:?}");
            self.1.fetch_add(0, 1);
            match self.1.lock() {
                Ok(mut all) => all[1] += 1,
                Err(error) => assert!(error.is_owner_died()),
            }
        }
    }
    fn check(&self) {
        drop(self.1.lock().unwrap_or_else(procpool::sync::LockError::into_guard));
        assert!(self.1.lock().is_ok());
        let all = self.0.lock().unwrap();
        assert!(all.iter().all(|element| element.iter().all(|n| *n == element[0])), "{all:?}");
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Queues {
    short: Queue<u64>,
    long: Queue<String>,
    handles: Queue<Value<u64>>,
    /// What was put less what was got, as far as those who did it have lived to say so.
    balance: Value<i64>,
}

impl Queues {
    fn counted_put<T: Kept>(&self, queue: &Queue<T>, value: T, wait: Duration) {
        if queue.put_timeout(value, wait).is_ok() {
            self.balance.fetch_add(1);
        }
    }
    fn counted_get<T: Kept>(&self, queue: &Queue<T>, wait: Duration) -> Option<T> {
        let value = queue.get_timeout(wait).ok()?;
        self.balance.fetch_sub(1);
        Some(value)
    }
}

impl Scenario for Queues {
    fn make() -> Self {
        let (short, long) = (Queue::new(3).unwrap(), Queue::new(2).unwrap());
        Self { short, long, handles: Queue::new(4).unwrap(), balance: Value::new(0).unwrap() }
    }
    fn work(self, number: usize) {
        let soon = Duration::from_millis(20);
        for round in 0..12u64 {
            self.counted_put(&self.short, number as u64 * 100 + round, soon);
            if (round as usize + number).is_multiple_of(4) {
                linger();
            }
            let at_once = Duration::ZERO;
            self.counted_put(&self.long, text(round, [2, 900][round as usize % 2]), at_once);
            self.counted_put(&self.handles, Value::new(7).unwrap(), at_once);
            self.counted_get(&self.short, soon);
            if let Some(value) = self.counted_get(&self.long, at_once) {
                assert!(is_whole(&value));
            }
            if let Some(value) = self.counted_get(&self.handles, at_once) {
                assert_eq!(value.load(), 7);
            }
        }
    }
    fn check(&self) {
        self.short.check_invariants().unwrap();
        self.long.check_invariants().unwrap();
        self.handles.check_invariants().unwrap();
        let left = self.short.len() + self.long.len() + self.handles.len();
        let missing = self.balance.swap(0) - left as i64;
        match fault::fired() {
            // Before the store that commits: what was being got is still there, what was being put is
            // not. After it: the other way round, and nobody has said so.
            Some("queue.marked" | "queue.taken" | "queue.emptied") => {
                assert!([0, 1].contains(&missing))
            }
            Some("queue.put") => assert!([0, -1].contains(&missing)),
            // Which store it was is not known.
            None if walks_stores() => assert!([-1, 0, 1].contains(&missing)),
            fired => assert_eq!(missing, 0, "{fired:?}"),
        }
        let rest: Vec<u64> = std::iter::from_fn(|| self.short.try_get().ok()).collect();
        let distinct: HashSet<u64> = rest.iter().copied().collect();
        assert_eq!(distinct.len(), rest.len(), "something was delivered twice");
        while let Ok(value) = self.long.try_get() {
            assert!(is_whole(&value));
        }
        while let Ok(value) = self.handles.try_get() {
            assert_eq!(value.load(), 7);
        }
        // As many go in and come out as when it was new.
        for value in 0..3 {
            self.short.try_put(value).unwrap();
        }
        assert!(self.short.try_put(3).unwrap_err().is_full());
        for value in 0..3 {
            assert_eq!(self.short.try_get().unwrap(), value);
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Joinables {
    again: JoinableQueue<String>,
    dropping: JoinableQueue<Value<u64>>,
}

impl Scenario for Joinables {
    fn make() -> Self {
        let dropping = JoinableQueue::with_policy(4, OnDeath::Drop).unwrap();
        Self { again: JoinableQueue::new(8).unwrap(), dropping }
    }
    fn work(self, number: usize) {
        for round in 0..8u64 {
            let _ = self.again.try_put(text(round, [2, 900][round as usize % 2]));
            let _ = self.dropping.try_put(Value::new(7).unwrap());
            if (round as usize + number).is_multiple_of(3) {
                linger();
            }
            if let Ok(value) = self.again.get_timeout(Duration::from_millis(5)) {
                assert!(is_whole(&value));
                self.again.task_done().unwrap();
            }
            if let Ok(value) = self.dropping.try_get() {
                assert_eq!(value.load(), 7);
                self.dropping.task_done().unwrap();
            }
        }
    }
    fn check(&self) {
        self.again.check_invariants().unwrap();
        self.dropping.check_invariants().unwrap();
        // What a dead worker had got is here again, or counts as done.
        while let Ok(value) = self.again.try_get() {
            assert!(is_whole(&value));
            self.again.task_done().unwrap();
        }
        while self.dropping.try_get().is_ok() {
            self.dropping.task_done().unwrap();
        }
        assert!(self.again.join_timeout(Duration::from_secs(5)), "{:?}", self.again);
        assert!(self.dropping.join_timeout(Duration::from_secs(5)), "{:?}", self.dropping);
        assert!(self.again.task_done().is_err());
    }
}

/// Workers make pipes, and send ends to one another.
#[derive(Clone, Serialize, Deserialize)]
struct Pipes(Queue<RecvEnd<String>>);

impl Scenario for Pipes {
    fn make() -> Self {
        Self(Queue::new(4).unwrap())
    }
    fn work(self, _: usize) {
        for round in 0..6u64 {
            let (sender, receiver) = one_way().unwrap();
            if self.0.try_put(receiver).is_ok() {
                let _ = sender.send(text(round, [2, 900][round as usize % 2]));
            }
            drop(sender);
            if let Ok(receiver) = self.0.try_get() {
                // The sender has sent one or died before; either way it ends.
                while let Ok(value) = receiver.recv() {
                    assert!(is_whole(&value));
                }
            }
        }
    }
    fn check(&self) {
        while let Ok(receiver) = self.0.try_get() {
            while let Ok(value) = receiver.recv() {
                assert!(is_whole(&value));
            }
        }
    }
}

/// Calls a function for the type of a scenario.
macro_rules! by_name {
    ($name:expr, $function:ident($($argument:expr),*)) => {
        match $name {
            "dicts" => $function::<Dicts>($($argument),*),
            "lists" => $function::<Lists>($($argument),*),
            "arrays" => $function::<Arrays>($($argument),*),
            "queues" => $function::<Queues>($($argument),*),
            "joinables" => $function::<Joinables>($($argument),*),
            "pipes" => $function::<Pipes>($($argument),*),
            other => panic!("no scenario {other}"),
        }
    };
}

/// What a program does that walks through a scenario.
fn walk_by_name(role: &str) {
    if let Some(name) = role.strip_prefix(STORES) {
        return by_name!(name, walk_stores(name));
    }
    let expected = EXPECTED.iter().find(|(scenario, _)| *scenario == role);
    let expected = expected.map_or(&[][..], |(_, prefixes)| prefixes);
    by_name!(role, walk("stripe.", expected))
}

/// Not a test of its own: the program that the tests below run, once for each type.
#[test]
fn child_program() {
    let Some(role) = role() else { return };
    let _dog = watchdog(3000);
    match role.as_str() {
        "repairers" => {
            repairers_die::<Short>(&OF_REPAIRS[..1], 400);
            repairers_die::<Waiting>(&OF_REPAIRS[1..], 80);
        }
        "twice" => killed_twice(),
        "sorted" => sorted_while_others_die(),
        "counted" => counted_after_a_death(),
        "taken" => taken_by_one_that_died(),
        name => walk_by_name(name),
    }
}

/// The points that each type must have been killed at.
const EXPECTED: &[(&str, &[&str])] = &[
    ("dicts", &["stripe.l", "stripe.u", "heap.", "entry.", "dict."]),
    ("lists", &["list."]),
    ("arrays", &["array."]),
    ("queues", &["queue."]),
    ("joinables", &["joinable.a", "joinable.t", "joinable.c"]),
    ("pipes", &["pipe."]),
];

#[test]
fn every_point_of_every_type_may_be_the_last_of_a_worker() {
    walk_all("points of collections", ("stripe.", None), EXPECTED, OF_REPAIRS);
}

#[test]
fn every_store_of_every_type_may_be_the_last_of_a_worker() {
    walk_all_stores(EXPECTED);
}

/// Points that are passed when another has died.
const OF_REPAIRS: &[&str] = &["stripe.repaired", "joinable.redelivering", "joinable.reclaimed"];

/// Few and short operations, so that who dies somewhere dies in the middle of one.
#[derive(Clone, Serialize, Deserialize)]
struct Short(Dict<u64, String>, List<u64>);

impl Scenario for Short {
    fn make() -> Self {
        Self(Dict::new().unwrap(), List::new().unwrap())
    }
    fn work(self, _: usize) {
        for round in 0..3u64 {
            self.0.insert(&(round % 2), &text(round, 3)).unwrap();
            self.0.remove(&1).unwrap();
            self.1.extend([7, 7, 7]).unwrap();
            let _ = self.1.swap_remove(0).and_then(|_| self.1.insert(0, &7));
        }
        self.1.truncate(3);
    }
    fn check(&self) {
        self.0.check_invariants().unwrap();
        assert!(self.0.values().unwrap().iter().all(|value| is_whole(value)));
        self.1.check_invariants().unwrap();
    }
}

/// One takes tasks, and the others wait for what it has taken.
#[derive(Clone, Serialize, Deserialize)]
struct Waiting(JoinableQueue<u64>);

impl Scenario for Waiting {
    fn make() -> Self {
        Self(JoinableQueue::new(8).unwrap())
    }
    fn work(self, number: usize) {
        if number == 0 {
            (0..3).for_each(|n| drop(self.0.try_put(n)));
            while self.0.try_get().is_ok() {}
        }
        while self.0.get_timeout(Duration::from_millis(10)).is_ok() {
            self.0.task_done().unwrap();
        }
    }
    fn check(&self) {
        self.0.check_invariants().unwrap();
        while self.0.try_get().is_ok() {
            self.0.task_done().unwrap();
        }
        assert!(self.0.join_timeout(Duration::from_secs(5)), "{:?}", self.0);
    }
}

/// Kills whoever passes at a point where repairs are made, at each of the passes: one worker dies before some of its
/// first `stores`, over and over.
fn repairers_die<S: Scenario>(points: &[&str], stores: u64) {
    let pool = builder().restart_limit(1_000_000, SHORT).build().unwrap();
    fault::spare_this_process();
    let mut random = Random(seed());
    for point in points {
        for pass in PASSES {
            fault::arm(point, pass - 1).unwrap();
            let (mut runs, began) = (0, std::time::Instant::now());
            while fault::fired().is_none() {
                let object = S::make();
                // Two, if it is in this run that the other dies.
                assert!(run_dying(&pool, &object, random.next() % stores) <= 2);
                wait_until("the dead are settled", || pool.check_invariants().is_ok());
                object.check();
                runs += 1;
                assert!(runs < 5000, "{point} has no pass {pass}");
            }
            let took = began.elapsed();
            println!("{point}: killed at pass {pass}, after {runs} runs, within {took:.1?}");
        }
    }
    fault::disarm();
    pool.join().unwrap();
}

#[test]
fn whoever_repairs_may_die_at_each_pass() {
    let _dog = watchdog(300);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role("repairers", folder.path()));
    assert!(status.success(), "{text}{errors}");
    println!("{text}");
    let found: Vec<&str> = text.lines().filter(|line| line.contains("killed at pass")).collect();
    report("points of repairs", &found.join("\n"));
}

/// Kills a worker in the middle of a change, and then the one that is about to repair it, or to deal with
/// what it had taken.
fn killed_twice() {
    let pool = builder().build().unwrap();
    fault::spare_this_process();
    let mut repairs = 0;
    let firsts = ["entry.published", "entry.taken-over", "heap.added", "list.moved", "dict.grown"];
    for (round, first) in firsts.iter().cycle().take(60).enumerate() {
        let (dicts, lists) = (Dicts::make(), Lists::make());
        fault::arm_both(first, round as u32 % 7, Some("stripe.repaired")).unwrap();
        run(&pool, &dicts);
        run(&pool, &lists);
        repairs += usize::from(fault::fired() == Some("stripe.repaired"));
        fault::disarm();
        wait_until("the dead are settled", || pool.check_invariants().is_ok());
        dicts.check();
        lists.check();
    }
    for second in ["joinable.redelivering", "joinable.reclaimed"] {
        let mut reached = 0;
        for round in 0..60 {
            let joinables = Joinables::make();
            fault::arm_both("joinable.taken", round % 5, Some(second)).unwrap();
            run(&pool, &joinables);
            reached += usize::from(fault::fired() == Some(second));
            fault::disarm();
            wait_until("the dead are settled", || pool.check_invariants().is_ok());
            joinables.check();
        }
        assert!(reached > 0, "nobody died at {second}");
    }
    assert!(repairs > 0, "nobody died while repairing");
    pool.join().unwrap();
    println!("repairs interrupted: {repairs}");
}

#[test]
fn whoever_repairs_may_die_too() {
    succeeds("twice");
}

/// Has a worker killed at `point` while it runs `work` on `object`.
fn killed_at<T: Serialize + for<'de> Deserialize<'de> + Clone + 'static>(
    pool: &Pool,
    point: &str,
    work: impl Fn(T) + Copy + Send + 'static,
    object: &T,
) {
    fault::arm(point, 0).unwrap();
    let lost = pool.submit(work, object.clone()).unwrap().join();
    assert!(lost.is_err_and(|error| error.is_worker_lost()), "{point}");
    assert!(fault::fired().is_some(), "{point}");
    fault::disarm();
}

/// While one sorts a list, another dies that has changed it: nobody has touched the list since.
fn sorted_while_others_die() {
    let pool = Pool::builder().workers(1).name("sorts").build().unwrap();
    fault::spare_this_process();
    for length in [1usize, 1500] {
        for point in ["entry.published", "list.shortening", "list.appended", "list.truncated"] {
            let list = List::<String>::new().unwrap();
            list.extend((0..9).rev().map(|number| text(number, length))).unwrap();
            let mut others = Some(());
            list.sort_by(|a, b| {
                if others.take().is_some() {
                    let change = |list: List<String>| {
                        list.push(&text(70, 2)).unwrap();
                        list.pop().unwrap();
                        list.set(1, &text(71, 2)).unwrap();
                        list.extend([text(72, 2)]).unwrap();
                        list.truncate(4);
                    };
                    killed_at(&pool, point, change, &list);
                }
                a.cmp(b)
            })
            .unwrap();
            list.check_invariants().unwrap();
            let texts = list.to_vec().unwrap();
            assert!(texts.is_sorted() && texts.iter().all(|text| is_whole(text)), "{point}");
            list.push(&text(1, 1)).unwrap();
            list.push(&text(2, 1)).unwrap();
            assert_eq!(list.pop().unwrap(), Some(text(2, 1)), "{point}");
            list.check_invariants().unwrap();
        }
    }
}

#[test]
fn a_list_is_not_sorted_over_the_change_of_one_that_died() {
    succeeds("sorted");
}

/// The mark that a long value was taken went before the cell did: a consumer that died in between left a value of no
/// bytes in its place, which nobody had put.
fn taken_by_one_that_died() {
    let pool = Pool::builder().workers(1).name("takes").build().unwrap();
    fault::spare_this_process();
    let (texts, bytes) = (Queue::<String>::new(2).unwrap(), Queue::<Vec<u8>>::new(2).unwrap());
    let handles = Queue::<Value<u64>>::new(2).unwrap();
    for point in ["queue.marked", "queue.taken"] {
        texts.put(text(1, 900)).unwrap();
        bytes.put(vec![7; 900]).unwrap();
        handles.put(Value::new(7).unwrap()).unwrap();
        killed_at(&pool, point, |queue: Queue<String>| drop(queue.get()), &texts);
        killed_at(&pool, point, |queue: Queue<Vec<u8>>| drop(queue.get()), &bytes);
        killed_at(&pool, point, |queue: Queue<Value<u64>>| drop(queue.get()), &handles);
        assert_eq!((texts.len(), bytes.len(), handles.len()), (0, 0, 0), "{point}");
        assert!(texts.try_get().is_err_and(|error| error.is_empty()), "{point}");
        assert!(bytes.try_get().is_err_and(|error| error.is_empty()), "{point}");
        assert!(handles.try_get().is_err_and(|error| error.is_empty()), "{point}");
        texts.check_invariants().unwrap();
    }
}

#[test]
fn a_consumer_that_dies_leaves_no_value_that_nobody_has_put() {
    succeeds("taken");
}

/// What is counted is right before anybody has repaired anything.
fn counted_after_a_death() {
    let pool = Pool::builder().workers(1).name("counts").build().unwrap();
    fault::spare_this_process();
    let dict = Dict::<String, u64>::new().unwrap();
    let insert = |dict: Dict<String, u64>| {
        dict.insert("key", &1).unwrap();
    };
    killed_at(&pool, "entry.published", insert, &dict);
    assert_eq!((dict.len(), dict.is_empty()), (1, false));
    killed_at(&pool, "dict.cleared", |dict: Dict<String, u64>| dict.clear(), &dict);
    assert_eq!((dict.len(), dict.get("key").unwrap()), (0, None));
    dict.check_invariants().unwrap();
}

#[test]
fn a_dict_counts_what_the_dead_have_done() {
    succeeds("counted");
}
