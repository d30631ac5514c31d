//! That no call to the system was forgotten: whoever adds one adds an attempt, or says why there is none; and threads
//! are started where starting them may fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Functions of `src/sys` that make a call which no plan makes fail, and why.
const CANNOT_FAIL: &[(&str, &str, &str)] = &[
    ("process/control.rs", "measure_sockets", "does what it has just been able to do"),
    ("sys/fd.rs", "signal_event", "only at the counter's maximum, and then the poller is awake"),
    ("sys/fd.rs", "clear_event", "only when it is zero already"),
    ("sys/futex.rs", "wake", "only for a bad address"),
    ("sys/memory.rs", "unmap", "only for addresses that were never mapped"),
    (
        "sys/membarrier.rs",
        "take_part",
        "only if the kernel has no such call: then `everywhere` fails, too",
    ),
    ("sys/fail.rs", "failure_of", "the test's own record"),
    ("sys/fail.rs", "plan_for", "the test's own record"),
    ("sys/fail.rs", "note_and_die", "the test's own record"),
    ("sys/host.rs", "usable_memory_bytes", "`sysinfo` fails for a bad address only"),
    ("sys/image.rs", "text_range_around", "walks a list in memory"),
    ("sys/process.rs", "kill_by_pid", "it has ended: what was wanted"),
    ("sys/process.rs", "on_fork_in_child", "without memory: a forked child then goes unnoticed"),
    ("sys/process.rs", "parent_pid", "cannot"),
    ("sys/process.rs", "own_uid", "cannot"),
    ("sys/process.rs", "stop_self", "a test's"),
    ("sys/process.rs", "kill_self", "a test's"),
    ("sys/process.rs", "exit_now", "cannot"),
    ("sys/process.rs", "leave_session", "only in a leader of a group, and it was just forked"),
    ("sys/process.rs", "set_name", "only for a bad address"),
    ("sys/process.rs", "ignore", "only for a bad number"),
    ("sys/process.rs", "keep_dead_children", "only for a bad number"),
    ("sys/process.rs", "unblock_signals", "only for a bad number"),
    ("sys/process.rs", "block_signals_in_this_thread", "only for a bad number"),
    ("sys/process.rs", "is_privileged_exec", "cannot"),
    ("sys/process.rs", "yield_now", "cannot"),
    ("sys/process.rs", "private_bytes", "asks for the size of a page"),
    ("sys/clock.rs", "monotonic_ns", "cannot"),
    ("sys/clock.rs", "recent_ns", "cannot"),
    ("sys/robust.rs", "*", "the C library's, not the system's; errors of misuse only"),
];

/// Calls to the system by way of the standard library or of others, also outside of `src/sys`.
const BY_WAY_OF_OTHERS: &[&str] = &[
    "std::fs::",
    " fs::",
    "std::net::",
    "UnixStream::",
    "UnixListener::",
    "set_current_dir(",
    "io::pipe(",
    "try_clone(",
    "try_clone_to_owned(",
    "available_parallelism(",
    "command.spawn(",
    "command.output(",
    "command.status(",
    "Builder::new().spawn",
    ".spawn_scoped(",
    ".stack_size)",
    "ShmemConf::new(",
    "IpcSender::<Bootstrap>::connect(",
    "IpcOneShotServer::<Bootstrap>::new(",
    "ipc::channel(",
    "ipc::bytes_channel(",
    "server.accept(",
    "bootstrap.send(",
    "self.sender.send(",
    "self.receiver.recv(",
    "self.receiver.try_recv(",
    "OsIpcSender::",
    "Ruleset::default(",
];

/// What starts a thread, and panics or leaves no trace if that fails.
const THREADS: &[&str] = &["thread::spawn(", "scope.spawn(", "thread::Builder", "spawn_scoped("];

/// A file without its modules of tests.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let is_of_tests = line.trim_start().starts_with("#[cfg(") && line.contains("test");
        let next = is_of_tests.then(|| lines.next().unwrap_or_default());
        match next {
            Some(next) if next.trim_start().starts_with("mod ") && next.ends_with('{') => {
                let end = next.find('m').map(|indent| format!("{}}}", &next[..indent]));
                let _ = lines.by_ref().find(|line| Some(*line) == end.as_deref());
            }
            _ => [Some(line), next].into_iter().flatten().for_each(|line| {
                kept.push_str(line);
                kept.push('\n');
            }),
        }
    }
    kept
}

