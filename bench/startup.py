"""How long the command line takes to answer, against a bare Python.

Usage: python -m bench.startup [--repeat 10]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "orch --help": [sys.executable, "-m", "orchestrator", "--help"],
    "orch models": [sys.executable, "-m", "orchestrator", "models"],
    "orch run --help": [sys.executable, "-m", "orchestrator", "run", "--help"],
}


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=10)
    repeat = parser.parse_args().repeat
    bare = 0.0
    for name, command in COMMANDS.items():
        seconds = statistics.median(timed(command) for _ in range(repeat))
        bare = bare or seconds
        print(f"{name:<18} {seconds:.3f} s   {seconds / bare:.1f}x")


def timed(command: list[str]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
