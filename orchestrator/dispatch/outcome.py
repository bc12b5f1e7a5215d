"""The end of a run: collect the shards into predictions, write the summary."""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.dispatch.dispatcher import DispatchResult
from orchestrator.dispatch.shard_intake import remove_job_folders
from orchestrator.dispatch.worker_state import WorkerState
from orchestrator.errors import RunError
from orchestrator.inputs import InputImage
from orchestrator.paths import RunPaths
from orchestrator.plan import Plan
from orchestrator.predictions import CANVASES, PICTURES, MaskFiles
from orchestrator.system import (
    JsonLinesFile,
    is_regular_file,
    read_json_object,
    remove,
    require_format,
    sha256_of,
    write_json,
)


@dataclass(frozen=True)
class Outcome:
    """A finished run, or one that other machines continue: its summary is still empty."""

    paths: RunPaths
    summary: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Return whether there are predictions."""
        return bool(self.summary)

    @property
    def failed(self) -> int:
        """Return the number of images that could not be predicted."""
        return int(self.summary.get("failed", 0))


SUMMARY_FORMAT = "orch-summary/1"
_KINDS: Mapping[str, type] = {
    "model": str, "images": int, "predicted": int, "failed": int, "instances": int, "failures": list, "ignored": int,
    "predictions": str, "runtime": str, "variant": str, "device": str, "versions": dict, "notices": list,
    "lost_workers": int, "seconds": dict,
}  # fmt: skip


def read_outcome(paths: RunPaths) -> Outcome | None:
    """Return the outcome of a complete run; None where summary.json or predictions.npz is missing or damaged.

    A summary of an earlier version has no digest: its predictions.npz is taken as it is.
    """
    try:
        summary = read_json_object(paths.summary)
    except (OSError, ValueError):
        return None
    hint = f"use the version that wrote it, or remove {paths.summary} and run the same command again: it collects anew"
    require_format(summary, SUMMARY_FORMAT, paths.summary, hint)
    if not _is_summary(summary) or not is_regular_file(paths.predictions):
        return None
    digest = summary.get("predictions_sha256")
    if digest is not None and sha256_of(paths.predictions) != digest:
        return None
    return Outcome(paths, summary)


def _is_summary(summary: Mapping[str, Any]) -> bool:
    if not all(type(summary.get(name)) is kind for name, kind in _KINDS.items()):
        return False
    seconds, failures = summary["seconds"], summary["failures"]
    texts = (failure.get(name) for failure in failures if isinstance(failure, dict) for name in ("image_file", "error"))
    return (
        all(isinstance(seconds.get(name), int | float) for name in ("dispatch", "collect"))
        and all(isinstance(failure, dict) for failure in failures)
        and all(isinstance(text, str) for text in texts)
        and summary["predicted"] + summary["failed"] == summary["images"]
    )


def finish(plan: Plan, paths: RunPaths, result: DispatchResult) -> Outcome:
    """Collect the shards, write the summary, and remove what is no longer needed."""
    from orchestrator.predictions import collect_shards

    started = time.monotonic()
    shards = [paths.shard(number) for number in plan.shards]
    for shard in shards:
        if not is_regular_file(shard):
            raise RunError(
                f"{shard} is missing, or no file", hint="remove it and run the same command again: it resumes"
            )
    rows = ((image.file, image.image_id) for image in plan.inputs.images)
    collected = collect_shards(shards, rows, plan.predictions_meta(), paths.predictions)
    pictures = {}
    if plan.mask_files:
        newest = gather_masks(plan, paths, read_predicted(paths.predictions))
        folders = {kind.folder: str(paths.root / kind.folder) for kind in plan.mask_files}
        pictures = {**folders, "masks_newest_ns": newest}
    summary = {
        "format": SUMMARY_FORMAT,
        "model": plan.entry.name,
        "images": collected.images,
        "predicted": collected.images - collected.failed,
        "failed": collected.failed,
        "instances": collected.instances,
        "failures": read_failures(paths.predictions) if collected.failed else [],
        "ignored": len(plan.inputs.skipped),
        "predictions": str(paths.predictions),
        "predictions_sha256": sha256_of(paths.predictions),
        **pictures,
        "runtime": plan.prepared.runtime,
        "variant": plan.request.variant,
        "device": plan.request.device,
        "versions": read_versions(paths),
        "notices": list(result.notices),
        "lost_workers": result.lost_workers,
        "retired": list(result.retired),
        "seconds": {"dispatch": round(result.seconds, 3), "collect": round(time.monotonic() - started, 3)},
    }
    write_json(paths.summary, summary)
    remove_job_folders(paths.jobs)
    shutil.rmtree(paths.unpacked, ignore_errors=True)
    return Outcome(paths, summary)


def remove_changed_masks(outcome: Outcome) -> list[int]:
    """Remove a complete run's mask files that were written since; return the images without one, by index."""
    from orchestrator.predictions import Predictions

    newest = outcome.summary.get("masks_newest_ns")
    if not isinstance(newest, int):
        return []
    kinds = [kind for kind in (PICTURES, CANVASES) if kind.folder in outcome.summary]
    without: list[int] = []
    predictions = Predictions.load(outcome.paths.predictions)
    for index, (file, status) in enumerate(zip(predictions.files, predictions.status, strict=True)):
        files = [kind.in_run(outcome.paths.root, file) for kind in kinds]
        changed = [path for path in files if not (is_regular_file(path) and path.stat().st_mtime_ns <= newest)]
        if status or not changed:
            continue
        for path in changed:
            remove(path)
        without.append(index)
    return without


