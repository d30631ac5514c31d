#!/usr/bin/env python3
"""Runs the crash matrix against other process pools and against procpool, and writes the table of the guide.

    benches/peers/crash_matrix.py [--record]

Each case runs in a process of its own, in a session of its own; what has not come to an end after LIMIT seconds
is a hang, and the whole session is killed. CPython's and loky's cases are below; procspawn's are in
crash_procspawn.rs; procpool's are the tests of tests/crash_matrix.rs, which print what they saw. loky's are run
if it can be imported. With --record the table replaces src/guide/comparison_table.md; without, it is printed.
"""

import json
import multiprocessing as mp
import os
import pathlib
import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

LIMIT = 5.0
ROOT = pathlib.Path(__file__).resolve().parents[2]
HANG = 1000

ROWS = [
    ("worker_killed", "pool worker killed in a task"),
    ("idle_killed", "idle workers killed, then a task"),
    ("task_exits", "task calls exit"),
    ("initializer", "initializer fails"),
    ("callback", "a done-callback fails"),
    ("undecodable", "a result that cannot be decoded"),
    ("closed", "handle used after the pool was ended"),
    ("window", "`imap` over 200,000 inputs, one taken"),
    ("lock", "holder of a lock killed"),
    ("condition", "waiter of a condition killed, then notify"),
    ("event", "waiter of an event killed, then set"),
    ("barrier", "party of a barrier killed"),
    ("task_done", "consumer killed before `task_done`, then join"),
    ("executor", "one of four busy workers killed"),
    ("parent", "user's process killed: its workers"),
    ("reader", "reader killed inside `get`"),
]


# What workers run ---------------------------------------------------------------------------------


def same(value):
    return value


def report_and_hang(pid):
    pid.value = os.getpid()
    time.sleep(HANG)


def hang(_=None):
    time.sleep(HANG)


def leave(_=None):
    os._exit(7)


def fail(*_):
    raise RuntimeError("no model")


