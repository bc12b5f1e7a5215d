"""Fashionpedia's metric: figures known by hand, those of its authors' code, and what is done without attributes."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.coco.attribute_curves import LEVELS, RIGHT, UNMATCHED, compute_f1, match_pairs
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.results import AttributeMetrics
from orchestrator.evaluation.compare.compare import CompareOptions, compare_runs
from orchestrator.evaluation.gate.baseline import compare_figures, evaluate_with_baseline, make_baseline, write_baseline
from orchestrator.reports import make_caption, make_document, make_tables
from tests.unit.evaluation.evaluate_samples import Iou
from tests.unit.evaluation.recorded_figures import make_arrays, make_predictions, read_sets, write_truth
from tests.unit.predictions.predictions_samples import Arrays, save

RECORDED = read_sets("fashionpedia-figures.json")
NAMES = {"AP": "ap", "AP_IOU50": "ap_iou50", "AP_IOU75": "ap_iou75", "AP_F150": "ap_f1_50", "AP_F175": "ap_f1_75",
         "AP_IOU50_F150": "ap_iou50_f1_50", "AP_IOU50_F175": "ap_iou50_f1_75", "AP_IOU75_F150": "ap_iou75_f1_50",
         "AP_IOU75_F175": "ap_iou75_f1_75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large", "AR@1": "ar1",
         "AR@10": "ar10", "AR@100": "ar100", "ARs@100": "ar_small", "ARm@100": "ar_medium",
         "ARl@100": "ar_large"}  # fmt: skip
DRESS, SHOE = 10, 23  # Fashionpedia annotates attributes of dresses, not of shoes


def hand_case() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A dress of two attributes of four, found exactly with one of them; a shoe of which 41 of 50 columns are found.

    F1 of the dress: having 2·1 / (1 + 2) = 2/3, lacking 2·2 / (3 + 2) = 4/5, mean 11/15 = .733: the levels .50 to .70.
    IoU of the shoe: 41/50 = .82: the levels .50 to .80.
    """
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 100}],
        "categories": [{"id": DRESS, "name": "dress"}, {"id": SHOE, "name": "shoe"}],
        "attributes": [
            {"id": number, "name": name} for number, name in ((3, "long"), (7, "red"), (9, "lace"), (40, "a"))
        ],
        "annotations": [
            annotation(1, DRESS, [0, 0, 40, 50], [3, 9]),
            annotation(2, SHOE, [50, 50, 50, 50], []),
        ],
    }
    results = [
        {"image_id": 1, "category_id": DRESS, "bbox": [0, 0, 40, 50], "score": 0.75, "attribute_ids": [9]},
        {"image_id": 1, "category_id": SHOE, "bbox": [50, 50, 41, 50], "score": 0.5, "attribute_ids": [7]},
    ]
    return truth, results


def annotation(number: int, category: int, box: list[int], attributes: list[int]) -> dict[str, Any]:
    x, y, width, height = box
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    common = {"id": number, "image_id": 1, "category_id": category, "bbox": box, "area": width * height}
    return {**common, "segmentation": [outline], "attribute_ids": attributes}


def score(tmp_path: Path, truth: dict[str, Any], results: list[dict[str, Any]], kind: Iou = "segm") -> AttributeMetrics:
    predictions = make_predictions(truth, results, taxonomy="fashionpedia")
    metrics = evaluate(predictions, write_truth(tmp_path, truth), kind).attributes
    assert metrics is not None
    return metrics


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_case_known_by_hand(tmp_path: Path, kind: Iou) -> None:
    """The dress counts ten times, once for each level of F1; the shoe has no attributes and counts once."""
    found = score(tmp_path, *hand_case(), kind)
    known = {
        "ap": (10 * 5 + 7) / 110,
        "ap_iou50": (5 + 1) / 11,
        "ap_iou75": (5 + 1) / 11,
        "ap_f1_50": (10 + 7) / 20,
        "ap_f1_75": (0 + 7) / 20,
        "ap_iou50_f1_50": 1.0,
        "ap_iou50_f1_75": 0.5,
        "ap_iou75_f1_75": 0.5,
        "ap_small": None,
        "ap_medium": (10 * 5 + 7) / 110,
        "ar1": (10 * 5 + 7) / 110,
        "ap_f1": (5 + 1) / 11,
    }
    assert {name: getattr(found, name) for name in known} == pytest.approx(known)
    assert found.per_category == pytest.approx({DRESS: 0.5}), "a shoe has no AP_IoU+F1"
    assert found.score == 0.5


