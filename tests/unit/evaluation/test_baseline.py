"""Baselines: what is stored, what makes a run incomparable, and `orch compare --baseline`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.gate.baseline import (
    compare_figures,
    evaluate_with_baseline,
    make_baseline,
    note_unknown_images,
    read_baseline,
    write_baseline,
)
from orchestrator.evaluation.gate.rules import FigureChange
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.compare_samples import changed, two_runs
from tests.unit.evaluation.evaluate_samples import CATEGORIES
from tests.unit.predictions.predictions_samples import save

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A good and a worse model's predictions, and the truth."""
    return two_runs(tmp_path)


def again(good: Path, **meta: Any) -> Path:
    """The good model's predictions with other words in meta."""
    return save(changed(dict(Predictions.load(good).arrays), **meta), good.with_name("again.npz"))


def test_a_stored_baseline_is_read_back_whole(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    made = make_baseline(runs[0], runs[2])
    write_baseline(tmp_path / "new" / "baseline.json", made)
    assert read_baseline(tmp_path / "new" / "baseline.json") == made
    expected = evaluate(Predictions.load(runs[0]), runs[2])
    assert (made.model, made.figures["AP"], made.figures["mAP_w"]) == ("good", expected.ap, expected.weighted.map_w)
    assert made.categories == {one.name: one.ap for one in expected.per_category}


def test_the_same_predictions_differ_in_nothing(runs: tuple[Path, Path, Path]) -> None:
    one = make_baseline(runs[0], runs[2])
    assert {change.difference for change in compare_figures(one, one)} <= {0.0, None}


def test_a_difference_is_now_less_then() -> None:
    assert FigureChange("AP", 0.5, 0.75).difference == 0.25
    assert FigureChange("AP", None, 0.75).difference is None
    assert FigureChange("AP", 0.5, None).as_json() == {"baseline": 0.5, "now": None, "difference": None}


DIFFERENT: list[tuple[str, dict[str, Any], str]] = [
    ("score floor", {"score_threshold": 0.33}, "0.33"),
    ("max detections", {"max_detections": 3}, "3"),
    ("exif", {"exif": "ignore"}, "ignore"),
    ("taxonomy", {"taxonomy": "other"}, "'other'"),
    ("taxonomy", {"categories": [*CATEGORIES, {"id": 99, "name": "boat"}]}, "(sha256"),
]


@pytest.mark.parametrize(("setting", "meta", "shown"), DIFFERENT)
def test_another_setting_is_not_comparable(
    runs: tuple[Path, Path, Path], setting: str, meta: dict[str, Any], shown: str
) -> None:
    then = make_baseline(runs[0], runs[2])
    with pytest.raises(PredictionsError) as caught:
        compare_figures(then, make_baseline(again(runs[0], **meta), runs[2]))
    assert caught.value.message.endswith(f"they differ in {setting}")
    assert caught.value.why is not None
    assert shown in caught.value.why


def test_no_floor_is_a_floor_of_zero(runs: tuple[Path, Path, Path]) -> None:
    none, zero = again(runs[0], score_threshold=None), runs[0].with_name("zero.npz")
    save(changed(dict(Predictions.load(none).arrays), score_threshold=0.0), zero)
    compare_figures(make_baseline(none, runs[2]), make_baseline(zero, runs[2]))


def test_other_images_are_not_comparable(runs: tuple[Path, Path, Path]) -> None:
    arrays = dict(Predictions.load(runs[0]).arrays)
    arrays["image_file"] = np.array([*arrays["image_file"][:-1].tolist(), "q/another.jpg"])
    other = save(arrays, runs[0].with_name("other.npz"))
    with pytest.raises(PredictionsError, match=r"they differ in image list$"):
        compare_figures(make_baseline(runs[0], runs[2]), make_baseline(other, runs[2]))


def other_bytes(good: Path, *images: int) -> Path:
    """The good model's predictions, of other files under the names of some images."""
    arrays = dict(Predictions.load(good).arrays)
    arrays["image_sha256"] = arrays["image_sha256"].copy()
    arrays["image_sha256"][list(images)] ^= 0xFF
    return save(arrays, good.with_name("other.npz"))


def test_other_bytes_under_equal_names_are_not_comparable(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    stored = tmp_path / "baseline.json"
    write_baseline(stored, make_baseline(runs[0], runs[2]))
    for baseline in (stored, runs[0]):
        then, now, _ = evaluate_with_baseline(other_bytes(runs[0], 3, 5), baseline, runs[2])
        with pytest.raises(PredictionsError, match=r"they differ in image content$") as caught:
            compare_figures(then, now)
        assert caught.value.why == "2 of 12 image files have other bytes than the baseline's: p/003.jpg, p/005.jpg"
    command = ["compare", str(runs[0].with_name("other.npz")), "--baseline", str(stored), "-a", str(runs[2])]
    assert main(command) == 6


def test_a_baseline_or_run_without_digests_is_said(
    runs: tuple[Path, Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    stored = tmp_path / "baseline.json"
    write_baseline(stored, make_baseline(runs[0], runs[2]))
    document = json.loads(stored.read_text())
    assert set(document["images"]) == set(Predictions.load(runs[0]).files)
    assert "warnings" not in document
    del document["images"]  # as stored before digests were
    stored.write_text(json.dumps(document))
    command = ["compare", str(runs[0]), "--baseline", str(stored), "-a", str(runs[2])]
    assert main(command) == 0
    assert "whether 12 image files are those of the baseline is not known" in capsys.readouterr().err
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 1
    then = make_baseline(runs[0], runs[2])
    assert note_unknown_images(then, then) == []
    (note,) = note_unknown_images(then, replace(then, images={}))
    assert note.startswith("whether all image files")


def test_other_annotations_and_another_iou_are_not_comparable(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    stored = tmp_path / "baseline.json"
    write_baseline(stored, make_baseline(runs[0], runs[2]))
    edited = tmp_path / "edited.json"
    edited.write_text(runs[2].read_text() + "\n")
    with pytest.raises(PredictionsError, match=r"they differ in annotations$"):
        evaluate_with_baseline(runs[0], stored, edited)
    then, now, _ = evaluate_with_baseline(runs[0], stored, runs[2], iou="bbox")
    with pytest.raises(PredictionsError, match=r"they differ in iou$"):
        compare_figures(then, now)


def test_a_stored_baseline_says_what_was_evaluated(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    stored = tmp_path / "baseline.json"
    write_baseline(stored, make_baseline(runs[0], runs[2], "bbox", ["hat"]))
    then, now, found = evaluate_with_baseline(runs[0], stored, runs[2])
    assert now == then
    assert (now.settings["iou"], list(now.categories)) == ("bbox", ["hat"])
    assert (found.images, found.failed) == (12, 0)


GOOD = {"settings": {"iou": "segm", "evaluated categories": [1]}, "figures": {"AP": 0.5}, "categories": {}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is not JSON"),
        ("[" * 3000, "it is not JSON"),
        ("[]", "its format is None"),
        (json.dumps({"format": "orch-baseline/2", **GOOD}), "its format is 'orch-baseline/2'"),
        (json.dumps({"format": "orch-baseline/1"}), "missing or of the wrong type"),
        (json.dumps({"format": "orch-baseline/1", **GOOD, "figures": {"AP": "high"}}), "missing or of the wrong type"),
        (json.dumps({"format": "orch-baseline/1", **GOOD, "categories": [1]}), "missing or of the wrong type"),
        (
            json.dumps({"format": "orch-baseline/1", **GOOD, "settings": {"iou": "mask"}}),
            "missing or of the wrong type",
        ),
    ],
)
def test_a_file_that_is_not_a_baseline_is_a_usage_error(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_baseline(tmp_path / "b.json")
    assert caught.value.why is not None
    assert why in caught.value.why


# ---- the command line ----------------------------------------------------------------------------------------------


def test_a_run_is_compared_with_what_eval_stored(
    runs: tuple[Path, Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    good, worse, truth = map(str, runs)
    stored = str(tmp_path / "b.json")
    assert main(["eval", good, "-a", truth, "--save-baseline", stored]) == 0
    capsys.readouterr()
    against = ["--baseline", stored, "-a", truth]
    assert main(["compare", good, *against, "--fail-on", "ap-drop:0"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "\tbaseline\tnow\tdifference"
    assert "kept: ap-drop:0: AP is the same" in err

    assert main(["compare", worse, *against, "--fail-on", "ap-drop:0.01", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    then, now = (evaluate(Predictions.load(path), runs[2]).ap for path in (good, worse))
    assert then is not None
    assert now is not None
    assert found["figures"]["AP"] == {"baseline": then, "now": now, "difference": now - then}
    assert found["broken_rules"] == ["ap-drop:0.01"]
    assert (found["model"], found["baseline"]["model"]) == ("worse", "good")
    assert main(["compare", worse, *against]) == 0, "without a rule nothing can be broken"
    assert "note: the baseline is of good" in capsys.readouterr().err


def test_a_run_is_a_baseline_too(runs: tuple[Path, Path, Path], capsys: Captured) -> None:
    good, worse, truth = map(str, runs)
    assert main(["compare", worse, "--baseline", good, "-a", truth, "--fail-on", "ap-drop:0.01"]) == 1
    assert "broken: ap-drop:0.01: AP fell by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format_name", "start"),
    [("markdown", "|  | baseline | now | difference |"), ("csv", ",baseline,now,difference"), ("json", "{"),
     ("latex", "\\begin{tabular}{lrrr}")],
)  # fmt: skip
def test_every_format_is_written(
    runs: tuple[Path, Path, Path], tmp_path: Path, capsys: Captured, format_name: str, start: str
) -> None:
    good, worse, truth = map(str, runs)
    target = tmp_path / "table"
    arguments = ["--baseline", good, "-a", truth, "-f", format_name, "-o", str(target), "--per-category"]
    assert main(["compare", worse, *arguments]) == 0
    assert target.read_text().startswith(start)
    assert "hat" in target.read_text()
    assert f"wrote {target}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["GOOD", "WORSE", "--baseline", "GOOD", "-a", "TRUTH"], 2, "--baseline compares one run"),
        (["GOOD", "--baseline", "GOOD"], 2, "--baseline needs annotations"),
        (["GOOD", "WORSE", "-a", "TRUTH", "--fail-on", "ap-drop:0.1"], 2, "--fail-on needs a baseline"),
        (["GOOD", "--baseline", "none.json", "-a", "TRUTH"], 2, "cannot read the baseline"),
        (["GOOD", "--baseline", "GOOD", "-a", "TRUTH", "--fail-on", "ap:1"], 2, "unknown rule"),
    ],
)
def test_mistakes(
    runs: tuple[Path, Path, Path], capsys: Captured, arguments: list[str], code: int, message: str
) -> None:
    names = dict(zip(("GOOD", "WORSE", "TRUTH"), map(str, runs), strict=True))
    assert main(["compare", *(names.get(one, one) for one in arguments)]) == code
    assert message in capsys.readouterr().err


def test_a_baseline_needs_coco_annotations(runs: tuple[Path, Path, Path], tmp_path: Path, capsys: Captured) -> None:
    assert main(["eval", str(runs[0]), "--masks", str(tmp_path), "--save-baseline", "x.json"]) == 2
    assert "a baseline needs COCO annotations" in capsys.readouterr().err
