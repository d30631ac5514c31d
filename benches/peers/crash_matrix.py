#!/usr/bin/env python3
"""Runs the crash matrix against other pools and against procpool, and writes the tables of the guide.

    benches/peers/crash_matrix.py [--record] [--python PROGRAM]... [CASE]...

Python's cases are in crash_cases.py, procspawn's in crash_procspawn.rs; procpool's are the tests of
tests/crash_matrix.rs, which print what they saw. Python's are run with each PROGRAM: without, with each of
python3.11 and python3.13 that is there; loky's with the last of these that can import it. With --record the
tables replace src/guide/comparison_table.md; without, they are printed, if CASEs are named only of these.

Each case runs in a process of its own, with a temporary directory of its own. It has LIMIT seconds; afterwards
all processes that came of it are killed, whoever their parent may be by then.
"""

import argparse
import collections
import contextlib
import ctypes
import json
import os
import pathlib
import platform
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

# Nothing is to be left here.
sys.dont_write_bytecode = True

from crash_cases import CASES, LATER, LIMIT, NOTHING, descendants

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).parent
TABLE = "src/guide/comparison_table.md"
# For what is to happen before a case begins, and for an input of 200,000 that is taken as a whole.
PATIENCE = 90
RUNS = 3
# A case that takes longer is run once.
CHEAP = 2.5
# Longer texts of errors are cut.
WIDTH = 70

ROWS = {
    "worker_killed": "pool worker killed in a task",
    "idle_killed": "idle workers killed, then a task",
    "task_exits": "task calls exit",
    "initializer": "initializer fails",
    "callback": "a done-callback fails",
    "undecodable": "a result that cannot be decoded",
    "closed": "queued task's handle, after the pool was ended",
    "window": "lazy map over 200,000 inputs, one outcome taken",
    "lock": "holder of a lock killed",
    "condition": "waiter of a condition killed, then notify",
    "event": "waiter of an event killed, then set",
    "barrier": "party of a barrier killed",
    "task_done": "consumer killed before `task_done`, then join",
    "executor": "one of four busy workers killed",
    "parent": "user's process killed: its workers",
    "reader": "reader killed inside `get`",
}
CELLS = {
    f"{how}/{step}": f"{how}, {step}"
    for how in ("error", "exit", "crash")
    for step in ("task encode", "task decode", "in the call", "result encode", "result decode")
}

# The kinds that end only with the limit.
STUCK = ("hang", "left")
Outcome = collections.namedtuple("Outcome", "kind seconds text")


# Running one case ---------------------------------------------------------------------------------


