"""The numpy parts of the textlines stack against slow and plain versions of the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

STACK = Path(__file__).resolve().parents[3] / "images" / "textlines"


def load(name: str) -> ModuleType:
    """A module of the stack, which is no package: the runner puts its folder on the path."""
    spec = importlib.util.spec_from_file_location(name, STACK / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


components = load("components")
sys.modules["components"] = components
scaling = load("scaling")
del sys.modules["components"]

maps = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


def flood(mask: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    """The 8-connected components of a map as sets of pixels."""
    left = {(int(row), int(column)) for row, column in zip(*np.nonzero(mask), strict=True)}
    found = set()
    while left:
        member, border = set(), [left.pop()]
        while border:
            row, column = border.pop()
            member.add((row, column))
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            border += near
        found.add(frozenset(member))
    return found


def pixels_of(runs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> set[tuple[int, int]]:
    spans = zip(*(part.tolist() for part in runs), strict=True)
    return {(row, column) for row, start, end in spans for column in range(start, end)}


@given(maps)
def test_components_are_those_of_a_flood_fill(mask: np.ndarray) -> None:
    runs = components.find_runs(mask)
    labels = components.label_runs(runs, mask.shape[1])
    parts = components.split(runs, labels)
    assert {frozenset(pixels_of(part)) for part in parts} == flood(mask)
    assert sum(len(part.row) for part in parts) == len(runs.row)


def test_a_spiral_is_one_component_and_a_board_of_diagonals_another() -> None:
    spiral = np.zeros((9, 9), bool)
    for ring in range(0, 4, 2):
        spiral[ring, ring : 9 - ring] = spiral[ring : 9 - ring, 8 - ring] = spiral[8 - ring, ring : 9 - ring] = True
        spiral[ring + 2 : 9 - ring, ring] = True
        spiral[ring + 2, ring : ring + 3] = True
    board = np.indices((40, 40)).sum(axis=0) % 2 == 0
    for mask in (spiral, board):
        runs = components.find_runs(mask)
        assert components.label_runs(runs, mask.shape[1]).max() == 0


@given(maps.filter(np.any), st.floats(0, 6))
def test_growing_is_dilation_by_a_disk(mask: np.ndarray, radius: float) -> None:
    height, width = mask.shape
    crop = components.grow(components.find_runs(mask), radius, height, width)
    grown = np.zeros_like(mask)
    crop_height, crop_width = crop.pixels.shape
    grown[crop.y : crop.y + crop_height, crop.x : crop.x + crop_width] = crop.pixels
    rows, columns = np.nonzero(mask)
    down, right = np.indices(mask.shape)
    distances = np.subtract.outer(down, rows) ** 2 + np.subtract.outer(right, columns) ** 2
    assert np.array_equal(grown, distances.min(axis=-1) <= radius * radius)


@given(hnp.arrays(np.float64, (7, 9), elements=st.floats(0, 1)))
def test_sums_under_runs_are_sums_of_pixels(values: np.ndarray) -> None:
    mask = values > 0.5
    prefix = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
    assert components.sum_under(prefix, components.find_runs(mask)) == pytest.approx(values[mask].sum())


@pytest.mark.parametrize("degrees", [0, 7, 30, 45, 90, 120])
def test_the_oriented_sides_of_a_turned_bar_are_its_own(degrees: int) -> None:
    row, column = np.indices((200, 200)) - 100
    angle = np.deg2rad(degrees)
    along, across = column * np.cos(angle) + row * np.sin(angle), row * np.cos(angle) - column * np.sin(angle)
    bar = (np.abs(along) <= 60) & (np.abs(across) <= 8)
    longer, shorter = components.oriented_sides(components.find_runs(bar))
    assert longer == pytest.approx(121, abs=2.5)
    assert shorter == pytest.approx(17, abs=2.5)


def test_thickening_closes_gaps_to_the_right_and_down() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = mask[3, 3] = True
    wanted = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    assert np.array_equal(components.thicken(mask), wanted)


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        ((191, 384), (736, 1472)),
        ((1, 1), (736, 736)),
        ((20, 3000), (32, 1984)),
        ((3000, 20), (1984, 32)),
        ((4000, 6000), (1344, 1984)),
        ((800, 1000), (800, 992)),
    ],
)
def test_the_network_is_shown_multiples_of_32_within_its_limits(image: tuple[int, int], shown: tuple[int, int]) -> None:
    assert scaling.network_size(*image, 736, 2000) == shown


@given(maps, st.integers(1, 40), st.integers(1, 40))
def test_a_mask_comes_back_as_its_nearest_pixels(mask: np.ndarray, height: int, width: int) -> None:
    back = scaling.to_image(components.Crop(0, 0, mask), mask.shape, (height, width))
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    wanted, found = mask[np.ix_(rows, columns)], np.zeros((height, width), bool)
    if back is not None:
        crop_height, crop_width = back.pixels.shape
        found[back.y : back.y + crop_height, back.x : back.x + crop_width] = back.pixels
        assert back.pixels[0].any()
        assert back.pixels[-1].any()
        assert back.pixels[:, 0].any()
        assert back.pixels[:, -1].any()
    assert np.array_equal(found, wanted)
