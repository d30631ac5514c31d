//! Queues and pipes: what CPython's suite checks of them, written anew, and what only these do.
#![cfg(any(debug_assertions, feature = "fault"))]

mod support;

use procpool::Pool;
use procpool::queue::*;
use procpool::sync::{Event, Value};
use std::time::{Duration, Instant};
use support::*;

const LONG: Duration = Duration::from_secs(30);

// Queue -------------------------------------------------------------------------------------------

#[test]
fn putting_and_getting_with_every_form_of_waiting() {
    let queue = Queue::new(3).unwrap();
    assert!(queue.is_empty() && !queue.is_full());
    queue.put(1u64).unwrap();
    queue.try_put(2).unwrap();
    queue.put_timeout(3, LONG).unwrap();
    assert!(queue.is_full() && !queue.is_empty());
    assert!(matches!(queue.try_put(4), Err(PutError::Full(4))));
    times_out(|| queue.put_timeout(4, SHORT).is_ok());
    assert!(matches!(queue.put_timeout(4, Duration::ZERO), Err(PutError::Full(4))));
    assert_eq!(queue.get().unwrap(), 1);
    assert_eq!(queue.try_get().unwrap(), 2);
    assert_eq!(queue.get_timeout(LONG).unwrap(), 3);
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    times_out(|| queue.get_timeout(SHORT).is_ok());
    assert!(queue.is_empty());
    queue.check_invariants().unwrap();
}

#[test]
fn the_length_is_exact() {
    let queue = Queue::new(10).unwrap();
    assert_eq!(queue.len(), 0);
    queue.put("one".to_string()).unwrap();
    assert_eq!(queue.len(), 1);
    queue.put("two".to_string()).unwrap();
    assert_eq!(queue.len(), 2);
    queue.get().unwrap();
    assert_eq!(queue.len(), 1);
    queue.get().unwrap();
    assert_eq!(queue.len(), 0);
    assert!(Queue::<u8>::new(0).unwrap_err().is_invalid());
}

#[test]
fn a_getter_that_waits_is_woken_by_a_put_and_a_putter_by_a_get() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("echo").build().unwrap();
    let (there, back) = (Queue::new(1).unwrap(), Queue::new(1).unwrap());
    let echo = |(there, back): (Queue<u64>, Queue<u64>)| {
        for n in there.iter() {
            back.put(n).unwrap();
        }
    };
    let echoes = pool.submit(echo, (there.clone(), back.clone())).unwrap();
    let worker = workers_of(std::process::id(), "echo")[0];
    for n in 0..50 {
        wait_until("it sleeps", || there.waiting().0 == 1 && (n > 0 || is_asleep(worker)));
        there.put(n).unwrap();
        assert_eq!(back.get().unwrap(), n);
    }
    // Three values: one in `back`, one in the worker's hands, one in `there`.
    for n in 0..3 {
        there.put(n).unwrap();
    }
    wait_until("the echo waits for room", || back.waiting().1 == 1);
    for n in 0..3 {
        assert_eq!(back.get().unwrap(), n);
    }
    there.close();
    echoes.join().unwrap();
}

#[test]
fn every_value_is_delivered_once_and_in_each_producers_order() {
    let _dog = watchdog(120);
    let pool = pool_of(4);
    for capacity in [1, 3, 64] {
        let (queue, done) = (Queue::<(u8, u32)>::new(capacity).unwrap(), Event::new().unwrap());
        let produce = |(queue, id): (Queue<(u8, u32)>, u8)| {
            for n in 0..2000u32 {
                queue.put((id, n)).unwrap();
            }
        };
        let consume = |queue: Queue<(u8, u32)>| queue.iter().collect::<Vec<_>>();
        let producers = [1u8, 2].map(|id| pool.submit(produce, (queue.clone(), id)).unwrap());
        let consumers = [1, 2].map(|_| pool.submit(consume, queue.clone()).unwrap());
        producers.into_iter().for_each(|task| task.join().unwrap());
        queue.close();
        let mut all = Vec::new();
        for consumer in consumers {
            let got = consumer.join().unwrap();
            for id in [1, 2] {
                let of_one: Vec<u32> =
                    got.iter().filter(|(from, _)| *from == id).map(|(_, n)| *n).collect();
                assert!(of_one.is_sorted(), "{capacity}: out of order");
            }
            all.extend(got);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4000, "{capacity}");
        assert!(queue.is_empty() && !done.is_set());
        queue.check_invariants().unwrap();
    }
}

