"""Object detection and binary segmentation from end to end: figures are those of plain scripts, words of the task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator import Predictions
from tests.conformance.conftest import Orch

COLOURS = {3: (220, 30, 30), 5: (30, 220, 30), 8: (30, 30, 220)}
CATEGORIES = [{"id": 3, "name": "red"}, {"id": 5, "name": "green"}, {"id": 8, "name": "blue"}]
PURPLE = 9
DARK_PURPLE = (70, 20, 70)
HEIGHT, WIDTH = 96, 128


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes as a data set: images in Tp/, masks of all rectangles in Gt/, and the boxes as COCO annotations."""

    folder: Path
    annotations: Path
    masks: dict[str, NDArray[np.bool_]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Ten scenes of up to four rectangles in three colours or dark purple; one has none."""
    rng, folder = np.random.default_rng(18), tmp_path_factory.mktemp("scenes")
    for name in ("Tp", "Gt"):
        (folder / name).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    masks = {}
    for number in range(10):
        pixels = np.repeat(rng.integers(110, 140, (HEIGHT, WIDTH, 1), np.uint8), 3, axis=2)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        for column in range(4 if number else 0):
            left, top = 4 + 31 * column, int(rng.integers(2, 40))
            width, height = int(rng.integers(8, 26)), int(rng.integers(8, 50))
            category = int(rng.choice([*COLOURS, PURPLE]))
            pixels[top : top + height, left : left + width] = COLOURS.get(category, DARK_PURPLE)
            mask[top : top + height, left : left + width] = True
            # What a careless annotator draws: figures that are not all one.
            box = [left, top, width, height - int(rng.integers(0, height // 3))]
            of = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": category, "iscrowd": 0}
            annotations.append({**of, "bbox": box, "area": box[2] * box[3]})
        file = f"{number}.png"
        images.append({"id": number + 1, "file_name": file, "width": WIDTH, "height": HEIGHT})
        Image.fromarray(pixels).save(folder / "Tp" / file)
        if number:
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "Gt" / file)
        masks[file] = mask
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [*CATEGORIES, {"id": PURPLE, "name": "purple"}],
    }
    (folder / "boxes.json").write_text(json.dumps(truth))
    return Scenes(folder, folder / "boxes.json", masks)


def run(orch: Orch, model: str, runtime: str, images: Path, out: Path, *more: object) -> Predictions:
    orch("run", "-m", model, "-i", images, "--runtime", runtime, "-o", out, "-q", *more)
    return Predictions.load(out / "predictions.npz")


def reference(annotations: Path, results: list[dict[str, Any]], categories: list[int]) -> list[float]:
    """COCO's AP, AP50, AP75 of boxes, as pycocotools computes them."""
    truth = COCO(str(annotations))
    judged = COCOeval(truth, truth.loadRes(results), "bbox")
    judged.params.catIds = categories
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    return [float(figure) for figure in judged.stats[:3]]


def test_a_detector_has_no_masks_and_is_judged_by_its_boxes(
    orch: Orch, scenes: Scenes, runtime: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predictions = run(orch, "rectangles", runtime, scenes.folder / "Tp", out)
    assert predictions.meta["task"] == "object-detection"
    assert {"masks", "mask_offsets", "image_scores"}.isdisjoint(predictions.arrays)
    assert not (out / "masks").exists()
    orch("validate", out)
    assert "has masks                 no" in orch("inspect", out).stdout
    results = tmp_path / "results.json"
    orch("export", out, "-f", "coco", "--annotations", scenes.annotations, "-o", results)
    written = json.loads(results.read_text())
    assert len(written) == len(predictions.scores) > 10
    assert all("segmentation" not in one for one in written)
    done = orch("eval", out, "-a", scenes.annotations, "--json")
    figures = json.loads(done.stdout)
    assert figures["iou"] == "bbox"
    expected = reference(scenes.annotations, written, [3, 5, 8, 9])
    assert 0.1 < expected[0] < 0.9
    assert [figures["ap"], figures["ap50"], figures["ap75"]] == pytest.approx(expected, abs=1e-12)
    assert any(note.startswith("rectangles cannot predict purple (") for note in figures["notes"])
    for command in (("eval", out, "-a", scenes.annotations, "--iou", "segm"), ("export", out, "-f", "fashionfail")):
        refused = orch(*command, expect=6)
        assert "have no masks" in refused.stderr
        assert "next:" in refused.stderr
    assert "is for binary-segmentation, manipulation-localization" in orch(
        "export", out, "-f", "imdlbenco", "-o", tmp_path / "no", expect=2
    ).stderr  # fmt: skip
    orch("draw", out, "-o", tmp_path / "drawn")
    with Image.open(tmp_path / "drawn" / "1.png") as drawn, Image.open(scenes.folder / "Tp" / "1.png") as plain:
        changed = (np.asarray(drawn) != np.asarray(plain)).any(axis=2)
    assert changed.any()
    orch("report", out, "-a", scenes.annotations, "-o", tmp_path / "page.html")
    assert "best box AP" in (tmp_path / "page.html").read_text()


def test_detectors_are_compared_by_boxes_and_aligned_to_what_they_can_predict(
    orch: Orch, scenes: Scenes, tmp_path: Path
) -> None:
    run(orch, "rectangles", "venv", scenes.folder / "Tp", tmp_path / "one")
    run(orch, "rectangles", "venv", scenes.folder / "Tp", tmp_path / "same")
    compared = json.loads(orch("compare", tmp_path / "one", tmp_path / "same", "--json").stdout)
    assert compared["agreements"][0]["agreement"] == [1.0, 1.0, 1.0]
    results = list(Predictions.load(tmp_path / "one" / "predictions.npz").to_coco())
    command = ("compare", tmp_path / "one", tmp_path / "same", "-a", scenes.annotations, "--json")
    for more, categories in (((), [3, 5, 8, 9]), (("--align",), [3, 5, 8])):
        figures = json.loads(orch(*command, *more).stdout)
        expected = reference(scenes.annotations, results, categories)[0]
        assert figures["evaluations"][0]["ap"] == pytest.approx(expected, abs=1e-12)
    assert "not all models can predict: purple" in " ".join(figures["notes"])


def test_a_binary_segmenter_is_judged_by_masks_in_the_words_of_its_taxonomy(
    orch: Orch, scenes: Scenes, runtime: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predictions = run(orch, "salience", runtime, scenes.folder, out, "--set", "gain=1.3")
    assert predictions.meta["task"] == "binary-segmentation"
    orch("validate", out)
    levels = {}
    for file in predictions.files:
        pixels = np.asarray(Image.open(scenes.folder / "Tp" / file))
        probability = np.minimum(np.ptp(pixels.astype(np.float32), axis=2) / 255 * np.float32(1.3), 1)
        with Image.open(out / "masks" / f"{file}.png") as picture:
            levels[file] = np.asarray(picture)
        assert np.array_equal(levels[file], np.rint(probability * 255))
    done = orch("eval", out, "--masks", scenes.folder / "Gt")
    assert "9 images, 9 of them with rectangle; image scores are from the highest pixel of each mask" in done.stderr
    assert "manipulated" not in done.stdout + done.stderr
    figures = json.loads(orch("eval", out, "--masks", scenes.folder / "Gt", "--json").stdout)
    assert figures["with_category"] == 9
    assert "manipulated" not in figures
    f1, iou = plain_figures([(levels[file] > 127, scenes.masks[file]) for file in sorted(levels) if file != "0.png"])
    assert 0.3 < iou < 0.99
    assert (figures["pixel_fixed"]["f1"], figures["pixel_fixed"]["iou"]) == pytest.approx((f1, iou), abs=1e-12)
    hint = orch("eval", run_elsewhere(orch, scenes, tmp_path), expect=2).stderr
    assert "--masks FOLDER, or --annotations COCO.json" in hint
    orch("draw", out, "-o", tmp_path / "drawn")
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 10
    orch("export", out, "-f", "imdlbenco", "-o", tmp_path / "theirs")
    assert len(list((tmp_path / "theirs" / "pred").iterdir())) == 10
    assert not (tmp_path / "theirs" / "pred_label_combined.json").exists(), "the model gives no scores of images"
    results = tmp_path / "results.json"
    orch("export", out, "-f", "coco", "-o", results)
    assert all("segmentation" in one for one in json.loads(results.read_text()))
    orch("report", out, "-o", tmp_path / "page.html")


def run_elsewhere(orch: Orch, scenes: Scenes, folder: Path) -> Path:
    """Predict the images alone, without the masks beside them."""
    run(orch, "salience", "venv", scenes.folder / "Tp", folder / "elsewhere")
    return folder / "elsewhere"


def plain_figures(pairs: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> tuple[float, float]:
    """Mean F1 and IoU over images with a true pixel."""
    shared = [((found & true).sum(), found.sum(), true.sum()) for found, true in pairs]
    f1 = float(np.mean([2 * both / (one + other) for both, one, other in shared]))
    return f1, float(np.mean([both / (one + other - both) for both, one, other in shared]))
