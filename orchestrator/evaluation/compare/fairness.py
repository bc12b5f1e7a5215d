"""Whether runs can be compared: what must be equal, what is not, and how to make it so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError
from orchestrator.evaluation.runs import Source
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_FAILED, STATUS_PREDICTED

NAMED = 3


@dataclass(frozen=True)
class Difference:
    """A setting in which runs differ: a sentence on each run, and what aligning would do; None: nothing can."""

    setting: str
    values: tuple[str, ...]
    remedy: str | None


def differences(sources: Sequence[Source]) -> list[Difference]:
    """Everything that makes a comparison unfair: image list, taxonomy, score floor, most detections, pixels' frame."""
    checks = (_images, _taxonomy, _floor, _most, _sizes)
    return [found for check in checks if (found := check(sources)) is not None]


def refuse(sources: Sequence[Source], found: Sequence[Difference], align: bool) -> None:
    """PredictionsError when there are differences, or with `align` when some cannot be removed."""
    serious = [one for one in found if one.remedy is None or not align]
    if not serious:
        return
    lines = [
        f"{one.setting}: "
        + "; ".join(f"{source.label} {value}" for source, value in zip(sources, one.values, strict=True))
        for one in serious
    ]
    hopeless = [one.setting for one in serious if one.remedy is None]
    raise PredictionsError(
        f"these runs are not comparable: they differ in {', '.join(one.setting for one in serious)}",
        why="\n".join(lines),
        hint=(f"no alignment helps against another {hopeless[0]}: run the models again alike" if hopeless else None)
        or "orch compare --align … compares what they have in common, or run the models again alike",
    )


def aligned(sources: Sequence[Source], found: Sequence[Difference]) -> tuple[list[Source], list[str]]:
    """The same runs cut down to what all of them have, and a sentence on each thing done."""
    settings = {one.setting for one in found}
    files = _common(sources) if "image list" in settings else None
    categories = _common_categories(sources) if "taxonomy" in settings else None
    floor = max((_setting(one, "score_threshold") or 0.0 for one in sources), default=0.0)
    limits = [limit for one in sources if (limit := _setting(one, "max_detections")) is not None]
    cut = Cut(
        files=files,
        categories=categories,
        floor=floor if "score floor" in settings else None,
        most=min(limits) if limits and "max detections" in settings else None,
    )
    kept = [replace(source, predictions=restricted(source.predictions, cut)) for source in sources]
    return kept, [f"aligned: {one.remedy}" for one in found]


def _setting(source: Source, name: str) -> Any:
    return source.predictions.meta.get(name)


def _images(sources: Sequence[Source]) -> Difference | None:
    sets = [set(source.predictions.files) for source in sources]
    common = set.intersection(*sets)
    if all(one == common for one in sets):
        return None
    values = []
    for source, one in zip(sources, sets, strict=True):
        own = [file for file in source.predictions.files if file not in common]
        names = ", ".join(own[:NAMED]) + (", …" if len(own) > NAMED else "")
        values.append(f"has {len(one)} images" + (f", {len(own)} of them not in all runs ({names})" if own else ""))
    return Difference("image list", tuple(values), f"only the {len(common)} images all runs have" if common else None)


def _taxonomy(sources: Sequence[Source]) -> Difference | None:
    known = [_categories(source) for source in sources]
    names = [str(_setting(source, "taxonomy")) for source in sources]
    if all(one == known[0] for one in known) and len(set(names)) == 1:
        return None
    values = tuple(f"has {len(one)} categories of {name!r}" for one, name in zip(known, names, strict=True))
    shared = set.intersection(*(set(one.items()) for one in known))
    clash = any(one.get(number, name) != name for first in known for number, name in first.items() for one in known)
    if len(set(names)) > 1 or clash or not shared:
        return Difference("taxonomy", values, None)
    return Difference("taxonomy", values, f"only the {len(shared)} categories all runs have")


def _floor(sources: Sequence[Source]) -> Difference | None:
    floors = [_setting(source, "score_threshold") for source in sources]
    if len({floor or 0.0 for floor in floors}) == 1:
        return None
    highest = max(floor or 0.0 for floor in floors)
    values = tuple(f"has {'none' if floor is None else f'{floor:g}'}" for floor in floors)
    return Difference("score floor", values, f"only instances that score at least {highest:g}, the highest floor")


def _most(sources: Sequence[Source]) -> Difference | None:
    limits = [_setting(source, "max_detections") for source in sources]
    if len(set(limits)) == 1:
        return None
    values = tuple(f"has {'no limit' if limit is None else limit}" for limit in limits)
    least = min(limit for limit in limits if limit is not None)
    return Difference("max detections", values, f"only the best {least} instances of an image, the lowest limit")


def _sizes(sources: Sequence[Source]) -> Difference | None:
    """Different sizes of one image: its EXIF orientation was applied by one run and ignored by another."""
    first: dict[str, tuple[int, int]] = {}
    for source in sources:
        found = source.predictions
        there = found.status == STATUS_PREDICTED
        for file, ok, size in zip(found.files, there.tolist(), found.image_size.tolist(), strict=True):
            if ok and first.setdefault(file, tuple(size)) != tuple(size):
                values = tuple(f"ran with --exif {_setting(one, 'exif')}" for one in sources)
                return Difference("size of " + file, values, None)
    return None