#[test]
fn a_closed_queue_is_drained_and_then_says_so() {
    let _dog = watchdog(60);
    let queue = Queue::new(4).unwrap();
    queue.put_many(["a", "b"].map(String::from)).unwrap();
    let getter = {
        let queue = queue.clone();
        std::thread::spawn(move || queue.iter().collect::<Vec<_>>())
    };
    queue.close();
    queue.close();
    assert!(queue.is_closed());
    assert_eq!(getter.join().unwrap(), ["a", "b"]);
    assert!(matches!(queue.put("c".into()), Err(PutError::Closed(text)) if text == "c"));
    assert!(queue.get().unwrap_err().is_closed());
    assert!(queue.try_get().unwrap_err().is_closed());
    // Who waits is told.
    let (full, empty) = (Queue::new(1).unwrap(), Queue::<u8>::new(1).unwrap());
    full.put(1u8).unwrap();
    let waiters = [full.clone(), empty.clone()].map(|queue| {
        std::thread::spawn(move || match queue.is_empty() {
            true => queue.get().unwrap_err().is_closed(),
            false => queue.put(2).unwrap_err().is_closed(),
        })
    });
    wait_until("both wait", || full.waiting().1 + empty.waiting().0 == 2);
    full.close();
    empty.close();
    assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
}

#[test]
fn many_at_once_and_what_was_not_put_comes_back() {
    let queue = Queue::new(8).unwrap();
    queue.put_many(0..5u32).unwrap();
    assert_eq!(queue.get_many(3).unwrap(), [0, 1, 2]);
    assert_eq!(queue.get_many(9).unwrap(), [3, 4]);
    assert_eq!(queue.get_many(0).unwrap(), []);
    queue.close();
    let Err(PutError::Closed(back)) = queue.put_many(7..10) else { panic!("it is closed") };
    assert_eq!(back, [7, 8, 9]);
}

#[test]
fn values_longer_than_a_slot_and_handles_go_through() {
    let pool = pool_of(1);
    let queue = Queue::with_slots(4, 16).unwrap();
    let numbers = Queue::new(4).unwrap();
    let produce = |(queue, numbers): (Queue<String>, Queue<Value<u64>>)| {
        for length in [0usize, 1, 15, 16, 17, 5000, 3 << 20] {
            queue.put("x".repeat(length)).unwrap();
            numbers.put(Value::new(length as u64).unwrap()).unwrap();
        }
    };
    let producer = pool.submit(produce, (queue.clone(), numbers.clone())).unwrap();
    for length in [0usize, 1, 15, 16, 17, 5000, 3 << 20] {
        assert_eq!(queue.get().unwrap(), "x".repeat(length));
        // The worker's handle is gone by now; this one was held by the queue.
        assert_eq!(numbers.get().unwrap().load(), length as u64);
    }
    producer.join().unwrap();
    queue.check_invariants().unwrap();
}

/// CPython: the queue's lock stays held for ever.
#[test]
fn a_reader_that_is_killed_while_it_waits_leaves_the_queue_as_it_was() {
    let _dog = watchdog(120);
    let pool = Pool::builder().workers(1).name("reader").build().unwrap();
    let queue = Queue::<u64>::new(4).unwrap();
    for n in 0..20 {
        let reader = pool.submit(|queue: Queue<u64>| queue.get().unwrap(), queue.clone()).unwrap();
        wait_until("it waits", || queue.waiting().0 == 1);
        kill(workers_of(std::process::id(), "reader")[0], libc::SIGKILL);
        assert!(reader.join().unwrap_err().is_worker_lost());
        assert_eq!(queue.waiting().0, 0);
        queue.put(n).unwrap();
        assert_eq!(queue.get().unwrap(), n);
    }
}

#[test]
fn of_two_readers_one_is_killed_after_it_was_woken_and_the_other_gets_the_value() {
    // Alone: other tests' dead have everybody look again, and who is stopped while he looks may hold
    // the latch that this test wants.
    succeeds("two-readers");
}

// JoinableQueue -----------------------------------------------------------------------------------

