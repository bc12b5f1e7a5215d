"""LVIS's federated rules: figures known by hand, those of the package lvis, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.coco.detections import join
from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.ground_truth import read_truth
from orchestrator.evaluation.coco.matching import match
from orchestrator.evaluation.coco.resampling import ResampledPrecision
from orchestrator.evaluation.coco.results import DetectionCounts, Evaluation
from orchestrator.evaluation.compare.compare import CompareOptions, compare_runs
from orchestrator.evaluation.gate.baseline import compare_figures, make_baseline
from orchestrator.inputs import collect_inputs
from orchestrator.reports import make_tables
from tests.unit.evaluation.evaluate_samples import Iou
from tests.unit.evaluation.recorded_figures import make_arrays, make_predictions, read_sets, write_truth
from tests.unit.predictions.predictions_samples import save

RECORDED = read_sets("lvis-figures.json")
CAT, OWL, ELK = 1, 4, 9
Box = tuple[int, int, int, int]


def image(number: int, absent: list[int], partial: list[int]) -> dict[str, Any]:
    lists = {"neg_category_ids": absent, "not_exhaustive_category_ids": partial}
    return {"id": number, "file_name": f"{number}.jpg", "height": 100, "width": 100, **lists}


def annotation(number: int, of: int, category: int, box: Box) -> dict[str, Any]:
    x, y, width, height = box
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    common = {"id": number, "image_id": of, "category_id": category, "bbox": list(box), "area": width * height}
    return {**common, "segmentation": [outline]}


def result(of: int, category: int, box: Box, score: float) -> dict[str, Any]:
    return {"image_id": of, "category_id": category, "bbox": list(box), "score": score}


def hand_case() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Right detections of cats and owls, and four wrong ones with the highest scores.

    Of these, the owl in image 1 does not count (nobody looked for owls), the second cat there does not either (not all
    cats are annotated); the cat in image 2 does (there is none) and so does the second owl in image 2.
    """
    place, elsewhere = (0, 0, 40, 40), (50, 50, 40, 40)
    truth = {
        "images": [image(1, [ELK], [CAT]), image(2, [CAT], [])],
        "categories": [
            {"id": CAT, "name": "cat", "frequency": "f"},
            {"id": OWL, "name": "owl", "frequency": "r"},
            {"id": ELK, "name": "elk", "frequency": "c"},
        ],
        "annotations": [annotation(1, 1, CAT, place), annotation(2, 2, OWL, place)],
    }
    wrong = [result(1, OWL, elsewhere, 0.9), result(1, CAT, elsewhere, 0.9), result(2, CAT, elsewhere, 0.9)]
    right = [result(1, CAT, place, 0.5), result(2, OWL, place, 0.5)]
    return truth, [*wrong, result(2, OWL, elsewhere, 0.9), *right]


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_case_known_by_hand(tmp_path: Path, kind: Iou, engine: str) -> None:
    """One wrong cat and one wrong owl stand before the right ones: AP 1/2 of each. By COCO's rules a cat's is 1/3."""
    truth, results = hand_case()
    predictions = make_predictions(truth, results)
    found = evaluate(predictions, write_truth(tmp_path, truth), kind, engine=engine)
    assert found.federated is not None
    assert (found.ap, found.federated.ap_rare, found.federated.ap_frequent) == pytest.approx((0.5, 0.5, 0.5))
    assert found.federated.ap_common is None, "no elk is annotated"
    assert found.federated.ar300 == 1.0
    assert (found.ar1, found.ar100, found.ar_small, found.weighted.mar_w100) == (None, None, None, None)
    assert found.counts == DetectionCounts(tp=2, fp=2, fn=0)
    assert any("5 of 6 instances count" in note for note in found.notes)
    for one in truth["images"]:
        del one["neg_category_ids"], one["not_exhaustive_category_ids"]
    for one in truth["categories"]:
        del one["frequency"]
    plain = evaluate(predictions, write_truth(tmp_path, truth), kind, engine=engine)
    assert plain.federated is None
    assert [one.ap for one in plain.per_category] == pytest.approx([1 / 3, 1 / 3, None])


