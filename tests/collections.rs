//! Dict, list, array and namespace: what CPython's suite checks of managers, values and arrays, written
//! anew, and what only these have.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::collections::*;
use procpool::queue::Queue;
use procpool::sync::{Event, Mutex};
use procpool::{Pool, fault};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use support::*;

// Dict --------------------------------------------------------------------------------------------

#[test]
fn a_dict_does_what_a_map_does() {
    let dict = Dict::<String, i64>::new().unwrap();
    assert!(dict.is_empty() && dict.get("a").unwrap().is_none());
    assert_eq!(dict.insert("a", &1).unwrap(), None);
    assert_eq!(dict.insert("a", &2).unwrap(), Some(1));
    assert!(dict.contains_key("a").unwrap() && !dict.contains_key("b").unwrap());
    dict.extend([("b".to_string(), 3), ("c".to_string(), 4)]).unwrap();
    let all = dict.to_map().unwrap();
    assert_eq!(all, HashMap::from([("a".into(), 2), ("b".into(), 3), ("c".into(), 4)]));
    let mut keys = dict.keys().unwrap();
    keys.sort();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(dict.values().unwrap().iter().sum::<i64>(), 9);
    assert_eq!(dict.remove("b").unwrap(), Some(3));
    assert_eq!(dict.remove("b").unwrap(), None);
    assert_eq!(dict.get_or_insert_with("b", || 7).unwrap(), 7);
    assert_eq!(dict.get_or_insert_with("b", || 8).unwrap(), 7);
    assert_eq!(dict.update("b", |value| *value * 10).unwrap(), Some(70));
    assert_eq!(dict.update("d", |value| *value).unwrap(), None);
    assert!(dict.compare_and_swap("b", Some(&7), Some(&9)).unwrap());
    assert!(!dict.compare_and_swap("b", Some(&7), None).unwrap());
    assert!(!dict.compare_and_swap("b", None, Some(&1)).unwrap());
    assert!(dict.compare_and_swap("d", None, Some(&1)).unwrap());
    assert!(dict.compare_and_swap("d", Some(&1), None).unwrap());
    assert_eq!(dict.retain(|_, value| *value < 5).unwrap(), 1);
    assert_eq!(dict.len(), 2);
    dict.check_invariants().unwrap();
    dict.clear();
    assert_eq!((dict.len(), dict.iter().count()), (0, 0));
    dict.check_invariants().unwrap();
    assert_eq!(format!("{dict:?}").split_whitespace().next(), Some("Dict"));
}

#[test]
fn keys_and_values_of_any_type_and_length() {
    let dict = Dict::<Vec<u8>, Vec<String>>::new().unwrap();
    let value = |length: usize| vec!["é".repeat(length / 7 + 1); 3];
    for length in [0usize, 1, 7, 8, 9, 100, 2000, 2048, 5000, 300_000] {
        dict.insert(&vec![7u8; length], &value(length)).unwrap();
    }
    for length in [0usize, 1, 7, 8, 9, 100, 2000, 2048, 5000, 300_000] {
        // A key of the type that the key borrows as.
        assert_eq!(dict.get(&vec![7u8; length][..]).unwrap(), Some(value(length)), "{length}");
    }
    dict.check_invariants().unwrap();
    let optional = Dict::<Option<(u8, String)>, ()>::new().unwrap();
    optional.insert(&None, &()).unwrap();
    optional.insert(&Some((1, "x".into())), &()).unwrap();
    assert!(optional.contains_key(&None).unwrap());
    assert_eq!(optional.len(), 2);
    let small = Dict::<i8, f32>::new().unwrap();
    small.insert(&-1, &0.5).unwrap();
    assert_eq!(small.insert(&-1, &-0.5).unwrap(), Some(0.5));
    assert_eq!(small.iter().next().unwrap().unwrap(), (-1, -0.5));
}

