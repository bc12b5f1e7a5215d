"""Runs to compare: predictions of two models on the same images, and their truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.evaluation.runs import OpenedRun, open_runs
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.evaluate_samples import random_arrays, random_truth
from tests.unit.predictions.predictions_samples import Arrays, save


def changed(arrays: Arrays, **meta: Any) -> Arrays:
    """The same predictions with other words in meta."""
    return {**arrays, "meta": np.array(json.dumps({**Predictions(arrays).meta, **meta}))}


def two_runs(tmp_path: Path, **second: Any) -> tuple[Path, Path, Path]:
    """A good and a worse model's predictions files, and the annotations; `second` changes the worse one's meta."""
    truth = random_truth(7)
    good = changed(random_arrays(truth, 1, noise=1.0, crowded=False), model="good")
    worse = changed(random_arrays(truth, 2, noise=9.0, crowded=False), **{"model": "worse", **second})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return save(good, tmp_path / "good.npz"), save(worse, tmp_path / "worse.npz"), tmp_path / "truth.json"


def open_arrays(*arrays: Arrays, folder: Path) -> list[OpenedRun]:
    """Save predictions and open the files."""
    return open_runs([save(one, folder / f"{number}.npz") for number, one in enumerate(arrays)])
