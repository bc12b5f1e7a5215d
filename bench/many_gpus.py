"""Makespan of 1,000 images of uneven cost on eight GPUs that are none: workers sleep, everything else is real.

Usage: python -m bench.many_gpus [--images 1000] [--mean 200] [--gpus 8] [--shard-size N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.fake_gpus import MODEL, uneven_costs, write_images, write_nvidia_smi, write_sleepy_stack


def main() -> None:
    """Print the measured time against the ideal: all sleeping, shared out evenly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--mean", type=float, default=200, help="milliseconds an image takes")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--shard-size", type=int, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        folder = Path(scratch)
        costs = uneven_costs(arguments.images, arguments.mean)
        write_images(folder / "images", costs)
        write_sleepy_stack(folder / "stacks")
        smi = write_nvidia_smi(folder / "bin", arguments.gpus)
        os.environ["PATH"] = f"{smi}{os.pathsep}{os.environ['PATH']}"
        ideal = sum(costs) / 1000 / arguments.gpus
        print(f"{arguments.images} images, {min(costs)} to {max(costs)} ms; ideal {ideal:.1f} s")
        more = [] if arguments.shard_size is None else ["--shard-size", str(arguments.shard_size)]
        orch(folder, "warm-up", "--set", "scale=0", *more)
        for name, kill in (("all go on", False), ("one killed", True)):
            out = folder / name.replace(" ", "-")
            summary = orch(folder, out.name, *more, kill=kill)
            first, last = working(out)
            digest = hashlib.sha256((out / "predictions.npz").read_bytes()).hexdigest()[:12]
            print(
                f"{name}: {last - first:.1f} s from the first shard to the last, {(last - first) / ideal - 1:+.1%}; "
                f"with the workers' start {summary['seconds']['dispatch']:.1f} s; "
                f"{summary['predicted']} predicted, {summary['lost_workers']} lost; {digest}",
                flush=True,
            )


def orch(folder: Path, name: str, *more: str, kill: bool = False) -> dict[str, Any]:
    """One run of the command; a worker of it is killed with SIGKILL in the middle, if asked for."""
    out = folder / name
    command = [sys.executable, "-m", "orchestrator", "run", "--stacks", str(folder / "stacks"), "-m", MODEL,
               "-i", str(folder / "images"), "--runtime", "venv", "-o", str(out), "-q", *more]  # fmt: skip
    with subprocess.Popen(command) as process:
        if kill:
            threading.Thread(target=kill_one, args=(out,), daemon=True).start()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def kill_one(out: Path) -> None:
    """Kill a worker when a third of the shards are done."""
    shards = None
    while shards is None or len(list((out / "shards").glob("*.npz"))) < shards / 3:
        time.sleep(0.05)
        if shards is None and (out / "run.json").exists():
            shards = json.loads((out / "run.json").read_text())["shards"]
    hello = next(one for one in events(out) if one["event"] == "hello")
    os.kill(hello["pid"], signal.SIGKILL)


def events(out: Path) -> list[dict[str, Any]]:
    """The workers' events that are written so far."""
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines() if line.endswith("}")]


def working(out: Path) -> tuple[float, float]:
    """When the first shard was begun and the last one done, by the workers' clocks."""
    all_events = events(out)
    begun = min(one["time"] for one in all_events if one["event"] == "shard_started")
    return begun, max(one["time"] for one in all_events if one["event"] == "shard_done")


if __name__ == "__main__":
    main()
