"""What holds where stack.yaml says nothing: the whole of a minimal stack, compared."""

from __future__ import annotations

import pytest

from orchestrator.catalog.spec import Setting, Stack, Weights
from tests.unit.stack_samples import MINIMAL, stack_document

DIGEST = "0" * 64


def test_a_minimal_stack_has_these_defaults() -> None:
    stack = Stack.model_validate(stack_document())
    assert stack.sources == {}
    assert stack.variants["cpu"].model_dump() == {
        "base_image": "python:3.11-slim", "lock": "cpu.lock", "partial_lock": False, "build_lock": None,
        "build_args": {}, "python": "3.11", "also_python": (), "device": "cpu", "cuda": None, "min_driver": None,
        "native_capabilities": (), "ptx_capabilities": (), "jit_minutes": None, "on_request": False, "size_gb": None,
    }  # fmt: skip
    assert stack.taxonomies["two"].attributes == ()
    assert stack.models["tiny-model"].model_dump() == {
        "title": "A model", "task": "instance-segmentation", "paper": None, "licence": "MIT", "aliases": (),
        "weights": {}, "architecture": None, "config": None, "gpu_memory": None, "taxonomy": "two",
        "native": {"box_order": "xyxy", "published_box_edges": "exclusive", "published_class_type": "int64",
                   "published_box_order": None, "class_base": 0, "class_map": None, "canvas": None},
        "defaults": {"score_threshold": None, "max_detections": None, "batch_size": 1, "attributes": False},
        "limits": {"score_threshold": None, "max_detections": None}, "settings": {}, "recipe": {}, "notes": None,
    }  # fmt: skip


def test_weights_that_are_only_a_url_are_one_file_without_a_digest() -> None:
    weights = Weights.model_validate({"file": "w.pth", "url": "https://example.org/w.pth", "licence": "MIT"})
    assert weights.model_dump(exclude={"file", "url", "licence"}) == {
        "bundled": None, "path": None, "package": None, "manual": None, "sha256": None, "size": None,
        "size_range": None, "unpack": False,
    }  # fmt: skip


@pytest.mark.parametrize("origins", [{}, {"url": "https://example.org/w", "manual": "by hand"}])
def test_weights_have_one_origin(origins: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give one of bundled, path, url, package, manual"):
        Weights.model_validate({"file": "w.pth", "licence": "MIT", **origins})


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        ({"default": 4, "minimum": 2, "maximum": 8, "multiple_of": 2}, "2", 2),
        ({"default": 4, "minimum": 2, "maximum": 8, "multiple_of": 2}, "+8", 8),
        ({"default": -1}, "-12", -12),
        ({"default": 0.5, "minimum": 0, "maximum": 1}, "0", 0.0),
        ({"default": 0.5, "minimum": 0, "maximum": 1}, "1e0", 1.0),
        ({"default": False}, "YES", True),
        ({"default": True}, "0", False),
        ({"default": "a", "choices": ("a", "b")}, "b", "b"),
        ({"default": "a"}, "1", "1"),
    ],
)
def test_settings_take_the_type_of_their_default(setting: dict[str, object], text: str, value: object) -> None:
    parsed = Setting.model_validate({"help": "x", **setting}).parse(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("setting", "text", "message"),
    [
        ({"default": 4, "minimum": 2}, "1", "at least 2"),
        ({"default": 4, "maximum": 8}, "9", "at most 8"),
        ({"default": 4, "multiple_of": 2}, "5", "a multiple of 2"),
        ({"default": 4}, "1.5", "a whole number"),
        ({"default": 4}, "", "a whole number"),
        ({"default": 0.5}, "nan", "a number"),
        ({"default": 0.5}, "inf", "a number"),
        ({"default": 0.5}, "x", "a number"),
        ({"default": False}, "maybe", "true or false"),
        ({"default": "a", "choices": ("a", "b")}, "c", "one of a, b"),
    ],
)
def test_other_values_of_settings_are_refused(setting: dict[str, object], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"must be {message}"):
        Setting.model_validate({"help": "x", **setting}).parse(text)


def test_a_gpu_variant_states_its_toolkit() -> None:
    variant = {**MINIMAL["variants"]["cpu"], "device": "cuda"}
    with pytest.raises(ValueError, match="must state the toolkit's version"):
        Stack.model_validate(stack_document(variants={"gpu": variant}))
    Stack.model_validate(stack_document(variants={"gpu": {**variant, "cuda": "12.1"}}))
