"""Measures for `benches/collections_rows`: one line with what to do in, nanoseconds out.

    dict_get CALLS                 a Manager's dict of 100000 int keys, a random one each time
    dict_set CALLS                 the same, replacing values
    record_get CALLS               100000 keys of 16 characters, values that are tuples of 10 numbers
    record_set CALLS
    list_get CALLS                 a Manager's list of 100000 ints, a random one each time
    list_push CALLS                append to a Manager's list that is empty at first
    queue BYTES EACH CORE CORE CALLS
                                   EACH producers and as many consumers at a multiprocessing.Queue;
                                   values are an int if BYTES is 8, or else so many bytes
    pipe CORE CORE CALLS           an int to the other end of a multiprocessing.Pipe, and back

Started with `python3 -c`, so other processes must be forked: a fresh interpreter could not import the
functions from here.
"""

import functools
import multiprocessing
import os
import platform
import random
import sys
import time

KEYS = 100_000

context = multiprocessing.get_context("fork")
now = time.perf_counter_ns


@functools.cache
def manager():
    return context.Manager()


@functools.cache
def numbers():
    chance = random.Random(1)
    return [chance.getrandbits(64) for _ in range(KEYS)]


@functools.cache
def int_dict():
    shared = manager().dict()
    shared.update({number: number ^ 1 for number in numbers()})
    return shared


def record(number):
    first = number >> 8
    return (
        first,
        number % 10_000_000_000,
        1_700_000_000 + number % 100_000_000,
        1_800_000_000 + number % 100_000_000,
        number / 100,
        first / 100,
        5000.0,
        0.035,
        number % 900,
        first + 9,
    )


def record_dict():
    shared = manager().dict()
    shared.update({f"{number:016x}": record(number) for number in numbers()})
    return shared


@functools.cache
def int_list():
    return manager().list(range(KEYS))


def get_each(shared, keys):
    start = now()
    for key in keys:
        value = shared[key]
    elapsed = now() - start
    return elapsed, value


def dict_get(calls):
    keys = random.sample(numbers(), calls)
    elapsed, value = get_each(int_dict(), keys)
    assert value == keys[-1] ^ 1
    return elapsed


def record_get(calls):
    keys = random.sample(numbers(), calls)
    elapsed, value = get_each(record_dict(), [f"{number:016x}" for number in keys])
    assert value == record(keys[-1])
    return elapsed


def list_get(calls):
    keys = random.sample(range(KEYS), calls)
    elapsed, value = get_each(int_list(), keys)
    assert value == keys[-1]
    return elapsed


def set_each(shared, entries):
    start = now()
    for key, value in entries:
        shared[key] = value
    elapsed = now() - start
    assert len(shared) == KEYS
    return elapsed


def dict_set(calls):
    keys = random.sample(numbers(), calls)
    return set_each(int_dict(), [(number, number ^ 1) for number in keys])


def record_set(calls):
    keys = random.sample(numbers(), calls)
    return set_each(record_dict(), [(f"{number:016x}", record(number)) for number in keys])


def list_push(calls):
    shared = manager().list()
    start = now()
    for number in range(calls):
        shared.append(number)
    elapsed = now() - start
    assert len(shared) == calls
    return elapsed


def produce(queue, size, calls):
    put = queue.put
    if size == 8:
        for number in range(calls):
            put(number)
    else:
        value = bytes(size)
        for _ in range(calls):
            put(value)


def produce_there(queue, size, calls, cores, begin):
    os.sched_setaffinity(0, cores)
    begin.wait()
    produce(queue, size, calls)


def consume_there(queue, size, calls, cores, begin, done):
    os.sched_setaffinity(0, cores)
    begin.wait()
    get = queue.get
    for _ in range(calls):
        value = get()
    assert size == 8 or len(value) == size
    done.release()


def queue(size, each, here, there, calls):
    shared, begin, done = context.Queue(), context.Barrier(2 * each), context.Semaphore(0)
    calls //= each
    # One to one: a core for each. Otherwise the kernel places them on the two.
    cores = ({here}, {there}) if each == 1 else ({here, there}, {here, there})
    arguments = (shared, size, calls)
    others = [
        context.Process(target=consume_there, args=(*arguments, cores[1], begin, done))
        for _ in range(each)
    ]
    others += [
        context.Process(target=produce_there, args=(*arguments, cores[0], begin))
        for _ in range(each - 1)
    ]
    for other in others:
        other.start()
    anywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores[0])
    begin.wait()
    start = now()
    produce(*arguments)
    for _ in range(each):
        done.acquire()
    elapsed = now() - start
    os.sched_setaffinity(0, anywhere)
    end(others)
    shared.close()
    shared.join_thread()
    return elapsed


def answer(end, core, calls):
    os.sched_setaffinity(0, {core})
    for _ in range(calls):
        end.send(end.recv())


def pipe(here, there, calls):
    near, far = context.Pipe()
    other = context.Process(target=answer, args=(far, there, calls + 1))
    other.start()
    anywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {here})
    near.send(0)
    near.recv()
    start = now()
    for number in range(calls):
        near.send(number)
        value = near.recv()
    elapsed = now() - start
    os.sched_setaffinity(0, anywhere)
    end([other])
    assert value == calls - 1
    return elapsed


def end(others):
    for other in others:
        other.join()
        assert other.exitcode == 0


MEASURES = {
    measure.__name__: measure
    for measure in (dict_get, dict_set, record_get, record_set, list_get, list_push, queue, pipe)
}


def main():
    print(platform.python_implementation(), platform.python_version(), flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        print(MEASURES[name](*map(int, numbers)), flush=True)


if __name__ == "__main__":
    main()
