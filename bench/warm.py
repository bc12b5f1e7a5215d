"""What a request of one image costs on a warm worker, beside its forward pass and a cold run.

Usage: python -m bench.warm [--repeat 20] [--commands 3] [--runtime docker]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from bench.dispatch import timed
from orchestrator.catalog.bundled import RUNNER
from orchestrator.catalog.loader import ModelEntry, load_catalog
from orchestrator.catalog.weights import ensure_weights
from orchestrator.dispatch.executors import Work
from orchestrator.dispatch.launcher import job_settings
from orchestrator.dispatch.local import predict_missing
from orchestrator.hardware import Selection, cores
from orchestrator.inputs.collect import collect_inputs
from orchestrator.paths import RunPaths, weights_folder
from orchestrator.plan.options import RunOptions
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import make_request
from orchestrator.plan.run_directory import record_plan
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.guest_contract import GuestPaths, job_document
from orchestrator.runtimes.registry import get_runtime
from orchestrator.runtimes.warm.heartbeat import list_worker_ids
from orchestrator.runtimes.warm.select import select_warm
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder
from orchestrator.system.container_engine import connect
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.demo.scenes import write_scenes

MODEL = "garments-tiny"
FORWARD = """
import statistics, sys, time
from pathlib import Path
from orch_runner.contract import read_job
from orch_runner.decode import decode
from orch_runner.predictor import Image
from orch_runner.worker import load_predictor
job = read_job(Path(sys.argv[1]))
predictor = load_predictor(job)
pixels = decode(Path(sys.argv[2]), predictor.decoder, predictor.color, job.exif, job.max_pixels)
taken = []
for _ in range(50):
    started = time.perf_counter()
    predictor.predict([Image("one", pixels)])
    taken.append(time.perf_counter() - started)
print(statistics.median(taken))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="requests")
    parser.add_argument("--commands", type=int, default=3, help="whole commands, warm and cold")
    parser.add_argument("--runtime", choices=["docker", "venv"], default="docker")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        measure(Path(scratch), arguments.runtime, arguments.repeat, arguments.commands)


def measure(folder: Path, runtime: str, repeat: int, commands: int) -> None:
    """Medians of the forward pass, the request, and the whole command warm and cold."""
    entry = load_catalog().model(MODEL)
    for name in ("data", "cache", "opt"):
        (folder / name).mkdir()
    make_variant_folder(spool_in(folder, entry), (os.getuid(), os.getgid()), is_default=False)
    write_scenes(folder / "data", range(1))
    ensure_weights(entry, offline=False, progress=lambda there, total: None)
    prepared = {name: made(entry, name) for name in {runtime, "venv"}}
    with worker(folder, prepared[runtime], entry):
        requests = [request(folder, entry, number) for number in range(repeat + 3)][3:]
        warm = [timed(partial(command, folder, f"warm-{number}", "--warm")) for number in range(commands)]
    forward = forward_pass(folder, entry, Path(prepared["venv"].location))
    cold = [timed(partial(command, folder, f"cold-{number}", "--runtime", runtime)) for number in range(commands)]
    rows = {
        "forward pass alone": forward,
        "request, shard in the run directory": statistics.median(one for one, _ in requests),
        "request, job ended and cleared away": statistics.median(whole for _, whole in requests),
        "orch run --warm": statistics.median(warm),
        f"orch run --no-warm --runtime {runtime}": statistics.median(cold),
    }
    print(f"{f'{MODEL}, one image, medians':<40} {'':>10} {'above the forward pass':>24}")
    for name, seconds in rows.items():
        print(f"{name:<40} {1000 * seconds:>7.1f} ms {1000 * (seconds - forward):>21.1f} ms", flush=True)


def spool_in(folder: Path, entry: ModelEntry) -> VariantSpool:
    """The spool's folder of the model's variant for CPUs."""
    return VariantSpool(folder / "spool", entry.stack.name, "cpu")


def made(entry: ModelEntry, runtime: str) -> Prepared:
    """The model's variant for CPUs, made real."""
    return get_runtime(runtime).prepare(entry.stack, "cpu", BuildOptions(), lambda line: None)


