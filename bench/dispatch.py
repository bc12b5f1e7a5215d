"""What a cold `orch run` costs on top of a bare `docker run` of the same runner on the same images.

Usage: python -m bench.dispatch [--images 100 400] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.runtimes.guest_contract import QUEUE_NAME, GuestPaths, job_document
from orchestrator.runtimes.mounts import GUEST, GUEST_STACK
from orchestrator.system.container_engine import connect
from orchestrator.workflows.demo.scenes import write_scenes

MODEL = "garments-tiny"


def main() -> None:
    """Print a table of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'images':>7} {'bare docker run':>16} {'orch run':>9} {'ratio':>6}   (medians of {arguments.repeat}, s)")
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        for images in arguments.images:
            bare, whole = measure(Path(scratch) / str(images), images, arguments.repeat)
            print(f"{images:>7} {bare:>16.2f} {whole:>9.2f} {whole / bare:>6.2f}", flush=True)


def measure(folder: Path, images: int, repeat: int) -> tuple[float, float]:
    """Median seconds of the bare container and of the whole command, taken in turns."""
    write_scenes(folder / "scenes", range(images))
    orch_run(folder, "warm-up")
    bare, whole = [], []
    for number in range(repeat):
        whole.append(timed(partial(orch_run, folder, f"run-{number}")))
        bare.append(timed(bare_run(folder, number)))
    return statistics.median(bare), statistics.median(whole)


def timed(action: Callable[[], object]) -> float:
    """Seconds an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def orch_run(folder: Path, name: str) -> None:
    """The command as a user types it."""
    command = [sys.executable, "-m", "orchestrator", "run", "-m", MODEL, "-i", str(folder / "scenes"),
               "--runtime", "docker", "-o", str(folder / name), "-q"]  # fmt: skip
    subprocess.run(command, check=True)


def bare_run(folder: Path, number: int) -> Callable[[], object]:
    """The same job, laid out beforehand and given to one hardened container; what is returned starts it."""
    recorded = json.loads((folder / "warm-up" / "run.json").read_text())
    base = folder / f"bare-{number}"
    queue = base / "job" / "queue"
    queue.mkdir(parents=True)
    for name in ("out", "cache", "weights"):
        (base / name).mkdir()
    write_job(base, recorded)
    listed = [json.loads(line) for line in (folder / "warm-up" / "inputs.jsonl").read_text().splitlines()]
    size = recorded["shard_size"]
    for shard in range(recorded["shards"]):
        part = [
            {key: one[key] for key in ("index", "file", "path", "size", "mtime_ns")}
            for one in listed[shard * size :][:size]
        ]
        order = {"shard": shard, "images": part, "skip": {}, "careful": False, "alone": []}
        (queue / f"{shard:05d}.json").write_text(json.dumps(order))
    for name in ("alive", "end"):
        (queue / name).touch()
    command = docker_command(base, folder / "scenes", recorded)
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write_job(base: Path, recorded: dict[str, Any]) -> None:
    """job.json as orch writes it."""
    from orchestrator.catalog.loader import load_catalog
    from orchestrator.paths import weights_folder

    resolved = recorded["resolved"]
    entry = load_catalog().model(MODEL)
    stored = weights_folder(entry.stack.name, entry.name) / entry.spec.weights["onnx"].file
    shutil.copyfile(stored, base / "weights" / stored.name)
    data, weights, out, cache, job = (GUEST[name] for name in ("data", "weights", "out", "cache", "job"))
    threads = os.cpu_count() or 1
    settings = {
        "run": "bench", "plan": recorded["plan"], "predictor": entry.stack.spec.predictor,
        "model": {"name": MODEL, "task": entry.spec.task, "settings": resolved["settings"], "config": None,
                  "weights": {"onnx": {"file": stored.name, "sha256": None, "package": None}}},
        "native": resolved["native"], "device": "cpu", "exif": "apply",
        "score_threshold": resolved["score_threshold"], "max_detections": resolved["max_detections"],
        "max_pixels": 250_000_000, "batch_size": 1, "threads": threads, "readers": max(2, threads), "attributes": 0,
        "image_scores": False,
    }  # fmt: skip
    paths = GuestPaths(data, weights, out, cache, job / QUEUE_NAME, GUEST_STACK)
    document = {**job_document(settings, "w0", paths), "alive_timeout": 600}
    (base / "job" / "job.json").write_text(json.dumps(document))


def docker_command(base: Path, scenes: Path, recorded: dict[str, Any]) -> list[str]:
    """A bare `docker run`, as hardened as orch's containers are."""
    client = next(path for path in ("/usr/bin/docker", shutil.which("docker")) if path and Path(path).exists())
    mounts = [(base / "job", "/job", "ro"), (base / "weights", "/weights", "ro"), (base / "out", "/out", "rw"),
              (base / "cache", "/cache", "rw"), (scenes, "/data/0", "ro")]  # fmt: skip
    volumes = [part for source, target, mode in mounts for part in ("-v", f"{source}:{target}:{mode}")]
    threads = str(os.cpu_count())
    return [client, "run", "--rm", "--init", "--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp",
            "--security-opt", "no-new-privileges", "--user", f"{os.getuid()}:{os.getgid()}",
            "-e", f"OMP_NUM_THREADS={threads}", "-e", "OMP_WAIT_POLICY=passive", *volumes,
            recorded["resolved"]["image_digest"], "python", "-m", "orch_runner", "/job/job.json"]  # fmt: skip


if __name__ == "__main__":
    connect()
    main()
