"""Comparing refuses what is unfair and names it, aligns what can be aligned, and its tables say what was computed."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.agreement import _count_levels, compare_by_overlap
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.compare.compare import CompareOptions, Comparison, compare_runs
from orchestrator.evaluation.compare.fairness import Cut, restrict
from orchestrator.evaluation.equivalence_record import FORMAT, locate_record
from orchestrator.evaluation.runs import open_runs
from orchestrator.predictions.predictions import Predictions
from orchestrator.reports.tables import (
    format_csv,
    format_latex,
    format_markdown,
    make_caption,
    make_document,
    make_tables,
    transpose,
)
from tests.unit.evaluation.compare_samples import changed, open_arrays, two_runs
from tests.unit.evaluation.evaluate_samples import CATEGORIES, random_arrays, random_truth
from tests.unit.predictions.predictions_samples import sample_arrays, save
from tests.unit.reports.test_report import data_of

QUICK = CompareOptions(resamples=50)


def compared(tmp_path: Path, **second: Any) -> Comparison:
    good, worse, truth = two_runs(tmp_path, **second)
    return compare_runs([good, worse], truth, QUICK)


def test_figures_are_those_of_each_alone(tmp_path: Path) -> None:
    result = compared(tmp_path)
    for source, found in zip(result.runs, result.evaluations, strict=True):
        assert found == evaluate(source.predictions, tmp_path / "truth.json")
    good, worse = (one.ap for one in result.evaluations)
    assert good is not None
    assert worse is not None
    assert result.intervals[0]["ap"].difference == pytest.approx(worse - good, abs=1e-9)
    assert result.intervals[0]["ap"].high < 0
    assert result.notes == ()


@pytest.mark.parametrize(
    ("second", "setting", "value"),
    [
        ({"score_threshold": 0.3}, "score floor", "good has 0.05; worse has 0.3"),
        ({"score_threshold": None}, "score floor", "good has 0.05; worse has none"),
        ({"max_detections": 5}, "max detections", "good has 100; worse has 5"),
        ({"max_detections": None}, "max detections", "good has 100; worse has no limit"),
        ({"taxonomy": "other"}, "taxonomy", "good has 4 categories of 'sample'; worse has 4 categories of 'other'"),
        ({"categories": [{**CATEGORIES[0], "name": "x"}, *CATEGORIES[1:]]}, "taxonomy", "worse has 4 categories"),
    ],
)
def test_unfair_comparisons_are_refused_and_named(
    tmp_path: Path, second: dict[str, Any], setting: str, value: str
) -> None:
    with pytest.raises(PredictionsError, match=f"not comparable: they differ in {setting}$") as caught:
        compared(tmp_path, **second)
    assert f"{setting}: " in str(caught.value.why)
    assert value in str(caught.value.why)
    assert caught.value.exit_code == 6
    assert ("--align" in str(caught.value.hint)) is (setting != "taxonomy")


def test_other_images_are_refused_and_aligned(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    fewer = restrict(Predictions.load(worse), Cut(files=[f"p/{n:03d}.jpg" for n in range(3, 12)]))
    other = {name: fewer.arrays[name] for name in fewer.arrays}
    other["image_file"] = np.array(["q/zzz.jpg", *fewer.files[1:]])
    worse = save(other, tmp_path / "worse.npz")
    with pytest.raises(PredictionsError, match="differ in image list") as caught:
        compare_runs([good, worse], truth, QUICK)
    assert "good has 12 images, 4 of them not in all runs (p/000.jpg, p/001.jpg, p/002.jpg, …)" in str(caught.value.why)
    assert "worse has 9 images, 1 of them not in all runs (q/zzz.jpg)" in str(caught.value.why)
    result = compare_runs([good, worse], truth, CompareOptions(align=True, resamples=20))
    assert result.notes == ("aligned: only the 8 images that all runs have",)
    assert [one.images for one in result.evaluations] == [8, 8]
    assert [one.missing for one in result.evaluations] == [0, 0]


def test_no_common_image_cannot_be_aligned(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    arrays = dict(Predictions.load(worse).arrays)
    arrays["image_file"] = np.array([f"other{n}.jpg" for n in range(12)])
    with pytest.raises(PredictionsError, match="image list") as caught:
        compare_runs([good, save(arrays, tmp_path / "w.npz")], truth, CompareOptions(align=True))
    assert "run the models again" in str(caught.value.hint)


def test_aligned_floor_and_limit_are_those_of_a_run_with_them(tmp_path: Path) -> None:
    truth = random_truth(7)
    arrays = random_arrays(truth, 1)
    strict = restrict(Predictions(arrays), Cut(floor=0.4, most=3))
    assert np.diff(strict.offsets).max() == 3
    assert strict.scores.min() >= np.float32(0.4)
    assert strict.validate() == [problem for problem in strict.validate() if problem.array == "meta"]
    assert strict.meta["score_threshold"] == 0.4
    second = changed({name: strict.arrays[name] for name in strict.arrays}, model="strict", score_threshold=0.4)
    first = save(changed(arrays, model="lax", max_detections=None), tmp_path / "lax.npz")
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    result = compare_runs(
        [first, save(changed(second, max_detections=3), tmp_path / "s.npz")],
        tmp_path / "truth.json",
        CompareOptions(align=True, resamples=20),
    )
    assert [note[:8] for note in result.notes] == ["aligned:", "aligned:"]
    assert result.evaluations[0].ap == result.evaluations[1].ap
    assert result.intervals[0]["ap"].low == result.intervals[0]["ap"].high == 0


def test_fewer_categories_of_one_taxonomy_are_aligned(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    fewer = restrict(Predictions.load(worse), Cut(categories={0: "shirt", 3: "hat"}))
    worse = save({name: fewer.arrays[name] for name in fewer.arrays}, tmp_path / "worse.npz")
    with pytest.raises(PredictionsError, match="taxonomy"):
        compare_runs([good, worse], truth, QUICK)
    result = compare_runs([good, worse], truth, CompareOptions(align=True, resamples=0))
    assert result.notes == (
        "aligned: only the 2 categories all runs have",
        "aligned: without the annotated categories that not all models can predict: bag",
    )
    assert [category.name for category in result.evaluations[0].per_category] == ["shirt", "hat", "shoe"]
    assert set(result.runs[0].predictions.classes.tolist()) == {0, 3}


def test_images_turned_by_one_run_only_are_refused_for_good(tmp_path: Path) -> None:
    arrays = sample_arrays()
    turned = {**arrays, "image_size": arrays["image_size"][:, ::-1].copy()}
    save(changed(arrays, model="a"), tmp_path / "a.npz")
    save(changed(turned, model="b", exif="ignore"), tmp_path / "b.npz")
    with pytest.raises(PredictionsError, match=r"size of a\.jpg") as caught:
        compare_runs([tmp_path / "a.npz", tmp_path / "b.npz"], None, CompareOptions(align=True))
    assert "b ran with --exif ignore" in str(caught.value.why)


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    good, _, truth = two_runs(tmp_path)
    with pytest.raises(UsageError, match="cannot compare one run"):
        compare_runs([good], truth, QUICK)
    with pytest.raises(UsageError, match="given twice"):
        compare_runs([good, tmp_path / "." / "good.npz"], truth, QUICK)


def test_failed_images_are_told(tmp_path: Path) -> None:
    found = compare_runs([save(changed(sample_arrays(), model=name), tmp_path / name) for name in "ab"], None, QUICK)
    assert found.notes == ("images that failed count as images without instances: a 1, b 1",)
    assert found.agreements[0].agreement == (1.0, 1.0, 1.0)


def test_agreement_counts_pairs(tmp_path: Path) -> None:
    arrays = sample_arrays()
    moved = {**arrays, "boxes": arrays["boxes"].copy(), "classes": arrays["classes"].copy()}
    moved["boxes"][0] += [0, 0, 5, 0]  # 10 wide, now 15: the overlap is 2/3
    moved["classes"][3] = 7  # the same place, another category
    one = compare_by_overlap(
        open_arrays(changed(arrays, model="a"), changed(moved, model="b"), folder=tmp_path), "bbox", 0.35
    )[0]
    assert (one.first, one.second) == (5, 5)  # one scores 0.3
    assert one.pairs == (4, 3, 3)
    assert one.agreement == (0.8, 0.6, 0.6)
    assert [(c.name, c.first, c.second, c.pairs) for c in one.per_category] == [
        ("shirt", 2, 1, (1, 0, 0)), ("hat", 2, 2, (2, 2, 2)), ("bag", 1, 2, (1, 1, 1))]  # fmt: skip
    assert one.images_apart[0] == "sub/b.jpg"


def test_the_most_overlapping_are_paired_first() -> None:
    assert _count_levels(np.array([[0.8, 0.95], [0.1, 0.85]])) == [1, 1, 1]
    assert _count_levels(np.array([[0.6, 0.0], [0.0, 0.76]])) == [2, 1, 0]
    assert _count_levels(np.zeros((0, 3))) == [0, 0, 0]


def test_the_same_model_twice_is_told_apart(tmp_path: Path) -> None:
    arrays = sample_arrays()
    three = open_arrays(arrays, changed(arrays, variant="cu121"), changed(arrays, model="else"), folder=tmp_path)
    assert [one.label for one in three] == ["sample cpu", "sample cu121", "else"]
    same = open_arrays(arrays, arrays, folder=tmp_path)
    assert [one.label for one in same] == ["sample (0.npz)", "sample (1.npz)"]


def test_a_folder_named_like_the_model_is_told_by_its_parent(tmp_path: Path) -> None:
    paths = [tmp_path / "today" / "sample" / "predictions.npz", tmp_path / "other" / "predictions.npz"]
    for path in paths:
        path.parent.mkdir(parents=True)
        save(sample_arrays(), path)
    assert [run.label for run in open_runs(paths)] == ["sample (today/sample)", "sample (other)"]


def test_variants_of_a_model_need_a_recorded_equivalence(tmp_path: Path, orch_home: Path) -> None:
    arrays = sample_arrays()
    paths = [save(changed(arrays, variant=name, build=name * 3), tmp_path / f"{name}.npz") for name in ("cpu", "cu121")]
    (_, note) = compare_runs(paths, None, QUICK).notes
    assert note == (
        "sample cpu and sample cu121 are variants of sample: no passed equivalence check is recorded here "
        "(orch equivalence sample --variants cpu,cu121)"
    )
    record = locate_record(*(Predictions.load(path).meta for path in paths))
    record.parent.mkdir(parents=True)
    for equivalent in (False, True):
        record.write_text(json.dumps({"format": FORMAT, "equivalent": equivalent}))
        (_, note) = compare_runs(paths, None, QUICK).notes
        assert ("a passed equivalence check of these builds and weights is recorded" in note) is equivalent
    (tmp_path / "else").mkdir()
    strange = save(changed(arrays, variant="x", weights=None), tmp_path / "else" / "p.npz")
    assert "no passed" in compare_runs([paths[0], strange], None, QUICK).notes[1]


def test_tables_in_every_format(tmp_path: Path) -> None:
    result = compared(tmp_path)
    shown = make_tables(result, per_category=True)
    assert [table.title for table in shown] == ["runs", "differences", "AP per category"]
    assert [cell.best for cell in shown[0].rows[0]][2:5] == [True, True, True]
    assert not any(cell.best for cell in shown[0].rows[1])
    markdown = format_markdown(shown).splitlines()
    assert markdown[0].startswith("| model | variant | AP |")
    assert f"**{result.evaluations[0].ap:.3f}**" in markdown[2]
    latex = format_latex(shown)
    assert f"\\textbf{{{result.evaluations[0].ap:.3f}}}" in latex
    assert "mAP\\_w" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 3
    rows = list(csv.DictReader(io.StringIO(format_csv(make_tables(result, per_category=False, wide=True)))))
    assert [row["model"] for row in rows] == ["good", "worse"]
    assert float(rows[1]["Δ AP low"]) == result.intervals[0]["ap"].low
    assert float(rows[0]["AP"]) == result.evaluations[0].ap
    document = make_document(result)
    assert json.loads(json.dumps(document))["differences"][0]["ap"]["low"] == result.intervals[0]["ap"].low
    assert any("50 resamples of the images, seed 0" in line for line in make_caption(result))


def test_a_narrow_terminal_gets_the_figures_downwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compared(tmp_path)
    (runs, *_), narrow = make_tables(result, per_category=False), transpose(make_tables(result, per_category=False)[0])
    assert narrow.columns == ("", "good, cpu", "worse, cpu")
    assert [row[0].text for row in narrow.rows] == list(runs.columns[2:])
    assert [row[1] for row in narrow.rows] == list(runs.rows[0][2:])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    good, worse, truth = two_runs(tmp_path)
    for width, first in (("60", "AP"), ("200", "good")):
        monkeypatch.setenv("COLUMNS", width)
        assert main(["compare", str(good), str(worse), "-a", str(truth), "--resamples", "20"]) == 0
        out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        lines = [line.split() for line in out.splitlines()]
        assert any(line[:1] == [first] and f"{result.evaluations[0].ap:.3f}" in line for line in lines)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, worse, truth = (str(path) for path in two_runs(tmp_path))
    assert main(["compare", good, worse, "-a", truth, "--resamples", "20", "--per-category"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("model\tvariant\tAP\t")
    assert "seed 0" in err
    assert main(["compare", good, worse, "-a", truth, "--json", "--iou", "bbox", "--resamples", "0"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [one["iou"] for one in json.loads(out)["evaluations"]] == ["bbox", "bbox"]
    assert main(["compare", good, worse, "-f", "markdown", "-o", str(tmp_path / "t.md"), "--per-category"]) == 0
    assert (tmp_path / "t.md").read_text().startswith("| model | other model |")
    assert capsys.readouterr().out == ""
    assert main(["compare", good, worse, "-f", "markdwon"]) == 2
    assert "did you mean markdown?" in capsys.readouterr().err
    assert main(["compare", good, str(tmp_path / "none.npz")]) == 2
    assert main(["compare", good, worse, "--iou", "mask"]) == 2
    assert main(["compare", good]) == 2
    save(changed(dict(Predictions.load(good).arrays), score_threshold=0.9), tmp_path / "s.npz")
    assert main(["compare", good, str(tmp_path / "s.npz"), "--json"]) == 6


def test_other_pixels_under_one_name_are_refused_and_aligned(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    with np.load(worse) as data:
        arrays = {name: data[name] for name in data.files}
    arrays["image_sha256"] = arrays["image_sha256"].copy()
    arrays["image_sha256"][3] = 7
    other = save(arrays, tmp_path / "other.npz")
    file = str(arrays["image_file"][3])
    with pytest.raises(PredictionsError, match="differ in image content") as caught:
        compare_runs([good, other], truth, CompareOptions(resamples=0))
    assert file in str(caught.value.why)
    aligned = compare_runs([good, other], truth, CompareOptions(resamples=0, align=True))
    assert any("not the 1 images whose files differ" in note for note in aligned.notes)
    assert aligned.evaluations[0].images == len(arrays["image_file"]) - 1
    del arrays["image_sha256"]
    meta = {**json.loads(str(arrays["meta"])), "format": "orch-predictions/1"}
    old = save({**arrays, "meta": np.array(json.dumps(meta))}, tmp_path / "old.npz")
    (note,) = compare_runs([good, old], truth, CompareOptions(resamples=0)).notes
    assert note == "no digests of the image files are recorded by worse: they may differ under equal names"


def test_mixed_devices_builds_and_weights_are_shown(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path, device="cuda:0")
    result = compare_runs([good, worse], truth, CompareOptions(resamples=0))
    assert result.notes == ("devices differ: good cpu; worse cuda:0",)
    assert [run["device"] for run in make_document(result)["runs"]] == ["cpu", "cuda:0"]
    good, again, truth = two_runs(tmp_path, model="good", image_digest="sha256:1", build="b")
    (note,) = compare_runs([good, again], None, CompareOptions()).notes
    assert note.endswith("are one model and variant, but differ in container image, build")
    (tmp_path / "run").mkdir()
    save(changed(dict(Predictions.load(worse).arrays), device="cuda:0"), tmp_path / "run" / "predictions.npz")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"gpus": [{"name": "H100"}, {"name": "H100"}, 3]}))
    notes = compare_runs([good, tmp_path / "run"], None, CompareOptions()).notes
    assert "cuda:0 (H100)" in notes[0]


def test_warnings_about_the_truth_are_in_caption_json_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, worse, truth = two_runs(tmp_path)
    document = json.loads(truth.read_text())
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    truth.write_text(json.dumps(document))
    runs = [str(good), str(worse), "-a", str(truth)]
    assert main(["compare", *runs]) == 0
    said = capsys.readouterr().err
    assert said.count("\nwarning: all ") == 1
    assert main(["compare", *runs, "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    page = tmp_path / "page.html"
    assert main(["report", *runs, "-o", str(page)]) == 0
    assert "are crowd regions (iscrowd 1)" in page.read_text()
    assert f"warning: {warning}" in said
    for command in ("compare", "report"):
        assert main([command, *runs, "--strict"]) == 2
    only = tmp_path / "only.npz"
    arrays = dict(Predictions.load(worse).arrays)
    save({**arrays, "classes": np.full_like(arrays["classes"], 9)}, only)
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 0
    document["categories"] = [one for one in document["categories"] if one["id"] != 9]
    truth.write_text(json.dumps(document))
    assert main(["compare", str(good), str(only), "-a", str(truth), "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith("worse: none of the ")


def test_runs_are_compared_by_the_ids_of_the_annotations(tmp_path: Path) -> None:
    """Runs, truth and pictures agree where the annotations have other ids for the same names."""
    good, worse, truth = two_runs(tmp_path)
    expected = compare_runs([good, worse], truth, QUICK)
    document = json.loads(truth.read_text())
    for entry in (*document["categories"],):
        entry["id"] += 20
    for annotation in document["annotations"]:
        annotation["category_id"] += 20
    truth.write_text(json.dumps(document))
    result = compare_runs([good, worse], truth, QUICK)
    assert [one.ap for one in result.evaluations] == [one.ap for one in expected.evaluations]
    assert result.intervals == expected.intervals
    assert {int(n) for n in np.unique(result.runs[0].predictions.classes)} <= {20, 23, 27, 29}
    assert "paired by name" in make_document(result)["warnings"][0]
    page = tmp_path / "page.html"
    assert main(["report", str(good), str(worse), "-a", str(truth), "-o", str(page), "--resamples", "0"]) == 0
    images = data_of(page.read_text())["images"]
    panels = [panel for image in images for panel in image["panels"]]
    assert {one[0] for panel in panels for one in panel["instances"]} <= {20, 23, 27, 29}


def test_the_default_follows_what_all_runs_have(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    with np.load(worse) as data:
        boxes = save({n: data[n] for n in data.files if n not in ("masks", "mask_offsets")}, tmp_path / "boxes.npz")
    for given in (truth, None):
        assert compare_runs([good, worse], given, CompareOptions(resamples=0)).options.iou == "segm"
        by_boxes = compare_runs([good, boxes], given, CompareOptions(resamples=0))
        asked = compare_runs([good, worse], given, CompareOptions("bbox", resamples=0))
        assert by_boxes.options.iou == "bbox"
        assert by_boxes.evaluations == asked.evaluations
        assert [one.pairs for one in by_boxes.agreements] == [one.pairs for one in asked.agreements]
        with pytest.raises(PredictionsError, match="have no masks"):
            compare_runs([good, boxes], given, CompareOptions("segm", resamples=0))
