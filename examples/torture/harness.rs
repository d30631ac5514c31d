//! Starts the program again and again, kills below it and at last itself, and looks for what is left of it.

use super::program::{NAME, PATIENCE, SEED};
use super::support::{
    ROLE, Random, children, descendants, is_running, is_stopped, kill, name_of, parent_of,
    shared_memory_files,
};
use super::tally::Tally;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After so long, nobody is left who would remove something.
const HALF_DONE: Duration = Duration::from_secs(1);
/// Between two kills: any time up to twice this.
const PAUSE: Duration = Duration::from_millis(8);
/// How long a stopped process stays so, at most.
const STOPPED: Duration = Duration::from_millis(100);

/// What the killer has done, and to whom.
#[derive(Default)]
struct Kills {
    /// By target and signal.
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Kills {
    fn note(&mut self, target: &'static str, signal: &'static str) {
        *self.counts.entry((target, signal)).or_default() += 1;
    }

    /// Processes that were killed, as opposed to stopped for a while.
    fn deadly(&self) -> u64 {
        self.counts.iter().filter(|((_, signal), _)| *signal != "STOP").map(|(_, n)| n).sum()
    }
}

/// Torments programs for so long; whether all was right.
pub(crate) fn torment(length: Duration, seed: u64) -> bool {
    println!("torture: seed {seed}, {:.1} minutes", length.as_secs_f64() / 60.0);
    let mut random = Random(seed);
    let (tally, mut kills) = (Tally::default(), Kills::default());
    let began = Instant::now();
    let (mut programs, mut slowest) = (0u64, Duration::ZERO);
    let mut wrong = None;
    while began.elapsed() < length && wrong.is_none() {
        programs += 1;
        let seed = random.next();
        match Ordeal::begin(seed).and_then(|ordeal| ordeal.run(&tally, &mut kills, began + length))
        {
            Ok(gone_within) => slowest = slowest.max(gone_within),
            Err(what) => wrong = Some((seed, what)),
        }
    }
    println!("\n| killed | with | times |\n|---|---|---|");
    for ((target, signal), count) in &kills.counts {
        println!("| {target} | SIG{signal} | {count} |");
    }
    println!("\n| what | count |\n|---|---|");
    println!("| programs | {programs} |");
    println!("| processes killed | {} |", kills.deadly());
    for (text, count) in tally.rows() {
        println!("| {text} | {count} |");
    }
    println!("| nothing left of a program after, at most | {slowest:?} |");
    println!("| it took | {:.1} minutes |", began.elapsed().as_secs_f64() / 60.0);
    match wrong {
        Some((seed, what)) => {
            println!("\nFAILED in the program of seed {seed}: {what}");
            false
        }
        None => {
            println!("\nnothing was lost, hung or left behind");
            true
        }
    }
}

/// One program under torture.
struct Ordeal {
    random: Random,
    program: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
    temporary: tempfile::TempDir,
    /// What is stopped, and until when.
    stopped: Vec<(u32, Instant)>,
    /// Everybody who was killed, or was to die with a guardian that was.
    doomed: HashSet<u32>,
    /// Only so can it be unknown how a process ended.
    killed_guardian: bool,
}

impl Ordeal {
    fn begin(seed: u64) -> Result<Self, String> {
        let mut random = Random(seed);
        let text = |error: std::io::Error| error.to_string();
        let temporary = tempfile::tempdir().map_err(text)?;
        let mut command = Command::new(std::env::current_exe().map_err(text)?);
        command.env(ROLE, "program").env(SEED, seed.to_string()).env("TMPDIR", temporary.path());
        if random.next().is_multiple_of(2) {
            command.env(NAME, format!("torture-{}", std::process::id()));
        } else {
            command.env_remove(NAME);
        }
        let mut program =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(text)?;
        let (Some(orders), Some(output)) = (program.stdin.take(), program.stdout.take()) else {
            return Err("no pipes to the program".into());
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let (stopped, doomed) = (Vec::new(), HashSet::new());
        Ok(Self {
            random,
            program,
            orders,
            lines,
            temporary,
            stopped,
            doomed,
            killed_guardian: false,
        })
    }

    /// Until the program has ended; then, how soon there was nothing left of it.
    fn run(mut self, tally: &Tally, kills: &mut Kills, end: Instant) -> Result<Duration, String> {
        let (mut raging, mut killed) = (false, false);
        let mut next = Instant::now();
        let mut heard = Instant::now();
        loop {
            self.let_go(Instant::now());
            match self.lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    heard = Instant::now();
                    match line.split(' ').collect::<Vec<_>>()[..] {
                        ["storm"] => {
                            raging = true;
                            self.answer();
                        }
                        ["calm"] => {
                            raging = false;
                            self.let_go(Instant::now() + STOPPED);
                            if Instant::now() > end {
                                // Enough: the program would go on.
                                kill(self.program.id(), libc::SIGKILL);
                                kills.note("program", "KILL");
                                killed = true;
                                continue;
                            }
                            self.answer();
                        }
                        ["lost", pid, _]
                            if pid.parse().is_ok_and(|pid| self.doomed.contains(&pid)) => {}
                        // It may have ended by itself.
                        ["lost", _, "unknown"] if self.killed_guardian => {}
                        ["lost", pid, signal] => {
                            return Err(format!(
                                "process {pid} was lost to signal {signal}, and nobody killed it"
                            ));
                        }
                        ["tally", ..] => tally.add_line(&line),
                        _ => println!("{line}"),
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let pause = self.random.next() % (2 * PAUSE.as_micros() as u64);
                    next = Instant::now() + Duration::from_micros(pause);
                    if raging && !killed {
                        killed = self.strike(kills);
                    }
                    if heard.elapsed() > PATIENCE * 2 {
                        return Err("the program says nothing any more".into());
                    }
                }
            }
        }
        let ended = self.program.wait().map_err(|error| error.to_string())?;
        if !killed && !ended.success() {
            return Err(format!("it ended with {ended}"));
        }
        self.look_for_remains()
    }

