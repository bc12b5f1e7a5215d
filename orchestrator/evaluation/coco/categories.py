"""Bring predictions and annotations to the same category ids: by name where ids mean different things."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping

import numpy as np

from orchestrator.errors import PredictionsError
from orchestrator.predictions import Predictions, is_class

RENUMBERED = "renumbered_categories"
"""In `meta` of predictions that have the annotations' ids: the model's own id of each, as a text, by the new one."""
SHOWN = 5


def adopt_ids(predictions: Predictions, categories: Mapping[int, str], source: str) -> tuple[Predictions, list[str]]:
    """Return the predictions with the ids of the annotated `categories`, and warnings; `source` is named in them.

    A category is that of its own name, else of its own id if no other has that name. PredictionsError when the
    predictions and the annotations have no category in common.
    """
    ours = _read_categories(predictions)
    targets = _pair(ours, categories)
    if not len(predictions.scores) or not categories:
        return predictions, []
    if not targets:
        raise PredictionsError(
            f"no category of the predictions is annotated: none of their {len(predictions.scores)} instances can count",
            why=f"the predictions have {_list(ours)}; {source} has {_list(categories)}",
            hint="give the annotations the names or ids of the model's categories (orch inspect shows them)",
        )
    moved = {number: target for number, target in targets.items() if number != target}
    warnings = []
    if moved:
        pairs = [f"{ours[number]!r} has id {number} here and {target} there" for number, target in moved.items()]
        warnings.append(
            f"categories are paired by name, as their ids differ from those of {source}: {'; '.join(pairs[:SHOWN])}"
            + (f"; and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else "")
        )
        predictions = _renumber(predictions, ours, targets, categories)
    warnings += _compare_names(ours, targets, categories)
    if not np.isin(predictions.classes, list(targets.values())).any():
        warnings.append(
            f"none of the {len(predictions.scores)} predicted instances has a category that is annotated; the "
            f"predictions have {_list({n: ours.get(n, '?') for n in np.unique(predictions.classes).tolist()})}"
        )
    return predictions, warnings


def find_unpredictable(
    predictions: Predictions, categories: Mapping[int, str], unchosen: Mapping[int, str]
) -> dict[int, str]:
    """Return those of the annotated `categories` that the model cannot predict, by id.

    `unchosen` are the annotations' other categories. The model predicts the categories of its meta, of these
    only the ones that its class map has, where that is recorded.
    """
    if not predictions.meta.get("categories"):  # files that were not made by orch need not name any
        return {}
    native = predictions.meta.get("native")
    mapped = native.get("class_map") if isinstance(native, dict) else None
    seen = {int(number) for number in np.unique(predictions.classes)}
    pairs = _pair(_read_categories(predictions), {**unchosen, **categories})
    predictable = {target for n, target in pairs.items() if not mapped or n in mapped or n in seen}
    return {number: name for number, name in categories.items() if number not in predictable}


def _compare_names(ours: Mapping[int, str], targets: Mapping[int, int], theirs: Mapping[int, str]) -> list[str]:
    """Return a warning on ids that are paired although their names differ: figures of another taxonomy mean nothing."""
    differing = [
        f"{target} is {ours[number]!r} in the predictions and {theirs[target]!r} in the annotations"
        for number, target in targets.items()
        if _plain(ours[number]) not in (_plain(theirs[target]), str(number))
    ]
    if not differing:
        return []
    more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return [f"categories have other names: {'; '.join(differing[:SHOWN])}{more}"]


def model_id(predictions: Predictions, category: int) -> int:
    """Return the model's own id of a category, whose id may be the annotations'."""
    return int(predictions.meta.get(RENUMBERED, {}).get(str(category), category))


def _read_categories(predictions: Predictions) -> dict[int, str]:
    """Return the names of categories by id; those that only instances have are called by their id."""
    named = {int(entry["id"]): str(entry["name"]) for entry in predictions.meta.get("categories", [])}
    return {**{int(number): str(number) for number in np.unique(predictions.classes)}, **named}


def _pair(ours: Mapping[int, str], theirs: Mapping[int, str]) -> dict[int, int]:
    """Return the annotations' id of each category of ours that they have."""
    counts = Counter(map(_plain, ours.values()))
    their_counts = Counter(map(_plain, theirs.values()))
    by_name = {_plain(name): n for n, name in theirs.items() if their_counts[_plain(name)] == 1 and is_class(n)}
    named = {n: _plain(name) for n, name in ours.items() if counts[_plain(name)] == 1}
    targets = {n: by_name[name] for n, name in named.items() if name in by_name}
    taken = set(targets.values())
    return targets | {n: n for n in ours if n not in targets and n in theirs and n not in taken}


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _renumber(
    predictions: Predictions, ours: Mapping[int, str], targets: Mapping[int, int], theirs: Mapping[int, str]
) -> Predictions:
    """Return the predictions with the ids `targets`; a category without one gets an id that nobody has."""
    used = {*theirs, *ours}
    free = (number for number in range(len(used) + len(ours) + 1) if number not in used)
    ids = {number: targets[number] if number in targets else next(free) for number in ours}
    known, inverse = np.unique(predictions.classes, return_inverse=True)
    classes = np.array([ids[number] for number in known.tolist()], np.int32)[inverse]
    meta = dict(predictions.meta)
    meta["categories"] = [{**entry, "id": ids[int(entry["id"])]} for entry in meta.get("categories", [])]
    meta[RENUMBERED] = {str(target): number for number, target in ids.items()}
    return Predictions({**predictions.arrays, "classes": classes, "meta": np.array(json.dumps(meta))}, predictions.path)


def _list(categories: Mapping[int, str]) -> str:
    names = [f"{number} {name!r}" for number, name in categories.items()]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
