"""Predictions as other libraries' objects; what to type where such a library is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from orchestrator.errors import MachineError
from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import sample_arrays, save


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    return Predictions.load(save(sample_arrays(), tmp_path / "p.npz"))


def test_a_table_has_a_row_for_each_instance(predictions: Predictions) -> None:
    table = predictions.to_pandas()
    assert len(table) == 6
    assert table["image_file"].tolist() == ["a.jpg"] * 2 + ["sub/b.jpg"] * 3 + ["other/b.jpg"]
    assert table["image_id"].tolist() == [11, 11, 12, 12, 12, 14]
    assert table["name"].tolist() == ["shirt", "hat", "bag", "shirt", "hat", "bag"]
    assert table["score"].tolist() == predictions.scores.tolist()
    assert table[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == predictions.boxes.tolist()
    assert table["area"].tolist() == [int(predictions.mask(row).sum()) for row in range(6)]
    assert table["striped"].tolist() == pytest.approx(predictions.attributes[:, 0].tolist())  # type: ignore[index]


def test_detections_for_supervision(predictions: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("supervision")
    module.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", module)
    found = predictions.to_supervision("sub/b.jpg")
    assert found.xyxy.shape == (3, 4)
    assert found.mask.shape == (3, 50, 30)
    assert found.mask.dtype == bool
    assert [rle.encode(mask) for mask in found.mask] == [predictions.counts(row) for row in (2, 3, 4)]
    assert found.class_id.tolist() == [7, 0, 5]
    assert found.confidence.tolist() == pytest.approx([0.8, 0.7, 0.7])
    assert found.data["class_name"].tolist() == ["bag", "shirt", "hat"]
    nothing = predictions.to_supervision(2)
    assert (nothing.xyxy.shape, nothing.mask.shape) == ((0, 4), (0, 20, 20))


@pytest.mark.parametrize(("name", "call"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_a_library_that_is_missing(
    predictions: Predictions, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MachineError, match=f"{name} is not installed") as caught:
        getattr(predictions, call)(*([0] if call == "to_supervision" else []))
    assert caught.value.hint == f"pip install {name}"


def test_no_instances_make_an_empty_table(tmp_path: Path) -> None:
    arrays = sample_arrays()
    for name in ("boxes", "classes", "scores", "masks", "attributes"):
        arrays[name] = arrays[name][:0]
    arrays |= {"offsets": np.zeros(5, np.int64), "mask_offsets": np.zeros(1, np.int64)}
    assert len(Predictions(arrays).to_pandas()) == 0