#[test]
fn a_value_that_was_read_is_a_copy() {
    let dict = Dict::<u8, Vec<u8>>::new().unwrap();
    dict.insert(&1, &vec![1]).unwrap();
    let mut copy = dict.get(&1).unwrap().unwrap();
    copy.push(2);
    assert_eq!(dict.get(&1).unwrap(), Some(vec![1]));
    dict.insert(&1, &copy).unwrap();
    assert_eq!(dict.get(&1).unwrap(), Some(vec![1, 2]));
}

#[test]
fn collections_nest_and_what_is_inside_lives_as_long_as_it_is_reachable() {
    succeeds("nested");
}

/// In a program of its own: it counts what is in the arena.
fn nested() {
    let pool = pool_of(1);
    // The tables have grown, and the worker holds nothing.
    Event::new().unwrap();
    let before = (fault::objects(), pool.stats().arena_used_bytes);
    {
        let dict = Dict::<String, List<u64>>::new().unwrap();
        let fill = |dict: &Dict<String, List<u64>>, n: u64| {
            let list = List::new().unwrap();
            list.push(&n).unwrap();
            // The only other handle goes with the task.
            dict.insert(&n.to_string(), &list).unwrap();
        };
        pool.with(&dict).map(fill, 0..20u64).unwrap();
        for n in 0..20u64 {
            let list = dict.get(n.to_string().as_str()).unwrap().unwrap();
            list.push(&(n + 1)).unwrap();
        }
        // Changes to what is nested are seen without putting it back.
        let list = dict.get("7").unwrap().unwrap();
        assert_eq!(list.to_vec().unwrap(), [7, 8]);
        assert!(dict.remove("7").unwrap() == Some(list.clone()));
        assert_eq!(list.len(), 2, "this handle keeps it");
        drop(list);
        type Inner = Dict<u8, List<Queue<Mutex<u64>>>>;
        type Deep = Dict<u8, Inner>;
        let deep = Deep::new().unwrap();
        let (inner, last) = (Inner::new().unwrap(), List::new().unwrap());
        let queue = Queue::new(2).unwrap();
        queue.put(Mutex::new(7u64).unwrap()).unwrap();
        last.push(&queue).unwrap();
        inner.insert(&2, &last).unwrap();
        deep.insert(&1, &inner).unwrap();
        drop((inner, last, queue));
        let mutex = pool
            .submit(
                |deep: Deep| {
                    let list = deep.get(&1).unwrap().unwrap().get(&2).unwrap().unwrap();
                    list.get(0).unwrap().unwrap().get().unwrap()
                },
                deep.clone(),
            )
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(*mutex.lock().unwrap(), 7);
    }
    wait_until("everything is gone", || {
        (fault::objects(), pool.stats().arena_used_bytes) == before
    });
}

#[test]
fn two_processes_change_the_same_key_and_no_change_is_lost() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let dict = Dict::<String, (u64, String)>::new().unwrap();
    dict.insert("sum", &(0, String::new())).unwrap();
    let add = |dict: &Dict<String, (u64, String)>, n: u64| {
        dict.update("sum", |(sum, text)| {
            *sum += n;
            *text = "x".repeat(*sum as usize % 50);
        })
        .unwrap();
        dict.update_or_insert_with("count", || (0, String::new()), |(count, _)| *count += 1)
            .unwrap();
    };
    pool.with(&dict).map(add, 1..=1000u64).unwrap();
    assert_eq!(dict.get("sum").unwrap().unwrap().0, 500_500);
    assert_eq!(dict.get("count").unwrap().unwrap().0, 1000);
    dict.check_invariants().unwrap();
}

