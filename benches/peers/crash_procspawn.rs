//! procspawn's rows of the crash matrix, for `crash_matrix.py`: prints "began", and then what came of it and when,
//! as one line of JSON. Rows that it has nothing for print nothing.

use std::time::{Duration, Instant};

fn hang(_: u64) {
    std::thread::sleep(Duration::from_secs(1000));
}

fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()) == Some(pid)
    })
    .collect()
}

fn kill(pid: u32) {
    // SAFETY: sends a signal to a process that this program has started.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

fn began() -> Instant {
    println!("began");
    Instant::now()
}

fn saw(since: Instant, kind: &str, text: &str) {
    println!("[{kind:?}, {text:?}, {:.4}]", since.elapsed().as_secs_f64());
    std::process::exit(0);
}

fn join<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(
    since: Instant,
    handle: procspawn::JoinHandle<T>,
) {
    match handle.join() {
        Ok(value) => saw(since, "value", &format!("{value:?}")),
        Err(error) => saw(since, "error", &error.to_string()),
    }
}

fn pool(workers: usize) -> procspawn::Pool {
    procspawn::Pool::new(workers).expect("a pool")
}

fn main() {
    procspawn::init();
    let own = std::process::id();
    // After the arguments that `cargo bench` adds.
    let row = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    match row.as_deref() {
        Some("worker_killed") => {
            let pool = pool(1);
            let task = procspawn::spawn!(in pool, (1u64 => n) || hang(n));
            std::thread::sleep(Duration::from_millis(300));
            let since = began();
            children(own).into_iter().for_each(kill);
            join(since, task);
        }
        Some("idle_killed") => {
            let pool = pool(2);
            procspawn::spawn!(in pool, (1u64 => n) || n).join().expect("a value");
            let since = began();
            children(own).into_iter().for_each(kill);
            join(since, procspawn::spawn!(in pool, (7u64 => n) || n));
        }
        Some("task_exits") => {
            let pool = pool(1);
            let since = began();
            let task =
                procspawn::spawn!(in pool, (7i32 => code) || -> u64 { std::process::exit(code) });
            join(since, task);
        }
        Some("closed") => {
            let pool = pool(1);
            let busy = procspawn::spawn!(in pool, (1u64 => n) || hang(n));
            let queued = procspawn::spawn!(in pool, (1u64 => n) || n);
            std::thread::sleep(Duration::from_millis(200));
            let since = began();
            pool.kill();
            drop(busy);
            join(since, queued);
        }
        Some("executor") => {
            let pool = pool(4);
            let tasks: Vec<_> = (0..4u64)
                .map(|n| {
                    procspawn::spawn!(in pool, (n => n) || {
                        std::thread::sleep(Duration::from_secs(1));
                        n
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(400));
            let since = began();
            let victim = children(own)[1];
            kill(victim);
            let errors: Vec<_> = tasks.into_iter().filter_map(|task| task.join().err()).collect();
            let named = errors.iter().any(|error| error.to_string().contains(&victim.to_string()));
            let named = if named { "" } else { "not " };
            saw(
                since,
                "error",
                &format!("{} of 4 fail, the process is {named}named", errors.len()),
            );
        }
        Some("parent") => {
            let mut program = std::process::Command::new("/proc/self/exe")
                .arg("parent_program")
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a program");
            std::thread::sleep(Duration::from_secs(1));
            let below = children(program.id());
            let since = began();
            program.kill().expect("a program");
            program.wait().expect("a program");
            std::thread::sleep(Duration::from_secs(1));
            let alive = |pid: &&u32| std::fs::exists(format!("/proc/{pid}")).unwrap_or(false);
            let left = below.iter().filter(alive).count();
            let kind = if left > 0 { "other" } else { "value" };
            below.iter().for_each(|pid| kill(*pid));
            let text = format!("{left} of {} processes live on after 1 s", below.len());
            saw(since, kind, &text);
        }
        Some("parent_program") => {
            let pool = pool(2);
            let _tasks: Vec<_> =
                (0..2u64).map(|n| procspawn::spawn!(in pool, (n => n) || hang(n))).collect();
            std::thread::sleep(Duration::from_secs(1000));
        }
        _ => {}
    }
}