#[test]
fn four_workers_finish_ten_tasks_and_join_returns() {
    let _dog = watchdog(60);
    let pool = pool_of(4);
    let tasks = JoinableQueue::<Option<u32>>::new(100).unwrap();
    let consume = |tasks: JoinableQueue<Option<u32>>| {
        let mut done = 0;
        loop {
            let task = tasks.get().unwrap();
            tasks.task_done().unwrap();
            match task {
                Some(_) => done += 1,
                None => return done,
            }
        }
    };
    let consumers: Vec<_> = (0..4).map(|_| pool.submit(consume, tasks.clone()).unwrap()).collect();
    for n in 0..10 {
        tasks.put(Some(n)).unwrap();
    }
    tasks.join();
    assert_eq!((tasks.unfinished(), tasks.len()), (0, 0));
    for _ in 0..4 {
        tasks.put(None).unwrap();
    }
    tasks.join();
    assert_eq!(consumers.into_iter().map(|task| task.join().unwrap()).sum::<u32>(), 10);
    let error = tasks.task_done().unwrap_err();
    assert!(error.to_string().contains("too often"), "{error}");
    tasks.check_invariants().unwrap();
}

#[test]
fn join_waits_for_what_was_got_and_not_done() {
    let tasks = JoinableQueue::new(2).unwrap();
    assert!(tasks.join_timeout(Duration::ZERO), "nothing to wait for");
    tasks.put(1u8).unwrap();
    times_out(|| tasks.join_timeout(SHORT));
    assert_eq!(tasks.get().unwrap(), 1);
    assert_eq!((tasks.len(), tasks.unfinished()), (0, 1));
    times_out(|| tasks.join_timeout(SHORT));
    tasks.task_done().unwrap();
    assert!(tasks.join_timeout(LONG));
    assert!(tasks.task_done().is_err());
    assert!(tasks.try_get().unwrap_err().is_empty());
    times_out(|| tasks.get_timeout(SHORT).is_ok());
    tasks.try_put(2).unwrap();
    tasks.put_timeout(3, LONG).unwrap();
    assert!(tasks.try_put(4).unwrap_err().is_full());
    times_out(|| tasks.put_timeout(4, SHORT).is_ok());
    tasks.close();
    assert!(tasks.put(5).unwrap_err().is_closed());
    assert_eq!((tasks.get().unwrap(), tasks.get().unwrap()), (2, 3));
    // It has something to finish itself, so it is not made to wait for others.
    assert!(tasks.get().unwrap_err().is_closed());
}

/// CPython: `join` hangs.
#[test]
fn what_a_consumer_had_when_it_was_killed_is_delivered_again_or_dropped() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    for policy in [OnDeath::Redeliver, OnDeath::Drop] {
        let tasks = JoinableQueue::<String>::with_policy(8, policy).unwrap();
        for n in 0..4 {
            tasks.put(n.to_string()).unwrap();
        }
        let take_and_die = |tasks: JoinableQueue<String>| {
            assert_eq!(tasks.get().unwrap(), "0");
            tasks.task_done().unwrap();
            assert_eq!(tasks.get().unwrap(), "1");
            assert_eq!(tasks.get().unwrap(), "2");
            die();
        };
        assert!(
            pool.submit(take_and_die, tasks.clone()).unwrap().join().unwrap_err().is_worker_lost()
        );
        let joiner = {
            let tasks = tasks.clone();
            std::thread::spawn(move || tasks.join())
        };
        let mut rest = Vec::new();
        while let Ok(text) = tasks.try_get() {
            rest.push(text);
            tasks.task_done().unwrap();
        }
        match policy {
            OnDeath::Redeliver => assert_eq!(rest, ["1", "2", "3"], "in their old places"),
            OnDeath::Drop => assert_eq!(rest, ["3"]),
        }
        joiner.join().unwrap();
        tasks.check_invariants().unwrap();
    }
}

/// A consumer that has dropped its handle has still got what it has got.
#[test]
fn what_a_dead_consumer_without_a_handle_had_got_is_given_back() {
    let _dog = watchdog(60);
    let tasks = JoinableQueue::<u8>::new(4).unwrap();
    tasks.put(5).unwrap();
    let got = Event::new().unwrap();
    let take = |(tasks, got): (JoinableQueue<u8>, Event)| {
        assert_eq!(tasks.get().unwrap(), 5);
        drop(tasks);
        got.set();
        std::thread::sleep(Duration::from_secs(1000));
    };
    let consumer = procpool::Process::spawn(take, (tasks.clone(), got.clone())).unwrap();
    assert!(got.wait_timeout(Duration::from_secs(30)));
    assert!(tasks.try_get().is_err(), "it is not given back while the consumer lives");
    consumer.kill();
    assert_eq!(tasks.get_timeout(Duration::from_secs(30)).unwrap(), 5);
    tasks.task_done().unwrap();
    assert!(tasks.join_timeout(Duration::from_secs(30)));
}

