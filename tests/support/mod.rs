//! What the integration tests share: a watchdog, processes found through `/proc`, and child
//! programs (this same test binary, run again in a role).
#![allow(dead_code, unused_imports)] // Each test binary uses a part of it.

#[cfg(any(debug_assertions, feature = "fault"))]
pub(crate) mod walk;

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Aborts the test binary if it is not dropped in time: a hang is a failure, with a dump.
pub(crate) struct Watchdog(mpsc::Sender<()>);

pub(crate) fn watchdog(seconds: u64) -> Watchdog {
    let (alive, ended) = mpsc::channel::<()>();
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(seconds)) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            let mut stderr = std::io::stderr();
            // Not `eprintln`, whose output the test harness keeps for itself.
            let _ = writeln!(
                stderr,
                "watchdog: {name} did not end within {seconds} s; processes below it:"
            );
            for pid in descendants(std::process::id()) {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
                let _ = writeln!(
                    stderr,
                    "  {} {place}",
                    stat.split(' ').take(4).collect::<Vec<_>>().join(" ")
                );
            }
            std::process::abort();
        }
    });
    Watchdog(alive)
}

/// Waits until `condition` holds, under a limit that means "never".
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < limit, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = line.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Whether every thread of a process sleeps.
pub(crate) fn is_asleep(pid: u32) -> bool {
    all_threads_are(pid, 'S')
}

/// Whether every thread of a process is stopped.
pub(crate) fn is_stopped(pid: u32) -> bool {
    all_threads_are(pid, 'T')
}

fn all_threads_are(pid: u32, state: char) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut states = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("stat")));
    states.all(|line| {
        let line = line.unwrap_or_default();
        line.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(state))
    })
}

/// The CPU time that a process has used, in clock ticks.
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    stat(pid)
        .map_or(0, |fields| fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
}

pub(crate) fn children(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child| parent_of(*child) == Some(pid)).collect()
}

/// Everything below a process, zombies included.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut queue = VecDeque::from([pid]);
    while let Some(pid) = queue.pop_front() {
        for child in children(pid) {
            found.push(child);
            queue.push_back(child);
        }
    }
    found
}

pub(crate) fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The guardian of a process.
pub(crate) fn guardian_of(pid: u32) -> Option<u32> {
    children(pid).into_iter().find(|child| name_of(*child) == "procpool-guard")
}

/// The workers of a process whose pool is called `pool`.
pub(crate) fn workers_of(pid: u32, pool: &str) -> Vec<u32> {
    let prefix = format!("{pool}-worker");
    let Some(guardian) = guardian_of(pid) else { return Vec::new() };
    children(guardian)
        .into_iter()
        .filter(|worker| {
            is_running(*worker) && prefix.starts_with(&cut(&name_of(*worker), &prefix))
        })
        .collect()
}

fn cut(name: &str, prefix: &str) -> String {
    name.chars().take(prefix.len().min(15)).collect()
}

pub(crate) fn kill(pid: u32, signal: i32) {
    // SAFETY: sends a signal to a process that this test has started.
    unsafe { libc::kill(pid as i32, signal) };
}

pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Bytes of memory that are really there, of this process.
pub(crate) fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Variable that tells a child program its role.
pub(crate) const ROLE: &str = "PROCPOOL_TEST_ROLE";

pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs this test binary again: only the test `child_program`, in the given role.
pub(crate) fn program_in_role(role: &str, temporary: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_program", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env("TMPDIR", temporary).stdin(Stdio::null());
    // Tasks panic on purpose, and the first backtrace of a process takes half a second.
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Programs that run at a time in [`several_at_a_time`].
const AT_A_TIME: usize = 4;

/// Does something for each, with a temporary directory, for some at a time: child programs wait for deaths and
/// for limits most of the time.
pub(crate) fn several_at_a_time<T: Send>(
    all: impl Iterator<Item = T> + Send,
    each: impl Fn(T, &std::path::Path) + Sync,
) {
    let left = std::sync::Mutex::new(all);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let folder = tempfile::tempdir().unwrap();
                loop {
                    let next = left.lock().unwrap().next();
                    let Some(next) = next else { return };
                    each(next, folder.path());
                }
            });
        }
    });
}

/// Runs a child program to its end: how it ended, its output and its errors.
pub(crate) fn run_to_end(command: &mut Command) -> (std::process::ExitStatus, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status, text(&output.stdout), text(&output.stderr))
}

/// Waits until a child program has written `line`; returns what else it wrote before.
pub(crate) fn wait_for_line(child: &mut Child, line: &str) -> String {
    use std::io::BufRead;
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut all = String::new();
    loop {
        let mut text = String::new();
        assert!(reader.read_line(&mut text).unwrap() > 0, "ended before {line:?}: {all}");
        if text.trim_end().ends_with(line) {
            return all;
        }
        all.push_str(&text);
    }
}

/// Leaves what a test has found out in a file of `fault-reports`, in the folder for tests below `target`.
pub(crate) fn report(what: &str, text: &str) {
    // Examples, which share this module, have no such folder.
    let Some(folder) = option_env!("CARGO_TARGET_TMPDIR") else { return };
    let folder = std::path::Path::new(folder).join("fault-reports");
    fs::create_dir_all(&folder).unwrap();
    let name = format!("{}.txt", what.replace([' ', '/'], "-"));
    fs::write(folder.join(name), format!("{}\n", text.trim_end())).unwrap();
}

/// Entries of `/dev/shm` that are ours.
pub(crate) fn shared_memory_files() -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").map(|entries| entries.flatten().collect());
    let names = entries.unwrap_or_else(|_| Vec::new()).into_iter();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.contains("procpool") || name.contains("ipc-channel"))
        .collect()
}

/// Steele, Lea and Flood's SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A seed for [`Random`], which is printed; `PROCPOOL_STRESS_SEED` repeats one.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("PROCPOOL_STRESS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.as_nanos() as u64)
    });
    println!("seed {seed}");
    seed
}

/// The last thing that a task does.
pub(crate) fn die() {
    std::process::abort();
}

/// That the child program ends well in its role.
pub(crate) fn succeeds(role: &str) {
    let _dog = watchdog(100);
    let folder = tempfile::tempdir().unwrap();
    let (status, text, errors) = run_to_end(&mut program_in_role(role, folder.path()));
    assert!(status.success(), "{role}: {text}{errors}");
}

/// A pool of so many workers, and no other settings.
pub(crate) fn pool_of(workers: usize) -> procpool::Pool {
    procpool::Pool::builder().workers(workers).build().unwrap()
}

/// What [`times_out`] waits for.
pub(crate) const SHORT: Duration = Duration::from_millis(20);

/// That `wait`, for [`SHORT`], is in vain, and takes at least so long.
pub(crate) fn times_out(wait: impl FnOnce() -> bool) {
    let began = Instant::now();
    assert!(!wait());
    assert!(began.elapsed() >= SHORT, "gave up after {:?}", began.elapsed());
}
