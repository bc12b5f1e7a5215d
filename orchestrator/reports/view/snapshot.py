"""Open finished and unfinished runs as they are now, ready to be drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.evaluation import (
    Iou,
    MatchedRun,
    OpenedRun,
    check_predictions,
    choose_iou,
    find_predictions,
    make_comparable,
    match_opened,
    open_runs,
)
from orchestrator.inputs import read_inputs
from orchestrator.paths import RunPaths
from orchestrator.predictions import STATUS_FAILED, collect_shards, open_arrays
from orchestrator.reports.html.gallery import Material, PageLimits
from orchestrator.reports.image_files import make_finder, require_image_root
from orchestrator.system import is_regular_file, read_json_object

_SHARD = re.compile(r"\d{5,}\.npz")


@dataclass(frozen=True)
class ViewOptions:
    """What `orch view` shows: the truth, what overlaps are measured by, the least score, the images' folder."""

    annotations: Path | None = None
    iou: Iou | None = None
    align: bool = False
    min_score: float = 0.3
    image_root: Path | None = None


@dataclass(frozen=True)
class ViewedRun:
    """How far a run is: images with results, those of them that failed, and all its images."""

    label: str
    images: int
    failed: int
    total: int

    @property
    def is_finished(self) -> bool:
        return self.images == self.total


@dataclass(frozen=True)
class Snapshot:
    """Comparable runs with what their pictures are made from, the progress of each, and notes on them."""

    material: Material
    progress: tuple[ViewedRun, ...]
    notes: tuple[str, ...]


def open_snapshot(paths: Sequence[Path], options: ViewOptions, scratch: Path) -> Snapshot:
    """Open runs; the finished shards of an unfinished run are joined into a file in `scratch`.

    Unfinished runs are compared on the images that all runs have by now. Raises what `orch report` raises.
    """
    require_image_root(options.image_root)
    totals = [_count_inputs(path) for path in paths]
    is_unfinished = any(total is not None for total in totals)
    opened = open_runs(paths, lambda path: _find_or_join(path, scratch))
    for run in opened:
        check_predictions(run.predictions, run.predictions.has_masks)
    progress = tuple(_measure_progress(run, total) for run, total in zip(opened, totals, strict=True))
    runs, notes, has_fewer_images = make_comparable(opened, options.align or is_unfinished)
    iou = choose_iou([run.predictions for run in runs], options.iou)
    notes = list(notes) if len(runs) > 1 else []  # those on a single run are about figures
    truth, judged = None, list[MatchedRun]()
    if options.annotations is not None:
        runs, truth, judged = match_opened(runs, options.annotations, iou, has_fewer_images)
        notes += truth.warnings
    finders = [make_finder(run, options.image_root) for run in runs]
    material = Material(runs, finders, truth, judged, iou, PageLimits(min_score=options.min_score))
    return Snapshot(material, progress, tuple(dict.fromkeys(notes)))


def _is_unfinished(path: Path) -> bool:
    run = RunPaths(path)
    return path.is_dir() and not run.predictions.is_file() and run.run_json.is_file() and run.inputs.is_file()


def _count_inputs(path: Path) -> int | None:
    """Return the number of images of an unfinished run, None for any other."""
    return sum(1 for _ in read_inputs(RunPaths(path).inputs)) if _is_unfinished(path) else None


def _find_or_join(path: Path, scratch: Path) -> Path:
    """Return the predictions of a run; those of its finished shards where it is not complete."""
    if not _is_unfinished(path):
        return find_predictions(path)
    run = RunPaths(path)
    shards = sorted(file for file in _list(run.shards) if _SHARD.fullmatch(file.name) and is_regular_file(file))
    if not shards:
        raise UsageError(f"{path} has no finished images yet", hint=f"orch status {path}; later the same command again")
    ids = {image.file: image.image_id for image in read_inputs(run.inputs)}
    try:
        meta = read_json_object(run.run_json)["resolved"]
        files = [file for shard in shards for file in open_arrays(shard)["image_file"].tolist()]
        target = scratch / f"{run.key}.npz"
        collect_shards(shards, [(file, ids[file]) for file in files], meta, target)
    except (OSError, ValueError, KeyError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"the unfinished run {path} cannot be shown", why=why, hint=f"orch status {path}") from error
    return target


def _list(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _measure_progress(run: OpenedRun, total: int | None) -> ViewedRun:
    images = len(run.predictions)
    failed = int((run.predictions.status == STATUS_FAILED).sum())
    return ViewedRun(run.label, images, failed, images if total is None else total)
