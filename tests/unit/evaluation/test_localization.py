"""Manipulated pixels and images: figures against brute force, every layout of true masks, and mistakes named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from orchestrator.cli import main
from orchestrator.errors import OrchError, PredictionsError, UsageError
from orchestrator.evaluation.localization.evaluate import evaluate_masks
from orchestrator.evaluation.localization.ground_truth import read_masks
from orchestrator.evaluation.localization.metrics import (
    compute_auc,
    compute_image_figures,
    compute_mean_auc,
    compute_pixel_figures,
    count_levels,
    measure,
)
from orchestrator.predictions.schema import STATUS_FAILED
from tests.unit.predictions.predictions_samples import META, Arrays, digests, save

FILES = ["a.jpg", "sub/b.png", "sub/c.jpg", "d.jpg"]
SIZE = (24, 32)
META_HERE = {key: value for key, value in META.items() if key != "attribute_names"}


def arrays(scores: list[float] | None = None, failed: tuple[int, ...] = ()) -> Arrays:
    count = len(FILES)
    status = np.array([STATUS_FAILED if n in failed else 0 for n in range(count)], np.uint8)
    found: Arrays = {
        "image_file": np.array(FILES),
        "image_sha256": digests(FILES),
        "image_size": np.array([SIZE] * count, np.int32),
        "status": status,
        "error": np.where(status == STATUS_FAILED, "broken", ""),
        "offsets": np.zeros(count + 1, np.int64),
        "boxes": np.zeros((0, 4), np.float32),
        "classes": np.zeros(0, np.int32),
        "scores": np.zeros(0, np.float32),
        "masks": np.zeros(0, np.uint8),
        "mask_offsets": np.zeros(1, np.int64),
        "meta": np.array(json.dumps({**META_HERE, "task": "manipulation-localization"})),
    }
    if scores is not None:
        found["image_scores"] = np.array(scores, np.float32)
    return found


def put(path: Path, levels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def masks() -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_]]]:
    """Levels and truths of the four images; the last was not manipulated."""
    rng = np.random.default_rng(3)
    truths = [np.zeros(SIZE, bool) for _ in FILES]
    truths[0][4:14, 5:20] = True
    truths[1][:, :9] = True
    truths[2][20:, 28:] = True
    levels = [np.clip(rng.normal(90 + 70 * truth, 40), 0, 255).astype(np.uint8) for truth in truths]
    return levels, truths


def a_run(tmp_path: Path, levels: list[NDArray[np.uint8]], **given: Any) -> Path:
    run = tmp_path / "run"
    for file, level in zip(FILES, levels, strict=True):
        put(run / "masks" / f"{file}.png", level)
    save(arrays(**given), run / "predictions.npz")
    return run


def a_folder(folder: Path, truths: list[NDArray[np.bool_]]) -> Path:
    for file, truth in zip(FILES, truths, strict=True):
        put((folder / file).with_suffix(".png"), truth * 255)
    return folder


def brute_force(levels: NDArray[np.uint8], truth: NDArray[np.bool_], threshold: float) -> tuple[float, float]:
    called = levels / 255 > threshold
    both, either = (called & truth).sum(), (called | truth).sum()
    return 2 * both / (called.sum() + truth.sum()), both / either


def test_figures_are_those_of_brute_force(tmp_path: Path, masks: Any) -> None:
    levels, truths = masks
    found = evaluate_masks(a_run(tmp_path, levels, scores=[0.9, 0.4, 0.8, 0.6]), a_folder(tmp_path / "gt", truths))
    assert (found.images, found.manipulated, found.missing_images, found.unknown_images) == (4, 3, (), ())
    wanted = np.mean([brute_force(*one, 0.5) for one in list(zip(levels, truths, strict=True))[:3]], axis=0)
    assert found.pixel_fixed is not None
    assert (found.pixel_fixed.f1, found.pixel_fixed.iou) == pytest.approx(tuple(wanted), abs=1e-12)
    every = [
        np.mean([brute_force(*one, (level - 0.5) / 255)[0] for one in list(zip(levels, truths, strict=True))[:3]])
        for level in range(1, 256)
    ]
    assert found.pixel_best is not None
    assert found.pixel_best.f1 == pytest.approx(max(every), abs=1e-12)
    assert found.pixel_best.threshold == pytest.approx((1 + int(np.argmax(every))) / 255)
    assert found.pixel_best.f1 > found.pixel_fixed.f1
    areas = []
    for level, truth in list(zip(levels, truths, strict=True))[:3]:
        inside, outside = level[truth].astype(int), level[~truth].astype(int)
        pairs = inside[:, None] - outside
        areas.append(((pairs > 0).sum() + 0.5 * (pairs == 0).sum()) / pairs.size)
    assert found.pixel_auc == pytest.approx(np.mean(areas), abs=1e-12)
    assert found.image_scores_from == "the model"
    # Manipulated 0.9, 0.4, 0.8; genuine 0.6. At 0.5: 2 right, 1 wrong, 1 missed.
    assert found.image_fixed is not None
    assert (found.image_fixed.f1, found.image_fixed.accuracy) == pytest.approx((2 / 3, 0.5))
    assert found.image_best is not None
    assert (found.image_best.threshold, found.image_best.f1) == pytest.approx((0.4, 6 / 7))
    assert found.image_auc == pytest.approx(2 / 3)


def test_a_case_done_by_hand() -> None:
    levels = np.array([[255, 200, 100, 0]], np.uint8)
    truth = np.array([[True, False, True, False]])
    counted = count_levels(levels, truth)
    assert counted.sum() == 4
    assert compute_auc(counted) == 0.75
    fixed, best = compute_pixel_figures([counted])
    assert fixed is not None
    assert best is not None
    assert (fixed.f1, fixed.iou) == pytest.approx((0.5, 1 / 3))
    assert (best.f1, best.iou) == pytest.approx((0.8, 2 / 3))
    assert compute_pixel_figures([]) == (None, None)
    whole = measure(levels, np.ones((1, 4), bool), True)
    assert whole.auc is None
    assert compute_mean_auc([whole.auc, 0.75]) == 0.75
    assert compute_image_figures(np.zeros(0), np.zeros(0, bool)) == (None, None, None)
    same = compute_image_figures(np.array([0.5, 0.5, 0.2]), np.array([True, False, False]))
    assert same[1] is not None
    assert (same[1].threshold, same[1].f1) == pytest.approx((0.5, 2 / 3))
    assert same[2] == 0.75


def test_without_image_scores_the_highest_pixel_counts(tmp_path: Path, masks: Any) -> None:
    levels, truths = masks
    found = evaluate_masks(a_run(tmp_path, levels), a_folder(tmp_path / "gt", truths))
    assert found.image_scores_from == "the highest pixel of each mask"
    partly = evaluate_masks(a_run(tmp_path, levels, scores=[np.nan, 0.4, 0.8, 0.6]), tmp_path / "gt")
    assert partly.image_auc is not None


def test_failed_and_missing_images_count_as_called_genuine(tmp_path: Path, masks: Any) -> None:
    levels, truths = masks
    run = a_run(tmp_path, levels, failed=(0,))
    (run / "masks" / "a.jpg.png").unlink()
    (tmp_path / "more.png").write_bytes(a_folder(tmp_path / "gt", truths).joinpath("a.png").read_bytes())
    pairs = [[file, str(Path("gt", file).with_suffix(".png"))] for file in FILES[:3]]
    (tmp_path / "set.json").write_text(json.dumps([*pairs, ["other.jpg", "more.png"]]))
    found = evaluate_masks(run, tmp_path / "set.json")
    assert (found.images, found.manipulated) == (4, 4)
    assert (found.missing_images, found.failed_images) == ((str(tmp_path / "other.jpg"),), ("a.jpg",))
    assert found.unknown_images == ("d.jpg",)
    two = [brute_force(levels[n], truths[n], 0.5)[0] for n in (1, 2)]
    assert found.pixel_fixed is not None
    assert found.pixel_fixed.f1 == pytest.approx(sum(two) / 4)


def test_every_layout_says_the_same(tmp_path: Path, masks: Any) -> None:
    levels, truths = masks
    run, folder = a_run(tmp_path, levels), a_folder(tmp_path / "gt", truths)
    expected = evaluate_masks(run, folder)
    mani = tmp_path / "mani"
    for file, truth in zip(FILES, truths, strict=True):
        put(mani / "Tp" / Path(file).name, np.zeros(SIZE))
        put(mani / "Gt" / f"{Path(file).stem}_gt.png", truth * 255)
    (mani / "Gt" / "Thumbs.db").write_text("x")  # shifts every pair where they are made by sort order
    (mani / "Tp" / ".DS_Store").write_text("x")
    assert evaluate_masks(run, mani) == expected
    pairs: list[Any] = [[file, str(Path("gt", file).with_suffix(".png"))] for file in FILES[:3]]
    (tmp_path / "set.json").write_text(json.dumps([*pairs, [FILES[3], "Negative"]]))
    assert evaluate_masks(run, tmp_path / "set.json") == expected
    (tmp_path / "sets.json").write_text(json.dumps([["JsonDataset", "set.json"]]))
    assert evaluate_masks(run, tmp_path / "sets.json") == expected
    (tmp_path / "both.json").write_text(json.dumps([["ManiDataset", "mani"], ["JsonDataset", "set.json"]]))
    assert evaluate_masks(run, tmp_path / "both.json").images == 8


def test_deep_and_one_bit_masks(tmp_path: Path, masks: Any) -> None:
    levels, truths = masks
    run, folder = a_run(tmp_path, levels), a_folder(tmp_path / "gt", truths)
    expected = evaluate_masks(run, folder)
    Image.fromarray(truths[0]).save(folder / "a.png")
    Image.fromarray((truths[1] * 65535).astype(np.uint16)).save(folder / "sub" / "b.png")
    assert evaluate_masks(run, folder) == expected


MISTAKES: list[tuple[str, type[OrchError], str]] = [
    ("none", UsageError, "cannot read true masks"),
    ("empty", UsageError, "no mask of"),
    ("bad.json", UsageError, "cannot read"),
    ("object.json", UsageError, "as a list of images"),
    ("triple.json", UsageError, "as a list of images"),
    ("gone.json", UsageError, "cannot read the true mask"),
    ("gone2.json", UsageError, "is not a data set"),
    ("itself.json", UsageError, "contains itself"),
    ("strangers.json", PredictionsError, "none of the images"),
    ("unpaired", UsageError, "no mask of"),
    ("text", UsageError, "cannot read the true mask"),
    ("small", PredictionsError, "the mask of a.jpg is 32x24 pixels, the true one 24x32"),
]


@pytest.mark.parametrize(("source", "error", "message"), MISTAKES, ids=[one[0] for one in MISTAKES])
def test_mistakes_are_named(tmp_path: Path, masks: Any, source: str, error: type[OrchError], message: str) -> None:
    run = a_run(tmp_path, masks[0])
    (tmp_path / "empty").mkdir()
    for name, value in {
        "object.json": {}, "triple.json": [["a", "b", "c"]], "gone.json": [["a.jpg", "gone.png"]],
        "gone2.json": [["JsonDataset", "nowhere.json"]],
        "itself.json": [["JsonDataset", "itself.json"]], "strangers.json": [["z.jpg", "Negative"]],
    }.items():  # fmt: skip
        (tmp_path / name).write_text(json.dumps(value))
    (tmp_path / "bad.json").write_text("[")
    put(tmp_path / "unpaired" / "Tp" / "x.jpg", np.zeros(SIZE))
    (tmp_path / "unpaired" / "Gt").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("no image")
    put(tmp_path / "small" / "a.png", np.zeros(SIZE[::-1]))
    with pytest.raises(error) as caught:
        evaluate_masks(run, tmp_path / source)
    assert message in f"{caught.value} {caught.value.why}"


@pytest.mark.parametrize(("size", "is_rotated"), [(SIZE[::-1], True), ((SIZE[0], SIZE[1] + 1), False)])
def test_masks_of_another_size_are_explained(
    tmp_path: Path, masks: Any, size: tuple[int, int], is_rotated: bool
) -> None:
    true = put(tmp_path / "gt" / "a.png", np.zeros(size))
    with pytest.raises(PredictionsError, match="the mask of") as caught:
        evaluate_masks(a_run(tmp_path, masks[0]), tmp_path / "gt")
    assert caught.value.why == ("they disagree on EXIF rotation" if is_rotated else f"the true one is {true}")
    assert (caught.value.hint is not None) is is_rotated


def test_a_pixel_of_the_truth_is_manipulated_above_half(tmp_path: Path, masks: Any) -> None:
    run = a_run(tmp_path, masks[0])
    found = []
    for level in (127, 128):
        true = np.full(SIZE, level)
        true[0, :2] = 0, 255
        put(tmp_path / "gt" / "a.png", true)
        found.append(round(evaluate_masks(run, tmp_path / "gt").pixel_fixed.iou, 3))  # type: ignore[union-attr]
    assert found[0] < 0.1 < found[1]


def test_a_run_without_masks(tmp_path: Path, masks: Any) -> None:
    folder = a_folder(tmp_path / "gt", masks[1])
    with pytest.raises(UsageError, match="has no folder masks"):
        evaluate_masks(save(arrays(), tmp_path / "p.npz"), folder)
    run = a_run(tmp_path, masks[0])
    (run / "masks" / "sub" / "b.png.png").unlink()
    with pytest.raises(PredictionsError, match=r"the mask of sub/b\.png is missing"):
        evaluate_masks(run, folder)
    (run / "masks" / "a.jpg.png").unlink()
    (run / "masks" / "a.jpg.png").symlink_to(folder / "a.png")
    with pytest.raises(PredictionsError, match="leads outside"):
        evaluate_masks(run, folder)


def test_masks_are_paired_by_name(tmp_path: Path) -> None:
    for name in ("a.jpg.png", "b_mask.tif"):
        put(tmp_path / name, np.zeros(SIZE))
    found = read_masks(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    assert [(one.image, one.mask) for one in found] == [
        ("a.jpg", tmp_path / "a.jpg.png"), ("b.jpg", tmp_path / "b_mask.tif")]  # fmt: skip


def test_the_command(tmp_path: Path, masks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    levels, truths = masks
    run, folder = a_run(tmp_path, levels), a_folder(tmp_path / "gt", truths)
    assert main(["eval", str(run), "--masks", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "pixel F1 at 0.5\t" in out
    assert "3 of them manipulated" in err
    assert main(["eval", str(run), "--masks", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["pixel_fixed"]["threshold"] == 0.5
    assert main(["eval", str(run)]) == 2
    assert main(["eval", str(run), "--masks", str(folder), "-a", "x.json"]) == 2
