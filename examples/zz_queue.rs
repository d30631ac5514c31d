//! scratch
use procpool::{Pool, queue::*};
use std::time::Instant;
fn main() {
    let pool = Pool::builder().workers(1).build().unwrap();
    for _ in 0..3 {
        let q = Queue::<u64>::new(1024).unwrap();
        let n = 2_000_000u64;
        let t = pool.submit(|(q, n): (Queue<u64>, u64)| { for i in 0..n { q.put(i).unwrap(); } }, (q.clone(), n)).unwrap();
        let s = Instant::now();
        for i in 0..n { assert_eq!(q.get().unwrap(), i); }
        println!("8 B {:.2} M/s", n as f64 / s.elapsed().as_secs_f64() / 1e6);
        t.join().unwrap();
    }
    for _ in 0..3 {
        let q = Queue::<Vec<u8>>::with_slots(1024, 1024).unwrap();
        let n = 1_000_000u64;
        let t = pool.submit(|(q, n): (Queue<Vec<u8>>, u64)| { let v = vec![7u8; 1024]; for _ in 0..n { q.put(v.clone()).unwrap(); } }, (q.clone(), n)).unwrap();
        let s = Instant::now();
        for _ in 0..n { assert_eq!(q.get().unwrap().len(), 1024); }
        println!("1 KiB {:.2} M/s", n as f64 / s.elapsed().as_secs_f64() / 1e6);
        t.join().unwrap();
    }
    let (a, b) = Pipe::<u64, u64>::pair().unwrap();
    let t = pool.submit(|e: Pipe<u64, u64>| { while let Ok(x) = e.recv() { e.send(x).unwrap(); } }, b).unwrap();
    for _ in 0..3 {
        let s = Instant::now();
        for i in 0..300_000u64 { a.send(i).unwrap(); assert_eq!(a.recv().unwrap(), i); }
        println!("pipe {:?}", s.elapsed() / 300_000);
    }
    drop(a);
    t.join().unwrap();
}
