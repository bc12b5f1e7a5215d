"""Both formats are read: the kept file of format 1, ids of any JSON kind, predictions without masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import PredictionsError, RunError
from orchestrator.evaluation.coco.detections import choose_iou
from orchestrator.predictions.collect import collect_shards
from orchestrator.predictions.export import export_coco
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import (
    FILES,
    META,
    Arrays,
    digests,
    sample_arrays,
    save,
    shard_arrays,
    write_shards,
)

KEPT = Path(__file__).parent / "kept" / "orch-predictions-1.npz"
"""Written by the last version that wrote format 1; never made anew."""


def without_masks() -> Arrays:
    arrays = sample_arrays()
    del arrays["masks"], arrays["mask_offsets"]
    return arrays


def test_format_1_loads_validates_and_exports(tmp_path: Path) -> None:
    old, new = Predictions.load(KEPT), Predictions.load(save(sample_arrays(), tmp_path / "new.npz"))
    assert old.meta["format"] == "orch-predictions/1"
    assert old.validate() == new.validate() == []
    assert old.image_sha256 is None
    for before, now in zip(old, new, strict=True):
        del now["image_sha256"]
        assert before.keys() == now.keys()
        np.testing.assert_equal(before, now)
    assert list(old.to_coco()) == list(new.to_coco())
    export_coco(old, tmp_path / "old.json")
    assert json.loads((tmp_path / "old.json").read_text())[0]["image_id"] == 11


def test_format_1_needs_masks_and_knows_no_digests(tmp_path: Path) -> None:
    arrays = without_masks()
    arrays["meta"] = np.array(json.dumps({**META, "format": "orch-predictions/1"}))
    named = {problem.array for problem in Predictions.load(save(arrays, tmp_path / "p.npz")).validate()}
    assert named == {"masks", "mask_offsets", "image_sha256", "image_id"}


def test_predictions_without_masks(tmp_path: Path) -> None:
    loaded = Predictions.load(save(without_masks(), tmp_path / "p.npz"))
    assert loaded.validate() == []
    assert not loaded.has_masks
    assert "masks" not in loaded[0]
    assert all("segmentation" not in result for result in loaded.to_coco())
    for use in (lambda: loaded.masks, lambda: loaded.counts(0), lambda: choose_iou([loaded], "segm")):
        with pytest.raises(PredictionsError, match="have no masks") as caught:
            use()
        assert "--iou bbox" in str(caught.value.hint)
    both = [loaded, Predictions(sample_arrays())]
    assert (choose_iou(both, None), choose_iou(both[1:], None)) == ("bbox", "segm")


@pytest.mark.parametrize("gone", ["masks", "mask_offsets"])
def test_masks_come_with_their_offsets(gone: str) -> None:
    arrays = sample_arrays()
    del arrays[gone]
    assert [problem.array for problem in Predictions(arrays).validate()] == [gone]


def test_shards_without_masks_are_collected(tmp_path: Path) -> None:
    inputs = list(zip(FILES, [1, 2, 3, 4], strict=True))
    collect_shards(write_shards(without_masks(), [0, 2, 4], tmp_path / "shards"), inputs, META, tmp_path / "p.npz")
    assert Predictions.load(tmp_path / "p.npz").validate() == []
    assert not Predictions.load(tmp_path / "p.npz").has_masks


def test_a_shard_whose_images_all_failed_needs_no_masks_but_one_with_instances_does(tmp_path: Path) -> None:
    inputs = list(zip(FILES, [1, 2, 3, 4], strict=True))
    shards = write_shards(sample_arrays(), [0, 2, 3, 4], tmp_path / "shards")

    def drop_masks(number: int, first: int, stop: int) -> None:
        arrays: Any = shard_arrays(without_masks(), first, stop, number)
        np.savez(shards[number], **arrays)

    drop_masks(1, 2, 3)
    collect_shards(shards, inputs, META, tmp_path / "p.npz")
    np.testing.assert_equal(Predictions.load(tmp_path / "p.npz").masks, sample_arrays()["masks"])
    drop_masks(2, 3, 4)
    with pytest.raises(RunError) as caught:
        collect_shards(shards, inputs, META, tmp_path / "p.npz")
    assert "its instances have no masks, those of 00000.npz have" in str(caught.value.why)


def test_ids_of_any_json_kind(tmp_path: Path) -> None:
    ids = ["a\nb", 7, 2.5, 1 << 70]
    shards = write_shards(sample_arrays(), [0, 4], tmp_path / "shards")
    collect_shards(shards, zip(FILES, ids, strict=True), META, tmp_path / "p.npz")
    loaded = Predictions.load(tmp_path / "p.npz")
    assert loaded.validate() == []
    assert [record["image_id"] for record in loaded] == loaded.image_id.tolist() == ids
    assert {result["image_id"] for result in loaded.to_coco()} <= set(ids)
    broken = {**sample_arrays(), "image_id": np.array(["1", "x", "3", "4"])}
    assert [(one.array, one.image) for one in Predictions(broken).validate()] == [("image_id", FILES[1])]


@pytest.mark.parametrize("text", ["null", "true", "[1]", "{}", "NaN", "Infinity"])
def test_other_json_is_no_id(text: str) -> None:
    broken = Predictions({**sample_arrays(), "image_id": np.array([text, "2", "3", "4"])})
    assert [(one.array, one.image) for one in broken.validate()] == [("image_id", FILES[0])]
    with pytest.raises(PredictionsError) as caught:
        list(broken.to_coco())
    assert caught.value.why == "an image_id is not one JSON number or text"


def test_digests_are_kept_and_needed(tmp_path: Path) -> None:
    collect_shards(write_shards(sample_arrays(), [0, 4], tmp_path / "s"), zip(FILES, range(4), strict=True), META,
            tmp_path / "p.npz")  # fmt: skip
    loaded = Predictions.load(tmp_path / "p.npz")
    assert loaded[0]["image_sha256"] == digests(FILES)[0].tobytes().hex()
    arrays = sample_arrays()
    arrays["image_sha256"][0] = 0
    (problem,) = Predictions(arrays).validate()
    assert (problem.array, problem.image) == ("image_sha256", FILES[0])
