//! scratch
use procpool::collections::*;
use std::time::Instant;
fn mix(x: u64) -> u64 { let mut z = x.wrapping_mul(0x9e3779b97f4a7c15); z ^= z >> 30; z = z.wrapping_mul(0xbf58476d1ce4e5b9); z ^ (z >> 27) }
fn main() {
    for n in [1000u64, 100_000, 1_000_000] {
        let dict = Dict::<u64, u64>::new().unwrap();
        let t = Instant::now();
        for i in 0..n { dict.insert(&mix(i), &i).unwrap(); }
        let ins = t.elapsed();
        let t = Instant::now();
        for i in 0..n { dict.insert(&mix(i), &(i+1)).unwrap(); }
        let rep = t.elapsed();
        let t = Instant::now();
        for i in 0..n { assert_eq!(dict.get(&mix(n - 1 - i)).unwrap(), Some(n - i)); }
        println!("{n}: insert {:?} replace {:?} get {:?}", ins / n as u32, rep / n as u32, t.elapsed() / n as u32);
    }
    let list = List::<u64>::new().unwrap();
    let n = 100_000u64;
    let t = Instant::now();
    for i in 0..n { list.push(&i).unwrap(); }
    println!("push {:?}", t.elapsed() / n as u32);
    let t = Instant::now();
    for i in 0..n { assert_eq!(list.get(i as usize).unwrap(), Some(i)); }
    println!("get {:?}", t.elapsed() / n as u32);
    #[derive(serde::Serialize, serde::Deserialize, Clone, PartialEq, Debug)]
    struct S { a: [u64; 10] }
    let d = Dict::<String, S>::new().unwrap();
    let keys: Vec<String> = (0..n).map(|i| format!("{:016x}", mix(i))).collect();
    let s = S { a: [mix(7); 10] };
    for _ in 0..2 {
    let t = Instant::now();
    for k in &keys { d.insert(k.as_str(), &s).unwrap(); }
    println!("str insert {:?}", t.elapsed() / n as u32);
    let t = Instant::now();
    for k in keys.iter().rev() { assert_eq!(d.get(k.as_str()).unwrap().unwrap(), s); }
    println!("str get {:?}", t.elapsed() / n as u32);
    }
}