#[test]
fn a_join_that_waits_is_told_when_the_last_consumer_dies() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("joined").build().unwrap();
    let tasks = JoinableQueue::<u8>::with_policy(8, OnDeath::Drop).unwrap();
    tasks.put(1).unwrap();
    let got = Event::new().unwrap();
    let hang = |(tasks, got): (JoinableQueue<u8>, Event)| {
        tasks.get().unwrap();
        got.set();
        std::thread::sleep(Duration::from_secs(600));
    };
    let task = pool.submit(hang, (tasks.clone(), got.clone())).unwrap();
    got.wait();
    let joiner = std::thread::spawn(move || tasks.join());
    std::thread::sleep(SHORT);
    assert!(!joiner.is_finished());
    kill(workers_of(std::process::id(), "joined")[0], libc::SIGKILL);
    joiner.join().unwrap();
    assert!(task.join().is_err());
}

/// The rooms of an object were mixed up after a death: whoever waited in one was on the queue of all.
#[test]
fn those_who_wait_for_different_things_are_kept_apart_when_somebody_dies() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    let lose = |task: procpool::TaskHandle<()>| assert!(task.join().unwrap_err().is_worker_lost());
    for _ in 0..10 {
        let tasks = JoinableQueue::<u8>::new(4).unwrap();
        tasks.put(1).unwrap();
        tasks.get().unwrap();
        let (one, other) = (tasks.clone(), tasks.clone());
        let joiner = std::thread::spawn(move || one.join());
        let getter = std::thread::spawn(move || other.get().unwrap());
        wait_until("both wait", || tasks.waiting() == (1, 0, 1));
        lose(pool.submit(|_: JoinableQueue<u8>| die(), tasks.clone()).unwrap());
        assert_eq!(tasks.waiting(), (1, 0, 1));
        tasks.put(2).unwrap();
        assert_eq!(getter.join().unwrap(), 2);
        tasks.task_done().unwrap();
        tasks.task_done().unwrap();
        joiner.join().unwrap();

        let (here, there) = Pipe::<u8, u8>::pair().unwrap();
        let receivers = [here.clone(), there.clone()]
            .map(|end| std::thread::spawn(move || end.recv().unwrap()));
        std::thread::sleep(Duration::from_millis(2));
        lose(pool.submit(|_: Pipe<u8, u8>| die(), here.clone()).unwrap());
        there.send(1).unwrap();
        here.send(2).unwrap();
        assert_eq!(receivers.map(|receiver| receiver.join().unwrap()), [1, 2]);
    }
}

// Pipe --------------------------------------------------------------------------------------------

#[test]
fn both_ends_send_and_receive() {
    let (here, there) = Pipe::<u8, String>::pair().unwrap();
    here.send(3).unwrap();
    assert!(there.poll(LONG).unwrap());
    assert!(there.poll(Duration::ZERO).unwrap(), "it is still there");
    assert_eq!(there.recv().unwrap(), 3);
    times_out(|| there.poll(SHORT).unwrap());
    assert!(there.try_recv().unwrap_err().is_empty());
    times_out(|| there.recv_timeout(SHORT).is_ok());
    there.try_send("text".into()).unwrap();
    there.send_timeout("more".into(), LONG).unwrap();
    assert_eq!(
        (here.recv().unwrap(), here.recv_timeout(LONG).unwrap()),
        ("text".into(), "more".into())
    );
    let mut sent = 0;
    while here.try_send(0).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 64);
    times_out(|| here.send_timeout(0, SHORT).is_ok());
    here.check_invariants().unwrap();
}

#[test]
fn messages_of_16_mib_pass() {
    let _dog = watchdog(120);
    let pool = pool_of(1);
    let (here, there) = Pipe::<Vec<u8>, Vec<u8>>::pair().unwrap();
    let echo = |end: Pipe<Vec<u8>, Vec<u8>>| {
        while let Ok(bytes) = end.recv() {
            end.send(bytes).unwrap();
        }
    };
    let task = pool.submit(echo, there).unwrap();
    let magic: Vec<u8> = (0..16usize << 20).map(|n| (n * 7 % 251) as u8).collect();
    for _ in 0..3 {
        here.send(magic.clone()).unwrap();
        assert!(here.recv().unwrap() == magic);
    }
    drop(here);
    task.join().unwrap();
}

