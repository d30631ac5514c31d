//! Runs the examples as a user would, and checks what they print.
//!
//! `cargo test` builds the examples first. `cargo test --test examples` does not: it runs the ones
//! that were built last, so run `cargo build --examples` before it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A run that takes longer has failed.
const RUN_MAX: Duration = Duration::from_secs(120);

/// The program of an example: beside the folder that this test program is in.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(name);
    assert!(program.is_file(), "no {}: run `cargo build --examples` first", program.display());
    program
}

/// A variable that is in the environment of every process that comes of one run, and of no other.
const MARK: &str = "PROCPOOL_TEST_EXAMPLE";

fn mark(command: &mut Command) -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    command.env(MARK, &run);
    format!("{MARK}={run}")
}

/// The processes that were started with this in their environment and have not ended.
fn left_of(marked: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_of_it = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == marked.as_bytes())
    };
    pids.filter(is_of_it).collect()
}

/// Waits until no process of a run is left; the guardian needs a moment after the program has ended.
fn assert_none_is_left(marked: &str) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !left_of(marked).is_empty() {
        assert!(Instant::now() < limit, "processes are left: {:?}", left_of(marked));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a program under a watchdog; returns what it wrote to its standard output. No process may be left of it.
///
/// Output goes to files, not pipes: a process that outlived the program would keep a pipe open, and
/// the test would wait for it.
fn run(command: &mut Command) -> String {
    let (mut output, mut errors) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let marked = mark(command);
    command.stdin(Stdio::null());
    command.stdout(output.try_clone().unwrap()).stderr(errors.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let limit = Instant::now() + RUN_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (output, errors) = (content(&mut output), content(&mut errors));
    let how = status.map_or(format!("did not end within {RUN_MAX:?}"), |status| status.to_string());
    let ended_well = status.is_some_and(|status| status.success());
    assert!(ended_well, "{command:?}: {how}\nstdout:\n{output}\nstderr:\n{errors}");
    assert_none_is_left(&marked);
    output
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number behind a label, in a line of its own.
fn number(output: &str, label: &str) -> u64 {
    let line = output.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(' '));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no number after {label:?} in:\n{output}"))
}

#[test]
fn quickstart_prints_a_square() {
    assert_eq!(run(&mut Command::new(example("quickstart"))), "998001\n");
}

/// The command in the header of the example, for the folder in its first argument.
fn documented_command() -> String {
    let header = include_str!("../examples/wordcount.rs");
    let (_, rest) = header.split_once("//! ```sh\n").unwrap();
    let (command, _) = rest.split_once("//! ```\n").unwrap();
    let lines: Vec<&str> =
        command.lines().map(|line| line.strip_prefix("//!").unwrap().trim()).collect();
    lines.join(" ").replace("DIR", "\"$1\"")
}

#[test]
fn wordcount_agrees_with_wc() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a folder with spaces");
    let write = |name: &[u8], text: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // (words, name, text); the words of the counted files by hand.
    let counted: &[(u64, &[u8], &[u8])] = &[
        (5, b"plain.txt", b"one two three\n\n  one\tone\n"),
        (2, b"no newline at the end", b"first last"),
        (2, b"no newline either", b"first last"),
        (7, b"all the white space", b"a\tb\nc\x0bd\x0ce\rf g \n"),
        (5, b"sub folder/deeper/not ASCII", "é 日本 a\u{a0}b \u{2003} —\n".as_bytes()),
        (3, b"sub folder/odd bytes", b"\x01 \x00 \x7f\x1b\n"),
        (1, b".hidden/file", b"hidden\n"),
        (1, b"name with\na newline", b"newline\n"),
        (1, b"name that is not UTF-8 \xff", b"name\n"),
        (0, b"empty", b""),
        (0, b"blank", b" \n\t"),
    ];
    for (_, name, text) in counted {
        write(name, text);
    }
    write(b"latin one", b"not counted: caf\xe9\n");
    write(b"sub folder/cut off", b"not counted \xe6\x97");
    write(b"sub folder/surrogate", b"not counted \xed\xa0\x80\n");
    let outside = folder.path().join("outside");
    fs::write(&outside, "not below the folder").unwrap();
    symlink(&outside, root.join("link to a file")).unwrap();
    symlink(folder.path(), root.join("link to a folder")).unwrap();

    let output = run(Command::new(example("wordcount")).arg(&root));
    let words: u64 = counted.iter().map(|(words, _, _)| words).sum();
    let bytes: usize = counted.iter().map(|(_, _, text)| text.len()).sum();
    assert_eq!(number(&output, "words"), words, "{output}");
    assert_eq!(number(&output, "files"), counted.len() as u64, "{output}");
    assert_eq!(number(&output, "bytes"), bytes as u64, "{output}");
    assert_eq!(number(&output, "skipped"), 3, "{output}");
    // 27 words; `one` three times, `first` and `last` twice.
    assert_eq!((words, number(&output, "distinct words")), (27, 23), "{output}");
    let most_frequent = output.lines().nth(1).unwrap();
    assert_eq!(most_frequent.split_whitespace().collect::<Vec<_>>(), ["3", "one"], "{output}");

    let command = documented_command();
    let by_wc = run(Command::new("sh").args(["-c", &command, "sh"]).arg(&root));
    assert_eq!(by_wc.trim(), words.to_string(), "{command}");
}

#[test]
fn wordcount_of_nothing_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(Command::new(example("wordcount")).arg(folder.path()));
    assert_eq!((number(&output, "files"), number(&output, "words")), (0, 0), "{output}");
}

