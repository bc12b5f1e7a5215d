"""A run handed to a Slurm that is made of shell scripts: what they print is in files, what they are asked is noted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch.shared.work_file import WorkersPerTask, write_work_file
from orchestrator.dispatch.slurm.commands import COMMANDS
from orchestrator.inputs.collect import collect_inputs
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import Request
from orchestrator.plan.run_directory import open_run, record_plan
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.runtimes.build_inputs import result_parts
from orchestrator.system.files import sha256_of, write_json
from tests.unit.stack_samples import model_entry

SCRIPT = """#!/bin/sh
here=$(dirname "$0")
echo "$(basename "$0") $*" >> "$here/asked"
[ ! -e "$here/$(basename "$0").error" ] || { cat "$here/$(basename "$0").error" >&2; exit 1; }
cat "$here/$(basename "$0").out" 2>/dev/null
exit 0
"""


class FakeSlurm:
    """Slurm's commands first on the PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        for name in (*COMMANDS, "scontrol"):
            (folder / name).write_text(SCRIPT)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answers(self, command: str, text: str) -> None:
        """What it prints from now on."""
        (self.folder / f"{command}.out").write_text(text)

    def refuses(self, command: str, text: str) -> None:
        """It fails from now on."""
        (self.folder / f"{command}.error").write_text(text)

    @property
    def asked(self) -> list[str]:
        """All command lines so far."""
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []


def make_plan(folder: Path, images: int = 5, variant: str = "cpu", device: str = "cpu", **stack: Any) -> Plan:
    """A plan of shards of two images."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (folder / "in" / f"{number}.jpg").write_bytes(b"x")
    request = Request(
        model="tiny-model", images=(str(folder / "in"),), image_root=None, runtime="venv", variant=variant,
        device=device, exif="apply", score_threshold=None, max_detections=None, batch_size=1, settings={},
        shard_size=2,
    )  # fmt: skip
    entry = model_entry(folder / "stack", **stack)
    prepared = Prepared(entry.stack, variant, "venv", "b1", "/envs/e")
    inputs = collect_inputs([str(folder / "in")], folder / "unpacked")
    parts = result_parts(entry.stack, variant, BuildOptions()) if variant in entry.stack.spec.variants else {}
    return Plan(request, entry, prepared, {}, inputs, 2, parts)


def begun(folder: Path, plan: Plan, job: str | None = "12") -> RunPaths:
    """A run directory as it is after the run was handed over, its job submitted unless that is None."""
    paths = RunPaths(folder / "run")
    with open_run(paths, plan.request) as earlier:
        record_plan(paths, plan, earlier, {"why_variant": "asked for", "gpus": []})
    workers = WorkersPerTask(threads=3, batch_timeout=90.0)
    write_work_file(paths, plan, folder / "weights", BuildOptions(offline=True), workers, 30.0)
    if job is not None:
        write_json(paths.submission("slurm"), {"job": job, "tasks": 2, "submitted": 0.0, "options": {}})
    return paths


def finish_shards(paths: RunPaths, numbers: Sequence[int]) -> None:
    """Files of these shards, with nothing in them."""
    for number in numbers:
        paths.shard(number).write_bytes(b"")


def complete(paths: RunPaths) -> dict[str, Any]:
    """The summary of a run that is complete, one of whose images failed, beside some predictions."""
    paths.predictions.write_bytes(b"predictions")
    summary: dict[str, Any] = {
        "model": "tiny-model", "images": 5, "predicted": 4, "failed": 1, "instances": 7, "ignored": 0,
        "failures": [{"image_file": "a.jpg", "error": "cut off"}], "predictions": str(paths.predictions),
        "predictions_sha256": sha256_of(paths.predictions), "runtime": "venv", "variant": "cpu", "device": "cpu",
        "versions": {}, "notices": [], "lost_workers": 0, "retired": [], "seconds": {"dispatch": 1.0, "collect": 0.1},
    }  # fmt: skip
    write_json(paths.summary, summary)
    return summary


def task_record(
    paths: RunPaths, index: int, state: str, error: Mapping[str, Any] | None = None, job: str = "12"
) -> None:
    """What a task said of itself."""
    name = f"t{index:03d}-{state}"
    content = {
        "task": name,
        "index": index,
        "job": f"{job}_{index}",
        "node": f"n{index}",
        "started": 1.0,
        "state": state,
    }
    write_json(paths.tasks / f"{name}.json", {**content, **({"error": dict(error)} if error else {})})


def document(path: Path) -> dict[str, Any]:
    """A JSON file's content."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content
