"""What the stack imdlbenco says and decides without PyTorch; tests/heavy/test_imdlbenco.py has its networks."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orch_runner.contract import Fatal
from orch_runner.predictor import Model

from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.tasks import MANIPULATION
from orchestrator.evaluation.localization import pixels

STACK = Path(__file__).resolve().parents[3] / "images" / "imdlbenco"
MODULES = ("zoo", "sizing", "checkpoint", "jpegio_stand_in")


def load_modules() -> dict[str, ModuleType]:
    """Modules of the stack, which is no package: the runner puts its folder on the path."""
    loaded: dict[str, ModuleType] = {}
    for name in MODULES:
        spec = importlib.util.spec_from_file_location(name, STACK / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    for name in MODULES:
        del sys.modules[name]
    return loaded


STACK_MODULES = load_modules()
zoo, sizing, checkpoint, jpegio_stand_in = (STACK_MODULES[name] for name in MODULES)
SPEC = load_catalog([]).stacks["imdlbenco"].spec


def test_the_catalog_and_the_zoo_have_the_same_eleven_models() -> None:
    assert list(SPEC.models) == list(zoo.ARCHITECTURES)
    assert len(SPEC.models) == 11


def test_a_model_of_another_name_is_found_by_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = ("zoo", "sizing", "checkpoint", "construct", "jpegio_stand_in")
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(STACK))
    spec = importlib.util.spec_from_file_location("imdlbenco_predictor", STACK / "predictor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predictor = module.Predictor()
    for name, architecture in zoo.ARCHITECTURES.items():
        predictor._read_settings(Model("my-mvss", {"checkpoint": "x"}, architecture=name))
        assert predictor._architecture.registry == architecture.registry
    for name in modules:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_model_says_what_it_is(name: str) -> None:
    model, architecture = SPEC.models[name], zoo.ARCHITECTURES[name]
    assert model.task == MANIPULATION
    assert model.weights["checkpoint"].file == f"{name}.pth"
    assert f"orch weights add {name} FILE" in (model.weights["checkpoint"].manual or "")
    assert set(model.settings) == {"keep_canvas", "mask_threshold", "sizing", "batch_norm", "torch_threads"}
    assert model.native.canvas == architecture.size
    assert model.settings["sizing"].default == architecture.sizing
    assert model.settings["batch_norm"].default == "eval"
    assert f"{architecture.size} pixels" in model.title
    assert bool(architecture.last) != architecture.draws_at_random


def test_a_model_that_cannot_be_reproduced_says_so() -> None:
    assert [name for name, one in zoo.ARCHITECTURES.items() if one.draws_at_random] == ["span"]
    assert "not reproducible" in SPEC.models["span"].title


@pytest.mark.parametrize("variant", SPEC.variants)
def test_locks_name_no_index_and_have_what_the_models_import(variant: str) -> None:
    lock = (STACK / SPEC.variants[variant].lock).read_text()
    assert not re.search(r"https?:|--(extra-)?index", lock)
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    assert pins["imdlbenco"] == "0.1.45"
    assert {"albumentations", "jpeglib", "pillow", "pycocotools", "timm", "torch", "torchvision", "yacs"} <= set(pins)
    assert lock.count("--hash=sha256:") >= len(pins)
    asked = re.findall(r"^[a-z0-9-]+==\S+", (STACK / f"requirements-{variant}.in").read_text(), re.MULTILINE)
    assert {f"{name}=={version}" for name, version in pins.items()} == set(asked)


@pytest.mark.parametrize(
    ("height", "width", "rule", "expected"),
    [
        (300, 800, "resize", (512, 512)),
        (1, 1, "resize", (512, 512)),
        (300, 500, "pad", (300, 500)),
        (512, 512, "pad", (512, 512)),
        (513, 200, "pad", (512, 200)),
        (1000, 3000, "pad", (171, 512)),
        (1, 100_000, "pad", (1, 512)),
    ],
)
def test_size_on_the_canvas(height: int, width: int, rule: str, expected: tuple[int, int]) -> None:
    assert sizing.size_on_canvas(height, width, 512, rule) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([64, 512, 1024]))
def test_padding_never_crops(height: int, width: int, canvas: int) -> None:
    rows, columns = sizing.size_on_canvas(height, width, canvas, "pad")
    assert 1 <= rows <= min(canvas, height)
    assert 1 <= columns <= min(canvas, width)
    scale = min(1.0, canvas / max(height, width))
    assert abs(rows - max(1, height * scale)) <= 0.5 + 1e-9
    assert abs(columns - max(1, width * scale)) <= 0.5 + 1e-9


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(["resize", "pad"]))
def test_the_host_knows_the_size_on_the_canvas(height: int, width: int, rule: str) -> None:
    expected = sizing.size_on_canvas(height, width, 512, rule)
    assert pixels.size_on_canvas((height, width), 512, rule) == expected


@pytest.mark.parametrize("rule", ["resize", "pad"])
def test_kept_masks_have_no_padding(rule: str) -> None:
    mask = np.arange(64, dtype=np.float32).reshape(8, 8)
    cropped = sizing.Sizing(8, rule).crop(mask, 6, 3)
    assert np.array_equal(cropped, mask if rule == "resize" else mask[:6, :3])


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="must be resize or pad"):
        sizing.Sizing(512, "crop")


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


WEIGHT = np.zeros(3)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a.b": WEIGHT}, "optimizer": {}, "epoch": 3},
        {"model": OrderedDict({"module.a.b": WEIGHT})},
        {"a.b": WEIGHT},
        {"module.a.b": WEIGHT},
    ],
)
def test_weights_are_found_wherever_trainers_put_them(content: Any) -> None:
    assert list(checkpoint.extract_weights(content, is_array)) == ["a.b"]


def test_a_prefix_that_not_all_have_is_part_of_the_names() -> None:
    names = checkpoint.extract_weights({"module.a": WEIGHT, "b": WEIGHT}, is_array)
    assert list(names) == ["module.a", "b"]


@pytest.mark.parametrize("content", [[1], {}, {"model": {}}, {"model": {"a": 1}}, {"state_dict": {"a": WEIGHT}}, None])
def test_what_has_no_weights_is_refused_with_what_is_wanted(content: Any) -> None:
    with pytest.raises(Fatal, match="no weights") as caught:
        checkpoint.extract_weights(content, is_array)
    assert caught.value.category == "weights"
    assert "key 'model'" in (caught.value.hint or "")


def test_problems_name_keys_and_shapes() -> None:
    expected = {"a": (1, 2), "b": (3,), "c": ()}
    assert checkpoint.find_problems(expected, dict(expected)) == []
    assert checkpoint.find_problems(expected, {"a": (2, 2), "c": (), "d": (1,)}) == [
        "1 missing: b",
        "1 unexpected: d",
        "1 of another shape: a (2, 2) for (1, 2)",
    ]
    many = {f"k{number}": (1,) for number in range(20)}
    assert checkpoint.find_problems(many, {}) == ["20 missing: k0, k1, k2, k3, k4, k5, k6, k7 and 12 more"]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def test_nothing_in_a_checkpoint_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps({"model": OrderedDict(a=1), "args": Evil(), "paths": [Path("x"), {Path("y"): 2}]})
    ran: list[str] = []
    monkeypatch.setattr(os, "system", ran.append)
    read = checkpoint._RestrictedPickle.loads(content)
    assert ran == []
    assert read["model"] == {"a": 1}
    assert isinstance(read["args"], checkpoint.InertObject)
    assert len(read["paths"]) == 2


def test_blocks_of_coefficients_lie_side_by_side() -> None:
    plane = np.arange(16 * 24).reshape(16, 24)
    blocks = np.stack([[plane[8 * r : 8 * r + 8, 8 * c : 8 * c + 8] for c in range(3)] for r in range(2)])
    assert np.array_equal(jpegio_stand_in.join_blocks(blocks), plane)