def test_the_f1_score_is_the_mean_over_having_and_lacking() -> None:
    both, one, none = (np.array([values], bool) for values in ([1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]))
    assert compute_f1(none, none).item() == 1.0, "both lack all"
    assert compute_f1(both, both).item() == 1.0, "both have all"
    assert compute_f1(none, one).item() == pytest.approx((0 + 2 * 3 / 7) / 2)
    assert compute_f1(both, none).item() == 0.0
    assert compute_f1(one, both).item() == pytest.approx((2 / 5 + 0) / 2)


def test_a_better_overlap_with_a_worse_f1_score_is_not_preferred() -> None:
    """The first detection keeps the first annotation at the levels .50, so none is left for the second one."""
    overlap, f1 = np.array([[0.8, 0.9], [0.9, 0.2]]), np.array([[1.0, 0.6], [1.0, 1.0]])
    flags = np.zeros(2, bool)
    by_both = match_pairs(overlap, f1, flags, flags)
    assert by_both.shape == (len(LEVELS), len(LEVELS), 2)
    assert by_both[0, 0].tolist() == [RIGHT, UNMATCHED]
    assert match_pairs(overlap, None, flags, flags)[0, 0].tolist() == [RIGHT, RIGHT]


def test_the_best_100_of_a_category_in_an_image_count(tmp_path: Path) -> None:
    truth, results = hand_case()
    wrong = {**results[0], "bbox": [60, 0, 40, 40], "score": 0.9}
    for count, recall in ((99, 0.5), (100, 0.0)):
        found = evaluate(
            make_predictions(truth, [wrong] * count + results[:1], taxonomy="fashionpedia"),
            write_truth(tmp_path, truth),
            categories=["dress"],
        ).attributes
        assert found is not None
        assert (found.ar100, found.ap) == pytest.approx((recall, recall / 100))


@pytest.mark.parametrize("number", range(len(RECORDED)))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_equal_those_of_the_authors_code(tmp_path: Path, number: int, kind: Iou) -> None:
    recorded = RECORDED[number]
    found = score(tmp_path, recorded["truth"], recorded["results"], kind)
    theirs = {name: None if value == -1 else value for name, value in recorded[kind]["figures"].items()}
    assert {name: getattr(found, NAMES[name]) for name in theirs} == pytest.approx(theirs, abs=1e-12)
    assert found.ap_f1 == pytest.approx(recorded[kind]["F1 only"], abs=1e-12)
    known = {str(category): value for category, value in found.per_category.items() if value is not None}
    assert known == pytest.approx(recorded[kind]["per_category"], abs=1e-12)


def test_without_fashionpedias_taxonomy_the_annotated_attributes_say_which_categories_have_some(tmp_path: Path) -> None:
    truth, results = hand_case()
    truth["annotations"][0]["attribute_ids"], truth["annotations"][1]["attribute_ids"] = [], [7]
    predictions = make_predictions(truth, results, taxonomy="other")
    found = evaluate(predictions, write_truth(tmp_path, truth)).attributes
    assert found is not None
    assert found.per_category == pytest.approx({SHOE: 0.7})
    assert found.ap == pytest.approx((10 + 10 * 7) / 110), "the dress counts once, by its IoU alone"


def test_the_score_of_an_attribute_decides_whether_an_instance_has_it(tmp_path: Path) -> None:
    truth, results = hand_case()
    predictions = make_predictions(truth, results, taxonomy="fashionpedia")
    path = write_truth(tmp_path, truth)
    strict, lax = (evaluate(predictions, path, attribute_score=at).attributes for at in (0.95, 0.05))
    assert strict is not None
    assert lax is not None
    assert (strict.score, lax.score) == (0.95, 0.05)
    assert strict.per_category[DRESS] == 0.0, "no attribute: having 0, lacking 2·2 / (4 + 2), mean 1/3"
    assert lax.per_category[DRESS] == 0.0, "all attributes: having 2·2 / (4 + 2), lacking 0"


