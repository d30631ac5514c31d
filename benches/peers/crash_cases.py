"""The crash matrix's cases for Python's pools: `crash_cases.py CASE PEER` runs one, for crash_matrix.py.

It prints "began" when it begins to wait, and then, as a line of JSON, what came: kind, seconds and text.
"""

import json
import multiprocessing as mp
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor

# What has not come to an end after so many seconds is a hang.
LIMIT = 5.0
NOTHING = f"nothing within {LIMIT:.0f} s"
# The same for another task behind one that went wrong.
LATER = 2.0
HANG = 1000
INPUTS = 200_000


# What workers run ---------------------------------------------------------------------------------


def same(value):
    return value


def hang(_=None):
    time.sleep(HANG)


def leave(_=None):
    os._exit(7)


def fail(*_):
    raise RuntimeError("no model")


def fail_and_count(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    fail()


class Undecodable:
    def __reduce__(self):
        return fail, ()


def undecodable(_=None):
    return Undecodable()


def nap(seconds):
    time.sleep(seconds)
    return seconds


def own_pid(_=None):
    return os.getpid()


# The pid of the user's process, for whoever wants to know whether it runs in a worker.
OWNER = "CRASH_MATRIX_OWNER"


class Odd:
    """A value that goes wrong at one step on its way."""

    def __init__(self, how, step):
        self.how, self.step = how, step

    def at(self, step_of_owner, step_of_worker):
        in_owner = os.environ[OWNER] == str(os.getpid())
        if self.step == (step_of_owner if in_owner else step_of_worker):
            self.go_wrong()

    def go_wrong(self):
        if self.how == "error":
            raise ValueError("odd")
        if self.how == "exit":
            sys.exit(7)
        os.abort()

    def __reduce__(self):
        self.at("task encode", "result encode")
        return decoded, (self.how, self.step)


def decoded(how, step):
    odd = Odd(how, step)
    odd.at("result decode", "task decode")
    return odd


def call(odd):
    if odd.step == "in the call":
        odd.go_wrong()
    return odd


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

    def imap(self, function, inputs):
        return "imap", self.pool.imap(function, inputs)

    def end(self):
        self.pool.terminate()


class Executor:
    """concurrent.futures."""

    made_by = ProcessPoolExecutor
    end_now = {"cancel_futures": True}

    def __init__(self, workers=2, **settings):
        self.pool = self.made_by(max_workers=workers, **settings)

    def submit(self, function, argument=None, done=None):
        future = self.pool.submit(function, argument)
        if done:
            future.add_done_callback(lambda ended: done(ended.result()))
        return future.result

    def pids(self):
        return list(self.pool._processes)

    def imap(self, function, inputs):
        return "map", self.pool.map(function, inputs)

    def end(self):
        self.pool.shutdown(wait=False, **self.end_now)


def loky():
    """loky, which has the same face."""
    from loky import ProcessPoolExecutor as made_by

    return type("Loky", (Executor,), {"made_by": made_by, "end_now": {"kill_workers": True}})


POOLS = {"Pool": lambda: MpPool, "executor": lambda: Executor, "loky": loky}


# The cases: each returns what it saw --------------------------------------------------------------


class Clock:
    """Runs from the moment at which the case begins to wait."""

    began = ended = None

    def start(self):
        print("began", flush=True)
        self.began = time.monotonic()

    def stop(self):
        self.ended = time.monotonic()

    def seconds(self):
        return (self.ended or time.monotonic()) - self.began


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def ended(get):
    """An outcome that came: a value, or an error with the beginning of what it says."""
    try:
        return "value", repr(get())
    except BaseException as error:
        text = str(error).strip()
        return "error", f"{type(error).__name__}: {text}" if text else type(error).__name__


def outcomes(gets, limit=LIMIT):
    """The outcome of each; `None` for those that do not come."""
    found = [None] * len(gets)

    def wait(number):
        found[number] = ended(gets[number])

    threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(len(gets))]
    for thread in threads:
        thread.start()
    last = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0, last - time.monotonic()))
    return found