    fn answer(&mut self) {
        // It may have been killed meanwhile.
        let _ = self.orders.write_all(b"go on\n");
    }

    /// Continues what has been stopped until `until`.
    fn let_go(&mut self, until: Instant) {
        self.stopped.retain(|(pid, when)| {
            let over = *when <= until;
            if over {
                kill(*pid, libc::SIGCONT);
            }
            !over
        });
    }

    /// Does something to somebody; whether it was the end of the program.
    fn strike(&mut self, kills: &mut Kills) -> bool {
        let program = self.program.id();
        let guardians = guardians_of(program);
        let chance = self.random.next() % 1000;
        let (target, pid) = match chance {
            0..720 => {
                ("worker", self.one_of(guardians.iter().flat_map(|pid| children(*pid)).collect()))
            }
            720..800 => ("guardian", self.one_of(guardians)),
            800..900 => {
                let mut visitors = children(program);
                visitors.retain(|pid| !guardians.contains(pid));
                ("visitor", self.one_of(visitors))
            }
            900..950 => {
                let others = descendants(program);
                let far = |pid: &u32| {
                    let parent = parent_of(*pid);
                    parent.is_some_and(|parent| parent != program && !guardians.contains(&parent))
                };
                ("process of a visitor", self.one_of(others.into_iter().filter(far).collect()))
            }
            950..996 => ("program", Some(program)),
            _ => {
                kill(program, libc::SIGKILL);
                kills.note("program", "KILL");
                return true;
            }
        };
        let Some(pid) = pid.filter(|pid| is_running(*pid)) else { return false };
        // Of the program's own process, only stopping; and of a guardian, so that it can be seen who is below.
        match (target, self.random.next() % 10) {
            ("program", _) | (_, 0..2) => {
                kill(pid, libc::SIGSTOP);
                kills.note(target, "STOP");
                let length = self.random.next() % STOPPED.as_micros() as u64;
                self.stopped.push((pid, Instant::now() + Duration::from_micros(length)));
            }
            (_, choice) => {
                let (signal, name) =
                    if choice == 2 { (libc::SIGTERM, "TERM") } else { (libc::SIGKILL, "KILL") };
                // Who is stopped forks nobody while its children are counted.
                kill(pid, libc::SIGSTOP);
                while is_running(pid) && !is_stopped(pid) {
                    std::thread::sleep(Duration::from_micros(100));
                }
                self.killed_guardian |= target == "guardian";
                self.doomed.insert(pid);
                self.doomed.extend(descendants(pid));
                kill(pid, signal);
                kill(pid, libc::SIGCONT);
                kills.note(target, name);
            }
        }
        false
    }

    fn one_of(&mut self, all: Vec<u32>) -> Option<u32> {
        all.get(self.random.next() as usize % all.len().max(1)).copied()
    }

    /// Has another program come and go in the same temporary directory.
    fn run_another(&self) -> Result<(), String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.env(ROLE, "passer-by").env("TMPDIR", self.temporary.path());
        let ended = command.status().map_err(|error| error.to_string())?;
        if ended.success() { Ok(()) } else { Err(format!("a passer-by ended with {ended}")) }
    }

    /// Waits until nothing is left of the program: no process, no segment, no file.
    fn look_for_remains(&mut self) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            // What is stopped cannot end by itself.
            self.let_go(Instant::now() + STOPPED);
            let mark = format!("TMPDIR={}", self.temporary.path().display());
            let processes: Vec<u32> = processes_with(&mark);
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
            if began.elapsed() > Duration::from_secs(5) {
                let names: Vec<String> =
                    processes.iter().map(|pid| format!("{pid} ({})", name_of(*pid))).collect();
                return Err(format!(
                    "left behind: processes {names:?}, segments {segments:?}, {files} files"
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The guardians of the program: of its pools, and of the name of its arena.
fn guardians_of(program: u32) -> Vec<u32> {
    let mut all = children(program);
    all.retain(|pid| name_of(*pid) == "procpool-guard");
    all
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