def fail_and_count(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    raise RuntimeError("no model")


class Undecodable:
    def __reduce__(self):
        return fail, ()


def undecodable(_=None):
    return Undecodable()


def nap(seconds):
    time.sleep(seconds)
    return seconds


def own_pid(_=None):
    time.sleep(0.05)
    return os.getpid()


# Pools, behind one face ---------------------------------------------------------------------------


class MpPool:
    """multiprocessing.Pool."""

    def __init__(self, workers=2, **settings):
        self.pool = mp.Pool(workers, **settings)

    def submit(self, function, argument=None, done=None):
        result = self.pool.apply_async(function, (argument,), callback=done)
        return result.get

    def pids(self):
        return [process.pid for process in self.pool._pool]

    busy_pids = pids

    def end(self):
        self.pool.terminate()


class Executor:
    """concurrent.futures, or loky, which has the same face."""

    made_by = ProcessPoolExecutor

    def __init__(self, workers=2, **settings):
        self.pool = self.made_by(max_workers=workers, **settings)

    def submit(self, function, argument=None, done=None):
        future = self.pool.submit(function, argument)
        if done:
            future.add_done_callback(lambda ended: done(ended.result()))
        return future.result

    def pids(self):
        for _ in range(2):
            self.pool.submit(same, 1).result()
        return self.busy_pids()

    def busy_pids(self):
        return list(self.pool._processes)

    def end(self):
        self.pool.shutdown(wait=False, cancel_futures=True)


def loky_executor():
    from loky import ProcessPoolExecutor as made_by

    return type("Loky", (Executor,), {"made_by": made_by})


def pool_of(peer):
    return {"Pool": lambda: MpPool, "executor": lambda: Executor, "loky": loky_executor}[peer]()


# The cases: each returns what it saw --------------------------------------------------------------


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def ended(get):
    """An outcome that came: a value or an error."""
    try:
        return "value", repr(get())
    except BaseException as error:
        text = str(error).strip().split("\n")[0].split(". ")[0]
        return "error", f"{type(error).__name__}: {text}" if text else type(error).__name__


def worker_killed(make, started):
    pool = make(1)
    path = f"/proc/{pool.submit(own_pid)()}"
    get = pool.submit(hang)
    time.sleep(0.3)
    started()
    kill(int(path.rsplit("/", 1)[1]))
    return ended(get)


def idle_killed(make, started):
    pool = make(2)
    pool.submit(same, 1)()
    pids = pool.pids()
    time.sleep(0.2)
    started()
    for pid in pids:
        kill(pid)
    return ended(pool.submit(same, 7))


def task_exits(make, started):
    pool = make(1)
    started()
    return ended(pool.submit(leave))


def initializer(make, started):
    path = f"/tmp/crash-matrix-{os.getpid()}"
    open(path, "w").close()
    started()
    try:
        seen = []
        pool = make(1, initializer=fail_and_count, initargs=(path,))
        waiter = threading.Thread(target=lambda: seen.append(ended(pool.submit(same, 1))), daemon=True)
        waiter.start()
        waiter.join(1.5)
        tries = len(open(path).read().split())
        kind, text = seen[0] if seen else ("hang", "no outcome")
        return kind, f"{text}; {tries} workers in 1.5 s"
    finally:
        os.unlink(path)


def callback(make, started):
    pool = make(1)
    started()
    pool.submit(same, 1, done=fail)
    later = []
    pool.submit(same, 2, done=later.append)
    while not later:
        time.sleep(0.01)
    return "value", "the next callback has its value"


def undecodable_result(make, started):
    pool = make(1)
    started()
    return ended(pool.submit(undecodable))


def closed(make, started):
    pool = make(1)
    gets = [pool.submit(nap, 20), pool.submit(same, 1), pool.submit(same, 2)]
    time.sleep(0.2)
    started()
    pool.end()
    return ended(gets[2])


def window(make, started):
    taken = 0

    def inputs():
        nonlocal taken
        for number in range(200_000):
            taken += 1
            yield number

    pool = make(2).pool
    started()
    outcomes = pool.imap(same, inputs()) if hasattr(pool, "imap") else pool.map(same, inputs())
    next(iter(outcomes))
    time.sleep(1)
    return "value", f"{taken} inputs taken"


def child(function, *arguments):
    process = mp.Process(target=function, args=arguments)
    process.start()
    return process


def hold(lock, there):
    with lock:
        there.set()
        time.sleep(HANG)


def lock(_make, started):
    lock, there = mp.Lock(), mp.Event()
    holder = child(hold, lock, there)
    there.wait()
    started()
    kill(holder.pid)
    lock.acquire()
    return "value", "acquired"


def wait_for_condition(condition, there):
    with condition:
        there.set()
        condition.wait()


def condition(_make, started):
    condition, there = mp.Condition(), mp.Event()
    waiter = child(wait_for_condition, condition, there)
    there.wait()
    with condition:
        pass
    time.sleep(0.1)
    started()
    kill(waiter.pid)
    waiter.join()
    with condition:
        condition.notify_all()
    return "value", "notify returns"


def event(_make, started):
    event = mp.Event()
    waiter = child(event.wait)
    time.sleep(0.3)
    started()
    kill(waiter.pid)
    waiter.join()
    event.set()
    return "value", f"set returns, is_set is {event.is_set()}"


def barrier(_make, started):
    barrier = mp.Barrier(3)
    party = child(barrier.wait)
    time.sleep(0.3)
    waiting = threading.Thread(target=lambda: time.sleep(0.2) or kill(party.pid), daemon=True)
    waiting.start()
    started()
    return ended(barrier.wait)


def take_and_hang(queue, there):
    queue.get()
    there.set()
    time.sleep(HANG)


def task_done(_make, started):
    queue, there = mp.JoinableQueue(), mp.Event()
    queue.put(7)
    consumer = child(take_and_hang, queue, there)
    there.wait()
    started()
    kill(consumer.pid)
    consumer.join()
    queue.join()
    return "value", "join returns"


def executor(make, started):
    pool = make(4)
    gets = [pool.submit(nap, 1.0) for _ in range(4)]
    time.sleep(0.4)
    pids = pool.busy_pids()
    started()
    kill(pids[1])
    outcomes = [ended(get) for get in gets]
    failed = [text for kind, text in outcomes if kind == "error"]
    named = any(str(pids[1]) in text for text in failed)
    return "error", f"{len(failed)} of 4 fail, the process is {'' if named else 'not '}named"


def parent(peer, started):
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import crash_matrix as c\n"
        "if __name__ == '__main__':\n"
        "    pool = c.pool_of(sys.argv[2])(2); [pool.submit(c.hang) for _ in range(2)]\n"
        "    time.sleep(0.5); print('ready', flush=True); time.sleep(1000)\n"
    )
    arguments = [sys.executable, "-c", program, str(pathlib.Path(__file__).parent), peer]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    process.stdout.readline()
    below = children_of(process.pid)
    started()
    process.kill()
    process.wait()
    time.sleep(1)
    left = [pid for pid in below if os.path.exists(f"/proc/{pid}")]
    return ("other" if left else "value"), f"{len(left)} of {len(below)} processes live on after 1 s"


def children_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = open(f"/proc/{entry}/stat").read()
            except OSError:
                continue
            if int(text.rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(entry), *children_of(int(entry))]
    return found


def reader(_make, started):
    queue = mp.Queue()
    getting = child(queue.get)
    time.sleep(0.3)
    started()
    kill(getting.pid)
    getting.join()
    queue.put(7)
    return "value", f"others get {queue.get()}"