def worker_killed(make, clock):
    pool = make(1)
    pid = pool.submit(own_pid)()
    get = pool.submit(hang)
    time.sleep(0.3)
    clock.start()
    kill(pid)
    return ended(get)


def idle_killed(make, clock):
    pool = make(2)
    pool.submit(same, 1)()
    pids = pool.pids()
    time.sleep(0.2)
    clock.start()
    for pid in pids:
        kill(pid)
    return ended(lambda: pool.submit(same, 7)())


def task_exits(make, clock):
    pool = make(1)
    pool.submit(same, 1)()
    clock.start()
    return ended(pool.submit(leave))


def initializer(make, clock):
    with tempfile.NamedTemporaryFile() as file:
        clock.start()
        pool = make(1, initializer=fail_and_count, initargs=(file.name,))
        (outcome,) = outcomes([lambda: pool.submit(same, 1)()])
        clock.stop()
        tries = len(file.read().split())
    kind, text = outcome or ("hang", NOTHING)
    return kind, f"{tries} worker{'s' if tries > 1 else ''} tried; {text}"


def callback(make, clock):
    pool = make(1)
    pool.submit(same, 1)()
    later = threading.Event()
    clock.start()
    pool.submit(same, 1, done=fail)
    pool.submit(same, 2, done=lambda _: later.set())
    later.wait()
    return "value", "the next callback has its value"


def undecodable_result(make, clock):
    pool = make(1)
    pool.submit(same, 1)()
    clock.start()
    return ended(pool.submit(undecodable))


def closed(make, clock):
    pool = make(1)
    gets = [pool.submit(nap, 20), *(pool.submit(same, number) for number in range(5))]
    time.sleep(0.5)
    clock.start()
    pool.end()
    return ended(gets[-1])


def window(make, clock):
    taken = 0

    def inputs():
        nonlocal taken
        for number in range(INPUTS):
            taken += 1
            yield number

    pool = make(2)
    pool.submit(same, 1)()
    clock.start()
    name, given = pool.imap(same, inputs())
    next(iter(given))
    clock.stop()
    at_once, before = taken, 0
    while before < taken:
        before = taken
        time.sleep(0.5)
    return "value", f"`{name}`; {at_once:,} inputs were taken by then, and {taken:,} in the end"


def child(function, *arguments):
    process = mp.Process(target=function, args=arguments)
    process.start()
    return process


def hold(lock, there):
    with lock:
        there.set()
        time.sleep(HANG)


def lock(_make, clock):
    lock, there = mp.Lock(), mp.Event()
    holder = child(hold, lock, there)
    there.wait()
    clock.start()
    kill(holder.pid)
    lock.acquire()
    return "value", "acquired"


def wait_for_condition(condition, there):
    with condition:
        there.set()
        condition.wait()


def condition(_make, clock):
    condition, there = mp.Condition(), mp.Event()
    waiter = child(wait_for_condition, condition, there)
    there.wait()
    with condition:
        pass
    time.sleep(0.1)
    clock.start()
    kill(waiter.pid)
    waiter.join()
    with condition:
        condition.notify_all()
    return "value", "notify returns"


def event(_make, clock):
    event = mp.Event()
    waiter = child(event.wait)
    time.sleep(0.3)
    clock.start()
    kill(waiter.pid)
    waiter.join()
    event.set()
    return "value", f"set returns, is_set is {event.is_set()}"


def barrier(_make, clock):
    barrier = mp.Barrier(3)
    party = child(barrier.wait)
    found = []
    waiting = threading.Thread(target=lambda: found.append(ended(barrier.wait)), daemon=True)
    waiting.start()
    while barrier.n_waiting < 2:
        time.sleep(0.01)
    clock.start()
    kill(party.pid)
    waiting.join()
    return found[0]


def take_and_hang(queue, there):
    queue.get()
    there.set()
    time.sleep(HANG)


def task_done(_make, clock):
    queue, there = mp.JoinableQueue(), mp.Event()
    queue.put(7)
    consumer = child(take_and_hang, queue, there)
    there.wait()
    clock.start()
    kill(consumer.pid)
    consumer.join()
    queue.join()
    return "value", "join returns"


