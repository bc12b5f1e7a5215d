"""The protocol imdlbenco: a case done by hand, its evaluators' formulas again in numpy, canvases, data sets by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from orchestrator.cli import main
from orchestrator.errors import PredictionsError
from orchestrator.evaluation.localization.evaluate import evaluate_masks
from orchestrator.evaluation.localization.metrics import Localization, measure, to_levels
from orchestrator.evaluation.localization.pixels import scale_levels, scale_truth
from orchestrator.evaluation.localization.protocol import IMDLBENCO, OWN_RULES
from orchestrator.inputs.collect import collect_inputs
from tests.unit.evaluation.test_localization import FILES, SIZE, a_folder, arrays, put
from tests.unit.predictions.predictions_samples import Arrays, save

CANVAS = 16
Mask = NDArray[np.bool_]
Probability = NDArray[np.float32]


def a_run(
    folder: Path, kept: list[Probability] | None, *, sizing: str = "resize", scores: list[float] | None = None
) -> Path:
    """A run whose masks are of the images' sizes; `kept`: its canvas masks."""
    run = folder / "run"
    for number, file in enumerate(FILES):
        put(run / "masks" / f"{file}.png", np.full(SIZE, 40 * number))
        if kept is not None:
            path = run / "canvas" / f"{file}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, kept[number])
    stored = recorded(arrays(scores), sizing)
    save(stored, run / "predictions.npz")
    return run


def recorded(stored: Arrays, sizing: str, canvas: int = CANVAS) -> Arrays:
    """The same predictions with the canvas in their meta."""
    meta = json.loads(str(stored["meta"]))
    meta = {**meta, "native": {**meta["native"], "canvas": canvas}, "settings": {"sizing": sizing}}
    return {**stored, "meta": np.array(json.dumps(meta))}


@pytest.fixture
def truths() -> list[Mask]:
    """Three manipulated images and a genuine one."""
    found = [np.zeros(SIZE, bool) for _ in FILES]
    found[0][4:14, 5:20] = True
    found[1][:, :9] = True
    found[2][20:, 28:] = True
    return found


@pytest.fixture
def kept() -> list[Probability]:
    rng = np.random.default_rng(7)
    return [rng.random((CANVAS, CANVAS)).astype(np.float32) for _ in FILES]


# --- by hand


def test_a_case_done_by_hand(tmp_path: Path) -> None:
    """On a canvas of 2x2 one image has F1 1/2, IoU 1/3, AUC 3/4, another 0; the genuine two count as 0."""
    halves = [np.zeros(SIZE, bool) for _ in FILES]
    halves[0][:, :16] = True  # the left column of the canvas
    halves[1][:12, :16] = True  # its upper left pixel
    masks = [[[0.9, 0.7], [0.2, 0.1]], [[0.3, 0.6], [0.8, 0.9]], [[0.9, 0.9], [0.9, 0.9]], [[0, 0], [0, 0]]]
    run = a_run(tmp_path, [np.array(mask, np.float32) for mask in masks], scores=[0.9, 0.4, 0.8, 0.1])
    found = evaluate_masks(run, a_folder(tmp_path / "gt", halves), rules=IMDLBENCO)
    assert (found.protocol, found.images, found.manipulated) == ("imdlbenco", 4, 2)
    assert found.pixels_from == "the kept masks of the network's canvas"
    assert found.pixel_fixed is not None
    # Of the first, one of two pixels is found and one is wrong: precision and recall are 1/2.
    assert (found.pixel_fixed.f1, found.pixel_fixed.iou) == pytest.approx(((1 / 2 + 0) / 4, (1 / 3 + 0) / 4))
    # Of its pairs (0.9, 0.7), (0.9, 0.1), (0.2, 0.7), (0.2, 0.1) three are in order; of the second none.
    assert found.pixel_auc == pytest.approx((3 / 4 + 0) / 4)
    assert found.pixel_permuted is not None
    # The inverse of the second mask is right everywhere.
    assert found.pixel_permuted.f1 == pytest.approx((1 / 2 + 1) / 4)
    assert found.pixel_permuted.iou == pytest.approx((1 / 3 + 1) / 4)
    assert found.pixel_permuted.auc == pytest.approx((3 / 4 + 1) / 4)
    assert found.image_fixed is not None
    assert (found.image_fixed.f1, found.image_fixed.accuracy) == pytest.approx((1 / 2, 1 / 2))
    assert found.image_auc == pytest.approx(3 / 4)


