//! What is left of a program that has ended: nothing. And its end, when it did not come by itself.

use super::harness::{Ordeal, STOPPED};
use super::support::{ROLE, is_running, kill, name_of, shared_memory_files};
use std::process::Command;
use std::time::{Duration, Instant};

/// After so long, nobody is left who would remove something.
const HALF_DONE: Duration = Duration::from_secs(1);
/// How long anything may be left. Promised is a tenth of a second, on a machine that has time for it.
const GONE: Duration = Duration::from_secs(5);

impl Ordeal {
    /// Has another program come and go in the same temporary directory.
    fn run_another(&self) -> Result<(), String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.env(ROLE, "passer-by").env("TMPDIR", self.temporary.path());
        let ended = command.status().map_err(|error| error.to_string())?;
        if ended.success() { Ok(()) } else { Err(format!("a passer-by ended with {ended}")) }
    }

    /// Waits until nothing is left of the program: no process, no segment, no file.
    pub(crate) fn look_for_remains(&mut self) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            // What is stopped cannot end by itself.
            self.let_go(Instant::now() + STOPPED);
            let processes = self.left();
            let segments = shared_memory_files();
            let ours = format!("torture-{}", std::process::id());
            let segments: Vec<&String> =
                segments.iter().filter(|segment| segment.contains(&ours)).collect();
            let files = std::fs::read_dir(self.temporary.path())
                .map_err(|error| error.to_string())?
                .count();
            if processes.is_empty() && segments.is_empty() && files == 0 {
                return Ok(began.elapsed());
            }
            if processes.is_empty() && segments.is_empty() && began.elapsed() > HALF_DONE {
                // Program and guardian killed together, as that one started: it is the next one's to remove.
                println!("half a rendezvous was left to the next program");
                self.run_another()?;
            }
            if began.elapsed() > GONE {
                let names: Vec<String> =
                    processes.iter().map(|pid| format!("{pid} ({})", name_of(*pid))).collect();
                return Err(format!(
                    "left behind: processes {names:?}, segments {segments:?}, {files} files"
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The processes that are left, whoever their parent is.
    fn left(&self) -> Vec<u32> {
        processes_with(&format!("TMPDIR={}", self.temporary.path().display()))
    }
}

impl Drop for Ordeal {
    /// Kills all that is left, each by its pid: there is something if it ended in a failure.
    fn drop(&mut self) {
        self.let_go(Instant::now() + STOPPED);
        if self.program.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.program.kill();
            let _ = self.program.wait();
        }
        let end = Instant::now() + GONE;
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() > end {
                return;
            }
            left.into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Processes in whose environment there is this variable.
fn processes_with(mark: &str) -> Vec<u32> {
    let own = std::process::id();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let found = environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes());
            found && *pid != own && is_running(*pid)
        })
        .collect()
}
