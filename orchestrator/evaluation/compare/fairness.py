"""Whether runs can be compared: which settings must be equal, which differ, and how to align the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError
from orchestrator.evaluation.equivalence_record import is_equivalence_recorded
from orchestrator.evaluation.runs import OpenedRun
from orchestrator.predictions import STATUS_FAILED, STATUS_PREDICTED, Predictions, is_class
from orchestrator.system import count_of

SHOWN_NAMES = 3
IDENTITIES = {"image_digest": "container image", "build": "build", "weights": "weights", "runtime": "runtime"}
"""What `meta` records of a run's making, and the words for it."""
IMAGE_LIST, IMAGE_CONTENT = "image list", "image content"
"""The differences that aligning removes by dropping images."""


@dataclass(frozen=True)
class Difference:
    """A setting in which runs differ: a phrase per run, and what aligning keeps (None: impossible)."""

    setting: str
    values: tuple[str, ...]
    remedy: str | None


def find_differences(runs: Sequence[OpenedRun]) -> list[Difference]:
    """Return differences in image list, content of images, taxonomy, score floor, max detections and image sizes."""
    checks = (_check_images, _check_content, _check_taxonomy, _check_floor, _check_limit, _check_sizes)
    return [difference for check in checks if (difference := check(runs)) is not None]


def make_masks_comparable(runs: Sequence[OpenedRun], with_align: bool) -> tuple[list[OpenedRun], list[str], bool]:
    """Return runs whose mask pictures are compared, `with_align` cut to their common images; notes; whether cut.

    Categories, score floors and limits of detections do not matter here. PredictionsError when not comparable.
    """
    checks = (_check_images, _check_content, _check_sizes)
    differences = [difference for check in checks if (difference := check(runs)) is not None]
    refuse_differences(runs, differences, with_align)
    kept, notes = align(runs, differences) if differences else (list(runs), [])
    for note in (note_unknown_content, note_hardware, note_variants, note_builds):
        notes += note(kept)
    return kept, notes, bool(differences)


def refuse_differences(runs: Sequence[OpenedRun], differences: Sequence[Difference], align: bool) -> None:
    """Raise PredictionsError when there are differences, or with `align` when some cannot be aligned."""
    refused = [difference for difference in differences if difference.remedy is None or not align]
    if not refused:
        return
    lines = []
    for difference in refused:
        values = (f"{run.label} {value}" for run, value in zip(runs, difference.values, strict=True))
        lines.append(f"{difference.setting}: {'; '.join(values)}")
    fixed = [difference.setting for difference in refused if difference.remedy is None]
    raise PredictionsError(
        f"these runs are not comparable: they differ in {', '.join(difference.setting for difference in refused)}",
        why="\n".join(lines),
        hint=f"no alignment removes a difference in {fixed[0]}: run the models again with equal images and settings"
        if fixed
        else "orch compare --align … compares what the runs share; or run the models again with equal settings",
    )


def align(runs: Sequence[OpenedRun], differences: Sequence[Difference]) -> tuple[list[OpenedRun], list[str]]:
    """Cut the runs down to what all of them have; return them with a sentence on each change."""
    settings = {difference.setting for difference in differences}
    files = _common_files(runs) if settings & {IMAGE_LIST, IMAGE_CONTENT} else None
    categories = _common_categories(runs) if "taxonomy" in settings else None
    floor = max((_setting(run, "score_threshold") or 0.0 for run in runs), default=0.0)
    limits = [limit for run in runs if (limit := _setting(run, "max_detections")) is not None]
    cut = Cut(
        files=files,
        categories=categories,
        floor=floor if "score floor" in settings else None,
        most=min(limits) if limits and "max detections" in settings else None,
    )
    kept = [replace(run, predictions=restrict(run.predictions, cut)) for run in runs]
    return kept, [f"aligned: {difference.remedy}" for difference in differences]


def _setting(run: OpenedRun, name: str) -> Any:
    return run.predictions.meta.get(name)


def _check_images(runs: Sequence[OpenedRun]) -> Difference | None:
    sets = [set(run.predictions.files) for run in runs]
    common = set.intersection(*sets)
    if all(files == common for files in sets):
        return None
    values = []
    for run, files in zip(runs, sets, strict=True):
        own = [file for file in run.predictions.files if file not in common]
        names = ", ".join(own[:SHOWN_NAMES]) + (", …" if len(own) > SHOWN_NAMES else "")
        others = f", {len(own)} of them not in all runs ({names})" if own else ""
        values.append(f"has {count_of(len(files), 'image')}{others}")
    remedy = f"only the {count_of(len(common), 'image')} that all runs have" if common else None
    return Difference(IMAGE_LIST, tuple(values), remedy)