#[test]
fn iterating_while_others_write_shows_whole_entries() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let (dict, stop) = (Dict::<u64, Vec<u64>>::new().unwrap(), Event::new().unwrap());
    let list = List::<Vec<u64>>::new().unwrap();
    let started = Event::new().unwrap();
    type Shared = (Dict<u64, Vec<u64>>, List<Vec<u64>>, Event, Event);
    let write = |(dict, list, stop, started): Shared| {
        let mut round = 0u64;
        while !stop.is_set() {
            let value = vec![round; (round % 400) as usize];
            dict.insert(&(round % 300), &value).unwrap();
            dict.remove(&((round + 150) % 300)).unwrap();
            list.push(&value).unwrap();
            if round.is_multiple_of(5) {
                list.truncate(20);
            }
            round += 1;
            started.set();
        }
    };
    let shared = (dict.clone(), list.clone(), stop.clone(), started.clone());
    let writer = pool.submit(write, shared).unwrap();
    started.wait();
    for _ in 0..200 {
        for entry in dict.iter() {
            let (key, value) = entry.unwrap();
            assert!(value.iter().all(|n| *n == value[0] && n % 300 == key), "{key}: {value:?}");
        }
        for value in list.iter().unwrap() {
            assert!(value.iter().all(|n| *n == value[0]));
        }
    }
    stop.set();
    writer.join().unwrap();
    dict.check_invariants().unwrap();
    list.check_invariants().unwrap();
}

#[test]
fn a_full_arena_is_an_error_with_numbers_and_nothing_is_half_done() {
    succeeds("full-arena");
}

fn full_arena() {
    let _pool = Pool::builder().workers(1).arena_bytes(8 << 20).build().unwrap();
    let (dict, list) = (Dict::<u64, Vec<u8>>::new().unwrap(), List::<Vec<u8>>::new().unwrap());
    let queue = Queue::<Vec<u8>>::new(1000).unwrap();
    let mut kept = 0;
    let error = loop {
        if let Err(error) = dict.insert(&kept, &vec![kept as u8; 50_000]) {
            break error;
        }
        kept += 1;
    };
    assert!(error.is_arena_full() && error.to_string().contains("50"), "{error}");
    while list.push(&vec![1; 1000]).is_ok() {}
    assert!(list.extend((0..10).map(|_| vec![2; 20_000])).is_err());
    assert!(list.iter().unwrap().all(|value| value == vec![1; 1000]), "all or none");
    let refused = queue.put(vec![3; 100_000]).unwrap_err();
    assert_eq!(refused.into_inner(), vec![3; 100_000], "nothing is lost");
    dict.check_invariants().unwrap();
    list.check_invariants().unwrap();
    queue.check_invariants().unwrap();
    for key in 0..kept {
        assert_eq!(dict.remove(&key).unwrap(), Some(vec![key as u8; 50_000]));
    }
    dict.insert(&1, &vec![1; 50_000]).unwrap();
    queue.put(vec![3; 100_000]).unwrap();
}

#[test]
fn what_cannot_cross_is_an_error_that_names_the_type() {
    #[derive(Debug)]
    struct Stubborn;
    impl serde::Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    impl<'de> serde::Deserialize<'de> for Stubborn {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Err(serde::de::Error::custom("no"))
        }
    }
    let dict = Dict::<u8, Stubborn>::new().unwrap();
    let error = dict.insert(&1, &Stubborn).unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("Stubborn"), "{error}");
    let list = List::<Stubborn>::new().unwrap();
    assert!(list.push(&Stubborn).is_err() && list.is_empty());
    let queue = Queue::new(1).unwrap();
    let Err(procpool::queue::PutError::Failed(Stubborn, error)) = queue.put(Stubborn) else {
        panic!("it was put")
    };
    assert!(error.to_string().contains("Stubborn"), "{error}");
}

#[test]
fn what_is_encoded_in_several_ways_is_retained_as_it_was_read() {
    let dict = Dict::<u32, HashMap<String, u32>>::new().unwrap();
    for key in 0..20 {
        let value = (0..9).map(|n| (n.to_string(), n)).collect();
        dict.insert(&key, &value).unwrap();
    }
    assert_eq!(dict.retain(|key, value| value.len() == 9 && *key < 3).unwrap(), 17);
    assert_eq!(dict.len(), 3);
}

