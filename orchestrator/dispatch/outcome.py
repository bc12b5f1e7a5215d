"""The end of a run: shards into predictions, the summary, and what is told of both."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.catalog.spec import MANIPULATION
from orchestrator.dispatch.dispatcher import Dispatched
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.predictions.mask_files import gather_masks
from orchestrator.system.files import write_json
from orchestrator.system.json_lines import JsonLinesFile


@dataclass(frozen=True)
class Outcome:
    """A finished run, or one that others carry out: then there is no summary yet."""

    paths: RunPaths
    summary: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether there are predictions."""
        return bool(self.summary)

    @property
    def failed(self) -> int:
        """Images that could not be predicted."""
        return int(self.summary.get("failed", 0))


def finish(plan: Plan, paths: RunPaths, dispatched: Dispatched) -> Outcome:
    """Collect the shards, write the summary, and remove what nobody needs any more."""
    from orchestrator.predictions.collect import collect

    started = time.monotonic()
    shards = [paths.shard(number) for number in plan.shards]
    rows = ((image.file, image.image_id) for image in plan.inputs.images)
    collected = collect(shards, rows, plan.predictions_meta(), paths.predictions)
    pictures = {}
    if plan.entry.spec.task == MANIPULATION:
        gather_masks(plan, paths, predicted_images(paths.predictions))
        pictures = {"masks": str(paths.masks)}
    summary = {
        "model": plan.entry.name,
        "images": collected.images,
        "predicted": collected.images - collected.failed,
        "failed": collected.failed,
        "instances": collected.instances,
        "failures": failures(paths.predictions) if collected.failed else [],
        "ignored": len(plan.inputs.skipped),
        "predictions": str(paths.predictions),
        **pictures,
        "runtime": plan.prepared.runtime,
        "variant": plan.request.variant,
        "device": plan.request.device,
        "versions": versions(paths),
        "notices": list(dispatched.notices),
        "lost_workers": dispatched.lost_workers,
        "retired": list(dispatched.retired),
        "seconds": {"dispatch": round(dispatched.seconds, 3), "collect": round(time.monotonic() - started, 3)},
    }
    write_json(paths.summary, summary)
    with suppress(OSError):
        shutil.rmtree(paths.jobs)
    shutil.rmtree(paths.unpacked, ignore_errors=True)
    return Outcome(paths, summary)


def versions(paths: RunPaths) -> dict[str, str]:
    """What the run's last worker to get ready ran on."""
    found: dict[str, str] = {}
    for file in (paths.events, *sorted(paths.task_events.glob("*.jsonl"))):
        for event in JsonLinesFile(file).read_new():
            found = event["versions"] if event.get("event") == "ready" else found
    return found


def predicted_images(predictions: Path) -> list[bool]:
    """For each image, whether it was predicted."""
    from orchestrator.predictions.predictions import Predictions

    return [not status for status in Predictions.load(predictions).status]


def failures(predictions: Path) -> list[dict[str, str]]:
    """The images that could not be predicted, and why."""
    from orchestrator.predictions.predictions import Predictions

    loaded = Predictions.load(predictions)
    return [
        {"image_file": str(file), "error": str(error)}
        for file, status, error in zip(loaded.image_file, loaded.status, loaded.error, strict=True)
        if status
    ]
