"""Runs that localize manipulation side by side: figures and intervals done by hand, and what is not comparable."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.compare.localization import (
    MaskComparison,
    MaskOptions,
    compare_masks,
    compare_opened_masks,
)
from orchestrator.evaluation.localization.evaluate import evaluate_masks
from orchestrator.evaluation.localization.metrics import list_mask_figures
from orchestrator.evaluation.localization.protocol import IMDLBENCO, OWN_RULES
from orchestrator.evaluation.localization.resampling import RESAMPLED
from orchestrator.evaluation.runs import open_runs
from orchestrator.inputs.collect import collect_inputs
from tests.unit.evaluation.compare_samples import changed
from tests.unit.evaluation.test_localization import FILES, SIZE, a_folder, arrays, put
from tests.unit.predictions.predictions_samples import Arrays, save

Mask = NDArray[np.bool_]


def columns(first: int, last: int) -> Mask:
    found = np.zeros(SIZE, bool)
    found[:, first:last] = True
    return found


NOTHING, WHOLE, LEFT, LEFT_OF_LEFT = columns(0, 0), columns(0, 32), columns(0, 16), columns(0, 8)
TRUTHS = [LEFT, LEFT, LEFT, NOTHING]
GOOD = [LEFT, LEFT_OF_LEFT, NOTHING, NOTHING]
WORSE = [LEFT_OF_LEFT, LEFT_OF_LEFT, NOTHING, WHOLE]


def a_run(folder: Path, found: list[Mask], stored: Arrays | None = None) -> Path:
    for file, mask in zip(FILES, found, strict=True):
        put(folder / "masks" / f"{file}.png", mask * 255)
    save(changed(arrays() if stored is None else stored, model=folder.name), folder / "predictions.npz")
    return folder


def two(folder: Path, **second: Any) -> tuple[list[Path], Path]:
    """A good and a worse run, and the folder of their true masks."""
    runs = [a_run(folder / "good", GOOD), a_run(folder / "worse", WORSE, **second)]
    return runs, a_folder(folder / "gt", TRUTHS)


def record_truth(runs: list[Path], folder: Path, truths: list[Mask]) -> None:
    """Let the runs' images have come with these true masks; an empty one is that of a genuine image."""
    a_folder(folder / "gt", truths)
    pairs = []
    for file, truth in zip(FILES, truths, strict=True):
        put(folder / file, np.zeros(SIZE))
        pairs.append([file, str(Path("gt", file).with_suffix(".png")) if truth.any() else "Negative"])
    (folder / "set.json").write_text(json.dumps(pairs))
    for run in runs:
        collect_inputs([str(folder / "set.json")], folder / "unpacked").images.save(run / "inputs.jsonl")


def by_name(result: MaskComparison, run: int) -> dict[str, Any]:
    return list_mask_figures(result.evaluations[run])


