"""What the stack amrcnn says of itself, and those of its modules that need no TensorFlow; the rest is tests/heavy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from orch_runner.contract import Fatal

from orchestrator.catalog.loader import ModelEntry, load_catalog
from orchestrator.errors import UsageError
from tests.unit.stacks.stack_modules import IMAGES, load_module

settings = load_module("amrcnn", "settings")
checkpoint = load_module("amrcnn", "checkpoint")
boxes = load_module("amrcnn", "boxes")
MODELS = ("amrcnn-r50-fpn", "amrcnn-spine")


def model(name: str) -> ModelEntry:
    return load_catalog([]).model(name)


@pytest.mark.parametrize("name", MODELS)
def test_the_code_and_the_spec_agree(name: str) -> None:
    spec = model(name).spec
    assert {key: one.default for key, one in spec.settings.items()} == settings.DEFAULTS
    assert settings.MODELS[name] == (spec.config, spec.weights[settings.WEIGHTS].file)
    assert list(model(name).stack.spec.sources) == [settings.SOURCE]
    assert spec.settings["image_size"].default == settings.DEFAULTS["image_size"]


@pytest.mark.parametrize("name", MODELS)
def test_models_as_published(name: str) -> None:
    entry = model(name)
    assert (entry.spec.native.box_order, entry.spec.native.class_base) == ("yxyx", 1)
    assert (entry.class_map, len(entry.taxonomy.attributes)) == (tuple(range(46)), 294)
    assert entry.spec.defaults.attributes
    assert (entry.spec.defaults.score_threshold, entry.settings([])["postprocess.score_threshold"]) == (None, 0.05)
    assert entry.categories == model("facere").categories


def test_settings_with_dots_are_checked_and_sorted_by_group() -> None:
    changed = model("amrcnn-spine").settings(["postprocess.score_threshold=0.01", "image_size=1280"])
    assert settings.overrides(settings.with_defaults(changed)) == {
        "postprocess": {
            "score_threshold": 0.01,
            "nms_iou_threshold": 0.5,
            "max_total_size": 100,
            "pre_nms_num_boxes": 1000,
        }
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("postprocess.score_treshold=0.1", "did you mean postprocess.score_threshold"),
        ("postprocess.score_threshold=2", "must be at most 1"),
        ("postprocess.max_total_size=1.5", "must be a whole number"),
        ("image_size=600", "must be a multiple of 128"),
        ("nms=fast", "must be one of op, upstream"),
    ],
)
def test_settings_that_cannot_be(override: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        model("amrcnn-r50-fpn").settings([override])
    assert words in f"{caught.value} {caught.value.why}"


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"image_size": 641}, {"nms": "x"}, {"postprocess.x": 1}])
def test_the_stack_checks_settings_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"image_size|nms|unknown settings: postprocess\.x"):
        settings.with_defaults(wrong)


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_locks_pin_everything_and_name_no_index(variant: str) -> None:
    text = (IMAGES / "amrcnn" / f"{variant}.lock").read_text()
    wanted = (IMAGES / "amrcnn" / f"requirements-{variant}.in").read_text().splitlines()
    pinned = [line.partition(" ")[0] for line in text.splitlines() if line[:1].isalpha()]
    assert pinned == sorted(
        [line for line in wanted if line and not line.startswith("#")], key=lambda line: line.partition("==")[0]
    )
    assert all("==" in line for line in pinned)
    assert "://" not in text
    assert text.count("--hash=sha256:") >= len(pinned)


def test_reference_boxes_are_grown_by_a_cell_and_cut_to_whole_pixels() -> None:
    found = boxes.reference_boxes(np.array([[10, 20, 38, 76], [0, 0, 28, 28], [5.5, 5.5, 5.5, 5.5]], np.float32), 28)
    # 28 cells over 28 and 56 pixels: a pixel more up and down, two left and right; cut towards zero.
    assert found.tolist() == [[18, 9, 78, 39], [-1, -1, 29, 29], [5, 5, 5, 5]]
    assert found.dtype == np.int32


def test_reference_boxes_are_those_of_exact_arithmetic_but_for_rounding() -> None:
    random = np.random.default_rng(7)
    corners = random.uniform(0, 700, (500, 2, 2))
    given = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    y1, x1, y2, x2 = given.astype(np.float64).T
    grow = 15 / 28
    exact = np.stack(
        [(x1 + x2) / 2 - (x2 - x1) * grow, (y1 + y2) / 2 - (y2 - y1) * grow,
         (x1 + x2) / 2 + (x2 - x1) * grow, (y1 + y2) / 2 + (y2 - y1) * grow], axis=1)  # fmt: skip
    clear = np.abs(exact - np.round(exact)) > 1e-3
    assert clear.mean() > 0.99
    assert (boxes.reference_boxes(given, 28) == np.trunc(exact))[clear].all()


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def parts(prefix: str, count: int = 1) -> list[str]:
    return [f"{prefix}.index", *(f"{prefix}.data-{number:05}-of-{count:05}" for number in range(count))]


def test_a_checkpoint_is_found_however_deep(tmp_path: Path) -> None:
    write(tmp_path, *parts("fashionpedia-r50-fpn/model.ckpt-16875"), "fashionpedia-r50-fpn/._model.ckpt-16875.index")
    assert checkpoint.find_prefix(str(tmp_path)) == str(tmp_path / "fashionpedia-r50-fpn" / "model.ckpt-16875")


def test_of_several_checkpoints_the_latest(tmp_path: Path) -> None:
    write(tmp_path, *parts("model.ckpt-900"), *parts("model.ckpt-16875", 2), *parts("model.ckpt-20000"))
    (tmp_path / "model.ckpt-20000.data-00000-of-00001").unlink()
    assert checkpoint.find_prefix(str(tmp_path)).endswith("model.ckpt-16875")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/somewhere/model.ckpt-900"\n')
    assert checkpoint.find_prefix(str(tmp_path)).endswith("model.ckpt-900")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "there is no checkpoint"),
        (["saved_model.pb", "model.data-00000-of-00001"], "there is no checkpoint"),
        (["model.ckpt.index"], "model.ckpt.data-00000-of-00001 is missing"),
        (["model.ckpt.index", "model.ckpt.data-00001-of-00002"], "model.ckpt.data-00000-of-00002 is missing"),
    ],
)
def test_no_usable_checkpoint(tmp_path: Path, names: list[str], words: str) -> None:
    write(tmp_path, *names)
    with pytest.raises(Fatal, match=words) as caught:
        checkpoint.find_prefix(str(tmp_path))
    assert caught.value.category == "weights"
    assert "orch weights add" in str(caught.value.hint)


def test_variables_that_do_not_fit_are_named() -> None:
    wanted = {"fc/kernel": [3, 47], **{f"conv_{number}/kernel": [3, 3] for number in range(9)}}
    checkpoint.check_variables("m", {**wanted, "global_step": [], "fc/kernel/Momentum": [3, 47]}, wanted)
    with pytest.raises(Fatal) as caught:
        checkpoint.check_variables("m", {"fc/kernel": [3, 91], "conv_8/kernel": [3, 3]}, wanted)
    assert str(caught.value) == (
        "the checkpoint is not one of m: 8 of 10 variables are missing (conv_0/kernel, conv_1/kernel, conv_2/kernel, "
        "conv_3/kernel, and 4 more); 1 have another shape (fc/kernel is [3, 91], must be [3, 47])"
    )
    assert caught.value.category == "weights"