def figures_of(found: Evaluation) -> dict[str, float | None]:
    own = found.federated
    assert own is not None
    ap = {"AP": found.ap, "AP50": found.ap50, "AP75": found.ap75, "APs": found.ap_small, "APm": found.ap_medium}
    by_frequency = {"APl": found.ap_large, "APr": own.ap_rare, "APc": own.ap_common, "APf": own.ap_frequent}
    recall = {"AR@300": own.ar300, "ARs@300": own.ar300_small, "ARm@300": own.ar300_medium, "ARl@300": own.ar300_large}
    return {**ap, **by_frequency, **recall}


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("number", range(len(RECORDED)))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_equal_those_of_lvis(tmp_path: Path, number: int, kind: Iou, engine: str) -> None:
    recorded = RECORDED[number]
    predictions = make_predictions(recorded["truth"], recorded["results"])
    found = evaluate(predictions, write_truth(tmp_path, recorded["truth"]), kind, engine=engine)
    theirs = {name: None if value == -1 else value for name, value in recorded[kind].items()}
    assert figures_of(found) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_resampled_precision_and_counts_follow_the_same_rules(tmp_path: Path, number: int) -> None:
    recorded = RECORDED[number]
    predictions = make_predictions(recorded["truth"], recorded["results"])
    path = write_truth(tmp_path, recorded["truth"])
    truth = read_truth(path, "segm")
    matches = match(truth, join(predictions, truth).detections, "segm", THRESHOLDS)
    precision = ResampledPrecision(truth, matches)(np.ones(len(truth), np.int64))
    assert np.nanmean(precision) == pytest.approx(recorded["segm"]["AP"], abs=1e-12)
    by_category = evaluate(predictions, path, "segm").per_category
    annotated = precision[:, ~np.isnan(precision[0])]
    assert [one.ap for one in by_category if one.ap is not None] == pytest.approx(annotated.mean(axis=0))


def test_only_the_best_300_of_an_image_count_whatever_their_category(tmp_path: Path) -> None:
    """300 owls, which nobody looked for in image 1, outscore the right cat."""
    truth, _ = hand_case()
    owls = [result(1, OWL, (50, 50, 40, 40), 0.9)] * 300
    path = write_truth(tmp_path, truth)
    for count, ap in ((299, 1.0), (300, 0.0)):
        predictions = make_predictions(truth, [*owls[:count], result(1, CAT, (0, 0, 40, 40), 0.5)])
        for engine in ("hotcoco", "pycocotools"):
            assert evaluate(predictions, path, "bbox", engine=engine).per_category[0].ap == pytest.approx(ap)


def test_more_than_100_detections_of_a_category_count(tmp_path: Path) -> None:
    truth, _ = hand_case()
    cats = [result(2, CAT, (50, 50, 40, 40), 0.9)] * 150
    predictions = make_predictions(truth, [*cats, result(1, CAT, (0, 0, 40, 40), 0.5)])
    found = evaluate(predictions, write_truth(tmp_path, truth), "bbox")
    assert found.per_category[0].counts == DetectionCounts(tp=1, fp=150, fn=0)
    assert found.per_category[0].ap == pytest.approx(1 / 151)


def test_some_categories_and_some_images(tmp_path: Path) -> None:
    truth, results = hand_case()
    path = write_truth(tmp_path, truth)
    cats = evaluate(make_predictions(truth, results), path, "bbox", categories=["cat"])
    assert (cats.ap, cats.detections) == pytest.approx((0.5, 3))
    for image_index, counted, ap in ((0, 2, 1.0), (1, 3, 0.5)):
        one_image = {**truth, "images": truth["images"][image_index : image_index + 1]}
        runs = [save(make_arrays(one, results), tmp_path / f"{n}.npz") for n, one in enumerate((truth, one_image))]
        compared = compare_runs(runs, path, CompareOptions("bbox", align=True, resamples=20))
        assert [(one.images, one.detections) for one in compared.evaluations] == [(1, counted)] * 2
        assert [one.ap for one in compared.evaluations] == pytest.approx([ap, ap])


def test_compare_and_baselines_show_lvis_own_figures(tmp_path: Path) -> None:
    truth, results = hand_case()
    path = write_truth(tmp_path, truth)
    arrays = make_arrays(truth, results)
    runs = [save(arrays, tmp_path / name) for name in ("a.npz", "b.npz")]
    table, differences = make_tables(compare_runs(runs, path, CompareOptions("bbox", resamples=10)), per_category=False)
    assert table.columns[2:] == ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR300")
    assert [cell.text for cell in table.rows[0][2:3]] == ["0.500"]
    assert differences.columns[1:] == ("Δ AP", "Δ AP50", "Δ AP75")
    baseline = make_baseline(runs[0], path, "bbox")
    assert baseline.figures["APr"] == pytest.approx(0.5)
    by_coco = {key: value for key, value in baseline.settings.items() if key != "rules"}
    with pytest.raises(PredictionsError, match="rules"):
        compare_figures(type(baseline)("m", "cpu", by_coco, baseline.figures, {}), baseline)


