"""Other programs' COCO results as predictions: the same figures as pycocotools', and comparable with runs."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator.catalog import load_catalog
from orchestrator.cli import main
from orchestrator.errors import UsageError
from orchestrator.evaluation import FIGURES, Iou, evaluate
from orchestrator.predictions import rle
from orchestrator.predictions.formats import export_predictions
from orchestrator.predictions.import_coco import Imported, import_coco_results
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import FILES, META, SIZES, box_mask, sample_arrays, save

Captured = pytest.CaptureFixture[str]
COCO_FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
ANNOTATIONS: dict[str, Any] = {
    "images": [
        {"id": number, "file_name": file, "height": height, "width": width}
        for number, file, (height, width) in zip((14, 11, 12, 13), FILES, SIZES, strict=True)
    ],
    "categories": META["categories"],
    "annotations": [{"id": 1, "image_id": 14, "category_id": 0, "bbox": [2, 3, 10, 14], "area": 140, "iscrowd": 0}],
}
RESULT: dict[str, Any] = {"image_id": 14, "category_id": 0, "bbox": [2, 3, 10, 14], "score": 0.5}
MASK = {"size": [40, 60], "counts": rle.encode(box_mask((40, 60), (2, 3, 12, 17))).decode()}


def imported(
    folder: Path, results: Any, annotations: Any = ANNOTATIONS, model: str = "theirs"
) -> tuple[Predictions, Imported]:
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "annotations.json").write_text(json.dumps(annotations))
    counts = import_coco_results(folder / "results.json", folder / "annotations.json", folder / "p.npz", model)
    predictions = Predictions.load(folder / "p.npz")
    assert predictions.validate() == []
    return predictions, counts


@pytest.mark.parametrize("masks", [True, False])
def test_an_export_comes_back(tmp_path: Path, masks: bool) -> None:
    arrays = sample_arrays()
    arrays["image_id"] = np.array(["14", "11", "12", "13"])
    arrays["scores"][4] = 0.65
    ours = Predictions.load(save(arrays, tmp_path / "ours.npz"))
    export_predictions(ours, "coco", tmp_path / "results.json", boxes_only=not masks)
    results = json.loads((tmp_path / "results.json").read_text())
    theirs, counts = imported(tmp_path, results)
    assert (counts.images, counts.instances, counts.has_masks) == (4, 6, masks)
    assert counts.notes == ["1 of 4 images have no results: they count as predicted, without instances"]
    kept = ("image_file", "image_id", "image_size", "offsets", "boxes", "classes", "scores")
    for name in (*kept, *(("masks", "mask_offsets") if masks else ())):
        np.testing.assert_array_equal(theirs.arrays[name], ours.arrays[name])
    assert theirs.has_masks == masks
    assert theirs.meta["task"] == ("instance-segmentation" if masks else "object-detection")
    assert not theirs.status.any()
    export_predictions(theirs, "coco", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == results


def test_provenance_says_imported(tmp_path: Path) -> None:
    predictions, _ = imported(tmp_path, [RESULT])
    meta = predictions.meta
    assert [meta[key] for key in ("model", "stack", "variant", "runtime")] == ["theirs", *["imported"] * 3]
    assert meta["imported"]["results"]["file"] == "results.json"
    assert len(meta["imported"]["annotations"]["sha256"]) == 64
    assert not predictions.image_sha256.any()  # type: ignore[union-attr]
    first = (tmp_path / "p.npz").read_bytes()
    imported(tmp_path, [RESULT])
    assert (tmp_path / "p.npz").read_bytes() == first


def test_rows_are_sorted_as_coco_sorts_them(tmp_path: Path) -> None:
    scores = [0.2, 0.9, 0.5, 0.9, 0.5 + 1e-12]
    results = [{**RESULT, "score": score, "category_id": (0, 5, 7, 0, 0)[n]} for n, score in enumerate(scores)]
    predictions, counts = imported(tmp_path, [{**RESULT, "image_id": 13}, *results])
    assert predictions.offsets.tolist() == [0, 5, 5, 5, 6]
    assert predictions.classes.tolist()[:5] == [5, 0, 0, 7, 0]
    assert "1 scores became equal" in counts.notes[-1]


def test_masks_without_boxes_get_their_boxes(tmp_path: Path) -> None:
    runs = coco_runs(MASK)
    entries = [
        {"image_id": 14, "category_id": 0, "score": 0.9, "segmentation": MASK},
        {"image_id": 14, "category_id": 0, "score": 0.8, "segmentation": {"size": [40, 60], "counts": runs}},
        {"image_id": 14, "category_id": 0, "score": 0.7, "segmentation": {"size": [40, 60], "counts": [2400]}},
    ]
    predictions, _ = imported(tmp_path, entries)
    assert predictions.boxes.tolist() == [[2, 3, 12, 17], [2, 3, 12, 17], [0, 0, 0, 0]]
    assert predictions.counts(0) == predictions.counts(1) == MASK["counts"].encode()  # type: ignore[attr-defined]


def coco_runs(mask: Any) -> list[int]:
    runs: list[int] = rle.parse_counts(mask["counts"].encode()).tolist()
    return runs


def test_boxes_outside_the_image_are_kept_as_they_are(tmp_path: Path) -> None:
    predictions, _ = imported(tmp_path, [{**RESULT, "bbox": [-5, -6, 100, 1000.5]}])
    assert predictions.boxes.tolist() == [[-5, -6, 95, 994.5]]
    arrays = {name: predictions.arrays[name] for name in predictions.arrays}
    meta = {key: value for key, value in predictions.meta.items() if key != "imported"}
    problems = Predictions(arrays | {"meta": np.array(json.dumps(meta))}).validate()
    assert {problem.array for problem in problems} == {"boxes", "image_sha256"}, "only imported predictions may"
    arrays["boxes"] = np.array([[0, 0, 2e6, 1]], np.float32)
    assert [problem.array for problem in Predictions(arrays).validate()] == ["boxes"]


def test_no_results_are_predictions_without_instances(tmp_path: Path) -> None:
    predictions, counts = imported(tmp_path, [])
    assert (len(predictions), len(predictions.scores), counts.has_masks) == (4, 0, False)


def test_other_categories_are_left_out_and_named(tmp_path: Path) -> None:
    predictions, counts = imported(tmp_path, [RESULT, *({**RESULT, "category_id": n} for n in (1, 2, 2))])
    assert predictions.classes.tolist() == [0]
    assert counts.notes[0].startswith("3 of 4 results were left out: ")
    assert "has no category 1, 2" in counts.notes[0]
    with pytest.raises(UsageError, match="none of the 2 results has a category of"):
        imported(tmp_path, [{**RESULT, "category_id": n} for n in (1, 2)])


def test_a_taxonomy_of_the_catalog_is_recognised(tmp_path: Path) -> None:
    model = load_catalog().models["garments-tiny"]
    known = [{"id": category.id, "name": category.name} for category in model.categories]
    categories = known[:2]
    result = {**RESULT, "category_id": known[0]["id"]}
    annotations = {**ANNOTATIONS, "annotations": [], "categories": categories}
    meta = imported(tmp_path, [result], annotations)[0].meta
    assert (meta["taxonomy"], meta["categories"]) == (model.spec.taxonomy, known)
    categories[1] = {**categories[1], "name": "another"}
    meta = imported(tmp_path, [result], annotations)[0].meta
    assert meta["taxonomy"].startswith("categories-")
    assert meta["categories"] == categories


BROKEN_RESULTS: dict[str, tuple[Any, str]] = {
    "an object": ({"a": 1}, "not a list"),
    "a data set": (ANNOTATIONS, "it is a COCO data set"),
    "no objects": ([1], "not a list of objects"),
    "no shapes": ([{"image_id": 14, "category_id": 0, "score": 1, "keypoints": []}], "neither bbox nor segmentation"),
    "an image": ([RESULT, {**RESULT, "image_id": 99}], "has no image with its image_id 99"),
    "the image's text": ([{**RESULT, "image_id": "14"}], "image_id '14'"),
    "an image that is a list": ([{**RESULT, "image_id": [14]}], "image_id"),
    "true for an image": ([{**RESULT, "image_id": True}], "image_id True"),
    "a category": ([{**RESULT, "category_id": "shirt"}], "category_id is 'shirt'"),
    "a huge category": ([{**RESULT, "category_id": 1 << 40}], "32 bits"),
    "no score": ([{**RESULT, "score": None}], "its score is None"),
    "a logit": ([{**RESULT, "score": 3.5}], "its score is 3.5"),
    "NaN": ([{**RESULT, "score": float("nan")}], "its score is nan"),
    "three sides": ([{**RESULT, "bbox": [1, 2, 3]}], "not four numbers"),
    "a huge side": ([{**RESULT, "bbox": [1, 2, 3, 10**400]}], "not four numbers"),
    "infinity": ([{**RESULT, "bbox": [1, 2, 3, float("inf")]}], "not four numbers"),
    "a negative width": ([{**RESULT, "bbox": [1, 2, -3, 4]}], "none below 0"),
    "far away": ([{**RESULT, "bbox": [1e9, 2, 3, 4]}], "none below 0"),
    "masks of some": ([{**RESULT, "segmentation": MASK}, RESULT], "its segmentation is not"),
    "polygons": ([{**RESULT, "segmentation": [[1, 1, 5, 1, 5, 5]]}], "its segmentation is not"),
    "another size": ([{**RESULT, "segmentation": {**MASK, "size": [60, 40]}}], "is of size"),
    "a broken mask": ([{**RESULT, "segmentation": {**MASK, "counts": "~~~"}}], "are not this encoding"),
    "a short mask": ([{**RESULT, "segmentation": {**MASK, "counts": "11"}}], "do not add up"),
    "no ASCII": ([{**RESULT, "segmentation": {**MASK, "counts": "é\ud800"}}], "are not this encoding"),
    "short runs": ([{**RESULT, "segmentation": {**MASK, "counts": [1, 2]}}], "its segmentation is not"),
    "negative runs": ([{**RESULT, "segmentation": {**MASK, "counts": [2401, -1]}}], "its segmentation is not"),
}


@pytest.mark.parametrize(("results", "fault"), BROKEN_RESULTS.values(), ids=BROKEN_RESULTS)
def test_results_that_cannot_be_predictions(tmp_path: Path, results: Any, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        imported(tmp_path, results)
    assert fault in f"{caught.value.message}: {caught.value.why}"
    assert str(tmp_path / "results.json") in caught.value.message
    assert not (tmp_path / "p.npz").exists()


def change(key: str, index: int, **fields: Any) -> dict[str, Any]:
    changed = copy.deepcopy(ANNOTATIONS)
    changed[key][index] |= fields
    return changed


BROKEN_ANNOTATIONS: dict[str, tuple[Any, str]] = {
    "two of one name": (change("images", 1, file_name="./a.jpg"), "2 images have the file name 'a.jpg'"),
    "two of one id": (change("images", 1, id=14), "2 images have the id 14"),
    "outside": (change("images", 1, file_name="../x.jpg"), "'../x.jpg' is not a path below"),
    "absolute": (change("images", 1, file_name="/x.jpg"), "'/x.jpg' is not a path below"),
    "no size": (change("images", 1, height=None), "'sub/b.jpg' has no width and height"),
    "no pixels": (change("images", 1, height=0), "has no width and height"),
    "a huge size": (change("images", 1, height=1 << 40), "has no width and height"),
    "a wide size": (change("images", 1, width=(1 << 32) - 1, height=1), "has no width and height"),
    "two categories of one id": (change("categories", 1, id=0), "not its own"),
    "a huge category": (change("categories", 1, id=1 << 40), "32 bits"),
}


@pytest.mark.parametrize(("annotations", "fault"), BROKEN_ANNOTATIONS.values(), ids=BROKEN_ANNOTATIONS)
def test_annotations_that_cannot_name_images(tmp_path: Path, annotations: Any, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        imported(tmp_path, [RESULT], annotations)
    assert fault in str(caught.value.why)


def test_files_that_are_missing_or_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UsageError, match="cannot read the results"):
        import_coco_results(tmp_path / "none", tmp_path / "a.json", tmp_path / "p.npz", "m")
    with pytest.raises(UsageError, match="are not JSON"):
        import_coco_results(tmp_path / "a.json", tmp_path / "a.json", tmp_path / "p.npz", "m")


ODD = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(10**400), st.just(MASK)),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=1)), max_size=5),
    st.fixed_dictionaries(
        {"size": st.just([40, 60]), "counts": st.one_of(st.text(max_size=5), st.lists(st.integers()))}
    ),
)
KEYS = st.sampled_from(["image_id", "category_id", "bbox", "score", "segmentation", "size", "counts"])
FIELDS = st.sampled_from(["id", "file_name", "height", "width", "name"])


@given(
    st.lists(st.dictionaries(KEYS, ODD, max_size=3), max_size=3),
    st.sampled_from(["images", "categories"]),
    st.dictionaries(FIELDS, ODD, max_size=2),
)
@settings(max_examples=200, deadline=None)
def test_whatever_json_holds_is_imported_or_refused(changes: list[Any], table: str, fields: dict[str, Any]) -> None:
    results = [{**RESULT, "segmentation": MASK, **fields} for fields in changes]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UsageError):
        imported(Path(folder), results, change(table, 1, **fields))


# The same figures as COCO's own code gives of the original file


@st.composite
def data_sets(draw: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results with masks, on a grid of half pixels; scores of few values, so that many are equal."""
    ids = draw(st.lists(st.integers(-3, 99), min_size=1, max_size=4, unique=True))
    side = st.integers(0, 40)
    areas = st.sampled_from([100.0, 1024.0, 9000.0, 9216.0])
    scores = st.sampled_from([0.1, 1 / 3, 0.5, 0.7, 0.123456789])

    def shape() -> dict[str, Any]:
        x, y, width, height = draw(side), draw(side), draw(side) + 1, draw(side) + 1
        mask = box_mask((60, 60), (x, y, min(x + width, 60), min(y + height, 60)))
        counts = rle.encode(mask).decode()
        # Masks that are not the box, and boxes that reach outside the image.
        return {"bbox": [x - 0.5, y, width, height + 0.5], "segmentation": {"size": [60, 60], "counts": counts}}

    def some(most: int) -> list[dict[str, Any]]:
        count = draw(st.integers(1, most))
        return [
            {"image_id": draw(st.sampled_from(ids)), "category_id": draw(st.sampled_from([2, 5])), **shape()}
            for _ in range(count)
        ]

    truth = [
        {
            **one,
            "id": n,
            "area": draw(areas),
            "iscrowd": draw(st.integers(0, 1)),
        }
        for n, one in enumerate(some(8), start=1)
    ]
    annotations = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 60, "width": 60} for n in ids],
        "categories": [{"id": 5, "name": "b"}, {"id": 2, "name": "a"}],
        "annotations": truth,
    }
    return annotations, [{**one, "score": draw(scores)} for one in some(12)]


