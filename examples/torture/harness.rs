//! Starts the program again and again, kills below it and at last itself, and listens to what it says.

use super::program::{NAME, PATIENCE, SEED, now_ns};
use super::support::{
    ROLE, Random, children, descendants, is_running, is_stopped, kill, name_of, parent_of,
};
use super::tally::Tally;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Between two kills: any time up to twice this.
const PAUSE: Duration = Duration::from_millis(8);
/// How long a stopped process stays so, at most.
pub(crate) const STOPPED: Duration = Duration::from_millis(100);
/// What a signal may take to arrive, on a machine that is busy.
const SOON: Duration = Duration::from_secs(5);
/// From the kill to the outcome of the task that ran: promised are 50 ms, on a machine that has time for it, and
/// with nobody stopped.
const TOLD: Duration = Duration::from_secs(5);

/// What the killer has done, and to whom.
#[derive(Default)]
struct Kills {
    /// By target and signal.
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// How long each outcome took from the kill, where that is known.
    told_ns: Vec<u64>,
}

impl Kills {
    /// The time that so many of a thousand outcomes did not exceed.
    fn told_within(&mut self, of_thousand: usize) -> Duration {
        self.told_ns.sort_unstable();
        let last = self.told_ns.len().saturating_sub(1);
        let place = (self.told_ns.len() * of_thousand / 1000).min(last);
        Duration::from_nanos(self.told_ns.get(place).copied().unwrap_or(0))
    }

    fn note(&mut self, target: &'static str, signal: &'static str) {
        *self.counts.entry((target, signal)).or_default() += 1;
    }