# --- the evaluators' formulas again


def f1_of(called: Mask, truth: Mask) -> float:
    precision = (called & truth).sum() / (called.sum() + 1e-8)
    recall = (called & truth).sum() / (truth.sum() + 1e-8)
    return float(2 * precision * recall / (precision + recall + 1e-8))


def iou_of(called: Mask, truth: Mask) -> float:
    return float((called & truth).sum() / ((called | truth).sum() + 1e-8))


def auc_of(values: Probability, truth: Mask) -> float:
    """The trapezoids under the ROC curve of pixels in falling order, 0 without a manipulated pixel."""
    if not truth.any():
        return 0.0
    falling = truth.reshape(-1)[np.argsort(-values.reshape(-1), kind="stable")]
    true, false = np.cumsum(falling) / falling.sum(), np.cumsum(~falling) / (~falling).sum()
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def check_against_formulas(found: Localization, pairs: list[tuple[Probability, Mask]]) -> None:
    def mean(figure: Callable[[Probability, Mask], float]) -> float:
        return float(np.mean([figure(values, truth) for values, truth in pairs]))

    assert found.pixel_fixed is not None
    assert found.pixel_best is not None
    assert found.pixel_permuted is not None
    assert found.pixel_fixed.f1 == pytest.approx(mean(lambda p, t: f1_of(p > 0.5, t)), abs=1e-7)
    assert found.pixel_fixed.iou == pytest.approx(mean(lambda p, t: iou_of(p > 0.5, t)), abs=1e-7)
    assert found.pixel_auc == pytest.approx(mean(auc_of), abs=1e-7)
    permuted = found.pixel_permuted
    assert permuted.f1 == pytest.approx(mean(lambda p, t: max(f1_of(p > 0.5, t), f1_of(p <= 0.5, t))), abs=1e-7)
    assert permuted.iou == pytest.approx(mean(lambda p, t: max(iou_of(p > 0.5, t), iou_of(1 - p > 0.5, t))), abs=1e-7)
    assert permuted.auc == pytest.approx(mean(lambda p, t: max(auc_of(p, t), auc_of(1 - p, t))), abs=1e-6)
    curve = [mean(lambda p, t, n=n: f1_of(p > (n - 0.5) / 255, t)) for n in range(1, 256)]  # type: ignore[misc]
    assert found.pixel_best.f1 == pytest.approx(max(curve), abs=1e-7)
    assert found.pixel_best.threshold == pytest.approx((1 + int(np.argmax(curve))) / 255)


def test_every_figure_is_that_of_the_evaluators(tmp_path: Path, truths: list[Mask], kept: list[Probability]) -> None:
    found = evaluate_masks(a_run(tmp_path, kept), a_folder(tmp_path / "gt", truths), rules=IMDLBENCO)
    rows, columns = np.arange(CANVAS) * SIZE[0] // CANVAS, np.arange(CANVAS) * SIZE[1] // CANVAS
    on_canvas = [truth[rows][:, columns] for truth in truths]
    check_against_formulas(found, list(zip(kept, on_canvas, strict=True)))
    own = evaluate_masks(tmp_path / "run", tmp_path / "gt")
    assert own.pixel_fixed != found.pixel_fixed
    assert (own.protocol, own.pixels_from) == (None, "masks of the images' sizes")


def test_padded_images_are_compared_without_padding(tmp_path: Path, truths: list[Mask]) -> None:
    rng = np.random.default_rng(9)
    kept = [rng.random(SIZE).astype(np.float32) for _ in FILES]
    run = a_run(tmp_path, kept, sizing="pad")
    save(recorded(arrays(), "pad", 64), run / "predictions.npz")
    found = evaluate_masks(run, a_folder(tmp_path / "gt", truths), rules=IMDLBENCO)
    check_against_formulas(found, list(zip(kept, truths, strict=True)))


