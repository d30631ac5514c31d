"""Maps for `benches/rows/map.rs`: one line with a number of calls in, nanoseconds out.

Started with `python3 -c`, so the workers must be forked: a fresh interpreter could not import the
function from here.
"""

import multiprocessing
import platform
import sys
import time


def square_plus_one(x):
    return x * x + 1


def main():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(platform.python_implementation(), platform.python_version(), flush=True)
        for line in sys.stdin:
            calls = int(line)
            start = time.perf_counter_ns()
            results = pool.map(square_plus_one, range(calls))
            elapsed = time.perf_counter_ns() - start
            assert len(results) == calls
            print(elapsed, flush=True)


if __name__ == "__main__":
    main()
