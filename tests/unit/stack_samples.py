"""Stacks for tests: a dictionary that is a whole stack.yaml, and how to write it with changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from orchestrator.catalog.loader import ModelEntry, StackEntry, read_stack

LOCK = "numpy==2.0.0 --hash=sha256:00\n"
MINIMAL: dict[str, Any] = {
    "stack": "tiny",
    "title": "A tiny stack",
    "dockerfile": "tiny.Dockerfile",
    "predictor": "predictor.py:Predictor",
    "variants": {"cpu": {"base_image": "python:3.11-slim", "lock": "cpu.lock", "python": "3.11"}},
    "taxonomies": {"two": {"categories": [{"id": 1, "name": "one"}, {"id": 7, "name": "seven"}]}},
    "models": {"tiny-model": {"title": "A model", "licence": "MIT", "weights": {}, "taxonomy": "two"}},
}


def stack_document(**changes: Any) -> dict[str, Any]:
    """MINIMAL with top-level fields changed."""
    return {**copy.deepcopy(MINIMAL), **changes}


def write_stack(folder: Path, document: dict[str, Any] | str | None = None) -> Path:
    """A stack's folder with all its files; `document` is its stack.yaml, as a value or as text."""
    folder.mkdir(parents=True, exist_ok=True)
    document = stack_document() if document is None else document
    text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (folder / "stack.yaml").write_text(text, encoding="utf-8")
    (folder / "tiny.Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
    (folder / "cpu.lock").write_text(LOCK)
    (folder / "predictor.py").write_text("class Predictor:\n    pass\n")
    return folder


def stack_entry(folder: Path, **changes: Any) -> StackEntry:
    """A written and read stack."""
    return read_stack(write_stack(folder, stack_document(**changes)))


def model_entry(folder: Path, weights: dict[str, Any] | None = None, **changes: Any) -> ModelEntry:
    """The model tiny-model of a written stack, with these weights and changes of the model's fields."""
    model = {**copy.deepcopy(MINIMAL["models"]["tiny-model"]), "weights": weights or {}, **changes}
    entry = stack_entry(folder, models={"tiny-model": model})
    return ModelEntry("tiny-model", entry.spec.models["tiny-model"], entry)


def edited(text: str, old: str, new: str) -> str:
    """`text` with its one occurrence of `old` replaced."""
    assert text.count(old) == 1, (text.count(old), old)
    return text.replace(old, new)
