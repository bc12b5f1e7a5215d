"""The protocol fashionfail: cases done by hand, and its project's formulas written out again over pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator.cli import main
from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.fashionfail import FASHIONFAIL, round_boxes
from orchestrator.evaluation.coco.results import Evaluation
from orchestrator.evaluation.protocols import get_coco_protocol
from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.compare_samples import changed
from tests.unit.evaluation.evaluate_samples import Iou, random_arrays, random_truth, stored
from tests.unit.evaluation.test_weighted import NAMES, predictions_of, truth_of
from tests.unit.predictions.predictions_samples import Arrays, box_mask

SQUARE = (10, 10, 30, 30)
AVERAGED = [number for number in range(27) if number not in (2, 12, 16, 19, 20)]


def test_a_case_done_by_hand(tmp_path: Path) -> None:
    """Of 22 categories 0 (three images) and 1 (one image) are annotated and found; 20 are not and count as -1.

    The detection of 3 is of a category without annotations, that of 30 of none of the 27: neither is counted.
    """
    truth = truth_of([(0, 0, SQUARE), (1, 0, SQUARE), (2, 0, SQUARE), (3, 1, SQUARE), (3, 30, SQUARE)], 5)
    found = [*((image, 0, SQUARE) for image in range(3)), (3, 1, SQUARE), (3, 3, SQUARE), (4, 30, SQUARE)]
    predictions, annotations = stored(tmp_path, predictions_of(found, 5), truth)
    for iou in ("segm", "bbox"):
        result = evaluate(predictions, annotations, iou, protocol=FASHIONFAIL)
        assert [one.id for one in result.per_category] == list(range(27))
        assert result.protocol == "fashionfail"
        assert result.ap == pytest.approx(1)
        weighted = result.weighted
        assert weighted.map_w == pytest.approx(1)
        assert weighted.mar_w100 == pytest.approx(1)
        for figure in (weighted.map, weighted.mar1, weighted.mar100):
            assert figure == pytest.approx((2 * 1 + 20 * -1) / 22)
        assert (result.counts.tp, result.counts.fp, result.counts.fn) == (4, 0, 0)
        assert result.detections == 5
        assert any("20 of FashionFail's 22 categories" in note for note in result.notes)
        plain = evaluate(predictions, annotations, iou)
        assert (plain.counts.tp, plain.counts.fp, plain.counts.fn) == (4, 2, 1)
        assert (plain.protocol, plain.weighted.map) == ("coco", None)


def test_boxes_are_rounded_as_python_rounds() -> None:
    rng = np.random.default_rng(4)
    corners = np.concatenate((rng.random((4000, 2)) * 900, rng.random((4000, 2)) * 2000), axis=1).astype(np.float32)
    corners[:2000] = np.round(corners[:2000] * 20) / 20  # many halves of tenths
    corners[:3] = np.array([[0.25, 0.75, 1.25, 3.5], [0.05, 0.15, 0.3, 0.5], [2.45, 1e4, 3.0, 1e4]])
    expected = []
    for x1, y1, x2, y2 in corners:
        expected.append([round(float(value), 1) for value in (x1, y1, x2 - x1, y2 - y1)])
    assert round_boxes(corners).tolist() == expected


def test_rounding_decides(tmp_path: Path) -> None:
    """A width of 9.96 is 10.0 there, and exactly half of the true one."""
    arrays = predictions_of([(0, 0, SQUARE)], 1)
    arrays["boxes"] = np.array([[10, 10, 19.96, 30]], np.float32)
    predictions, annotations = stored(tmp_path, arrays, truth_of([(0, 0, SQUARE)], 1))
    assert evaluate(predictions, annotations, "bbox").ap50 == 0
    assert evaluate(predictions, annotations, "bbox", protocol=FASHIONFAIL).ap50 == pytest.approx(1)


def test_edges_are_those_of_the_models_project(tmp_path: Path) -> None:
    """fformer's project writes the last pixel as the edge: of 20 pixels it counts 19, squared .9025 of the area."""
    native = {"box_order": "xyxy", "class_base": 0, "class_map": list(range(46)), "box_edges": "inclusive"}
    arrays = changed(predictions_of([(0, 0, SQUARE)], 1), native=native)
    predictions, annotations = stored(tmp_path, arrays, truth_of([(0, 0, SQUARE)], 1))
    assert evaluate(predictions, annotations, "bbox").ap == pytest.approx(1)
    assert evaluate(predictions, annotations, "bbox", protocol=FASHIONFAIL).ap == pytest.approx(0.9)


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_masks_have_the_areas_of_their_boxes(tmp_path: Path, engine: str) -> None:
    """A false detection whose mask is small and whose box is large is no small one."""
    arrays = predictions_of([(0, 0, (0, 0, 20, 20)), (0, 0, SQUARE)], 1)
    arrays["scores"] = np.array([0.9, 0.8], np.float32)
    arrays["boxes"][0] = [0, 0, 60, 60]
    predictions, annotations = stored(tmp_path, arrays, truth_of([(0, 0, SQUARE)], 1))
    assert evaluate(predictions, annotations, "segm", engine=engine).ap_small == pytest.approx(0.5)
    found = evaluate(predictions, annotations, "segm", engine=engine, protocol=FASHIONFAIL)
    assert found.ap == pytest.approx(0.5)
    assert found.ap_small == pytest.approx(1)


