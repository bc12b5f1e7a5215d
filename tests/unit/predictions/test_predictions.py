"""Reading predictions, and each rule of the validator by a file that breaks just that rule."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import META as META_KEYS
from orchestrator.predictions.schema import SCHEMA, Problem
from tests.unit.predictions.predictions_samples import COUNTS, FILES, META, SIZES, Arrays, box_mask, sample_arrays, save


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    return Predictions.load(save(sample_arrays(), tmp_path / "p.npz"))


def test_a_record_has_everything_of_its_image(predictions: Predictions) -> None:
    record = predictions[1]
    assert record["image_file"] == "sub/b.jpg"
    assert record["image_size"] == (50, 30)
    assert record["boxes"].tolist()[0] == [4, 5, 16, 19]
    assert record["classes"].tolist() == [7, 0, 5]
    assert record["scores"].tolist() == pytest.approx([0.8, 0.7, 0.7])
    assert [mask["size"] for mask in record["masks"]] == [[50, 30]] * 3
    assert (record["status"], record["error"], record["image_id"]) == (0, "", 12)
    assert record["attributes"].shape == (3, 2)
    assert record["image_score"] == pytest.approx(0.2)
    np.testing.assert_array_equal(
        rle.decode(record["masks"][0]["counts"], (50, 30)), box_mask((50, 30), (4, 5, 16, 19))
    )


def test_a_failed_image_keeps_its_row_and_reason(predictions: Predictions) -> None:
    record = predictions["sub/c.png"]
    assert (record["status"], record["error"]) == (1, "truncated file")
    assert record["boxes"].shape == (0, 4)
    assert record["masks"] == []


def test_images_are_found_by_position_and_by_name(predictions: Predictions) -> None:
    assert len(predictions) == 4
    assert predictions.files == list(FILES)
    assert [record["image_file"] for record in predictions] == list(FILES)
    assert predictions[-1]["image_file"] == FILES[-1]
    assert predictions.index("other/b.jpg") == 3
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            predictions[wrong]
    with pytest.raises(KeyError):
        predictions.index("b.jpg")


def test_optional_arrays_may_be_absent(tmp_path: Path) -> None:
    arrays = sample_arrays()
    for name in ("attributes", "image_scores", "image_id"):
        del arrays[name]
    arrays["meta"] = np.array(json.dumps({key: META[key] for key in META if key != "attribute_names"}))
    predictions = Predictions.load(save(arrays, tmp_path / "p.npz"))
    assert predictions.attributes is None
    assert predictions.image_scores is None
    assert predictions.image_id.tolist() == [1, 2, 3, 4]
    assert not {"attributes", "image_score", "image_id"} & set(predictions[0])
    assert predictions.validate() == []


def test_masks_by_row(predictions: Predictions) -> None:
    np.testing.assert_array_equal(predictions.mask(5), box_mask(SIZES[3], (7, 8, 22, 22)))
    for row in (6, -1):
        with pytest.raises(IndexError):
            predictions.mask(row)


def test_numpy_alone_reads_the_file(predictions: Predictions) -> None:
    assert predictions.path is not None
    with np.load(predictions.path, allow_pickle=False) as loaded:
        assert set(loaded.files) == {spec.name for spec in SCHEMA}
        assert json.loads(str(loaded["meta"]))["format"] == "orch-predictions/2"


def test_coco_results_have_full_precision(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["boxes"][0] = [0.1, 0.2, 10.7, 20.123]
    results = list(Predictions.load(save(arrays, tmp_path / "p.npz")).to_coco())
    assert len(results) == sum(COUNTS)
    assert [result["image_id"] for result in results] == [11, 11, 12, 12, 12, 14]
    box = np.array([0.1, 0.2, 10.7, 20.123], np.float32).astype(float)
    assert results[0]["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    assert results[0]["segmentation"]["size"] == [40, 60]
    assert json.loads(json.dumps(results[0])) == results[0]


def test_loading_needs_no_pycocotools(predictions: Predictions) -> None:
    code = "import sys; sys.modules['pycocotools'] = None\n"
    code += "from orchestrator.predictions.predictions import Predictions\n"
    code += "print(Predictions.load(sys.argv[1]).mask(0).sum())"
    command = [sys.executable, "-c", code, str(predictions.path)]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "140\n"


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Predictions.load(tmp_path / "p.npz")


def test_another_format_is_refused(tmp_path: Path) -> None:
    arrays = sample_arrays() | {"meta": np.array(json.dumps(META | {"format": "orch-predictions/9"}))}
    with pytest.raises(PredictionsError) as caught:
        Predictions.load(save(arrays, tmp_path / "p.npz"))
    assert "orch-predictions/9" in str(caught.value.why)


@pytest.mark.parametrize("meta", ["[]", "{", '"text"'])
def test_a_meta_that_is_no_object_is_refused(tmp_path: Path, meta: str) -> None:
    with pytest.raises(PredictionsError):
        Predictions.load(save(sample_arrays() | {"meta": np.array(meta)}, tmp_path / "p.npz"))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("scores", np.zeros(6, np.float64)),
        ("boxes", np.zeros((6, 5), np.float32)),
        ("classes", np.zeros(5, np.int32)),
        ("offsets", np.array([0, 2, 5, 5], np.int64)),
        ("offsets", np.array([0, 5, 2, 5, 6], np.int64)),
        ("mask_offsets", np.zeros(7, np.int64)),
    ],
)
def test_records_of_a_broken_file_are_an_error_not_nonsense(tmp_path: Path, name: str, array: Any) -> None:
    predictions = Predictions.load(save(sample_arrays() | {name: array}, tmp_path / "p.npz"))
    with pytest.raises(PredictionsError) as caught:
        predictions[0]
    assert name in str(caught.value.why)
    assert caught.value.hint == f"orch validate {predictions.path}"


def test_the_sample_is_valid(predictions: Predictions) -> None:
    assert predictions.validate() == []


def test_no_images_at_all_are_valid() -> None:
    empty = {
        spec.name: np.zeros(
            [{"I+1": 1, "N+1": 1, "A": 2}.get(str(side), side if isinstance(side, int) else 0) for side in spec.shape],
            "U1" if spec.dtype == "str" else spec.dtype,
        )
        for spec in SCHEMA
    }
    predictions = Predictions(empty | {"meta": np.array(json.dumps(META))})
    assert predictions.validate() == []
    assert list(predictions) == []
    assert list(predictions.to_coco()) == []


def put(name: str, place: Any, value: Any) -> Callable[[Arrays], None]:
    """A change of one value of one array."""

    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return change


def use(name: str, array: Any) -> Callable[[Arrays], None]:
    """A change of a whole array; None removes it."""

    def change(arrays: Arrays) -> None:
        if array is None:
            del arrays[name]
        else:
            arrays[name] = np.asarray(array)

    return change


def meta(**changes: Any) -> Callable[[Arrays], None]:
    """A change of meta."""
    return use("meta", json.dumps(META | changes))


def fewer_meta(key: str) -> Callable[[Arrays], None]:
    """A meta without a key."""
    return use("meta", json.dumps({name: META[name] for name in META if name != key}))


BROKEN: list[tuple[Callable[[Arrays], None], str, str, str | None, int | None]] = [
    (use("scores", None), "scores", "missing", None, None),
    (use("extra", np.zeros(3)), "extra", "has no array of this name", None, None),
    (use("scores", np.zeros(6)), "scores", "dtype is float64, not float32", None, None),
    (use("image_size", np.zeros((4, 3), np.int32)), "image_size", "shape is (4, 3)", None, None),
    (use("boxes", np.zeros((6, 4, 1), np.float32)), "boxes", "shape is (6, 4, 1)", None, None),
    (use("meta", np.array(["{}"])), "meta", "shape is (1,)", None, None),
    (use("status", np.zeros(3, np.uint8)), "status", "length is 3, but I = 4", None, None),
    (use("classes", np.zeros(7, np.int32)), "classes", "length is 7, but N = 6", None, None),
    (use("offsets", np.zeros(4, np.int64)), "offsets", "length is 4, but I+1 = 5", None, None),
    (use("attributes", np.zeros((5, 2), np.float32)), "attributes", "length is 5, but N = 6", None, None),
    (use("meta", np.array("{")), "meta", "is not JSON", None, None),
    (use("meta", np.array("3")), "meta", "is not a JSON object", None, None),
    (meta(format="other"), "meta", "format is 'other'", None, None),
    *((fewer_meta(key), "meta", f"lacks '{key}'", None, None) for key in META_KEYS),
    (meta(categories={"0": "shirt"}), "meta", "categories is not a list of", None, None),
    (meta(categories=[*META["categories"], {"id": True, "name": "x"}]), "meta", "not a list of", None, None),
    (meta(categories=[*META["categories"], {"id": 5, "name": "x"}]), "meta", "two categories", None, None),
    (meta(attribute_names=["one"]), "meta", "attribute_names is not a list of 2 names", None, None),
    (put("image_file", 3, "a.jpg"), "image_file", "has the same file", "a.jpg", None),
    (put("image_file", 0, "../a.jp"), "image_file", "not a plain path", "../a.jp", None),
    (put("image_file", 0, "/a.jpg"), "image_file", "not a plain path", "/a.jpg", None),
    (put("image_file", 0, "a//b"), "image_file", "not a plain path", "a//b", None),
    (put("image_file", 0, ""), "image_file", "not a plain path", "", None),
    (put("image_id", 3, 11), "image_id", "same id", "other/b.jpg", None),
    (put("status", 0, 2), "status", "neither 0", "a.jpg", None),
    (put("error", 2, ""), "error", "no reason", "sub/c.png", None),
    (put("error", 0, "why"), "error", "has an error", "a.jpg", None),
    (put("image_size", (2, 0), -1), "image_size", "negative", "sub/c.png", None),
    (put("image_size", (0, 0), 0), "image_size", "has no size", "a.jpg", None),
    (put("offsets", 1, 6), "offsets", "start before", "sub/b.jpg", None),
    (put("offsets", 0, 1), "offsets", "runs from 1 to 6", None, None),
    (put("offsets", 4, 7), "offsets", "runs from 0 to 7", None, None),
    (put("offsets", 3, 6), "offsets", "failed, but has instances", "sub/c.png", None),
    (put("scores", 1, np.nan), "scores", "not finite", "a.jpg", 1),
    (put("scores", 0, 1.5), "scores", "outside [0, 1]", "a.jpg", 0),
    (put("scores", 5, -0.1), "scores", "outside [0, 1]", "other/b.jpg", 5),
    (put("scores", 4, 0.75), "scores", "higher than the one before", "sub/b.jpg", 4),
    (put("boxes", (3, 0), np.inf), "boxes", "not finite", "sub/b.jpg", 3),
    (put("boxes", (0, 2), 1), "boxes", "right edge left of the left one", "a.jpg", 0),
    (put("boxes", (0, 3), 1), "boxes", "right edge left of the left one", "a.jpg", 0),
    (put("boxes", (0, 0), -0.01), "boxes", "outside the image", "a.jpg", 0),
    (put("boxes", (0, 2), 60.01), "boxes", "outside the image", "a.jpg", 0),
    (put("boxes", (0, 3), 40.01), "boxes", "outside the image", "a.jpg", 0),
    (put("classes", 2, 1), "classes", "not a category", "sub/b.jpg", 2),
    (put("attributes", (4, 1), np.nan), "attributes", "not finite", "sub/b.jpg", 4),
    (use("attributes", None), "attributes", "missing, but meta", None, None),
    (put("image_scores", 0, 1.1), "image_scores", "outside [0, 1]", "a.jpg", None),
    (put("mask_offsets", 1, 10_000), "mask_offsets", "starts before", "a.jpg", 1),
    (put("mask_offsets", 0, 1), "mask_offsets", "runs from 1", None, None),
    (put("mask_offsets", 6, 10_000), "mask_offsets", "not from 0", None, None),
    (put("masks", 0, 200), "masks", "not COCO RLE", "a.jpg", 0),
    (put("masks", 0, 48), "masks", "not COCO RLE", "a.jpg", 0),
    (put("image_size", (1, 0), 51), "masks", "not COCO RLE of the image's size", "sub/b.jpg", 2),
]


@pytest.mark.parametrize(("change", "array", "message", "image", "row"), BROKEN, ids=range(len(BROKEN)))
def test_each_rule_names_array_image_and_row(
    change: Callable[[Arrays], None], array: str, message: str, image: str | None, row: int | None
) -> None:
    arrays = sample_arrays()
    change(arrays)
    found = Predictions(arrays).validate()
    fitting = [problem for problem in found if problem.array == array and message in problem.message]
    assert [(problem.image, problem.row) for problem in fitting][:1] == [(image, row)], found


def test_a_mask_without_bytes_starts_where_the_next_one_does() -> None:
    arrays = sample_arrays()
    arrays["mask_offsets"][1] = 0
    found = [(problem.array, problem.row) for problem in Predictions(arrays).validate() if problem.row == 0]
    assert found == [("masks", 0)]


def test_edges_within_the_tolerance_are_fine() -> None:
    arrays = sample_arrays()
    arrays["boxes"][0] = [-0.0009, 0, 60.0009, 40]
    assert Predictions(arrays).validate() == []


def test_only_some_problems_of_a_kind_are_listed() -> None:
    arrays = sample_arrays()
    arrays["scores"][:] = 2
    assert Predictions(arrays).validate(limit=2) == [
        Problem("scores", "is outside [0, 1]", "a.jpg", 0),
        Problem("scores", "is outside [0, 1]", "a.jpg", 1),
        Problem("scores", "is outside [0, 1]: 4 more"),
    ]


def test_a_problem_reads_as_a_sentence() -> None:
    assert str(Problem("boxes", "is not finite", "a.jpg", 3)) == "boxes (image 'a.jpg', row 3): is not finite"
    assert str(Problem("meta", "is not JSON")) == "meta: is not JSON"


def test_a_damaged_array_is_a_problem_of_that_array(tmp_path: Path) -> None:
    path = save(sample_arrays(), tmp_path / "p.npz")
    whole = bytearray(path.read_bytes())
    place = whole.index(b"scores.npy") + 40
    whole[place] ^= 0xFF
    path.write_bytes(whole)
    problems = Predictions.load(path).validate()
    assert [problem.array for problem in problems] == ["scores"]
    assert "cannot be read" in problems[0].message
