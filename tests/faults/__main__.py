"""`python -m tests.faults --seed S --cases N`: random faults; a failing case prints its number, which repeats it.

A case is one run with one to nine faults until it is complete; `--faults N` carries out cases until there were so many.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from tests.faults.cases import Case
from tests.faults.setup import WORKERS, Setup, open_setup

PROGRESS_EVERY = 50
"""Faults after which the counts so far are printed."""
_ENGINE = threading.Lock()
"""Held by a case on the private engine: another one would be disturbed by its restarts."""


def carry_out(setup: Setup, seed: int, runtime: str, *, verbose: bool) -> Case:
    """Carry out one case, and print it if it fails."""
    said: list[str] = []
    case = Case(setup, seed, runtime, said.append)
    with _ENGINE if runtime == "engine" else nullcontext():
        problems = case.run()
    if problems or verbose:
        print(f"case {seed} {runtime}: {case.model} {' '.join(case.options)}", *said, sep="\n", flush=True)
        for problem in problems:
            print(f"  PROBLEM: {problem}", flush=True)
    return case


def describe(counts: Counter[str], started: float) -> str:
    """Return a line with the counts."""
    runs = ", ".join(f"{counts[name]} {name}" for name in WORKERS if counts[name])
    seconds = time.monotonic() - started
    return (
        f"{counts['faults']} faults in {counts['cases']} runs ({runs}), {counts['problems']} problems, {seconds:.0f} s"
    )


def main() -> int:
    """Carry out the cases and print counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="number of the first case")
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--faults", type=int, default=100, help="carry out cases until there were so many")
    parser.add_argument(
        "--runtime", action="append", choices=tuple(WORKERS), metavar="NAME",
        help=f"{', '.join(WORKERS)}; cases take turns on all that are given, also on one given twice; default: venv",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    runtimes = options.runtime or ["venv"]
    counts: Counter[str] = Counter()
    numbers, lock = itertools.count(options.seed), threading.Lock()
    started = time.monotonic()

    def work(setup: Setup) -> None:
        while counts["cases"] < options.cases and counts["faults"] < options.faults:
            number = next(numbers)
            case = carry_out(setup, number, runtimes[number % len(runtimes)], verbose=options.verbose)
            with lock:
                before = counts["faults"]
                counts.update({"cases": 1, "faults": case.faults, "problems": len(case.problems), case.runtime: 1})
                if before // PROGRESS_EVERY < counts["faults"] // PROGRESS_EVERY:
                    print(describe(counts, started), file=sys.stderr, flush=True)

    with open_setup(runtimes) as setup, ThreadPoolExecutor(options.jobs) as pool:
        for worker in [pool.submit(work, setup) for _ in range(options.jobs)]:
            worker.result()
    print(describe(counts, started))
    return 1 if counts["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