    /// Processes that were killed, as opposed to stopped for a while.
    fn deadly(&self) -> u64 {
        let lives = |target, signal| signal == "STOP" || (target, signal) == ("guardian", "TERM");
        let deadly = self.counts.iter().filter(|((target, signal), _)| !lives(*target, *signal));
        deadly.map(|(_, count)| count).sum()
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
        match Ordeal::begin(seed) {
            Err(what) => wrong = Some((seed, what)),
            Ok(mut ordeal) => match ordeal.run(&tally, &mut kills, began + length) {
                Ok(gone_within) => slowest = slowest.max(gone_within),
                Err(what) => {
                    println!("\nFAILED: {what}");
                    ordeal.have_it_dumped();
                    wrong = Some((seed, what));
                }
            },
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
    let (half, nearly_all) = (kills.told_within(500), kills.told_within(999));
    println!("| outcomes that were told at once | {} |", kills.told_ns.len());
    println!("| half of them within, from the kill | {half:?} |");
    println!("| 99.9 % within | {nearly_all:?} |");
    println!("| all within | {:?} |", kills.told_within(1000));
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
pub(crate) struct Ordeal {
    random: Random,
    pub(crate) program: Child,
    orders: ChildStdin,
    pub(crate) lines: Receiver<String>,
    pub(crate) temporary: tempfile::TempDir,
    /// What is stopped, and until when.
    stopped: Vec<(u32, Instant)>,
    /// Everybody who was killed in this storm, or was to die with a guardian that was; and when.
    doomed: HashMap<u32, Doom>,
    /// Only so can it be unknown how a process ended.
    killed_guardian: bool,
}

/// How somebody was killed.
#[derive(Debug, Clone, Copy)]
struct Doom {
    at_ns: u64,
    /// As what it, or who takes it along, was chosen.
    target: &'static str,
    signal: &'static str,
}

/// What the program says.
enum Said {
    Nothing,
    Storm,
    Calm,
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
        let (stopped, doomed) = (Vec::new(), HashMap::new());
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
    fn run(&mut self, tally: &Tally, kills: &mut Kills, end: Instant) -> Result<Duration, String> {
        let (mut raging, mut killed) = (false, false);
        let mut next = Instant::now();
        let mut heard = Instant::now();
        loop {
            self.let_go(Instant::now());
            match self.lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    heard = Instant::now();
                    match self.hear(&line, tally, kills)? {
                        Said::Nothing => {}
                        Said::Storm => {
                            raging = true;
                            self.doomed.clear();
                            self.killed_guardian = false;
                            self.answer();
                        }
                        Said::Calm => {
                            raging = false;
                            self.let_go(Instant::now() + STOPPED);
                            if Instant::now() > end {
                                // Enough: the program would go on.
                                self.end_program(kills);
                                killed = true;
                                continue;
                            }
                            if !killed {
                                self.wait_for_the_doomed()?;
                            }
                            self.answer();
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let pause = self.random.next() % (2 * PAUSE.as_micros() as u64);
                    next = Instant::now() + Duration::from_micros(pause);
                    if raging && !killed {
                        killed = self.strike(kills)?;
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

    /// Takes a line that the program has said.
    fn hear(&mut self, line: &str, tally: &Tally, kills: &mut Kills) -> Result<Said, String> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["storm"] => return Ok(Said::Storm),
            ["calm"] => return Ok(Said::Calm),
            ["lost", pid, signal, seen] => {
                let killed = pid.parse().ok().and_then(|pid: u32| self.doomed.get(&pid));
                let unknown = signal == "unknown" && self.killed_guardian;
                let Some(killed) = killed else {
                    // It may have ended by itself.
                    return if unknown {
                        Ok(Said::Nothing)
                    } else {
                        Err(format!(
                            "process {pid} was lost to signal {signal}, and nobody killed it"
                        ))
                    };
                };
                // Who was dead already, when its guardian was killed, is noted as killed too late.
                let took = seen.parse().ok().and_then(|seen: u64| seen.checked_sub(killed.at_ns));
                kills.told_ns.extend(took);
                let took = Duration::from_nanos(took.unwrap_or(0));
                if took > TOLD {
                    return Err(format!("the loss of process {pid} was told after {took:?}"));
                }
            }
            ["tally", ..] => tally.add_line(line),
            _ => println!("{line}"),
        }
        Ok(Said::Nothing)
    }

    /// Until those that were killed are dead: from then on, what they held can be settled.
    fn wait_for_the_doomed(&self) -> Result<(), String> {
        let began = Instant::now();
        // A guardian does not listen to SIGTERM.
        let lives = |pid: u32, doom: &Doom| {
            is_running(pid) && (doom.signal == "KILL" || name_of(pid) != "procpool-guard")
        };
        while let Some((pid, doom)) = self.doomed.iter().find(|(pid, doom)| lives(**pid, doom)) {
            if began.elapsed() > SOON {
                let (status, Doom { target, signal, .. }) = (threads_of(*pid), doom);
                return Err(format!("a {target} was sent SIG{signal}, and {pid} lives: {status}"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Kills the program itself, or asks it to end.
    fn end_program(&mut self, kills: &mut Kills) {
        let (signal, name) = match self.random.next() % 2 {
            0 => (libc::SIGTERM, "TERM"),
            _ => (libc::SIGKILL, "KILL"),
        };
        kill(self.program.id(), signal);
        kills.note("program", name);
    }

    /// Has the program say what it knows, if it lives, and shows it.
    fn have_it_dumped(&mut self) {
        self.let_go(Instant::now() + STOPPED);
        if self.orders.write_all(b"dump\n").is_err() {
            return;
        }
        let end = Instant::now() + SOON * 2;
        let left = || end.saturating_duration_since(Instant::now());
        while let Ok(line) = self.lines.recv_timeout(left()) {
            match &*line {
                "dumped" => return,
                line => println!("{line}"),
            }
        }
    }

    fn answer(&mut self) {
        // It may have been killed meanwhile.
        let _ = self.orders.write_all(b"go on\n");
    }

    /// Continues what has been stopped until `until`.
    pub(crate) fn let_go(&mut self, until: Instant) {
        self.stopped.retain(|(pid, when)| {
            let over = *when <= until;
            if over {
                kill(*pid, libc::SIGCONT);
            }
            !over
        });
    }

    /// Does something to somebody; whether it was the end of the program.
    fn strike(&mut self, kills: &mut Kills) -> Result<bool, String> {
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
                self.end_program(kills);
                return Ok(true);
            }
        };
        let Some(pid) = pid.filter(|pid| is_running(*pid)) else { return Ok(false) };
        // Of the program's own process, only stopping.
        match (target, self.random.next() % 10) {
            ("program", _) | (_, 0..2) => {
                kill(pid, libc::SIGSTOP);
                kills.note(target, "STOP");
                let length = self.random.next() % STOPPED.as_micros() as u64;
                self.stopped.push((pid, Instant::now() + Duration::from_micros(length)));
            }
            (_, choice) => {
                let signal = if choice == 2 { "TERM" } else { "KILL" };
                self.kill(target, pid, signal)?;
                kills.note(target, signal);
            }
        }
        Ok(false)
    }

    /// Kills as it runs, or first stops it: of a guardian, it must be known who dies with it.
    fn kill(&mut self, target: &'static str, pid: u32, signal: &'static str) -> Result<(), String> {
        let guards = name_of(pid) == "procpool-guard";
        let stops = guards || self.random.next().is_multiple_of(2);
        let mut dying = vec![pid];
        if stops {
            // Who is stopped forks nobody while its children are counted.
            kill(pid, libc::SIGSTOP);
            let began = Instant::now();
            while is_running(pid) && !is_stopped(pid) {
                if began.elapsed() > SOON {
                    let status = threads_of(pid);
                    return Err(format!("{target} {pid} is told to stop, and does not: {status}"));
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            if guards && signal == "KILL" {
                dying.extend(descendants(pid));
            }
        }
        self.killed_guardian |= target == "guardian" && signal == "KILL";
        let doom = Doom { at_ns: now_ns(), target, signal };
        self.doomed.extend(dying.into_iter().map(|pid| (pid, doom)));
        kill(pid, if signal == "TERM" { libc::SIGTERM } else { libc::SIGKILL });
        if stops {
            kill(pid, libc::SIGCONT);
        }
        Ok(())
    }

    fn one_of(&mut self, all: Vec<u32>) -> Option<u32> {
        all.get(self.random.next() as usize % all.len().max(1)).copied()
    }
}

/// The guardians of the program: of its pools, and of the name of its arena.
fn guardians_of(program: u32) -> Vec<u32> {
    let mut all = children(program);
    all.retain(|pid| name_of(*pid) == "procpool-guard");
    all
}

/// The kernel's words for each thread of a process: its state, where it waits, its signals.
fn threads_of(pid: u32) -> String {
    let mut text = String::new();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in threads.map(|thread| thread.path()) {
        let read = |name: &str| std::fs::read_to_string(thread.join(name)).unwrap_or_default();
        let wanted = ["Name", "State", "PPid", "Sig", "Shd"];
        for line in read("status").lines().filter(|line| wanted.iter().any(|w| line.starts_with(w)))
        {
            text.push_str(line);
            text.push_str("; ");
        }
        text.push_str(&format!("in {} {}\n", read("wchan"), read("stack")));
    }
    text
}