# --- the project's formulas again, over pycocotools


def fashionpedia_sample(seed: int) -> tuple[Arrays, dict[str, Any]]:
    """Annotations and predictions of ids 0 to 45, with crowds, odd boxes, and equal scores."""
    rng = np.random.default_rng(seed)
    truth = random_truth(seed, images=30)
    table = {0: [0, 1, 5, 23], 3: [3, 8, 2, 24], 7: [10, 14, 30, 45]}
    for annotation in truth["annotations"]:
        annotation["category_id"] = int(rng.choice(table[annotation["category_id"]]))
    arrays = random_arrays(truth, seed, crowded=False)
    arrays["classes"] = rng.choice([0, 1, 2, 3, 5, 8, 9, 10, 14, 23, 24, 30, 45], len(arrays["scores"])).astype(
        np.int32
    )
    for row in range(0, len(arrays["scores"]), 2):
        image = int(np.searchsorted(arrays["offsets"], row, side="right")) - 1
        same = [a for a in truth["annotations"] if a["image_id"] == 50 + image]
        if same:
            arrays["classes"][row] = same[row % len(same)]["category_id"]
    return changed(arrays, taxonomy="fashionpedia", categories=NAMES), {**truth, "categories": NAMES}


def convert(predictions: Predictions) -> list[dict[str, Any]]:
    """Results as that project writes them: float32 sides, one decimal, boxes and masks both."""
    results = []
    for image, record in enumerate(predictions):
        for box, number, score, mask in zip(
            record["boxes"], record["classes"], record["scores"], record["masks"], strict=True
        ):
            sides = [box[0], box[1], np.float32(box[2] - box[0]), np.float32(box[3] - box[1])]
            results.append({
                "image_id": 50 + image, "category_id": int(number), "score": float(score),
                "bbox": [round(float(side), 1) for side in sides],
                "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
            })  # fmt: skip
    return results


