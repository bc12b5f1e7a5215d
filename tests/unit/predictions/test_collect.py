"""Collecting shards: the same bytes however they were cut, and an error that names the shard that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import RunError
from orchestrator.predictions import npz
from orchestrator.predictions.collect import MAX_ERROR_LENGTH, Collected, collect_shards
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import FILES, META, Arrays, sample_arrays, shard_arrays, write_shards

INPUTS = list(zip(FILES, (11, 12, 13, 14), strict=True))


def test_everything_arrives(tmp_path: Path) -> None:
    arrays = sample_arrays()
    shards = write_shards(arrays, [0, 1, 3, 4], tmp_path)
    assert collect_shards(shards, iter(INPUTS), META, tmp_path / "p.npz") == Collected(4, 1, 6)
    predictions = Predictions.load(tmp_path / "p.npz")
    assert predictions.validate() == []
    assert predictions.meta == META
    for name in set(arrays) - {"meta"}:
        np.testing.assert_array_equal(predictions.arrays[name], arrays[name], err_msg=name)
        assert predictions.arrays[name].dtype == arrays[name].dtype


@pytest.mark.parametrize("cuts", [[0, 4], [0, 1, 2, 3, 4], [0, 2, 2, 4]])
def test_the_cut_does_not_change_the_bytes(tmp_path: Path, cuts: list[int]) -> None:
    arrays = sample_arrays()
    collect_shards(write_shards(arrays, [0, 1, 3, 4], tmp_path / "a"), INPUTS, META, tmp_path / "a.npz")
    shuffled = dict(reversed(META.items()))
    collect_shards(write_shards(arrays, cuts, tmp_path / "b"), INPUTS, shuffled, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_large_shards_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write_shards(sample_arrays(), [0, 4], tmp_path)
    collect_shards(shards, INPUTS, META, tmp_path / "a.npz")
    whole = npz.Arrays.chunks
    monkeypatch.setattr(npz.Arrays, "chunks", lambda self, name: whole(self, name, nbytes=8))
    collect_shards(shards, INPUTS, META, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_columns_are_as_wide_as_needed_and_reasons_bounded(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["error"] = np.array(["", "", "x" * 5000, ""])
    arrays["image_file"] = arrays["image_file"].astype("U200")
    collect_shards(write_shards(arrays, [0, 4], tmp_path), INPUTS, META, tmp_path / "p.npz")
    predictions = Predictions.load(tmp_path / "p.npz")
    assert predictions.error[2] == "x" * MAX_ERROR_LENGTH
    assert predictions.image_file.dtype == np.dtype("U11")


def test_no_shards_give_an_empty_file(tmp_path: Path) -> None:
    assert collect_shards([], [], META, tmp_path / "p.npz") == Collected(0, 0, 0)
    assert len(Predictions.load(tmp_path / "p.npz")) == 0


def test_a_shard_without_instances_still_has_attribute_columns(tmp_path: Path) -> None:
    arrays = sample_arrays()
    shards = write_shards(arrays, [0, 2, 3, 4], tmp_path)  # the failed image alone
    collect_shards(shards, INPUTS, META, tmp_path / "p.npz")
    attributes = Predictions.load(tmp_path / "p.npz").attributes
    assert attributes is not None
    np.testing.assert_array_equal(attributes, arrays["attributes"])


def change_shard(path: Path, change: Callable[[Arrays], None]) -> None:
    arrays: Any = shard_arrays(sample_arrays(), 1, 3, 1)
    change(arrays)
    np.savez(path, **arrays)


def shard_meta(**changes: Any) -> Callable[[Arrays], None]:
    meta = {"format": "orch-shard/2", "shard": 1, "plan": "plan"} | changes
    return lambda arrays: arrays.update(meta=np.array(json.dumps(meta)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda arrays: arrays.pop("scores"), "no array 'scores'"),
        (lambda arrays: arrays.pop("attributes"), "attributes differ in shape"),
        (lambda arrays: arrays.pop("image_scores"), "image_scores differ in shape"),
        (lambda arrays: arrays.update(attributes=np.zeros((3, 9), np.float32)), "attributes differ in shape"),
        (lambda arrays: arrays.update(scores=arrays["scores"].astype(float)), "dtype is float64"),
        (lambda arrays: arrays.update(boxes=arrays["boxes"][:1]), "'boxes' has 1 rows, not 3"),
        (lambda arrays: arrays.update(offsets=np.array([0, 2, 1], np.int64)), "does not ascend"),
        (lambda arrays: arrays.update(offsets=np.array([1, 2, 3], np.int64)), "does not ascend"),
        (lambda arrays: arrays.update(offsets=np.array([0, 1, 2], np.int64)), "ends at 2, not at 3"),
        (lambda arrays: arrays.update(mask_offsets=arrays["mask_offsets"] * 2), "mask_offsets ends at"),
        (lambda arrays: arrays.update(image_file=arrays["image_file"][::-1]), "where the input is 'sub/b.jpg'"),
        (lambda arrays: arrays.update(meta=np.array("[]")), "no format and plan"),
        (lambda arrays: arrays.update(error=np.array([{}, {}], dtype=object)), "pickled"),
        (shard_meta(plan="other"), "belongs to plan other"),
        (shard_meta(format="orch-shard/1"), "orch-shard/1"),
    ],
    ids=range(15),
)
def test_a_shard_that_does_not_fit_is_named(tmp_path: Path, change: Callable[[Arrays], None], why: str) -> None:
    shards = write_shards(sample_arrays(), [0, 1, 3, 4], tmp_path / "shards")
    change_shard(shards[1], change)
    target = tmp_path / "p.npz"
    target.write_bytes(b"as before")
    with pytest.raises(RunError, match=r"00001\.npz") as caught:
        collect_shards(shards, INPUTS, META, target)
    assert why in str(caught.value.why)
    assert target.read_bytes() == b"as before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.npz", "shards"]


def test_a_missing_or_truncated_shard_is_named(tmp_path: Path) -> None:
    shards = write_shards(sample_arrays(), [0, 1, 3, 4], tmp_path)
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"00001\.npz"):
        collect_shards(shards, INPUTS, META, tmp_path / "p.npz")
    shards[1].unlink()
    with pytest.raises(RunError, match=r"00001\.npz"):
        collect_shards(shards, INPUTS, META, tmp_path / "p.npz")


def test_flipped_data_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    shards = write_shards(sample_arrays(), [0, 4], tmp_path)
    whole = bytearray(shards[0].read_bytes())
    place = whole.index(sample_arrays()["boxes"].tobytes())
    whole[place + 2] ^= 1
    shards[0].write_bytes(whole)
    with pytest.raises(RunError, match=r"00000\.npz"):
        collect_shards(shards, INPUTS, META, tmp_path / "p.npz")


def test_inputs_and_shards_must_cover_each_other(tmp_path: Path) -> None:
    shards = write_shards(sample_arrays(), [0, 1, 3, 4], tmp_path)
    with pytest.raises(RunError, match="1 input images are in no shard"):
        collect_shards(shards[:2], INPUTS, META, tmp_path / "p.npz")
    with pytest.raises(RunError, match=r"00002\.npz") as caught:
        collect_shards(shards, INPUTS[:3], META, tmp_path / "p.npz")
    assert "after the last input image" in str(caught.value.why)
