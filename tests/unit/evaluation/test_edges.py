"""Parts of evaluation for themselves: truth cut to some images, recorded masks, rules without options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.evaluation.coco.ground_truth import Truth, read_truth
from orchestrator.evaluation.gate.rules import FailedImages, Findings
from orchestrator.evaluation.localization.ground_truth import TrueMask, read_recorded_masks
from orchestrator.inputs.benco_datasets import NEGATIVE
from tests.unit.evaluation.evaluate_samples import random_truth


def annotations_of(truth: Truth) -> set[tuple[str, int, tuple[float, ...], str]]:
    """All annotations with the names of their images."""
    assert truth.masks is not None
    return {
        (truth.files[image], category, tuple(box), str(mask))
        for image, category, box, mask in zip(
            truth.image.tolist(), truth.category.tolist(), truth.boxes.tolist(), truth.masks, strict=True
        )
    }


def test_images_keep_their_annotations_when_others_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(random_truth(5)))
    truth = read_truth(path, "segm")
    keep = np.ones(len(truth), bool)
    keep[[0, 1, 4, 11]] = False
    kept = truth.keep_images(keep)
    assert kept.files == [file for file, there in zip(truth.files, keep, strict=True) if there]
    assert len(kept.sizes) == len(kept) == 8
    expected = {one for one in annotations_of(truth) if one[0] in kept.files}
    assert annotations_of(kept) == expected
    assert 0 < len(expected) < len(annotations_of(truth))


def test_masks_that_a_run_recorded(tmp_path: Path) -> None:
    assert read_recorded_masks(tmp_path) == []
    truths = {"a.jpg": NEGATIVE, "b.jpg": "/masks/b.png", "c.jpg": None}
    lines = [
        {"index": n, "file": file, "path": f"0/{file}", "image_id": n, "size": 1, "mtime_ns": 1, "error": None,
         **({} if truth is None else {"truth": truth})}
        for n, (file, truth) in enumerate(truths.items())
    ]  # fmt: skip
    (tmp_path / "inputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_recorded_masks(tmp_path) == [TrueMask("a.jpg", None), TrueMask("b.jpg", Path("/masks/b.png"))]


@pytest.mark.parametrize(
    ("rule", "failed", "is_broken", "text"),
    [
        (FailedImages(), 0, False, "failed-images"),
        (FailedImages(), 1, True, "failed-images"),
        (FailedImages(5), 5, False, "failed-images:5"),
        (FailedImages(5), 6, True, "failed-images:5"),
        (FailedImages(5, percent=True), 10, False, "failed-images:5%"),
        (FailedImages(5, percent=True), 11, True, "failed-images:5%"),
    ],
)
def test_a_limit_is_a_number_of_images_unless_a_share_is_asked_for(
    rule: FailedImages, failed: int, is_broken: bool, text: str
) -> None:
    verdict = rule.judge(Findings(200, failed))
    assert (verdict.rule, verdict.is_broken) == (text, is_broken)
