//! A Python script that measures something, in an interpreter that lives as long as this value.
//!
//! The script reads what to do from its standard input, a line at a time, and prints the nanoseconds
//! that it took. It ends when its standard input ends, which is when this process does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

pub(crate) struct Python {
    child: Child,
    /// `None` once the interpreter was told to end.
    requests: Option<ChildStdin>,
    times: BufReader<ChildStdout>,
    /// Name and version of the interpreter.
    pub(crate) version: String,
}

impl Python {
    /// Starts the interpreter; `None` if there is no `python3` that can run the script.
    pub(crate) fn start(script: &str) -> Option<Self> {
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let requests = child.stdin.take();
        let times = BufReader::new(child.stdout.take()?);
        let mut python = Self { child, requests, times, version: String::new() };
        python.version = python.line()?;
        Some(python)
    }

    /// Has the script do something; how long that took.
    pub(crate) fn ask(&mut self, request: &str) -> Duration {
        let pipe = self.requests.as_mut().expect("the interpreter is not dropped yet");
        writeln!(pipe, "{request}").expect("the interpreter listens");
        let line = self.line().expect("the interpreter answers");
        Duration::from_nanos(line.parse().expect("a number of nanoseconds"))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.times.read_line(&mut line).ok()?;
        (length > 0).then(|| line.trim().to_owned())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}