def test_half_is_not_above_half() -> None:
    values = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.4999, 1.25, -0.25]], np.float32)
    assert to_levels(values).tolist() == [[127, 128, 127, 255, 0]]
    one = measure(values, np.array([[True, True, False, False, False]]), True)
    assert (one.histogram[1, 127], one.histogram[1, 128], one.highest) == (1, 1, 1.25)


def test_an_image_whose_region_vanishes_on_the_canvas_counts_as_0(tmp_path: Path, kept: list[Probability]) -> None:
    dots = [np.zeros(SIZE, bool) for _ in FILES]
    dots[0][1, 1] = True  # between the pixels that the canvas keeps
    dots[1][:, :9] = True
    found = evaluate_masks(a_run(tmp_path, kept), a_folder(tmp_path / "gt", dots), rules=IMDLBENCO)
    assert (found.manipulated, found.images) == (2, 4)
    columns = np.arange(CANVAS) * 2 < 9
    truth = np.broadcast_to(columns, (CANVAS, CANVAS))
    assert found.pixel_fixed is not None
    assert found.pixel_fixed.f1 == pytest.approx(f1_of(kept[1] > 0.5, truth) / 4, abs=1e-7)
    assert found.pixel_auc == pytest.approx(auc_of(kept[1], truth) / 4, abs=1e-7)


# --- where canvas masks were not kept


def test_masks_are_scaled_back_to_the_recorded_canvas(tmp_path: Path, truths: list[Mask]) -> None:
    run = a_run(tmp_path, None)
    ramp = np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))
    for file in FILES:
        put(run / "masks" / f"{file}.png", ramp)
    found = evaluate_masks(run, a_folder(tmp_path / "gt", truths), rules=IMDLBENCO)
    assert found.pixels_from.startswith("masks scaled back to the network's canvas, 16 pixels, resize; ")
    assert "--set keep_canvas=true" in found.pixels_from
    rows, columns = np.arange(CANVAS) * SIZE[0] // CANVAS, np.arange(CANVAS) * SIZE[1] // CANVAS
    scaled = scale_levels(ramp, (CANVAS, CANVAS))
    # At the centre of two columns lies their mean.
    assert np.abs(scaled[0].astype(int) - ramp[0].reshape(CANVAS, 2).mean(axis=1)).max() <= 1
    wanted = np.mean([f1_of(scaled >= 128, truth[rows][:, columns]) for truth in truths])
    assert found.pixel_fixed is not None
    assert found.pixel_fixed.f1 == pytest.approx(wanted, abs=1e-7)


def test_without_a_recorded_canvas_the_images_sizes_are_used_and_that_is_said(
    tmp_path: Path, truths: list[Mask]
) -> None:
    run = a_run(tmp_path, None)
    save(arrays(), run / "predictions.npz")
    found = evaluate_masks(run, a_folder(tmp_path / "gt", truths), rules=IMDLBENCO)
    assert "the run records no canvas" in found.pixels_from
    own = evaluate_masks(run, tmp_path / "gt")
    assert found.pixel_fixed is not None
    assert own.pixel_fixed is not None
    assert found.pixel_fixed.f1 == pytest.approx(own.pixel_fixed.f1 * 3 / 4)  # the genuine image counts
    # The model gave no image scores: upstream has no such figures then.
    assert (found.image_fixed, found.image_auc) == (None, None)
    assert own.image_fixed is not None


def test_the_truth_is_scaled_as_opencv_does() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random((37, 91)) > 0.5
    scaled = scale_truth(truth, (50, 16))
    assert all(
        scaled[row, column] == truth[min(int(row * (37 / 50)), 36), min(int(column * (91 / 16)), 90)]
        for row in range(50)
        for column in range(16)
    )
    assert scale_truth(truth, truth.shape) is truth


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is missing"), (b"no array", "cannot read"), (np.zeros(4, np.float32), "two-dimensional")],
)
def test_damaged_canvas_masks_are_named(
    tmp_path: Path, truths: list[Mask], kept: Any, content: Any, words: str
) -> None:
    run = a_run(tmp_path, kept)
    path = run / "canvas" / "sub" / "b.png.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(PredictionsError) as caught:
        evaluate_masks(run, a_folder(tmp_path / "gt", truths), rules=IMDLBENCO)
    assert words in f"{caught.value} {caught.value.why}"