def pycocotools_figures(annotations: Path, results: Path, iou: Iou) -> list[float | None]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), iou)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if figure == -1 else figure for figure in evaluation.stats.tolist()]


@pytest.mark.parametrize("iou", ["bbox", "segm"])
@pytest.mark.parametrize("given_shapes", [("bbox",), ("segmentation",), ("bbox", "segmentation")], ids="-".join)
@given(data=data_sets())
@settings(max_examples=40, deadline=None)
def test_figures_equal_those_of_the_original(given_shapes: tuple[str, ...], iou: Iou, data: Any) -> None:
    if iou == "segm" and "segmentation" not in given_shapes:
        return
    annotations, results = data
    kept = [{key: one[key] for key in ("image_id", "category_id", "score", *given_shapes)} for one in results]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictions, _ = imported(folder, kept, annotations)
        ours = evaluate(predictions, folder / "annotations.json", iou)
        if iou == "segm":  # with boxes COCO's loadRes takes the boxes' areas for the masks, which orch does not
            kept = [{key: one[key] for key in one if key != "bbox"} for one in kept]
            (folder / "results.json").write_text(json.dumps(kept))
        theirs = pycocotools_figures(folder / "annotations.json", folder / "results.json", iou)
    figures = [getattr(ours, figure) for figure in COCO_FIGURES]
    assert [figure is None or np.isnan(figure) for figure in figures] == [figure is None for figure in theirs]
    for mine, original in zip(figures, theirs, strict=True):
        if original is not None:
            assert mine == pytest.approx(original, abs=1e-12)


