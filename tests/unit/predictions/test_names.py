"""Every image has a name of its own in exports and among pictures, whatever the set of names."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orchestrator.predictions.export_imdlbenco import LABELS, export_imdlbenco
from orchestrator.predictions.output_names import choose_names, picture_path
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import META, save

PART = st.sampled_from(["a", "b", "a.png", "a.png.d", "a.jpg", "a.jpg.png", "..a", "a.", ".PNG", "…jpg", "b.webp"])
FILE = st.lists(PART, min_size=1, max_size=3).map("/".join)


def possible(files: list[str]) -> list[str]:
    """Those of the files that can be on one disk together: none is the folder of another."""
    return [file for file in files if not any(other.startswith(f"{file}/") for other in files)]


FILES = st.lists(FILE, unique=True, max_size=8).map(possible)


def predictions_of(folder: Path, files: list[str]) -> Predictions:
    for index, file in enumerate(files):
        picture = picture_path(folder / "masks", file)
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), index).save(picture)
    count = len(files)
    arrays = {
        "image_file": np.array(files, dtype=np.str_),
        "image_size": np.full((count, 2), 2, np.int32),
        "status": np.zeros(count, np.uint8),
        "error": np.array([""] * count, dtype=np.str_),
        "offsets": np.zeros(count + 1, np.int64),
        "boxes": np.zeros((0, 4), np.float32),
        "classes": np.zeros(0, np.int32),
        "scores": np.zeros(0, np.float32),
        "image_scores": np.arange(count, dtype=np.float32) / max(count, 1),
        "meta": np.array(json.dumps({**META, "task": "manipulation-localization"})),
    }
    return Predictions.load(save(arrays, folder / "predictions.npz"))


def exported(folder: Path, files: list[str]) -> tuple[dict[str, int], dict[str, float]]:
    """The grey value of each picture that was written, and the labels."""
    export_imdlbenco(predictions_of(folder, files), folder / "out")
    below = folder / "out" / "pred"
    pictures = {
        str(path.relative_to(below)): Image.open(path).getpixel((0, 0)) for path in below.rglob("*") if path.is_file()
    }
    return pictures, json.loads((folder / "out" / LABELS).read_text())  # type: ignore[return-value]


def test_three_images_are_three_files(tmp_path: Path) -> None:
    pictures, labels = exported(tmp_path, ["x.jpg", "x.png", "x.jpg.webp"])
    assert sorted(pictures.values()) == [0, 1, 2]
    assert len(labels) == 3


def test_names_without_doubles_stay_upstreams(tmp_path: Path) -> None:
    pictures, labels = exported(tmp_path, ["d/x.jpg", "d/y.png", "z.webp"])
    assert pictures == {"x.png": 0, "y.png": 1, "z.png": 2}
    assert list(labels) == ["x.jpg", "y.png", "z.webp"]


@given(FILES.filter(bool))
@settings(max_examples=60, deadline=None)
def test_every_image_of_any_set_is_exported(files: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pictures, labels = exported(Path(folder), files)
    assert sorted(pictures.values()) == list(range(len(files)))
    assert len(labels) == len(files)


@given(FILES)
def test_names_are_all_different(files: list[str]) -> None:
    names = choose_names(files, [lambda file: PurePosixPath(file).stem, lambda file: PurePosixPath(file).name, str])
    assert len(set(names)) == len(files)


@given(FILES)
@settings(max_examples=300)
def test_no_picture_is_in_the_way_of_another(files: list[str]) -> None:
    paths = [picture_path(Path("/x"), file) for file in files]
    assert len(set(paths)) == len(files)
    folders = {parent for path in paths for parent in path.parents}
    assert not folders & set(paths)