class Watching(SilentDisplay):
    """Remembers when the first image was counted as done: its shard is in the run directory then."""

    def __init__(self) -> None:
        self.done_at = 0.0

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Note the time."""
        if done and not self.done_at:
            self.done_at = time.perf_counter()


def request(folder: Path, entry: ModelEntry, number: int) -> tuple[float, float]:
    """Seconds from handing over the image until its shard is there, and until all is over."""
    paths = RunPaths(folder / f"request-{number}")
    choice = Selection("cpu", "cpu", "")
    warm = select_warm(entry, choice, paths, BuildOptions(), folder / "spool", print)
    with closing(warm.runtime) as runtime:
        prepared = runtime.prepare(entry.stack, "cpu", BuildOptions(), print)
        plan = make_plan(folder, entry, prepared)
        runtime.accept(plan.inputs, plan.weights)
        record_plan(runtime.paths, plan, None, {})
        weights = weights_folder(entry.stack.name, entry.name)
        display = Watching()
        started = time.perf_counter()
        predict_missing(Work(plan, runtime.paths, runtime, weights, ("cpu",), 1, warm.threads), display)
        ended = time.perf_counter()
    assert paths.shard(0).exists()
    return display.done_at - started, ended - started


def make_plan(folder: Path, entry: ModelEntry, prepared: Prepared) -> Plan:
    """The plan of a run of the one image."""
    options = RunOptions(images=[str(folder / "data")])
    weights = ensure_weights(entry, offline=True, progress=lambda there, total: None)
    inputs = collect_inputs(options.images, folder / "unpacked")
    return Plan(make_request(entry, options, "docker", "cpu", "cpu"), entry, prepared, weights, inputs, 1)


def command(folder: Path, name: str, *more: str) -> None:
    """The command as a user types it."""
    base = [sys.executable, "-m", "orchestrator", "run", "-m", MODEL, "-i", str(folder / "data"), "-q"]
    spool = ["--spool", str(folder / "spool")] if "--warm" in more else ["--no-warm"]
    subprocess.run([*base, *spool, *more, "-o", str(folder / name)], check=True)


def forward_pass(folder: Path, entry: ModelEntry, environment: Path) -> float:
    """Median seconds of the predictor alone, on the decoded image, in the stack's own environment."""
    plan = make_plan(folder, entry, made(entry, "venv"))
    weights, cache = weights_folder(entry.stack.name, entry.name), folder / "cache"
    paths = GuestPaths(folder / "data", weights, folder, cache, folder, entry.stack.folder)
    (folder / "job.json").write_text(json.dumps(job_document(job_settings(plan, cores()), "w0", paths)))
    scene = next((folder / "data").rglob("*.[jp][pn]g"))
    run = [str(environment / "bin" / "python"), "-c", FORWARD, str(folder / "job.json"), str(scene)]
    variables = {**os.environ, "PYTHONPATH": str(RUNNER)}
    done = subprocess.run(run, env=variables, check=True, capture_output=True, text=True)
    return float(done.stdout)


@contextmanager
def worker(folder: Path, prepared: Prepared, entry: ModelEntry) -> Iterator[subprocess.Popen[bytes]]:
    """A warm worker, as a hardened container or as a process."""
    weights = weights_folder(entry.stack.name, entry.name).parent
    own = {"ORCH_STACK": entry.stack.name, "ORCH_VARIANT": "cpu", "ORCH_DEVICE": "cpu"}
    own["ORCH_DATA_HOST"] = str(folder / "data")
    if prepared.runtime == "docker":
        start = docker_command(folder, spool_in(folder, entry).root, weights, prepared, own)
    else:
        build_inputs(entry.stack, "cpu", BuildOptions()).write_context(folder / "opt", {})
        paths = {name: str(folder / name) for name in ("data", "cache", "opt")} | {"weights": str(weights)}
        own |= {"ORCH_PATHS": json.dumps(paths), "PYTHONPATH": str(folder / "opt" / "runner")}
        start = [f"{prepared.location}/bin/python", "-m", "orch_runner.serve", str(spool_in(folder, entry).root)]
    process = subprocess.Popen(start, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with spool_in(folder, entry).open() as tree:
            while not list_worker_ids(tree):
                assert process.poll() is None, "the warm worker did not start"
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def docker_command(
    folder: Path, spool: Path, weights: Path, prepared: Prepared, environment: dict[str, str]
) -> list[str]:
    """A `docker run` as hardened as orch's containers are."""
    from orchestrator.system.container_engine import build_command

    mounts = [(spool, "/spool", "rw"), (folder / "cache", "/cache", "rw"), (folder / "data", "/data", "ro"),
              (weights, "/weights", "ro")]  # fmt: skip
    volumes = [part for source, target, mode in mounts for part in ("-v", f"{source}:{target}:{mode}")]
    settings = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
    return [build_command()[0], "--host", connect().url, "run", "--rm", "--init", "--network", "none", "--read-only",
            "--cap-drop", "ALL", "--tmpfs", "/tmp", "--security-opt", "no-new-privileges", "--label", "org.orch.warm=1",
            "--user", f"{os.getuid()}:{os.getgid()}", "-e", "OMP_WAIT_POLICY=passive", *settings, *volumes,
            str(prepared.digest), "python", "-m", "orch_runner.serve", "/spool"]  # fmt: skip


if __name__ == "__main__":
    main()
