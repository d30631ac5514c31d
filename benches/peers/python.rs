//! CPython's `multiprocessing.Pool(2).map`, in an interpreter that lives as long as this value.
//!
//! The script reads a number of calls from its standard input, maps them once, and prints the
//! nanoseconds that it took. It ends when its standard input ends, which is when this process does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const SCRIPT: &str = include_str!("../python_pool.py");

pub(crate) struct PythonPool {
    child: Child,
    /// `None` once the interpreter was told to end.
    calls: Option<ChildStdin>,
    times: BufReader<ChildStdout>,
    /// Name and version of the interpreter.
    pub(crate) version: String,
}

impl PythonPool {
    /// Starts the interpreter and its pool; `None` if there is no `python3` that can.
    pub(crate) fn start() -> Option<Self> {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let calls = child.stdin.take();
        let times = BufReader::new(child.stdout.take()?);
        let mut python = Self { child, calls, times, version: String::new() };
        python.version = python.line()?;
        Some(python)
    }

    /// Maps `x * x + 1` over that many numbers.
    pub(crate) fn map(&mut self, calls: u64) -> Duration {
        let pipe = self.calls.as_mut().expect("the interpreter is not dropped yet");
        writeln!(pipe, "{calls}").expect("the interpreter listens");
        let line = self.line().expect("the interpreter answers");
        Duration::from_nanos(line.parse().expect("a number of nanoseconds"))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.times.read_line(&mut line).ok()?;
        (length > 0).then(|| line.trim().to_owned())
    }
}

impl Drop for PythonPool {
    fn drop(&mut self) {
        drop(self.calls.take());
        let _ = self.child.wait();
    }
}