# The command


def write_files(folder: Path, masks: bool = True) -> list[str]:
    results = [
        {**RESULT, "score": 0.9, **({"segmentation": MASK} if masks else {})},
        {**RESULT, "score": 0.02, **({"segmentation": MASK} if masks else {})},
    ]
    annotations = copy.deepcopy(ANNOTATIONS)
    annotations["annotations"][0]["segmentation"] = MASK
    (folder / "their_model.json").write_text(json.dumps(results))
    (folder / "truth.json").write_text(json.dumps(annotations))
    return ["import", "coco-results", str(folder / "their_model.json"), "-a", str(folder / "truth.json")]


def test_the_command_names_its_file_and_the_model(tmp_path: Path, capsys: Captured) -> None:
    command = write_files(tmp_path)
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "output": str(tmp_path / "their_model-predictions.npz"),
        "images": 4,
        "instances": 2,
        "masks": True,
        "notes": ["3 of 4 images have no results: they count as predicted, without instances"],
    }
    assert Predictions.load(shown["output"]).meta["model"] == "their_model"
    assert main(["inspect", shown["output"]]) == 0
    assert main(["validate", shown["output"]]) == 0
    capsys.readouterr()
    assert main([*command, "-m", "x", "-o", str(tmp_path / "x.npz")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"wrote {tmp_path / 'x.npz'}: 4 images, 2 instances with masks"
    assert lines[1].startswith("note: 3 of 4 images have no results")
    assert main(["import", "coco-results", str(tmp_path / "none.json"), "-a", str(tmp_path / "truth.json")]) == 2
    assert "cannot read the results" in capsys.readouterr().err


def test_imported_predictions_join_a_comparison_and_a_report(tmp_path: Path, capsys: Captured) -> None:
    command = write_files(tmp_path)
    for name in ("first", "second"):
        assert main([*command, "-m", name, "-o", str(tmp_path / f"{name}.npz")]) == 0
    both = [str(tmp_path / f"{name}.npz") for name in ("first", "second")]
    truth = ["-a", str(tmp_path / "truth.json")]
    capsys.readouterr()
    assert main(["eval", both[0], *truth, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ap"] == pytest.approx(1)
    assert main(["compare", *both, *truth]) == 0
    shown = capsys.readouterr().out
    assert "first" in shown
    assert "second" in shown
    for file, (height, width) in zip(FILES, SIZES, strict=True):
        (tmp_path / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(tmp_path / "images" / file)
    page = tmp_path / "page.html"
    assert main(["report", *both, *truth, "--image-root", str(tmp_path / "images"), "-o", str(page)]) == 0
    assert "imported" in page.read_text()


def test_a_run_with_a_floor_is_compared_after_aligning(tmp_path: Path, capsys: Captured) -> None:
    assert main([*write_files(tmp_path), "-o", str(tmp_path / "theirs.npz")]) == 0
    theirs = Predictions.load(tmp_path / "theirs.npz")
    meta = {**META, "taxonomy": theirs.meta["taxonomy"]}
    ours = save(sample_arrays() | {"meta": np.array(json.dumps(meta))}, tmp_path / "ours.npz")
    files = [str(ours), str(tmp_path / "theirs.npz")]
    capsys.readouterr()
    assert main(["compare", *files]) == 6
    assert "they differ in score floor, max detections" in capsys.readouterr().err
    assert main(["compare", *files, "--align"]) == 0


def test_every_figure_of_an_imported_file_can_be_a_baseline(tmp_path: Path) -> None:
    """What gates read of predictions is there, without a run directory."""
    command: Callable[..., int] = main
    assert command([*write_files(tmp_path), "-o", str(tmp_path / "theirs.npz")]) == 0
    truth = ["-a", str(tmp_path / "truth.json")]
    stored = tmp_path / "baseline.json"
    assert command(["eval", str(tmp_path / "theirs.npz"), *truth, "--save-baseline", str(stored)]) == 0
    assert set(json.loads(stored.read_text())["figures"]) == set(FIGURES)
