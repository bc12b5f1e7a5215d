"""Annotations that cannot be meant: read right where they mean one thing, else skipped, warned of or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.agreement import Tolerances, compare_within_tolerances
from orchestrator.evaluation.coco import truth_checks
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.ground_truth import read_truth
from orchestrator.evaluation.coco.results import Evaluation
from orchestrator.predictions.annotations import find_images
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.evaluate_samples import Iou
from tests.unit.predictions.predictions_samples import META, Arrays, box_mask, digests, save

Box = tuple[int, int, int, int]  # x, y, width, height
Entry = dict[str, Any]
Captured = pytest.CaptureFixture[str]
SIZE = (200, 300)
BOXES: list[Box] = [(100, 50, 60, 60), (10, 10, 20, 20)]
THING = [{"id": 1, "name": "thing"}]


def predict(
    path: Path, boxes: dict[str, list[Box]], size: tuple[int, int] = SIZE, categories: Any = THING, **meta: Any
) -> Predictions:
    """Save predictions: in each file these boxes and their masks, all of the first category."""
    flat = [box for own in boxes.values() for box in own]
    masks = [
        coco_mask.encode(np.asfortranarray(box_mask(size, (x, y, x + width, y + height))))["counts"]
        for x, y, width, height in flat
    ]
    arrays: Arrays = {
        "image_file": np.array(list(boxes)),
        "image_sha256": digests(list(boxes)),
        "image_size": np.array([size] * len(boxes), np.int32),
        "status": np.zeros(len(boxes), np.uint8),
        "error": np.zeros(len(boxes), "U1"),
        "offsets": np.cumsum([0, *map(len, boxes.values())], dtype=np.int64),
        "boxes": np.array([(x, y, x + width, y + height) for x, y, width, height in flat], np.float32).reshape(-1, 4),
        "classes": np.full(len(flat), categories[0]["id"], np.int32),
        "scores": np.full(len(flat), 0.9, np.float32),
        "masks": np.frombuffer(b"".join(masks), np.uint8),
        "mask_offsets": np.cumsum([0, *map(len, masks)], dtype=np.int64),
        "meta": np.array(json.dumps({k: v for k, v in META.items() if k != "attribute_names"} | {
            "categories": categories, **meta})),
    }  # fmt: skip
    return Predictions.load(save(arrays, path / "p.npz"))


def annotate(box: Box, image: int = 1, number: int = 1, **changed: Any) -> Entry:
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    entry = {"id": number, "image_id": image, "category_id": 1, "bbox": list(box), "area": width * height,
             "iscrowd": 0, "segmentation": [corners]}  # fmt: skip
    return {**entry, **changed}


def write(path: Path, annotations: list[Entry], images: list[Entry] | None = None, categories: Any = THING) -> Path:
    images = images or [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (path / "truth.json").write_text(json.dumps(document))
    return path / "truth.json"


def both(**changed: Any) -> list[Entry]:
    return [annotate(box, number=n, **changed) for n, box in enumerate(BOXES, 1)]


def judge(tmp_path: Path, annotations: list[Entry], iou: Iou = "segm", **given: Any) -> Evaluation:
    return evaluate(predict(tmp_path, {"a.png": BOXES}), write(tmp_path, annotations, **given), iou)


def test_a_sound_truth_has_no_warnings(tmp_path: Path) -> None:
    for iou in ("segm", "bbox"):
        found = judge(tmp_path, both(), iou)
        assert found.ap == pytest.approx(1)
        assert (found.warnings, found.skipped_annotations) == ((), ())


# Categories


def test_categories_with_other_ids_are_paired_by_name(tmp_path: Path) -> None:
    found = judge(tmp_path, both(category_id=0), categories=[{"id": 0, "name": "Thing "}])
    assert found.ap == pytest.approx(1)
    assert found.detections == 2
    (warning,) = found.warnings
    assert "paired by name" in warning
    assert "'thing' has id 1 here and 0 there" in warning


def test_ids_that_mean_other_names_are_not_mixed_up(tmp_path: Path) -> None:
    """Contiguous ids against COCO's: id 1 is another category there, which the predictions have as well."""
    ours = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 7, "name": "fish"}]
    theirs = [{"id": 1, "name": "dog"}, {"id": 2, "name": "bird"}, {"id": 7, "name": "cat"}]
    predictions = predict(tmp_path, {"a.png": BOXES}, categories=ours)
    found = evaluate(predictions, write(tmp_path, both(category_id=7), categories=theirs))
    assert found.ap == pytest.approx(1)
    assert [(one.id, one.counts.tp, one.counts.fp) for one in found.per_category] == [(1, 0, 0), (2, 0, 0), (7, 2, 0)]
    # The model's fish has the id of a cat there.
    classes = np.full(2, 7, np.int32)
    fish = evaluate(Predictions({**predictions.arrays, "classes": classes}), tmp_path / "truth.json")
    assert (fish.ap, fish.detections) == (0, 0)
    assert "none of the 2 predicted instances has a category that is annotated" in fish.warnings[-1]