def _check_content(runs: Sequence[OpenedRun]) -> Difference | None:
    """Find images of one name and different bytes, by the digests of the files that the runs decoded."""
    differing = _differing_files(runs)
    if not differing:
        return None
    names = ", ".join(differing[:SHOWN_NAMES]) + (", …" if len(differing) > SHOWN_NAMES else "")
    values = tuple(f"has its own content of {count_of(len(differing), 'image')} ({names})" for _ in runs)
    common = set(_common_files(runs))
    remedy = f"not the {len(differing)} images whose files differ" if common else None
    return Difference(IMAGE_CONTENT, values, remedy)


def _differing_files(runs: Sequence[OpenedRun]) -> list[str]:
    """Return the files whose digests differ between two runs; a run without digests, or an unread file, agrees."""
    known: dict[str, bytes] = {}
    differing: dict[str, None] = {}
    for run in runs:
        digests = run.predictions.image_sha256
        if digests is None:
            continue
        is_read: list[bool] = np.any(digests, axis=1).tolist()
        for file, has_digest, digest in zip(run.predictions.files, is_read, digests, strict=True):
            if has_digest and known.setdefault(file, digest.tobytes()) != digest.tobytes():
                differing[file] = None
    return list(differing)


def _check_taxonomy(runs: Sequence[OpenedRun]) -> Difference | None:
    known = [_categories(run) for run in runs]
    names = [str(_setting(run, "taxonomy")) for run in runs]
    if all(categories == known[0] for categories in known) and len(set(names)) == 1:
        return None
    values = tuple(f"has {len(ids)} categories of {name!r}" for ids, name in zip(known, names, strict=True))
    shared = set.intersection(*(set(categories.items()) for categories in known))
    clash = any(other.get(number, name) != name for first in known for number, name in first.items() for other in known)
    if len(set(names)) > 1 or clash or not shared:
        return Difference("taxonomy", values, None)
    return Difference("taxonomy", values, f"only the {len(shared)} categories all runs have")


def _check_floor(runs: Sequence[OpenedRun]) -> Difference | None:
    floors = [_setting(run, "score_threshold") for run in runs]
    if len({floor or 0.0 for floor in floors}) == 1:
        return None
    highest = max(floor or 0.0 for floor in floors)
    values = tuple(f"has {'none' if floor is None else f'{floor:g}'}" for floor in floors)
    return Difference("score floor", values, f"only instances that score at least {highest:g}, the highest floor")


def _check_limit(runs: Sequence[OpenedRun]) -> Difference | None:
    limits = [_setting(run, "max_detections") for run in runs]
    if len(set(limits)) == 1:
        return None
    values = tuple(f"has {'no limit' if limit is None else limit}" for limit in limits)
    least = min(limit for limit in limits if limit is not None)
    return Difference("max detections", values, f"only the best {least} instances of an image, the lowest limit")


def _check_sizes(runs: Sequence[OpenedRun]) -> Difference | None:
    """Find an image of two sizes: one run applied its EXIF orientation, another ignored it."""
    sizes: dict[str, tuple[int, int]] = {}
    for run in runs:
        predictions = run.predictions
        predicted = (predictions.status == STATUS_PREDICTED).tolist()
        for file, has_size, size in zip(predictions.files, predicted, predictions.image_size.tolist(), strict=True):
            if has_size and sizes.setdefault(file, tuple(size)) != tuple(size):
                values = tuple(f"ran with --exif {_setting(run, 'exif')}" for run in runs)
                return Difference("size of " + file, values, None)
    return None


def _categories(run: OpenedRun) -> dict[int, str]:
    return {int(entry["id"]): str(entry["name"]) for entry in run.predictions.meta.get("categories", [])}


def _common_files(runs: Sequence[OpenedRun]) -> list[str]:
    """Return the files that all runs have with the same content, in the order of the first run."""
    sets = [set(run.predictions.files) for run in runs]
    differing = set(_differing_files(runs))
    return [
        file for file in runs[0].predictions.files if file not in differing and all(file in files for files in sets)
    ]


def _common_categories(runs: Sequence[OpenedRun]) -> dict[int, str]:
    known = [_categories(run) for run in runs]
    return {number: name for number, name in known[0].items() if all(number in categories for categories in known)}


@dataclass(frozen=True)
class Cut:
    """What to keep of predictions; None: everything."""

    files: Sequence[str] | None = None
    categories: Mapping[int, str] | None = None
    floor: float | None = None
    most: int | None = None


def restrict(predictions: Predictions, cut: Cut) -> Predictions:
    """Keep only some images, categories and instances; `meta` gets the new categories, floor and limit."""
    order = np.arange(len(predictions))
    if cut.files is not None:
        order = np.array([predictions.index(file) for file in cut.files], np.int64)
    starts, stops = predictions.offsets[order], predictions.offsets[order + 1]
    rows = _ranges(starts, stops)
    image = np.repeat(np.arange(len(order)), stops - starts)
    keep = np.ones(len(rows), bool)
    if cut.categories is not None:
        keep &= np.isin(predictions.classes[rows], [number for number in cut.categories if is_class(number)])
    if cut.floor is not None:
        # In float32, as the runner compares.
        keep &= predictions.scores[rows] >= np.float32(cut.floor)
    if cut.most is not None:
        rank = np.cumsum(keep) - 1
        first = np.searchsorted(image, np.arange(len(order) + 1))
        before = np.concatenate(([0], np.cumsum(keep)))[first[:-1]]
        keep &= rank - before[image] < cut.most
    return _take(predictions, order, rows[keep], image[keep], cut)


