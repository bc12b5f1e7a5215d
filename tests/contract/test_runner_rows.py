"""The rows of a shard: mapped, sorted, cut and encoded as the job asks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.contract.harness import Arrays, Guest, every_python, levels

# pycocotools 2.0.11 does not know numpy 2's __array__ yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def masks_of(shard: Arrays, size: tuple[int, int]) -> list[np.ndarray]:
    data, cuts = shard["masks"].tobytes(), shard["mask_offsets"].tolist()
    return [
        coco_mask.decode({"size": list(size), "counts": data[start:end]}).astype(bool) for start, end in pairwise(cuts)
    ]


@every_python
def test_rows_are_mapped_sorted_and_masked(guest: Guest) -> None:
    pixels = levels(40, 203, 3, 90)
    guest.put(0, [guest.save("a.png", pixels)])
    native = {"box_order": "yxyx", "class_base": 1, "class_map": [50, 60, 70]}
    outcome = guest.run({"order": "yxyx", "class_base": 1}, native=native)
    assert outcome.status == 0
    shard, order = guest.shard(0), [203, 90, 40, 3]
    assert shard["scores"].tolist() == [np.float32(level / 255) for level in order]
    assert shard["classes"].tolist() == [{0: 50, 1: 60, 2: 70}[level % 3] for level in order]
    assert shard["boxes"].tolist() == [[3, 1, 4, 11], [7, 1, 8, 9], [1, 1, 2, 12], [5, 1, 6, 10]]
    for mask, level in zip(masks_of(shard, (12, 16)), order, strict=True):
        assert np.array_equal(mask, pixels[:, :, 0] == level)


def test_equal_scores_stay_in_the_predictors_order(guest: Guest) -> None:
    guest.put(0, [guest.save("a.png", levels(40, 203, 3, 90))])
    assert guest.run({"score": 0.5}, max_detections=3).status == 0
    assert guest.shard(0)["boxes"][:, 0].tolist() == [5, 1, 7]


@pytest.mark.parametrize(("floor", "most", "kept"), [(51 / 255, None, 3), (0.99, None, 0), (0.1, 2, 2)])
def test_the_floor_and_the_most_are_kept_to(guest: Guest, floor: float, most: int | None, kept: int) -> None:
    guest.put(0, [guest.save("a.png", levels(51, 102, 153, 30))])
    assert guest.run(score_threshold=floor, max_detections=most).status == 0
    assert guest.shard(0)["scores"].tolist() == [np.float32(level / 255) for level in (153, 102, 51, 30)][:kept]


@every_python
def test_masks_in_every_form_give_the_same_bytes(guest: Guest) -> None:
    pixels = levels(9, 99, 199)
    pixels[:, 15], pixels[0] = 77, 55
    guest.put(0, [guest.save(f"{form}.png", pixels) for form in ("full", "crop", "rle")])
    outcome = guest.run({"masks": "as named"})
    assert (outcome.status, outcome.errors) == (0, {})
    shard = guest.shard(0)
    cuts = shard["mask_offsets"][shard["offsets"]].tolist()
    first, second, third = (shard["masks"][start:end].tobytes() for start, end in pairwise(cuts))
    assert first == second == third
    assert len(masks_of(shard, (12, 16))) == 15


def test_attributes_and_image_scores_follow_their_rows(guest: Guest) -> None:
    files = [guest.save("a.png", levels(51, 204)), "gone.png", guest.save("b.png", levels())]
    guest.put(0, files)
    assert guest.run({"extras": True, "masks": "none"}, attributes=2, image_scores=True).status == 0
    shard = guest.shard(0)
    assert shard["attributes"].tolist() == np.array([[0.8, 0.2], [0.2, 0.8]], np.float32).tolist()
    np.testing.assert_array_equal(shard["image_scores"], np.array([0.8, np.nan, 0], np.float32))
    assert not {"masks", "mask_offsets"} & shard.keys()


def test_attributes_that_are_missing_are_an_error(guest: Guest) -> None:
    guest.put(0, [guest.save("a.png", levels(51)), guest.save("none.png", levels())])
    outcome = guest.run(attributes=2)
    assert outcome.status == 0
    assert list(outcome.errors) == ["a.png"]
    assert "expected (1, 2)" in outcome.errors["a.png"]