# --- data sets by name


def a_list(folder: Path, truths: list[Mask]) -> Path:
    """Two data sets that share an image, as {name: path}."""
    pairs = [[file, str(Path("gt", file).with_suffix(".png"))] for file in FILES[:3]]
    (folder / "first.json").write_text(json.dumps(pairs[:2]))
    (folder / "second.json").write_text(json.dumps([*pairs[1:], [FILES[3], "Negative"]]))
    a_folder(folder / "gt", truths)
    (folder / "sets.json").write_text(json.dumps({"Columbia": "first.json", "NIST16": "second.json"}))
    return folder / "sets.json"


def test_each_data_set_has_its_figures(tmp_path: Path, truths: list[Mask], kept: Any, capsys: Any) -> None:
    run, listed = a_run(tmp_path, kept), a_list(tmp_path, truths)
    for rules in (OWN_RULES, IMDLBENCO):
        whole = evaluate_masks(run, listed, rules=rules)
        assert [(one.data_set, one.images, one.manipulated) for one in whole.data_sets] == [
            ("Columbia", 2, 2), ("NIST16", 3, 2)]  # fmt: skip
        assert (whole.images, whole.unknown_images) == (5, ())
        for part, name in zip(whole.data_sets, ("first.json", "second.json"), strict=True):
            alone = evaluate_masks(run, tmp_path / name, rules=rules)
            assert (part.pixel_fixed, part.pixel_best, part.pixel_permuted) == (
                alone.pixel_fixed, alone.pixel_best, alone.pixel_permuted)  # fmt: skip
            assert part.pixel_auc == alone.pixel_auc
    call = ["eval", str(run), "--masks", str(listed), "--protocol", "imdlbenco"]
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split("\t") == ["", "localization, protocol imdlbenco", "Columbia", "NIST16"]
    assert "protocol imdlbenco, on the kept masks of the network's canvas" in err
    assert main([*call, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["protocol"], [one["data_set"] for one in document["data_sets"]]) == (
        "imdlbenco", ["Columbia", "NIST16"])  # fmt: skip
    assert evaluate_masks(run, tmp_path / "first.json").data_sets == ()


def test_a_run_records_the_names_of_its_images_data_sets(tmp_path: Path, truths: list[Mask], kept: Any) -> None:
    listed = a_list(tmp_path, truths)
    for file in FILES:
        put(tmp_path / file, np.zeros(SIZE))
    run = a_run(tmp_path, kept)
    inputs = collect_inputs([str(listed)], tmp_path / "unpacked")
    inputs.images.save(run / "inputs.jsonl")
    assert [image.data_set for image in inputs.images] == ["Columbia", "Columbia", "NIST16", "NIST16"]
    found = evaluate_masks(run, None, rules=IMDLBENCO)
    assert [(one.data_set, one.images) for one in found.data_sets] == [("Columbia", 2), ("NIST16", 2)]
    plain = collect_inputs([str(tmp_path / "first.json")], tmp_path / "unpacked")
    plain.images.save(run / "inputs.jsonl")
    assert b"data_set" not in (run / "inputs.jsonl").read_bytes()


def test_protocols_of_the_other_task_are_refused(tmp_path: Path, truths: list[Mask], kept: Any, capsys: Any) -> None:
    run, folder = a_run(tmp_path, kept), a_folder(tmp_path / "gt", truths)
    for name in ("coco", "fashionfail"):
        assert main(["eval", str(run), "--masks", str(folder), "--protocol", name]) == 2
        assert f"the protocol {name} is for COCO annotations" in capsys.readouterr().err


def test_pictures_of_another_size_than_the_image_are_refused(tmp_path: Path, truths: list[Mask]) -> None:
    run = a_run(tmp_path, None)
    Image.new("L", (5, 5)).save(run / "masks" / "a.jpg.png")
    with pytest.raises(PredictionsError, match=r"the mask of a\.jpg is 5x5 pixels, the image 32x24"):
        evaluate_masks(run, a_folder(tmp_path / "gt", truths))
