"""Measures for `benches/sync_rows`: one line with what to do in, nanoseconds out.

    lock CALLS                  acquire and release a Lock, uncontended
    barrier CYCLES [CORE CORE]  two processes pass a Barrier, on a core each if these are named

Started with `python3 -c`, so the second process must be forked: a fresh interpreter could not import
the function from here.
"""

import multiprocessing
import os
import platform
import sys
import time

context = multiprocessing.get_context("fork")


def lock(calls):
    lock = context.Lock()
    acquire, release = lock.acquire, lock.release
    start = time.perf_counter_ns()
    for _ in range(calls):
        acquire()
        release()
    return time.perf_counter_ns() - start


def cycle(barrier, cycles):
    wait = barrier.wait
    for _ in range(cycles):
        wait()


def second(barrier, cycles, cores):
    if cores:
        os.sched_setaffinity(0, cores[1:])
    cycle(barrier, cycles + 1)


def barrier(cycles, *cores):
    barrier = context.Barrier(2)
    anywhere = os.sched_getaffinity(0)
    other = context.Process(target=second, args=(barrier, cycles, cores))
    other.start()
    if cores:
        os.sched_setaffinity(0, cores[:1])
    # Both are there.
    barrier.wait()
    start = time.perf_counter_ns()
    cycle(barrier, cycles)
    elapsed = time.perf_counter_ns() - start
    os.sched_setaffinity(0, anywhere)
    other.join()
    assert other.exitcode == 0
    return elapsed


def main():
    print(platform.python_implementation(), platform.python_version(), flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        measure = {"lock": lock, "barrier": barrier}[name]
        print(measure(*map(int, numbers)), flush=True)


if __name__ == "__main__":
    main()