def theirs(predictions: Predictions, annotations: Path, iou: Iou) -> tuple[COCOeval, dict[str, float]]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(convert(predictions)), iou)
        evaluation.params.catIds = list(range(27))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    images = np.array([len({a["image_id"] for a in truth.dataset["annotations"] if a["category_id"] == n})
                       for n in AVERAGED], float)  # fmt: skip
    weights = images / images.sum()

    def per_category(array: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([array[..., number].mean() for number in AVERAGED])

    precision, recall = evaluation.eval["precision"][:, :, :, 0, 2], evaluation.eval["recall"][:, :, 0]
    values = {
        "map_w": precision, "map_w50": precision[0], "map_w75": precision[5], "mar_w1": recall[:, :, 0],
        "mar_w100": recall[:, :, 2],
    }  # fmt: skip
    figures = {name: float(weights @ per_category(array)) for name, array in values.items()}
    plain = {"map": precision, "mar1": recall[:, :, 0], "mar100": recall[:, :, 2]}
    return evaluation, figures | {name: float(per_category(array).mean()) for name, array in plain.items()}


def count(evaluation: COCOeval, number: int) -> tuple[int, int, int]:
    """TP, FP, FN at IoU 0.5; a category without annotations that count is left out."""
    entries = [e for e in evaluation.evalImgs if e and e["category_id"] == number and e["aRng"] == [0, 1e10]]
    annotated = sum(int((np.asarray(e["gtIgnore"]) == 0).sum()) for e in entries)
    if not annotated:
        return 0, 0, 0
    matched = [np.asarray(e["dtMatches"][0]) > 0 for e in entries]
    ignored = [np.asarray(e["dtIgnore"][0]).astype(bool) for e in entries]
    tp = sum(int((m & ~i).sum()) for m, i in zip(matched, ignored, strict=True))
    fp = sum(int((~m & ~i).sum()) for m, i in zip(matched, ignored, strict=True))
    return tp, fp, annotated - tp


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("iou", ["segm", "bbox"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_figure_is_that_projects(tmp_path: Path, seed: int, iou: Iou, engine: str) -> None:
    predictions, annotations = stored(tmp_path, *fashionpedia_sample(seed))
    expected, figures = theirs(predictions, annotations, iou)
    found = evaluate(predictions, annotations, iou, engine=engine, protocol=FASHIONFAIL)
    ours = (found.ap, found.ap50, found.ap75, found.ap_small, found.ap_medium, found.ap_large,
            found.ar1, found.ar10, found.ar100, found.ar_small, found.ar_medium, found.ar_large)  # fmt: skip
    assert [-1 if one is None else one for one in ours] == pytest.approx(list(expected.stats), abs=1e-12)
    assert {name: getattr(found.weighted, name) for name in figures} == pytest.approx(figures, abs=1e-12)
    counts = [count(expected, number) for number in range(27)]
    assert [(one.counts.tp, one.counts.fp, one.counts.fn) for one in found.per_category] == counts
    assert sum(tp for tp, _, _ in counts) > 10
    assert found.ap is not None
    assert 0.02 < found.ap < 0.98
    plain = evaluate(predictions, annotations, iou, engine=engine)
    assert (plain.ap, plain.counts) != (found.ap, found.counts)


# --- by name, everywhere


@pytest.fixture
def sample(tmp_path: Path) -> tuple[Path, Path]:
    predictions, annotations = stored(tmp_path, *fashionpedia_sample(1))
    assert predictions.path is not None
    return predictions.path, annotations


def test_eval_names_it_and_prints_its_averages(sample: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    call = ["eval", str(sample[0]), "-a", str(sample[1]), "--iou", "bbox", "--protocol", "fashionfail"]
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert "protocol fashionfail" in out
    assert "protocol fashionfail" in err
    assert "\nmAP\t" in out
    assert main([*call, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["protocol"], document["weighted"]["categories"]) == ("fashionfail", 22)
    assert main([*call, "--categories", "c1"]) == 2
    assert "--categories cannot be used with the protocol fashionfail" in capsys.readouterr().err
    assert main([*call[:-1], "fashionfial"]) == 2
    assert "fashionfail" in capsys.readouterr().err
    assert main([*call[:-1], "imdlbenco"]) == 2
    assert "is for masks of manipulated images" in capsys.readouterr().err


def test_compare_shows_and_records_it(sample: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other.npz"
    other.write_bytes(sample[0].read_bytes())
    call = [
        "compare",
        str(sample[0]),
        str(other),
        "-a",
        str(sample[1]),
        "--protocol",
        "fashionfail",
        "--resamples",
        "5",
    ]
    assert main([*call, "-f", "markdown"]) == 0
    out, err = capsys.readouterr()
    assert "| protocol |" in out
    assert "figures follow the protocol fashionfail" in err
    assert main([*call, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    expected = evaluate(Predictions.load(sample[0]), sample[1], protocol=FASHIONFAIL)
    assert document["options"]["protocol"] == "fashionfail"
    assert [one["weighted"]["map_w"] for one in document["evaluations"]] == [expected.weighted.map_w] * 2
    assert main([*call[:-4], "--protocol", "imdlbenco"]) == 2


def test_differences_are_those_of_the_figures(sample: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    worse = dict(Predictions.load(sample[0]).arrays)
    worse["boxes"] = worse["boxes"] + np.float32(0.7) * (worse["boxes"] < 140)
    second, _ = stored(tmp_path, worse, json.loads(sample[1].read_text()), "worse")
    call = ["compare", str(sample[0]), str(second.path), "-a", str(sample[1]), "--iou", "bbox", "--json"]
    assert main([*call, "--protocol", "fashionfail", "--resamples", "5"]) == 0
    document = json.loads(capsys.readouterr().out)
    first, other = (one["ap"] for one in document["evaluations"])
    assert document["differences"][0]["ap"]["difference"] == pytest.approx(other - first, abs=1e-12)
    assert first != other


def test_a_baseline_keeps_its_protocol(sample: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    stored_at = tmp_path / "baseline.json"
    common = [str(sample[0]), "-a", str(sample[1])]
    assert main(["eval", *common, "--protocol", "fashionfail", "--save-baseline", str(stored_at)]) == 0
    document = json.loads(stored_at.read_text())
    assert document["settings"]["protocol"] == "fashionfail"
    capsys.readouterr()
    assert main(["compare", *common, "--baseline", str(stored_at), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["protocol"] == "fashionfail"
    assert {change["difference"] for change in compared["figures"].values()} <= {0.0, None}
    assert main(["compare", *common, "--baseline", str(stored_at), "--protocol", "coco"]) == 6
    assert "differ in protocol" in capsys.readouterr().err
    del document["settings"]["protocol"]  # as earlier versions wrote it, of COCO's figures
    stored_at.write_text(json.dumps(document))
    assert main(["compare", *common, "--baseline", str(stored_at), "--protocol", "fashionfail"]) == 6


def test_another_taxonomy_is_noted(tmp_path: Path) -> None:
    arrays = changed(predictions_of([(0, 0, SQUARE)], 1), taxonomy="other")
    result: Evaluation = evaluate(
        *stored(tmp_path, arrays, truth_of([(0, 0, SQUARE)], 1)), "bbox", protocol=FASHIONFAIL
    )
    assert any("taxonomy is 'other'" in note for note in result.notes)
    with pytest.raises(UsageError, match="unknown protocol 'coca'"):
        get_coco_protocol("coca")


def test_masks_without_pixels_have_boxes_of_zeros(tmp_path: Path) -> None:
    native = {"box_order": "xyxy", "class_base": 0, "class_map": list(range(46)), "box_edges": "inclusive"}
    arrays = changed(predictions_of([(0, 0, SQUARE)], 1), native=native)
    arrays["boxes"] = np.zeros((1, 4), np.float32)
    empty = rle.encode(box_mask((100, 100), (0, 0, 0, 0)))
    arrays["masks"], arrays["mask_offsets"] = np.frombuffer(empty, np.uint8), np.array([0, len(empty)])
    predictions, annotations = stored(tmp_path, arrays, truth_of([(0, 0, SQUARE)], 1))
    assert evaluate(predictions, annotations, "bbox", protocol=FASHIONFAIL).ap == 0