def adopt_orphans():
    """Makes this process the parent of whatever loses its own, so that it can be found and ended."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def end_all():
    """Kills and reaps everything below this process."""
    last = time.monotonic() + 10
    # loky's tracker of semaphores ends by itself, after it has cleaned up behind the others.
    spared = time.monotonic() + 1
    while below := descendants(os.getpid()):
        for pid in below:
            if time.monotonic() > spared or not is_tracker(pid):
                # Its own parent may have reaped it meanwhile.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            pass
        if time.monotonic() > last:
            sys.exit(f"these do not end: {below}")
        time.sleep(0.001)


def is_tracker(pid):
    try:
        return b"resource_tracker" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def limit_of(case):
    """After how many seconds a case that has begun is ended."""
    if case == "window":
        return PATIENCE
    # Most of these look at the time themselves.
    return LIMIT + 0.5 + (LATER if case in CELLS else 0)


def run_once(command, case):
    """What came of a case, or `None` if there is no such thing there."""
    lines = []
    began = threading.Event()
    came = threading.Event()

    def read(pipe):
        for line in pipe:
            lines.append((time.monotonic(), line.strip()))
            began.set()
            if line.startswith("["):
                break
        began.set()
        came.set()

    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "TMPDIR": folder, "RUST_BACKTRACE": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        reading = threading.Thread(target=read, args=(process.stdout,), daemon=True)
        reading.start()
        began.wait(PATIENCE)
        # The process may end and leave others that hold its output.
        last = time.monotonic() + limit_of(case)
        while not came.is_set() and process.poll() is None and time.monotonic() < last:
            came.wait(0.002)
        died = time.monotonic()
        try:
            # It is on its way out, if its output ended and is not an outcome.
            code = process.wait(1 if came.is_set() and len(lines) < 2 else 0)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None:
            came.wait(0.1)
        end_all()
        process.poll()
        reading.join(5)
    process.stdout.close()
    if not lines and code == 0:
        return None
    if not lines or lines[0][1] != "began":
        sys.exit(f"{command} did not begin: {lines}, exit code {code}")
    if len(lines) > 1:
        outcome = Outcome(*json.loads(lines[1][1]))
        if outcome.kind == "broken":
            sys.exit(f"{command}: {outcome.text}")
        return outcome
    if code is None:
        return Outcome("hang", LIMIT, NOTHING)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Outcome("end", died - lines[0][0], how)


def run(*command, case):
    """The outcomes of a case, of several runs if it is cheap."""
    found = []
    while len(found) < RUNS:
        outcome = run_once(command, case)
        if outcome is None:
            return found
        found.append(outcome)
        if outcome.kind in STUCK or outcome.seconds > CHEAP:
            break
    return found


# The columns: outcomes by case --------------------------------------------------------------------


def python_column(python, peer, cases):
    column = {}
    for case in cases:
        if peer == "Pool" or case in CELLS or CASES[case][1]:
            column[case] = run(python, str(HERE / "crash_cases.py"), case, peer, case=case)
    return column


def executable_of(*arguments):
    """Has cargo build a test or bench; where it is."""
    command = ["cargo", *arguments, "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line).get("executable") for line in built.stdout.splitlines()]
    return [path for path in found if path][-1]


def procspawn_column(program, cases):
    return {case: run(program, case, case=case) for case in cases}


def procpool_column(program, cases):
    """What the tests saw. If one tries its case several times, the slowest counts of each run."""
    column = {case: [] for case in cases}
    numbers = {number: case for number, case in enumerate(ROWS, 1)}
    for _ in range(RUNS):
        output = subprocess.run(
            [program, "row_", "fifteen", "--nocapture", "--test-threads=1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "RUST_BACKTRACE": "0"}, cwd=ROOT,
        )
        if output.returncode != 0:
            sys.exit(f"the tests of the crash matrix fail:\n{output.stdout}")
        slowest = {}
        case = None
        for line in output.stdout.splitlines():
            if found := re.search(r"test row_(\d+)", line):
                case = numbers[int(found[1])]
            if found := re.search(r"cell \| (.*)", line):
                case = found[1]
            if found := re.search(r"outcome \| (.*?) \| (.*?) \| (.*)", line):
                outcome = Outcome(found[1], float(found[2]), found[3])
                if case not in slowest or outcome.seconds > slowest[case].seconds:
                    slowest[case] = outcome
        for case in cases:
            column[case].append(slowest[case])
    end_all()
    return column


# The tables ---------------------------------------------------------------------------------------


def duration(seconds):
    for unit, name in ((1, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.0f} µs"


def short(text):
    """The first sentence, without the long name of a function of ours."""
    text = re.sub(r"\(crash_matrix::\S*\) ", "", text).replace("crash_matrix::", "")
    text = re.split(r"\n|\. ", text.strip())[0].rstrip(".").replace("|", "/")
    return text if len(text) <= WIDTH else text[:WIDTH].rsplit(" ", 1)[0] + " …"


def rendered(outcome):
    text, *after = outcome.text.rsplit("; pool ", 1)
    text = "; pool ".join([short(text), *after])
    if outcome.kind in STUCK:
        return f"**{outcome.kind}**: {text}"
    what = {"end": "the user's process ends", "panic": "a panic of the user's thread"}.get(outcome.kind, outcome.kind)
    return f"{what} after {duration(outcome.seconds)}: {text}"


def cell(found):
    """The median of what came; if it was not always of the same kind, of each."""
    by_kind = {}
    for outcome in found:
        by_kind.setdefault(outcome.kind, []).append(outcome)
    parts = []
    for same in by_kind.values():
        middle = statistics.median_low(outcome.seconds for outcome in same)
        text = rendered(next(outcome for outcome in same if outcome.seconds == middle))
        parts.append(text if len(same) == len(found) else f"{len(same)} of {len(found)}: {text}")
    return "; ".join(parts)


def stuck(column, names):
    """In how many of the cases something never came, or never went."""
    tried = [column[case] for case in names if column.get(case)]
    return f"{sum(any(outcome.kind in STUCK for outcome in found) for found in tried)} of {len(tried)}"


def table(names, columns):
    lines = ["| | " + " | ".join(head for head, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for case, name in names.items():
        cells = [cell(column.get(case, [])) for _, column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("| **hang** or **left**, of those tried | " + " | ".join(stuck(column, names) for _, column in columns) + " |")
    return "\n".join(lines)


def output_of(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def about(pythons, idle):
    """When, where, how and of what the tables were made."""
    changed = output_of("git", "status", "--porcelain", "--", ".", f":!{TABLE}")
    arguments = [f"--python {pathlib.Path(python).name}" for python in pythons]
    command = " ".join(["benches/peers/crash_matrix.py --record", *arguments])
    return (
        f"Made by `{command}` on {time.strftime('%Y-%m-%d')} at commit "
        f"{output_of('git', 'rev-parse', '--short', 'HEAD')}{' with changes' if changed else ''}, on Linux "
        f"{platform.release()} with {os.cpu_count()} cores; {output_of('rustc', '--version')}. procpool and procspawn are "
        f"release builds, without fault points; Python's pools start their workers in the way that is theirs by default. Times are "
        f"medians of {RUNS} runs (of procpool's tests that try something several times, of the slowest in each run); what "
        f"took more than {CHEAP} s was run once. The cores were idle for {100 * idle:.0f} % of that time."
    )


CELLS_ABOUT = (
    "A value goes wrong while the task or its result is encoded or decoded, or the call does: with an error (a Python exception, "
    "an error of serde's, a panic in the call), by an exit (`sys.exit(7)`, which in Python is an exception too; "
    "`std::process::exit(7)`), or by a crash (`abort`). Encoding a task and decoding its result happen in the user's process. "
    f"Afterwards the pool gets a healthy task: usable, if that has its value within {LATER:.0f} s; broken, if it has an error; stuck, "
    "if it has nothing."
)


def version_of(python, module=None):
    """Of an interpreter, or of a module of it; `None` if there is no such thing."""
    wanted = f"import {module}; print({module}.__version__)" if module else "import platform; print(platform.python_version())"
    try:
        return output_of(python, "-c", wanted) or None
    except OSError:
        return None


def ticks():
    """Of all cores since the machine's start: idle, and in all."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def parsed():
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    arguments = parser.parse_args()
    for case in arguments.cases:
        if case not in {**ROWS, **CELLS}:
            parser.error(f"no case {case}")
    for python in arguments.python:
        if not version_of(python):
            parser.error(f"{python} cannot be run")
    if arguments.record and arguments.cases:
        parser.error("only all cases can be recorded")
    return arguments