def test_figures_and_differences_are_those_done_by_hand(tmp_path: Path) -> None:
    runs, source = two(tmp_path)
    result = compare_masks(runs, MaskOptions(source, resamples=200))
    good, worse = by_name(result, 0), by_name(result, 1)
    # F1 of a mask that finds half of the region and nothing else: 2/3, IoU 1/2, AUC 3/4; of an empty one 0, 0, 1/2.
    assert good["pixel F1 at 0.5"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert worse["pixel F1 at 0.5"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert (good["pixel IoU at 0.5"], worse["pixel IoU at 0.5"]) == pytest.approx((1 / 2, 1 / 3))
    assert (good["pixel AUC"], worse["pixel AUC"]) == pytest.approx((3 / 4, 2 / 3))
    # The inverse of an empty mask is everything: F1 2/3, IoU 1/2.
    assert (good["permute-F1 at 0.5"], worse["permute-F1 at 0.5"]) == pytest.approx((7 / 9, 2 / 3))
    assert (good["image accuracy at 0.5"], worse["image accuracy at 0.5"]) == pytest.approx((3 / 4, 1 / 2))
    (intervals,) = result.intervals
    wanted = {
        "pixel F1 at 0.5": -1 / 9,
        "pixel F1 at the best threshold": -1 / 9,
        "pixel IoU at 0.5": -1 / 6,
        "pixel AUC": -1 / 12,
        "permute-F1 at 0.5": -1 / 9,
        "permute-IoU at 0.5": -1 / 6,
        "permute-AUC": -1 / 12,
        "image accuracy at 0.5": -1 / 4,
    }
    assert {name: one.difference for name, one in intervals.items()} == pytest.approx(wanted)
    assert set(wanted) == set(RESAMPLED)
    assert all(
        evaluation == evaluate_masks(run, source) for run, evaluation in zip(runs, result.evaluations, strict=True)
    )


def test_an_interval_with_a_known_answer(tmp_path: Path) -> None:
    """The runs differ in one image of three manipulated ones: what is drawn says what the difference is.

    The first image is not among four drawn ones in (3/4)^4 = 32 %: the upper bound is 0. It is the only manipulated
    one in (2/4)^4 - (1/4)^4 = 6 %: the lower bound is the difference of that image, -1/3. Only the genuine image is
    drawn in (1/4)^4 = 0.4 %: no figure. The differences are not paired if these bounds are others.
    """
    runs, source = two(tmp_path)
    (intervals,) = compare_masks(runs, MaskOptions(source, resamples=2000)).intervals
    one = intervals["pixel F1 at 0.5"]
    assert (one.low, one.high) == pytest.approx((-1 / 3, 0))
    assert not one.is_clear
    assert 1980 <= one.resamples < 2000
    assert intervals["image accuracy at 0.5"].resamples == 2000
    assert intervals["image accuracy at 0.5"].low == pytest.approx(-3 / 4)
    assert compare_masks(runs, MaskOptions(source, resamples=0)).intervals == ()


@pytest.mark.parametrize("rules", [OWN_RULES, IMDLBENCO], ids=["own", "imdlbenco"])
def test_a_resample_has_the_figures_of_images_listed_that_often(tmp_path: Path, rules: Any) -> None:
    rng = np.random.default_rng(5)
    run = a_run(tmp_path / "run", GOOD, arrays([0.9, 0.4, 0.8, 0.6]))
    for file in FILES:
        put(run / "masks" / f"{file}.png", rng.integers(0, 256, SIZE))
    truths = [LEFT, LEFT_OF_LEFT, WHOLE, NOTHING]
    a_folder(tmp_path / "gt", truths)
    pairs = [[file, str(Path("gt", file).with_suffix(".png"))] for file in FILES[:3]] + [[FILES[3], "Negative"]]
    options = MaskOptions(tmp_path / "set.json", protocol=rules.name)
    for times in ([1, 1, 1, 1], [2, 0, 1, 3], [0, 1, 0, 2]):
        (tmp_path / "set.json").write_text(json.dumps(pairs))
        means = compare_opened_masks(open_runs([run]), options)[1].means[0]
        found = dict(zip(RESAMPLED, means(np.array(times)), strict=True))
        listed = [pair for pair, count in zip(pairs, times, strict=True) for _ in range(count)]
        (tmp_path / "often.json").write_text(json.dumps(listed))
        figures = list_mask_figures(evaluate_masks(run, tmp_path / "often.json", rules=rules))
        assert found == pytest.approx({name: figures[name] for name in RESAMPLED})


def test_the_protocol_imdlbenco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source = two(tmp_path)
    given = [*map(str, runs), "--masks", str(source), "--protocol", "imdlbenco", "--resamples", "20"]
    assert main(["compare", *given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["pixel_fixed"]["f1"] for one in found["evaluations"]] == pytest.approx([5 / 12, 4 / 12])
    assert found["differences"][0]["pixel F1 at 0.5"]["difference"] == pytest.approx(-1 / 12)
    assert "image accuracy at 0.5" not in found["differences"][0]  # the model gives no scores of images
    assert main(["compare", *given]) == 0
    assert "figures follow the protocol imdlbenco" in capsys.readouterr().err
    assert main(["compare", *map(str, runs), "--masks", str(source), "--protocol", "coco"]) == 2
    assert "is for COCO annotations" in capsys.readouterr().err


def test_inverted_masks(tmp_path: Path) -> None:
    runs, source = two(tmp_path)
    expected = compare_masks(runs, MaskOptions(source, resamples=20))
    inverted = a_folder(tmp_path / "black", [~truth for truth in TRUTHS])
    found = compare_masks(runs, MaskOptions(inverted, is_inverted=True, resamples=20))
    assert [by_name(found, n) for n in (0, 1)] == [by_name(expected, n) for n in (0, 1)]
    assert found.intervals == expected.intervals


def test_recorded_masks_are_the_truth_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source = two(tmp_path)
    record_truth(runs[1:], tmp_path, TRUTHS)
    result = compare_masks(runs, MaskOptions(resamples=20))
    assert by_name(result, 0) == by_name(compare_masks(runs, MaskOptions(source, resamples=0)), 0)
    assert main(["compare", *map(str, runs), "--resamples", "20"]) == 0
    out, err = capsys.readouterr()
    assert "pixel F1 at 0.5" in out
    assert "true masks recorded with the images: 4 images, 3 of them manipulated" in err


def test_runs_without_true_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, _ = two(tmp_path)
    with pytest.raises(UsageError, match="no true masks came"):
        compare_masks(runs, MaskOptions())
    assert main(["compare", *map(str, runs), "--protocol", "imdlbenco"]) == 2
    assert "--masks FOLDER" in capsys.readouterr().err
    assert main(["compare", *map(str, runs)]) == 0
    assert "pairs at" in capsys.readouterr().out  # as without any truth: how far the instances agree


def test_other_images_are_refused_and_aligned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = arrays()
    stored["image_sha256"] = np.array(stored["image_sha256"])
    stored["image_sha256"][0] ^= 1
    runs, source = two(tmp_path, stored=stored)
    with pytest.raises(PredictionsError, match="they differ in image content") as caught:
        compare_masks(runs, MaskOptions(source))
    assert (caught.value.exit_code, "a.jpg" in str(caught.value.why)) == (6, True)
    result = compare_masks(runs, MaskOptions(source, align=True, resamples=20))
    assert [evaluation.images for evaluation in result.evaluations] == [3, 3]
    assert by_name(result, 0)["pixel F1 at 0.5"] == pytest.approx(1 / 3)
    assert result.notes[0] == "aligned: not the 1 images whose files differ"
    pairs = [[file, str(Path("gt", file).with_suffix(".png"))] for file in FILES]
    (tmp_path / "set.json").write_text(json.dumps(pairs))
    listed = compare_masks(runs, MaskOptions(tmp_path / "set.json", align=True, resamples=20))
    assert [(one.images, one.missing_images) for one in listed.evaluations] == [(3, ()), (3, ())]
    assert main(["compare", *map(str, runs), "--masks", str(source)]) == 6
    assert "--align" in capsys.readouterr().err


def test_another_floor_or_limit_does_not_matter_to_masks(tmp_path: Path) -> None:
    runs, source = two(tmp_path, stored=changed(arrays(), score_threshold=0.4, max_detections=3))
    assert compare_masks(runs, MaskOptions(source, resamples=0)).notes == ()


def test_other_recorded_masks_are_refused(tmp_path: Path) -> None:
    runs, source = two(tmp_path)
    record_truth(runs[:1], tmp_path / "one", TRUTHS)
    record_truth(runs[1:], tmp_path / "other", TRUTHS)  # other files of equal content
    assert compare_masks(runs, MaskOptions(resamples=0)).evaluations[0].manipulated == 3
    for truths in ([LEFT, WHOLE, LEFT, NOTHING], [LEFT, NOTHING, LEFT, NOTHING]):
        record_truth(runs[1:], tmp_path / "other", truths)
        with pytest.raises(PredictionsError, match="they differ in true masks") as caught:
            compare_masks(runs, MaskOptions())
        assert "good and worse recorded other true masks of 1 images (sub/b.png)" in str(caught.value.why)
        assert "--masks" in str(caught.value.hint)
        assert caught.value.exit_code == 6
    assert compare_masks(runs, MaskOptions(source, resamples=0)).evaluations[0].manipulated == 3


def test_a_true_mask_that_one_run_cannot_use_counts_for_none(tmp_path: Path) -> None:
    """One of 101 true masks has another size; in the second run its image failed, so that any size fits there."""
    runs, _ = two(tmp_path, stored=arrays(failed=(0,)))
    put(tmp_path / "gt" / "a.png", np.zeros((5, 5)))
    pairs = [["d.jpg", "Negative"]] * 100 + [["a.jpg", "gt/a.png"]]
    (tmp_path / "set.json").write_text(json.dumps(pairs))
    result = compare_masks(runs, MaskOptions(tmp_path / "set.json", resamples=5))
    assert [(one.images, len(one.skipped_masks)) for one in result.evaluations] == [(100, 1)] * 2


def test_failed_images_count_as_predicted_genuine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source = two(tmp_path, stored=arrays(failed=(0,)))
    assert main(["compare", *map(str, runs), "--masks", str(source), "--resamples", "0"]) == 0
    err = capsys.readouterr().err
    assert "worse: 1 images failed; they count as predicted genuine" in err
    assert "images without instances" not in err


def test_figures_of_each_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, _ = two(tmp_path)
    gt = [str(Path("gt", file).with_suffix(".png")) for file in FILES]
    (tmp_path / "first.json").write_text(json.dumps([[FILES[0], gt[0]]]))
    (tmp_path / "second.json").write_text(json.dumps([[FILES[1], gt[1]], [FILES[2], gt[2]]]))
    (tmp_path / "list.json").write_text(json.dumps({"Columbia": "first.json", "NIST16": "second.json"}))
    assert main(["compare", *map(str, runs), "--masks", str(tmp_path / "list.json"), "-f", "csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    start = next(n for n, row in enumerate(rows) if row[:1] == ["data set"])
    assert rows[start] == ["data set", "figure", "images", "manipulated", "good", "worse"]
    assert rows[start + 1][:4] == ["Columbia", "pixel F1 at 0.5", "1", "1"]
    assert [float(text) for text in rows[start + 1][4:]] == pytest.approx([1, 2 / 3])


def test_every_format_has_figures_and_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, source = two(tmp_path)
    given = ["compare", *map(str, runs), "--masks", str(source)]
    assert main([*given, "-f", "csv"]) == 0
    out, err = capsys.readouterr()
    first, second = csv.DictReader(io.StringIO(out))
    assert float(first["pixel F1 at 0.5"]) == pytest.approx(5 / 9)
    assert float(second["Δ pixel F1 at 0.5"]) == pytest.approx(-1 / 9)
    assert float(second["Δ pixel F1 at 0.5 low"]) == pytest.approx(-1 / 3)
    assert first["Δ pixel F1 at 0.5"] == ""
    assert "Δ: difference to good; paired: 1000 resamples of the images, seed 0, each of 4 images" in err
    assert "resamples in which a figure is not defined are not counted" in err
    assert main([*given, "-f", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "| 4 | 3 | **0.556** |" in out
    assert "−0.111 [−0.333, +0.000]" in out
    assert main([*given, "-f", "latex"]) == 0
    assert r"\textbf{0.556}" in capsys.readouterr().out
    assert main([*given, "-o", str(tmp_path / "figures.json"), "-f", "json"]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["options"]["masks"] == str(source)
    assert found["resampling"]["images"] == 4
    assert [run["model"] for run in found["runs"]] == ["good", "worse"]


@pytest.mark.parametrize(
    "option", [["-a", "x.json"], ["--iou", "segm"], ["--categories", "3"], ["--baseline", "b.json"],
               ["--attribute-score", "0"], ["--fail-on", "ap-drop:0.1"]]
)  # fmt: skip
def test_options_on_instances_are_refused_beside_masks(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, source = two(tmp_path)
    assert main(["compare", *map(str, runs), "--masks", str(source), *option]) == 2
    assert main(["compare", *map(str, runs), "--inverted-masks", *option]) == 2
    capsys.readouterr()


def test_mistakes_are_named(tmp_path: Path) -> None:
    runs, source = two(tmp_path)
    with pytest.raises(UsageError, match="cannot compare one run"):
        compare_masks(runs[:1], MaskOptions(source))
    with pytest.raises(UsageError, match="has no folder masks"):
        compare_masks([runs[0], runs[1] / "predictions.npz"], MaskOptions(source))
    put(source / "a.png", LEFT * 1)
    with pytest.raises(UsageError, match="is doubtful, and --strict was given") as caught:
        compare_masks(runs, MaskOptions(source, strict=True))
    assert caught.value.exit_code == 2