def test_the_commands_name_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, results = hand_case()
    run = save(make_arrays(truth, results, max_detections=100), tmp_path / "p.npz")
    assert main(["eval", str(run), "-a", str(write_truth(tmp_path, truth))]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.split("\t")[:2] for line in out.splitlines())
    assert (rows["AP"], rows["AP rare"], rows["AP common"], rows["AR300"]) == ("0.500", "0.500", "–", "1.000")
    assert not {"AR1", "AR100", "mAP_w"} & rows.keys()
    assert "note: scored by LVIS's rules: 5 of 6 instances count" in err
    assert "note: the run kept at most 100 instances of an image, LVIS counts 300" in err
    page = tmp_path / "page.html"
    assert main(["report", str(run), "-a", str(tmp_path / "truth.json"), "-o", str(page)]) == 0
    assert "AR300" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda truth: [one.pop("neg_category_ids") for one in truth["images"]], "2 of 2 images"),
        (lambda truth: truth["images"][1].pop("not_exhaustive_category_ids"), "1 of 2 images"),
        (lambda truth: truth["images"][1].update(neg_category_ids="1"), "1 of 2 images"),
        (lambda truth: truth["annotations"][0].update(iscrowd=1), "annotation 1"),
        (lambda truth: truth["annotations"][1].update(ignore=1), "annotation 2"),
        (
            lambda truth: [one.pop(key) for one in truth["images"] for key in list(one) if key.endswith("_ids")],
            "LVIS's frequencies",
        ),
    ],
)
def test_what_cannot_be_scored_by_these_rules_is_refused(tmp_path: Path, change: Any, word: str) -> None:
    truth, results = hand_case()
    predictions = make_predictions(truth, results)
    change(truth)
    with pytest.raises(UsageError, match="cannot be scored by LVIS's rules") as error:
        evaluate(predictions, write_truth(tmp_path, truth))
    assert word in str(error.value.why)


def test_a_large_vocabulary_without_the_lists_is_scored_as_coco_with_a_note(tmp_path: Path) -> None:
    truth, results = hand_case()
    for one in truth["images"]:
        del one["neg_category_ids"], one["not_exhaustive_category_ids"]
    truth["categories"] = [{"id": number, "name": f"c{number}"} for number in range(1203)]
    found = evaluate(make_predictions(truth, results), write_truth(tmp_path, truth), "bbox")
    assert found.federated is None
    assert any(
        note.startswith("1203 categories and no neg_category_ids: scored by COCO's rules") for note in found.notes
    )
    truth["categories"] = truth["categories"][:999]
    assert evaluate(make_predictions(truth, results), write_truth(tmp_path, truth), "bbox").notes == ()


def test_images_without_file_name_are_named_by_their_url(tmp_path: Path) -> None:
    """LVIS's own files have only `coco_url`; both `orch run` and `orch eval` read them."""
    truth, results = hand_case()
    predictions = make_predictions(truth, results)
    for one in truth["images"]:
        one["coco_url"] = f"http://images.example.org/val2017/{one.pop('file_name')}"
    path = write_truth(tmp_path, truth)
    assert evaluate(predictions, path, "bbox").ap == pytest.approx(0.5)
    assert read_truth(path, "bbox").files == ["val2017/1.jpg", "val2017/2.jpg"]
    (tmp_path / "val2017").mkdir()
    for number in (1, 2):
        (tmp_path / "val2017" / f"{number}.jpg").write_bytes(b"")
    listed = collect_inputs([str(path)], tmp_path / "unpacked")
    assert [item.file for item in listed.images] == ["val2017/1.jpg", "val2017/2.jpg"]
    truth["images"][0]["coco_url"] = 5
    with pytest.raises(UsageError, match="not in COCO's format") as error:
        read_truth(write_truth(tmp_path, truth), "bbox")
    assert "images[0] has no file_name" in str(error.value.why)