def with_columns(arrays: Arrays, order: list[int], names: list[str]) -> Arrays:
    meta = {**json.loads(str(arrays["meta"])), "attribute_names": names}
    return {**arrays, "attributes": arrays["attributes"][:, order], "meta": np.array(json.dumps(meta))}


def test_columns_are_found_by_name_else_by_order(tmp_path: Path) -> None:
    truth, results = hand_case()
    arrays = make_arrays(truth, results, taxonomy="fashionpedia")
    turned = with_columns(arrays, [3, 2, 1, 0], ["a", "lace", "red", "long"])
    more = with_columns(arrays, [0, 1, 1, 2, 3], ["long", "red", "unknown", "lace", "a"])
    numbered = with_columns(arrays, [0, 1, 2, 3], [f"attribute {n}" for n in range(4)])
    truth["attributes"].reverse()  # ascending ids count, not the order of the file
    path = write_truth(tmp_path, truth)
    for number, columns in enumerate((arrays, turned, more, numbered)):
        found = evaluate(make_from(columns, tmp_path), path)
        assert found.attributes is not None
        assert found.attributes.per_category == pytest.approx({DRESS: 0.5})
        assert any("taken by ascending id" in note for note in found.notes) == (number == 3)


def make_from(arrays: Arrays, folder: Path) -> Any:
    from orchestrator.predictions.predictions import Predictions

    return Predictions.load(save(arrays, folder / "p.npz"))


def test_other_attributes_than_the_annotations_are_not_scored(tmp_path: Path) -> None:
    truth, results = hand_case()
    arrays = make_arrays(truth, results, taxonomy="fashionpedia")
    fewer = make_from(with_columns(arrays, [0, 1, 2], ["x", "y", "long"]), tmp_path)
    found = evaluate(fewer, write_truth(tmp_path, truth))
    assert found.attributes is None
    assert (
        "attributes are not scored: the predictions have 3 attributes and the annotations 4, 1 of one name"
        in found.notes
    )
    with pytest.raises(PredictionsError, match="cannot be scored"):
        evaluate(fewer, tmp_path / "truth.json", attribute_score=0.5)


def test_without_attributes_nothing_is_shown_unless_they_are_asked_for(tmp_path: Path) -> None:
    truth, results = hand_case()
    with_them = make_predictions(truth, results)
    plain = {**truth, "attributes": []}
    without = make_predictions(plain, results)
    found = evaluate(without, write_truth(tmp_path, truth))
    assert (found.attributes, found.notes) == (None, ())
    with pytest.raises(PredictionsError, match="has no attributes") as error:
        evaluate(without, tmp_path / "truth.json", attribute_score=0.5)
    assert "--attribute-score" in str(error.value.hint)
    found = evaluate(with_them, write_truth(tmp_path, plain))
    assert (found.attributes, found.notes) == (None, ())
    with pytest.raises(UsageError, match="have no attributes to score") as refused:
        evaluate(with_them, tmp_path / "truth.json", attribute_score=0.5)
    assert "--attribute-score" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("listed", "ids", "word"),
    [
        ([{"id": 3, "name": "long"}], [3, 4], "attribute_ids of annotation 1"),
        ([{"id": 3, "name": "long"}], 3, "attribute_ids of annotation 1"),
        ([{"id": 3, "name": "long"}, {"id": 3, "name": "a"}], [3], "one id"),
        ([{"id": "3", "name": "long"}], ["3"], "no integer id"),
    ],
)
def test_attributes_that_cannot_be_read_are_named(tmp_path: Path, listed: Any, ids: Any, word: str) -> None:
    truth, results = hand_case()
    predictions = make_predictions(truth, results)
    truth["attributes"] = listed
    truth["annotations"][0]["attribute_ids"] = ids
    found = evaluate(predictions, write_truth(tmp_path, truth))
    assert found.attributes is None
    assert len(found.notes) == 1
    assert word in found.notes[0]
    with pytest.raises(UsageError, match="have no attributes to score"):
        evaluate(predictions, tmp_path / "truth.json", attribute_score=0.5)