/// The functions in a file: name, and text from its first line to its last.
fn functions(text: &str) -> Vec<(String, String)> {
    let text = without_tests(text);
    let mut found: Vec<(String, String, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let indent: String = line.chars().take_while(|letter| *letter == ' ').collect();
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let is_code = !line.trim_start().starts_with("//");
        let name = words.iter().position(|word| *word == "fn").and_then(|at| words.get(at + 1));
        match name {
            Some(name) if is_code && !open && !line.trim_end().ends_with(';') => {
                found.push((name.to_string(), indent.clone(), line.to_owned()));
                open = !line.trim_end().ends_with('}');
            }
            _ => {
                let Some((_, of, body)) = found.last_mut().filter(|_| open) else { continue };
                body.push_str(if is_code { line } else { "" });
                body.push('\n');
                open = line != format!("{of}}}");
            }
        }
    }
    found.into_iter().map(|(name, _, body)| (name, body)).collect()
}

fn makes_a_call(body: &str) -> bool {
    let is_call = |crate_name: &str| {
        body.match_indices(crate_name).any(|(at, _)| {
            let path: &str = &body[at..];
            let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
            let last = path[..end.unwrap_or(path.len())].rsplit("::").next().unwrap_or_default();
            // Else it is a type, or a variant of one.
            end.is_some_and(|end| path[end..].starts_with('('))
                && !last.starts_with(char::is_uppercase)
        })
    };
    let by_way_of_others = BY_WAY_OF_OTHERS.iter().any(|call| body.contains(call));
    is_call("rustix::") || is_call("libc::") || body.contains(" membarrier(") || by_way_of_others
}

/// Every file of the crate that is shipped: its path below `src`, and its text.
fn shipped_files() -> Vec<(String, String)> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let of_tests = ["_fuzz.rs", "_models.rs", "_model.rs", "_tests.rs", "model.rs"];
            if name.ends_with(".rs") && !of_tests.iter().any(|end| name.ends_with(end)) {
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    found
}

#[test]
fn every_call_can_be_made_to_fail_or_it_is_said_why_not() {
    let (mut missing, mut needed) = (Vec::new(), BTreeSet::new());
    let mut calls = 0;
    for (file, text) in shipped_files() {
        for (name, body) in functions(&text) {
            if !makes_a_call(&body) {
                continue;
            }
            calls += 1;
            let excused = CANNOT_FAIL
                .iter()
                .position(|(of, function, _)| *of == file && [&*name, "*"].contains(function));
            match excused {
                Some(place) => drop(needed.insert(place)),
                None if body.contains("attempt(\"") => {}
                None => missing.push(format!("{file}: {name}")),
            }
        }
    }
    assert!(calls > 60, "{calls}");
    assert!(missing.is_empty(), "without an attempt: {missing:?}");
    let idle: Vec<_> = (0..CANNOT_FAIL.len()).filter(|place| !needed.contains(place)).collect();
    assert!(
        idle.is_empty(),
        "excused for nothing: {:?}",
        idle.iter().map(|n| CANNOT_FAIL[*n]).collect::<Vec<_>>()
    );
}

/// `thread::spawn` panics if the system gives no thread.
#[test]
fn threads_are_started_in_one_place() {
    for (file, text) in shipped_files().iter().filter(|(file, _)| file != "sys/thread.rs") {
        let code: String = without_tests(text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        let found: Vec<_> = THREADS.iter().filter(|start| code.contains(**start)).collect();
        assert!(found.is_empty(), "{file} starts threads by itself: {found:?}");
    }
}

/// Every attempt is in the list of those that the test makes fail, and every one of the list is made somewhere.
#[test]
fn the_list_of_calls_is_that_of_the_attempts() {
    let mut made = BTreeSet::new();
    for (_, text) in shipped_files() {
        for (at, start) in text.match_indices("attempt(\"") {
            let name = &text[at + start.len()..];
            made.insert(name[..name.find('"').unwrap()].to_owned());
        }
    }
    if !cfg!(feature = "landlock") {
        made.remove("landlock");
    }
    let listed: BTreeSet<String> =
        procpool::sys_failures::CALLS.iter().map(|call| (*call).to_owned()).collect();
    assert_eq!(made, listed);
}
