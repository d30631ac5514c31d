//! System calls that fail on demand, for tests. In release builds without the feature `fault` this is nothing.
//!
//! A process reads, once, what is to fail from the variable `PROCPOOL_FAIL`, which its test has set:
//! `role call errno skip once|always|storm|panic file`. In the processes of that role (`main`, `guardian`, `worker`) the
//! call fails with that error number, after so many that do not: once in all of them together, from then on,
//! or every second time. (With `panic` it does not fail: the supervisor's thread panics there, once.) When it has failed, a line
//! is appended to the file; and nothing fails any more once there is a file of that name with the extension `over`. A
//! process with more rights than who started it (`AT_SECURE`) does not look at the variable.

use rustix::io;

/// The calls that can be made to fail, by the names of the system's functions, or of what is read; `ipc` is any
/// that `ipc-channel` makes to set up a channel, `shared_memory` any that the crate of that name makes.
#[cfg(any(debug_assertions, feature = "fault"))]
pub const CALLS: &[&str] = &[
    "socketpair",
    "sendmsg",
    "recvmsg",
    "poll",
    "eventfd",
    "open",
    "dup2",
    "memfd_create",
    "ftruncate",
    "fcntl",
    "fstat",
    "mmap",
    "fallocate",
    "shm_open",
    "fork",
    "pidfd_open",
    "pidfd_send_signal",
    "waitid",
    "prctl",
    "sched_getaffinity",
    "sched_setaffinity",
    "setpriority",
    "setrlimit",
    "futex",
    "membarrier",
    // Any file of that folder.
    "proc",
    "madvise",
    "shm_unlink",
    "mkdir",
    "pthread_create",
    "posix_spawn",
    "ipc",
    "ipc_send",
    "ipc_receive",
    "shared_memory",
    "pipe",
    "opendir",
    "rmdir",
    "stat",
    "chdir",
    #[cfg(feature = "landlock")]
    "landlock",
];

/// Which of the crate's processes this is, as the plan names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    #[cfg(any(debug_assertions, feature = "fault"))]
    Main,
    Guardian,
    Worker,
}

/// Says what this process is from now on; a process that does not is the user's.
pub(crate) fn set_role(role: Role) {
    #[cfg(any(debug_assertions, feature = "fault"))]
    {
        death::plan_for(role);
        plan::ROLE.store(role as u32, crate::prim::Relaxed);
    }
    #[cfg(not(any(debug_assertions, feature = "fault")))]
    let _ = role;
}

/// Has the calling process make so many more stores to words that others may see, and die before the next: of the
/// thread that does, the name is appended to the file `PROCPOOL_DEATHS`, if there is that variable.
#[cfg(any(debug_assertions, feature = "fault"))]
pub(crate) fn die_after(stores: u64) {
    #[cfg(not(any(loom, shuttle)))]
    crate::prim::countdown::set(stores, death::note_and_die);
    #[cfg(any(loom, shuttle))]
    let _ = stores;
}

/// Fails if it is this call's turn to.
#[inline]
pub(crate) fn attempt(call: &'static str) -> io::Result<()> {
    #[cfg(any(debug_assertions, feature = "fault"))]
    if let Some(error) = plan::failure_of(call) {
        return Err(error);
    }
    let _ = call;
    Ok(())
}

#[cfg(any(debug_assertions, feature = "fault"))]
mod death {
    use super::Role;
    use std::io::Write;

    /// Forgets what was planned for whom this process is a copy of, and looks whether it is the one to die.
    pub(super) fn plan_for(role: Role) {
        super::die_after(u64::MAX);
        if crate::sys::process::is_privileged_exec() {
            return;
        }
        let Ok(text) = std::env::var("PROCPOOL_DIE_AFTER") else { return };
        let [whose, stores, file] = text.split(' ').collect::<Vec<_>>()[..] else { return };
        let is_its = match role {
            Role::Main => false,
            Role::Guardian => whose == "guardian",
            Role::Worker => whose == "worker",
        };
        let (true, Ok(stores)) = (is_its, stores.parse()) else { return };
        // Others may be made at the same time: one of them is the first.
        if let Ok(mut file) = std::fs::File::create_new(file) {
            let _ = write!(file, "{}", crate::sys::process::own_pid());
            super::die_after(stores);
        }
    }

    #[cfg(not(any(loom, shuttle)))]
    pub(super) fn note_and_die() {
        if let Some(path) = std::env::var_os("PROCPOOL_DEATHS")
            && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
        {
            let thread = std::thread::current();
            // In one piece: others may die at the same time.
            let line = format!("{}\n", thread.name().unwrap_or("?"));
            let _ = file.write_all(line.as_bytes());
        }
        crate::sys::process::kill_self();
    }
}

#[cfg(any(debug_assertions, feature = "fault"))]
mod plan {
    use super::{CALLS, Role};
    use crate::prim::{AtomicU32, Relaxed};
    use rustix::io::Errno;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    pub(super) static ROLE: AtomicU32 = AtomicU32::new(Role::Main as u32);

    #[derive(PartialEq, Eq)]
    enum Mode {
        Once,
        Always,
        Storm,
        Panic,
    }

    /// The thread that panics.
    const SUPERVISOR: &str = "procpool-supervisor";

    struct Plan {
        role: u32,
        call: String,
        errno: Errno,
        skip: u32,
        mode: Mode,
        file: PathBuf,
        passed: AtomicU32,
    }

    /// A copy in a forked process has counted as far as the original.
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

    fn parse() -> Option<Plan> {
        // Else who starts a set-uid program has it append to a file that it may not write itself.
        if crate::sys::process::is_privileged_exec() {
            return None;
        }
        let text = std::env::var("PROCPOOL_FAIL").ok()?;
        let [role, call, errno, skip, mode, file] = text.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let role = match role {
            "main" => Role::Main,
            "guardian" => Role::Guardian,
            _ => Role::Worker,
        };
        let mode = match mode {
            "once" => Mode::Once,
            "always" => Mode::Always,
            "panic" => Mode::Panic,
            _ => Mode::Storm,
        };
        Some(Plan {
            role: role as u32,
            call: call.to_owned(),
            errno: Errno::from_raw_os_error(errno.parse().ok()?),
            skip: skip.parse().ok()?,
            mode,
            file: file.into(),
            passed: AtomicU32::new(0),
        })
    }

    pub(super) fn failure_of(call: &'static str) -> Option<Errno> {
        debug_assert!(CALLS.contains(&call), "{call} is not in the list");
        let plan = PLAN.get_or_init(parse).as_ref()?;
        if plan.call != call || plan.role != ROLE.load(Relaxed) {
            return None;
        }
        if plan.mode == Mode::Panic && std::thread::current().name() != Some(SUPERVISOR) {
            return None;
        }
        let passed = plan.passed.fetch_add(1, Relaxed);
        let fails = match plan.mode {
            Mode::Once | Mode::Panic => passed == plan.skip,
            Mode::Always => passed >= plan.skip,
            Mode::Storm => passed >= plan.skip && passed.is_multiple_of(2),
        };
        let is_done = || {
            plan.file.with_extension("over").exists()
                || (plan.mode == Mode::Once && plan.file.exists())
        };
        if !fails || is_done() {
            return None;
        }
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&plan.file);
        // Once is enough to know.
        if passed == plan.skip
            && let Ok(mut file) = file
        {
            let _ = writeln!(file, "{call} failed");
        }
        assert!(plan.mode != Mode::Panic, "{call}: as planned");
        Some(plan.errno)
    }
}
