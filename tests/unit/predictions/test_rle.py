"""Run lengths: equal to pycocotools wherever that is defined, and an error wherever it would corrupt memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from orchestrator.errors import PredictionsError
from orchestrator.predictions import rle

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
lengths = st.lists(st.integers(0, 70_000), min_size=1, max_size=12)


def counts_of(runs: list[int]) -> tuple[bytes, tuple[int, int]]:
    """pycocotools' code for arbitrary runs, as one column."""
    size = (sum(runs), 1)
    coded: Any = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
    return coded["counts"], size


@settings(deadline=None)
@given(masks)
def test_a_mask_survives(mask: NDArray[np.bool_]) -> None:
    counts = rle.encode(mask)
    assert counts == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    np.testing.assert_array_equal(rle.decode(counts, mask.shape), mask)


@settings(deadline=None)
@given(masks)
def test_area_and_box_equal_pycocotools(mask: NDArray[np.bool_]) -> None:
    counts = rle.encode(mask)
    coded: Any = {"size": list(mask.shape), "counts": counts}
    x1, y1, x2, y2 = rle.find_box(counts, mask.shape)
    assert rle.count_pixels(counts) == coco_mask.area(coded)
    assert [x1, y1, x2 - x1, y2 - y1] == coco_mask.toBbox(coded).tolist()


@settings(deadline=None)
@given(lengths)
def test_runs_of_any_length_survive(runs: list[int]) -> None:
    counts, size = counts_of(runs)
    assert rle.parse_counts(counts).tolist() == runs
    assert rle.check(counts, size).tolist() == runs


@settings(deadline=None)
@given(st.lists(lengths, max_size=8))
def test_many_masks_at_once_equal_each_alone(many: list[list[int]]) -> None:
    coded = [counts_of(runs) for runs in many]
    data = np.frombuffer(b"".join(counts for counts, _ in coded), np.uint8)
    offsets = np.cumsum([0, *(len(counts) for counts, _ in coded)], dtype=np.int64)
    sizes = np.array([size for _, size in coded], np.int32).reshape(-1, 2)
    assert rle.check_many(data, offsets, sizes).all()
    areas = [sum(runs[1::2]) for runs in many]
    assert rle.measure_many(data, offsets, sizes).tolist() == areas
    broken = np.append(data, np.uint8(ord("P")))
    assert rle.measure_many(broken, np.append(offsets, len(broken)), np.append(sizes, [[1, 1]], axis=0)).tolist() == [
        *areas,
        -1,
    ]
    sizes[:, 0] += 1
    assert not rle.check_many(data, offsets, sizes).any()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=12).map(lambda raw: bytes(48 + byte % 66 for byte in raw)), min_size=1, max_size=6))
def test_check_many_agrees_with_check_on_any_bytes(many: list[bytes]) -> None:
    data = np.frombuffer(b"".join(many), np.uint8)
    offsets = np.cumsum([0, *map(len, many)], dtype=np.int64)
    sizes = np.full((len(many), 2), (3, 5), np.int32)
    sound = []
    for counts in many:
        try:
            rle.check(counts, (3, 5))
            sound.append(True)
        except PredictionsError:
            sound.append(False)
    assert rle.check_many(data, offsets, sizes).tolist() == sound


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        (b"0 ", "not this encoding"),
        (b"0\xff", "not this encoding"),
        (b"0p", "not this encoding"),
        (b"P", "not this encoding"),  # announces another character
        (b"o" * 20, "not this encoding"),
        (b"ooooooo0", "not this encoding"),
        (b"O", "negative"),
        (b"11", "do not add up"),
        (b"", "do not add up"),
        (b"4" + b"PPPPPP1", "do not add up"),  # a run of 2^30 pixels
    ],
)
def test_bad_counts_are_refused(counts: bytes, why: str) -> None:
    for read in (rle.check, rle.decode, rle.find_box):
        with pytest.raises(PredictionsError) as caught:
            read(counts, (2, 2))
        assert why in str(caught.value.why)


def test_runs_that_wrap_around_do_not_pass() -> None:
    # Two runs of 2^32 + 2 and 2: their sum is 4 in 32 bits, which is what pycocotools computes with.
    counts = bytes([48 + 2 + 32, 80, 80, 80, 80, 80, 48 + 4]) + b"2"
    assert rle.parse_counts(counts).tolist() == [(1 << 32) + 2, 2]
    with pytest.raises(PredictionsError):
        rle.check(counts, (2, 2))
    offsets = np.array([0, len(counts)], np.int64)
    assert not rle.check_many(np.frombuffer(counts, np.uint8), offsets, np.array([[2, 2]])).any()


def write_numbers(numbers: list[int]) -> bytes:
    """Return the characters of a mask's numbers as they stand in the file, differences not undone."""
    written = bytearray()
    for number in numbers:
        while not -16 <= number < 16:
            written.append(48 + (number & 31 | 32))
            number >>= 5
        written.append(48 + (number & 31))
    return bytes(written)