def _categories(source: Source) -> dict[int, str]:
    return {int(one["id"]): str(one["name"]) for one in source.predictions.meta.get("categories", [])}


def _common(sources: Sequence[Source]) -> list[str]:
    """The files all have, in the order of the first."""
    sets = [set(source.predictions.files) for source in sources]
    return [file for file in sources[0].predictions.files if all(file in one for one in sets)]


def _common_categories(sources: Sequence[Source]) -> dict[int, str]:
    known = [_categories(source) for source in sources]
    return {number: name for number, name in known[0].items() if all(number in one for one in known)}


@dataclass(frozen=True)
class Cut:
    """What to keep of predictions; None: everything."""

    files: Sequence[str] | None = None
    categories: Mapping[int, str] | None = None
    floor: float | None = None
    most: int | None = None


def restricted(predictions: Predictions, cut: Cut) -> Predictions:
    """Predictions with only some images, categories and instances; `meta` says the new floor and limit."""
    order = np.arange(len(predictions))
    if cut.files is not None:
        order = np.array([predictions.index(file) for file in cut.files], np.int64)
    starts, stops = predictions.offsets[order], predictions.offsets[order + 1]
    rows = _ranges(starts, stops)
    image = np.repeat(np.arange(len(order)), stops - starts)
    keep = np.ones(len(rows), bool)
    if cut.categories is not None:
        keep &= np.isin(predictions.classes[rows], np.array(list(cut.categories), np.int64))
    if cut.floor is not None:
        # As the runner compares: in the scores' own precision.
        keep &= predictions.scores[rows] >= np.float32(cut.floor)
    if cut.most is not None:
        rank = np.cumsum(keep) - 1
        first = np.searchsorted(image, np.arange(len(order) + 1))
        before = np.concatenate(([0], np.cumsum(keep)))[first[:-1]]
        keep &= rank - before[image] < cut.most
    return _taken(predictions, order, rows[keep], image[keep], cut)


def _taken(
    predictions: Predictions, order: NDArray[np.int64], rows: NDArray[np.int64], image: NDArray[np.int64], cut: Cut
) -> Predictions:
    cuts = predictions.mask_offsets
    arrays: dict[str, NDArray[Any]] = {
        "offsets": np.concatenate(([0], np.cumsum(np.bincount(image, minlength=len(order))))).astype(np.int64),
        "masks": predictions.masks[_ranges(cuts[rows], cuts[rows + 1])],
        "mask_offsets": np.concatenate(([0], np.cumsum(cuts[rows + 1] - cuts[rows]))).astype(np.int64),
    }
    for name in ("image_file", "image_id", "image_size", "status", "error", "image_scores"):
        if name in predictions.arrays:
            arrays[name] = predictions.arrays[name][order]
    for name in ("boxes", "classes", "scores", "attributes"):
        if name in predictions.arrays:
            arrays[name] = predictions.arrays[name][rows]
    meta = dict(predictions.meta)
    if cut.categories is not None:
        meta["categories"] = [one for one in meta["categories"] if one["id"] in cut.categories]
    if cut.floor is not None:
        meta["score_threshold"] = cut.floor
    if cut.most is not None:
        meta["max_detections"] = cut.most
    return Predictions({**arrays, "meta": np.array(json.dumps(meta))}, predictions.path)


def _ranges(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … stop - 1 of each pair, one after another."""
    lengths = stops - starts
    first = np.cumsum(lengths) - lengths
    return np.repeat(starts - first, lengths) + np.arange(int(lengths.sum()))


def failures_note(sources: Sequence[Source]) -> list[str]:
    """A sentence where images failed in some runs: they count as images without instances."""
    counts = [int((source.predictions.status == STATUS_FAILED).sum()) for source in sources]
    if not any(counts):
        return []
    listed = ", ".join(f"{source.label} {count}" for source, count in zip(sources, counts, strict=True) if count)
    return [f"images that failed count as images without instances: {listed}"]


def variant_notes(sources: Sequence[Source]) -> list[str]:
    """A sentence on every two variants of one model: whether they are recorded to give the same."""
    notes = []
    for place, first in enumerate(sources):
        for second in sources[place + 1 :]:
            if first.model == second.model and first.variant != second.variant:
                notes.append(f"{first.label} and {second.label} are variants of {first.model}: {_proof(first, second)}")
    return notes


def _proof(first: Source, second: Source) -> str:
    from orchestrator.workflows.equivalence import proven

    try:
        same = proven(first.predictions.meta, second.predictions.meta)
    except (KeyError, TypeError, AttributeError):  # predictions of other makers may lack what identifies a build
        same = False
    if same:
        return "a passed equivalence check of these builds and weights is recorded"
    variants = f"{first.variant},{second.variant}"
    return f"no passed equivalence check is recorded here (orch equivalence {first.model} --variants {variants})"