def test_some_categories_and_images_of_the_truth(tmp_path: Path) -> None:
    truth, results = hand_case()
    truth["images"].insert(0, {"id": 0, "file_name": "b.jpg", "height": 100, "width": 100})
    truth["annotations"].insert(0, {**annotation(5, SHOE, [0, 0, 30, 30], [7]), "image_id": 0})
    predictions = make_predictions(truth, results, taxonomy="fashionpedia")
    found = evaluate(predictions, write_truth(tmp_path, truth), categories=["dress"]).attributes
    assert found is not None
    assert found.ap == pytest.approx(0.5)


def save_runs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A run with attributes, one without, and the truth."""
    truth, results = hand_case()
    good = save(make_arrays(truth, results, taxonomy="fashionpedia", model="good"), tmp_path / "good.npz")
    plain = make_arrays({**truth, "attributes": []}, results, taxonomy="fashionpedia", model="plain")
    return good, save(plain, tmp_path / "plain.npz"), write_truth(tmp_path, truth)


def copy_of(path: Path) -> Path:
    return Path(shutil.copy(path, path.with_name("copy.npz")))


def test_compare_shows_the_figure_of_runs_that_have_it(tmp_path: Path) -> None:
    good, plain, truth = save_runs(tmp_path)
    result = compare_runs([good, plain], truth, CompareOptions(resamples=0))
    runs, categories, by_attributes = make_tables(result, per_category=True)
    column = runs.columns.index("AP_IoU+F1")
    assert [row[column].text for row in runs.rows] == ["0.518", "–"]
    assert (categories.title, by_attributes.title) == ("AP per category", "AP_IoU+F1 per category")
    assert [[cell.text for cell in row] for row in by_attributes.rows] == [["dress", "0.500", "–"]]
    assert any("attributes that score above 0.5" in line for line in make_caption(result))
    json.dumps(make_document(result))
    without = compare_runs([plain, copy_of(plain)], truth, CompareOptions(resamples=0))
    assert "AP_IoU+F1" not in make_tables(without, per_category=True)[0].columns
    with pytest.raises(PredictionsError, match="has no attributes"):
        compare_runs([good, plain], truth, CompareOptions(resamples=0, attribute_score=0.5))


def test_baselines_hold_the_figure_and_the_score_of_attributes(tmp_path: Path) -> None:
    good, plain, truth = save_runs(tmp_path)
    usual, other = make_baseline(good, truth), make_baseline(good, truth, attribute_score=0.95)
    assert usual.figures["AP_IoU+F1"] == pytest.approx(57 / 110)
    assert "attribute score" not in usual.settings, "baselines of earlier versions remain comparable"
    write_baseline(tmp_path / "b.json", other)
    stored, now, _ = evaluate_with_baseline(good, tmp_path / "b.json", truth)
    assert now.settings["attribute score"] == 0.95, "the baseline's"
    assert {change.difference for change in compare_figures(stored, now)} <= {0.0, None}
    for first, second in ((usual, other), (other, usual)):
        with pytest.raises(PredictionsError, match="attribute score"):
            compare_figures(first, second)
    changes = {change.name: change.now for change in compare_figures(usual, make_baseline(plain, truth))}
    assert changes["AP_IoU+F1"] is None


def test_the_commands_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, plain, truth = map(str, save_runs(tmp_path))
    assert main(["eval", good, "-a", truth]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "AP_IoU+F1\t0.518" in lines
    assert next(line for line in lines if line.startswith("dress")).endswith("\t0.500")
    assert main(["eval", plain, "-a", truth]) == 0
    assert "F1" not in capsys.readouterr().out
    assert main(["eval", good, "-a", truth, "--attribute-score", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attributes"]["ap"] == pytest.approx(57 / 110)
    assert main(["eval", plain, "-a", truth, "--attribute-score", "0.5"]) == 6
    assert main(["compare", good, str(copy_of(Path(good))), "-a", truth, "--attribute-score", "0.95", "-f", "csv"]) == 0
    assert "AP_IoU+F1" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["report", good, "-a", truth, "-o", str(page)]) == 0
    assert "AP_IoU+F1" in page.read_text(encoding="utf-8")


def test_the_metrics_are_plain_values(tmp_path: Path) -> None:
    json.dumps(asdict(score(tmp_path, *hand_case())), allow_nan=False)