def main():
    arguments = parsed()
    adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rows = {case: name for case, name in ROWS.items() if not arguments.cases or case in arguments.cases}
    cells = {case: name for case, name in CELLS.items() if not arguments.cases or case in arguments.cases}
    cases = [*rows, *cells]
    pythons = [python for python in arguments.python or ["python3.11", "python3.13"] if version_of(python)]
    procspawn = re.search(r'name = "procspawn"\nversion = "(.*)"', (ROOT / "Cargo.lock").read_text())[1]
    tests = executable_of("test", "--release", "--test", "crash_matrix", "--no-run")
    peer_program = executable_of("bench", "--bench", "crash_procspawn", "--no-run")
    columns, before = [], ticks()

    def add(head, column):
        print(f"{time.strftime('%H:%M:%S')} {head}", file=sys.stderr)
        columns.append((head, column))

    add("procpool", procpool_column(tests, cases))
    add(f"procspawn {procspawn}", procspawn_column(peer_program, cases))
    for peer, name in (("Pool", "multiprocessing"), ("executor", "ProcessPoolExecutor")):
        for python in pythons:
            add(f"CPython {version_of(python)} `{name}`", python_column(python, peer, cases))
    for python in [python for python in pythons if version_of(python, "loky")][-1:]:
        head = f"loky {version_of(python, 'loky')}, CPython {version_of(python)}"
        add(head, python_column(python, "loky", cases))
    idle, of_all = (after - before for after, before in zip(ticks(), before))
    about_it = about(arguments.python, idle / of_all)
    parts = [about_it, table(rows, columns), CELLS_ABOUT, table(cells, columns)]
    text = "\n\n".join(parts)
    if arguments.record:
        (ROOT / TABLE).write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    try:
        main()
    finally:
        end_all()
