//! Runs tasks that panic, crash, exit, leak and loop, and shows that the pool carries on.
//!
//! `cargo run --release --example isolate`
//!
//! Each of them costs its own result and at most the worker that ran it: the error says what
//! happened, and a fresh worker takes over. Nothing has a time limit here, so the program itself
//! kills the worker that loops. What is written to standard error, about the panic and about the
//! allocation that fails, comes from the workers.

use procpool::{Pool, TaskError, TaskHandle};
use std::error::Error;
use std::fmt::Debug;
use std::hint::black_box;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What the leaking worker may have on top of what it has already.
const LEAK_BYTES_MAX: u64 = 512 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder().workers(2).name("isolate").build()?;

    let task = pool.submit(divide, (1, 0))?;
    report(&pool, "panics: divides by zero", task.join())?;

    let task = pool.submit(write_nowhere, 1)?;
    report(&pool, "crashes: writes through a bad pointer", task.join())?;

    let task = pool.submit(|code: i32| -> u32 { std::process::exit(code) }, 3)?;
    report(&pool, "leaves: calls exit(3)", task.join())?;

    let task = pool.submit(leak, LEAK_BYTES_MAX)?;
    report(&pool, "leaks: allocates until it gets no more", task.join())?;

    let task = submit_and_kill(&pool)?;
    report(&pool, "loops for ever: its worker is killed by pid", task.join())?;

    let stats = pool.stats();
    println!("tasks: {} submitted, {} failed", stats.tasks_submitted, stats.tasks_failed);
    println!("workers: {} started, {} lost", stats.workers_started, stats.workers_lost);
    Ok(())
}

/// Prints how a task failed, and that the pool still works.
fn report<R: Debug>(
    pool: &Pool,
    what: &str,
    outcome: Result<R, TaskError>,
) -> Result<(), Box<dyn Error>> {
    println!("a task that {what}");
    let error = match outcome {
        Err(error) => error,
        Ok(value) => return Err(format!("it should have failed, but returned {value:?}").into()),
    };
    println!("  error:       {error}");
    match error.worker_exit() {
        Some(exit) => println!("  worker_exit: {exit}"),
        None => println!("  worker_exit: none, the worker lives on"),
    }
    let sum: u64 = pool.map(|x: u64| x * x, 0..1000)?.into_iter().sum();
    if sum != 332_833_500 {
        return Err(format!("the pool then computed {sum} instead of 332833500").into());
    }
    println!("  afterwards:  the sum of 1000 squares is {sum}, as it should be");
    Ok(())
}

// The tasks -----------------------------------------------------------------------------------

fn divide((a, b): (u32, u32)) -> u32 {
    assert!(b != 0, "cannot divide {a} by {b}");
    a / b
}

/// Ends by SIGSEGV.
fn write_nowhere(value: u32) -> Result<u32, String> {
    confine(LEAK_BYTES_MAX).map_err(|error| error.to_string())?;
    // Null itself would be caught by a check of the standard library in a debug build.
    let field_of_null = std::ptr::without_provenance_mut::<u32>(8);
    // SAFETY: none, on purpose: nothing is mapped in the first page, so this worker gets a SIGSEGV
    // here, which is what the example is about; the write is volatile so that it is not left out.
    unsafe { field_of_null.write_volatile(value) };
    Ok(value)
}

/// Ends by SIGABRT, which is how Rust reports an allocation that fails.
fn leak(bytes_max: u64) -> Result<usize, String> {
    confine(bytes_max).map_err(|error| error.to_string())?;
    let mut leaked_bytes = 0;
    // Some of it fits into address space that the C library has reserved before, hence the double.
    while (leaked_bytes as u64) < 2 * bytes_max {
        // The black box keeps the compiler from leaving out memory that nobody reads.
        leaked_bytes += black_box(vec![1u8; 16 << 20]).leak().len();
    }
    Ok(leaked_bytes)
}

/// Tells its process id to the socket of this name, then loops.
fn spin(socket: String) -> Result<u32, String> {
    let tell = || -> io::Result<usize> {
        let address = SocketAddr::from_abstract_name(socket)?;
        UnixDatagram::unbound()?.send_to_addr(&std::process::id().to_ne_bytes(), &address)
    };
    tell().map_err(|error| error.to_string())?;
    loop {
        std::hint::spin_loop();
    }
}

/// Starts a task that loops, waits until it does, and kills its worker.
fn submit_and_kill(pool: &Pool) -> Result<TaskHandle<Result<u32, String>>, Box<dyn Error>> {
    // An abstract socket has a name but no file, so it cannot be left behind.
    let name = format!("procpool-isolate-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;

    let task = pool.submit(spin, name)?;
    let mut pid = [0; 4];
    socket.recv(&mut pid)?;
    let pid = i32::try_from(u32::from_ne_bytes(pid))?;
    // SAFETY: sends a signal to a worker of our own pool; the pid is still its own, because it
    // does nothing but loop since it told it, and nobody else ends it.
    if unsafe { libc::kill(pid, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(task)
}

// What the system is asked --------------------------------------------------------------------

/// Lets this process, a worker, write no core file and map only so many more bytes; the machine and
/// the working folder come to no harm. What it has already, the arena too, does not count.
fn confine(more_bytes: u64) -> io::Result<()> {
    let most = address_space_bytes()? + more_bytes;
    let address_space = libc::rlimit { rlim_cur: most, rlim_max: most };
    let core_file = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls only read the two values, which outlive them.
    let set = unsafe {
        libc::setrlimit(libc::RLIMIT_AS, &address_space) == 0
            && libc::setrlimit(libc::RLIMIT_CORE, &core_file) == 0
    };
    if set { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How much address space this process has mapped.
fn address_space_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.ok_or_else(|| io::Error::other("no VmSize in /proc/self/status"))? << 10)
}
