"""Probabilities per pixel: what the runner makes of them, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.contract.harness import Guest, every_python

TASK = {"name": "levels", "task": "manipulation-localization", "weights": {}}
PIXELS = {"image_scores": True, "pixels": "probability"}


def ramp(low: int, high: int) -> np.ndarray:
    """(8, 10, 3) with a brightness that rises from row to row."""
    rows = np.linspace(low, high, 8).astype(np.uint8)
    return np.repeat(np.repeat(rows[:, None, None], 10, axis=1), 3, axis=2)


@every_python
def test_a_picture_and_one_instance(guest: Guest) -> None:
    bright, dark = ramp(0, 255), ramp(0, 100)
    guest.put(0, [guest.save("bright.png", bright), guest.save("dark.png", dark), "gone.png"])
    settings = {"probability": True, "mask_threshold": 0.5}
    outcome = guest.run(settings, model={**TASK, "settings": settings}, **PIXELS)
    assert outcome.status == 0
    assert set(outcome.errors) == {"gone.png"}
    for index, pixels in enumerate((bright, dark)):
        with Image.open(guest.root / "out" / "masks" / "00000" / f"{index:08d}.png") as picture:
            assert np.array_equal(np.asarray(picture), pixels[:, :, 0])
    assert sorted(path.name for path in (guest.root / "out" / "masks" / "00000").iterdir()) == [
        "00000000.png", "00000001.png"
    ]  # fmt: skip
    shard = guest.shard(0)
    above = np.flatnonzero(bright[:, 0, 0] > 127)
    assert shard["offsets"].tolist() == [0, 1, 1, 1]
    assert shard["boxes"].tolist() == [[0, above[0], 10, 8]]
    assert shard["scores"].tolist() == [1.0]
    assert shard["classes"].tolist() == [5]
    np.testing.assert_array_equal(shard["image_scores"], np.array([0.25, 0.25, np.nan], np.float32))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("shape", "of shape (4, 10) for an image of (8, 10)"),
        ("range", "outside [0, 1]"),
        ("none", "gave no probability"),
    ],
)
def test_what_is_no_probability_fails_its_image(guest: Guest, spoil: str, reason: str) -> None:
    guest.put(0, [guest.save(f"{spoil}.png", ramp(0, 255)), guest.save("fine.png", ramp(0, 255))])
    settings = {"probability": True}
    outcome = guest.run(settings, model={**TASK, "settings": settings}, **PIXELS)
    assert outcome.status == 0
    assert list(outcome.errors) == [f"{spoil}.png"]
    assert reason in outcome.errors[f"{spoil}.png"]
    assert not (guest.root / "out" / "masks" / "00000" / "00000000.png").exists()


def test_a_folder_that_cannot_be_written_ends_the_worker(guest: Guest) -> None:
    (guest.root / "out" / "masks").write_text("in the way")
    guest.put(0, [guest.save("a.png", ramp(0, 255))])
    settings = {"probability": True}
    outcome = guest.run(settings, model={**TASK, "settings": settings}, **PIXELS)
    assert outcome.status == 5
    assert outcome.events[-2]["category"] == "output"
