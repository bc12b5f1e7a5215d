"""`orch eval`: its table, its JSON, its exit codes, and every mistake with a next step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.evaluation.coco.evaluate import choose_categories, evaluate
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.compare_samples import changed
from tests.unit.evaluation.evaluate_samples import CATEGORIES, random_arrays, random_truth, stored
from tests.unit.predictions.predictions_samples import sample_arrays, save

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Predictions, one image of which is unknown, and annotations, two images of which were not predicted."""
    sample = random_truth(4)
    arrays = random_arrays(sample, 4)
    sample["images"][3]["file_name"] = "elsewhere.jpg"
    sample["images"].append({**sample["images"][0], "id": 999, "file_name": "unseen.jpg"})
    predictions, annotations = stored(tmp_path, arrays, sample)
    return str(predictions.path), str(annotations)


def test_the_table_and_what_is_said(files: tuple[str, str], capsys: Captured) -> None:
    assert main(["eval", files[0], "-a", files[1]]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.split("\t")[:2] for line in out.splitlines())
    expected = evaluate(Predictions.load(files[0]), Path(files[1]))
    assert rows["AP"] == f"{expected.ap:.3f}"
    assert rows["mAP_w"] == f"{expected.weighted.map_w:.3f}"
    assert rows["shoe"] == "0"  # annotated images of a category nobody has
    assert "by hotcoco" in err
    assert "note: 2 annotated images have no predictions; their instances count as missed: elsewhere.jpg, unseen" in err
    assert "note: 1 predicted images are not in the annotations and do not count: p/003.jpg" in err


def test_json_is_one_object(files: tuple[str, str], capsys: Captured) -> None:
    assert main(["eval", files[0], "-a", files[1], "--json", "--iou", "bbox", "--engine", "pycocotools"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert (found["iou"], found["engine"], found["missing"]) == ("bbox", "pycocotools", 2)
    assert found["missing_images"] == ["elsewhere.jpg", "unseen.jpg"]
    assert found["per_category"][3]["ap"] is None


def test_some_categories(files: tuple[str, str], capsys: Captured) -> None:
    assert main(["eval", files[0], "-a", files[1], "--json", "--categories", "hat,7", "--categories", "Shirt"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in found["per_category"]] == [0, 3, 7]
    assert main(["eval", files[0], "-a", files[1], "--categories", "bga"]) == 2
    assert "the annotations have no category 'bga'\n  why:  did you mean bag?" in capsys.readouterr().err
    for text in ("--5", "\u00b2", str(1 << 70)):  # none of them is a number of a category
        assert main(["eval", files[0], "-a", files[1], f"--categories={text}"]) == 2


def test_names_with_commas_are_names_first() -> None:
    known = {0: "top, t-shirt, sweatshirt", 1: "top", 12: "skirt"}
    assert choose_categories(["top, t-shirt, sweatshirt"], known) == [0]
    assert choose_categories(["top,skirt", 0], known) == [0, 1, 12]
    assert choose_categories(["12"], known) == [12]


MISTAKES: list[tuple[list[str], int, str]] = [
    (["GOOD"], 2, "no annotations were given"),
    (["GOOD", "-a", "missing.json"], 2, "cannot read the annotations"),
    (["GOOD", "-a", "list.json"], 2, "not in COCO's format"),
    (["GOOD", "-a", "text.json"], 2, "are not JSON"),
    (["GOOD", "-a", "twice.json"], 2, "2 images have the id 50"),
    (["GOOD", "-a", "others.json"], 6, "none of the 12 predicted images"),
    (["GOOD", "-a", "TRUTH", "--iou", "mask"], 2, "must be segm or bbox"),
    (["GOOD", "-a", "TRUTH", "--engine", "fast"], 2, "unknown engine 'fast'"),
    (["missing.npz", "-a", "TRUTH"], 2, "no such file"),
    (["list.json", "-a", "TRUTH"], 6, "cannot read"),
    (["empty", "-a", "TRUTH"], 2, "has no predictions.npz"),
    (["broken.npz", "-a", "TRUTH"], 6, "cannot be evaluated"),
]


@pytest.mark.parametrize(("given", "code", "message"), MISTAKES, ids=[one[2] for one in MISTAKES])
def test_mistakes(
    files: tuple[str, str], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch,
    given: list[str], code: int, message: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    truth = random_truth(4)
    Path("list.json").write_text("[]")
    Path("text.json").write_text("no")
    Path("twice.json").write_text(json.dumps({**truth, "images": [truth["images"][0]] * 2}))
    Path("others.json").write_text(
        json.dumps({**truth, "images": [{"id": 1, "file_name": "z.jpg"}], "annotations": []})
    )
    Path("empty").mkdir()
    arrays = random_arrays(truth, 4)
    arrays["scores"][0] = 7
    save(arrays, Path("broken.npz"))
    replaced = [{"GOOD": files[0], "TRUTH": files[1]}.get(one, one) for one in given]
    assert main(["eval", *replaced]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_without_hotcoco_the_reference_steps_in_and_says_so(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    expected = evaluate(Predictions.load(files[0]), Path(files[1]))
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert main(["eval", files[0], "-a", files[1]]) == 0
    assert "by pycocotools" in (said := capsys.readouterr().err)
    assert "pycocotools computed this, not hotcoco: it is not installed" in said
    found = evaluate(Predictions.load(files[0]), Path(files[1]))
    assert found.ap == pytest.approx(expected.ap, abs=1e-9)
    assert main(["eval", files[0], "-a", files[1], "--engine", "hotcoco"]) == 4


def test_other_names_for_an_id_are_said(tmp_path: Path) -> None:
    sample: dict[str, Any] = random_truth(4)
    renamed = [{**CATEGORIES[0], "name": "coat"}, {**CATEGORIES[1], "name": "HAT"}, *CATEGORIES[2:]]
    predictions, annotations = stored(tmp_path, random_arrays(sample, 4), {**sample, "categories": renamed})
    (warning,) = evaluate(predictions, annotations).warnings
    assert warning == "categories have other names: 0 is 'shirt' in the predictions and 'coat' in the annotations"


def test_failed_images_are_named(tmp_path: Path) -> None:
    arrays = changed(sample_arrays(), model="x")
    truth = {"images": [{"id": n, "file_name": f, "height": h, "width": w} for n, (f, (h, w)) in enumerate(zip(
        arrays["image_file"].tolist(), arrays["image_size"].tolist(), strict=True))],
        "annotations": [], "categories": [{"id": 0, "name": "shirt"}]}  # fmt: skip
    found = evaluate(*stored(tmp_path, arrays, truth))
    assert found.failed_images == ("sub/c.png",)
    assert (found.ap, found.counts.fn, found.detections) == (None, 0, 2)
    assert found.counts.fp == 2