#[test]
fn isolate_shows_every_failure_and_leaves_nothing() {
    let (working, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = Command::new(example("isolate"));
    let output = run(command.current_dir(working.path()).env("TMPDIR", temporary.path()));
    // In the order of the tasks, so that each text belongs to its own.
    let mut rest = output.as_str();
    for text in [
        "cannot divide 1 by 0",
        "worker_exit: none",
        "which ended with signal 11",
        "worker_exit: signal 11",
        "worker_exit: exit code 3",
        "worker_exit: signal 6",
        "worker_exit: signal 9",
        "5 failed",
        "4 lost",
    ] {
        let (_, behind) =
            rest.split_once(text).unwrap_or_else(|| panic!("no {text:?} in its place:\n{output}"));
        rest = behind;
    }
    assert_eq!(output.matches("as it should be").count(), 5, "{output}");
    for folder in [working.path(), temporary.path()] {
        let left: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(left.is_empty(), "files left behind: {left:?}");
    }
}

/// The lines of an output, sorted: processes print in any order.
fn sorted(output: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn lock_lets_one_write_at_a_time_and_survives_a_dead_holder() {
    let output = run(&mut Command::new(example("lock")));
    assert_eq!(
        sorted(&output),
        [
            "Lock acquired directly",
            "Lock acquired via a guard",
            "lines written: 2",
            "second worker: done, with the lock free",
            "the holder died; the count is still good",
            "third worker lost: true",
        ]
    );
}

#[test]
fn event_releases_the_patient_and_lets_the_impatient_go() {
    let output = run(&mut Command::new(example("event")));
    assert_eq!(
        sorted(&output),
        [
            "main: event is set",
            "main: waiting before calling event.set()",
            "wait_for_event: event.is_set() -> true",
            "wait_for_event: starting",
            "wait_for_event_timeout: event.is_set() -> false",
            "wait_for_event_timeout: starting",
        ]
    );
    let place = |line: &str| output.find(line).unwrap();
    assert!(place("is_set() -> false") < place("event is set"));
}

#[test]
fn condition_runs_the_second_stage_after_the_first() {
    let output = run(&mut Command::new(example("condition")));
    let place = |line: &str| output.find(line).unwrap_or_else(|| panic!("no {line:?}: {output}"));
    for number in 1..=2 {
        assert!(place("stage 1 done") < place(&format!("stage_2[{number}] running after stage 1")));
    }
    assert_eq!(output.lines().count(), 6, "{output}");
}

#[test]
fn semaphore_never_shows_more_than_three_active() {
    for _ in 0..5 {
        let output = run(&mut Command::new(example("semaphore")));
        let running: Vec<&str> =
            output.lines().filter_map(|line| line.strip_prefix("Now running: ")).collect();
        assert_eq!(running.len(), 11, "{output}");
        assert!(running.iter().all(|list| list.matches(',').count() < 3), "{output}");
        assert_eq!(running.last(), Some(&"[]"), "{output}");
        let most = output.lines().find_map(|line| line.strip_prefix("most at a time: "));
        assert!((1..=3).contains(&most.unwrap().parse::<u32>().unwrap()), "{output}");
    }
}

#[test]
fn master_worker_squares_ten_numbers_and_ends() {
    let output = run(&mut Command::new(example("master_worker")));
    let list = output.trim().strip_prefix("Results: [").and_then(|rest| rest.strip_suffix(']'));
    let mut squares: Vec<u64> = list.unwrap().split(", ").map(|n| n.parse().unwrap()).collect();
    squares.sort_unstable();
    assert_eq!(squares, [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]);
}

#[test]
fn queue_survives_a_reader_that_is_terminated() {
    for _ in 0..10 {
        let output = run(&mut Command::new(example("queue")));
        let fancy = "Doing something fancy in Process-1 for Frankie!\n";
        assert!(output.starts_with(fancy), "{output}");
        for writer in 1..=2 {
            assert!(
                output.contains(&format!("Process writer-{writer} is writing...\n")),
                "{output}"
            );
        }
        for number in 1..=6 {
            assert!(output.contains(&format!("Put url{number} to queue\n")), "{output}");
        }
        // It may have got one that it could not tell of.
        let got = output.matches(" from queue.").count() as u64;
        let there = number(&output, "still there:");
        assert!((5..=6).contains(&(got + there)), "{output}");
        assert!(output.contains("reader: signal 15\n"), "{output}");
        assert!(output.ends_with("put and got: url7\n"), "{output}");
    }
}

#[test]
fn joinable_queue_finishes_all_tasks_and_consumers() {
    let output = run(&mut Command::new(example("joinable_queue")));
    assert!(output.starts_with("Creating 4 consumers\n"), "{output}");
    assert_eq!(output.matches(": Exiting\n").count(), 4, "{output}");
    for n in 0..10 {
        assert!(output.contains(&format!(": {n} * {n}\n")), "{output}");
        assert!(output.contains(&format!("Result: {n} * {n} = {}\n", n * n)), "{output}");
    }
    assert_eq!(output.lines().count(), 1 + 4 + 10 + 10, "{output}");
}

#[test]
fn managed_dict_has_what_ten_workers_wrote() {
    let output = run(&mut Command::new(example("managed_dict")));
    let entries: Vec<String> = (0..10).map(|n| format!("({n}, {})", n * 2)).collect();
    assert_eq!(
        output,
        format!(
            "Results: [{}]\n\
             List: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\
             After changing the copy: [\"apple\"]\n\
             After putting it back: [\"apple\", \"pear\"]\n\
             After update: [\"apple\", \"pear\", \"plum\"]\n",
            entries.join(", ")
        )
    );
}

#[test]
fn namespace_shows_the_value_after_the_event() {
    let output = run(&mut Command::new(example("namespace")));
    assert_eq!(
        output,
        "Before event, consumer got: there is no value\n\
         After event, consumer got: This is the value\n\
         After event, the list is: []\n\
         names: list value waits\n"
    );
}

#[test]
fn until_quit_stops_when_told_and_ends_who_would_not() {
    let output = run(&mut Command::new(example("until_quit")));
    let lines: Vec<&str> = output.lines().collect();
    let expected = [
        "Entered main...",
        "I'm the worker, received something: message 1",
        "I'm the worker, received something: message 2",
        "I'm the worker, received something: message 3",
        "Bye byes!",
        "received: 3",
    ];
    assert_eq!(lines[..6], expected, "{output}");
    for number in 1..=4 {
        let said = format!("Process Process-{number}, calculation {number} done");
        assert!(lines.contains(&&*said), "{output}");
        assert!(lines.contains(&&*format!("Process-{number}: signal 15")), "{output}");
    }
    assert_eq!(lines.last(), Some(&"children left: 0"), "{output}");
}

#[test]
fn pool_doubles_like_an_iterator_and_replaces_its_workers() {
    let output = run(&mut Command::new(example("pool")));
    let doubled = "[0, 2, 4, 6, 8, 10, 12, 14, 16, 18]";
    let starting = |line: &&str| line.starts_with("Starting ");
    let lines: Vec<&str> = output.lines().filter(|line| !starting(line)).collect();
    let expected = [
        "Input   : [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]",
        &format!("Built-in: {doubled}"),
        &format!("Pool    : {doubled}"),
    ];
    assert_eq!(lines, expected, "{output}");
    let started: Vec<&str> = output.lines().filter(starting).collect();
    let named = |line: &&str| (0..4).any(|n| **line == format!("Starting pool-worker-{n}"));
    // Ten calls need five processes of two.
    assert!(started.len() >= 5 && started.iter().all(named), "{output}");
}

/// A task program, with its output in a file that can be read meanwhile.
fn start(program: &str, name: &str, key: &str) -> (std::process::Child, tempfile::NamedTempFile) {
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(example(program));
    command.args([name, key]).stdin(Stdio::null()).stderr(Stdio::inherit());
    command.env(MARK, name);
    (command.stdout(output.reopen().unwrap()).spawn().unwrap(), output)
}

fn text(output: &tempfile::NamedTempFile) -> String {
    fs::read_to_string(output.path()).unwrap()
}

#[test]
fn a_task_worker_is_killed_half_way_and_another_one_finishes() {
    let limit = Instant::now() + RUN_MAX;
    let name = format!("example.{}", std::process::id());
    let (mut master, master_says) = start("task_master", &name, "abc");
    let (mut first, first_says) = start("task_worker", &name, "abc");
    while text(&first_says).matches("run task").count() < 4 {
        assert!(Instant::now() < limit, "{}", text(&first_says));
        std::thread::sleep(Duration::from_millis(2));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    // Who does not know the key gets nothing.
    let (mut stranger, stranger_says) = start("task_worker", &name, "abd");
    assert!(!stranger.wait().unwrap().success());
    assert!(!text(&stranger_says).contains("run task"));
    let (mut second, second_says) = start("task_worker", &name, "abc");
    assert!(second.wait().unwrap().success());
    assert!(master.wait().unwrap().success());
    let (master_says, second_says) = (text(&master_says), text(&second_says));
    assert_eq!(master_says.matches("Put task ").count(), 10, "{master_says}");
    assert!(master_says.contains("Try get results...\n"), "{master_says}");
    assert_eq!(master_says.matches("Result: ").count(), 10, "{master_says}");
    assert!(master_says.ends_with("master exit.\n"), "{master_says}");
    assert!(second_says.matches("run task").count() >= 6, "{second_says}");
    assert!(second_says.ends_with("worker exit.\n"), "{second_says}");
    assert_none_is_left(&format!("{MARK}={name}"));
    let left = fs::read_dir("/dev/shm").unwrap().flatten();
    assert!(!left.into_iter().any(|file| file.file_name().to_string_lossy().ends_with(&name)));
}