def _take(
    predictions: Predictions, order: NDArray[np.int64], rows: NDArray[np.int64], image: NDArray[np.int64], cut: Cut
) -> Predictions:
    arrays: dict[str, NDArray[Any]] = {
        "offsets": np.concatenate(([0], np.cumsum(np.bincount(image, minlength=len(order))))).astype(np.int64)
    }
    if predictions.has_masks:
        cuts = predictions.mask_offsets
        arrays["masks"] = predictions.masks[_ranges(cuts[rows], cuts[rows + 1])]
        arrays["mask_offsets"] = np.concatenate(([0], np.cumsum(cuts[rows + 1] - cuts[rows]))).astype(np.int64)
    for name in ("image_file", "image_id", "image_sha256", "image_size", "status", "error", "image_scores"):
        if name in predictions.arrays:
            arrays[name] = predictions.arrays[name][order]
    for name in ("boxes", "classes", "scores", "attributes"):
        if name in predictions.arrays:
            arrays[name] = predictions.arrays[name][rows]
    meta = dict(predictions.meta)
    if cut.categories is not None:
        meta["categories"] = [entry for entry in meta["categories"] if entry["id"] in cut.categories]
    if cut.floor is not None:
        meta["score_threshold"] = cut.floor
    if cut.most is not None:
        meta["max_detections"] = cut.most
    return Predictions({**arrays, "meta": np.array(json.dumps(meta))}, predictions.path)


def _ranges(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return start, start + 1, … stop - 1 of each pair, one pair after another."""
    lengths = stops - starts
    first = np.cumsum(lengths) - lengths
    return np.repeat(starts - first, lengths) + np.arange(int(lengths.sum()))


def note_failures(runs: Sequence[OpenedRun]) -> list[str]:
    """Return a note if images failed in some runs: they count as images without instances."""
    counts = [int((run.predictions.status == STATUS_FAILED).sum()) for run in runs]
    if not any(counts):
        return []
    listed = ", ".join(f"{run.label} {count}" for run, count in zip(runs, counts, strict=True) if count)
    return [f"images that failed count as images without instances: {listed}"]


def note_unknown_content(runs: Sequence[OpenedRun]) -> list[str]:
    """Return a note on runs without digests of image files: that all saw the same pixels is not known."""
    without = [run.label for run in runs if run.predictions.image_sha256 is None]
    if not without or len(runs) < 2:
        return []
    return [f"no digests of the image files are recorded by {', '.join(without)}: they may differ under equal names"]


def note_hardware(runs: Sequence[OpenedRun]) -> list[str]:
    """Return a note if runs were made on different devices: neither speed nor last digits are then comparable."""
    devices = [_describe_device(run) for run in runs]
    if len(set(devices)) == 1:
        return []
    return [f"devices differ: {'; '.join(f'{run.label} {device}' for run, device in zip(runs, devices, strict=True))}"]


def _describe_device(run: OpenedRun) -> str:
    gpus = run.run.get("gpus")
    names = [str(gpu.get("name")) for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []
    device = str(_setting(run, "device"))
    return f"{device} ({', '.join(dict.fromkeys(names))})" if names and device != "cpu" else device


def note_builds(runs: Sequence[OpenedRun]) -> list[str]:
    """Return a note on every two runs of one model and variant that have other images, builds or weights."""
    notes = []
    for first, second in combinations(runs, 2):
        if (first.model, first.variant) != (second.model, second.variant):
            continue
        differing = [words for key, words in IDENTITIES.items() if _setting(first, key) != _setting(second, key)]
        if differing:
            notes.append(
                f"{first.label} and {second.label} are one model and variant, but differ in {', '.join(differing)}"
            )
    return notes


def note_variants(runs: Sequence[OpenedRun]) -> list[str]:
    """Return a note on every two variants of one model: is their equivalence recorded?"""
    return [
        f"{first.label} and {second.label} are variants of {first.model}: {_describe_record(first, second)}"
        for first, second in combinations(runs, 2)
        if first.model == second.model and first.variant != second.variant
    ]


def _describe_record(first: OpenedRun, second: OpenedRun) -> str:
    try:
        is_recorded = is_equivalence_recorded(first.predictions.meta, second.predictions.meta)
    except (KeyError, TypeError, AttributeError):  # files not made by orch may lack what identifies a build
        is_recorded = False
    if is_recorded:
        return "a passed equivalence check of these builds and weights is recorded"
    variants = f"{first.variant},{second.variant}"
    return f"no passed equivalence check is recorded here (orch equivalence {first.model} --variants {variants})"