#[test]
fn keys_can_be_given_as_strings_and_slices() {
    let dict = Dict::<Vec<u16>, u8>::new().unwrap();
    dict.insert(&[1, 2, 3][..], &1).unwrap();
    assert_eq!(dict.get(&vec![1, 2, 3]).unwrap(), Some(1));
    let dict = Dict::<[u8; 4], u8>::new().unwrap();
    dict.insert(&[1, 2, 3, 4], &1).unwrap();
    assert_eq!(dict.keys().unwrap(), [[1, 2, 3, 4]]);
}

// List --------------------------------------------------------------------------------------------

#[test]
fn a_list_does_what_a_vector_does() {
    let list = List::<String>::new().unwrap();
    let texts = |list: &List<String>| list.to_vec().unwrap().join(" ");
    assert_eq!((list.pop().unwrap(), list.len()), (None, 0));
    list.extend(["a", "b", "c"].map(String::from)).unwrap();
    list.push(&"d".into()).unwrap();
    list.insert(0, &"start".into()).unwrap();
    list.insert(5, &"end".into()).unwrap();
    list.insert(2, &"x".into()).unwrap();
    assert_eq!(texts(&list), "start a x b c d end");
    assert_eq!(list.remove(2).unwrap(), "x");
    assert_eq!(list.swap_remove(0).unwrap(), "start");
    assert_eq!(texts(&list), "end a b c d");
    assert_eq!(list.pop().unwrap().as_deref(), Some("d"));
    list.set(0, &"z".into()).unwrap();
    assert_eq!(list.update(1, |value| value.push('!')).unwrap(), ());
    assert_eq!(texts(&list), "z a! b c");
    assert_eq!(list.index_of(&"b".into()).unwrap(), Some(2));
    assert!(list.contains(&"c".into()).unwrap() && !list.contains(&"q".into()).unwrap());
    list.sort_by(|a, b| a.cmp(b)).unwrap();
    assert_eq!(texts(&list), "a! b c z");
    list.truncate(9);
    list.truncate(2);
    assert_eq!(texts(&list), "a! b");
    assert_eq!(list.get(1).unwrap().as_deref(), Some("b"));
    assert_eq!(list.get(2).unwrap(), None);
    list.check_invariants().unwrap();
    for error in [
        list.set(2, &"q".into()).unwrap_err(),
        list.insert(3, &"q".into()).unwrap_err(),
        list.remove(7).unwrap_err(),
        list.swap_remove(2).unwrap_err(),
        list.update(2, |_| ()).unwrap_err(),
    ] {
        assert!(error.is_invalid() && error.to_string().contains("2 elements"), "{error}");
    }
    list.clear();
    assert!(list.is_empty());
    list.extend([]).unwrap();
    list.push(&"again".into()).unwrap();
    assert_eq!(texts(&list), "again");
}

#[test]
fn a_list_that_was_emptied_has_memory_until_it_is_cleared() {
    succeeds("emptied-list");
}

fn emptied_list() {
    let pool = pool_of(1);
    let used = || pool.stats().arena_used_bytes;
    let list = List::<u64>::new().unwrap();
    let before = used();
    list.extend(0..100_000).unwrap();
    while list.pop().unwrap().is_some() {}
    assert!(used() > before + 800_000, "{} and {before}", used());
    list.clear();
    assert_eq!(used(), before);
    list.check_invariants().unwrap();
}

#[test]
fn an_element_that_cannot_be_decoded_is_an_error_when_it_is_popped() {
    let list = List::<Picky>::new().unwrap();
    list.push(&Picky(3)).unwrap();
    assert!(list.pop().unwrap_err().to_string().contains("Picky"));
    assert_eq!(list.pop().unwrap(), None);
}

/// Only even numbers can be decoded.
#[derive(Debug, PartialEq, Serialize)]
struct Picky(u32);

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u32::deserialize(from)? {
            odd if odd % 2 == 1 => Err(serde::de::Error::custom("odd")),
            even => Ok(Self(even)),
        }
    }
}