def gather_masks(plan: Plan, paths: RunPaths, predicted: Sequence[bool]) -> int:
    """Move the mask files of predicted images to masks/<image file>.png etc.; return the newest one's time in ns.

    May be interrupted and repeated. Raises RunError, which names the shard, when a file is missing.
    """
    newest = 0
    for shard in plan.shards:
        for image in plan.images_of(shard):
            if predicted[image.index]:
                newest = max(newest, *(_gather_file(kind, paths, shard, image) for kind in plan.mask_files))
    for kind in plan.mask_files:
        shutil.rmtree(paths.shards / kind.folder, ignore_errors=True)
    return newest


def _gather_file(kind: MaskFiles, paths: RunPaths, shard: int, image: InputImage) -> int:
    """Move a mask file of an image from its shard into the run directory; return its time in ns. Raises RunError."""
    source, target = kind.in_shard(paths.shards, shard, image.index), kind.in_run(paths.root, image.file)
    if is_regular_file(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    elif not is_regular_file(target):
        raise RunError(
            f"the {kind.words} of {image.file} is missing",
            why=f"{source} does not exist",
            hint=f"remove {paths.shard(shard)} and run the same command again: it resumes there",
        )
    return target.lstat().st_mtime_ns


def read_versions(paths: RunPaths) -> dict[str, str]:
    """Return the versions of the libraries of the run's worker that got ready last."""
    versions: dict[str, str] = {}
    for file in (paths.events, *sorted(paths.task_events.glob("*.jsonl"))):
        workers: dict[str, WorkerState] = defaultdict(WorkerState)
        for event in JsonLinesFile(file).read_new():
            worker = workers[str(event.get("worker"))]
            worker.apply(event)
            if event.get("event") == "ready":
                versions = worker.versions or {}
    return versions


def read_predicted(predictions: Path) -> list[bool]:
    """Return for each image whether it was predicted."""
    from orchestrator.predictions import Predictions

    return [not status for status in Predictions.load(predictions).status]


def read_failures(predictions: Path) -> list[dict[str, str]]:
    """Return the images that could not be predicted, and why."""
    from orchestrator.predictions import Predictions

    loaded = Predictions.load(predictions)
    return [
        {"image_file": str(file), "error": str(error)}
        for file, status, error in zip(loaded.image_file, loaded.status, loaded.error, strict=True)
        if status
    ]