#[test]
fn the_end_of_file_comes_after_everything_that_was_sent() {
    let _dog = watchdog(60);
    let pool = pool_of(1);
    // Dropped here; dropped by a worker; with a worker that dies.
    let (sender, receiver) = one_way().unwrap();
    sender.send(1u8).unwrap();
    drop(sender);
    assert_eq!(receiver.recv().unwrap(), 1);
    assert!(receiver.recv().unwrap_err().is_disconnected());
    assert!(receiver.poll(LONG).unwrap_err().is_disconnected());
    for dies in [false, true] {
        let (here, there) = Pipe::<u8, u64>::pair().unwrap();
        let send = |(end, dies): (Pipe<u64, u8>, bool)| {
            for n in 0..5 {
                end.send(n).unwrap();
            }
            // Until the other side waits.
            end.recv().unwrap();
            std::thread::sleep(SHORT);
            if dies {
                die();
            }
        };
        let task = pool.submit(send, (there, dies)).unwrap();
        for n in 0..5 {
            assert_eq!(here.recv().unwrap(), n);
        }
        here.send(0).unwrap();
        let began = Instant::now();
        assert!(here.recv().unwrap_err().is_disconnected());
        assert!(began.elapsed() >= SHORT / 2);
        assert!(matches!(here.send(1), Err(PutError::Disconnected(1))));
        assert!(here.is_disconnected());
        assert_eq!(task.join().is_err(), dies);
    }
}

#[test]
fn an_end_lives_while_anybody_has_it_or_it_is_under_way() {
    let (here, there) = Pipe::<u8, u8>::pair().unwrap();
    let queue = Queue::new(1).unwrap();
    queue.put(there.clone()).unwrap();
    drop(there);
    here.send(7).unwrap();
    let there = queue.get().unwrap();
    assert_eq!(there.recv().unwrap(), 7);
    queue.put(there).unwrap();
    drop(queue);
    assert!(here.recv().unwrap_err().is_disconnected(), "it went with the queue");
}

#[test]
fn a_sender_that_waits_for_room_is_told_when_the_receiver_goes() {
    let _dog = watchdog(60);
    let (sender, receiver) = one_way().unwrap();
    while sender.try_send(1u32).is_ok() {}
    let waiting = std::thread::spawn(move || sender.send(2));
    std::thread::sleep(SHORT);
    drop(receiver);
    assert!(matches!(waiting.join().unwrap(), Err(PutError::Disconnected(2))));
}

#[test]
fn a_waiting_queue_uses_no_cpu() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(1).name("lazy").build().unwrap();
    let queue = Queue::<u8>::new(1).unwrap();
    let task = pool.submit(|queue: Queue<u8>| queue.get().unwrap(), queue.clone()).unwrap();
    let worker = workers_of(std::process::id(), "lazy")[0];
    wait_until("it sleeps", || queue.waiting().0 == 1 && is_asleep(worker));
    let before = cpu_ticks(worker);
    std::thread::sleep(Duration::from_millis(500));
    assert!(cpu_ticks(worker) - before <= 1);
    queue.put(7).unwrap();
    assert_eq!(task.join().unwrap(), 7);
}

// In a program of its own -----------------------------------------------------------------------

fn two_readers() {
    let _dog = watchdog(60);
    let pool = Pool::builder().workers(2).name("two").build().unwrap();
    let queue = Queue::<u64>::new(4).unwrap();
    for n in 0..20u64 {
        let readers = [1, 2]
            .map(|_| pool.submit(|queue: Queue<u64>| queue.get().unwrap(), queue.clone()).unwrap());
        let mut workers = Vec::new();
        wait_until("both sleep", || {
            workers = workers_of(std::process::id(), "two");
            let sleep = workers.len() == 2 && workers.iter().all(|worker| is_asleep(*worker));
            queue.waiting().0 == 2 && sleep
        });
        // Stopped in its sleep, it is advised and does not look.
        let victim = workers[n as usize % 2];
        kill(victim, libc::SIGSTOP);
        // It takes one thread to stop the others.
        wait_until("it has stopped", || is_stopped(victim));
        queue.put(n).unwrap();
        kill(victim, libc::SIGKILL);
        let outcomes = readers.map(|reader| reader.join());
        // The victim was advised, or the other one was; either way the value is not lost.
        let got: Vec<u64> = outcomes.into_iter().flatten().collect();
        assert_eq!(got, [n]);
    }
}

/// Not a test of its own: what other tests run in a program of its own.
#[test]
fn child_program() {
    match role().as_deref() {
        Some("two-readers") => two_readers(),
        Some(other) => panic!("no role {other}"),
        None => {}
    }
}
