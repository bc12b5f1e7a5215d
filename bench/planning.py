"""What planning costs: time and memory from a list of ten million images to shards, of resuming, and of a folder.

A listing is made up: names, sizes and times come from a generator, no file is there. The list is a text file that names
real files, each of which is examined: 10,000 of them, in one folder that has a thousand names. The folder has files of
its own, 1,000 in each subfolder. All on the machine's own disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.catalog.loader import load_catalog
from orchestrator.inputs.collect import InputSet, collect_inputs, open_inputs
from orchestrator.inputs.folders import SourceImage
from orchestrator.inputs.listing import Listing
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import Request
from orchestrator.plan.run_directory import open_run, record_plan
from orchestrator.plan.shards import default_shard_size
from orchestrator.runtimes.base import Prepared

FILES_PER_NAME = 10_000
FILES_PER_FOLDER = 1_000


def main() -> None:
    """Make the inputs, plan, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.planning", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000_000, help="images on the list")
    parser.add_argument("--files", type=int, default=200_000, help="files in the folder")
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: a temporary folder)")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        TASKS[args.task](args.folder)
        return
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-planning-") as name:
        folder = Path(name)
        write_list(folder, args.images)
        write_folder(folder / "photos", args.files)
        print(f"{'':42}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}  shards")
        _print(f"a listing of {args.images:,}: planned", _measured("listing", folder))
        for task, what in (("list", f"a list of {args.images:,}"), ("folder", f"a folder of {args.files:,}")):
            _print(f"{what}: planned", _measured(task, folder))
            _print(f"{what}: resumed", _measured(task, folder))
        _print("the shards of the list, one after another", _measured("shards", folder))


def write_list(folder: Path, images: int) -> None:
    """images.txt with so many names, all of files that are there."""
    real = folder / "real"
    real.mkdir()
    names = [f"IMG_{number:05d}.jpg" for number in range(FILES_PER_NAME)]
    for name in names:
        (real / name).write_bytes(b"x" * 10)
    with (folder / "images.txt").open("w", encoding="utf-8") as stream:
        for number in range(-(-images // FILES_PER_NAME)):
            linked = folder / "shoots" / f"{number:04d}"
            linked.parent.mkdir(exist_ok=True)
            linked.symlink_to(real)
            here = names[: images - number * FILES_PER_NAME]
            stream.write("".join(f"{linked}/{name}\n" for name in here))


def write_folder(folder: Path, files: int) -> None:
    """A folder of small files."""
    for number in range(files):
        below = folder / f"{number // FILES_PER_FOLDER:04d}"
        if number % FILES_PER_FOLDER == 0:
            below.mkdir(parents=True)
        (below / f"IMG_{number:07d}.jpg").write_bytes(b"x")


def _print(what: str, result: dict[str, float]) -> None:
    print(f"{what:42}{result['wall']:8.1f}{result['cpu']:8.1f}{result['peak_mb']:9.0f}  {result['shards']:,.0f}")


def _measured(task: str, folder: Path) -> dict[str, float]:
    """Run a task in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "bench.planning", "--task", task, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _plan_listing(folder: Path) -> None:
    """As `_plan`, with everything but the files themselves."""
    count = sum(1 for _ in (folder / "images.txt").open())
    paths, source = RunPaths(folder / "run-listing"), folder / "images.txt"
    wall, cpu = time.perf_counter(), time.process_time()
    with open_run(paths, _request(source)) as earlier:
        listing = Listing(paths.root)
        listing.add(made_up(str(folder), count))
        images, roots = listing.images(paths.root, [])
        plan = _plan_of(source, InputSet(images, roots, ()))
        record_plan(paths, plan, earlier, {})
    if len(images) != count or images.unreadable:
        raise SystemExit("the plan is wrong")
    _report(wall, cpu, len(plan.shards))


def made_up(root: str, count: int) -> Iterator[SourceImage]:
    """So many images of different names, with the state of one file."""
    state = os.lstat(__file__)
    for number in range(count):
        name = f"shoots/{number // FILES_PER_NAME:04d}/IMG_{number % FILES_PER_NAME:05d}.jpg"
        yield SourceImage(root, name, root, state=state)


def _plan_list(folder: Path) -> None:
    _plan(folder / "images.txt", RunPaths(folder / "run-list"))


def _plan_folder(folder: Path) -> None:
    _plan(folder / "photos", RunPaths(folder / "run-folder"))


def _plan(source: Path, paths: RunPaths) -> None:
    """From the source to a run directory with all that workers need, or to the check that nothing changed."""
    wall, cpu = time.perf_counter(), time.process_time()
    with open_run(paths, _request(source)) as earlier:
        inputs = collect_inputs([str(source)], paths.unpacked)
        plan = _plan_of(source, inputs)
        record_plan(paths, plan, earlier, {})
        first, last = plan.images_of(0), plan.images_of(plan.shards[-1])
    if (first[0].index, last[-1].index) != (0, len(inputs.images) - 1) or inputs.images.unreadable:
        raise SystemExit("the plan is wrong")
    _report(wall, cpu, len(plan.shards))


def _read_shards(folder: Path) -> None:
    """The images of each shard, as a task on another machine reads them from the run directory."""
    paths = RunPaths(folder / "run-list")
    wall, cpu = time.perf_counter(), time.process_time()
    recorded = json.loads(paths.run_json.read_text(encoding="utf-8"))
    images = open_inputs(paths.inputs, recorded["resolved"]["inputs"]["digest"])
    plan = _plan_of(folder / "images.txt", InputSet(images, (), ()))
    read = sum(len(plan.images_of(shard)) for shard in plan.shards)
    if read != len(images):
        raise SystemExit("images are missing")
    _report(wall, cpu, len(plan.shards))


def _request(source: Path) -> Request:
    return Request("garments-tiny", (str(source),), None, "venv", "cpu", "cpu", "apply", None, None, 1, {}, None)


def _plan_of(source: Path, inputs: InputSet) -> Plan:
    entry = load_catalog().model("garments-tiny")
    prepared = Prepared(entry.stack, "cpu", "venv", "none", "nowhere")
    return Plan(_request(source), entry, prepared, {}, inputs, default_shard_size(len(inputs.images)))


def _report(wall: float, cpu: float, shards: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps({**spent, "peak_mb": peak, "shards": shards}))


TASKS: dict[str, Callable[[Path], None]] = {
    "listing": _plan_listing,
    "list": _plan_list,
    "folder": _plan_folder,
    "shards": _read_shards,
}


if __name__ == "__main__":
    main()