def test_no_common_category_is_refused(tmp_path: Path, capsys: Captured) -> None:
    with pytest.raises(PredictionsError, match="none of their 2 instances can count") as caught:
        judge(tmp_path, both(category_id=4), categories=[{"id": 4, "name": "boat"}])
    assert "the predictions have 1 'thing'" in str(caught.value.why)
    assert "4 'boat'" in str(caught.value.why)
    assert main(["eval", str(tmp_path / "p.npz"), "-a", str(tmp_path / "truth.json")]) == 6
    assert "next: " in capsys.readouterr().err


def test_chosen_categories_are_paired_among_all(tmp_path: Path) -> None:
    """The predictions have none of the chosen one: a figure of 0, not a refusal."""
    categories = [*THING, {"id": 2, "name": "boat"}]
    path = write(tmp_path, [*both(), annotate((1, 1, 5, 5), number=3, category_id=2)], categories=categories)
    found = evaluate(predict(tmp_path, {"a.png": BOXES}), path, categories=["boat"])
    assert (found.ap, [one.name for one in found.per_category]) == (0, ["boat"])


def test_fashionfails_weights_follow_the_models_ids(tmp_path: Path) -> None:
    """Fashionpedia's categories 0 and 2, numbered from 1 in the truth: only the first is FashionFail's."""
    ours = [{"id": 0, "name": "shirt"}, {"id": 2, "name": "sweater"}]
    theirs = [{"id": 1, "name": "shirt"}, {"id": 3, "name": "sweater"}]
    predictions = predict(tmp_path, {"a.png": BOXES}, categories=ours, taxonomy="fashionpedia")
    annotations = [annotate(BOXES[0], category_id=1), annotate(BOXES[1], number=2, category_id=3)]
    found = evaluate(predictions, write(tmp_path, annotations, categories=theirs))
    assert [(one.name, one.weight) for one in found.per_category] == [("shirt", 1.0), ("sweater", None)]


# Crowds, and annotations without a pixel


def test_all_annotations_are_crowds(tmp_path: Path, capsys: Captured) -> None:
    masks = [coco_mask.encode(np.asfortranarray(box_mask(SIZE, (x, y, x + w, y + h)))) for x, y, w, h in BOXES]
    lengths = [{"size": list(SIZE), "counts": mask["counts"].decode()} for mask in masks]
    found = judge(tmp_path, [{**one, "segmentation": mask} for one, mask in zip(both(iscrowd=1), lengths, strict=True)])
    assert (found.ap, found.ar100) == (None, None)
    assert found.warnings[0].startswith(f"all 2 annotations of {tmp_path / 'truth.json'} are crowd regions")
    assert judge(tmp_path, [{**one, "segmentation": m} for one, m in zip(both(), lengths, strict=True)]).ap == 1
    some = judge(tmp_path, [annotate(BOXES[0], iscrowd=1), annotate(BOXES[1], number=2)])
    assert some.warnings == ()
    write(tmp_path, both(iscrowd=1))
    assert main(["eval", str(tmp_path / "p.npz"), "-a", str(tmp_path / "truth.json")]) == 0
    assert "warning: all 2 annotations of" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "p.npz"), "-a", str(tmp_path / "truth.json"), "--strict"]) == 2


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_annotations_without_a_pixel_are_counted(tmp_path: Path, iou: Iou) -> None:
    empty = annotate((5, 5, 0, 9), number=7, segmentation=[[5, 5, 5, 14, 5, 8]])
    (warning,) = judge(tmp_path, [*both(), empty], iou).warnings
    assert warning.startswith("1 of 3 annotations")
    assert warning.endswith("which nothing can match: the first is annotation 7")


def test_areas_that_are_all_zero_are_named(tmp_path: Path) -> None:
    (warning,) = judge(tmp_path, both(area=0)).warnings
    assert "is 0, so that all count as small" in warning


