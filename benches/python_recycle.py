"""Tasks with a process each for `benches/rows/surface.rs`: one line with a number of calls in, nanoseconds
out.

Requests are read without a buffer: a worker that is forked while another thread holds the buffer's lock
waits for it for ever, which is what a worker does first when it closes its standard input.

Started with `python3 -c`, so the workers must be forked: a fresh interpreter could not import the
function from here.
"""

import multiprocessing
import platform
import time


def square_plus_one(x):
    return x * x + 1


def main():
    context = multiprocessing.get_context("fork")
    with context.Pool(2, maxtasksperchild=1) as pool:
        print(platform.python_implementation(), platform.python_version(), flush=True)
        requests = open(0, "rb", buffering=0, closefd=False)
        for line in iter(requests.readline, b""):
            calls = int(line)
            start = time.perf_counter_ns()
            results = pool.map(square_plus_one, range(calls), chunksize=1)
            elapsed = time.perf_counter_ns() - start
            assert len(results) == calls
            print(elapsed, flush=True)


if __name__ == "__main__":
    main()
