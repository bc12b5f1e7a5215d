"""`orch test-stack`: hold the models of a stack to what the built-in ones are held to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.catalog import ModelEntry, weights_state
from orchestrator.errors import OrchError
from orchestrator.plan import RunOptions
from orchestrator.predictions import Predictions
from orchestrator.system import Display, SilentDisplay, sha256_of
from orchestrator.workflows.difficult_images import SIZES, UNREADABLE, photograph, write_difficult_folder
from orchestrator.workflows.run import run_model
from orchestrator.workflows.selftest import make_random_weights

FEW = 7


@dataclass(frozen=True)
class Check:
    """One requirement of a model on a runtime; `problem` is None where it holds."""

    model: str
    runtime: str
    what: str
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_models(
    entries: Sequence[ModelEntry], runtimes: Sequence[str], options: RunOptions, folder: Path, display: Display
) -> list[Check]:
    """Return the checks of all models on all runtimes. Raises OrchError where random weights cannot be made."""
    return [
        check
        for entry in entries
        for check in Conformance(entry, options, (folder / entry.name).absolute(), display).check(runtimes)
    ]


class Conformance:
    """The runs and checks of one model. Its files lie in `folder`."""

    def __init__(self, entry: ModelEntry, options: RunOptions, folder: Path, display: Display) -> None:
        self._entry, self._options, self._folder, self._display = entry, options, folder, display
        if any(weights_state(entry, key) == "missing" for key in entry.spec.weights):
            photographs = str(_write_photographs(folder / "photographs"))
            make_random_weights(entry, options.model_copy(update={"images": [photographs]}), folder, display)
            self._options = options.model_copy(update={"weights_folder": folder / "weights"})

    def check(self, runtimes: Sequence[str]) -> Iterator[Check]:
        """Yield the checks on these runtimes, and that the runtimes agree."""
        few: dict[str, Path] = {}
        for runtime in runtimes:
            self._display.say(f"{self._entry.name}: testing on {runtime}")
            try:
                yield from self._check_difficult(runtime)
                few[runtime] = self._run(runtime, _write_photographs(self._folder / "photographs"))
                again = self._run(runtime, self._folder / "photographs", workers=3)
                same = sha256_of(few[runtime] / "predictions.npz") == sha256_of(again / "predictions.npz")
                problem = None if same else f"predictions.npz in {few[runtime]} and {again} differ"
                yield Check(self._entry.name, runtime, "the same bytes whatever the workers", problem)
            except OrchError as error:
                log = None if error.log is None else f"log: {error.log}"
                text = "; ".join(filter(None, [error.message, error.why, log]))
                yield Check(self._entry.name, runtime, "it runs", text)
        for one, other in combinations(few, 2):
            differing = _compare(few[one], few[other])
            problem = f"{', '.join(differing)} of {few[one]} and {few[other]} differ" if differing else None
            yield Check(self._entry.name, f"{one}, {other}", "equal arrays on every runtime", problem)

    def _run(self, runtime: str, images: Path, workers: int = 1) -> Path:
        out = self._folder / f"{runtime}-{images.name}-{workers}"
        shutil.rmtree(out, ignore_errors=True)
        changes = {"images": [str(images)], "runtime": runtime, "out": out, "workers": workers, "warm": False}
        run_model(self._entry, self._options.model_copy(update=changes), SilentDisplay())
        return out

    def _check_difficult(self, runtime: str) -> Iterator[Check]:
        folder = self._folder / "difficult"
        if not folder.exists():
            write_difficult_folder(folder)
        predictions = Predictions.load(self._run(runtime, folder) / "predictions.npz")
        errors = dict(zip(predictions.files, predictions.error.tolist(), strict=True))
        failed = {file: str(reason) for file, reason in errors.items() if reason}
        sizes = {file: tuple(predictions[file]["image_size"]) for file in SIZES if file in errors}
        unexpected = "; ".join(f"{file}: {reason}" for file, reason in failed.items() if file not in UNREADABLE)
        missing = ", ".join(sorted({*SIZES, *UNREADABLE} - set(errors)))
        wrong = ", ".join(file for file, size in sizes.items() if size != SIZES[file] and file not in failed)
        invalid = "; ".join(map(str, predictions.validate()))
        for what, problem in (
            ("every image has a row", f"without a row: {missing}" if missing else ""),
            ("every readable image is predicted", unexpected),
            ("images have their upright size", f"wrong: {wrong}" if wrong else ""),
            ("the predictions are valid", invalid),
            ("masks agree with boxes", _compare_masks(predictions) if predictions.has_masks else ""),
        ):
            yield Check(self._entry.name, runtime, what, problem or None)


def _write_photographs(folder: Path) -> Path:
    """Write small images, no two alike, unless they are there."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for number in range(FEW):
            Image.fromarray(photograph(80 + number, 60 + number % 7)).save(folder / f"{number:03}.png")
    return folder


def _compare(one: Path, other: Path) -> list[str]:
    """Return the arrays that are not equal, or not there in both; `meta` names the runtime."""
    first, second = (Predictions.load(folder / "predictions.npz").arrays for folder in (one, other))
    return [name for name in sorted({*first, *second} - {"meta"}) if not _is_equal(first, second, name)]


def _is_equal(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]], name: str) -> bool:
    if name not in first or name not in second:
        return False
    return np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")


def _compare_masks(predictions: Predictions) -> str:
    """Return which masks do not lie in their boxes; "" if all do."""
    for row, box in enumerate(predictions.boxes):
        rows, columns = np.nonzero(predictions.mask(row))
        if not len(rows):
            return f"the mask of instance {row} is empty"
        starts_inside = box[0] <= columns.min() + 1 and box[1] <= rows.min() + 1
        if not (starts_inside and box[2] >= columns.max() and box[3] >= rows.max()):
            return f"the mask of instance {row} leaves its box {box.tolist()}"
    return ""