#[test]
fn a_list_is_sorted_stably_by_what_the_caller_says() {
    let list = List::<(u8, u8)>::new().unwrap();
    list.extend((0..100).map(|n| (n % 3, n))).unwrap();
    list.sort_by(|(a, _), (b, _)| b.cmp(a)).unwrap();
    let sorted = list.to_vec().unwrap();
    assert!(sorted.windows(2).all(|pair| {
        let [(a, n), (b, m)] = [pair[0], pair[1]];
        a > b || (a == b && n < m)
    }));
    list.check_invariants().unwrap();
}

// Array and namespace ------------------------------------------------------------------------------

#[test]
fn an_array_is_shared_element_by_element_and_as_a_whole() {
    let _dog = watchdog(60);
    let pool = pool_of(3);
    let array = Array::<i64>::new(&[5, 0, 0]).unwrap();
    let add = |array: &Array<i64>, n: i64| {
        array.fetch_add(1, n);
        array.update(2, |value| value - n);
        let mut all = array.lock().unwrap();
        all[0] += 1;
    };
    pool.with(&array).map(add, 1..=500).unwrap();
    assert_eq!(array.lock().unwrap().as_slice(), [505, 125_250, -125_250]);
    array.lock().unwrap().as_mut_slice()[1] = 0;
    assert_eq!(array.load(1), 0);
    assert_eq!((array.len(), array.swap(0, 9), array.load(0)), (3, 505, 9));
    let held = array.lock().unwrap();
    let again = array.clone();
    std::thread::spawn(move || {
        assert!(again.try_lock().is_err());
        times_out(|| again.lock_timeout(SHORT).is_ok());
    })
    .join()
    .unwrap();
    drop(held);
    let outside = array.clone();
    let outside = std::thread::spawn(move || outside.load(3)).join();
    assert!(outside.is_err(), "as a slice does");
    assert!(Array::<u8>::zeroed(0).unwrap().is_empty());
    assert!(Array::<u64>::zeroed(usize::MAX / 4).is_err());
}

#[test]
fn an_array_whose_holder_died_says_so_once() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let array = Array::<u32>::zeroed(4).unwrap();
    let lock_and_die = |array: Array<u32>| {
        let mut all = array.lock().unwrap();
        all[0] = 7;
        die();
    };
    assert!(pool.submit(lock_and_die, array.clone()).unwrap().join().unwrap_err().is_worker_lost());
    assert_eq!(array.load(0), 7);
    let error = array.lock().unwrap_err();
    assert!(error.is_owner_died());
    drop(error);
    assert!(array.lock().is_ok());
}

#[test]
fn a_namespace_keeps_values_of_any_types() {
    let _dog = watchdog(60);
    let names = Namespace::new().unwrap();
    names.set("number", &7u64).unwrap();
    names.set("list", &List::<u8>::new().unwrap()).unwrap();
    names.set("map", &BTreeMap::from([(1u8, "one".to_string())])).unwrap();
    assert_eq!(names.names(), ["list", "map", "number"]);
    let pool = pool_of(1);
    let use_them = |names: Namespace| {
        names.get::<List<u8>>("list").unwrap().unwrap().push(&3).unwrap();
        names.set("number", &"now a text".to_string()).unwrap();
        names.remove("map")
    };
    assert!(pool.submit(use_them, names.clone()).unwrap().join().unwrap());
    assert_eq!(names.get::<List<u8>>("list").unwrap().unwrap().to_vec().unwrap(), [3]);
    let error = names.get::<u64>("number").unwrap_err().to_string();
    assert!(error.contains("String") && error.contains("u64"), "{error}");
    assert_eq!(names.get::<String>("number").unwrap().as_deref(), Some("now a text"));
    assert_eq!(names.get::<u8>("map").unwrap(), None);
    assert!(names.contains("list") && !names.contains("map") && !names.remove("map"));
    names.check_invariants().unwrap();
}

/// Not a test of its own: what other tests run in a program of its own.
#[test]
fn child_program() {
    match role().as_deref() {
        Some("full-arena") => full_arena(),
        Some("nested") => nested(),
        Some("emptied-list") => emptied_list(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}