def executor(make, clock):
    pool = make(4)
    gets = [pool.submit(nap, 1.0) for _ in range(4)]
    time.sleep(0.5)
    victim = pool.pids()[1]
    clock.start()
    kill(victim)
    found = outcomes(gets)
    never = found.count(None)
    if never:
        return "hang", f"{never} of 4 never ends"
    failed = [text for kind, text in found if kind == "error"]
    named = any(str(victim) in text for text in failed)
    return "error", f"{len(failed)} of 4 fail, and the process is {'' if named else 'not '}named"


def parent(peer, clock):
    arguments = [sys.executable, __file__, "parent_program", peer]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    process.stdout.readline()
    below = descendants(process.pid)
    clock.start()
    process.kill()
    process.wait()
    left = below
    while left and clock.seconds() < LIMIT:
        time.sleep(0.001)
        left = [pid for pid in below if is_running(pid)]
    if left:
        return "left", f"{len(left)} of {len(below)} processes live on after {LIMIT:.0f} s"
    return "value", "no process is left"


def parent_program(peer, _clock):
    pool = POOLS[peer]()(2)
    for _ in range(2):
        pool.submit(hang)
    time.sleep(0.5)
    print("ready", flush=True)
    time.sleep(HANG)


def reader(_make, clock):
    queue = mp.Queue()
    getting = child(queue.get)
    time.sleep(0.3)
    clock.start()
    kill(getting.pid)
    getting.join()
    queue.put(7)
    return "value", f"others get {queue.get()}"


def cell(make, clock, how, step):
    pool = make(1)
    pool.submit(same, 1)()
    clock.start()
    (outcome,) = outcomes([pool.submit(call, Odd(how, step))])
    clock.stop()
    kind, text = outcome or ("hang", NOTHING)
    (later,) = outcomes([lambda: pool.submit(same, 1)()], LATER)
    pool_is = {"value": "usable", "error": "broken"}[later[0]] if later else "stuck"
    return kind, f"{text}; pool {pool_is}"


# Of each case: the function, and whether it asks about a pool; if not, it is about CPython's
# synchronisation, which loky and the executor do not have one of their own of.
CASES = {
    "worker_killed": (worker_killed, True),
    "idle_killed": (idle_killed, True),
    "task_exits": (task_exits, True),
    "initializer": (initializer, True),
    "callback": (callback, True),
    "undecodable": (undecodable_result, True),
    "closed": (closed, True),
    "window": (window, True),
    "lock": (lock, False),
    "condition": (condition, False),
    "event": (event, False),
    "barrier": (barrier, False),
    "task_done": (task_done, False),
    "executor": (executor, True),
    "parent": (parent, True),
    "reader": (reader, False),
}


# Processes ----------------------------------------------------------------------------------------


def state_and_parent(pid):
    """Of a process that there is; a zombie's state is Z."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "gone", 0
    return fields[0], int(fields[1])


def is_running(pid):
    return state_and_parent(pid)[0] not in ("gone", "Z", "X")


def descendants(pid):
    """All below a process, zombies included."""
    below = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            below.setdefault(state_and_parent(entry)[1], []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        children = below.get(queue.pop(), [])
        found += children
        queue += children
    return found


def main():
    case, peer = sys.argv[1:]
    os.environ[OWNER] = str(os.getpid())
    clock = Clock()
    try:
        if case == "parent_program":
            parent_program(peer, clock)
        elif "/" in case:
            kind, text = cell(POOLS[peer](), clock, *case.split("/"))
        else:
            function, _ = CASES[case]
            kind, text = function(peer if function is parent else POOLS[peer](), clock)
        seen = [kind, clock.seconds(), text]
    except Exception as error:
        seen = ["broken", 0, repr(error)]
    print(json.dumps(seen), flush=True)
    # Pools that hang would not let it end.
    os._exit(0)


if __name__ == "__main__":
    # By its name, so that workers can import what they are sent.
    import crash_cases

    crash_cases.main()
