"""What a warm worker holds after many requests: memory, descriptors, threads, files; it must not grow.

Usage: python -m bench.endurance [--requests 20000] [--first 1000]

Requests of one image each are given to one worker in this process, as `orch run` gives them. What worker, model
process, spool and this process hold after the first 1,000 and after all of them may differ by 5%; else it exits with 1.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.warm import MODEL, made, request, spool_in, worker
from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.weights import ensure_weights
from orchestrator.runtimes.warm.spool import make_variant_folder
from orchestrator.workflows.demo.scenes import write_scenes

TOLERANCE = 0.05


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=1000, help="requests before the first count")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orch-endurance-") as scratch:
        counts = measure(Path(scratch), (arguments.first, arguments.requests))
    early, late = counts
    grown = [name for name, count in late.items() if count > early[name] * (1 + TOLERANCE)]
    print(f"{'':<28}{arguments.first:>12}{arguments.requests:>12}")
    for name, count in late.items():
        print(f"{name:<28}{early[name]:>12}{count:>12}{'  more than 5% larger' if name in grown else ''}")
    return 1 if grown else 0


def measure(folder: Path, stops: Sequence[int]) -> list[dict[str, int]]:
    """Make requests one after another; return what is held after each of these numbers of them."""
    entry = load_catalog().model(MODEL)
    for name in ("data", "cache", "opt"):
        (folder / name).mkdir()
    make_variant_folder(spool_in(folder, entry), (os.getuid(), os.getgid()), is_default=False)
    write_scenes(folder / "data", range(1))
    ensure_weights(entry, offline=False, progress=lambda there, total: None)
    counts, started = [], time.monotonic()
    with worker(folder, made(entry, "venv"), entry) as process:
        for number in range(1, max(stops) + 1):
            request(folder, entry, number)
            shutil.rmtree(folder / f"request-{number}")
            if number in stops:
                time.sleep(2.0)  # a heartbeat, and threads that have just ended their jobs
                gc.collect()  # of this process: files in cycles stay open until then
                counts.append(count_held(process.pid, folder))
            if number % 1000 == 0:
                print(f"{number} requests, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return counts


def count_held(pid: int, folder: Path) -> dict[str, int]:
    """Return what the worker, its model processes, this process and their folders hold. Memory in MB."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return {
        "worker: memory, MB": sum(map(_resident_mb, pids)),
        "worker: descriptors": sum(_entries(f"/proc/{one}/fd") for one in pids),
        "worker: threads": sum(_entries(f"/proc/{one}/task") for one in pids),
        "files of spool and cache": sum(1 for name in ("spool", "cache") for _ in (folder / name).rglob("*")),
        "host: memory, MB": _resident_mb(os.getpid()),
        "host: descriptors": _entries("/proc/self/fd"),
        "host: threads": _entries("/proc/self/task"),
    }


def _resident_mb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def _entries(folder: str) -> int:
    return len(os.listdir(folder))


if __name__ == "__main__":
    sys.exit(main())