def test_areas_of_more_masks_than_pycocotools_measures_at_once(tmp_path: Path) -> None:
    boxes: list[Box] = [(n % 20 * 10, n // 20 * 10, 4 + n % 3, 5) for n in range(300)]
    annotations = [annotate(box, number=n) for n, box in enumerate(boxes)]
    for entry in annotations:
        del entry["area"]
    truth = read_truth(write(tmp_path, annotations), "segm")
    assert truth.areas.tolist() == [width * height for _, _, width, height in boxes]
    predictions = predict(tmp_path, {"a.png": boxes})
    (image,) = compare_within_tolerances(predictions, predictions, Tolerances()).images
    assert (image.instances, image.alone) == (300, 0)


# Boxes only, and sizes


def test_a_truth_of_boxes_says_how_to_compare_boxes(tmp_path: Path, capsys: Captured) -> None:
    truth = write(tmp_path, both(segmentation=[]))
    predictions = predict(tmp_path, {"a.png": BOXES})
    assert main(["eval", str(predictions.path), "-a", str(truth)]) == 2
    said = capsys.readouterr().err
    assert "annotation 1 of" in said
    assert "2 of 2 annotations cannot be used" in said
    assert "next: add --iou bbox to compare boxes" in said
    assert evaluate(predictions, truth, "bbox").ap == pytest.approx(1)


def test_sizes_that_are_missing_are_those_predicted(tmp_path: Path) -> None:
    predictions = predict(tmp_path, {"a.png": BOXES})
    images = [{"id": 1, "file_name": "a.png", "width": 300}]
    assert evaluate(predictions, write(tmp_path, both(), images)).ap == pytest.approx(1)
    images.append({"id": 2, "file_name": "b.png"})
    with pytest.raises(UsageError, match="annotation 3") as caught:
        evaluate(predictions, write(tmp_path, [*both(), annotate(BOXES[0], 2, 3)], images))
    assert "no height and width, and was not predicted" in str(caught.value.why)
    assert "--iou bbox" in str(caught.value.hint)


TALL: Box = (20, 180, 60, 100)
"""Fits an image 200 wide and 300 high, and none 300 wide and 200 high."""


def turned(*sizes: tuple[int, int]) -> list[Entry]:
    return [{"id": n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(sizes, 1)]


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_sizes_stated_before_exif_rotation_are_read_turned(tmp_path: Path, iou: Iou) -> None:
    """The second image fits both ways, and follows the first."""
    boxes = {"1.png": [TALL], "2.png": [BOXES[1]]}
    predictions = predict(tmp_path, boxes, (300, 200))
    annotations = [annotate(TALL), annotate(BOXES[1], 2, 2)]
    found = evaluate(predictions, write(tmp_path, annotations, turned(SIZE, SIZE)), iou)
    assert found.ap == pytest.approx(1)
    (warning,) = found.warnings
    assert "states the sizes of 2 images turned" in warning
    assert "prove it in 1, the first: 1.png is stated as 300x200, predicted as 200x300" in warning
    with pytest.raises(UsageError, match="doubtful"):
        evaluate(predictions, tmp_path / "truth.json", iou, strict=True)


@pytest.mark.parametrize("other", [(180, 20, 100, 60), None], ids=["contradicts", "nothing proves"])
def test_sizes_that_nothing_proves_turned_are_refused(tmp_path: Path, other: Box | None) -> None:
    predictions = predict(tmp_path, {"1.png": [TALL], "2.png": [BOXES[1]], "3.png": []}, (300, 200))
    annotations = [annotate(BOXES[1], 2, 2)]
    if other is not None:
        annotations = [annotate(TALL), annotate(other, 2, 2), annotate(other, 3, 3)]
    with pytest.raises(PredictionsError, match=r"1\.png is 200x300 pixels, but 300x200") as caught:
        evaluate(predictions, write(tmp_path, annotations, turned(SIZE, SIZE, SIZE)), "bbox")
    assert "--exif apply|ignore" in str(caught.value.hint)


def test_annotations_that_fit_the_turned_image_alone_are_refused(tmp_path: Path, capsys: Captured) -> None:
    """As predicted with --exif ignore: the sizes agree, and both are those before rotation."""
    predictions = predict(tmp_path, {"1.png": [(20, 100, 60, 90)]})
    truth = write(tmp_path, [annotate(TALL)], turned(SIZE))
    assert main(["eval", str(predictions.path), "-a", str(truth)]) == 6
    said = capsys.readouterr().err
    assert "the annotations of 1 of 1 images leave the size" in said
    assert "orch run --exif apply" in said


# Coordinates


def many(count: int = 200) -> tuple[dict[str, list[Box]], list[Entry], list[Entry]]:
    """As many images with an instance each: boxes to predict, annotations, images."""
    boxes = {f"{n}.png": [BOXES[n % 2]] for n in range(count)}
    images = [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(count)]
    return boxes, [annotate(BOXES[n % 2], n, n) for n in range(count)], images


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_few_annotations_outside_their_images_are_skipped(tmp_path: Path, iou: Iou) -> None:
    boxes, annotations, images = many()
    annotations[7] = annotate((400, 20, 30, 30), 7, 7)
    found = evaluate(predict(tmp_path, boxes), write(tmp_path, annotations, images), iou)
    assert found.skipped_annotations == (
        "annotation 7: it reaches from (400, 20) to (430, 50), outside 7.png of 300x200 pixels",
    )
    assert "1 of 200 annotations" in found.warnings[0]
    assert sum(one.annotations for one in found.per_category) == 199
    assert found.counts.fp == 1, "what was predicted there counts as wrong"
    for n in range(8, 11):
        annotations[n] = annotate((400, 20, 30, 30), n, n)
    with pytest.raises(UsageError, match="annotation 7 of") as caught:
        evaluate(predict(tmp_path, boxes), write(tmp_path, annotations, images), iou)
    assert "4 of 200 annotations cannot be used" in str(caught.value.why)


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_annotations_that_reach_beyond_are_named_with_the_farthest(tmp_path: Path, iou: Iou) -> None:
    annotations = [*both(), annotate((270, 10, 80, 80), number=3), annotate((200, 150, 60, 51), number=4)]
    found = judge(tmp_path, annotations, iou)
    (warning,) = found.warnings
    assert "1 of 4 annotations reach beyond their images, the farthest by 50 pixels: annotation 3 in a.png" in warning
    assert sum(one.annotations for one in found.per_category) == 4


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_fractions_of_the_image_are_refused(tmp_path: Path, iou: Iou) -> None:
    fractions = [0.1, 0.2, 0.25, 0.5]
    entry = annotate(BOXES[0], bbox=fractions, segmentation=[[0.1, 0.2, 0.35, 0.2, 0.35, 0.7]])
    with pytest.raises(UsageError, match="are not in pixels") as caught:
        judge(tmp_path, [entry], iou)
    assert "fractions of the image" in str(caught.value.why)
    assert "multiply" in str(caught.value.hint)


def test_corners_are_refused(tmp_path: Path) -> None:
    corners = [[200, 100, 260, 160], [150, 20, 290, 90], [220, 150, 299, 199], [10, 10, 30, 30]]
    annotations = [annotate(BOXES[0], number=n, bbox=box) for n, box in enumerate(corners)]
    with pytest.raises(UsageError, match="are corners") as caught:
        judge(tmp_path, annotations, "bbox")
    assert "3 of 4 leave their images" in str(caught.value.why)
    assert "write each bbox as [x1, y1, x2 - x1, y2 - y1]" in str(caught.value.hint)
    assert judge(tmp_path, annotations, "segm").ap is not None, "masks are compared by their polygons"


def test_of_many_masks_a_sample_and_all_suspects_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth_checks, "SAMPLE", 10)
    boxes, annotations, images = many(150)
    annotations[77] = annotate((290, 20, 30, 30), 77, 77)
    predictions = predict(tmp_path, boxes)
    (warning,) = evaluate(predictions, write(tmp_path, annotations, images)).warnings
    assert "annotation 77" in warning
    for entry in annotations:  # polygons leave their images, boxes do not
        entry["segmentation"] = [[290, 20, 320, 20, 320, 50, 290, 50]]
    (warning,) = evaluate(predictions, write(tmp_path, annotations, images)).warnings
    assert warning.startswith("150 of 150 annotations reach beyond")


# One bad annotation among thousands


FAULTS: list[tuple[Entry, str]] = [
    ({"bbox": [1, 2, -3, 4]}, "negative"),
    ({"bbox": [1, 2, 1e300, 1e300]}, "a side or its area is above 1e+10"),
    ({"bbox": None}, "no bbox of type list"),
    ({"bbox": ["a", 1, 2, 3]}, "does not consist of numbers"),
    ({"category_id": 99}, "no category 99"),
    ({"category_id": "1"}, "no category_id of type int"),
    ({"category_id": True}, "no category_id of type int"),
    ({"image_id": 999}, "no image 999"),
    ({"image_id": None}, "no image_id"),
    ({"image_id": [1]}, "no image_id"),
    ({"iscrowd": 2}, "neither 0 nor 1"),
    ({"segmentation": [[1, 1, 2, 2]]}, "at least three points"),
    ({"segmentation": {"size": [300, 200], "counts": [60000]}}, "[300, 200], the image's is [200, 300]"),
    ({"segmentation": {"size": [200, 300], "counts": "4"}}, "do not add up"),
    ({"segmentation": {"size": 5, "counts": "4"}}, "neither polygons nor run lengths"),
]


@pytest.mark.parametrize(("change", "why"), FAULTS, ids=range(len(FAULTS)))
def test_one_bad_annotation_of_many_is_skipped_and_named(
    tmp_path: Path, change: Entry, why: str, capsys: Captured
) -> None:
    boxes, annotations, images = many(120)
    sound = evaluate(predict(tmp_path, boxes), write(tmp_path, [*annotations[:5], *annotations[6:]], images))
    annotations[5] |= change
    truth = write(tmp_path, annotations, images)
    found = evaluate(Predictions.load(tmp_path / "p.npz"), truth)
    (skipped,) = found.skipped_annotations
    assert skipped.startswith("annotation 5: ")
    assert why in skipped
    assert skipped in found.warnings[0]
    assert (found.ap, found.counts, found.per_category) == (sound.ap, sound.counts, sound.per_category)
    assert main(["eval", str(tmp_path / "p.npz"), "-a", str(truth), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == list(found.warnings)
    assert main(["eval", str(tmp_path / "p.npz"), "-a", str(truth), "--strict"]) == 2
    assert skipped in capsys.readouterr().err


def test_an_annotation_without_id_is_named_by_its_place(tmp_path: Path) -> None:
    entry = annotate(BOXES[0], bbox=[1])
    del entry["id"]
    with pytest.raises(UsageError, match=r"annotations\[0\] of"):
        judge(tmp_path, [entry])
    (tmp_path / "truth.json").write_text(json.dumps({"images": [], "annotations": [3], "categories": []}))
    with pytest.raises(UsageError) as caught:
        evaluate(Predictions.load(tmp_path / "p.npz"), tmp_path / "truth.json")
    assert caught.value.why == "annotations[0] is not an object"


# Names


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("Mu\u0308ller.png", "M\u00fcller.png"),
        ("M\u00fcller.png", "x/Mu\u0308ller.png"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("a/b.png", "a\\b.png"),
        ("b.png", "a\\b.png"),
        ("a.png", "./a.png"),
    ],
)
def test_names_of_another_form_are_found(tmp_path: Path, ours: str, theirs: str) -> None:
    predictions = predict(tmp_path, {ours: BOXES})
    images = [{"id": 1, "file_name": theirs, "height": SIZE[0], "width": SIZE[1]}]
    assert evaluate(predictions, write(tmp_path, both(), images)).ap == pytest.approx(1)


def test_names_of_another_form_are_found_only_where_unique() -> None:
    assert find_images(["a.png", "A.png"], ["A.png", "a.png"]).tolist() == [1, 0]
    assert find_images(["a.PNG", "A.png"], ["a.png"]).tolist() == [-1, -1]
    assert find_images(["a.PNG"], ["a.png", "A.png"]).tolist() == [-1]
    assert find_images(["a.png", "a.PNG"], ["a.png"]).tolist() == [0, -1]
    assert find_images(["b/a.png", "A.png"], ["a.png"]).tolist() == [0, -1]
    # x.jpg is no unique base name, although one of each side is left over.
    assert find_images(["a/x.jpg", "b/x.jpg"], ["a/x.jpg", "c/x.jpg"]).tolist() == [0, -1]


def test_images_of_one_file_name_are_refused_or_skipped(tmp_path: Path) -> None:
    boxes, annotations, images = many(200)
    predictions = predict(tmp_path, boxes)
    images[9]["file_name"] = "8.png"
    found = evaluate(predictions, write(tmp_path, annotations, images))
    assert found.skipped_annotations == ("image '8.png': 2 images have this file name",)
    assert found.warnings[0].startswith("2 of 200 images have the file name of another: '8.png'; they are skipped")
    assert (found.images, found.missing, found.unknown_images) == (198, 0, ("8.png", "9.png"))
    assert found.ap == pytest.approx(1)
    for n in range(20, 30):
        images[n]["file_name"] = "8.png"
    with pytest.raises(UsageError, match="cannot be told apart") as caught:
        evaluate(predictions, write(tmp_path, annotations, images))
    assert "12 of 200 images" in str(caught.value.why)