def check_each(many: list[bytes], sizes: list[tuple[int, int]]) -> list[bool]:
    sound = []
    for counts, size in zip(many, sizes, strict=True):
        try:
            rle.check(counts, size)
            sound.append(True)
        except PredictionsError:
            sound.append(False)
    return sound


def check_between_others(counts: bytes) -> bool:
    """Return the verdict on a mask of 2x2 pixels that has sound neighbours."""
    many = [b"4", counts, b"121"]
    offsets = np.cumsum([0, *map(len, many)], dtype=np.int64)
    first, verdict, last = rle.check_many(np.frombuffer(b"".join(many), np.uint8), offsets, np.full((3, 2), 2)).tolist()
    assert first
    assert last
    return bool(verdict)


def test_differences_that_wrap_around_do_not_pass() -> None:
    # Every second run grows by 2^28 until it is 1 again in 32 bits. Read as signed, all runs add up to 4.
    runs, numbers = [0, 1], [0, 1]
    for _ in range(16):
        runs, numbers = [*runs, 0, runs[-1] + (1 << 28)], [*numbers, 0, 1 << 28]
    assert runs[-1] == (1 << 32) + 1
    while missing := 4 - sum((run + (1 << 31)) % (1 << 32) - (1 << 31) for run in runs):
        run = min(missing, (1 << 28) - 1)
        numbers.append(run - runs[-2])
        runs.append(run)
        if run < missing:
            numbers.append(0)
            runs.append(runs[-2])
    counts = write_numbers(numbers)
    assert rle.parse_counts(counts).tolist() == runs
    assert not check_between_others(counts)


def test_a_number_is_read_in_full() -> None:
    four = bytes([48 + 32 + 4, *[48 + 32] * 4, 48])  # with needless zeros: 6 characters
    assert check_between_others(four)
    assert not check_between_others(b"Q" + four)  # 129; its last six characters alone are 4
    assert not check_between_others(b"QQ" + four)


@pytest.mark.parametrize("offset", [32, 64, 96, -64])
def test_a_character_that_differs_in_its_high_bits_does_not_pass(offset: int) -> None:
    assert check_between_others(b"T0")
    assert not check_between_others(bytes([ord("T") + offset, ord("0")]))


@settings(deadline=None)
@given(st.lists(lengths, min_size=1, max_size=8))
def test_sound_masks_are_told_apart_without_the_slow_check(many: list[list[int]]) -> None:
    coded = [counts_of(runs) for runs in many]
    data = np.frombuffer(b"".join(counts for counts, _ in coded), np.uint8)
    offsets = np.cumsum([0, *(len(counts) for counts, _ in coded)], dtype=np.int64)
    with patch.object(rle, "_measure_any", side_effect=AssertionError):
        assert rle.check_many(data, offsets, np.array([size for _, size in coded])).all()


@settings(max_examples=500, deadline=None)
@given(st.lists(lengths, min_size=1, max_size=5), st.data())
def test_check_many_agrees_with_check_after_one_character_changed(many: list[list[int]], data: st.DataObject) -> None:
    coded = [counts_of(runs) for runs in many]
    text = bytearray(b"".join(counts for counts, _ in coded))
    offsets = np.cumsum([0, *(len(counts) for counts, _ in coded)], dtype=np.int64)
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(40, 120))
    cut = [bytes(text[start:stop]) for start, stop in pairwise(offsets.tolist())]
    sizes = [size for _, size in coded]
    found = rle.check_many(np.frombuffer(bytes(text), np.uint8), offsets, np.array(sizes))
    assert found.tolist() == check_each(cut, sizes)


def test_a_size_no_image_has_is_refused() -> None:
    for size in ((-2, -2), (1 << 20, 1 << 20)):
        with pytest.raises(PredictionsError):
            rle.check(b"4", size)


def test_a_malformed_mask_among_many_is_the_one_reported() -> None:
    data = np.frombuffer(b"4" + b"\x00" + b"22", np.uint8)
    offsets = np.array([0, 1, 2, 4], np.int64)
    assert rle.check_many(data, offsets, np.full((3, 2), 2)).tolist() == [True, False, True]


def test_a_mask_that_is_cut_off_does_not_spoil_the_next() -> None:
    many = [b"oooo", b"PPP1", b"4"]
    offsets = np.cumsum([0, *map(len, many)], dtype=np.int64)
    data = np.frombuffer(b"".join(many), np.uint8)
    assert rle.find_faults(data, offsets).tolist() == [True, False, False]


def test_an_empty_mask_has_an_empty_box() -> None:
    assert rle.find_box(rle.encode(np.zeros((4, 5), bool)), (4, 5)) == (0, 0, 0, 0)
