"""`python -m tests.faults --seed S --cases N`: random faults; a failing case prints its number, which repeats it.

A case is one run with one to nine faults until it is complete; `--faults N` carries out cases until there were so many.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.cases import ROOT, Case, Setup

STACKS = ROOT / "tests" / "stacks"


def make_setup(root: Path, runtimes: list[str]) -> Setup:
    """Build the stack once, in a cache of its own."""
    base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
    environment = {
        **os.environ, "ORCH_HOME": str(root / "home"), "ORCH_STACKS": str(STACKS), "NO_COLOR": "1",
        **({"ORCH_BASE_IMAGE": base} if base else {}),
    }  # fmt: skip
    for runtime in runtimes:
        command = [sys.executable, "-m", "orchestrator", "build", "faulty", "--runtime", runtime]
        subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    return Setup(root, environment)


def carry_out(setup: Setup, seed: int, runtime: str, *, verbose: bool) -> Case:
    """Carry out one case, and print it if it fails."""
    said: list[str] = []
    case = Case(setup, seed, runtime, said.append)
    problems = case.run()
    if problems or verbose:
        print(f"case {seed} {runtime}: {case.model} {' '.join(case.options)}", *said, sep="\n", flush=True)
        for problem in problems:
            print(f"  PROBLEM: {problem}", flush=True)
    return case


def main() -> int:
    """Carry out the cases and print counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="number of the first case")
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--faults", type=int, default=100, help="carry out cases until there were so many")
    parser.add_argument("--runtime", action="append", choices=("venv", "docker"), help="default: venv")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    runtimes = options.runtime or ["venv"]
    counts: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orch-faults-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        setup, seed = make_setup(Path(folder), runtimes), options.seed
        while counts["cases"] < options.cases and counts["faults"] < options.faults:
            wave = range(seed, seed + options.jobs)
            seed += options.jobs
            for case in pool.map(
                lambda one: carry_out(setup, one, runtimes[one % len(runtimes)], verbose=options.verbose), wave
            ):
                counts.update(cases=1, faults=case.faults, problems=len(case.problems))
    seconds = time.monotonic() - started
    print(f"{counts['faults']} faults in {counts['cases']} runs, {counts['problems']} problems, {seconds:.0f} s")
    return 1 if counts["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