CASES = {
    "worker_killed": (worker_killed, ("Pool", "executor", "loky")),
    "idle_killed": (idle_killed, ("Pool", "executor", "loky")),
    "task_exits": (task_exits, ("Pool", "executor", "loky")),
    "initializer": (initializer, ("Pool", "executor", "loky")),
    "callback": (callback, ("Pool", "executor", "loky")),
    "undecodable": (undecodable_result, ("Pool", "executor", "loky")),
    "closed": (closed, ("Pool", "executor", "loky")),
    "window": (window, ("Pool", "executor", "loky")),
    "lock": (lock, ("Pool",)),
    "condition": (condition, ("Pool",)),
    "event": (event, ("Pool",)),
    "barrier": (barrier, ("Pool",)),
    "task_done": (task_done, ("Pool",)),
    "executor": (executor, ("Pool", "executor", "loky")),
    "parent": (parent, ("Pool", "executor", "loky")),
    "reader": (reader, ("Pool",)),
}


# Running them -------------------------------------------------------------------------------------


def one_case(row, peer):
    """In a process of its own: prints when it began to wait, and what it saw."""
    began = None

    def started():
        nonlocal began
        began = time.monotonic()
        print("began", flush=True)

    function = CASES[row][0]
    kind, text = function(peer if row == "parent" else pool_of(peer), started)
    print(json.dumps([kind, text, time.monotonic() - began]), flush=True)
    os._exit(0)


def run_limited(command, limit):
    """The output of a command, and whether it came to its end; its session does not outlive it."""
    with open(os.devnull) as null:
        process = subprocess.Popen(
            command, stdin=null, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    lines = []
    reading = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reading.start()
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        pass
    at_end = process.poll() is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    reading.join(1)
    return [line.decode().strip() for line in lines], at_end


def outcome_of(command):
    lines, _ = run_limited(command, LIMIT + 3)
    for line in lines:
        if line.startswith("["):
            kind, text, seconds = json.loads(line)
            if kind != "hang":
                return f"{kind} after {duration(seconds)}: {text}"
            return f"**hang**: {text}"
    if "began" not in lines:
        return "not run: it cannot be set up"
    return f"**hang**: nothing within {LIMIT:.0f} s"


def duration(seconds):
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def procpool_cells():
    """What the tests of the crash matrix saw: of each row the slowest."""
    run = subprocess.run(
        ["cargo", "test", "--test", "crash_matrix", "row_", "--", "--nocapture", "--test-threads=1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
        env={**os.environ, "RUST_BACKTRACE": "0"},
    )
    cells, row = {}, 0
    for line in run.stdout.splitlines():
        if "test row_" in line:
            row = int(line.split("test row_")[1][:2])
        if "outcome | " in line:
            kind, seconds, text = line.split("outcome | ")[1].split(" | ", 2)
            seconds = float(seconds)
            if row not in cells or seconds > cells[row][0]:
                cells[row] = (seconds, f"{kind} after {duration(seconds)}: {without_paths(text)}")
    if run.returncode != 0:
        sys.exit("the tests of the crash matrix fail")
    return [cells[number + 1][1] if number + 1 in cells else "no outcome" for number in range(len(ROWS))]


def without_paths(text):
    """Without the function's long name."""
    words = [word for word in text.split(" ") if "crash_matrix::" not in word or ": " in word]
    return " ".join(words)


def procspawn_cells():
    program = ["cargo", "bench", "--bench", "crash_procspawn", "--"]
    subprocess.run(program + ["none"], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.chdir(ROOT)
    cells = []
    for row, _ in ROWS:
        cell = outcome_of(program + [row])
        cells.append("" if cell.startswith("not run") else cell)
    return cells


def python_cells(peer):
    cells = []
    for row, _ in ROWS:
        if peer not in CASES[row][1]:
            cells.append("")
            continue
        cells.append(outcome_of([sys.executable, __file__, "--case", row, peer]))
    return cells


def about():
    """When, where and of what the table was made."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True)
    return (
        f"Made on {time.strftime('%Y-%m-%d')} at commit {commit.stdout.strip()}, on Linux {platform.release()} with "
        f"{os.cpu_count()} cores and {rustc.stdout.strip()}. Our column is of a debug build. loky's `imap` is its `map`, which takes "
        "all inputs first.\n\n"
    )


def main():
    if sys.argv[1:2] == ["--case"]:
        return one_case(sys.argv[2], sys.argv[3])
    python = f"CPython {platform.python_version()}"
    columns = [("procpool", procpool_cells()), ("procspawn", procspawn_cells())]
    columns += [(f"{python} `multiprocessing`", python_cells("Pool"))]
    columns += [(f"{python} `ProcessPoolExecutor`", python_cells("executor"))]
    try:
        import loky

        columns += [(f"loky {loky.__version__}", python_cells("loky"))]
    except ImportError:
        pass
    lines = ["| what happens | " + " | ".join(name for name, _ in columns) + " |"]
    lines += ["|---" * (len(columns) + 1) + "|"]
    for number, (_, what) in enumerate(ROWS):
        cells = [cells[number].replace("|", "/") for _, cells in columns]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    table = about() + "\n".join(lines) + "\n"
    if "--record" in sys.argv:
        (ROOT / "src/guide/comparison_table.md").write_text(table)
    else:
        print(table)


if __name__ == "__main__":
    main()
